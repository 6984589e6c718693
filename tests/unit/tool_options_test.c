/* The command line of `openwhp run`: what is taken, and the one line about what is not. */
#include "tool_test.h"

#include "guest_memory.h"
#include "options.h"

static struct options options;

static int parse(const char *text)
{
    static char copy[512];
    char *arguments[32];
    int count = 0;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *at = strtok(copy, "|"); at != NULL; at = strtok(NULL, "|"))
        arguments[count++] = at;
    return options_parse(&options, count, arguments);
}

static int tear_down(void **state)
{
    (void)state;
    options_release(&options);
    problem_clear();
    return 0;
}

static void test_sizes(void **state)
{
    (void)state;
    const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0}, {"4096", 4096}, {"1K", 1024}, {"512m", 512 * MIB}, {"3G", 3 * GIB}, {"0x10K", 16384}};
    const char *bad[] = {"", "K", "12Q", "-1", " 1", "1 K", "99999999999999999999", "18446744073709551615K",
                         "1KK", "0x", "1234567890123456789012345678901234567890"};
    uint64_t bytes;
    for (unsigned i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(parse_size(good[i].text, &bytes));
        assert_int_equal(bytes, good[i].bytes);
    }
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(parse_size(bad[i], &bytes));
}

static void test_everything(void **state)
{
    (void)state;
    assert_int_equal(parse("--engine|soft|--memory|1G|--cpus|3|--kernel|vmlinuz|--initrd|a,b with args,c"
                           "|--append|console=ttyS0|--disk|d.img|--serial|file:s.log|--debugcon|stdio"
                           "|--timeout|1.5|--report|map,exits,dirty,json|--no-reboot"), 0);
    assert_string_equal(options.engine, "soft");
    assert_int_equal(options.memory, GIB);
    assert_int_equal(options.processors, 3);
    assert_int_equal(options.module_count, 3);
    assert_string_equal(options.modules[1].path, "b");
    assert_string_equal(options.modules[1].arguments, "with args");
    assert_string_equal(options.modules[2].arguments, "");
    assert_string_equal(options.serial.path, "s.log");
    assert_int_equal(options.debug_console.kind, OUTPUT_STDIO);
    assert_int_equal(options.timeout, 1500000000);
    assert_true(options.report_map && options.report_exits && options.report_dirty && options.report_json);
    assert_false(options.reboot);
}

static void test_defaults_and_equals_form(void **state)
{
    (void)state;
    assert_int_equal(parse("--bios=rom.bin"), 0);
    assert_string_equal(options.bios, "rom.bin");
    assert_null(options.engine);
    assert_int_equal(options.processors, 1);
    assert_int_equal(options.serial.kind, OUTPUT_STDIO);
    assert_int_equal(options.debug_console.kind, OUTPUT_NONE);
    assert_true(options.reboot);
}

static void test_flat(void **state)
{
    (void)state;
    assert_int_equal(parse("--flat|a@b@0x7c00"), 0);
    assert_string_equal(options.flat.path, "a@b");
    assert_int_equal(options.flat.gpa, 0x7c00);
    assert_int_equal(options.flat.entry, 0x7c00);
    options_release(&options);
    assert_int_equal(parse("--flat|x@0x100000:0x100010"), 0);
    assert_int_equal(options.flat.entry, 0x100010);
}

static void test_bad(void **state)
{
    (void)state;
    const struct {
        const char *text, *says;
    } bad[] = {
        {"--frobnicate", "unknown option"},
        {"kernel", "unknown option"},
        {"--kernel", "give it a value"},
        {"--bios|b|--memory|1M", "2M to 1024G"},
        {"--bios|b|--memory|2000G", "2M to 1024G"},
        {"--bios|b|--memory|lots", "no memory size"},
        {"--bios|b|--cpus|0", "1 to 240"},
        {"--bios|b|--cpus|241", "1 to 240"},
        {"--bios|b|--cpus|two", "1 to 240"},
        {"--bios|b|--engine|warp", "soft, kvm or auto"},
        {"--bios|b|--serial|tcp", "cannot go to"},
        {"--bios|b|--serial|file:", "cannot go to"},
        {"--bios|b|--debugcon|none", "cannot go to"},
        {"--bios|b|--timeout|0", "no time"},
        {"--bios|b|--timeout|inf", "no time"},
        {"--bios|b|--timeout|5x", "no time"},
        {"--bios|b|--report|map,frob", "no report"},
        {"--bios|b|--report|map,", "no report"},
        {"--flat|file", "FILE@GPA"},
        {"--flat|@0", "FILE@GPA"},
        {"--flat|f@x", "no such address"},
        {"--flat|f@0:", "no such address"},
        {"--flat|f@0:zz", "no such address"},
        {"--bios|b|--kernel|k", "only one"},
        {"--memory|64M", "nothing to boot"},
        {"--bios|b|--initrd|i", "give --kernel"},
        {"--bios|b|--append|a", "give --kernel"},
        {"--kernel|k|--initrd|a,,b", "empty file name"},
        {"--kernel|k|--initrd|a,", "empty file name"},
    };
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        expect_problem(parse(bad[i].text), bad[i].says);
        options_release(&options);
    }
}

static void test_too_many_modules(void **state)
{
    (void)state;
    char list[256] = "--kernel|k|--initrd|m";
    for (unsigned i = 0; i < MAX_MODULES; i++)
        strcat(list, ",m");
    expect_problem(parse(list), "more than 32");
}

int main(void)
{
#define CASE(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_sizes), CASE(test_everything), CASE(test_defaults_and_equals_form),
        CASE(test_flat),  CASE(test_bad),        CASE(test_too_many_modules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
