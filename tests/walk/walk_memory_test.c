/* The page walk and its memory: races on accessed and dirty bits, tables that are not there, stops, cached PDPTEs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "x86/memory/walk.h"

/* Four tables of one used entry each, at 0x1000, 0x2000, 0x3000, 0x4000; the page is at 0x5000. */
struct memory {
    uint64_t entry[4];
    unsigned loads, updates;
    /* The update that fails because somebody changed the entry to `intruder`; ~0: none. */
    unsigned race_at;
    uint64_t intruder;
    enum walk_status load_status, update_status; /* answers for the entry at fail_at */
    gpa_t fail_at;
};

static uint64_t *entry_at(struct memory *m, gpa_t gpa)
{
    assert_true(gpa >= 0x1000 && gpa < 0x5000 && (gpa & 0xfff) == 0);
    return &m->entry[(gpa >> 12) - 1];
}

static enum walk_status load(void *context, gpa_t gpa, unsigned size, uint64_t *value)
{
    struct memory *m = context;

    assert_int_equal(size, 8);
    m->loads++;
    *value = *entry_at(m, gpa);
    return gpa == m->fail_at ? m->load_status : WALK_OK;
}

static enum walk_status update(void *context, gpa_t gpa, unsigned size, uint64_t old, uint64_t value, bool *done)
{
    struct memory *m = context;
    uint64_t *entry = entry_at(m, gpa);

    assert_int_equal(size, 8);
    if (gpa == m->fail_at && m->update_status != WALK_OK)
        return m->update_status;
    if (m->updates++ == m->race_at)
        *entry = m->intruder;
    *done = *entry == old;
    if (*done)
        *entry = value;
    return WALK_OK;
}

static struct memory fresh(void)
{
    return (struct memory){
        .entry = {0x2007, 0x3007, 0x4007, 0x5007}, .race_at = ~0u, .fail_at = ~(gpa_t)0};
}

static const struct walk_state long_state = {
    .cr0 = CR0_PE | CR0_PG | CR0_WP, .cr3 = 0x1000, .cr4 = CR4_PAE, .efer = EFER_LME | EFER_LMA, .physical_bits = 48};

static enum walk_status go(struct memory *m, uint32_t flags, struct walk_result *result)
{
    const struct walk_memory memory = {.context = m, .load = load, .update = update};
    return walk(&long_state, &memory, 0x123, flags, result);
}

static void test_sets_bits_once(void **unused)
{
    struct memory m = fresh();
    struct walk_result r;

    (void)unused;
    assert_int_equal(go(&m, WALK_WRITE | WALK_SET_BITS, &r), WALK_OK);
    assert_int_equal(r.gpa, 0x5123);
    assert_int_equal(m.updates, 4);
    assert_int_equal(m.entry[0], 0x2027);
    assert_int_equal(m.entry[3], 0x5067);
    assert_true(r.dirty);
    assert_int_equal(go(&m, WALK_WRITE | WALK_SET_BITS, &r), WALK_OK);
    assert_int_equal(m.updates, 4);
}

static void test_no_bits_without_the_flag(void **unused)
{
    struct memory m = fresh();
    struct walk_result r;

    (void)unused;
    assert_int_equal(go(&m, WALK_WRITE, &r), WALK_OK);
    assert_int_equal(m.updates, 0);
    assert_false(r.dirty);
}

static void test_no_bits_when_it_faults(void **unused)
{
    struct memory m = fresh();
    struct walk_result r;

    (void)unused;
    m.entry[3] = 0x5005;
    assert_int_equal(go(&m, WALK_WRITE | WALK_SET_BITS, &r), WALK_PRIVILEGE);
    assert_int_equal(r.fault_error, PF_P | PF_W);
    assert_int_equal(m.updates, 0);
}

/* Somebody remaps the page between our load and our update: the walk starts again and sees the new entry. */
static void test_race_restarts(void **unused)
{
    (void)unused;
    for (unsigned at = 0; at < 4; at++) {
        struct memory m = fresh();
        struct walk_result r;
        m.race_at = at;
        m.intruder = m.entry[at] | PTE_A | PTE_D;
        if (at == 3)
            m.intruder = 0x8000 | 7;
        assert_int_equal(go(&m, WALK_WRITE | WALK_SET_BITS, &r), WALK_OK);
        assert_int_equal(r.gpa, at == 3 ? 0x8123 : 0x5123);
        assert_true((m.entry[3] & (PTE_A | PTE_D)) == (PTE_A | PTE_D));
    }
}

static void test_race_to_not_present_faults(void **unused)
{
    struct memory m = fresh();
    struct walk_result r;

    (void)unused;
    m.race_at = 2;
    m.intruder = 0;
    assert_int_equal(go(&m, WALK_READ | WALK_USER | WALK_SET_BITS, &r), WALK_NOT_PRESENT);
    assert_int_equal(r.fault_error, PF_U);
    assert_int_equal(m.entry[3], 0x5007);
}

static void test_table_statuses(void **unused)
{
    static const enum walk_status all[] = {WALK_TABLE_UNMAPPED, WALK_TABLE_NO_READ, WALK_TABLE_STOPPED};

    (void)unused;
    for (unsigned s = 0; s < 3; s++)
        for (gpa_t table = 0x1000; table < 0x5000; table += 0x1000) {
            struct memory m = fresh();
            struct walk_result r;
            m.fail_at = table;
            m.load_status = all[s];
            assert_int_equal(go(&m, WALK_READ, &r), all[s]);
            assert_int_equal(r.gpa, table);
            assert_int_equal(m.loads, table >> 12);
        }
}

static void test_update_statuses(void **unused)
{
    (void)unused;
    for (gpa_t table = 0x1000; table < 0x5000; table += 0x1000) {
        struct memory m = fresh();
        struct walk_result r;
        m.fail_at = table;
        m.update_status = WALK_TABLE_NO_WRITE;
        assert_int_equal(go(&m, WALK_READ | WALK_SET_BITS, &r), WALK_TABLE_NO_WRITE);
        assert_int_equal(r.gpa, table);
    }
}

static void test_cached_pdptes_are_not_read(void **unused)
{
    struct memory m = fresh();
    const struct walk_memory memory = {.context = &m, .load = load, .update = update};
    const uint64_t pdpte[4] = {0, 0x3001, 0, 0};
    const struct walk_state state = {.cr0 = CR0_PE | CR0_PG, .cr3 = 0xffe0, .cr4 = CR4_PAE, .pdpte = pdpte, .physical_bits = 48};
    struct walk_result r;

    (void)unused;
    assert_int_equal(walk(&state, &memory, 0x40000abc, WALK_READ, &r), WALK_OK);
    assert_int_equal(r.gpa, 0x5abc);
    assert_int_equal(m.loads, 2);
    assert_int_equal(walk(&state, &memory, 0x80000abc, WALK_READ, &r), WALK_NOT_PRESENT);
}

static void test_non_canonical(void **unused)
{
    struct memory m = fresh();
    const struct walk_memory memory = {.context = &m, .load = load, .update = update};
    struct walk_state five = long_state;
    struct walk_result r;

    (void)unused;
    assert_int_equal(walk(&long_state, &memory, 0x800000000000, WALK_READ, &r), WALK_NOT_CANONICAL);
    assert_int_equal(walk(&long_state, &memory, 0xffff7fffffffffff, WALK_READ, &r), WALK_NOT_CANONICAL);
    five.cr4 |= CR4_LA57;
    assert_int_equal(walk(&five, &memory, 0x100000000000000, WALK_READ, &r), WALK_NOT_CANONICAL);
    assert_int_equal(m.loads, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sets_bits_once),
        cmocka_unit_test(test_no_bits_without_the_flag),
        cmocka_unit_test(test_no_bits_when_it_faults),
        cmocka_unit_test(test_race_restarts),
        cmocka_unit_test(test_race_to_not_present_faults),
        cmocka_unit_test(test_table_statuses),
        cmocka_unit_test(test_update_statuses),
        cmocka_unit_test(test_cached_pdptes_are_not_read),
        cmocka_unit_test(test_non_canonical),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
