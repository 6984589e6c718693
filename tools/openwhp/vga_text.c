/* The VGA hole with a text screen; see vga_text.h. */
#include "vga_text.h"

#include <string.h>

enum {
    TEXT_OFFSET = 0x18000, /* B8000 - A0000 */
    PORT_FIRST = 0x3C0,
    PORT_CRTC_INDEX = 0x14, /* 3D4 */
    PORT_CRTC_DATA = 0x15,
    PORT_STATUS = 0x1A, /* 3DA */
    CRTC_START_HIGH = 0x0C,
    CRTC_START_LOW = 0x0D,
};

static uint64_t memory_read(void *device, uint64_t offset, unsigned size)
{
    const struct vga_text *vga = device;
    uint64_t value = 0;
    memcpy(&value, vga->memory + offset, size);
    return value;
}

static void memory_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct vga_text *vga = device;
    memcpy(vga->memory + offset, &value, size);
}

static uint64_t port_read(void *device, uint64_t offset, unsigned size)
{
    struct vga_text *vga = device;
    (void)size;
    if (offset == PORT_CRTC_DATA)
        return vga->crtc[vga->crtc_index & 0x1f];
    if (offset == PORT_CRTC_INDEX)
        return vga->crtc_index;
    if (offset == PORT_STATUS)
        return vga->retrace ^= 0x09; /* programs wait for both edges of the retrace */
    return vga->ports[offset];
}

static void port_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct vga_text *vga = device;
    (void)size;
    if (offset == PORT_CRTC_DATA)
        vga->crtc[vga->crtc_index & 0x1f] = (uint8_t)value;
    else if (offset == PORT_CRTC_INDEX)
        vga->crtc_index = (uint8_t)value;
    else
        vga->ports[offset] = (uint8_t)value;
}

void vga_text_init(struct vga_text *vga) { memset(vga, 0, sizeof *vga); }

int vga_text_attach(struct vga_text *vga, struct bus *ports, struct bus *mmio)
{
    static const struct bus_ops memory = {memory_read, memory_write};
    static const struct bus_ops port = {port_read, port_write};
    const struct bus_range hole = {VGA_HOLE_FIRST, VGA_HOLE_SIZE, &memory, vga, "VGA memory", 0};
    const struct bus_range registers = {PORT_FIRST, 0x20, &port, vga, "VGA registers", 1};
    return bus_add(mmio, &hole) != 0 || bus_add(ports, &registers) != 0 ? -1 : 0;
}

void vga_text_row(const struct vga_text *vga, unsigned row, char *text)
{
    unsigned start = (unsigned)vga->crtc[CRTC_START_HIGH] << 8 | vga->crtc[CRTC_START_LOW];
    unsigned length = 0;
    for (unsigned column = 0; column < VGA_COLUMNS; column++) {
        unsigned cell = (start + row * VGA_COLUMNS + column) * 2;
        uint8_t c = vga->memory[TEXT_OFFSET + cell % (VGA_HOLE_SIZE - TEXT_OFFSET)];
        text[column] = c >= 0x20 && c < 0x7f ? (char)c : c == 0 ? ' ' : '.';
        if (text[column] != ' ')
            length = column + 1;
    }
    text[length] = '\0';
}

unsigned vga_text_used_rows(const struct vga_text *vga)
{
    char text[VGA_COLUMNS + 1];
    unsigned used = 0;
    for (unsigned row = 0; row < VGA_ROWS; row++) {
        vga_text_row(vga, row, text);
        if (text[0] != '\0')
            used = row + 1;
    }
    return used;
}
