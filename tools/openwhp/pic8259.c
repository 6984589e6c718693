/* Two 8259A interrupt controllers; see pic8259.h. Names follow the data sheet. */
#include "pic8259.h"

#include <string.h>

enum {
    CASCADE_LINE = 2,
    ICW1_INIT = 0x10,
    ICW1_SINGLE = 0x02,
    ICW1_NEEDS_ICW4 = 0x01,
    ICW4_AUTO_EOI = 0x02,
    ICW4_SPECIAL_NESTED = 0x10,
    OCW3 = 0x08,
    OCW3_POLL = 0x04,
    OCW3_READ_REGISTER = 0x02,
    OCW3_READ_ISR = 0x01,
    OCW3_SET_SPECIAL_MASK = 0x40,
    OCW3_SPECIAL_MASK = 0x20,
    ELCR_MASTER_VALID = 0xF8, /* lines 0, 1, 2 are always edge triggered */
    ELCR_SLAVE_VALID = 0xDE,  /* so are 8 and 13 */
};

/* Position in the priority order: 0 is the highest. */
static unsigned priority_of(const struct pic8259_chip *chip, unsigned line)
{
    return (line - chip->lowest - 1) & 7;
}

static int highest(const struct pic8259_chip *chip, uint8_t set)
{
    for (unsigned i = 1; i <= 8; i++) {
        unsigned line = (chip->lowest + i) & 7;
        if (set & (1u << line))
            return (int)line;
    }
    return -1;
}

/* The line the chip would interrupt for now, or -1 (data sheet, "fully nested mode"). */
static int pending_line(const struct pic8259_chip *chip, bool is_master)
{
    int line = highest(chip, (uint8_t)(chip->irr & ~chip->imr));
    if (line < 0)
        return -1;
    uint8_t blocking = chip->isr;
    if (chip->special_mask)
        blocking = (uint8_t)(blocking & ~chip->imr);
    if (is_master && chip->special_nested)
        blocking = (uint8_t)(blocking & ~(1u << CASCADE_LINE));
    int serving = highest(chip, blocking);
    if (serving >= 0 && priority_of(chip, (unsigned)serving) <= priority_of(chip, (unsigned)line))
        return -1;
    return line;
}

static void set_input(struct pic8259_chip *chip, unsigned line, bool level)
{
    uint8_t bit = (uint8_t)(1u << line);
    if (chip->elcr & bit)
        chip->irr = (uint8_t)(level ? chip->irr | bit : chip->irr & ~bit);
    else if (level && !(chip->lines & bit))
        chip->irr |= bit; /* an edge stays latched until it is acknowledged */
    chip->lines = (uint8_t)(level ? chip->lines | bit : chip->lines & ~bit);
}

static void update(struct pic8259 *pic)
{
    bool cascade = pending_line(&pic->slave, false) >= 0;
    /* The cascade follows the slave's output; as a level it cannot go stale. */
    uint8_t bit = 1u << CASCADE_LINE;
    pic->master.irr = (uint8_t)(cascade ? pic->master.irr | bit : pic->master.irr & ~bit);
    bool output = pending_line(&pic->master, true) >= 0;
    if (output != pic->output) {
        pic->output = output;
        pic->sink->pic_output(pic->sink->context, output);
    }
}

void pic8259_set_line(struct pic8259 *pic, unsigned line, bool level)
{
    if (line >= 16 || line == CASCADE_LINE)
        return;
    set_input(line < 8 ? &pic->master : &pic->slave, line & 7, level);
    update(pic);
}

static void acknowledge_line(struct pic8259_chip *chip, unsigned line)
{
    uint8_t bit = (uint8_t)(1u << line);
    if (!(chip->elcr & bit))
        chip->irr = (uint8_t)(chip->irr & ~bit);
    if (!chip->auto_eoi)
        chip->isr |= bit;
    else if (chip->rotate_on_auto_eoi)
        chip->lowest = (uint8_t)line;
}

int pic8259_acknowledge(struct pic8259 *pic)
{
    int line = pending_line(&pic->master, true);
    if (line < 0)
        return -1;
    int vector = pic->master.vector_base + line;
    acknowledge_line(&pic->master, (unsigned)line);
    if (line == CASCADE_LINE) {
        /* A request that went away in between is answered as the slave's line 7 ("default IR7"). */
        int slave_line = pending_line(&pic->slave, false);
        if (slave_line >= 0)
            acknowledge_line(&pic->slave, (unsigned)slave_line);
        vector = pic->slave.vector_base + (slave_line >= 0 ? slave_line : 7);
    }
    update(pic);
    return vector;
}

static void initialize(struct pic8259_chip *chip, uint8_t icw1)
{
    chip->imr = chip->isr = chip->irr = 0;
    chip->lowest = 7;
    chip->auto_eoi = chip->rotate_on_auto_eoi = chip->special_mask = chip->special_nested = false;
    chip->read_isr = chip->poll = false;
    chip->needs_icw4 = (icw1 & ICW1_NEEDS_ICW4) != 0;
    chip->single = (icw1 & ICW1_SINGLE) != 0;
    chip->init_step = 2;
    /* Edge detection starts anew, but a level that is up is a request. */
    chip->irr = chip->lines & chip->elcr;
}

static void end_of_interrupt(struct pic8259_chip *chip, bool specific, unsigned line, bool rotate)
{
    if (!specific) {
        int serving = highest(chip, chip->special_mask ? (uint8_t)(chip->isr & ~chip->imr) : chip->isr);
        if (serving < 0)
            return;
        line = (unsigned)serving;
    }
    chip->isr = (uint8_t)(chip->isr & ~(1u << line));
    if (rotate)
        chip->lowest = (uint8_t)line;
}

/* OCW2: rotate (bit 7), specific (bit 6), end of interrupt (bit 5), line (bits 0-2). */
static void operation_word_2(struct pic8259_chip *chip, uint8_t value)
{
    bool rotate = value & 0x80, specific = value & 0x40;
    unsigned line = value & 7;
    if (value & 0x20)
        end_of_interrupt(chip, specific, line, rotate);
    else if (rotate && specific)
        chip->lowest = (uint8_t)line;
    else if (!specific)
        chip->rotate_on_auto_eoi = rotate;
}

static void operation_word_3(struct pic8259_chip *chip, uint8_t value)
{
    if (value & OCW3_SET_SPECIAL_MASK)
        chip->special_mask = (value & OCW3_SPECIAL_MASK) != 0;
    if (value & OCW3_POLL)
        chip->poll = true;
    else if (value & OCW3_READ_REGISTER)
        chip->read_isr = (value & OCW3_READ_ISR) != 0;
}

static void write_command(struct pic8259_chip *chip, uint8_t value)
{
    if (value & ICW1_INIT)
        initialize(chip, value);
    else if (value & OCW3)
        operation_word_3(chip, value);
    else
        operation_word_2(chip, value);
}

static void write_data(struct pic8259_chip *chip, uint8_t value)
{
    switch (chip->init_step) {
    case 2:
        chip->vector_base = value & 0xF8;
        chip->init_step = !chip->single ? 3 : chip->needs_icw4 ? 4 : 0;
        break;
    case 3: /* ICW3: the cascade is wired as in every PC */
        chip->init_step = chip->needs_icw4 ? 4 : 0;
        break;
    case 4:
        chip->auto_eoi = (value & ICW4_AUTO_EOI) != 0;
        chip->special_nested = (value & ICW4_SPECIAL_NESTED) != 0;
        chip->init_step = 0;
        break;
    default:
        chip->imr = value;
    }
}

/* A poll is an acknowledge cycle by software: bit 7 says that there is one, bits 0-2 which. */
static uint8_t read_poll(struct pic8259_chip *chip, bool is_master)
{
    chip->poll = false;
    int line = pending_line(chip, is_master);
    if (line < 0)
        return 0;
    acknowledge_line(chip, (unsigned)line);
    return (uint8_t)(0x80 | line);
}

static uint8_t read_chip(struct pic8259_chip *chip, bool is_master, bool data_port)
{
    if (chip->poll)
        return read_poll(chip, is_master);
    if (data_port)
        return chip->imr;
    return chip->read_isr ? chip->isr : chip->irr;
}

static uint64_t chip_read(struct pic8259 *pic, bool is_master, uint64_t offset)
{
    uint8_t value = read_chip(is_master ? &pic->master : &pic->slave, is_master, offset == 1);
    update(pic);
    return value;
}

static void chip_write(struct pic8259 *pic, bool is_master, uint64_t offset, uint64_t value)
{
    struct pic8259_chip *chip = is_master ? &pic->master : &pic->slave;
    if (offset == 0)
        write_command(chip, (uint8_t)value);
    else
        write_data(chip, (uint8_t)value);
    update(pic);
}

static uint64_t master_read(void *device, uint64_t offset, unsigned size)
{
    (void)size;
    return chip_read(device, true, offset);
}

static void master_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)size;
    chip_write(device, true, offset, value);
}

static uint64_t slave_read(void *device, uint64_t offset, unsigned size)
{
    (void)size;
    return chip_read(device, false, offset);
}

static void slave_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)size;
    chip_write(device, false, offset, value);
}

static uint64_t elcr_read(void *device, uint64_t offset, unsigned size)
{
    (void)size;
    struct pic8259 *pic = device;
    return offset == 0 ? pic->master.elcr : pic->slave.elcr;
}

static void elcr_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)size;
    struct pic8259 *pic = device;
    if (offset == 0)
        pic->master.elcr = value & ELCR_MASTER_VALID;
    else
        pic->slave.elcr = value & ELCR_SLAVE_VALID;
    update(pic);
}

void pic8259_init(struct pic8259 *pic, const struct interrupt_sink *sink)
{
    memset(pic, 0, sizeof *pic);
    pic->sink = sink;
    /* Nothing gets through before somebody has programmed the chips: there may be no firmware. */
    pic->master.imr = pic->slave.imr = 0xff;
    pic->master.lowest = pic->slave.lowest = 7;
    pic->slave.vector_base = 8;
    /* Lines of the PCI functions and of ACPI: 9, 10, 11. */
    pic->slave.elcr = 0x0E;
}

int pic8259_attach(struct pic8259 *pic, struct bus *ports)
{
    static const struct bus_ops master = {master_read, master_write};
    static const struct bus_ops slave = {slave_read, slave_write};
    static const struct bus_ops elcr = {elcr_read, elcr_write};
    const struct bus_range ranges[] = {
        {0x20, 2, &master, pic, "8259 master", 1},
        {0xA0, 2, &slave, pic, "8259 slave", 1},
        {0x4D0, 2, &elcr, pic, "8259 edge/level", 1},
    };
    for (unsigned i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (bus_add(ports, &ranges[i]) != 0)
            return -1;
    return 0;
}
