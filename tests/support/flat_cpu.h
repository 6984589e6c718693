/*
 * A processor over an array of memory, for tests: guest physical address g is byte g of the array.
 *
 * The port serves the array directly (`direct`) or access by access, answers port input with `io_value` and keeps
 * the last accesses. Everything outside the array reads as ones and swallows writes.
 */
#ifndef OWHP_TESTS_SUPPORT_FLAT_CPU_H
#define OWHP_TESTS_SUPPORT_FLAT_CPU_H

#include "x86/cpu.h"
#include "x86/port.h"

/* Physical memory: page tables first, then what the test maps. */
enum { FLAT_SIZE = 4 << 20, FLAT_TABLES = 0x1000, FLAT_TABLES_END = 0x40000 };

enum flat_rights { FLAT_READ = 0, FLAT_WRITE = 1, FLAT_NO_EXECUTE = 2, FLAT_SUPERVISOR = 4 };

struct flat_cpu {
    struct cpu *cpu;
    uint8_t *memory;       /* FLAT_SIZE bytes, page aligned */
    bool direct;           /* page() gives host memory; false: all but code goes through access() */
    gpa_t next_table;      /* page tables are taken from here */
    uint32_t io_value;     /* what IN reads */
    struct port_io last_io;
    uint32_t last_io_data; /* what was written, or given */
    unsigned io_count;
    unsigned device_count; /* accesses beyond the array */
};

/* NULL: out of memory. The processor is as after reset, with every feature. */
struct flat_cpu *flat_create(void);
void flat_destroy(struct flat_cpu *flat);

/* Real mode: base = selector * 16, limit 64K, everywhere. */
void flat_real(struct flat_cpu *flat);
void flat_real_segment(struct flat_cpu *flat, enum segment_index index, uint16_t selector);

/*
 * Flat segments at the given privilege (0 or 3) under 4-level paging: 64-bit code, or 32-bit code in
 * compatibility mode. Nothing is mapped yet. Selectors are those of a Linux process.
 */
void flat_long(struct flat_cpu *flat, bool is_64, uint8_t cpl);

/* Map one 4K page under the page tables of flat_long(). */
void flat_map(struct flat_cpu *flat, gva_t gva, gpa_t gpa, unsigned rights);

#endif
