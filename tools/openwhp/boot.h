/*
 * What a boot protocol leaves behind: images in guest memory and the state in which the first processor
 * starts. The loaders know guest memory and files, no hypervisor; boot_registers.h makes registers of it.
 */
#ifndef OPENWHP_TOOL_BOOT_H
#define OPENWHP_TOOL_BOOT_H

#include <stdint.h>

#include "guest_memory.h"
#include "options.h"

enum boot_mode {
    BOOT_RESET,     /* as after power-on: FFFFFFF0, where firmware is */
    BOOT_REAL,      /* 16-bit real mode */
    BOOT_PROTECTED, /* 32-bit flat segments, no paging */
    BOOT_LONG,      /* 64-bit, identity-mapped */
};

struct boot_state {
    enum boot_mode mode;
    uint64_t entry; /* linear address of the first instruction */
    uint64_t rax, rbx, rdx, rsi, rsp;
    uint64_t cr3;     /* BOOT_LONG */
    uint64_t gdt;     /* address of boot_write_gdt()'s table; 0: none */
};

/* Selectors in that table: what the Linux 64-bit protocol asks for. */
enum { BOOT_CODE_SELECTOR = 0x10, BOOT_DATA_SELECTOR = 0x18, BOOT_GDT_BYTES = 32 };

/* Writes a table of flat segments; code is 64-bit when asked for. */
void boot_write_gdt(uint8_t *at, int long_mode);

/* A bzImage by the 64-bit or the 32-bit boot protocol, or a multiboot image: tells which by the file's header. */
int boot_kernel(struct boot_state *state, struct guest_memory *memory, const struct options *options,
                uint64_t rsdp);

int boot_linux(struct boot_state *state, struct guest_memory *memory, const struct options *options,
               uint64_t rsdp);
int boot_multiboot(struct boot_state *state, struct guest_memory *memory, const struct options *options);
int boot_flat(struct boot_state *state, struct guest_memory *memory, const struct options *options);

/*
 * A ROM image for the top of the 4 GiB, zero bytes of which are guest RAM: the caller owns the page-aligned
 * memory and frees it with rom_release().
 */
struct rom {
    uint8_t *host; /* NULL: none */
    uint64_t size; /* whole pages */
};

int boot_bios(struct boot_state *state, struct rom *rom, const struct options *options);
void rom_release(struct rom *rom);

/* How much of the ROM's end also shows below 1 MiB. */
uint64_t rom_shadow_size(const struct rom *rom);

#endif
