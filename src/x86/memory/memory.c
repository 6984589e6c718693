/*
 * Memory as the processor sees it: the slow paths behind the TLB, and segment checks. Contract in memory.h.
 *
 * An access is first translated as a whole (both pages when it crosses), then transferred. Of a crossing access the
 * device part goes first: it is the one that may still end in an exit, and then nothing must have happened.
 */
#include "x86/memory/memory.h"

#include <string.h>

#include "os/guarded.h"
#include "x86/code/code.h"
#include "x86/memory/split.h"

static unsigned tlb_mode_for(const struct cpu *cpu, enum mem_privilege privilege)
{
    switch (privilege) {
    case MEM_SYSTEM:
        return TLB_MODE_SUPERVISOR;
    case MEM_USER:
        return TLB_MODE_USER;
    default:
        return cpu->read_key & 3;
    }
}

/* What an access of that size is to be aligned to: SDM 3A table 6-7. */
static size_t required_alignment(size_t size)
{
    switch (size) {
    case 2: case 4: case 8: return size;
    case 10: return 8;          /* 80-bit numbers */
    case 14: case 94: return 2; /* x87 environment and state, 16-bit */
    case 28: case 108: return 4;
    default: return 1;
    }
}

/* Alignment checking (SDM 3A 6.15, #AC): user mode, CR0.AM and RFLAGS.AC. */
bool mem_is_misaligned(const struct cpu *cpu, gva_t linear, size_t size)
{
    return (cpu->read_key & 3) == TLB_MODE_SLOW && cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (cpu->rflags & RFLAGS_AC) &&
           (linear & (required_alignment(size) - 1));
}

/* Descriptor tables and the TSS have 64-bit addresses in compatibility mode too. */
static gva_t wrap(const struct cpu *cpu, gva_t linear, enum mem_privilege privilege)
{
    return cpu_is_64(cpu) || (privilege == MEM_SYSTEM && cpu_is_long(cpu)) ? linear : (uint32_t)linear;
}

bool mem_split(struct cpu *cpu, gva_t linear, size_t size, enum access_type type, enum mem_privilege privilege,
               struct split *split)
{
    unsigned mode = tlb_mode_for(cpu, privilege);
    size_t room = (size_t)(PAGE_SIZE - (linear & ~PAGE_MASK));

    if (unlikely(privilege == MEM_CURRENT && mem_is_misaligned(cpu, linear, size)))
        return raise_error(cpu, VECTOR_AC, 0);
    split->count = size > room ? 2 : 1;
    split->piece[0].linear = wrap(cpu, linear, privilege);
    split->piece[0].size = size > room ? room : size;
    if (likely(size <= room))
        return tlb_translate(cpu, split->piece[0].linear, type, mode, &split->piece[0].target);
    split->piece[1].linear = wrap(cpu, linear + room, privilege);
    split->piece[1].size = size - room;
    for (unsigned i = 0; i < split->count; i++)
        if (!tlb_translate(cpu, split->piece[i].linear, type, mode, &split->piece[i].target))
            return false;
    return true;
}

static bool port_outcome(struct cpu *cpu, enum port_result result)
{
    if (result == PORT_DONE)
        return true;
    cpu->leave = result == PORT_FAULT ? LEAVE_FAULT : LEAVE_EXIT;
    return false;
}

static bool transfer_chunk(struct cpu *cpu, const struct piece *piece, size_t at, size_t size, uint8_t *data,
                           enum access_type type)
{
    const struct port_access access = {.gpa = piece->target.gpa + at, .gva = piece->linear + at, .gva_valid = true,
                                       .type = type, .size = (uint8_t)size, .data = data + at};

    return port_outcome(cpu, cpu->port->access(cpu, &access));
}

/* Through the port, in pieces of at most 64 bytes. */
static bool transfer_device(struct cpu *cpu, const struct piece *piece, uint8_t *data, enum access_type type)
{
    size_t done = 0;

    for (; unlikely(piece->size - done > 64); done += 64)
        if (!transfer_chunk(cpu, piece, done, 64, data, type))
            return false;
    return transfer_chunk(cpu, piece, done, piece->size - done, data, type);
}

/* Naturally aligned loads and stores are single-copy atomic (SDM 3A 8.1.1). */
static bool load_bytes(uint8_t *data, const uint8_t *host, size_t size)
{
    union {
        uint16_t w;
        uint32_t d;
        uint64_t q;
    } value; /* the second part of what crosses a page goes to any address */

    switch (size) {
    case 1: return guarded_load8(host, data);
    case 2: return guarded_load16(host, &value.w) && memcpy(data, &value, 2);
    case 4: return guarded_load32(host, &value.d) && memcpy(data, &value, 4);
    case 8: return guarded_load64(host, &value.q) && memcpy(data, &value, 8);
    case 16: return guarded_load128(host, data);
    default: return guarded_copy(data, host, size);
    }
}

static bool store_bytes(uint8_t *host, const uint8_t *data, size_t size)
{
    uint64_t value = 0;

    switch (size) {
    case 1: return guarded_store8(host, *data);
    case 2: memcpy(&value, data, 2); return guarded_store16(host, (uint16_t)value);
    case 4: memcpy(&value, data, 4); return guarded_store32(host, (uint32_t)value);
    case 8: memcpy(&value, data, 8); return guarded_store64(host, value);
    case 16: return guarded_store128(host, data);
    default: return guarded_copy(host, data, size);
    }
}

/* Host memory; falls back to the port when it has vanished. */
static bool transfer_host(struct cpu *cpu, const struct piece *piece, uint8_t *data, enum access_type type)
{
    uint8_t *host = piece->target.host;
    bool ok = true;

    if (type == ACCESS_READ) {
        ok = load_bytes(data, host, piece->size);
    } else {
        ok = store_bytes(host, data, piece->size);
        if (ok && piece->target.is_code)
            code_stored(cpu, piece->target.gpa, host, piece->size);
    }
    return ok || transfer_device(cpu, piece, data, type);
}

/* Memory behind the port: storing there cannot exit, so it waits until those have been asked who may. */
static bool port_serves(struct cpu *cpu, const struct piece *piece, enum access_type type)
{
    return type == ACCESS_WRITE && cpu->port->serves && cpu->port->serves(cpu, piece->target.gpa & PAGE_MASK, type);
}

/* Of a store that crosses pages no half may happen alone: is the memory there? A locked exchange of a byte by itself tells. */
static bool has_host(const struct piece *piece, enum access_type type)
{
    uint8_t byte = 0;
    bool equal;

    return piece->target.host && (type != ACCESS_WRITE || guarded_cas8(piece->target.host, &byte, 0, &equal));
}

static bool transfer_piece(struct cpu *cpu, const struct piece *piece, uint8_t *data, enum access_type type)
{
    return piece->target.host ? transfer_host(cpu, piece, data, type) : transfer_device(cpu, piece, data, type);
}

bool mem_transfer(struct cpu *cpu, const struct split *split, uint8_t *data, enum access_type type)
{
    uint8_t *at[2] = {data, data + split->piece[0].size};
    bool late[2] = {false, false}, host[2];

    if (likely(split->count == 1))
        return transfer_piece(cpu, &split->piece[0], data, type);
    for (unsigned i = 0; i < split->count; i++) {
        host[i] = has_host(&split->piece[i], type);
        if (host[i])
            continue;
        late[i] = port_serves(cpu, &split->piece[i], type);
        if (!late[i] && !transfer_device(cpu, &split->piece[i], at[i], type))
            return false;
    }
    for (unsigned i = 0; i < split->count; i++)
        if (late[i] && !transfer_device(cpu, &split->piece[i], at[i], type))
            return false;
    for (unsigned i = 0; i < split->count; i++)
        if (host[i] && !transfer_host(cpu, &split->piece[i], at[i], type))
            return false;
    return true;
}

/* The TLB's answer, for accesses within a page. */
static always_inline bool read_hit(struct cpu *cpu, gva_t linear, void *to, size_t size, unsigned mode)
{
    const uint8_t *host = mode == TLB_MODE_SLOW ? NULL : tlb_find(cpu, linear, size, ACCESS_READ, mode);

    if (unlikely(!host))
        return false;
    return load_bytes(to, host, size);
}

static always_inline bool code_hit(struct cpu *cpu, gva_t linear, const void *from, size_t size, unsigned mode)
{
    gpa_t gpa;
    uint8_t *host = mode == TLB_MODE_SLOW ? NULL : tlb_code_page(cpu, linear, size, mode, &gpa);

    if (!host || !store_bytes(host, from, size))
        return false;
    code_stored(cpu, gpa, host, size);
    return true;
}

static always_inline bool write_hit(struct cpu *cpu, gva_t linear, const void *from, size_t size, unsigned mode)
{
    uint8_t *host = mode == TLB_MODE_SLOW ? NULL : tlb_find(cpu, linear, size, ACCESS_WRITE, mode);

    return likely(host) ? store_bytes(host, from, size) : code_hit(cpu, linear, from, size, mode);
}

static noinline bool access_crossing(struct cpu *cpu, gva_t linear, void *data, size_t size, enum access_type type,
                                     enum mem_privilege privilege)
{
    struct split split;

    return mem_split(cpu, linear, size, type, privilege, &split) && mem_transfer(cpu, &split, data, type) &&
           seen(cpu, linear, size, type);
}

/* What the TLB has no answer for. */
static noinline bool access_slowly(struct cpu *cpu, gva_t linear, void *data, size_t size, enum access_type type,
                                   enum mem_privilege privilege)
{
    struct piece piece;

    if (unlikely((linear & ~PAGE_MASK) + size > PAGE_SIZE))
        return access_crossing(cpu, linear, data, size, type, privilege);
    if (unlikely(privilege == MEM_CURRENT && mem_is_misaligned(cpu, linear, size)))
        return raise_error(cpu, VECTOR_AC, 0);
    piece.linear = wrap(cpu, linear, privilege);
    piece.size = size;
    return tlb_translate(cpu, piece.linear, type, tlb_mode_for(cpu, privilege), &piece.target) &&
           transfer_piece(cpu, &piece, data, type) && seen(cpu, linear, size, type);
}

bool mem_read(struct cpu *cpu, gva_t linear, void *to, size_t size, enum mem_privilege privilege)
{
    if (likely(read_hit(cpu, linear, to, size, tlb_mode_for(cpu, privilege))))
        return seen(cpu, linear, size, ACCESS_READ);
    return access_slowly(cpu, linear, to, size, ACCESS_READ, privilege);
}

bool mem_write(struct cpu *cpu, gva_t linear, const void *from, size_t size, enum mem_privilege privilege)
{
    if (likely(write_hit(cpu, linear, from, size, tlb_mode_for(cpu, privilege))))
        return seen(cpu, linear, size, ACCESS_WRITE);
    return access_slowly(cpu, linear, (void *)(uintptr_t)from, size, ACCESS_WRITE, privilege);
}

bool mem_probe(struct cpu *cpu, gva_t linear, size_t size, enum access_type type, enum mem_privilege privilege)
{
    unsigned mode = tlb_mode_for(cpu, privilege);
    struct split split;

    if (mode != TLB_MODE_SLOW && size - 1 < PAGE_SIZE && tlb_find(cpu, linear, size, type, mode))
        return true;
    return size == 0 || mem_split(cpu, linear, size, type, privilege, &split);
}

bool mem_touch(struct cpu *cpu, gva_t linear)
{
    struct split split;
    uint8_t byte;

    if (!mem_split(cpu, linear, 1, ACCESS_READ, MEM_CURRENT, &split))
        return false;
    const struct piece *piece = &split.piece[0];
    if (!cpu->port->page || (piece->target.host && guarded_load8(piece->target.host, &byte)))
        return true;
    const struct port_access access = {.gpa = piece->target.gpa, .gva = piece->linear, .gva_valid = true, .is_touch = true,
                                       .type = ACCESS_READ, .size = 1, .data = &byte};
    return port_outcome(cpu, cpu->port->access(cpu, &access));
}

bool mem_translate(struct cpu *cpu, gva_t linear, enum access_type type, gpa_t *gpa)
{
    struct split split;

    if (!mem_split(cpu, linear, 1, type, MEM_CURRENT, &split))
        return false;
    *gpa = split.piece[0].target.gpa;
    return true;
}

/* The TLB has no answer for a store that needs nothing else. */
static bool write_missed(struct cpu *cpu, gva_t linear, void *from, size_t size)
{
    return code_hit(cpu, linear, from, size, (unsigned)(cpu->read_key & 3))
               ? seen(cpu, linear, size, ACCESS_WRITE)
               : access_slowly(cpu, linear, from, size, ACCESS_WRITE, MEM_CURRENT);
}

/* clang-format off */
#define MEM_ACCESS(bits)                                                                            \
    bool mem_read##bits(struct cpu *cpu, gva_t linear, uint##bits##_t *value)                       \
    {                                                                                               \
        const uint8_t *host = tlb_read(cpu, linear, bits / 8);                                      \
        if (likely(host) && likely(guarded_load##bits(host, value)))                                \
            return true;                                                                            \
        return access_slowly(cpu, linear, value, bits / 8, ACCESS_READ, MEM_CURRENT);               \
    }                                                                                               \
    bool mem_write##bits(struct cpu *cpu, gva_t linear, uint##bits##_t value)                       \
    {                                                                                               \
        uint8_t *host = tlb_write(cpu, linear, bits / 8);                                           \
        if (likely(host) && likely(guarded_store##bits(host, value)))                               \
            return true;                                                                            \
        return write_missed(cpu, linear, &value, bits / 8);                                         \
    }
MEM_ACCESS(8) MEM_ACCESS(16) MEM_ACCESS(32) MEM_ACCESS(64)
/* clang-format on */

uint8_t *mem_direct(struct cpu *cpu, gva_t linear, enum access_type type)
{
    uint8_t *host = type == ACCESS_WRITE ? tlb_write(cpu, linear, 1) : tlb_read(cpu, linear, 1);
    struct tlb_target target;
    uint32_t leave = cpu->leave;
    struct cpu_fault fault = cpu->fault;

    if (host || (cpu->read_key & 3) == TLB_MODE_SLOW)
        return host;
    if (cpu->port->page && !cpu->port->translate &&
        tlb_translate(cpu, linear, type, (unsigned)(cpu->read_key & 3), &target) && !target.is_code)
        return target.host;
    /* The slow way will find out again, and raise it. */
    if (cpu->leave != LEAVE_EXIT) {
        cpu->leave = leave;
        cpu->fault = fault;
    }
    return NULL;
}
