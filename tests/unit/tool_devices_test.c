/* The small devices of the command's machine, and its memory, power and terminal. */
#include "tool_test.h"

#include "console.h"
#include "debug_ports.h"
#include "fw_cfg.h"
#include "i8042.h"
#include "ioapic.h"
#include "pci.h"
#include "serial16550.h"
#include "timers.h"
#include "vga_text.h"

static struct bus ports, mmio;
static struct guest_memory memory;
static unsigned resets, cancels;
static char sent[64];
static unsigned messages;
static struct ioapic ioapic;
static struct irq_router router;
static struct interrupt_sink sink;

static void out(uint16_t port, uint8_t value) { bus_write(&ports, port, 1, value); }

static uint8_t in(uint16_t port) { return (uint8_t)bus_read(&ports, port, 1); }

static void on_message(void *context, const struct interrupt_message *message)
{
    (void)context;
    (void)message;
    messages++;
}

static void on_output(void *context, bool asserted)
{
    (void)context;
    (void)asserted;
}

static void on_reset(void *context)
{
    (void)context;
    resets++;
}

static void on_cancel(void *context)
{
    (void)context;
    cancels++;
}

static void on_byte(void *context, uint8_t byte)
{
    (void)context;
    size_t used = strlen(sent);
    if (used + 1 < sizeof sent)
        sent[used] = (char)byte;
}

static int set_up(void **state)
{
    (void)state;
    memset(&ports, 0, sizeof ports);
    memset(&mmio, 0, sizeof mmio);
    memset(sent, 0, sizeof sent);
    resets = cancels = messages = 0;
    sink = (struct interrupt_sink){on_message, on_output, NULL};
    ioapic_init(&ioapic, 0, &sink);
    ioapic.entries[4] = 0x34;
    ioapic.entries[1] = 0x31;
    router = (struct irq_router){.ioapic = &ioapic};
    return guest_memory_create(&memory, 16 * MIB);
}

static int tear_down(void **state)
{
    (void)state;
    guest_memory_destroy(&memory);
    problem_clear();
    return 0;
}

static struct serial16550 serial;

static void plug_serial(void)
{
    serial16550_init(&serial, &router);
    serial.transmit = on_byte;
    assert_int_equal(serial16550_attach(&serial, &ports), 0);
}

static void test_serial_output(void **state)
{
    (void)state;
    plug_serial();
    assert_int_equal(in(0x3FD) & 0x60, 0x60);
    out(0x3F8, 'h'), out(0x3F8, 'i');
    assert_string_equal(sent, "hi");
    out(0x3FB, 0x80);
    out(0x3F8, 1), out(0x3F9, 0);
    assert_int_equal(in(0x3F8), 1);
    out(0x3FB, 0x03);
    assert_string_equal(sent, "hi");
    out(0x3FF, 0xA5);
    assert_int_equal(in(0x3FF), 0xA5);
}

static void test_serial_transmit_interrupt(void **state)
{
    (void)state;
    plug_serial();
    assert_int_equal(in(0x3FA) & 0x0f, 0x01);
    out(0x3F9, 0x02); /* allowed while it is empty: an interrupt */
    assert_int_equal(messages, 1);
    assert_int_equal(in(0x3FA) & 0x0f, 0x02);
    assert_int_equal(in(0x3FA) & 0x0f, 0x01);
    out(0x3F8, 'x');
    assert_int_equal(messages, 2);
    out(0x3FC, 0x00); /* OUT2 off: no line */
    assert_false(serial.irq.raised);
}

static void test_serial_input(void **state)
{
    (void)state;
    plug_serial();
    out(0x3F9, 0x01);
    serial16550_receive(&serial, (const uint8_t *)"ab", 2);
    assert_int_equal(messages, 1);
    assert_int_equal(in(0x3FD) & 1, 1);
    assert_int_equal(in(0x3FA) & 0x0f, 0x04);
    assert_int_equal(in(0x3F8), 'a');
    assert_int_equal(in(0x3F8), 'b');
    assert_int_equal(in(0x3FD) & 1, 0);
    assert_int_equal(in(0x3F8), 0);
    static uint8_t many[SERIAL_QUEUE + 10];
    serial16550_receive(&serial, many, sizeof many);
    assert_int_equal(serial16550_room(&serial), 0);
}

static void test_serial_input_waits_for_request_to_send(void **state)
{
    (void)state;
    plug_serial();
    out(0x3FC, 0x08);
    serial16550_receive(&serial, (const uint8_t *)"keep", 4);
    assert_int_equal(in(0x3FD) & 1, 0);
    out(0x3FA, 0x07); /* clears the chip: what has not arrived stays */
    (void)in(0x3F8);
    out(0x3FC, 0x0B);
    assert_int_equal(in(0x3F8), 'k');
    out(0x3FA, 0x07); /* now it is lost */
    assert_int_equal(in(0x3FD) & 1, 0);
}

static void test_serial_loop_back(void **state)
{
    (void)state;
    plug_serial();
    out(0x3FC, 0x1A);
    assert_int_equal(in(0x3FE) & 0xf0, 0x90); /* what Linux looks for */
    out(0x3F8, 0x77);
    assert_int_equal(in(0x3F8), 0x77);
    assert_string_equal(sent, "");
}

static void test_keyboard_controller(void **state)
{
    (void)state;
    struct i8042 controller;
    i8042_init(&controller, &router, on_reset, NULL);
    assert_int_equal(i8042_attach(&controller, &ports), 0);
    out(0x64, 0xAA);
    assert_int_equal(in(0x64) & 1, 1);
    assert_int_equal(in(0x60), 0x55);
    assert_int_equal(in(0x64) & 1, 0);
    out(0x64, 0x60), out(0x60, 0x65);
    out(0x64, 0x20);
    assert_int_equal(in(0x60), 0x65);
    out(0x60, 0xFF);
    assert_int_equal(in(0x60), 0xFA);
    assert_int_equal(in(0x60), 0xAA);
    out(0x60, 0xF2);
    assert_int_equal(in(0x60), 0xFA);
    assert_int_equal(in(0x60), 0xAB);
    assert_int_equal(in(0x60), 0x41);
    assert_true(messages >= 5);
    out(0x64, 0xD1), out(0x60, 0xDF);
    assert_int_equal(in(0x92) & 2, 2);
    assert_int_equal(resets, 0);
    out(0x64, 0xFE);
    assert_int_equal(resets, 1);
    out(0x92, 0x03);
    assert_int_equal(resets, 2);
    for (unsigned value = 0; value < 256; value++) { /* anything, in any order */
        out(0x64, (uint8_t)value);
        out(0x60, (uint8_t)(value * 7));
    }
}

static void test_debug_ports(void **state)
{
    (void)state;
    struct power power;
    struct debug_console console = {on_byte, NULL};
    power_init(&power);
    power.cancel = on_cancel;
    assert_int_equal(in(0xE9), 0xff);
    assert_int_equal(debug_console_attach(&console, &ports), 0);
    assert_int_equal(debug_exit_attach(&power, &ports), 0);
    assert_int_equal(in(0xE9), 0xE9);
    out(0xE9, 'o'), out(0x402, 'k');
    assert_string_equal(sent, "ok");
    bus_write(&ports, 0xF4, 4, 0x10);
    assert_int_equal(power_exit_status(&power), 0x21);
    assert_int_equal(cancels, 1);
    power_stop(&power, STOP_TIMEOUT); /* the first reason counts */
    assert_int_equal(power_exit_status(&power), 0x21);
    power_fini(&power);
}

static void test_power(void **state)
{
    (void)state;
    struct power power;
    power_init(&power);
    power_wait(&power, timers_host_clock() + 1000000);
    assert_int_equal(power_exit_status(&power), EXIT_TIMEOUT);
    power_wait(&power, 0);
    power_fini(&power);
    power_init(&power);
    power_fail(&power, STOP_GUEST_CRASH, "%s", "what happened");
    assert_string_equal(power.text, "what happened");
    assert_int_equal(power_exit_status(&power), EXIT_GUEST_CRASH);
    power_fini(&power);
}

static void test_text_screen(void **state)
{
    (void)state;
    static struct vga_text vga;
    char text[VGA_COLUMNS + 1];
    vga_text_init(&vga);
    assert_int_equal(vga_text_attach(&vga, &ports, &mmio), 0);
    assert_int_equal(vga_text_used_rows(&vga), 0);
    bus_write(&mmio, 0xB8000 + 160, 4, 0x07690748); /* "Hi" in the second row */
    assert_int_equal(vga_text_used_rows(&vga), 2);
    vga_text_row(&vga, 1, text);
    assert_string_equal(text, "Hi");
    out(0x3D4, 0x0D), out(0x3D5, 80); /* scrolled by a row */
    vga_text_row(&vga, 0, text);
    assert_string_equal(text, "Hi");
    out(0x3D4, 0x0C), out(0x3D5, 0xff); /* a start beyond the memory */
    for (unsigned row = 0; row < VGA_ROWS; row++)
        vga_text_row(&vga, row, text);
    assert_int_not_equal(in(0x3DA), in(0x3DA));
    assert_true(bus_read(&mmio, 0xBFFF8, 8) == 0);
}

static void test_pci(void **state)
{
    (void)state;
    struct pci_bus pci;
    bool readable, writable;
    pci_init(&pci, on_reset, on_reset, NULL);
    assert_int_equal(pci_attach(&pci, &ports), 0);
    bus_write(&ports, 0xCF8, 4, 0x80000000);
    assert_int_equal(bus_read(&ports, 0xCF8, 4), 0x80000000);
    assert_int_equal(bus_read(&ports, 0xCFC, 4), 0x12378086);
    assert_int_equal(bus_read(&ports, 0xCFE, 2), 0x1237);
    bus_write(&ports, 0xCFC, 4, 0); /* read-only */
    assert_int_equal(bus_read(&ports, 0xCFC, 4), 0x12378086);
    pci_shadow_state(&pci, 12, &readable, &writable);
    assert_true(!readable && !writable);
    bus_write(&ports, 0xCF8, 4, 0x80000058);
    bus_write(&ports, 0xCFD, 1, 0x30); /* PAM0: F0000-FFFFF */
    assert_int_equal(resets, 1);
    for (unsigned piece = 12; piece < 16; piece++) {
        pci_shadow_state(&pci, piece, &readable, &writable);
        assert_true(readable && writable);
    }
    bus_write(&ports, 0xCFE, 1, 0x12); /* PAM1: C0000 stores only, C4000 reads only */
    pci_shadow_state(&pci, 0, &readable, &writable);
    assert_true(!readable && writable);
    pci_shadow_state(&pci, 1, &readable, &writable);
    assert_true(readable && !writable);
    pci_shadow_state(&pci, 11, &readable, &writable);
    assert_true(!readable && !writable);
    const uint32_t nowhere[] = {0x00000000, 0x80010000, 0x80000100, 0x80004000, 0x8000F800};
    for (unsigned i = 0; i < sizeof nowhere / sizeof nowhere[0]; i++) {
        bus_write(&ports, 0xCF8, 4, nowhere[i]);
        assert_int_equal(bus_read(&ports, 0xCFC, 4), 0xffffffff);
        bus_write(&ports, 0xCFC, 4, 0x12345678);
    }
    resets = 0;
    out(0xCF9, 0x02);
    assert_int_equal(resets, 0);
    out(0xCF9, 0x06);
    assert_int_equal(resets, 1);
}

static void test_firmware_configuration(void **state)
{
    (void)state;
    static struct acpi_tables tables;
    struct fw_cfg config;
    const struct acpi_setup setup = {.processors = 1};
    assert_int_equal(acpi_build(&tables, &setup), 0);
    fw_cfg_init(&config, &memory);
    assert_int_equal(fw_cfg_attach(&config, &ports), 0);
    assert_int_equal(fw_cfg_fill(&config, &tables, 1), 0);
    bus_write(&ports, 0x510, 2, 0);
    assert_int_equal(in(0x511), 'Q');
    assert_int_equal(in(0x511), 'E');
    bus_write(&ports, 0x510, 2, 0x19);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(in(0x511), 0);
    assert_int_equal(in(0x511), 4); /* files */
    for (unsigned i = 0; i < 10000; i++) /* beyond the end */
        (void)in(0x511);
    assert_int_equal(in(0x511), 0);
    /* By DMA: select 0 and read four bytes to 0x2000; the block is at 0x1000. */
    put32(memory.host + 0x1000, __builtin_bswap32(0x0A));
    put32(memory.host + 0x1004, __builtin_bswap32(4));
    put64(memory.host + 0x1008, __builtin_bswap64(0x2000));
    bus_write(&ports, 0x514, 4, 0);
    bus_write(&ports, 0x518, 4, __builtin_bswap32(0x1000));
    assert_memory_equal(memory.host + 0x2000, "QEMU", 4);
    assert_int_equal(get32(memory.host + 0x1000), 0);
    put32(memory.host + 0x1000, __builtin_bswap32(0x0A));
    put32(memory.host + 0x1004, UINT32_MAX); /* more than there is memory */
    bus_write(&ports, 0x518, 4, __builtin_bswap32(0x1000));
    assert_int_equal(get32(memory.host + 0x1000), __builtin_bswap32(1));
    bus_write(&ports, 0x514, 4, UINT32_MAX); /* a block that is nowhere */
    bus_write(&ports, 0x518, 4, UINT32_MAX);
    fw_cfg_fini(&config);
}

static void test_guest_memory(void **state)
{
    (void)state;
    assert_non_null(guest_memory_at(&memory, 0x9ffff, 1, true));
    assert_null(guest_memory_at(&memory, 0x9ffff, 2, true));
    assert_null(guest_memory_at(&memory, 0xF0000, 1, false));
    memory.shadow_readable[12] = true;
    assert_non_null(guest_memory_at(&memory, 0xF0000, 0x4000, false));
    assert_null(guest_memory_at(&memory, 0xF0000, 0x4001, false));
    assert_null(guest_memory_at(&memory, 0xF0000, 1, true));
    for (unsigned piece = 13; piece < 16; piece++)
        memory.shadow_readable[piece] = true;
    assert_non_null(guest_memory_at(&memory, 0xF0000, 0x20000, false));
    assert_non_null(guest_memory_at(&memory, 16 * MIB - 1, 1, true));
    assert_null(guest_memory_at(&memory, 16 * MIB, 1, true));
    assert_null(guest_memory_at(&memory, 16 * MIB - 1, 2, true));
    assert_null(guest_memory_at(&memory, 4 * GIB, 1, true));
    assert_null(guest_memory_at(&memory, UINT64_MAX, 2, true));
    assert_null(guest_memory_at(&memory, 1, UINT64_MAX, true));
    struct guest_memory other;
    expect_problem(guest_memory_create(&other, 0), "--memory");
    expect_problem(guest_memory_create(&other, UINT64_MAX), "--memory");
    assert_int_equal(guest_memory_create(&other, 5 * GIB), 0);
    assert_int_equal(other.low_end, 3 * GIB);
    assert_ptr_equal(guest_memory_at(&other, 4 * GIB, 2 * GIB, true), other.host + 3 * GIB);
    assert_null(guest_memory_at(&other, 3 * GIB, 1, true));
    guest_memory_destroy(&other);
}

static void test_escape_keys(void **state)
{
    (void)state;
    bool escape = false;
    assert_int_equal(console_filter(&escape, 'a'), CONSOLE_PASS);
    assert_int_equal(console_filter(&escape, 1), CONSOLE_SWALLOW);
    assert_int_equal(console_filter(&escape, 1), CONSOLE_PASS);
    assert_int_equal(console_filter(&escape, 'x'), CONSOLE_PASS);
    assert_int_equal(console_filter(&escape, 1), CONSOLE_SWALLOW);
    assert_int_equal(console_filter(&escape, 'h'), CONSOLE_HELP);
    assert_int_equal(console_filter(&escape, 1), CONSOLE_SWALLOW);
    assert_int_equal(console_filter(&escape, 'q'), CONSOLE_SWALLOW);
    assert_int_equal(console_filter(&escape, 1), CONSOLE_SWALLOW);
    assert_int_equal(console_filter(&escape, 'x'), CONSOLE_QUIT);
}

static unsigned fired;

static void on_fire(void *context)
{
    (void)context;
    __atomic_fetch_add(&fired, 1, __ATOMIC_SEQ_CST);
}

static void test_timer_thread(void **state)
{
    (void)state;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct timers timers;
    struct timer timer = {.fire = on_fire}, later = {.fire = on_fire}, never = {.fire = on_fire};
    fired = 0;
    timers_init(&timers, &lock);
    assert_int_equal(timers_start(&timers), 0);
    pthread_mutex_lock(&lock);
    timers_arm(&timers, &never, UINT64_MAX);
    timers_arm(&timers, &later, timers_now(&timers) + 1000000);
    timers_arm(&timers, &timer, 0);
    timers_cancel(&timers, &never);
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < 5000 && __atomic_load_n(&fired, __ATOMIC_SEQ_CST) < 2; i++)
        usleep(1000);
    assert_int_equal(__atomic_load_n(&fired, __ATOMIC_SEQ_CST), 2);
    timers_stop(&timers);
    timers_fini(&timers);
}

static void test_problem_keeps_the_first_cause(void **state)
{
    (void)state;
    assert_int_equal(problem("first %d\nwith a break", 1), -1);
    assert_int_equal(problem("second"), -1);
    assert_string_equal(problem_text(), "first 1 with a break");
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_serial_output),
        CASE(test_serial_transmit_interrupt),
        CASE(test_serial_input),
        CASE(test_serial_input_waits_for_request_to_send),
        CASE(test_serial_loop_back),
        CASE(test_keyboard_controller),
        CASE(test_debug_ports),
        CASE(test_power),
        CASE(test_text_screen),
        CASE(test_pci),
        CASE(test_firmware_configuration),
        CASE(test_guest_memory),
        CASE(test_escape_keys),
        CASE(test_timer_thread),
        CASE(test_problem_keeps_the_first_cause),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
