/*
 * The guest's RAM as the machine sees it: one host allocation, its place in guest physical space, and the
 * only checked way from a guest physical address to a host pointer.
 *
 *   0        A0000     C0000        100000          low_end           4 GiB        high_end
 *   | RAM    | VGA     | shadow/ROM | RAM           | PCI hole        | RAM        |
 *
 * Below low_end the offset into the allocation equals the address (the bytes behind the VGA hole are never
 * used); the rest of the RAM continues at 4 GiB. The shadow area is RAM only as far as the chipset's PAM
 * registers say (shadow.h).
 */
#ifndef OPENWHP_TOOL_GUEST_MEMORY_H
#define OPENWHP_TOOL_GUEST_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

#define PAGE_BYTES           UINT64_C(4096)
#define CONVENTIONAL_END     UINT64_C(0xA0000)
#define VGA_HOLE_FIRST       UINT64_C(0xA0000)
#define VGA_HOLE_SIZE        UINT64_C(0x20000)
#define SHADOW_FIRST         UINT64_C(0xC0000)
#define SHADOW_END           UINT64_C(0x100000)
#define EXTENDED_FIRST       UINT64_C(0x100000)
#define LOW_RAM_LIMIT        (3 * GIB) /* where the PCI hole begins at the latest */
#define HIGH_RAM_FIRST       (4 * GIB)
#define GUEST_MEMORY_MINIMUM (2 * MIB)
#define GUEST_MEMORY_MAXIMUM (1024 * GIB)

/* The shadow area is switched in pieces of 16 KiB. */
enum { SHADOW_PIECES = 16 };
#define SHADOW_PIECE_SIZE UINT64_C(0x4000)

struct guest_memory {
    uint8_t *host;    /* fixed after create */
    uint64_t size;    /* bytes of RAM asked for, page aligned */
    uint64_t low_end; /* end of the RAM below 4 GiB */
    bool shadow_readable[SHADOW_PIECES], shadow_writable[SHADOW_PIECES];
    /* Told after a device stored through a pointer; may be NULL. */
    void (*stored)(void *context, uint64_t gpa, uint64_t size);
    void *stored_context;
};

/* Zeroed RAM that the host backs as the guest touches it; -1 with a problem() when there is none. */
int guest_memory_create(struct guest_memory *memory, uint64_t size);
void guest_memory_destroy(struct guest_memory *memory);

/* End of the RAM above 4 GiB; equal to HIGH_RAM_FIRST when there is none. */
uint64_t guest_memory_high_end(const struct guest_memory *memory);

/* Host address of [gpa, gpa + size), or NULL unless all of it is RAM that may be read (written). */
void *guest_memory_at(const struct guest_memory *memory, uint64_t gpa, uint64_t size, bool write);

/* Copies; false, with nothing done, when the range is not RAM. guest_memory_write reports the store. */
bool guest_memory_read(const struct guest_memory *memory, uint64_t gpa, void *to, uint64_t size);
bool guest_memory_write(const struct guest_memory *memory, uint64_t gpa, const void *from, uint64_t size);

/* Says that a device stored into [gpa, gpa + size) through guest_memory_at()'s pointer. */
void guest_memory_stored(const struct guest_memory *memory, uint64_t gpa, uint64_t size);

#endif
