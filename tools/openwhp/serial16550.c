/* The 16550A serial port; see serial16550.h. */
#include "serial16550.h"

#include <string.h>

enum {
    REGISTER_DATA = 0, /* divisor, low byte, while LCR.7 is set */
    REGISTER_IER = 1,  /* divisor, high byte */
    REGISTER_IIR = 2,  /* FCR when written */
    REGISTER_LCR = 3,
    REGISTER_MCR = 4,
    REGISTER_LSR = 5,
    REGISTER_MSR = 6,
    REGISTER_SCRATCH = 7,
    IER_RECEIVED = 0x01,
    IER_TRANSMITTER_EMPTY = 0x02,
    IER_MODEM = 0x08,
    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_TRANSMITTER_EMPTY = 0x02,
    IIR_RECEIVED = 0x04,
    IIR_FIFOS = 0xC0,
    FCR_ENABLE = 0x01,
    FCR_CLEAR_RECEIVER = 0x02,
    LCR_DIVISOR = 0x80,
    MCR_REQUEST_TO_SEND = 0x02,
    MCR_OUT2 = 0x08, /* on a PC, gates the interrupt */
    MCR_LOOPBACK = 0x10,
    LSR_DATA_READY = 0x01,
    LSR_TRANSMITTER_EMPTY = 0x60,
    MSR_CONNECTED = 0xB0, /* carrier, data set ready, clear to send */
};

static bool input_open(const struct serial16550 *serial)
{
    return !serial->flow_control || (serial->mcr & MCR_REQUEST_TO_SEND);
}

static bool data_ready(const struct serial16550 *serial)
{
    if (serial->mcr & MCR_LOOPBACK)
        return serial->loop_full;
    return serial->count > 0 && input_open(serial);
}

static uint8_t interrupt_identity(const struct serial16550 *serial)
{
    if ((serial->ier & IER_RECEIVED) && data_ready(serial))
        return IIR_RECEIVED;
    if ((serial->ier & IER_TRANSMITTER_EMPTY) && serial->transmit_pending)
        return IIR_TRANSMITTER_EMPTY;
    if ((serial->ier & IER_MODEM) && serial->modem_delta != 0)
        return IIR_MODEM;
    return IIR_NONE;
}

static void update_irq(struct serial16550 *serial)
{
    bool wanted = interrupt_identity(serial) != IIR_NONE;
    irq_set(&serial->irq, wanted && (serial->mcr & (MCR_OUT2 | MCR_LOOPBACK)) == MCR_OUT2);
}

static void enqueue(struct serial16550 *serial, uint8_t byte)
{
    if (serial->count == SERIAL_QUEUE)
        return;
    serial->queue[(serial->head + serial->count++) % SERIAL_QUEUE] = byte;
}

static uint8_t dequeue(struct serial16550 *serial)
{
    if (!data_ready(serial))
        return 0;
    if (serial->mcr & MCR_LOOPBACK) {
        serial->loop_full = false;
        return serial->loop_byte;
    }
    uint8_t byte = serial->queue[serial->head];
    serial->head = (serial->head + 1) % SERIAL_QUEUE;
    if (--serial->count == 0 && serial->drained != NULL)
        serial->drained(serial->context);
    return byte;
}

unsigned serial16550_room(const struct serial16550 *serial) { return SERIAL_QUEUE - serial->count; }

void serial16550_receive(struct serial16550 *serial, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        enqueue(serial, bytes[i]);
    update_irq(serial);
}

/* In loop-back, the four outputs of MCR are the four inputs of MSR. */
static uint8_t modem_inputs(const struct serial16550 *serial)
{
    if (!(serial->mcr & MCR_LOOPBACK))
        return MSR_CONNECTED;
    uint8_t mcr = serial->mcr;
    return (uint8_t)((mcr & 0x0C) << 4 | (mcr & 0x02) << 3 | (mcr & 0x01) << 5);
}

static uint8_t read_modem_status(struct serial16550 *serial)
{
    uint8_t value = modem_inputs(serial) | serial->modem_delta;
    serial->modem_delta = 0;
    return value;
}

static uint8_t read_identity(struct serial16550 *serial)
{
    uint8_t identity = interrupt_identity(serial);
    if (identity == IIR_TRANSMITTER_EMPTY)
        serial->transmit_pending = false;
    return identity | (serial->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t read_register(struct serial16550 *serial, unsigned index)
{
    bool divisor = serial->lcr & LCR_DIVISOR;
    switch (index) {
    case REGISTER_DATA:
        return divisor ? (uint8_t)serial->divisor : dequeue(serial);
    case REGISTER_IER:
        return divisor ? (uint8_t)(serial->divisor >> 8) : serial->ier;
    case REGISTER_IIR:
        return read_identity(serial);
    case REGISTER_LCR:
        return serial->lcr;
    case REGISTER_MCR:
        return serial->mcr;
    case REGISTER_LSR:
        return LSR_TRANSMITTER_EMPTY | (data_ready(serial) ? LSR_DATA_READY : 0);
    case REGISTER_MSR:
        return read_modem_status(serial);
    default:
        return serial->scratch;
    }
}

static void write_data(struct serial16550 *serial, uint8_t value)
{
    if (serial->mcr & MCR_LOOPBACK) {
        serial->loop_byte = value;
        serial->loop_full = true;
    } else if (serial->transmit != NULL) {
        serial->transmit(serial->context, value);
    }
    serial->transmit_pending = true;
}

static void write_ier(struct serial16550 *serial, uint8_t value)
{
    /* Allowing "transmitter empty" while it is empty is an interrupt of its own (data sheet, 8.6.3). */
    if ((value & IER_TRANSMITTER_EMPTY) && !(serial->ier & IER_TRANSMITTER_EMPTY))
        serial->transmit_pending = true;
    serial->ier = value & 0x0f;
}

static void write_fcr(struct serial16550 *serial, uint8_t value)
{
    bool clear = (value & FCR_CLEAR_RECEIVER) || ((value ^ serial->fcr) & FCR_ENABLE);
    if (clear && input_open(serial)) {
        serial->head = serial->count = 0;
        if (serial->drained != NULL)
            serial->drained(serial->context);
    }
    serial->fcr = value & 0xC9;
}

static void write_mcr(struct serial16550 *serial, uint8_t value)
{
    uint8_t before = modem_inputs(serial);
    serial->mcr = value & 0x1f;
    serial->flow_control = true;
    if (!(value & MCR_LOOPBACK))
        serial->loop_full = false;
    serial->modem_delta |= (uint8_t)((before ^ modem_inputs(serial)) >> 4);
}

static void write_register(struct serial16550 *serial, unsigned index, uint8_t value)
{
    bool divisor = serial->lcr & LCR_DIVISOR;
    switch (index) {
    case REGISTER_DATA:
        if (divisor)
            serial->divisor = (uint16_t)((serial->divisor & 0xff00) | value);
        else
            write_data(serial, value);
        break;
    case REGISTER_IER:
        if (divisor)
            serial->divisor = (uint16_t)((serial->divisor & 0x00ff) | value << 8);
        else
            write_ier(serial, value);
        break;
    case REGISTER_IIR:
        write_fcr(serial, value);
        break;
    case REGISTER_LCR:
        serial->lcr = value;
        break;
    case REGISTER_MCR:
        write_mcr(serial, value);
        break;
    case REGISTER_SCRATCH:
        serial->scratch = value;
        break;
    default: /* LSR and MSR are read-only */
        break;
    }
}

static uint64_t port_read(void *device, uint64_t offset, unsigned size)
{
    struct serial16550 *serial = device;
    (void)size;
    uint8_t value = read_register(serial, (unsigned)offset);
    update_irq(serial);
    return value;
}

static void port_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct serial16550 *serial = device;
    (void)size;
    write_register(serial, (unsigned)offset, (uint8_t)value);
    update_irq(serial);
}

void serial16550_init(struct serial16550 *serial, struct irq_router *router)
{
    memset(serial, 0, sizeof *serial);
    serial->divisor = 12; /* 9600 baud */
    serial->mcr = MCR_OUT2;
    serial->irq = (struct irq_source){.router = router, .line = 4};
}

int serial16550_attach(struct serial16550 *serial, struct bus *ports)
{
    static const struct bus_ops ops = {port_read, port_write};
    const struct bus_range range = {0x3F8, 8, &ops, serial, "serial port 16550", 1};
    return bus_add(ports, &range);
}
