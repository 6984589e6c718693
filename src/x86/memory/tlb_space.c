/*
 * The software TLB: its array, address spaces, global pages, protection keys, flushing. The layout and the rules are in
 * tlb.h.
 *
 * Nothing here clears the array but the wrap of a generation counter: a space is empty when it has new generations. A count
 * of flushes tells which remembered spaces are still good, so that flushing all of them touches none.
 */
#include "x86/memory/tlb.h"

#include <stdlib.h>
#include <string.h>

#include "x86/code/code.h"

enum { LAST_GENERATION = 510, LAST_GLOBAL_WRITE = 254 }; /* 511 is none: TLB_NO_TAG must match no key */
enum { NO_PCID = 0x1000 };

static const struct tlb_range no_range = {.first = ~(gva_t)0, .last = 0};

/* ---- the array ---- */

static void clear_entries(struct tlb *tlb)
{
    for (uint32_t i = 0; i < tlb->size; i++)
        tlb->entries[i] = (struct tlb_entry){.read_tag = TLB_NO_TAG, .write_tag = TLB_NO_TAG};
    for (size_t i = 0; i < TLB_FETCH_SIZE; i++)
        tlb->fetch[i].tag = TLB_NO_TAG;
    for (size_t i = 0; i < TLB_DEVICE_SIZE; i++)
        tlb->device[i].tag = TLB_NO_TAG;
    tlb->keyed_count = 0;
    tlb->keyed_overflow = false;
}

static void forget_physical(struct tlb *tlb)
{
    for (size_t i = 0; i < TLB_PHYSICAL_SIZE; i++)
        tlb->physical[i].page = ~(gpa_t)0;
}

static bool set_size(struct cpu *cpu, uint32_t size)
{
    struct tlb *tlb = cpu->tlb;
    struct tlb_entry *entries = aligned_alloc(64, size * sizeof(*entries));

    if (!entries)
        return false;
    free(tlb->entries);
    tlb->entries = entries;
    tlb->size = size;
    tlb->fills = 0;
    cpu->tlb_entries = entries;
    cpu->tlb_mask = size - 1;
    clear_entries(tlb);
    return true;
}

bool tlb_create(struct cpu *cpu)
{
    struct tlb *tlb = calloc(1, sizeof(*tlb));

    cpu->tlb = tlb;
    if (!tlb)
        return false;
    forget_physical(tlb);
    tlb->large_global = no_range;
    for (size_t i = 0; i < TLB_SPACES; i++)
        tlb->spaces[i] = (struct tlb_space){.pcid = NO_PCID, .large = no_range};
    tlb->space = &tlb->spaces[0];
    if (set_size(cpu, TLB_FIRST_SIZE))
        return true;
    tlb_destroy(cpu);
    return false;
}

void tlb_destroy(struct cpu *cpu)
{
    if (!cpu->tlb)
        return;
    free(cpu->tlb->entries);
    free(cpu->tlb);
    cpu->tlb = NULL;
}

/* A TLB that is too small for what the guest touches between flushes costs more than its cache misses. */
void tlb_count_fill(struct cpu *cpu)
{
    struct tlb *tlb = cpu->tlb;

    tlb->fills++;
    if (unlikely(tlb->fills > 8 * tlb->size) && tlb->size < TLB_LAST_SIZE)
        (void)set_size(cpu, tlb->size * 4);
}

/* ---- generations ---- */

/* The next one of a counter. When it starts over, everything that bears an old one goes. */
static uint32_t next_generation(struct tlb *tlb, uint32_t *counter, uint32_t last)
{
    if (likely(*counter < last))
        return ++*counter;
    clear_entries(tlb);
    tlb->flushes++;
    return *counter = 0;
}

static void renew_writes(struct tlb *tlb, struct tlb_space *space)
{
    space->write_generation = next_generation(tlb, &tlb->write_generation, LAST_GENERATION);
    space->write_flushes = tlb->write_flushes;
}

void tlb_update_keys(struct cpu *cpu, unsigned mode)
{
    cpu->read_key = (uint64_t)cpu->tlb->space->read_generation << 2 | mode;
    cpu->write_key = (uint64_t)cpu->tlb->space->write_generation << 2 | mode;
}

static unsigned current_mode(const struct cpu *cpu)
{
    return cpu->read_key & 3;
}

/* ---- spaces ---- */

/* PCIDs of user and supervisor halves of a process differ in a high bit only. */
static struct tlb_space *space_of(struct tlb *tlb, unsigned pcid)
{
    return &tlb->spaces[(pcid ^ pcid >> 7) % TLB_SPACES];
}

void tlb_enter_space(struct cpu *cpu, unsigned pcid, bool keep)
{
    struct tlb *tlb = cpu->tlb;
    struct tlb_space *space = space_of(tlb, pcid);

    tlb->space = space;
    if (!keep || space->pcid != pcid || space->flushes != tlb->flushes) {
        space->pcid = pcid;
        space->read_generation = next_generation(tlb, &tlb->read_generation, LAST_GENERATION);
        renew_writes(tlb, space);
        space->epoch = ++tlb->epoch;
        space->large = no_range;
        tlb->fills = 0;
    } else if (space->write_flushes != tlb->write_flushes) {
        renew_writes(tlb, space);
    }
    space->flushes = tlb->flushes;
    tlb_update_keys(cpu, current_mode(cpu));
    code_update_jump_key(cpu);
}

static unsigned current_pcid(const struct cpu *cpu)
{
    return cpu->cr4 & CR4_PCIDE ? cpu->cr3 & 0xfff : 0;
}

void tlb_flush_local(struct cpu *cpu)
{
    cpu->tlb->flushes++;
    tlb_enter_space(cpu, current_pcid(cpu), false);
}

void tlb_flush(struct cpu *cpu)
{
    struct tlb *tlb = cpu->tlb;

    tlb->global_read = next_generation(tlb, &tlb->global_read, LAST_GENERATION);
    tlb->global_write = next_generation(tlb, &tlb->global_write, LAST_GLOBAL_WRITE);
    tlb->large_global = no_range;
    tlb_flush_local(cpu);
}

void tlb_flush_writes(struct cpu *cpu)
{
    struct tlb *tlb = cpu->tlb;

    tlb->write_flushes++;
    tlb->global_write = next_generation(tlb, &tlb->global_write, LAST_GLOBAL_WRITE);
    renew_writes(tlb, tlb->space);
    tlb->space->flushes = tlb->flushes; /* if a counter started over, the current space is empty but good */
    tlb_update_keys(cpu, current_mode(cpu));
    for (size_t i = 0; i < TLB_PHYSICAL_SIZE; i++)
        tlb->physical[i].rights &= ~(uint32_t)PAGE_WRITE;
}

void tlb_forget_host(struct cpu *cpu)
{
    tlb_flush(cpu);
    forget_physical(cpu->tlb);
    cpu_verify_code(cpu);
}

void tlb_forget_jumps(struct cpu *cpu)
{
    struct tlb *tlb = cpu->tlb;

    for (size_t i = 0; i < TLB_SPACES; i++)
        tlb->spaces[i].epoch = ++tlb->epoch;
    code_update_jump_key(cpu);
}

/* ---- single pages ---- */

static bool contains(const struct tlb_range *range, gva_t linear)
{
    return linear >= range->first && linear <= range->last;
}

void tlb_note_large(struct cpu *cpu, gva_t linear, uint64_t size, bool is_global)
{
    struct tlb_range *range = is_global ? &cpu->tlb->large_global : &cpu->tlb->space->large;
    gva_t first = linear & ~(size - 1), last = first + size - 1;

    if (first < range->first)
        range->first = first;
    if (last > range->last)
        range->last = last;
}

static void forget_page(struct cpu *cpu, gva_t linear)
{
    struct tlb *tlb = cpu->tlb;
    struct tlb_entry *e = &tlb->entries[tlb_slot(linear) & cpu->tlb_mask];
    struct tlb_fetch *f = &tlb->fetch[tlb_slot(linear) % TLB_FETCH_SIZE];

    e->read_tag = e->write_tag = TLB_NO_TAG;
    tlb->device[tlb_slot(linear) % TLB_DEVICE_SIZE].tag = TLB_NO_TAG;
    if ((f->tag & PAGE_MASK) == (linear & PAGE_MASK))
        f->tag = TLB_NO_TAG;
    code_forget_jumps(cpu, linear);
}

void tlb_flush_page(struct cpu *cpu, gva_t linear)
{
    struct tlb *tlb = cpu->tlb;

    if (contains(&tlb->large_global, linear))
        tlb_flush(cpu);
    else if (contains(&tlb->space->large, linear))
        tlb_enter_space(cpu, tlb->space->pcid, false);
    forget_page(cpu, linear);
}

void tlb_flush_space(struct cpu *cpu, unsigned pcid)
{
    struct tlb_space *space = space_of(cpu->tlb, pcid);

    if (space == cpu->tlb->space)
        tlb_enter_space(cpu, space->pcid, false);
    else
        space->pcid = NO_PCID;
}

void tlb_flush_space_page(struct cpu *cpu, unsigned pcid, gva_t linear)
{
    if (contains(&space_of(cpu->tlb, pcid)->large, linear))
        tlb_flush_space(cpu, pcid);
    forget_page(cpu, linear);
}

/* ---- global pages ---- */

/* Is the tag of this page and mode, under any generation? */
static bool is_of(uint64_t tag, gva_t linear, unsigned mode)
{
    return tag != TLB_NO_TAG && !((tag ^ linear) & PAGE_MASK) && (tag & 3) == mode;
}

static bool is_global(const struct tlb *tlb, uint64_t page)
{
    return (page & (TLB_PAGE_GLOBAL | TLB_PAGE_READ_GLOBAL)) == (TLB_PAGE_GLOBAL | (uint64_t)tlb->global_read << 3);
}

/*
 * The rights of a global page hang on nothing that a change of spaces changes. False: there is no such entry, or it does
 * not allow the access now.
 */
bool tlb_revive(struct cpu *cpu, gva_t linear, enum access_type type, unsigned mode)
{
    const struct tlb *tlb = cpu->tlb;
    struct tlb_entry *e = &cpu->tlb_entries[tlb_slot(linear) & cpu->tlb_mask];
    gva_t base = linear & PAGE_MASK;

    if (!is_global(tlb, e->page) || !is_of(e->read_tag, linear, mode))
        return false;
    bool writable = is_of(e->write_tag, linear, mode) && (e->page & TLB_PAGE_WRITE_GLOBAL) >> 52 == tlb->global_write;
    if (type > (writable ? ACCESS_WRITE : ACCESS_READ))
        return false;
    e->read_tag = base | (cpu->read_key & ~(uint64_t)3) | mode;
    e->write_tag = writable ? base | (cpu->write_key & ~(uint64_t)3) | mode | (e->write_tag & TLB_CODE_MARK) : TLB_NO_TAG;
    return true;
}

bool tlb_revive_fetch(struct cpu *cpu, struct tlb_fetch *fetch, uint64_t tag)
{
    if (!is_global(cpu->tlb, fetch->page) || !is_of(fetch->tag, tag & PAGE_MASK, tag & 3))
        return false;
    fetch->tag = tag;
    return true;
}

/* ---- protection keys ---- */

void tlb_note_key(struct cpu *cpu, struct tlb_entry *entry, unsigned key)
{
    struct tlb *tlb = cpu->tlb;

    entry->page |= (uint64_t)key << 60;
    if (entry->page & TLB_PAGE_LISTED)
        return;
    if (tlb->keyed_count == TLB_KEYED) {
        tlb->keyed_overflow = true;
        return;
    }
    entry->page |= TLB_PAGE_LISTED;
    tlb->keyed[tlb->keyed_count++] = (uint16_t)(entry - tlb->entries);
}

void tlb_restrict_keys(struct cpu *cpu, unsigned keys)
{
    struct tlb *tlb = cpu->tlb;
    uint32_t kept = 0;

    /* Key 0 is that of all other pages. */
    const bool all = (keys & 1) || tlb->keyed_overflow;
    for (uint32_t i = 0; i < tlb->keyed_count; i++) {
        struct tlb_entry *e = &tlb->entries[tlb->keyed[i]];
        if (!all && !(keys >> (e->page >> 60) & 1)) {
            tlb->keyed[kept++] = tlb->keyed[i];
            continue;
        }
        e->read_tag = e->write_tag = TLB_NO_TAG;
        e->page &= ~TLB_PAGE_LISTED;
    }
    tlb->keyed_count = kept;
    tlb->keyed_overflow = false;
    if (all)
        tlb_flush(cpu);
}
