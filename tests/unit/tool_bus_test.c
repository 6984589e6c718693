/* The command's buses: who answers, what a wide access is cut into, what does not fit in. */
#include "tool_test.h"

#include "bus.h"

struct probe {
    char log[256];
};

static uint64_t probe_read(void *device, uint64_t offset, unsigned size)
{
    struct probe *probe = device;
    size_t used = strlen(probe->log);
    snprintf(probe->log + used, sizeof probe->log - used, "r%llu/%u ", (unsigned long long)offset, size);
    return 0x10 + offset;
}

static void probe_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct probe *probe = device;
    size_t used = strlen(probe->log);
    snprintf(probe->log + used, sizeof probe->log - used, "w%llu/%u=%llx ", (unsigned long long)offset, size,
             (unsigned long long)value);
}

static const struct bus_ops ops = {probe_read, probe_write};

static void test_dispatch(void **state)
{
    (void)state;
    struct bus bus = {.count = 0};
    struct probe low = {""}, high = {""};
    assert_int_equal(bus_add(&bus, &(struct bus_range){0x100, 8, &ops, &high, "high", 0}), 0);
    assert_int_equal(bus_add(&bus, &(struct bus_range){0x10, 4, &ops, &low, "low", 0}), 0);
    assert_int_equal(bus_read(&bus, 0x12, 1), 0x12);
    assert_int_equal(bus_read(&bus, 0x104, 4), 0x14);
    assert_string_equal(low.log, "r2/1 ");
    assert_string_equal(high.log, "r4/4 ");
    assert_int_equal(bus_read(&bus, 0x0f, 1), 0xff);
    assert_int_equal(bus_read(&bus, 0x14, 1), 0xff);
    assert_true(bus_read(&bus, 0x1000, 8) == UINT64_MAX);
}

static void test_access_across_a_border_goes_byte_by_byte(void **state)
{
    (void)state;
    struct bus bus = {.count = 0};
    struct probe probe = {""};
    bus_add(&bus, &(struct bus_range){0x10, 2, &ops, &probe, "two", 0});
    assert_int_equal(bus_read(&bus, 0x11, 4), 0xffffff11);
    bus_write(&bus, 0x0f, 2, 0xabcd);
    assert_string_equal(probe.log, "r1/1 w0/1=ab ");
}

static void test_narrow_device_gets_bytes(void **state)
{
    (void)state;
    struct bus bus = {.count = 0};
    struct probe probe = {""};
    bus_add(&bus, &(struct bus_range){0x20, 2, &ops, &probe, "bytes", 1});
    bus_write(&bus, 0x20, 2, 0x1234);
    assert_string_equal(probe.log, "w0/1=34 w1/1=12 ");
}

static void test_overlap_is_refused(void **state)
{
    (void)state;
    struct bus bus = {.count = 0};
    struct probe probe = {""};
    assert_int_equal(bus_add(&bus, &(struct bus_range){0x20, 4, &ops, &probe, "first", 0}), 0);
    expect_problem(bus_add(&bus, &(struct bus_range){0x23, 1, &ops, &probe, "second", 0}), "first");
    expect_problem(bus_add(&bus, &(struct bus_range){0x1f, 2, &ops, &probe, "second", 0}), "first");
    expect_problem(bus_add(&bus, &(struct bus_range){UINT64_MAX, 2, &ops, &probe, "wraps", 0}), "wraps");
    assert_false(bus_add_quietly(&bus, &(struct bus_range){0x22, 8, &ops, &probe, "third", 0}));
    assert_int_equal(bus.count, 1);
    bus_remove(&bus, 0x20, &probe);
    assert_int_equal(bus.count, 0);
    assert_true(bus_add_quietly(&bus, &(struct bus_range){0x22, 8, &ops, &probe, "third", 0}));
}

static void test_last_address(void **state)
{
    (void)state;
    struct bus bus = {.count = 0};
    struct probe probe = {""};
    bus_add(&bus, &(struct bus_range){UINT64_MAX - 3, 4, &ops, &probe, "top", 0});
    assert_int_equal(bus_read(&bus, UINT64_MAX, 1), 0x13);
    assert_int_equal(bus_read(&bus, UINT64_MAX - 4, 1), 0xff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dispatch),
        cmocka_unit_test(test_access_across_a_border_goes_byte_by_byte),
        cmocka_unit_test(test_narrow_device_gets_bytes),
        cmocka_unit_test(test_overlap_is_refused),
        cmocka_unit_test(test_last_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
