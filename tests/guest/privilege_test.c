/*
 * Who may do what: instructions of the system by mode, privilege level, IOPL and the switches that concern them
 * (CR4.UMIP, TSD, PCE, FSGSBASE; DR7.GD), in all seven modes. A row says where the instruction exists and at which
 * levels it is allowed (SDM 2A-2C, the "exceptions" of each; 3A 5.9; 3B 17.2.4). What an allowed one does is tested
 * elsewhere; here it raises nothing of #UD, #GP(0) or #DB. Also by mode: what begins an interrupt shadow, and that IRET
 * ends the blocking of NMIs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "machine.h"
#include "util/compiler.h"

enum { ENOUGH = 10 };

static struct machine machine;

/* Where an instruction exists. */
enum {
    IN_REAL = 1,
    IN_V86 = 2,
    IN_PROTECTED = 4,
    IN_COMPATIBILITY = 8,
    IN_LONG = 16,
    EVERYWHERE = 31,
    NOT_OLD = IN_PROTECTED | IN_COMPATIBILITY | IN_LONG,
};

/* Who may. */
enum who {
    KERNEL, /* privilege level 0 */
    UMIP,   /* everybody, with CR4.UMIP level 0 */
    TSD,
    PCE,      /* everybody without CR4.TSD, with CR4.PCE; else level 0 */
    IOPL,     /* CPL <= IOPL */
    PORTS,    /* CPL <= IOPL, or the TSS says so: it says no */
    FSGSBASE, /* everybody, where CR4.FSGSBASE is set: else it does not exist */
    DEBUG,    /* level 0, and then #DB where DR7.GD is set */
};

static const struct instruction {
    const char *name;
    uint8_t code[9];
    uint8_t length;
    unsigned exists;
    enum who who;
} instructions[] = {
    /* EAX = EBX = ECX = EDX = 0 but for what go() sets */
    {"HLT", {0xf4}, 1, EVERYWHERE, KERNEL},
    {"CLTS", {0x0f, 0x06}, 2, EVERYWHERE, KERNEL},
    {"INVD", {0x0f, 0x08}, 2, EVERYWHERE, KERNEL},
    {"WBINVD", {0x0f, 0x09}, 2, EVERYWHERE, KERNEL},
    {"LGDT", {0x0f, 0x01, 0x17}, 3, EVERYWHERE, KERNEL},
    {"LIDT", {0x0f, 0x01, 0x1f}, 3, EVERYWHERE, KERNEL},
    {"LMSW", {0x0f, 0x01, 0xf1}, 3, EVERYWHERE, KERNEL},
    {"INVLPG", {0x0f, 0x01, 0x3f}, 3, EVERYWHERE, KERNEL},
    {"MOV from CR0", {0x0f, 0x20, 0xc0}, 3, EVERYWHERE, KERNEL},
    {"MOV to CR2", {0x0f, 0x22, 0xd1}, 3, EVERYWHERE, KERNEL},
    {"MOV from CR3", {0x0f, 0x20, 0xd8}, 3, EVERYWHERE, KERNEL},
    {"MOV from CR4", {0x0f, 0x20, 0xe0}, 3, EVERYWHERE, KERNEL},
    {"MOV from DR0", {0x0f, 0x21, 0xc0}, 3, EVERYWHERE, DEBUG},
    {"MOV to DR3", {0x0f, 0x23, 0xd9}, 3, EVERYWHERE, DEBUG},
    {"MOV from DR6", {0x0f, 0x21, 0xf0}, 3, EVERYWHERE, DEBUG},
    {"MOV from DR7", {0x0f, 0x21, 0xf8}, 3, EVERYWHERE, DEBUG},
    {"RDMSR", {0x0f, 0x32}, 2, EVERYWHERE, KERNEL},
    {"WRMSR", {0x0f, 0x30}, 2, EVERYWHERE, KERNEL},
    {"LLDT", {0x0f, 0x00, 0xd1}, 3, NOT_OLD, KERNEL},
    {"SLDT", {0x0f, 0x00, 0xc0}, 3, NOT_OLD, UMIP},
    {"STR", {0x0f, 0x00, 0xc8}, 3, NOT_OLD, UMIP},
    {"SMSW", {0x0f, 0x01, 0xe0}, 3, EVERYWHERE, UMIP},
    {"SGDT", {0x0f, 0x01, 0x07}, 3, EVERYWHERE, UMIP},
    {"SIDT", {0x0f, 0x01, 0x0f}, 3, EVERYWHERE, UMIP},
    {"RDTSC", {0x0f, 0x31}, 2, EVERYWHERE, TSD},
    {"RDTSCP", {0x0f, 0x01, 0xf9}, 3, EVERYWHERE, TSD},
    {"CLI", {0xfa}, 1, EVERYWHERE, IOPL},
    {"STI", {0xfb}, 1, EVERYWHERE, IOPL},
    {"IN AL, DX", {0xec}, 1, EVERYWHERE, PORTS},
    {"OUT DX, AL", {0xee}, 1, EVERYWHERE, PORTS},
    {"OUTSB", {0x6e}, 1, EVERYWHERE, PORTS},
    {"INSB", {0x6c}, 1, EVERYWHERE, PORTS},
    {"STAC", {0x0f, 0x01, 0xcb}, 3, EVERYWHERE & ~IN_V86, KERNEL},
    {"CLAC", {0x0f, 0x01, 0xca}, 3, EVERYWHERE & ~IN_V86, KERNEL},
    {"SWAPGS", {0x0f, 0x01, 0xf8}, 3, IN_LONG, KERNEL},
    {"RDFSBASE", {0xf3, 0x0f, 0xae, 0xc0}, 4, IN_LONG, FSGSBASE},
    {"WRGSBASE", {0xf3, 0x0f, 0xae, 0xd9}, 4, IN_LONG, FSGSBASE},
};

static unsigned place_of(enum machine_mode mode)
{
    static const uint8_t places[MACHINE_MODES] = {IN_REAL,          IN_V86,           IN_PROTECTED, IN_PROTECTED,
                                                  IN_COMPATIBILITY, IN_COMPATIBILITY, IN_LONG};
    return places[mode];
}

/* ---- what must happen ---- */

struct circumstances {
    enum machine_mode mode;
    unsigned cpl, iopl;
    bool on; /* the bit of CR4, or DR7.GD */
};

static int expect(const struct instruction *i, const struct circumstances *c)
{
    const bool kernel = c->cpl == 0;

    if (!(i->exists & place_of(c->mode)))
        return VECTOR_UD;
    switch (i->who) {
    case KERNEL:
        return kernel ? OUTCOME_DONE : i->code[1] == 0x01 && (i->code[2] & 0xfe) == 0xca ? VECTOR_UD : VECTOR_GP;
    case UMIP:
        return kernel || !c->on ? OUTCOME_DONE : VECTOR_GP;
    case TSD:
        return kernel || !c->on ? OUTCOME_DONE : VECTOR_GP;
    case PCE:
        return kernel || c->on ? OUTCOME_DONE : VECTOR_GP;
    case IOPL:
        return c->cpl <= c->iopl ? OUTCOME_DONE : VECTOR_GP;
    case PORTS:
        return c->cpl <= c->iopl && c->mode != MACHINE_V86 ? OUTCOME_DONE : VECTOR_GP;
    case FSGSBASE:
        return c->on ? OUTCOME_DONE : VECTOR_UD;
    default:
        return !kernel ? VECTOR_GP : c->on ? VECTOR_DB : OUTCOME_DONE;
    }
}

static uint64_t switch_of(enum who who)
{
    return who == UMIP ? CR4_UMIP : who == TSD ? CR4_TSD : who == PCE ? CR4_PCE : who == FSGSBASE ? CR4_FSGSBASE : 0;
}

static uint16_t code_at[array_size(instructions)];

static int set_up(void **unused)
{
    (void)unused;
    if (!machine_create(&machine))
        return -1;
    for (unsigned i = 0; i < array_size(instructions); i++)
        code_at[i] = machine_add_code(&machine, instructions[i].code, instructions[i].length);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    machine_destroy(&machine);
    return 0;
}

static bool go(unsigned number, const struct circumstances *c)
{
    const struct instruction *i = &instructions[number];
    const int want = expect(i, c);
    struct cpu *cpu = machine.guest.cpu;

    machine_enter(&machine, c->mode, c->cpl);
    cpu->cr4 |= c->on ? switch_of(i->who) : 0;
    cpu->dr7 |= c->on && i->who == DEBUG ? 0x2000 : 0;
    cpu->gpr[REG_RBX].q = cpu->gpr[REG_RDI].q = cpu->gpr[REG_RSI].q = MACHINE_DATA;
    cpu->gpr[REG_RCX].q = i->code[1] == 0x30 || i->code[1] == 0x32 ? 0xc0000080 : cpu->cr0;
    if (i->who == DEBUG || i->code[1] == 0x00)
        cpu->gpr[REG_RCX].q = 0;
    cpu->gpr[REG_RAX].q = i->code[1] == 0x30 ? cpu->efer : 0;
    cpu_set_rflags(cpu, cpu_rflags(cpu) | (uint64_t)c->iopl << 12);
    cpu_update_mode(cpu);
    const struct outcome got = machine_step(&machine, code_at[number]);
    const bool halted = got.vector == OUTCOME_OTHER && got.error == LEAVE_HALT && i->code[0] == 0xf4;
    const bool good = (got.vector == want && (got.vector < 0 || got.error == 0) &&
                       (want != VECTOR_DB || cpu->fault.debug == 0x2000)) ||
                      (halted && want == OUTCOME_DONE);
    if (!good)
        print_error("%s, %s, CPL %u, IOPL %u, switch %d: vector %d error %#x; expected %d\n", i->name,
                    machine_mode_names[c->mode], c->cpl, c->iopl, c->on, got.vector, got.error, want);
    return good;
}

static void test_every_instruction(void **unused)
{
    unsigned wrong = 0;

    (void)unused;
    for (unsigned number = 0; number < array_size(instructions); number++)
        for (enum machine_mode mode = MACHINE_REAL; mode < MACHINE_MODES; mode++)
            for (unsigned i = 0; i < 32 && wrong < ENOUGH; i++) {
                const struct circumstances c = {.mode = mode, .cpl = i & 3, .iopl = i >> 2 & 3, .on = i >> 4};
                if ((mode == MACHINE_REAL && c.cpl) || (mode == MACHINE_V86 && c.cpl != 3))
                    continue;
                wrong += !go(number, &c);
            }
    assert_int_equal(wrong, 0);
}

/* ---- interrupt shadows ---- */

/* SDM 3A 6.8.3, 2B STI, MOV, POP, LSS: STI where IF was clear; MOV SS and POP SS always; nothing else. */
static void test_shadows(void **unused)
{
    static const struct {
        const char *name;
        uint8_t code[3], length;
        bool starts_set, shadow;
        unsigned exists;
    } rows[] = {
        {"STI", {0xfb}, 1, false, true, EVERYWHERE},
        {"STI with IF set", {0xfb}, 1, true, false, EVERYWHERE},
        {"MOV SS", {0x8e, 0xd1}, 2, true, true, EVERYWHERE},
        {"POP SS", {0x17}, 1, true, true, EVERYWHERE & ~IN_LONG},
        {"LSS", {0x0f, 0xb2, 0x27}, 3, true, false, EVERYWHERE},
        {"MOV DS", {0x8e, 0xd9}, 2, true, false, EVERYWHERE},
        {"POPF", {0x9d}, 1, false, false, EVERYWHERE},
        {"CLI", {0xfa}, 1, true, false, EVERYWHERE},
    };
    uint16_t at[array_size(rows)];

    (void)unused;
    for (unsigned i = 0; i < array_size(rows); i++)
        at[i] = machine_add_code(&machine, rows[i].code, rows[i].length);
    for (unsigned i = 0; i < array_size(rows); i++)
        for (enum machine_mode mode = MACHINE_REAL; mode < MACHINE_MODES; mode++) {
            struct cpu *cpu = machine.guest.cpu;
            if (!(rows[i].exists & place_of(mode)))
                continue;
            machine_enter(&machine, mode, mode == MACHINE_V86 ? 3 : 0);
            const uint16_t ss = cpu->segment[SEG_SS].selector;
            const unsigned size = machine_mode_size(mode);
            cpu->gpr[REG_RCX].q = ss;
            cpu->gpr[REG_RBX].q = cpu->gpr[REG_RDI].q = MACHINE_DATA;
            machine_put(&machine, MACHINE_DATA, MACHINE_STACK, size);
            machine_put(&machine, MACHINE_DATA + size, ss, 2);
            machine_put(&machine, MACHINE_STACK, rows[i].code[0] == 0x9d ? RFLAGS_ONE | RFLAGS_IF | RFLAGS_IOPL : ss,
                        8);
            cpu_set_rflags(cpu, cpu_rflags(cpu) | RFLAGS_IOPL | (rows[i].starts_set ? RFLAGS_IF : 0));
            const struct outcome got = machine_step(&machine, at[i]);
            if (got.vector != OUTCOME_DONE || cpu->interrupt_shadow != rows[i].shadow)
                print_error("%s, %s: vector %d error %#x, shadow %d\n", rows[i].name, machine_mode_names[mode],
                            got.vector, got.error, cpu->interrupt_shadow);
            assert_int_equal(got.vector, OUTCOME_DONE);
            assert_int_equal(cpu->interrupt_shadow, rows[i].shadow);
        }
}

/* ---- NMIs ---- */

/* They are blocked from the delivery of one until an IRET is done, in whatever mode; one that faults does not count. */
static void test_nmis_are_blocked_until_iret(void **unused)
{
    static const uint8_t narrow[] = {0xcf}, wide[] = {0x48, 0xcf};
    const uint16_t at[] = {machine_add_code(&machine, narrow, 1), machine_add_code(&machine, wide, 2)};

    (void)unused;
    for (enum machine_mode mode = MACHINE_REAL; mode < MACHINE_MODES; mode++)
        for (unsigned fails = 0; fails < 2; fails++) {
            const unsigned size = mode == MACHINE_LONG ? 8 : machine_mode_size(mode);
            struct cpu *cpu = machine.guest.cpu;
            machine_enter(&machine, mode, mode == MACHINE_V86 ? 3 : 0);
            cpu->nmi_masked = true;
            cpu_set_rflags(cpu, cpu_rflags(cpu) | (fails && mode == MACHINE_V86 ? 0 : RFLAGS_IOPL));
            const uint64_t frame[] = {MACHINE_CODE, cpu->segment[SEG_CS].selector, RFLAGS_ONE, MACHINE_STACK,
                                      cpu->segment[SEG_SS].selector};
            for (unsigned i = 0; i < array_size(frame); i++)
                machine_put(&machine, MACHINE_STACK + i * size, frame[i], size);
            if (fails && mode >= MACHINE_PROTECTED16)
                machine_put(&machine, MACHINE_STACK + size, 0, size); /* null */
            if (fails && mode == MACHINE_REAL)
                cpu->segment[SEG_SS].limit = MACHINE_STACK, cpu_update_mode(cpu);
            const struct outcome got = machine_step(&machine, at[mode == MACHINE_LONG]);
            assert_int_equal(got.vector, !fails ? OUTCOME_DONE : mode == MACHINE_REAL ? VECTOR_SS : VECTOR_GP);
            assert_int_equal(cpu->nmi_masked, fails);
        }
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {CASE(test_every_instruction), CASE(test_shadows),
                                       CASE(test_nmis_are_blocked_until_iret)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
