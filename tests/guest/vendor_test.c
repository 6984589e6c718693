/* What differs between the vendors (x86/vendor.h), one case a row: the same bytes as an Intel and as an AMD processor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "os/guarded.h"
#include "util/compiler.h"
#include "x86/cpu.h"
#include "x86/port.h"

enum { MEMORY = 16 * 4096, CODE = 0x1000, DATA = 0x4000, STACK = 0x8000 };

static uint8_t memory[MEMORY] __attribute__((aligned(4096)));
static struct cpu *cpu;

static bool page(struct cpu *c, gpa_t address, enum access_type type, struct port_page *out)
{
    (void)c, (void)type;
    *out = (struct port_page){.host = memory + address % MEMORY, .rights = PAGE_READ | PAGE_WRITE | PAGE_EXECUTE};
    return true;
}

static enum port_result translate(struct cpu *c, gva_t gva, enum access_type type, bool user, gpa_t *gpa)
{
    (void)c, (void)type, (void)user;
    *gpa = gva % MEMORY;
    return PORT_DONE;
}

static const struct cpu_port port = {.page = page, .translate = translate};

static int set_up(void **unused)
{
    (void)unused;
    cpu = guarded_init() ? cpu_create(&port, NULL, 40) : NULL;
    return cpu ? 0 : -1;
}

static int tear_down(void **unused)
{
    (void)unused;
    cpu_destroy(cpu);
    return 0;
}

#define RUN(is_amd, is_64, code) run((is_amd), (is_64), (code), sizeof(code) - 1)

/* One instruction at privilege 0 of long mode, RBX at DATA. */
static void prepare(bool is_amd, bool is_64, const char *code, size_t size)
{
    memset(memory, 0, CODE);
    memcpy(memory + CODE + 0x10000 % MEMORY, code, size);
    cpu->cpuid.is_amd = is_amd;
    cpu->cr0 = CR0_PE | CR0_PG | CR0_ET;
    cpu->cr4 = CR4_PAE;
    cpu->efer = EFER_LME | EFER_LMA | EFER_SCE;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        cpu->segment[i] = (struct segment){.limit = 0xffffffff, .selector = 0x10, .attributes = 0xc093};
    cpu->segment[SEG_CS].attributes = is_64 ? 0xa09b : 0xc09b;
    cpu->cpl = 0;
    cpu->star = 0x0020001000000000 | (uint64_t)0x20 << 48;
    cpu->lstar = cpu->cstar = 0x5000;
    cpu->sysenter_cs = 0x10;
    cpu->sysenter_eip = 0x6000;
    cpu->gpr[REG_RBX].q = DATA;
    cpu->gpr[REG_RSP].q = STACK;
    cpu->rip = 0x10000 + CODE;
    cpu_set_rflags(cpu, RFLAGS_ONE);
    cpu_update_mode(cpu);
    cpu_flush_tlb(cpu, false);
    cpu_verify_code(cpu);
}

static int step(void)
{
    const enum cpu_leave leave = cpu_step(cpu);
    return leave == LEAVE_NONE ? -1 : leave == LEAVE_FAULT ? cpu->fault.vector : -2;
}

/* -1 or the vector of its fault */
static int run(bool is_amd, bool is_64, const char *code, size_t size)
{
    prepare(is_amd, is_64, code, size);
    return step();
}

/* JMP, Jcc, CALL and RET under prefix 66: from 0x11000; AMD truncates to 16 bits. */
static void test_branches_with_prefix_66(void **unused)
{
    (void)unused;
    assert_int_equal(RUN(false, true, "\x66\xe9\x10\0\0\0"), -1);
    assert_int_equal(cpu->rip, 0x11016);
    assert_int_equal(RUN(true, true, "\x66\xe9\x10\0\0\0"), -1);
    assert_int_equal(cpu->rip, 0x1014);
    assert_int_equal(RUN(false, true, "\x66\x75\x10"), -1);
    assert_int_equal(cpu->rip, 0x11013);
    assert_int_equal(RUN(true, true, "\x66\x75\x10"), -1);
    assert_int_equal(cpu->rip, 0x1013);
    assert_int_equal(RUN(false, true, "\x66\xe8\x10\0\0\0"), -1);
    assert_int_equal(cpu->gpr[REG_RSP].q, STACK - 8);
    assert_int_equal(RUN(true, true, "\x66\xe8\x10\0\0\0"), -1);
    assert_int_equal(cpu->gpr[REG_RSP].q, STACK - 2);
    assert_int_equal(cpu->rip, 0x1014);
    assert_int_equal(RUN(false, true, "\x66\xc3"), -1);
    assert_int_equal(cpu->gpr[REG_RSP].q, STACK + 8);
    assert_int_equal(RUN(true, true, "\x66\xc3"), -1);
    assert_int_equal(cpu->gpr[REG_RSP].q, STACK + 2);
}

static void test_system_calls(void **unused)
{
    (void)unused;
    assert_int_equal(RUN(false, false, "\x0f\x05"), VECTOR_UD);
    assert_int_equal(RUN(true, false, "\x0f\x05"), -1);
    assert_int_equal(cpu->rip, 0x5000);
    assert_int_equal(RUN(false, true, "\x0f\x34"), -1);
    assert_int_equal(cpu->rip, 0x6000);
    assert_int_equal(RUN(true, true, "\x0f\x34"), VECTOR_UD);
    assert_int_equal(RUN(true, true, "\x0f\x35"), VECTOR_UD);
    cpu->gpr[REG_RCX].q = 0x800000000000;
    assert_int_equal(RUN(false, true, "\x48\x0f\x07"), VECTOR_GP);
    assert_int_equal(cpu->cpl, 0);
    cpu->gpr[REG_RCX].q = 0x800000000000;
    assert_int_equal(RUN(true, true, "\x48\x0f\x07"), -1);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->rip, 0x800000000000);
    assert_int_equal(cpu_step(cpu), LEAVE_FAULT);
    assert_int_equal(cpu->fault.vector, VECTOR_GP);
}

/* CALL through memory, LOOP, JRCXZ. */
static void test_other_branches_with_prefix_66(void **unused)
{
    const uint64_t target = 0x5555555515000;

    (void)unused;
    memcpy(memory + DATA, &target, 8);
    assert_int_equal(RUN(true, true, "\x66\xff\x13"), -1);
    assert_int_equal(cpu->rip, 0x5000);
    assert_int_equal(cpu->gpr[REG_RSP].q, STACK - 2);
    memcpy(memory + DATA, "\0\x50\1\0\0\0\0\0", 8);
    assert_int_equal(RUN(false, true, "\x66\xff\x23"), -1);
    assert_int_equal(cpu->rip, 0x15000);
    assert_int_equal(RUN(true, true, "\x66\xff\x23"), -1);
    assert_int_equal(cpu->rip, 0x5000);
    cpu->gpr[REG_RCX].q = 5;
    assert_int_equal(RUN(true, true, "\x66\xe2\x10"), -1);
    assert_int_equal(cpu->rip, 0x1013);
    assert_int_equal(cpu->gpr[REG_RCX].q, 4);
    cpu->gpr[REG_RCX].q = 0;
    assert_int_equal(RUN(false, true, "\x66\xe3\x10"), -1);
    assert_int_equal(cpu->rip, 0x11013);
    assert_int_equal(RUN(true, true, "\x66\xe3\x10"), -1);
    assert_int_equal(cpu->rip, 0x1013);
    /* REX.W wins over the prefix. */
    assert_int_equal(RUN(true, true, "\x66\x48\xeb\x10"), -1);
    assert_int_equal(cpu->rip, 0x11014);
}

static void test_stack_segment_after_sysret(void **unused)
{
    (void)unused;
    cpu->gpr[REG_RCX].q = 0x7000;
    assert_int_equal(RUN(false, true, "\x48\x0f\x07"), -1);
    assert_int_equal(cpu->segment[SEG_SS].selector, 0x2b);
    assert_int_equal(cpu->segment[SEG_SS].attributes, 0xc0f3);
    assert_int_equal(cpu->segment[SEG_SS].limit, 0xffffffff);
    cpu->gpr[REG_RCX].q = 0x7000;
    prepare(true, true, "\x48\x0f\x07", 3);
    cpu->segment[SEG_SS].attributes = 0x4097;
    cpu->segment[SEG_SS].limit = 0x1234;
    assert_int_equal(step(), -1);
    assert_int_equal(cpu->segment[SEG_SS].selector, 0x2b);
    assert_int_equal(cpu->segment[SEG_SS].attributes, 0x40f7);
    assert_int_equal(cpu->segment[SEG_SS].limit, 0x1234);
}

/* PUSH ES in 32-bit code. */
static void test_push_of_a_segment(void **unused)
{
    uint32_t pushed;

    (void)unused;
    for (unsigned amd = 0; amd < 2; amd++) {
        memset(memory + STACK - 4, 0xff, 4);
        assert_int_equal(RUN(amd, false, "\x06"), -1);
        memcpy(&pushed, memory + STACK - 4, 4);
        assert_int_equal(pushed, amd ? 0x10 : 0xffff0010);
    }
}

/* MOVQ [RAX], MM0 to where nothing is. */
static void test_mmx_store_that_faults(void **unused)
{
    (void)unused;
    for (unsigned amd = 0; amd < 2; amd++) {
        prepare(amd, true, "\x0f\x7f\x00", 3);
        cpu->gpr[REG_RAX].q = 0x800000000000;
        cpu->x87.status = 3u << 11;
        assert_int_equal(step(), VECTOR_GP);
        assert_int_equal(cpu->x87.status, amd ? 3u << 11 : 0);
        cpu->x87.status = 0;
    }
}

/* LGS RAX with a null selector: which bytes are the offset, which the selector. */
static void test_wide_far_pointers(void **unused)
{
    const uint64_t wide = 0x0000111122223333;

    (void)unused;
    memset(memory + DATA, 0, 16);
    memcpy(memory + DATA, &wide, 4);
    assert_int_equal(RUN(true, true, "\x48\x0f\xb5\x03"), -1);
    assert_int_equal(cpu->gpr[REG_RAX].q, (uint32_t)wide);
    memcpy(memory + DATA, &wide, 8);
    assert_int_equal(RUN(false, true, "\x48\x0f\xb5\x03"), -1);
    assert_int_equal(cpu->gpr[REG_RAX].q, wide);
}

static void test_upper_halves(void **unused)
{
    (void)unused;
    cpu->gpr[REG_RCX].q = 0x100000000;
    assert_int_equal(RUN(false, true, "\x67\xf3\xaa"), -1);
    assert_int_equal(cpu->gpr[REG_RCX].q, 0);
    cpu->gpr[REG_RCX].q = 0x100000000;
    assert_int_equal(RUN(true, true, "\x67\xf3\xaa"), -1);
    assert_int_equal(cpu->gpr[REG_RCX].q, 0x100000000);
}

/* Neither vendor's virtualization, nor MONITOR, which the API has no feature bit for, nor the sets of one vendor only. */
static void test_absent_for_both(void **unused)
{
    static const struct { const char *name, *code; } rows[] = {
        {"vmcall", "\x0f\x01\xc1"}, {"vmlaunch", "\x0f\x01\xc2"}, {"vmresume", "\x0f\x01\xc3"}, {"vmxoff", "\x0f\x01\xc4"},
        {"vmmcall", "\x0f\x01\xd9"}, {"vmrun", "\x0f\x01\xd8"}, {"vmload", "\x0f\x01\xda"}, {"vmsave", "\x0f\x01\xdb"},
        {"stgi", "\x0f\x01\xdc"}, {"clgi", "\x0f\x01\xdd"}, {"skinit", "\x0f\x01\xde"}, {"invlpga", "\x0f\x01\xdf"},
        {"monitor", "\x0f\x01\xc8"}, {"mwait", "\x0f\x01\xc9"}, {"vmread", "\x0f\x78\xc0"}, {"vmwrite", "\x0f\x79\xc0"},
        {"clzero", "\x0f\x01\xfc"}, {"rdpru", "\x0f\x01\xfd"}, {"monitorx", "\x0f\x01\xfa"}, {"extrq", "\x66\x0f\x79"},
        {"pfadd", "\x0f\x0f\xc1"}, {"femms", "\x0f\x0e\x90"}, {"getsec", "\x0f\x37\x90"}, {"vmfunc", "\x0f\x01\xd4"},
    };

    (void)unused;
    for (unsigned amd = 0; amd < 2; amd++)
        for (size_t i = 0; i < array_size(rows); i++)
            if (run(amd, true, rows[i].code, 3) != VECTOR_UD)
                fail_msg("%s does not raise #UD", rows[i].name);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {CASE(test_branches_with_prefix_66),
                                       CASE(test_other_branches_with_prefix_66),
                                       CASE(test_system_calls),
                                       CASE(test_stack_segment_after_sysret),
                                       CASE(test_push_of_a_segment),
                                       CASE(test_mmx_store_that_faults),
                                       CASE(test_wide_far_pointers),
                                       CASE(test_upper_halves),
                                       CASE(test_absent_for_both)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
