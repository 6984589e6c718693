#include "guest.h"

#include <string.h>
#include <sys/mman.h>

/* ---- fixture ---- */

static struct {
    void *address;
    size_t size;
} areas[64];
static size_t area_count;

int before(void **state)
{
    (void)state;
    return 0;
}

int after(void **state)
{
    (void)state;
    while (area_count) {
        area_count--;
        munmap(areas[area_count].address, areas[area_count].size);
    }
    return 0;
}

void *host_pages(size_t count)
{
    void *address = mmap(NULL, count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(address != MAP_FAILED && area_count < sizeof(areas) / sizeof(areas[0]));
    areas[area_count].address = address;
    areas[area_count++].size = count * 4096;
    return address;
}

static void release(const void *address)
{
    for (size_t i = 0; i < area_count; i++)
        if (areas[i].address == address) {
            munmap(areas[i].address, areas[i].size);
            areas[i] = areas[--area_count];
            return;
        }
}

/* ---- registers ---- */

void guest_set(struct guest *guest, WHV_REGISTER_NAME name, UINT64 number)
{
    WHV_REGISTER_VALUE value = {.Reg64 = number};

    check_hr(WHvSetVirtualProcessorRegisters(guest->partition, 0, &name, 1, &value), S_OK, "set a register", __FILE__,
             __LINE__);
}

WHV_REGISTER_VALUE guest_get_value(struct guest *guest, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value;

    check_hr(WHvGetVirtualProcessorRegisters(guest->partition, 0, &name, 1, &value), S_OK, "get a register", __FILE__,
             __LINE__);
    return value;
}

UINT64 guest_get(struct guest *guest, WHV_REGISTER_NAME name)
{
    return guest_get_value(guest, name).Reg64;
}

static void set_segment(struct guest *guest, WHV_REGISTER_NAME name, UINT16 selector, UINT64 base, UINT32 limit,
                        UINT16 attributes)
{
    WHV_REGISTER_VALUE value = {
        .Segment = {.Base = base, .Limit = limit, .Selector = selector, .Attributes = attributes}};

    assert_ok(WHvSetVirtualProcessorRegisters(guest->partition, 0, &name, 1, &value));
}

static void set_table(struct guest *guest, WHV_REGISTER_NAME name, UINT64 base, UINT16 limit)
{
    WHV_REGISTER_VALUE value = {.Table = {.Base = base, .Limit = limit}};

    assert_ok(WHvSetVirtualProcessorRegisters(guest->partition, 0, &name, 1, &value));
}

/* ---- life ---- */

static void guest_property(struct guest *guest, UINT32 code, UINT64 value, UINT32 size)
{
    assert_ok(WHvSetPartitionProperty(guest->partition, (WHV_PARTITION_PROPERTY_CODE)code, &value, size));
}

static void configure(struct guest *guest, const struct guest_options *options)
{
    guest_property(guest, WHvPartitionPropertyCodeProcessorCount, options->processors ? options->processors : 1, 4);
    guest_property(guest, WHvPartitionPropertyCodeLocalApicEmulationMode, options->apic_mode, 4);
    guest_property(guest, WHvPartitionPropertyCodeExtendedVmExits, options->extended_exits, 8);
    guest_property(guest, WHvPartitionPropertyCodeExceptionExitBitmap, options->exceptions, 8);
    if (options->msrs)
        guest_property(guest, WHvPartitionPropertyCodeX64MsrExitBitmap, options->msrs, 8);
    assert_ok(WHvSetPartitionProperty(guest->partition, WHvPartitionPropertyCodeCpuidExitList, options->cpuid_exits,
                                      options->cpuid_exit_count * 4));
    if (options->cpuid_result_count)
        assert_ok(WHvSetPartitionProperty(guest->partition, WHvPartitionPropertyCodeCpuidResultList2, options->cpuid_results,
                                          options->cpuid_result_count * (UINT32)sizeof(options->cpuid_results[0])));
}

/* Real mode: every vector goes to a HLT of its own. */
static void fill_vectors(struct guest *guest)
{
    UINT16 *vectors = (UINT16 *)(void *)guest->ram;

    for (UINT16 i = 0; i < 256; i++) {
        vectors[2 * i] = (UINT16)(16 * i);
        vectors[2 * i + 1] = HANDLERS / 16;
        guest->ram[HANDLERS + 16 * i] = 0xf4;
    }
}

void guest_begin(struct guest *guest, const struct guest_options *options)
{
    static const struct guest_options none;

    memset(guest, 0, sizeof(*guest));
    guest->ram = host_pages(RAM_SIZE / 4096);
    fill_vectors(guest);
    assert_ok(WHvCreatePartition(&guest->partition));
    configure(guest, options ? options : &none);
    assert_ok(WHvSetupPartition(guest->partition));
    assert_ok(WHvMapGpaRange(guest->partition, guest->ram, 0, RAM_SIZE,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute |
                                 WHvMapGpaRangeFlagTrackDirtyPages));
    assert_ok(WHvCreateVirtualProcessor(guest->partition, 0, 0));
    set_segment(guest, WHvX64RegisterCs, 0, 0, 0xffff, 0x9b);
    guest_set(guest, WHvX64RegisterRip, CODE);
    guest_set(guest, WHvX64RegisterRsp, STACK);
    guest_set(guest, WHvX64RegisterRdx, 0);
}

void guest_end(struct guest *guest)
{
    assert_ok(WHvDeletePartition(guest->partition));
    release(guest->ram);
}

void guest_load(struct guest *guest, UINT64 gpa, const void *bytes, size_t size)
{
    memcpy(guest->ram + gpa, bytes, size);
}

/* ---- long mode ---- */

static UINT64 *qwords(struct guest *guest, UINT64 gpa)
{
    return (UINT64 *)(void *)(guest->ram + gpa);
}

UINT64 *guest_pte(struct guest *guest, UINT64 address)
{
    return qwords(guest, TABLES + 0x3000) + address / 4096;
}

static void fill_tables(struct guest *guest)
{
    qwords(guest, TABLES)[0] = (TABLES + 0x1000) | 7;
    qwords(guest, TABLES + 0x1000)[0] = (TABLES + 0x2000) | 7;
    qwords(guest, TABLES + 0x2000)[0] = (TABLES + 0x3000) | 7;
    for (UINT64 i = 0; i < 512; i++) {
        if (i)
            qwords(guest, TABLES + 0x2000)[i] = i << 21 | 0x87;
        qwords(guest, TABLES + 0x3000)[i] = i << 12 | 7;
    }
    for (UINT64 i = 0; i < 256; i++) { /* 64-bit interrupt gates to selector 8 */
        UINT64 handler = HANDLERS + 16 * i;
        qwords(guest, IDT)[2 * i] = (handler & 0xffff) | 8 << 16 | 0x8e00ull << 32 | handler >> 16 << 48;
        qwords(guest, IDT)[2 * i + 1] = 0;
    }
    static const UINT64 descriptors[] = {0,
                                         0x00209b0000000000,
                                         0x0000930000000000,
                                         0x0000f30000000000,
                                         0x0020fb0000000000,
                                         (UINT64)TSS << 16 | 0x00008b0000000067,
                                         0};
    memcpy(guest->ram + GDT, descriptors, sizeof(descriptors));
    memset(guest->ram + TSS, 0, 0x68);
    UINT64 stack = STACK; /* RSP0 */
    memcpy(guest->ram + TSS + 4, &stack, 8);
}

void guest_long_mode(struct guest *guest, unsigned cpl)
{
    fill_tables(guest);
    guest_set(guest, WHvX64RegisterCr3, TABLES);
    guest_set(guest, WHvX64RegisterCr4, 0x20);
    guest_set(guest, WHvX64RegisterEfer, 0xd00); /* LME LMA NXE */
    guest_set(guest, WHvX64RegisterCr0, 0x80010031);
    set_table(guest, WHvX64RegisterIdtr, IDT, 0xfff);
    set_table(guest, WHvX64RegisterGdtr, GDT, 0x37);
    set_segment(guest, WHvX64RegisterTr, 0x28, TSS, 0x67, 0x8b);
    set_segment(guest, WHvX64RegisterCs, cpl ? 0x23 : 8, 0, 0xffffffff, cpl ? 0xa0fb : 0xa09b);
    set_segment(guest, WHvX64RegisterSs, cpl ? 0x1b : 0x10, 0, 0xffffffff, cpl ? 0xc0f3 : 0xc093);
    set_segment(guest, WHvX64RegisterDs, cpl ? 0x1b : 0x10, 0, 0xffffffff, cpl ? 0xc0f3 : 0xc093);
    set_segment(guest, WHvX64RegisterEs, cpl ? 0x1b : 0x10, 0, 0xffffffff, cpl ? 0xc0f3 : 0xc093);
}

/* ---- run ---- */

void print_exit(const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_VP_EXIT_CONTEXT *vp = &exit->VpContext;

    print_error("exit %#x: cs %04x:%llx rip %llx rflags %llx state %04x length %u cr8 %u\n", (unsigned)exit->ExitReason,
                vp->Cs.Selector, (unsigned long long)vp->Cs.Base, (unsigned long long)vp->Rip,
                (unsigned long long)vp->Rflags, vp->ExecutionState.AsUINT16, vp->InstructionLength, vp->Cr8);
    for (unsigned i = 0; i < sizeof(exit->AsUINT64) / 8; i++)
        print_error("%016llx%s", (unsigned long long)exit->AsUINT64[i], i % 4 == 3 ? "\n" : " ");
    print_error("\n");
}

void guest_run_to(struct guest *guest, UINT32 reason, const char *file, int line)
{
    memset(&guest->exit, 0xcc, sizeof(guest->exit));
    check_hr(WHvRunVirtualProcessor(guest->partition, 0, &guest->exit, sizeof(guest->exit)), S_OK, "run", file, line);
    if ((UINT32)guest->exit.ExitReason == reason)
        return;
    print_exit(&guest->exit);
    print_error("the exit is %#x, not %#x\n", (unsigned)guest->exit.ExitReason, reason);
    _fail(file, line);
}
