/* The two 8259s and the IOAPIC of the command's machine. */
#include "tool_test.h"

#include "ioapic.h"
#include "pic8259.h"

struct recorder {
    struct interrupt_message last;
    unsigned messages;
    bool output;
};

static void on_message(void *context, const struct interrupt_message *message)
{
    struct recorder *recorder = context;
    recorder->last = *message;
    recorder->messages++;
}

static void on_output(void *context, bool asserted) { ((struct recorder *)context)->output = asserted; }

static struct recorder recorder;
static struct interrupt_sink sink;
static struct pic8259 pic;
static struct ioapic ioapic;
static struct irq_router router;
static struct bus ports, mmio;

static int set_up(void **state)
{
    (void)state;
    memset(&recorder, 0, sizeof recorder);
    memset(&ports, 0, sizeof ports);
    memset(&mmio, 0, sizeof mmio);
    sink = (struct interrupt_sink){on_message, on_output, &recorder};
    pic8259_init(&pic, &sink);
    ioapic_init(&ioapic, 0, &sink);
    router = (struct irq_router){.pic = &pic, .ioapic = &ioapic};
    assert_int_equal(pic8259_attach(&pic, &ports), 0);
    assert_int_equal(ioapic_attach(&ioapic, &mmio), 0);
    return 0;
}

static void out(uint16_t port, uint8_t value) { bus_write(&ports, port, 1, value); }

static uint8_t in(uint16_t port) { return (uint8_t)bus_read(&ports, port, 1); }

/* As PC firmware does: vectors 8 and 70, cascade, 8086 mode; everything unmasked. */
static void program_pics(void)
{
    out(0x20, 0x11), out(0x21, 0x08), out(0x21, 0x04), out(0x21, 0x01);
    out(0xA0, 0x11), out(0xA1, 0x70), out(0xA1, 0x02), out(0xA1, 0x01);
    out(0x21, 0x00), out(0xA1, 0x00);
}

static void test_masked_until_programmed(void **state)
{
    (void)state;
    pic8259_set_line(&pic, 4, true);
    assert_false(recorder.output);
    assert_int_equal(pic8259_acknowledge(&pic), -1);
}

static void test_edge_and_end_of_interrupt(void **state)
{
    (void)state;
    program_pics();
    pic8259_set_line(&pic, 4, true);
    pic8259_set_line(&pic, 4, false); /* the edge is remembered */
    assert_true(recorder.output);
    assert_int_equal(pic8259_acknowledge(&pic), 0x0C);
    assert_false(recorder.output);
    pic8259_set_line(&pic, 4, true); /* in service: waits */
    assert_false(recorder.output);
    pic8259_set_line(&pic, 0, true); /* higher priority: nests */
    assert_int_equal(pic8259_acknowledge(&pic), 0x08);
    out(0x20, 0x20);
    out(0x20, 0x20);
    assert_int_equal(pic8259_acknowledge(&pic), 0x0C);
}

static void test_cascade(void **state)
{
    (void)state;
    program_pics();
    pic8259_set_line(&pic, 8, true);
    assert_int_equal(pic8259_acknowledge(&pic), 0x70);
    out(0x20, 0x0B);
    assert_int_equal(in(0x20), 1 << 2);
    out(0xA0, 0x0B);
    assert_int_equal(in(0xA0), 1);
    pic8259_set_line(&pic, 12, true); /* lower priority on the slave */
    assert_int_equal(pic8259_acknowledge(&pic), -1);
    out(0xA0, 0x20);
    out(0x20, 0x20);
    assert_int_equal(pic8259_acknowledge(&pic), 0x74);
}

static void test_level_line_asks_again(void **state)
{
    (void)state;
    program_pics();
    assert_int_equal(in(0x4D1), 0x0E); /* 9, 10, 11 */
    pic8259_set_line(&pic, 10, true);
    assert_int_equal(pic8259_acknowledge(&pic), 0x72);
    out(0xA0, 0x20);
    out(0x20, 0x20);
    assert_int_equal(pic8259_acknowledge(&pic), 0x72);
    pic8259_set_line(&pic, 10, false);
    out(0xA0, 0x20);
    out(0x20, 0x20);
    assert_int_equal(pic8259_acknowledge(&pic), -1);
}

static void test_mask_and_specific_end(void **state)
{
    (void)state;
    program_pics();
    out(0x21, 0x10);
    pic8259_set_line(&pic, 4, true);
    assert_false(recorder.output);
    out(0x21, 0x00);
    assert_int_equal(pic8259_acknowledge(&pic), 0x0C);
    out(0x20, 0x60 | 4);
    out(0x20, 0x0B);
    assert_int_equal(in(0x20), 0);
    assert_int_equal(in(0x21), 0);
}

static void test_poll_and_rotation(void **state)
{
    (void)state;
    program_pics();
    pic8259_set_line(&pic, 3, true);
    out(0x20, 0x0C);
    assert_int_equal(in(0x20), 0x83);
    out(0x20, 0xA0); /* rotate on end: 3 is the lowest now */
    pic8259_set_line(&pic, 3, false);
    pic8259_set_line(&pic, 3, true);
    pic8259_set_line(&pic, 4, true);
    assert_int_equal(pic8259_acknowledge(&pic), 0x0C);
}

static void ioapic_write(uint8_t index, uint32_t value)
{
    bus_write(&mmio, IOAPIC_GPA, 4, index);
    bus_write(&mmio, IOAPIC_GPA + 0x10, 4, value);
}

static uint32_t ioapic_read(uint8_t index)
{
    bus_write(&mmio, IOAPIC_GPA, 4, index);
    return (uint32_t)bus_read(&mmio, IOAPIC_GPA + 0x10, 4);
}

static void test_ioapic_registers(void **state)
{
    (void)state;
    assert_int_equal(ioapic_read(1), 0x00170011);
    assert_int_equal(ioapic_read(0x10), 0x10000);
    ioapic_write(0, 0xff000000);
    assert_int_equal(ioapic_read(0), 0x0f000000);
    ioapic_write(0x11, 0x05000000);
    ioapic_write(0x10, 0xffffffff);
    assert_int_equal(ioapic_read(0x11), 0x05000000);
    assert_int_equal(ioapic_read(0x10), 0x0001afff); /* state bits are read-only */
    ioapic_write(0x40, 1);                           /* beyond the table */
    assert_int_equal(ioapic_read(0x40), 0);
    assert_int_equal(ioapic_read(0xff), 0);
}

static void test_ioapic_edge(void **state)
{
    (void)state;
    ioapic_write(0x10 + 2 * 4 + 1, 0x02000000);
    ioapic_write(0x10 + 2 * 4, 0x0931); /* vector 31, lowest priority, logical */
    ioapic_set_pin(&ioapic, 4, true);
    ioapic_set_pin(&ioapic, 4, true);
    assert_int_equal(recorder.messages, 1);
    assert_int_equal(recorder.last.vector, 0x31);
    assert_int_equal(recorder.last.delivery_mode, 1);
    assert_true(recorder.last.logical);
    assert_false(recorder.last.level);
    assert_int_equal(recorder.last.destination, 2);
    ioapic_set_pin(&ioapic, 4, false);
    ioapic_set_pin(&ioapic, 4, true);
    assert_int_equal(recorder.messages, 2);
}

static void test_ioapic_level(void **state)
{
    (void)state;
    ioapic_write(0x10 + 2 * 10, 0x8042);
    ioapic_set_pin(&ioapic, 10, true);
    assert_int_equal(recorder.messages, 1);
    assert_true(recorder.last.level);
    assert_int_equal(ioapic_read(0x10 + 2 * 10), 0xC042); /* remote IRR */
    ioapic_end_of_interrupt(&ioapic, 0x41);               /* somebody else's */
    assert_int_equal(recorder.messages, 1);
    ioapic_end_of_interrupt(&ioapic, 0x42); /* still up: again */
    assert_int_equal(recorder.messages, 2);
    ioapic_set_pin(&ioapic, 10, false);
    ioapic_end_of_interrupt(&ioapic, 0x42);
    assert_int_equal(recorder.messages, 2);
    assert_int_equal(ioapic_read(0x10 + 2 * 10), 0x8042);
}

static void test_ioapic_level_while_masked(void **state)
{
    (void)state;
    ioapic_write(0x10 + 2 * 10, 0x18042);
    ioapic_set_pin(&ioapic, 10, true);
    assert_int_equal(recorder.messages, 0);
    ioapic_write(0x10 + 2 * 10, 0x8042);
    assert_int_equal(recorder.messages, 1);
}

static void test_shared_line_and_timer_pin(void **state)
{
    (void)state;
    struct irq_source first = {.router = &router, .line = 11}, second = first;
    struct irq_source timer = {.router = &router, .line = 0};
    ioapic_write(0x10 + 2 * 11, 0x8051);
    ioapic_write(0x10 + 2 * 2, 0x0030);
    irq_set(&first, true);
    irq_set(&second, true);
    irq_set(&first, false);
    assert_int_equal(recorder.messages, 1);
    ioapic_end_of_interrupt(&ioapic, 0x51);
    assert_int_equal(recorder.messages, 2); /* the second still holds it */
    irq_set(&second, false);
    irq_pulse(&timer);
    assert_int_equal(recorder.last.vector, 0x30);
    struct irq_source nonsense = {.router = &router, .line = 200};
    irq_set(&nonsense, true);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup(name, set_up)
    const struct CMUnitTest tests[] = {
        CASE(test_masked_until_programmed),
        CASE(test_edge_and_end_of_interrupt),
        CASE(test_cascade),
        CASE(test_level_line_asks_again),
        CASE(test_mask_and_specific_end),
        CASE(test_poll_and_rotation),
        CASE(test_ioapic_registers),
        CASE(test_ioapic_edge),
        CASE(test_ioapic_level),
        CASE(test_ioapic_level_while_masked),
        CASE(test_shared_line_and_timer_pin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
