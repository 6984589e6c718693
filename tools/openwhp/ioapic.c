/* The I/O APIC; see ioapic.h. */
#include "ioapic.h"

#include <string.h>

/* Redirection table entry (82093AA, section 3.2.4). */
#define ENTRY_VECTOR         UINT64_C(0xff)
#define ENTRY_MODE_SHIFT     8
#define ENTRY_LOGICAL        (UINT64_C(1) << 11)
#define ENTRY_DELIVERY_STATE (UINT64_C(1) << 12)
#define ENTRY_ACTIVE_LOW     (UINT64_C(1) << 13)
#define ENTRY_REMOTE_IRR     (UINT64_C(1) << 14)
#define ENTRY_LEVEL          (UINT64_C(1) << 15)
#define ENTRY_MASKED         (UINT64_C(1) << 16)
#define ENTRY_DEST_SHIFT     56
#define ENTRY_READ_ONLY      (ENTRY_DELIVERY_STATE | ENTRY_REMOTE_IRR)
#define ENTRY_WRITABLE       (UINT64_C(0xff0000000001afff) & ~ENTRY_READ_ONLY)

enum {
    OFFSET_SELECT = 0x00,
    OFFSET_WINDOW = 0x10,
    REGISTER_ID = 0x00,
    REGISTER_VERSION = 0x01,
    REGISTER_ARBITRATION = 0x02,
    REGISTER_TABLE = 0x10,
    VERSION = 0x11,
};

static void send(struct ioapic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->entries[pin];
    struct interrupt_message message = {
        .vector = (uint8_t)(*entry & ENTRY_VECTOR),
        .delivery_mode = (uint8_t)((*entry >> ENTRY_MODE_SHIFT) & 7),
        .destination = (uint8_t)(*entry >> ENTRY_DEST_SHIFT),
        .logical = (*entry & ENTRY_LOGICAL) != 0,
        .level = (*entry & ENTRY_LEVEL) != 0,
    };
    if (message.level)
        *entry |= ENTRY_REMOTE_IRR;
    ioapic->sink->message(ioapic->sink->context, &message);
}

/* Sends what the pin asks for, unless it is masked or still being served. */
static void service(struct ioapic *ioapic, unsigned pin)
{
    uint32_t bit = UINT32_C(1) << pin;
    uint64_t entry = ioapic->entries[pin];
    if (entry & ENTRY_MASKED)
        return;
    if (entry & ENTRY_LEVEL) {
        if ((ioapic->lines & bit) && !(entry & ENTRY_REMOTE_IRR))
            send(ioapic, pin);
    } else if (ioapic->latched & bit) {
        ioapic->latched &= ~bit;
        send(ioapic, pin);
    }
}

/*
 * The polarity bit is stored and read back only: our lines are "asserted or not", and guests choose the
 * polarity from the tables we give them.
 */
void ioapic_set_pin(struct ioapic *ioapic, unsigned pin, bool level)
{
    if (pin >= IOAPIC_PINS)
        return;
    uint32_t bit = UINT32_C(1) << pin;
    bool was = (ioapic->lines & bit) != 0;
    if (level)
        ioapic->lines |= bit;
    else
        ioapic->lines &= ~bit;
    if (level && !was)
        ioapic->latched |= bit;
    if (level)
        service(ioapic, pin);
}

void ioapic_end_of_interrupt(struct ioapic *ioapic, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *entry = &ioapic->entries[pin];
        if ((*entry & ENTRY_VECTOR) != vector || !(*entry & ENTRY_REMOTE_IRR))
            continue;
        *entry &= ~ENTRY_REMOTE_IRR;
        service(ioapic, pin);
    }
}

static uint32_t read_register(const struct ioapic *ioapic)
{
    unsigned index = ioapic->select;
    if (index == REGISTER_ID || index == REGISTER_ARBITRATION)
        return (uint32_t)ioapic->id << 24;
    if (index == REGISTER_VERSION)
        return VERSION | (IOAPIC_PINS - 1) << 16;
    if (index < REGISTER_TABLE || index >= REGISTER_TABLE + 2 * IOAPIC_PINS)
        return 0;
    uint64_t entry = ioapic->entries[(index - REGISTER_TABLE) / 2];
    return (uint32_t)(index & 1 ? entry >> 32 : entry);
}

static void write_entry(struct ioapic *ioapic, unsigned pin, bool high, uint32_t value)
{
    uint64_t *entry = &ioapic->entries[pin];
    uint64_t wanted = high ? (*entry & UINT32_MAX) | (uint64_t)value << 32
                           : (*entry & ~(uint64_t)UINT32_MAX) | value;
    *entry = (wanted & ENTRY_WRITABLE) | (*entry & ENTRY_READ_ONLY);
    /* Linux ends a lost level interrupt on chips like this one by switching to edge and back. */
    if (!(*entry & ENTRY_LEVEL))
        *entry &= ~ENTRY_REMOTE_IRR;
    /* An edge that came while the entry was masked is lost, as on the chip (section 3.2.4, bit 16). */
    if (!high && (*entry & ENTRY_MASKED))
        ioapic->latched &= ~(UINT32_C(1) << pin);
    service(ioapic, pin);
}

static void write_register(struct ioapic *ioapic, uint32_t value)
{
    unsigned index = ioapic->select;
    if (index == REGISTER_ID)
        ioapic->id = (value >> 24) & 0x0f;
    else if (index >= REGISTER_TABLE && index < REGISTER_TABLE + 2 * IOAPIC_PINS)
        write_entry(ioapic, (index - REGISTER_TABLE) / 2, index & 1, value);
}

static uint64_t mmio_read(void *device, uint64_t offset, unsigned size)
{
    struct ioapic *ioapic = device;
    (void)size;
    if (offset == OFFSET_SELECT)
        return ioapic->select;
    if (offset == OFFSET_WINDOW)
        return read_register(ioapic);
    return 0;
}

static void mmio_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct ioapic *ioapic = device;
    (void)size;
    if (offset == OFFSET_SELECT)
        ioapic->select = (uint8_t)value;
    else if (offset == OFFSET_WINDOW)
        write_register(ioapic, (uint32_t)value);
}

void ioapic_init(struct ioapic *ioapic, uint8_t id, const struct interrupt_sink *sink)
{
    memset(ioapic, 0, sizeof *ioapic);
    ioapic->id = id;
    ioapic->sink = sink;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic->entries[pin] = ENTRY_MASKED;
}

int ioapic_attach(struct ioapic *ioapic, struct bus *mmio)
{
    static const struct bus_ops ops = {mmio_read, mmio_write};
    const struct bus_range range = {IOAPIC_GPA, 0x1000, &ops, ioapic, "IOAPIC", 0};
    return bus_add(mmio, &range);
}
