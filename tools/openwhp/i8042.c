/* The keyboard controller; see i8042.h. */
#include "i8042.h"

#include <string.h>

enum {
    STATUS_OUTPUT_FULL = 0x01,
    STATUS_SYSTEM = 0x04,
    STATUS_UNLOCKED = 0x10,
    STATUS_AUX = 0x20,
    COMMAND_KEYBOARD_IRQ = 0x01,
    COMMAND_MOUSE_IRQ = 0x02,
    COMMAND_SYSTEM = 0x04,
    COMMAND_KEYBOARD_OFF = 0x10,
    COMMAND_MOUSE_OFF = 0x20,
    COMMAND_TRANSLATE = 0x40,
    OUTPUT_NOT_RESET = 0x01,
    OUTPUT_A20 = 0x02,
    KEYBOARD_ACK = 0xFA,
    KEYBOARD_RESEND = 0xFE,
    KEYBOARD_TEST_PASSED = 0xAA,
};

static void update_irq(struct i8042 *controller)
{
    bool full = controller->count > 0, aux = full && controller->from_aux[controller->head];
    irq_set(&controller->keyboard_irq,
            full && !aux && (controller->command_byte & COMMAND_KEYBOARD_IRQ));
    irq_set(&controller->mouse_irq, aux && (controller->command_byte & COMMAND_MOUSE_IRQ));
}

static void put(struct i8042 *controller, uint8_t byte, bool aux)
{
    if (controller->count == I8042_QUEUE)
        return;
    unsigned at = (controller->head + controller->count++) % I8042_QUEUE;
    controller->queue[at] = byte;
    controller->from_aux[at] = aux;
}

static uint8_t take(struct i8042 *controller)
{
    uint8_t byte = controller->queue[controller->head];
    if (controller->count > 0) {
        controller->head = (controller->head + 1) % I8042_QUEUE;
        controller->count--;
    }
    /* The line drops between two bytes, so that each is an edge. */
    irq_set(&controller->keyboard_irq, false);
    irq_set(&controller->mouse_irq, false);
    update_irq(controller);
    return byte;
}

static void write_output_port(struct i8042 *controller, uint8_t value)
{
    controller->output_port = value | OUTPUT_NOT_RESET;
    if (!(value & OUTPUT_NOT_RESET))
        controller->reset(controller->context);
}

/* Commands to port 64; those with a data byte wait for it. */
static void controller_command(struct i8042 *controller, uint8_t command)
{
    controller->pending_command = 0;
    if (command >= 0x20 && command < 0x40)
        put(controller, command == 0x20 ? controller->command_byte : controller->ram[command & 31], false);
    else if (command >= 0x60 && command < 0x80)
        controller->pending_command = command;
    else if (command >= 0xF0) {
        if (!(command & 1))
            controller->reset(controller->context); /* pulses the reset line */
        return;
    }
    switch (command) {
    case 0xA7:
        controller->command_byte |= COMMAND_MOUSE_OFF;
        break;
    case 0xA8:
        controller->command_byte &= (uint8_t)~COMMAND_MOUSE_OFF;
        break;
    case 0xA9: /* test of the mouse port */
    case 0xAB: /* test of the keyboard port */
        put(controller, 0x00, false);
        break;
    case 0xAA:
        put(controller, 0x55, false);
        break;
    case 0xAD:
        controller->command_byte |= COMMAND_KEYBOARD_OFF;
        break;
    case 0xAE:
        controller->command_byte &= (uint8_t)~COMMAND_KEYBOARD_OFF;
        break;
    case 0xC0:
        put(controller, 0x80, false);
        break;
    case 0xD0:
        put(controller, controller->output_port, false);
        break;
    case 0xD1:
    case 0xD2:
    case 0xD3:
    case 0xD4:
        controller->pending_command = command;
        break;
    default:
        break;
    }
}

static void command_data(struct i8042 *controller, uint8_t command, uint8_t value)
{
    if (command == 0x60)
        controller->command_byte = value;
    else if (command < 0x80)
        controller->ram[command & 31] = value;
    else if (command == 0xD1)
        write_output_port(controller, value);
    else if (command == 0xD2 || command == 0xD3)
        put(controller, value, command == 0xD3);
    /* D4 is for the mouse: there is none, and none answers. */
}

/* Data byte of an earlier keyboard command (LEDs, scan code set, repeat rate). */
static void keyboard_data(struct i8042 *controller, uint8_t command, uint8_t value)
{
    put(controller, KEYBOARD_ACK, false);
    if (command == 0xF0 && value == 0)
        put(controller, 2, false);
}

static void keyboard_command(struct i8042 *controller, uint8_t command)
{
    switch (command) {
    case 0xED: /* LEDs */
    case 0xF0: /* scan code set */
    case 0xF3: /* repeat rate */
        controller->keyboard_command = command;
        put(controller, KEYBOARD_ACK, false);
        break;
    case 0xEE: /* echo */
        put(controller, 0xEE, false);
        break;
    case 0xF2: /* identify: MF2 keyboard, translated */
        put(controller, KEYBOARD_ACK, false);
        put(controller, 0xAB, false);
        put(controller, controller->command_byte & COMMAND_TRANSLATE ? 0x41 : 0x83, false);
        break;
    case 0xFF: /* reset and test */
        put(controller, KEYBOARD_ACK, false);
        put(controller, KEYBOARD_TEST_PASSED, false);
        break;
    case 0xFE:
        put(controller, KEYBOARD_RESEND, false);
        break;
    default:
        put(controller, KEYBOARD_ACK, false);
    }
}

static void write_data(struct i8042 *controller, uint8_t value)
{
    uint8_t command = controller->pending_command, keyboard = controller->keyboard_command;
    controller->pending_command = 0;
    if (command != 0) {
        command_data(controller, command, value);
        return;
    }
    controller->keyboard_command = 0;
    controller->command_byte &= (uint8_t)~COMMAND_KEYBOARD_OFF;
    if (keyboard != 0 && value < 0xED)
        keyboard_data(controller, keyboard, value);
    else
        keyboard_command(controller, value);
}

static uint8_t status(const struct i8042 *controller)
{
    uint8_t value = STATUS_UNLOCKED;
    if (controller->count > 0)
        value |= STATUS_OUTPUT_FULL | (controller->from_aux[controller->head] ? STATUS_AUX : 0);
    return value | (controller->command_byte & COMMAND_SYSTEM ? STATUS_SYSTEM : 0);
}

static uint64_t data_read(void *device, uint64_t offset, unsigned size)
{
    (void)offset;
    (void)size;
    return take(device);
}

static void data_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    write_data(device, (uint8_t)value);
    update_irq(device);
}

static uint64_t status_read(void *device, uint64_t offset, unsigned size)
{
    (void)offset;
    (void)size;
    return status(device);
}

static void status_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    controller_command(device, (uint8_t)value);
    update_irq(device);
}

static uint64_t port92_read(void *device, uint64_t offset, unsigned size)
{
    const struct i8042 *controller = device;
    (void)offset;
    (void)size;
    return controller->output_port & OUTPUT_A20;
}

static void port92_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct i8042 *controller = device;
    (void)offset;
    (void)size;
    if (value & OUTPUT_A20)
        controller->output_port |= OUTPUT_A20;
    else
        controller->output_port &= (uint8_t)~OUTPUT_A20;
    if (value & 1)
        controller->reset(controller->context);
}

void i8042_init(struct i8042 *controller, struct irq_router *router, void (*reset)(void *context),
                void *context)
{
    memset(controller, 0, sizeof *controller);
    controller->command_byte = COMMAND_SYSTEM | COMMAND_TRANSLATE | COMMAND_MOUSE_OFF;
    controller->output_port = OUTPUT_NOT_RESET | OUTPUT_A20;
    controller->keyboard_irq = (struct irq_source){.router = router, .line = 1};
    controller->mouse_irq = (struct irq_source){.router = router, .line = 12};
    controller->reset = reset;
    controller->context = context;
}

int i8042_attach(struct i8042 *controller, struct bus *ports)
{
    static const struct bus_ops data = {data_read, data_write};
    static const struct bus_ops command = {status_read, status_write};
    static const struct bus_ops port92 = {port92_read, port92_write};
    const struct bus_range ranges[] = {
        {0x60, 1, &data, controller, "8042 data", 1},
        {0x64, 1, &command, controller, "8042 command", 1},
        {0x92, 1, &port92, controller, "system control port A", 1},
    };
    for (unsigned i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (bus_add(ports, &ranges[i]) != 0)
            return -1;
    return 0;
}
