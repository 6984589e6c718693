/*
 * Every type of descriptor in every instruction that looks at one: LAR, LSL, VERR, VERW, loads of ES, DS, FS, GS and
 * SS, LLDT, LTR; in 16-, 32- and 64-bit code, with every DPL, RPL and CPL, present and not, from both tables. What must
 * happen is said a second time here, in the words of SDM 2A/2B (LAR, LSL, VERR, LLDT, LTR, MOV) and 3A 3.5, 5.4 to 5.6.
 * For code and data the host's own processor is asked as well, by a local descriptor table (modify_ldt), at privilege 3
 * and in 64-bit mode.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <asm/ldt.h>
#include <cmocka.h>

#include "machine.h"
#include "util/compiler.h"

enum { LIMIT = 0x54321, BASE = 0x00a00000, ENOUGH = 10 };

static struct machine machine;

/* One question: a descriptor, how it is named and by whom. */
struct question {
    enum machine_mode mode;
    unsigned cpl, rpl;
    bool local;
    struct rights rights;
};

/* ---- what must happen ---- */

struct answer {
    int vector; /* OUTCOME_DONE: none */
    uint32_t error;
    bool zf;        /* LAR .. VERW */
    uint32_t value; /* LAR, LSL */
    uint64_t sets;  /* bits that are set in the descriptor */
};

#define ACCESSED BIT64(40)
#define BUSY     BIT64(41)

static bool is_code(struct rights r)
{
    return r.type >= 0x18;
}
static bool is_data(struct rights r)
{
    return r.type >= 0x10 && r.type < 0x18;
}
static bool is_conforming(struct rights r)
{
    return is_code(r) && (r.type & 4);
}
static bool is_readable(struct rights r)
{
    return is_data(r) || (is_code(r) && (r.type & 2));
}
static bool is_writable(struct rights r)
{
    return is_data(r) && (r.type & 2);
}
static unsigned weakest(const struct question *q)
{
    return q->rpl > q->cpl ? q->rpl : q->cpl;
}
static bool may_see(const struct question *q)
{
    return is_conforming(q->rights) || weakest(q) <= q->rights.dpl;
}
static uint16_t selector_of(const struct question *q)
{
    return (uint16_t)(MACHINE_TEST | (q->local ? 4 : 0) | q->rpl);
}
static uint32_t error_of(const struct question *q)
{
    return selector_of(q) & 0xfffcu;
}

static bool has_limit(const struct question *q, bool with_gates)
{
    /* SDM 2A tables of LAR and LSL: types that exist in legacy modes, and in IA-32e mode. */
    const unsigned legacy = 1u << 1 | 1u << 2 | 1u << 3 | 1u << 9 | 1u << 11,
                   legacy_gates = 1u << 4 | 1u << 5 | 1u << 12;
    const unsigned wide = 1u << 2 | 1u << 9 | 1u << 11, wide_gates = 1u << 12;
    const bool is_long = machine_mode_is_long(q->mode);
    const unsigned types = (is_long ? wide : legacy) | (!with_gates ? 0 : is_long ? wide_gates : legacy_gates);

    return q->rights.type >= 0x10 || (types >> q->rights.type & 1);
}

static struct answer expect_lar(const struct question *q)
{
    const uint64_t d = machine_segment(q->rights, BASE, LIMIT);
    struct answer a = {.vector = OUTCOME_DONE, .zf = has_limit(q, true) && may_see(q)};

    if (a.zf)
        a.value = (uint32_t)(d >> 32) & (machine_mode_size(q->mode) == 2 ? 0xff00 : 0xffff00);
    return a;
}

static struct answer expect_lsl(const struct question *q)
{
    struct answer a = {.vector = OUTCOME_DONE, .zf = has_limit(q, false) && may_see(q)};

    if (a.zf)
        a.value = (q->rights.flags & 8 ? LIMIT << 12 | 0xfff : LIMIT) &
                  (machine_mode_size(q->mode) == 2 ? 0xffff : 0xffffffff);
    return a;
}

static struct answer expect_verr(const struct question *q)
{
    return (struct answer){.vector = OUTCOME_DONE, .zf = is_readable(q->rights) && may_see(q)};
}

static struct answer expect_verw(const struct question *q)
{
    return (struct answer){.vector = OUTCOME_DONE, .zf = is_writable(q->rights) && may_see(q)};
}

static struct answer refuse(int vector, uint32_t error)
{
    return (struct answer){.vector = vector, .error = error};
}

static struct answer expect_data(const struct question *q)
{
    if (!is_readable(q->rights) || !may_see(q))
        return refuse(VECTOR_GP, error_of(q));
    return q->rights.present ? (struct answer){.vector = OUTCOME_DONE, .sets = ACCESSED}
                             : refuse(VECTOR_NP, error_of(q));
}

static struct answer expect_ss(const struct question *q)
{
    if (q->rpl != q->cpl || !is_writable(q->rights) || q->rights.dpl != q->cpl)
        return refuse(VECTOR_GP, error_of(q));
    return q->rights.present ? (struct answer){.vector = OUTCOME_DONE, .sets = ACCESSED}
                             : refuse(VECTOR_SS, error_of(q));
}

static struct answer expect_lldt(const struct question *q)
{
    if (q->cpl)
        return refuse(VECTOR_GP, 0);
    if (q->local || q->rights.type != 2)
        return refuse(VECTOR_GP, error_of(q));
    return q->rights.present ? (struct answer){.vector = OUTCOME_DONE} : refuse(VECTOR_NP, error_of(q));
}

static struct answer expect_ltr(const struct question *q)
{
    if (q->cpl)
        return refuse(VECTOR_GP, 0);
    if (q->local || (q->rights.type != 9 && (q->rights.type != 1 || machine_mode_is_long(q->mode))))
        return refuse(VECTOR_GP, error_of(q));
    return q->rights.present ? (struct answer){.vector = OUTCOME_DONE, .sets = BUSY} : refuse(VECTOR_NP, error_of(q));
}

/* ---- the instructions ---- */

static const struct user {
    const char *name;
    uint8_t code[5]; /* selector in ECX, result in EAX */
    uint8_t length;
    bool gives_zf, gives_value, pushes;
    int loads; /* a segment register, -1: none */
    struct answer (*expect)(const struct question *);
} users[] = {
    {"LAR", {0x0f, 0x02, 0xc1}, 3, true, true, false, -1, expect_lar},
    {"LSL", {0x0f, 0x03, 0xc1}, 3, true, true, false, -1, expect_lsl},
    {"VERR", {0x0f, 0x00, 0xe1}, 3, true, false, false, -1, expect_verr},
    {"VERW", {0x0f, 0x00, 0xe9}, 3, true, false, false, -1, expect_verw},
    {"MOV ES", {0x8e, 0xc1}, 2, false, false, false, SEG_ES, expect_data},
    {"MOV DS", {0x8e, 0xd9}, 2, false, false, false, SEG_DS, expect_data},
    {"POP FS", {0x0f, 0xa1}, 2, false, false, true, SEG_FS, expect_data},
    {"POP GS", {0x0f, 0xa9}, 2, false, false, true, SEG_GS, expect_data},
    {"MOV SS", {0x8e, 0xd1}, 2, false, false, false, SEG_SS, expect_ss},
    {"LLDT", {0x0f, 0x00, 0xd1}, 3, false, false, false, SEG_LDTR, expect_lldt},
    {"LTR", {0x0f, 0x00, 0xd9}, 3, false, false, false, SEG_TR, expect_ltr},
};
static uint16_t code_at[array_size(users)];

static int set_up(void **unused)
{
    (void)unused;
    if (!machine_create(&machine))
        return -1;
    for (unsigned i = 0; i < array_size(users); i++)
        code_at[i] = machine_add_code(&machine, users[i].code, users[i].length);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    machine_destroy(&machine);
    return 0;
}

/* What is in the register behind the load. */
static bool is_loaded(const struct question *q, int index, const struct answer *a)
{
    const struct segment *s = &machine.guest.cpu->segment[index];
    const uint16_t attributes =
        (uint16_t)(q->rights.type | q->rights.dpl << 5 | (unsigned)q->rights.present << 7 | q->rights.flags << 12 |
                   (a->sets & ACCESSED ? 1 : 0) | (a->sets & BUSY ? 2 : 0));

    return s->selector == selector_of(q) && s->base == BASE && s->attributes == attributes &&
           s->limit == (q->rights.flags & 8 ? LIMIT << 12 | 0xfffu : LIMIT);
}

static bool ask(const struct question *q, const struct user *user, uint16_t code)
{
    struct cpu *cpu = machine.guest.cpu;
    const uint64_t descriptor = machine_segment(q->rights, BASE, LIMIT);
    const struct answer a = user->expect(q);

    machine_enter(&machine, q->mode, q->cpl);
    machine_set_descriptor(&machine, MACHINE_TEST, descriptor, 0);
    machine_put(&machine, MACHINE_STACK, selector_of(q), 8);
    cpu->gpr[REG_RCX].q = selector_of(q);
    cpu_set_rflags(cpu, cpu_rflags(cpu) | (a.zf ? 0 : RFLAGS_ZF));
    const struct segment before = cpu->segment[user->loads < 0 ? SEG_CS : user->loads];
    const struct outcome got = machine_step(&machine, code);
    const bool zf = cpu_rflags(cpu) & RFLAGS_ZF;
    bool good = got.vector == a.vector && got.error == a.error &&
                machine_descriptor(&machine, MACHINE_TEST) == (descriptor | a.sets);

    if (user->gives_zf)
        good = good && zf == a.zf;
    if (user->gives_value)
        good = good && cpu->gpr[REG_RAX].q == a.value;
    if (user->loads >= 0)
        good = good && (got.vector == OUTCOME_DONE ? is_loaded(q, user->loads, &a)
                                                   : !memcmp(&before, &cpu->segment[user->loads], sizeof(before)));
    if (!good)
        print_error("%s, %s, CPL %u, RPL %u, TI %d, type %#x, DPL %u, P %d, flags %#x: vector %d error %#x ZF %d value "
                    "%#llx descriptor %#llx; "
                    "expected vector %d error %#x ZF %d value %#x\n",
                    user->name, machine_mode_names[q->mode], q->cpl, q->rpl, q->local, q->rights.type, q->rights.dpl,
                    q->rights.present, q->rights.flags, got.vector, got.error, zf,
                    (unsigned long long)cpu->gpr[REG_RAX].q,
                    (unsigned long long)machine_descriptor(&machine, MACHINE_TEST), a.vector, a.error, a.zf, a.value);
    return good;
}

/* All descriptors for one who asks. */
static unsigned ask_all(struct question q)
{
    static const uint8_t flags[] = {0, 0x4, 0xa, 0xd}; /* 16 bits; D; G and L; G, D and AVL */
    unsigned wrong = 0;

    for (unsigned i = 0; i < 32 * 4 * 2 * 4; i++) {
        q.rights = (struct rights){.type = i & 31, .dpl = i >> 5 & 3, .present = i >> 7 & 1, .flags = flags[i >> 8]};
        for (unsigned k = 0; k < array_size(users) && wrong < ENOUGH; k++)
            wrong += !ask(&q, &users[k], code_at[k]);
    }
    return wrong;
}

static void ask_in(enum machine_mode mode)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < 32 && !wrong; i++)
        wrong += ask_all((struct question){.mode = mode, .cpl = i & 3, .rpl = i >> 2 & 3, .local = i >> 4 & 1});
    assert_int_equal(wrong, 0);
}

static void test_protected16(void **unused)
{
    (void)unused;
    ask_in(MACHINE_PROTECTED16);
}

static void test_protected32(void **unused)
{
    (void)unused;
    ask_in(MACHINE_PROTECTED32);
}

static void test_compatibility16(void **unused)
{
    (void)unused;
    ask_in(MACHINE_COMPATIBILITY16);
}

static void test_compatibility32(void **unused)
{
    (void)unused;
    ask_in(MACHINE_COMPATIBILITY32);
}

static void test_long(void **unused)
{
    (void)unused;
    ask_in(MACHINE_LONG);
}

/* ---- code that cannot be read ---- */

/* CLFLUSH, CLFLUSHOPT and CLWB through CS: fine within the limit. A load is #GP. */
static void test_flush_of_unreadable_code(void **unused)
{
    static const struct {
        uint8_t code[5];
        bool loads;
    } rows[] = {
        {{0x2e, 0x0f, 0xae, 0x3f}, false}, {{0x2e, 0x66, 0x0f, 0xae, 0x3f}, false}, {{0x2e, 0x66, 0x0f, 0xae, 0x37}, false},
        {{0x2e, 0x8a, 0x07}, true},
    };
    uint16_t at[array_size(rows)];

    (void)unused;
    for (size_t i = 0; i < array_size(rows); i++)
        at[i] = machine_add_code(&machine, rows[i].code, sizeof(rows[i].code));
    for (enum machine_mode mode = MACHINE_PROTECTED16; mode < MACHINE_LONG; mode++)
        for (unsigned i = 0; i < 8 * array_size(rows); i++) {
            const unsigned cpl = i & 3, beyond = i >> 2 & 1, row = i >> 3;
            struct cpu *cpu = machine.guest.cpu;

            machine_enter(&machine, mode, cpl);
            cpu->segment[SEG_CS].attributes &= (uint16_t)~SEG_TYPE_READABLE;
            cpu->segment[SEG_CS].limit = 0xefff;
            cpu_update_mode(cpu);
            cpu->gpr[REG_RBX].q = cpu->gpr[REG_RDI].q = MACHINE_DATA + beyond * 0x5000u;
            const struct outcome got = machine_step(&machine, at[row]);
            if (got.vector != (beyond || rows[row].loads ? VECTOR_GP : OUTCOME_DONE))
                fail_msg("%s, CPL %u, row %u, beyond %u: vector %d", machine_mode_names[mode], cpl, row, beyond, got.vector);
        }
}

/* ---- selectors that name nothing ---- */

/* Null: fine for data segments and LLDT, for SS only in 64-bit mode inside privilege 3 with RPL = CPL; LTR never. */
static void test_null(void **unused)
{
    unsigned wrong = 0;

    (void)unused;
    for (enum machine_mode mode = MACHINE_PROTECTED16; mode < MACHINE_MODES; mode++) {
        for (unsigned i = 0; i < 16 * array_size(users); i++) {
            const struct user *user = &users[i >> 4];
            const unsigned cpl = i & 3, rpl = i >> 2 & 3;
            struct cpu *cpu = machine.guest.cpu;
            bool allowed = true;

            if (user->loads == SEG_SS)
                allowed = mode == MACHINE_LONG && cpl < 3 && rpl == cpl;
            if (user->loads == SEG_LDTR || user->loads == SEG_TR)
                allowed = cpl == 0 && user->loads == SEG_LDTR;
            machine_enter(&machine, mode, cpl);
            cpu->gpr[REG_RCX].q = rpl;
            machine_put(&machine, MACHINE_STACK, rpl, 8);
            cpu_set_rflags(cpu, cpu_rflags(cpu) | RFLAGS_ZF);
            const struct outcome got = machine_step(&machine, code_at[i >> 4]);
            const bool good =
                got.vector == (allowed ? OUTCOME_DONE : VECTOR_GP) && got.error == 0 &&
                (!user->gives_zf || !(cpu_rflags(cpu) & RFLAGS_ZF)) &&
                (!allowed || user->loads < 0 ||
                 (cpu->segment[user->loads].selector == rpl && !(cpu->segment[user->loads].attributes & SEG_P)));
            if (!good)
                print_error("%s, %s, CPL %u, selector %u: vector %d error %#x\n", user->name, machine_mode_names[mode],
                            cpl, rpl, got.vector, got.error);
            wrong += !good;
        }
    }
    assert_int_equal(wrong, 0);
}

/* Beyond the limit, by a byte; no local table at all; a 16-byte descriptor of which only half is in the table. */
static void test_beyond_the_table(void **unused)
{
    unsigned wrong = 0;

    (void)unused;
    for (enum machine_mode mode = MACHINE_PROTECTED16; mode < MACHINE_MODES; mode++) {
        for (unsigned i = 0; i < 3 * array_size(users); i++) {
            const unsigned user_number = i / 3, kind = i % 3;
            const struct user *user = &users[user_number];
            const uint16_t selector = (uint16_t)(MACHINE_TEST | (kind ? 4 : 0));
            struct cpu *cpu = machine.guest.cpu;

            machine_enter(&machine, mode, 0);
            const unsigned type = user->loads == SEG_LDTR ? 2 : user->loads == SEG_TR ? 9 : 0x12;
            machine_set_descriptor(&machine, MACHINE_TEST,
                                   machine_segment((struct rights){.type = type, .present = true}, 0, 0x67), 0);
            if (kind == 0)
                cpu->gdtr.limit = MACHINE_TEST + 6;
            else if (kind == 1)
                cpu->segment[SEG_LDTR].limit = MACHINE_TEST + 6;
            else
                cpu->segment[SEG_LDTR] = (struct segment){.base = MACHINE_GDT, .limit = 0xffff}; /* null */
            cpu->gpr[REG_RCX].q = selector;
            machine_put(&machine, MACHINE_STACK, selector, 8);
            cpu_set_rflags(cpu, cpu_rflags(cpu) | RFLAGS_ZF);
            const struct outcome got = machine_step(&machine, code_at[user_number]);
            const bool good = user->gives_zf ? got.vector == OUTCOME_DONE && !(cpu_rflags(cpu) & RFLAGS_ZF)
                                             : got.vector == VECTOR_GP && got.error == selector;
            if (!good)
                print_error("%s, %s, case %u: vector %d error %#x\n", user->name, machine_mode_names[mode], kind,
                            got.vector, got.error);
            wrong += !good;
        }
    }
    for (unsigned k = 0; k < 2; k++) { /* LLDT, LTR in 64-bit mode */
        machine_enter(&machine, MACHINE_LONG, 0);
        machine_set_descriptor(&machine, MACHINE_LAST,
                               machine_segment((struct rights){.type = k ? 9 : 2, .present = true}, 0, 0x67), 0);
        machine.guest.cpu->gpr[REG_RCX].q = MACHINE_LAST;
        const struct outcome got = machine_step(&machine, code_at[9 + k]);
        wrong += got.vector != VECTOR_GP || got.error != MACHINE_LAST;
    }
    assert_int_equal(wrong, 0);
}

/* In real and virtual-8086 mode these instructions do not exist, and MOV and POP load anything. */
static void test_old_modes(void **unused)
{
    (void)unused;
    for (enum machine_mode mode = MACHINE_REAL; mode <= MACHINE_V86; mode++) {
        for (unsigned i = 0; i < array_size(users); i++) {
            const int loads = users[i].loads;
            const bool exists = loads >= 0 && loads <= SEG_GS;
            machine_enter(&machine, mode, mode == MACHINE_V86 ? 3 : 0);
            machine.guest.cpu->gpr[REG_RCX].q = 0x1234;
            machine_put(&machine, MACHINE_STACK, 0x1234, 8);
            assert_int_equal(machine_step(&machine, code_at[i]).vector, exists ? OUTCOME_DONE : VECTOR_UD);
            if (exists) {
                assert_int_equal(machine.guest.cpu->segment[loads].selector, 0x1234);
                assert_int_equal(machine.guest.cpu->segment[loads].base, 0x12340);
                assert_int_equal(machine.guest.cpu->segment[loads].limit, 0xffff);
            }
        }
    }
}

/* ---- the host's answer ---- */

struct host_answer {
    uint32_t lar, lsl;
    uint8_t lar_zf, lsl_zf, verr, verw;
};

static struct host_answer ask_host(uint32_t selector)
{
    struct host_answer a = {0};

    __asm__ volatile("lar %2, %0; setz %1" : "+r"(a.lar), "=q"(a.lar_zf) : "r"(selector) : "cc");
    __asm__ volatile("lsl %2, %0; setz %1" : "+r"(a.lsl), "=q"(a.lsl_zf) : "r"(selector) : "cc");
    __asm__ volatile("verr %w1; setz %0" : "=q"(a.verr) : "r"(selector) : "cc");
    __asm__ volatile("verw %w1; setz %0" : "=q"(a.verw) : "r"(selector) : "cc");
    return a;
}

static bool set_local(const struct user_desc *d)
{
    return syscall(SYS_modify_ldt, 0x11, d, sizeof(*d)) == 0;
}

/* Segments as the kernel can make them: DPL 3; the descriptor itself is read back from LAR. */
static void test_against_the_host(void **unused)
{
    struct user_desc d = {.entry_number = 5, .base_addr = BASE, .limit = LIMIT};
    unsigned wrong = 0;

    (void)unused;
    if (!set_local(&d)) {
        print_message("SKIPPED: this host has no modify_ldt\n");
        skip();
    }
    for (unsigned i = 0; i < 128; i++) {
        d.contents = i & 3; /* data, expand-down, code, conforming */
        d.read_exec_only = i >> 2 & 1;
        d.seg_not_present = i >> 3 & 1;
        d.limit_in_pages = i >> 4 & 1;
        d.seg_32bit = i >> 5 & 1;
        d.useable = i >> 6 & 1;
        if (d.contents == MODIFY_LDT_CONTENTS_CODE + 1 && !d.seg_not_present)
            continue; /* the kernel makes no conforming code that is present */
        if (!set_local(&d))
            continue;
        const uint32_t selector = d.entry_number * 8 + 7;
        const struct host_answer host = ask_host(selector);
        const struct rights r = {.type = 0x11u | (d.read_exec_only ? 0u : 2u) | d.contents << 2,
                                 .dpl = 3,
                                 .present = !d.seg_not_present,
                                 .flags = d.limit_in_pages * 8u | d.seg_32bit * 4u | d.useable};
        struct host_answer ours = {0};
        for (unsigned k = 0; k < 4; k++) {
            struct cpu *cpu = machine.guest.cpu;
            machine_enter(&machine, MACHINE_LONG, 3);
            machine_set_descriptor(&machine, MACHINE_TEST, machine_segment(r, BASE, LIMIT), 0);
            cpu->gpr[REG_RCX].q = MACHINE_TEST | 7;
            assert_int_equal(machine_step(&machine, code_at[k]).vector, OUTCOME_DONE);
            const bool zf = cpu_rflags(cpu) & RFLAGS_ZF;
            *(k == 0 ? &ours.lar_zf : k == 1 ? &ours.lsl_zf : k == 2 ? &ours.verr : &ours.verw) = zf;
            if (k < 2)
                *(k ? &ours.lsl : &ours.lar) = cpu->gpr[REG_RAX].d;
        }
        if (memcmp(&ours, &host, sizeof(ours))) {
            print_error(
                "type %#x flags %#x P %d: LAR %#x/%u LSL %#x/%u VERR %u VERW %u; the host: %#x/%u %#x/%u %u %u\n",
                r.type, r.flags, r.present, ours.lar, ours.lar_zf, ours.lsl, ours.lsl_zf, ours.verr, ours.verw,
                host.lar, host.lar_zf, host.lsl, host.lsl_zf, host.verr, host.verw);
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_protected16),      CASE(test_protected32), CASE(test_compatibility16),
        CASE(test_compatibility32),  CASE(test_long),        CASE(test_null),
        CASE(test_beyond_the_table), CASE(test_old_modes),   CASE(test_against_the_host),
        CASE(test_flush_of_unreadable_code),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
