/*
 * Where in struct cpu a register of the API stands, and in which form: by one look into a table for what is read and written
 * most. Everything else is a matter of soft_registers.c.
 */
#ifndef OWHP_ENGINE_SOFT_REGISTER_PLACE_H
#define OWHP_ENGINE_SOFT_REGISTER_PLACE_H

#include "core/registers.h"
#include "x86/cpu.h"

enum register_kind {
    PLACE_NONE,
    PLACE_PLAIN,   /* uint64_t */
    PLACE_SEGMENT, /* struct segment */
    PLACE_TABLE,   /* struct table_register */
};

struct register_place {
    uint16_t offset;
    uint8_t kind; /* enum register_kind */
};

/* Names below 0x100 directly, 0x2000.. from entry 0x100 on. */
extern const struct register_place register_places[0x200];

/* The kind and the place of the register of that name; PLACE_NONE: it has no member of its own. */
static always_inline enum register_kind register_place(struct cpu *cpu, uint32_t name, void **at)
{
    uint32_t entry = name;

    if (unlikely(name >= 0x100)) {
        if (name - 0x2000 >= 0x100)
            return PLACE_NONE;
        entry = name - 0x2000 + 0x100;
    }
    const struct register_place *place = &register_places[entry];
    *at = (uint8_t *)cpu + place->offset;
    return (enum register_kind)place->kind;
}

#endif
