/* Exits of single instructions, field by field: HLT, ports, CPUID, MSRs, RDTSC, hypercalls, and what every exit carries. */
#include "guest.h"

#include <string.h>

enum { EXIT_ON_CPUID = 1, EXIT_ON_MSR = 2, EXIT_ON_RDTSC = 8, EXIT_ON_HYPERCALL = 0x20 };

/* ---- HLT and the common part ---- */

static void halt_real_mode(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xf9, 0xf4); /* stc; hlt */
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, CODE + 2); /* behind the HLT */
    assert_field(&g, VpContext.InstructionLength, 0);
    assert_field(&g, VpContext.Rflags, 3);
    assert_field(&g, VpContext.ExecutionState.AsUINT16, 0);
    assert_field(&g, VpContext.Cr8, 0);
    assert_field(&g, VpContext.Cs.Selector, 0);
    assert_field(&g, VpContext.Cs.Base, 0);
    assert_field(&g, VpContext.Cs.Limit, 0xffff);
    assert_field(&g, VpContext.Cs.Attributes, 0x9b);
    assert_field(&g, VpContext.Reserved, 0);
    assert_field(&g, VpContext.Reserved2, 0);
    assert_field(&g, Reserved, 0);
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), CODE + 2);
    assert_int_equal(guest_get(&g, WHvX64RegisterRflags), 3);
    guest_end(&g);
}

static void halt_long_mode(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 0);
    guest_set(&g, WHvX64RegisterCr8, 5);
    guest_code(&g, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, CODE + 1);
    assert_field(&g, VpContext.ExecutionState.Cpl, 0);
    assert_field(&g, VpContext.ExecutionState.Cr0Pe, 1);
    assert_field(&g, VpContext.ExecutionState.Cr0Am, 0);
    assert_field(&g, VpContext.ExecutionState.EferLma, 1);
    assert_field(&g, VpContext.ExecutionState.DebugActive, 0);
    assert_field(&g, VpContext.ExecutionState.InterruptionPending, 0);
    assert_field(&g, VpContext.ExecutionState.InterruptShadow, 0);
    assert_field(&g, VpContext.Cr8, 5);
    assert_field(&g, VpContext.Cs.Selector, 8);
    assert_field(&g, VpContext.Cs.Attributes & 0xf0ff, 0xa09b);
    guest_end(&g);
}

static void user_mode_state(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_long_mode(&g, 3);
    guest_set(&g, WHvX64RegisterCr0, 0x80050031); /* AM */
    guest_set(&g, WHvX64RegisterRflags, 0x3002);  /* IOPL 3 */
    guest_code(&g, 0xee);                         /* out dx, al */
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, VpContext.ExecutionState.Cpl, 3);
    assert_field(&g, VpContext.ExecutionState.Cr0Am, 1);
    assert_field(&g, VpContext.Rflags, 0x3002);
    guest_end(&g);
}

static void interrupt_shadow(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xfb, 0xee, 0xf4); /* sti; out dx, al; hlt */
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, VpContext.ExecutionState.InterruptShadow, 1);
    assert_int_equal(guest_get(&g, WHvRegisterInterruptState) & 1, 1);
    guest_set(&g, WHvX64RegisterRip, CODE + 2); /* ends the shadow */
    assert_int_equal(guest_get(&g, WHvRegisterInterruptState) & 1, 0);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.ExecutionState.InterruptShadow, 0);
    guest_end(&g);
}

/* RIP and InterruptState in one batch: the shadow stays. */
static void interrupt_shadow_kept(void **state)
{
    struct guest g;
    const WHV_REGISTER_NAME names[2] = {WHvX64RegisterRip, WHvRegisterInterruptState};
    WHV_REGISTER_VALUE values[2] = {{.Reg64 = CODE + 2}, {.Reg64 = 1}};

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xfb, 0xee, 0xee, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, names, 2, values));
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, VpContext.ExecutionState.InterruptShadow, 1);
    guest_end(&g);
}

/* ---- ports ---- */

static void port_simple(void **state)
{
    static const struct {
        UINT8 code[4];
        UINT8 length, size;
        bool write;
        UINT16 port;
    } rows[] = {
        {{0xe6, 0x42}, 2, 1, true, 0x42},           /* out 42h, al */
        {{0xe7, 0x42}, 2, 2, true, 0x42},           /* out 42h, ax */
        {{0x66, 0xe7, 0x42}, 3, 4, true, 0x42},     /* out 42h, eax */
        {{0xe4, 0x60}, 2, 1, false, 0x60},          /* in al, 60h */
        {{0xe5, 0x60}, 2, 2, false, 0x60},          /* in ax, 60h */
        {{0x66, 0xe5, 0x60}, 3, 4, false, 0x60},    /* in eax, 60h */
        {{0xee}, 1, 1, true, 0x1234},               /* out dx, al */
        {{0xef}, 1, 2, true, 0x1234},
        {{0x66, 0xef}, 2, 4, true, 0x1234},
        {{0xec}, 1, 1, false, 0x1234},              /* in al, dx */
        {{0xed}, 1, 2, false, 0x1234},
        {{0x66, 0xed}, 2, 4, false, 0x1234},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct guest g;
        guest_begin(&g, NULL);
        guest_load(&g, CODE, rows[i].code, 4);
        guest_set(&g, WHvX64RegisterRax, 0x1122334455667788);
        guest_set(&g, WHvX64RegisterRdx, 0x1234);
        guest_set(&g, WHvX64RegisterRcx, 0x77);
        guest_set(&g, WHvX64RegisterRsi, 0x88);
        guest_set(&g, WHvX64RegisterRdi, 0x99);
        for (int again = 0; again < 2; again++) { /* running on without doing anything repeats the exit */
            run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
            assert_field(&g, VpContext.Rip, CODE);
            assert_field(&g, VpContext.InstructionLength, rows[i].length);
            assert_field(&g, IoPortAccess.PortNumber, rows[i].port);
            assert_field(&g, IoPortAccess.AccessInfo.IsWrite, rows[i].write);
            assert_field(&g, IoPortAccess.AccessInfo.AccessSize, rows[i].size);
            assert_field(&g, IoPortAccess.AccessInfo.StringOp, 0);
            assert_field(&g, IoPortAccess.AccessInfo.RepPrefix, 0);
            assert_field(&g, IoPortAccess.AccessInfo.Reserved, 0);
            assert_field(&g, IoPortAccess.Rax, 0x1122334455667788);
            assert_field(&g, IoPortAccess.Rcx, 0x77);
            assert_field(&g, IoPortAccess.Rsi, 0x88);
            assert_field(&g, IoPortAccess.Rdi, 0x99);
            assert_true(g.exit.IoPortAccess.InstructionByteCount <= 16);
            if (g.exit.IoPortAccess.InstructionByteCount)
                assert_memory_equal(g.exit.IoPortAccess.InstructionBytes, rows[i].code, rows[i].length);
        }
        assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0x1122334455667788);
        guest_end(&g);
    }
}

static void port_string(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0xf3, 0x26, 0x6e); /* rep es outsb */
    guest_set(&g, WHvX64RegisterRdx, 0xe9);
    guest_set(&g, WHvX64RegisterRcx, 3);
    guest_set(&g, WHvX64RegisterRsi, 0x6000);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, VpContext.Rip, CODE);
    assert_field(&g, VpContext.InstructionLength, 3);
    assert_field(&g, IoPortAccess.PortNumber, 0xe9);
    assert_field(&g, IoPortAccess.AccessInfo.IsWrite, 1);
    assert_field(&g, IoPortAccess.AccessInfo.AccessSize, 1);
    assert_field(&g, IoPortAccess.AccessInfo.StringOp, 1);
    assert_field(&g, IoPortAccess.AccessInfo.RepPrefix, 1);
    assert_field(&g, IoPortAccess.Rcx, 3);
    assert_field(&g, IoPortAccess.Rsi, 0x6000);
    assert_field(&g, IoPortAccess.Es.Limit, 0xffff);
    guest_end(&g);

    guest_begin(&g, NULL);
    guest_code(&g, 0x6d); /* insw */
    guest_set(&g, WHvX64RegisterRdx, 0x1f0);
    guest_set(&g, WHvX64RegisterRdi, 0x7000);
    run_to(&g, WHvRunVpExitReasonX64IoPortAccess);
    assert_field(&g, IoPortAccess.AccessInfo.AsUINT32, 0 | 2 << 1 | 1 << 4);
    assert_field(&g, IoPortAccess.Rdi, 0x7000);
    guest_end(&g);

    /* RCX 0: nothing to do, no exit. */
    guest_begin(&g, NULL);
    guest_code(&g, 0xf3, 0x6e, 0xf4);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, CODE + 3);
    guest_end(&g);
}

/* At an exit nothing of a string instruction has happened: no memory is other than it was, whichever way the string goes. */
static void strings_not_begun(void **state)
{
    enum { RAM = 0x10000, AT = 0x3800, DEVICE = 0xd000 };
    static const struct {
        UINT8 code[4];
        UINT32 reason;
    } rows[] = {
        {{0xf3, 0x6c}, WHvRunVpExitReasonX64IoPortAccess},       /* rep insb */
        {{0xf3, 0x6d}, WHvRunVpExitReasonX64IoPortAccess},       /* rep insw */
        {{0x66, 0xf3, 0x6d}, WHvRunVpExitReasonX64IoPortAccess}, /* rep insd */
        {{0xf3, 0xa4}, WHvRunVpExitReasonMemoryAccess},          /* rep movsb */
        {{0xf3, 0xa5}, WHvRunVpExitReasonMemoryAccess},          /* rep movsw */
        {{0x66, 0xf3, 0xa5}, WHvRunVpExitReasonMemoryAccess},    /* rep movsd */
        {{0x66, 0xf3, 0x67, 0xa5}, WHvRunVpExitReasonMemoryAccess}, /* with ESI and EDI */
    };
    static const UINT32 places[] = {AT, AT + 2, 0x3fff, 0x3001};
    static UINT8 before[RAM];
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    for (UINT32 i = 0; i < RAM; i++)
        g.ram[i] = (UINT8)(i * 7 + (i >> 8) * 13);
    assert_ok(WHvUnmapGpaRange(g.partition, DEVICE, 0x1000));
    for (unsigned i = 0; i < 2 * 4 * sizeof(rows) / sizeof(rows[0]); i++) {
        guest_load(&g, CODE, rows[i >> 3].code, 4);
        memcpy(before, g.ram, RAM);
        guest_set(&g, WHvX64RegisterRip, CODE);
        guest_set(&g, WHvX64RegisterRflags, i & 1 ? 0x402 : 2);
        guest_set(&g, WHvX64RegisterRcx, 16);
        guest_set(&g, WHvX64RegisterRdx, 0x80);
        guest_set(&g, WHvX64RegisterRsi, DEVICE + (i & 1 ? 1 : 0xffe)); /* and then memory */
        guest_set(&g, WHvX64RegisterRdi, places[i >> 1 & 3]);
        run_to(&g, rows[i >> 3].reason);
        assert_field(&g, VpContext.Rip, CODE);
        assert_int_equal(guest_get(&g, WHvX64RegisterRdi), places[i >> 1 & 3]);
        assert_int_equal(guest_get(&g, WHvX64RegisterRcx), 16);
        for (UINT32 k = 0; k < RAM; k++)
            if (g.ram[k] != before[k])
                fail_msg("row %u, DF %u, DI %#x: the byte at %#x has changed", i >> 3, i & 1, places[i >> 1 & 3], k);
    }
    guest_end(&g);
}

/* ---- CPUID ---- */

static void cpuid_exit(void **state)
{
    const struct guest_options options = {
        .extended_exits = EXIT_ON_CPUID, .cpuid_exits = {1, 0x40000000}, .cpuid_exit_count = 2};
    struct guest g;
    WHV_CPUID_OUTPUT expected;

    (void)state;
    guest_begin(&g, &options);
    guest_long_mode(&g, 0);
    /* mov eax, 0; cpuid; mov eax, 1; xor ecx, ecx; cpuid; hlt */
    guest_code(&g, 0x31, 0xc0, 0x0f, 0xa2, 0xb8, 1, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, 0xf4);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 1, 0, &expected));
    guest_set(&g, WHvX64RegisterRbx, 0xb);
    run_to(&g, WHvRunVpExitReasonX64Cpuid); /* leaf 0 is not in the list */
    assert_field(&g, VpContext.Rip, CODE + 11);
    assert_field(&g, VpContext.InstructionLength, 2);
    assert_field(&g, CpuidAccess.Rax, 1);
    assert_field(&g, CpuidAccess.Rcx, 0);
    assert_field(&g, CpuidAccess.DefaultResultRax, expected.Eax);
    assert_field(&g, CpuidAccess.DefaultResultRbx, expected.Ebx);
    assert_field(&g, CpuidAccess.DefaultResultRcx, expected.Ecx);
    assert_field(&g, CpuidAccess.DefaultResultRdx, expected.Edx);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 1);
    guest_set(&g, WHvX64RegisterRip, CODE + 13);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    guest_end(&g);
}

static void cpuid_results(void **state)
{
    WHV_X64_CPUID_RESULT fixed = {.Function = 0x40000000, .Eax = 0x40000001, .Ebx = 2, .Ecx = 3, .Edx = 4};
    WHV_X64_CPUID_RESULT2 masked = {.Function = 1, .Output = {.Ecx = 0}, .Mask = {.Ecx = 1}}; /* SSE3 off */
    WHV_PARTITION_HANDLE partition;
    WHV_CPUID_OUTPUT output;
    UINT32 count = 1;

    (void)state;
    assert_ok(WHvCreatePartition(&partition));
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, 4));
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeCpuidResultList, &fixed, sizeof(fixed)));
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeCpuidResultList2, &masked, sizeof(masked)));
    assert_ok(WHvSetupPartition(partition));
    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    assert_ok(WHvGetVirtualProcessorCpuidOutput(partition, 0, 0x40000000, 0, &output));
    assert_true(output.Eax == 0x40000001 && output.Ebx == 2 && output.Ecx == 3 && output.Edx == 4);
    assert_ok(WHvGetVirtualProcessorCpuidOutput(partition, 0, 1, 0, &output));
    assert_int_equal(output.Ecx & 1, 0);
    assert_int_not_equal(output.Edx, 0); /* the rest is the platform's */
    assert_ok(WHvDeletePartition(partition));
}

/* A feature that the partition does not have is not in CPUID, and its instructions are undefined. */
static void features_limit_cpuid(void **state)
{
    WHV_PROCESSOR_FEATURES features;
    WHV_PARTITION_HANDLE partition;
    WHV_CPUID_OUTPUT with, without;
    UINT32 count = 1;

    (void)state;
    assert_ok(WHvGetCapability(WHvCapabilityCodeProcessorFeatures, &features, sizeof(features), NULL));
    assert_true(features.PopCntSupport);
    for (int i = 0; i < 2; i++) {
        assert_ok(WHvCreatePartition(&partition));
        assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, 4));
        assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorFeatures, &features, 8));
        assert_ok(WHvSetupPartition(partition));
        assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
        assert_ok(WHvGetVirtualProcessorCpuidOutput(partition, 0, 1, 0, i ? &without : &with));
        assert_ok(WHvDeletePartition(partition));
        features.PopCntSupport = 0;
    }
    assert_int_equal(with.Ecx & ~without.Ecx, 1u << 23);
    assert_int_equal(with.Edx, without.Edx);
}

/* ---- MSRs ---- */

static void msr_exit(void **state)
{
    const struct guest_options options = {.extended_exits = EXIT_ON_MSR, .msrs = 1};
    struct guest g;

    (void)state;
    guest_begin(&g, &options);
    guest_code(&g, 0x0f, 0x32, 0x0f, 0x30, 0xf4); /* rdmsr; wrmsr; hlt */
    guest_set(&g, WHvX64RegisterRcx, 0x12345678);
    guest_set(&g, WHvX64RegisterRax, 0xaaaaaaaa);
    guest_set(&g, WHvX64RegisterRdx, 0xdddddddd);
    run_to(&g, WHvRunVpExitReasonX64MsrAccess);
    assert_field(&g, VpContext.Rip, CODE);
    assert_field(&g, VpContext.InstructionLength, 2);
    assert_field(&g, MsrAccess.AccessInfo.AsUINT32, 0);
    assert_field(&g, MsrAccess.MsrNumber, 0x12345678);
    guest_set(&g, WHvX64RegisterRip, CODE + 2);
    run_to(&g, WHvRunVpExitReasonX64MsrAccess);
    assert_field(&g, VpContext.Rip, CODE + 2);
    assert_field(&g, MsrAccess.AccessInfo.AsUINT32, 1);
    assert_field(&g, MsrAccess.MsrNumber, 0x12345678);
    assert_field(&g, MsrAccess.Rax, 0xaaaaaaaa);
    assert_field(&g, MsrAccess.Rdx, 0xdddddddd);
    guest_end(&g);
}

/* Without the exit an unknown MSR is #GP. */
static void msr_fault(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, 0x0f, 0x32, 0xf4);
    guest_set(&g, WHvX64RegisterRcx, 0x12345678);
    run_to(&g, WHvRunVpExitReasonX64Halt);
    assert_field(&g, VpContext.Rip, 16 * 13 + 1);
    guest_end(&g);
}

static void msr_actions(void **state)
{
    WHV_MSR_ACTION_ENTRY actions[] = {{.Index = 0x12345678, .ReadAction = 1, .WriteAction = 1},
                                      {.Index = 0x1b, .ReadAction = 2}};
    WHV_PARTITION_HANDLE partition;
    UINT32 count = 1;
    UINT64 exits = EXIT_ON_MSR;

    (void)state;
    assert_ok(WHvCreatePartition(&partition));
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, 4));
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeExtendedVmExits, &exits, 8));
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeMsrActionList, actions, sizeof(actions)));
    assert_ok(WHvSetupPartition(partition));
    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    UINT8 *ram = host_pages(16);
    /* rdmsr; wrmsr; mov ecx, 1bh; rdmsr */
    static const UINT8 code[] = {0x0f, 0x32, 0x0f, 0x30, 0x66, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32};
    memcpy(ram + CODE, code, sizeof(code));
    assert_ok(WHvMapGpaRange(partition, ram, 0, 16 * 4096,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    struct guest g = {.partition = partition, .ram = ram};
    WHV_REGISTER_VALUE cs = {.Segment = {.Limit = 0xffff, .Attributes = 0x9b}};
    const WHV_REGISTER_NAME name = WHvX64RegisterCs;
    assert_ok(WHvSetVirtualProcessorRegisters(partition, 0, &name, 1, &cs));
    guest_set(&g, WHvX64RegisterRip, CODE);
    guest_set(&g, WHvX64RegisterRcx, 0x12345678);
    guest_set(&g, WHvX64RegisterRax, 5);
    run_to(&g, WHvRunVpExitReasonX64MsrAccess);
    assert_field(&g, MsrAccess.MsrNumber, 0x1b);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0); /* reads zero */
    guest_end(&g);
}

/* ---- RDTSC, hypercall ---- */

static void rdtsc_exit(void **state)
{
    const struct guest_options options = {.extended_exits = EXIT_ON_RDTSC};
    struct guest g;

    (void)state;
    guest_begin(&g, &options);
    guest_long_mode(&g, 0);
    guest_set(&g, WHvX64RegisterTscAux, 0x55);
    guest_code(&g, 0x0f, 0x31, 0x0f, 0x01, 0xf9); /* rdtsc; rdtscp */
    run_to(&g, WHvRunVpExitReasonX64Rdtsc);
    assert_field(&g, VpContext.Rip, CODE);
    assert_field(&g, ReadTsc.RdtscInfo.AsUINT64, 0);
    assert_field(&g, ReadTsc.TscAux, 0x55);
    UINT64 tsc = g.exit.ReadTsc.Tsc;
    guest_set(&g, WHvX64RegisterRip, CODE + 2);
    run_to(&g, WHvRunVpExitReasonX64Rdtsc);
    assert_field(&g, ReadTsc.RdtscInfo.AsUINT64, 1);
    assert_true(g.exit.ReadTsc.Tsc > tsc);
    guest_end(&g);
}

static void hypercall_exit(void **state)
{
    const struct guest_options options = {.extended_exits = EXIT_ON_HYPERCALL};
    struct guest g;
    WHV_PROCESSOR_VENDOR vendor;

    (void)state;
    assert_ok(WHvGetCapability(WHvCapabilityCodeProcessorVendor, &vendor, sizeof(vendor), NULL));
    guest_begin(&g, &options);
    guest_long_mode(&g, 0);
    if (vendor == WHvProcessorVendorIntel)
        guest_code(&g, 0x0f, 0x01, 0xc1); /* vmcall */
    else
        guest_code(&g, 0x0f, 0x01, 0xd9); /* vmmcall */
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterRax, WHvX64RegisterRbx, WHvX64RegisterRcx, WHvX64RegisterRdx,
                                       WHvX64RegisterR8,  WHvX64RegisterRsi, WHvX64RegisterRdi};
    for (UINT64 i = 0; i < 7; i++)
        guest_set(&g, names[i], 100 + i);
    const WHV_REGISTER_NAME xmm = WHvX64RegisterXmm5;
    WHV_REGISTER_VALUE value = {.Reg128 = {.Low64 = 1, .High64 = 2}};
    assert_ok(WHvSetVirtualProcessorRegisters(g.partition, 0, &xmm, 1, &value));
    run_to(&g, WHvRunVpExitReasonHypercall);
    assert_field(&g, VpContext.Rip, CODE);
    assert_field(&g, Hypercall.Rax, 100);
    assert_field(&g, Hypercall.Rbx, 101);
    assert_field(&g, Hypercall.Rcx, 102);
    assert_field(&g, Hypercall.Rdx, 103);
    assert_field(&g, Hypercall.R8, 104);
    assert_field(&g, Hypercall.Rsi, 105);
    assert_field(&g, Hypercall.Rdi, 106);
    assert_field(&g, Hypercall.XmmRegisters[5].Low64, 1);
    assert_field(&g, Hypercall.XmmRegisters[5].High64, 2);
    guest_end(&g);
}

/* ---- reset state ---- */

static void reset_state(void **state)
{
    WHV_PARTITION_HANDLE partition;
    UINT32 count = 1;

    (void)state;
    assert_ok(WHvCreatePartition(&partition));
    assert_ok(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, 4));
    assert_ok(WHvSetupPartition(partition));
    assert_ok(WHvCreateVirtualProcessor(partition, 0, 0));
    struct guest g = {.partition = partition};
    WHV_REGISTER_VALUE cs = guest_get_value(&g, WHvX64RegisterCs);
    assert_int_equal(cs.Segment.Selector, 0xf000);
    assert_int_equal(cs.Segment.Base, 0xf0000);
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), 0xfff0);
    assert_int_equal(guest_get(&g, WHvX64RegisterRflags), 2);
    assert_int_equal(guest_get(&g, WHvX64RegisterCr0), 0x60000010);
    assert_int_not_equal(guest_get(&g, WHvX64RegisterRdx), 0);
    assert_int_equal(guest_get(&g, WHvX64RegisterXCr0), 1);
    assert_int_equal(guest_get(&g, WHvX64RegisterPat), 0x0007040600070406);
    assert_int_equal(guest_get(&g, WHvX64RegisterDr6), 0xffff0ff0);
    assert_int_equal(guest_get(&g, WHvX64RegisterDr7), 0x400);
    guest_set(&g, WHvX64RegisterRax, 1);
    guest_set(&g, WHvX64RegisterRip, 1);
    assert_ok(WHvResetPartition(partition));
    assert_int_equal(guest_get(&g, WHvX64RegisterRip), 0xfff0);
    assert_int_equal(guest_get(&g, WHvX64RegisterRax), 0);
    assert_ok(WHvDeletePartition(partition));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("EXIT-1", "F 9.1 HLT, F 7.1", halt_real_mode),
        CASE("EXIT-2", "F 7.1", halt_long_mode),
        CASE("EXIT-3", "F 7.1", user_mode_state),
        CASE("EXIT-4", "F 9.3, 9.5: shadow", interrupt_shadow),
        CASE("EXIT-5", "F 9.3: shadow kept", interrupt_shadow_kept),
        CASE("EXIT-6", "F 9.1 IoPort", port_simple),
        CASE("EXIT-7", "F 9.1 IoPort", port_string),
        CASE("EXIT-17", "F 9.1 IoPort, F 7.1: nothing has happened", strings_not_begun),
        CASE("EXIT-8", "F 9.1 CPUID", cpuid_exit),
        CASE("EXIT-9", "F 9.6 CpuidResultList", cpuid_results),
        CASE("EXIT-16", "F 9.6 ProcessorFeatures", features_limit_cpuid),
        CASE("EXIT-10", "F 9.1 MSR", msr_exit),
        CASE("EXIT-11", "F 9.6: unhandled MSR without the exit", msr_fault),
        CASE("EXIT-12", "F 9.6 MsrActionList", msr_actions),
        CASE("EXIT-13", "F 9.1 RDTSC", rdtsc_exit),
        CASE("EXIT-14", "F 9.1 Hypercall", hypercall_exit),
        CASE("EXIT-15", "F 9.3: reset state", reset_state),
    };
    return cmocka_run_group_tests_name("exits of instructions", tests, NULL, NULL);
}
