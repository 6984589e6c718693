/*
 * The command itself, as a user starts it: exit statuses, the one line about bad input, small guests of a few
 * instructions on the soft engine, and the terminal. The first argument is the program.
 */
#include "tool_test.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>

static const char *program;
static char output[65536]; /* standard output and error of the last run */
static bool as_nobody;     /* runs are those of a user without rights */

/* Runs `openwhp ARGUMENTS` (words separated by |); returns the exit status, 1000 + signal if it was killed. */
static int run(const char *format, ...)
{
    char text[1024], *words[40] = {(char *)program};
    int count = 1, pipes[2], status;
    size_t used = 0;
    ssize_t got;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *word = strtok(text, "|"); word != NULL; word = strtok(NULL, "|"))
        words[count++] = word;
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        int nothing = open("/dev/null", O_RDONLY);
        dup2(nothing, 0), dup2(pipes[1], 1), dup2(pipes[1], 2);
        close(pipes[0]);
        alarm(100); /* whatever goes wrong, it ends */
        if (as_nobody && geteuid() == 0 && (setgroups(0, NULL) || setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
            _exit(98);
        execv(program, words);
        _exit(99);
    }
    close(pipes[1]);
    while ((got = read(pipes[0], output + used, sizeof output - 1 - used)) > 0)
        used += (size_t)got;
    output[used] = '\0';
    close(pipes[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void expect_output(const char *text)
{
    if (strstr(output, text) == NULL)
        fail_msg("no \"%s\" in: %s", text, output);
}

/* Exactly one line, which starts with the program's name and says this. */
static void expect_complaint(int status, const char *text)
{
    assert_int_equal(status, 1);
    assert_int_equal(strncmp(output, "openwhp: ", 9), 0);
    assert_ptr_equal(strchr(output, '\n'), output + strlen(output) - 1);
    expect_output(text);
}

static char image[64];

static int tear_down(void **state)
{
    (void)state;
    if (image[0] != '\0')
        unlink(image);
    image[0] = '\0';
    as_nobody = false;
    return 0;
}

/* Runs a real-mode guest of these bytes at 7C00. */
static int run_guest(const void *code, size_t size, const char *options)
{
    tear_down(NULL);
    strcpy(image, temporary_file(code, size));
    return run("run|--engine|soft|--memory|16M|--serial|none|--flat|%s@0x7c00|%s", image, options);
}
#define RUN_GUEST(code, options) run_guest(code, sizeof(code) - 1, options)

static void test_bad_input(void **state)
{
    (void)state;
    expect_complaint(run(""), "give run, info or help");
    expect_complaint(run("walk"), "walk");
    expect_complaint(run("run"), "nothing to boot");
    expect_complaint(run("run|--kernel"), "--kernel");
    expect_complaint(run("run|--kernel|/nonexistent"), "/nonexistent");
    expect_complaint(run("run|--kernel|%s", "/dev/null"), "/dev/null");
    expect_complaint(run("run|--kernel|/|--memory|64M"), "no regular file");
    expect_complaint(run("run|--bios|%s", program), "bios");
    expect_complaint(run("run|--flat|%s@0xfffffffffffff000", program), "not inside the RAM");
    expect_complaint(run("run|--flat|%s@0x1ff000|--memory|2M", program), "not inside the RAM");
    strcpy(image, temporary_file("\xf4", 1));
    expect_complaint(run("run|--flat|%s@0x7c00|--memory|1025G", image), "--memory");
    expect_complaint(run("run|--flat|%s@0x7c00|--cpus|1000", image), "--cpus");
    expect_complaint(run("run|--flat|%s@0x7c00|--disk|/nonexistent", image), "/nonexistent");
    expect_complaint(run("run|--flat|%s@0x7c00|--disk|%s", image, image), "no sector");
    expect_complaint(run("run|--flat|%s@0x7c00|--serial|file:/nonexistent/file", image), "/nonexistent/file");
    expect_complaint(run("run|--kernel|%s", image), "too short");
}

static void test_info_and_help(void **state)
{
    (void)state;
    assert_int_equal(run("info"), 0);
    expect_output("soft   can be used");
    expect_output("dirty page tracking");
    assert_int_equal(run("help"), 0);
    expect_output("--report");
}

/* Asked for by name and not usable: a reason in one line, never another engine. */
static void test_engine_that_cannot_be_used(void **state)
{
    (void)state;
    strcpy(image, temporary_file("\xf4", 1));
    chmod(image, 0644);
    as_nobody = true;
    const int status = run("info");
    const bool is_usable = strstr(output, "kvm    can be used") != NULL;
    if (status >= 98 || is_usable) {
        print_message("SKIPPED: %s\n", is_usable ? "everybody may use /dev/kvm here" : "a user without rights cannot start the program");
        skip();
    }
    assert_int_equal(status, 0);
    const char *reason = strstr(output, "there is no /dev/kvm") ? "there is no /dev/kvm" : "no permission to open /dev/kvm";
    char text[100];
    snprintf(text, sizeof text, "kvm    cannot be used: %s", reason);
    expect_output(text);
    snprintf(text, sizeof text, "auto   takes soft: %s", reason);
    expect_output(text);
    expect_complaint(run("run|--engine|kvm|--memory|16M|--flat|%s@0x7c00", image), reason);
    setenv("OPENWHP_ENGINE", "kvm", 1);
    expect_complaint(run("run|--memory|16M|--flat|%s@0x7c00", image), reason);
    setenv("OPENWHP_ENGINE", "warp", 1);
    as_nobody = false;
    expect_complaint(run("run|--memory|16M|--flat|%s@0x7c00", image), "OPENWHP_ENGINE=warp: no such engine");
    assert_int_equal(run("info"), 0);
    expect_output("auto   cannot be used: ");
    expect_output("OPENWHP_ENGINE=warp: no such engine");
    unsetenv("OPENWHP_ENGINE");
}

static void test_debug_exit(void **state)
{
    (void)state;
    /* mov al, 10h; out F4, al; hlt */
    assert_int_equal(RUN_GUEST("\xb0\x10\xe6\xf4\xf4", "--timeout|60"), 0x21);
    assert_string_equal(output, "");
}

static void test_power_off(void **state)
{
    (void)state;
    /* mov dx, 604h; mov ax, 3400h; out dx, ax; hlt */
    assert_int_equal(RUN_GUEST("\xba\x04\x06\xb8\x00\x34\xef\xf4", "--timeout|60"), 0);
}

static void test_timeout(void **state)
{
    (void)state;
    assert_int_equal(RUN_GUEST("\xfa\xf4\xeb\xfd", "--timeout|0.2"), 124); /* cli; hlt */
    expect_output("--timeout");
    assert_int_equal(RUN_GUEST("\xeb\xfe", "--timeout|0.2|--cpus|4"), 124); /* jmp $ */
}

static void test_crash(void **state)
{
    (void)state;
    /* cli; lidt [7d00h], a limit of 0; int3 */
    assert_int_equal(RUN_GUEST("\xfa\x0f\x01\x1e\x00\x7d\xcc\xf4", "--timeout|60"), 2);
    expect_output("triple fault");
}

static void test_jump_into_nothing(void **state)
{
    (void)state;
    /* jmp A000:0000, the VGA hole: bytes, but no memory to execute */
    assert_int_equal(RUN_GUEST("\xea\x00\x00\x00\xa0", "--timeout|60"), 2);
    expect_output("0xa0000");
}

/* mov al, 'R'; out E9, al; mov al, FEh; out 64h, al; hlt */
static const char resetting[] = "\xb0\x52\xe6\xe9\xb0\xfe\xe6\x64\xf4";

static void test_reset(void **state)
{
    (void)state;
    assert_int_equal(RUN_GUEST(resetting, "--debugcon|stdio|--no-reboot|--timeout|60"), 0);
    assert_string_equal(output, "R");
    assert_int_equal(RUN_GUEST(resetting, "--debugcon|stdio|--timeout|2"), 124);
    expect_output("RR");
}

/*
 * Vector 8 to a handler; the master 8259 and counter 0 of the 8254 (1 ms) programmed; hlt until five interrupts
 * have come (or more: the clock does not wait); 5 to F4.
 */
static void test_timer_interrupts(void **state)
{
    (void)state;
    static const char code[] =
        "\xfa\xc7\x06\x20\x00\x3d\x7c\xc7\x06\x22\x00\x00\x00\xb0\x11\xe6\x20\xb0\x08\xe6\x21\xb0\x04\xe6"
        "\x21\xb0\x01\xe6\x21\xb0\xfe\xe6\x21\xb0\x34\xe6\x43\xb8\xa9\x04\xe6\x40\x88\xe0\xe6\x40\xb9\x00"
        "\x00\xfb\xf4\x83\xf9\x05\x72\xfa\xb0\x05\xe6\xf4\xf4\x41\xb0\x20\xe6\x20\xcf";
    assert_int_equal(RUN_GUEST(code, "--timeout|60|--report|exits"), 11);
    expect_output("interrupt window");
}

/* rep outsb of "strings" to E9, stosw of it to B8000, rep movsw of that to the next row; power off. */
static void test_strings_and_screen(void **state)
{
    (void)state;
    static const char code[] =
        "\xfc\xbe\x38\x7c\xba\xe9\x00\xb9\x07\x00\xf3\x6e\xb8\x00\xb8\x8e\xc0\x31\xff\xbe\x38\x7c\xb9\x07"
        "\x00\xac\xb4\x07\xab\xe2\xfa\x8e\xd8\xb8\x00\xb8\x8e\xd8\x31\xf6\xbf\xa0\x00\xb9\x07\x00\xf3\xa5"
        "\xba\x04\x06\xb8\x00\x34\xef\xf4\x73\x74\x72\x69\x6e\x67\x73";
    assert_int_equal(RUN_GUEST(code, "--timeout|60|--debugcon|stdio|--report|map,dirty"), 0);
    assert_int_equal(strncmp(output, "strings\n", 8), 0);
    expect_output("VGA memory");
    const char *row = strstr(output, "|strings ");
    assert_non_null(row);
    assert_non_null(strstr(row + 1, "|strings "));
}

/* mov word [5000h], 1; mov byte [9000h], 1; power off */
static void test_dirty_report(void **state)
{
    (void)state;
    static const char code[] = "\xc7\x06\x00\x50\x01\x00\xc6\x06\x00\x90\x01\xba\x04\x06\xb8\x00\x34\xef\xf4";
    assert_int_equal(RUN_GUEST(code, "--timeout|60|--report|dirty,json"), 0);
    expect_output("\"dirty\":[{\"gpa\":0,\"size\":655360,\"dirty_pages\":2}");
    assert_int_equal(RUN_GUEST(code, "--timeout|60|--report|dirty"), 0);
    expect_output("2 of 160");
}

static void test_serial_to_a_file(void **state)
{
    (void)state;
    char log[64], text[8] = "";
    strcpy(log, temporary_file("old content", 11));
    strcpy(image, temporary_file("\xba\xf8\x03\xb0\x58\xee\xb0\x01\xe6\xf4\xf4", 11)); /* 'X' to 3F8; 1 to F4 */
    assert_int_equal(run("run|--flat|%s@0x7c00|--memory|16M|--serial|file:%s|--timeout|60", image, log), 3);
    FILE *file = fopen(log, "r");
    assert_non_null(file);
    assert_int_equal(fread(text, 1, sizeof text, file), 1);
    assert_int_equal(text[0], 'X');
    fclose(file);
    unlink(log);
}

/* ---- The terminal ---- */

/* Reads from the terminal until the text has come. */
static void expect_on(int terminal, const char *text)
{
    size_t used = 0;
    struct pollfd file = {.fd = terminal, .events = POLLIN};
    for (unsigned i = 0; i < 600; i++) {
        output[used] = '\0';
        if (strstr(output, text) != NULL)
            return;
        if (poll(&file, 1, 100) > 0) {
            ssize_t got = read(terminal, output + used, sizeof output - 1 - used);
            used += got > 0 ? (size_t)got : 0;
        }
    }
    fail_msg("no \"%s\" on the terminal: %s", text, output);
}

/* Starts the machine with a guest that echoes the serial port, on a terminal of its own. */
static pid_t start_on_terminal(int *terminal)
{
    /* '>' out; then: wait for LSR bit 0, in 3F8, out 3F8 */
    static const char echo[] = "\xba\xf8\x03\xb0\x3e\xee\xba\xfd\x03\xec\xa8\x01\x74\xf8\xba\xf8\x03\xec\xee\xeb\xf1";
    char flat[80];
    strcpy(image, temporary_file(echo, sizeof echo - 1));
    snprintf(flat, sizeof flat, "%s@0x7c00", image);
    pid_t child = forkpty(terminal, NULL, NULL, NULL);
    if (child == 0) {
        alarm(100);
        signal(SIGHUP, SIG_DFL); /* whoever runs the tests may have it ignored, and what is ignored stays so */
        execl(program, program, "run", "--engine", "soft", "--memory", "16M", "--timeout", "60", "--flat", flat,
              NULL);
        _exit(99);
    }
    assert_true(child > 0);
    expect_on(*terminal, ">");
    return child;
}

/* The flags of the terminal that raw mode changes; the master end shows them. */
static bool is_raw(int terminal)
{
    struct termios settings;
    assert_int_equal(tcgetattr(terminal, &settings), 0);
    return !(settings.c_lflag & (ICANON | ECHO));
}

static void press(int terminal, const char *keys)
{
    assert_int_equal(write(terminal, keys, strlen(keys)), (ssize_t)strlen(keys));
}

static int end_of(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void test_terminal_keys(void **state)
{
    (void)state;
    int terminal;
    pid_t child = start_on_terminal(&terminal);
    assert_true(is_raw(terminal));
    press(terminal, "abc\x03");
    expect_on(terminal, "abc\x03"); /* Ctrl-C is the guest's */
    press(terminal, "\x01h");
    expect_on(terminal, "switch the machine off");
    press(terminal, "\x01\x01!");
    expect_on(terminal, "\x01!");
    press(terminal, "\x01x");
    assert_int_equal(end_of(child), 0);
    assert_false(is_raw(terminal));
    close(terminal);
}

static void test_terminal_after_signals(void **state)
{
    (void)state;
    const int signals[] = {SIGTERM, SIGHUP, SIGSEGV, SIGABRT};
    for (unsigned i = 0; i < sizeof signals / sizeof signals[0]; i++) {
#ifdef __SANITIZE_ADDRESS__
        if (signals[i] == SIGSEGV) {
            print_message("[  SKIP    ] SIGSEGV: AddressSanitizer takes it for itself\n");
            continue;
        }
#endif
        int terminal;
        pid_t child = start_on_terminal(&terminal);
        assert_true(is_raw(terminal));
        kill(child, signals[i]);
        assert_int_equal(end_of(child), 1000 + signals[i]);
        assert_false(is_raw(terminal));
        close(terminal);
        tear_down(NULL);
    }
}

int main(int count, char **arguments)
{
#define CASE(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_bad_input),
        CASE(test_info_and_help),
        CASE(test_engine_that_cannot_be_used),
        CASE(test_debug_exit),
        CASE(test_power_off),
        CASE(test_timeout),
        CASE(test_crash),
        CASE(test_jump_into_nothing),
        CASE(test_reset),
        CASE(test_timer_interrupts),
        CASE(test_strings_and_screen),
        CASE(test_dirty_report),
        CASE(test_serial_to_a_file),
        CASE(test_terminal_keys),
        CASE(test_terminal_after_signals),
    };
    if (count != 2)
        return 2;
    program = arguments[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
