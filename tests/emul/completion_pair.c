#include "emul/completion_pair.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const WHV_REGISTER_NAME names[PAIR_NAMES] = {
    WHvX64RegisterRax, WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRbx, WHvX64RegisterRsp, WHvX64RegisterRbp,
    WHvX64RegisterRsi, WHvX64RegisterRdi, WHvX64RegisterR8, WHvX64RegisterR9, WHvX64RegisterR10, WHvX64RegisterR11,
    WHvX64RegisterR12, WHvX64RegisterR13, WHvX64RegisterR14, WHvX64RegisterR15, WHvX64RegisterRip, WHvX64RegisterRflags,
    WHvX64RegisterEs, WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterDs, WHvX64RegisterFs, WHvX64RegisterGs,
    WHvX64RegisterLdtr, WHvX64RegisterTr, WHvX64RegisterIdtr, WHvX64RegisterGdtr, WHvX64RegisterCr0, WHvX64RegisterCr2,
    WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterEfer, WHvX64RegisterXCr0, WHvRegisterPendingInterruption,
    WHvRegisterInterruptState, WHvRegisterPendingEvent, WHvX64RegisterDr0, WHvX64RegisterDr1, WHvX64RegisterDr2,
    WHvX64RegisterDr3, WHvX64RegisterDr6, WHvX64RegisterDr7,
};
enum { FLAGS_PUSHED = STACK - 0x18 };

static struct guest guest, guests[PAIR_MODES]; /* the one in use; as each mode has it */
static struct pair_state starts[PAIR_MODES];
static enum pair_mode mode;
static struct pair_state on_ram, completed;
static _Atomic bool stop;
static pthread_t canceler;

struct pair_state pair_start;
unsigned pair_accesses;

/* ---- states ---- */

static void take(struct pair_state *s)
{
    assert_ok(WHvGetVirtualProcessorRegisters(guest.partition, 0, names, PAIR_NAMES, s->registers));
    memset(s->xsave, 0, sizeof(s->xsave));
    assert_ok(WHvGetVirtualProcessorXsaveState(guest.partition, 0, s->xsave, sizeof(s->xsave), &s->xsave_size));
    memcpy(s->memory, guest.ram, KEPT);
}

static void put(const struct pair_state *s)
{
    assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 0, names, PAIR_NAMES, s->registers));
    assert_ok(WHvSetVirtualProcessorXsaveState(guest.partition, 0, s->xsave, s->xsave_size));
    memcpy(guest.ram, s->memory, KEPT);
}

/* What is not code is not to be executed, and what is not kept not to be written. */
static void set_rights(void)
{
    for (UINT64 page = 0; page < RAM_SIZE; page += 0x1000) {
        if (page != CODE && page != HANDLERS)
            *guest_pte(&guest, page) |= 1ull << 63;
        if (page >= KEPT || page == PAIR_READ_ONLY)
            *guest_pte(&guest, page) &= ~2ull;
    }
    *guest_pte(&guest, PAIR_NOTHING) = 0;
}

static WHV_REGISTER_VALUE segment(UINT64 base, UINT32 limit, UINT16 selector, UINT16 attributes)
{
    return (WHV_REGISTER_VALUE){.Segment = {.Base = base, .Limit = limit, .Selector = selector, .Attributes = attributes}};
}

/* Without paging: data segments are the window. */
static void enter_segments(void)
{
    const bool is_real = mode == PAIR_REAL;
    const UINT16 attributes = is_real ? 0x93 : 0x4093;

    for (unsigned i = PAIR_ES; i <= PAIR_GS; i++) {
        WHV_REGISTER_VALUE value = segment(WINDOW, WINDOW_SIZE - 1, is_real ? WINDOW >> 4 : 16, attributes);
        if (i == PAIR_CS || i == PAIR_SS)
            value = segment(0, is_real ? 0xffff : 0xfffff, is_real ? 0 : i == PAIR_CS ? 8 : 16, (UINT16)(attributes | (i == PAIR_CS) << 3));
        assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 0, &names[i], 1, &value));
    }
    guest_set(&guest, WHvX64RegisterCr4, 0x40600);
    if (!is_real)
        guest_set(&guest, WHvX64RegisterCr0, 0x11);
}

/* Something may go round in circles for ever (an interrupt through a table that was overwritten). */
static void *cancel_now_and_then(void *unused)
{
    (void)unused;
    for (unsigned i = 0; !atomic_load(&stop); i++) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        for (unsigned m = 0; i % 4 == 0 && m < PAIR_MODES; m++)
            if (guests[m].partition)
                (void)WHvCancelRunVirtualProcessor(guests[m].partition, 0, 0);
    }
    return NULL;
}

static void make_guest(void)
{
    guest_begin(&guest, NULL);
    if (mode <= PAIR_COMPATIBILITY) {
        guest_long_mode(&guest, mode == PAIR_KERNEL ? 0 : 3);
        set_rights();
        guest_set(&guest, WHvX64RegisterCr4, 0x40620);
    } else {
        enter_segments();
    }
    if (mode == PAIR_COMPATIBILITY) {
        const WHV_REGISTER_VALUE code = segment(0, 0xffffffff, 0x23, 0xc0fb);
        assert_ok(WHvSetVirtualProcessorRegisters(guest.partition, 0, &names[PAIR_CS], 1, &code));
    }
    guest_set(&guest, WHvX64RegisterXCr0, 7);
    memset(guest.ram + CODE, 0xf4, 0x1000);
}

void pair_begin(unsigned modes)
{
    for (mode = 0; mode < PAIR_MODES; mode++)
        if (modes >> mode & 1) {
            make_guest();
            take(&starts[mode]);
            guests[mode] = guest;
        }
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&canceler, NULL, cancel_now_and_then, NULL), 0);
}

void pair_choose(enum pair_mode chosen)
{
    mode = chosen;
    guest = guests[mode];
    pair_start = starts[mode];
}

void pair_end(void)
{
    atomic_store(&stop, true);
    pthread_join(canceler, NULL);
    for (unsigned m = 0; m < PAIR_MODES; m++)
        if (guests[m].partition)
            guest_end(&guests[m]);
}

static void run(void)
{
    assert_ok(WHvRunVirtualProcessor(guest.partition, 0, &guest.exit, sizeof(guest.exit)));
}

/* ---- the two ways ---- */

static bool run_on_ram(void)
{
    put(&pair_start);
    run();
    take(&on_ram);
    return guest.exit.ExitReason == WHvRunVpExitReasonX64Halt;
}

static _Noreturn void give_up(const char *what, const OWHP_MEMORY_ACCESS *a)
{
    print_error("mode %u, %s: %u bytes at %#llx, RIP %#llx, code", mode, what, a->SizeInBytes, (unsigned long long)a->Gpa,
                (unsigned long long)guest_get(&guest, WHvX64RegisterRip));
    for (unsigned i = 0; i < 15; i++)
        print_error(" %02x", pair_start.memory[CODE + i]);
    print_error("\n");
    exit(1);
}

/* Between two accesses of an instruction it has not happened. */
static void expect_rip(const OWHP_MEMORY_ACCESS *a)
{
    if (guest_get(&guest, WHvX64RegisterRip) != guest.exit.VpContext.Rip)
        give_up("the instruction shows before its last access", a);
}

/* All accesses of an instruction; false: one cannot be answered. */
static bool answer(UINT8 *window, bool is_whole)
{
    OWHP_MEMORY_ACCESS a;
    HRESULT result = OwhpGetMemoryAccess(guest.partition, 0, &guest.exit, &a);

    if (result == S_OK)
        result = S_FALSE;
    while (result == S_FALSE) {
        UINT64 at = a.Gpa - WINDOW;

        if (at >= WINDOW_SIZE || a.SizeInBytes > WINDOW_SIZE - at)
            give_up("an access outside of the window", &a);
        if (a.AccessType == WHvMemoryAccessRead)
            memcpy(&a.Data, window + at, a.SizeInBytes);
        else
            memcpy(window + at, &a.Data, a.SizeInBytes);
        result = OwhpCompleteMemoryAccess(guest.partition, 0, &a);
        if (is_whole && result == S_FALSE)
            expect_rip(&a);
        pair_accesses++;
    }
    return result == S_OK;
}

static bool run_completed(bool is_whole)
{
    static UINT8 window[WINDOW_SIZE];
    bool is_answered = true;

    put(&pair_start);
    memcpy(window, guest.ram + WINDOW, WINDOW_SIZE);
    assert_ok(WHvUnmapGpaRange(guest.partition, WINDOW, WINDOW_SIZE));
    for (unsigned i = 0; i < 3000 && is_answered; i++) {
        run();
        if (guest.exit.ExitReason != WHvRunVpExitReasonMemoryAccess)
            break;
        is_answered = answer(window, is_whole);
    }
    assert_ok(WHvMapGpaRange(guest.partition, guest.ram + WINDOW, WINDOW, WINDOW_SIZE,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    memcpy(guest.ram + WINDOW, window, WINDOW_SIZE);
    is_answered &= guest.exit.ExitReason == WHvRunVpExitReasonX64Halt;
    if (is_answered)
        take(&completed);
    return is_answered;
}

/* ---- comparing ---- */

static void print_numbers(const char *what, unsigned index, UINT64 ram, UINT64 done)
{
    if (ram != done)
        print_error("%s %u: on RAM %#llx, completed %#llx\n", what, index, (unsigned long long)ram, (unsigned long long)done);
}

static void print_difference(void)
{
    for (unsigned i = 0; i < PAIR_NAMES; i++) {
        print_numbers("register", (unsigned)names[i], on_ram.registers[i].Reg128.Low64, completed.registers[i].Reg128.Low64);
        print_numbers("register's upper half", (unsigned)names[i], on_ram.registers[i].Reg128.High64, completed.registers[i].Reg128.High64);
    }
    for (unsigned i = 0; i < on_ram.xsave_size; i++)
        print_numbers("XSAVE byte", i, on_ram.xsave[i], completed.xsave[i]);
    for (unsigned i = 0; i < KEPT; i++)
        print_numbers("memory", i, on_ram.memory[i], completed.memory[i]);
}

static enum pair_result compare(UINT64 undefined)
{
    static WHV_REGISTER_VALUE ram[PAIR_NAMES];

    memcpy(ram, on_ram.registers, sizeof(ram));
    ram[PAIR_RFLAGS].Reg64 ^= (ram[PAIR_RFLAGS].Reg64 ^ completed.registers[PAIR_RFLAGS].Reg64) & undefined;
    if (mode == PAIR_USER || mode == PAIR_COMPATIBILITY) { /* HLT at privilege 3 is a fault, which pushes RFLAGS */
        on_ram.memory[FLAGS_PUSHED] = completed.memory[FLAGS_PUSHED];
        on_ram.memory[FLAGS_PUSHED + 1] = completed.memory[FLAGS_PUSHED + 1];
    }
    if (!memcmp(ram, completed.registers, sizeof(ram)) && !memcmp(on_ram.xsave, completed.xsave, on_ram.xsave_size) &&
        !memcmp(on_ram.memory, completed.memory, KEPT))
        return PAIR_SAME;
    print_error("mode %u:", mode);
    for (unsigned i = 0; i < 15; i++)
        print_error(" %02x", pair_start.memory[CODE + i]);
    print_error("\n");
    print_difference();
    return PAIR_DIFFERENT;
}

enum pair_result pair_try(UINT64 undefined_flags, bool is_whole)
{
    if (!run_on_ram())
        return PAIR_OTHERWISE;
    return run_completed(is_whole) ? compare(undefined_flags) : PAIR_UNANSWERED;
}

UINT64 pair_undefined_flags(const ZydisDecodedInstruction *insn)
{
    UINT64 undefined = insn->cpu_flags ? insn->cpu_flags->undefined : 0;
    bool shifts = insn->meta.category == ZYDIS_CATEGORY_ROTATE || insn->meta.category == ZYDIS_CATEGORY_SHIFT;

    return undefined | (shifts ? 0x800 : 0); /* OF: for counts above 1 */
}
