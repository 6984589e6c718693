/* The ACPI tables: checksums, pointers, contents, and the script by which firmware places them. */
#include "tool_test.h"

#include "acpi.h"
#include "acpi_loader.h"

#define PLACE UINT64_C(0xE0040)

static struct acpi_tables tables;

static uint8_t sum(const uint8_t *bytes, size_t count)
{
    uint8_t total = 0;
    for (size_t i = 0; i < count; i++)
        total = (uint8_t)(total + bytes[i]);
    return total;
}

/* A table by its address, after checking signature, bounds and checksum. */
static const uint8_t *table_at(uint64_t address, const char *signature)
{
    assert_in_range(address, PLACE, PLACE + tables.size - 8);
    const uint8_t *table = tables.bytes + (address - PLACE);
    assert_memory_equal(table, signature, 4);
    uint32_t length = get32(table + 4);
    assert_true(address - PLACE + length <= tables.size);
    if (strcmp(signature, "FACS") != 0)
        assert_int_equal(sum(table, length), 0);
    return table;
}

static void build(unsigned processors)
{
    const struct acpi_setup setup = {.processors = processors, .ioapic_id = 0};
    assert_int_equal(acpi_build(&tables, &setup), 0);
    acpi_place(&tables, PLACE);
}

static void test_every_table_can_be_reached(void **state)
{
    (void)state;
    build(2);
    assert_memory_equal(tables.rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(tables.rsdp, 20), 0);
    assert_int_equal(sum(tables.rsdp, ACPI_RSDP_BYTES), 0);
    const uint8_t *rsdt = table_at(get32(tables.rsdp + 16), "RSDT");
    const uint8_t *xsdt = table_at(get64(tables.rsdp + 24), "XSDT");
    assert_int_equal(get32(rsdt + 36), get64(xsdt + 36));
    assert_int_equal(get32(rsdt + 40), get64(xsdt + 44));
    const uint8_t *fadt = table_at(get64(xsdt + 36), "FACP");
    table_at(get64(xsdt + 44), "APIC");
    table_at(get32(fadt + 36), "FACS");
    assert_int_equal((get32(fadt + 36)) % 64, PLACE % 64);
    table_at(get32(fadt + 40), "DSDT");
    assert_int_equal(get64(fadt + 140), get32(fadt + 40));
    assert_int_equal(get32(fadt + 64), ACPI_PM1_CONTROL_PORT);
}

/* Walks the MADT entry by entry. */
static void count_entries(unsigned processors, unsigned counts[8])
{
    const uint8_t *xsdt = table_at(get64(tables.rsdp + 24), "XSDT");
    const uint8_t *madt = table_at(get64(xsdt + 44), "APIC");
    uint32_t length = get32(madt + 4), at = 44;
    memset(counts, 0, 8 * sizeof counts[0]);
    while (at < length) {
        assert_in_range(madt[at + 1], 6, length - at);
        assert_true(madt[at] < 8);
        if (madt[at] == 0)
            assert_int_equal(madt[at + 3], counts[0]);
        counts[madt[at]]++;
        at += madt[at + 1];
    }
    assert_int_equal(at, length);
    assert_int_equal(counts[0], processors);
}

static void test_processors(void **state)
{
    (void)state;
    unsigned counts[8];
    for (unsigned processors = 1; processors <= ACPI_MAX_PROCESSORS; processors += 13) {
        build(processors);
        count_entries(processors, counts);
        assert_int_equal(counts[1], 1);
        assert_int_equal(counts[2], 4);
    }
    build(ACPI_MAX_PROCESSORS);
    count_entries(ACPI_MAX_PROCESSORS, counts);
}

static void test_too_many_processors(void **state)
{
    (void)state;
    const struct acpi_setup none = {.processors = 0}, many = {.processors = ACPI_MAX_PROCESSORS + 1};
    expect_problem(acpi_build(&tables, &none), "--cpus");
    expect_problem(acpi_build(&tables, &many), "--cpus");
}

/* Carries out the script as firmware would and compares with our own placement. */
static void test_loader_script(void **state)
{
    (void)state;
    static struct acpi_tables unplaced;
    static struct acpi_loader_script script;
    const struct acpi_setup setup = {.processors = 3};
    build(3);
    assert_int_equal(acpi_build(&unplaced, &setup), 0);
    acpi_loader_write(&script, &unplaced);
    assert_int_equal(script.size % ACPI_LOADER_COMMAND_BYTES, 0);
    for (const uint8_t *at = script.bytes; at < script.bytes + script.size; at += ACPI_LOADER_COMMAND_BYTES) {
        uint8_t *file = strcmp((const char *)at + 4, ACPI_LOADER_RSDP_FILE) == 0 ? unplaced.rsdp : unplaced.bytes;
        const uint8_t *numbers = at + 4 + 56;
        switch (get32(at)) {
        case 1:
            break;
        case 2:
            assert_string_equal((const char *)numbers, ACPI_LOADER_TABLES_FILE);
            numbers += 56;
            if (numbers[4] == 8)
                put64(file + get32(numbers), get64(file + get32(numbers)) + PLACE);
            else
                put32(file + get32(numbers), get32(file + get32(numbers)) + (uint32_t)PLACE);
            break;
        case 3:
            file[get32(numbers)] = 0;
            file[get32(numbers)] = (uint8_t)-sum(file + get32(numbers + 4), get32(numbers + 8));
            break;
        default:
            fail_msg("command %u", get32(at));
        }
    }
    assert_memory_equal(unplaced.rsdp, tables.rsdp, ACPI_RSDP_BYTES);
    assert_memory_equal(unplaced.bytes, tables.bytes, tables.size);
}

/* The AML has to be well formed as far as lengths go: every object ends inside its parent. */
static void test_dsdt_lengths(void **state)
{
    (void)state;
    build(1);
    const uint8_t *dsdt = tables.bytes;
    assert_memory_equal(dsdt, "DSDT", 4);
    const uint8_t *scope = dsdt + 36;
    assert_int_equal(scope[0], 0x10);
    assert_int_equal(scope[1] >> 6, 2); /* a length of three bytes */
    uint32_t length = (scope[1] & 15u) | (uint32_t)scope[2] << 4 | (uint32_t)scope[3] << 12;
    assert_memory_equal(scope + 1 + length, "\x08\\_S5_", 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_table_can_be_reached),
        cmocka_unit_test(test_processors),
        cmocka_unit_test(test_too_many_processors),
        cmocka_unit_test(test_loader_script),
        cmocka_unit_test(test_dsdt_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
