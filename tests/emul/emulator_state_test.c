/* The emulator: what else an instruction changes. Segments, tables, tasks, vector registers, traps and shadows. */
#include "scripted_client.h"

/* SG-1: segments and tables that an instruction loads from memory go back with the rest. */
static void segments_and_tables(void **state)
{
    (void)state;
    enter(MODE_REAL);
    assert_int_equal(MMIO(0x8e, 0x1f), 1); /* mov ds, [bx] */
    assert_int_equal(register_at(WHvX64RegisterDs)->Segment.Selector, 0x0201);
    assert_int_equal(register_at(WHvX64RegisterDs)->Segment.Base, 0x2010);

    enter(MODE_REAL);
    assert_int_equal(MMIO(0x8e, 0x17), 1); /* mov ss, [bx]: an interrupt shadow */
    assert_int_equal(get64(WHvRegisterInterruptState), 1);

    enter(MODE_PROTECTED_32);
    assert_int_equal(MMIO(0x0f, 0x01, 0x13), 1); /* lgdt [ebx] */
    assert_int_equal(register_at(WHvX64RegisterGdtr)->Table.Limit, 0x0201);
    assert_int_equal(register_at(WHvX64RegisterGdtr)->Table.Base, 0x06050403);

    enter(MODE_REAL);
    assert_int_equal(MMIO(0xff, 0x2f), 1); /* jmp far [bx] */
    assert_int_equal(get64(WHvX64RegisterRip), 0x0201);
    assert_int_equal(register_at(WHvX64RegisterCs)->Segment.Base, 0x4030);
}

/* SG-2: what touches memory by its descriptors alone: a far jump and a segment load through a table in a ROM, which the
 * processor wants to mark as accessed. */
static void descriptors(void **state)
{
    static const UINT8 jump[] = {0xea, 0, 0x30, 0, 0, 8, 0}, load[] = {0x8e, 0xd8}; /* jmp 8:0x3000; mov ds, eax */

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        enter(MODE_PROTECTED_32);
        register_at(WHvX64RegisterGdtr)->Table.Base = 0x9000;
        register_at(WHvX64RegisterGdtr)->Table.Limit = 0xff;
        set64(WHvX64RegisterRax, 8);
        client.code_gpa = 0x9008 + SHIFT;
        memcpy(client.code, i ? "\xff\xff\0\0\0\x92\xcf" : "\xff\xff\0\0\0\x9a\xcf", 8);
        assert_int_equal(i ? mmio(load, sizeof(load)) : mmio(jump, sizeof(jump)), 1);
        assert_non_null(strstr(client.transcript, "r109008/8 "));
        assert_non_null(strstr(client.transcript, i ? "w10900c/4=cf9300 " : "w10900c/4=cf9b00 "));
        assert_int_equal(register_at(i ? WHvX64RegisterDs : WHvX64RegisterCs)->Segment.Selector, 8);
        assert_int_equal(register_at(i ? WHvX64RegisterDs : WHvX64RegisterCs)->Segment.Attributes, i ? 0xc093 : 0xc09b);
        assert_int_equal(get64(WHvX64RegisterRip), i ? 0x2002 : 0x3000);
    }
}

/* SG-3: a task switch to a task that cannot go on: what is loaded is the new task, and the fault is its. */
static void fault_of_a_new_task(void **state)
{
    (void)state;
    enter(MODE_PROTECTED_16);
    register_at(WHvX64RegisterGdtr)->Table.Base = 0x9000;
    register_at(WHvX64RegisterGdtr)->Table.Limit = 0xff;
    set_segment(WHvX64RegisterTr, 0xa000, 0x67, 0x20, 0x8b);
    client.code_gpa = 0x9008 + SHIFT;
    memcpy(client.code, "\x67\0\x06\x40\0\x89\0\0", 8); /* a TSS at 4006: a byte is its address plus 1 */
    assert_int_equal(MMIO(0xea, 0, 0, 8, 0), 1);           /* jmp 8:0 */
    assert_int_equal(get64(WHvX64RegisterRip), 0x2a292827);
    assert_int_equal(get64(WHvX64RegisterRax), 0x3231302f);
    assert_int_equal(register_at(WHvX64RegisterTr)->Segment.Selector, 8);
    assert_int_equal(register_at(WHvX64RegisterSs)->Segment.Attributes >> 5 & 3, 3); /* CPL: of CS, 5453 */
    assert_int_equal(get64(WHvRegisterPendingEvent), 1 | 1 << 8 | 10 << 16 | 0x6864ull << 32); /* #TS: the LDT's selector */
}

/* ST-1: RFLAGS.TF: the trap becomes pending in the same call, behind the instruction or behind one element of a repeated one;
 * what has loaded SS holds it back. Nothing of that without TF, or when the instruction did not happen. */
static void single_step(void **state)
{
    (void)state;
    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x102);
    assert_int_equal(MMIO(0x8b, 0x03), 1);
    assert_string_equal(client.transcript, "get t5000/11 r105000/4 set ");
    assert_int_equal(get64(WHvX64RegisterPendingDebugException), 0x10);
    assert_int_equal(get64(WHvX64RegisterRip), 0x2002);

    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x102);
    set64(WHvX64RegisterRcx, 2);
    assert_int_equal(MMIO(0xf3, 0xaa), 1); /* rep stosb */
    assert_int_equal(get64(WHvX64RegisterRcx), 1);
    assert_int_equal(get64(WHvX64RegisterRip), 0x2000);
    assert_int_equal(get64(WHvX64RegisterPendingDebugException), 0x10);

    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x102);
    assert_int_equal(PORT(0xec), 1);
    assert_int_equal(get64(WHvX64RegisterPendingDebugException), 0x10);

    enter(MODE_REAL);
    set64(WHvX64RegisterRflags, 0x102);
    assert_int_equal(MMIO(0x8e, 0x17), 1); /* mov ss, [bx] */
    assert_int_equal(get64(WHvX64RegisterPendingDebugException), 0);
    assert_int_equal(get64(WHvRegisterInterruptState), 1);

    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x102);
    client.bad_page = 0x5000;
    client.bad_code = WHvTranslateGvaResultPageNotPresent;
    assert_int_equal(MMIO(0x8b, 0x03), 1);
    assert_int_equal(get64(WHvX64RegisterPendingDebugException), 0);
}

/* ST-2: RFLAGS.RF is for the beginning of one instruction: cleared when that is complete, kept when it faults. */
static void resume_flag(void **state)
{
    (void)state;
    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x10002);
    assert_int_equal(MMIO(0x8b, 0x03), 1);
    assert_int_equal(get64(WHvX64RegisterRflags), 2);

    enter(MODE_LONG);
    set64(WHvX64RegisterRflags, 0x10002);
    client.bad_page = 0x5000;
    client.bad_code = WHvTranslateGvaResultPageNotPresent;
    assert_int_equal(MMIO(0x8b, 0x03), 1);
    assert_int_equal(get64(WHvX64RegisterRflags), 0x10002);
}

/* ST-3: an interrupt shadow ends with the instruction that stands in it; whether NMIs are masked stays. */
static void shadow_ends(void **state)
{
    struct call call = {.vp.ExecutionState.InterruptShadow = 1, .memory = {.InstructionByteCount = 2, .InstructionBytes = {0x8b, 0x03}}};

    (void)state;
    for (UINT64 masked = 0; masked < 4; masked += 2) {
        enter(MODE_LONG);
        set64(WHvRegisterInterruptState, 1 | masked);
        assert_int_equal(emulate(&call, false), 1);
        assert_string_equal(client.transcript, "get get t5000/11 r105000/4 set ");
        assert_int_equal(get64(WHvRegisterInterruptState), masked);
    }
    enter(MODE_LONG); /* one that fails leaves it */
    set64(WHvRegisterInterruptState, 1);
    client.failing = MEMORY;
    client.failing_at = 1;
    assert_int_equal(emulate(&call, false), 1 << 3);
    assert_int_equal(get64(WHvRegisterInterruptState), 1);
}

/* SG-4: a linear address wraps at 4 GiB outside of 64-bit mode, in a string instruction too. */
static void segment_base_wraps(void **state)
{
    (void)state;
    enter(MODE_PROTECTED_32);
    set_segment(WHvX64RegisterEs, 0xfffa0000, 0xffffffff, 16, 0xc093);
    set64(WHvX64RegisterRdi, 0x100000);
    set64(WHvX64RegisterRcx, 2);
    assert_int_equal(MMIO(0xf3, 0xa4), 1); /* rep movsb to 0xa0000 */
    assert_string_equal(client.transcript, "get t6000/11 r106000/1 ta0000/13 w1a0000/1=1 r106001/1 w1a0001/1=2 set ");
}

int main(void)
{
    install_handlers();
    const struct CMUnitTest tests[] = {
        CASE("SG-1", "F 8.3", segments_and_tables),
        CASE("SG-2", "F 8.3", descriptors),
        CASE("SG-3", "F 8.3", fault_of_a_new_task),
        CASE("SG-4", "F 8.4", segment_base_wraps),
        CASE("ST-1", "F 8.1", single_step),
        CASE("ST-2", "F 8.1", resume_flag),
        CASE("ST-3", "F 8.4", shadow_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
