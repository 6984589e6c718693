/*
 * The VGA hole A0000-BFFFF: plain bytes behind MMIO, of which B8000 is the 80 by 25 text screen that a
 * report shows, and the few registers (3C0-3DF) a text-mode program touches.
 */
#ifndef OPENWHP_TOOL_VGA_TEXT_H
#define OPENWHP_TOOL_VGA_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "bus.h"
#include "guest_memory.h"

enum { VGA_COLUMNS = 80, VGA_ROWS = 25 };

struct vga_text {
    uint8_t memory[VGA_HOLE_SIZE];
    uint8_t ports[0x20]; /* last value written, by port - 3C0 */
    uint8_t crtc[0x20], crtc_index;
    uint8_t retrace;
};

void vga_text_init(struct vga_text *vga);
int vga_text_attach(struct vga_text *vga, struct bus *ports, struct bus *mmio);

/* One row of the screen as printable ASCII without trailing blanks; text holds VGA_COLUMNS + 1 bytes. */
void vga_text_row(const struct vga_text *vga, unsigned row, char *text);

/* How many rows there are up to the last one that is not blank. */
unsigned vga_text_used_rows(const struct vga_text *vga);

#endif
