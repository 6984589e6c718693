/*
 * The software TLB.
 *
 * A direct-mapped array of pages. An entry serves loads when its read tag equals, and stores when its write tag
 * equals, the page address of the access's LAST byte joined with the current key:
 *
 *      63                                12  11   10          2 1   0
 *      [ linear page number                ][code][ generation  ][mode]      tag and key
 *
 * mode:  0 supervisor, 1 user, 2 supervisor with SMAP suspended by AC, 3 every access takes the slow path
 * (alignment checking or data breakpoints are on; such entries are never filled).
 *
 * - A flush takes a new generation; entries of older ones match no more. When the 9 bits are used up, the array is
 *   cleared once. Read and write tags have generations of their own: harvesting dirty bits drops write tags only.
 * - An address space (a PCID; 0 without CR4.PCIDE) has its own pair of generations, and returning to it makes its entries
 *   match again. A few spaces are remembered; a forgotten one is empty, as a processor may have it (SDM 3A 4.10.1).
 * - Global pages are entered under the generation of the space that used them first. When a look-up misses, the entry in
 *   its slot may be such a page: then it gets the current generation, without a walk (tlb_space.c). What they are valid
 *   for is a pair of generations beside the tags, which only flushes of global pages advance.
 * - Protection keys are looked at when an entry is made. Entries of pages with a key other than 0 are listed, and leave
 *   when PKRU or PKRS take a right away; nothing else does.
 * - The slot is (p + p >> 7): large power-of-two strides spread, and neighbouring pages never share a slot. That is why
 *   comparing the last byte's page also finds accesses that cross into the next page: they miss.
 * - Invariant W: a write tag exists only while the page's dirty bit is set. When the page holds decoded code the tag has
 *   the code mark: it matches no fast store, and the slow path finds it.
 */
#ifndef OWHP_X86_TLB_H
#define OWHP_X86_TLB_H

#include "x86/cpu.h"
#include "x86/port.h"

struct tlb_entry {
    uint64_t read_tag;
    uint64_t write_tag;
    uint64_t host_delta; /* host address = linear address + host_delta */
    /*
     *      63   60 59          52 51                12 11         3   2      1        0
     *      [ key  ][ global write ][ guest physical page ][ global read ][ 0 ][listed][global]
     */
    uint64_t page;
};

#define TLB_PAGE_ADDRESS   0x000ffffffffff000ull
#define TLB_PAGE_GLOBAL    0x1ull
#define TLB_PAGE_LISTED    0x2ull /* the slot is in tlb->keyed */
#define TLB_PAGE_READ_GLOBAL  (0x1ffull << 3)
#define TLB_PAGE_WRITE_GLOBAL (0xffull << 52)

/* In a write tag: stores are allowed, but the page holds decoded code. No key has this bit. */
#define TLB_CODE_MARK 0x800u

/* Instruction fetch has its own small TLB: filled on block look-ups only. */
struct tlb_fetch {
    uint64_t tag;
    uint8_t *host;
    uint64_t page; /* as in struct tlb_entry: the address, global read, global */
};

/*
 * A page that the port gave no memory for, a device's mostly: where it translates to, so that each access need not walk. The
 * port is asked each time, for it may have memory by then.
 */
struct tlb_device {
    uint64_t tag;  /* as a read tag */
    gpa_t page;    /* bit 0: may be written, and the dirty bit is set */
};

/* Guest physical pages lately used by walks: host addresses of page tables. */
struct tlb_physical {
    gpa_t page; /* ~0: none */
    uint8_t *host;
    uint32_t rights;
};

/* Linear addresses; first > last: none. */
struct tlb_range {
    gva_t first, last;
};

/* An address space: what its entries are found by, while `flushes` is the TLB's. */
struct tlb_space {
    uint64_t flushes, write_flushes;
    uint64_t epoch;         /* part of the jump cache's key */
    uint32_t read_generation, write_generation; /* 0..510 */
    uint32_t pcid;
    struct tlb_range large; /* where large pages were entered since the space was flushed */
};

enum { TLB_SPACES = 32, TLB_KEYED = 64 };
enum { TLB_FIRST_SIZE = 1024, TLB_LAST_SIZE = 16384, TLB_FETCH_SIZE = 512, TLB_PHYSICAL_SIZE = 64, TLB_DEVICE_SIZE = 8 };
enum { TLB_MODE_SUPERVISOR, TLB_MODE_USER, TLB_MODE_NO_SMAP, TLB_MODE_SLOW };
#define TLB_NO_TAG (~(uint64_t)0)

struct tlb {
    struct tlb_entry *entries; /* cpu->tlb_entries */
    uint32_t size;
    uint32_t fills;     /* since the last look at whether to grow */
    struct tlb_space *space; /* the current one */
    /* Given out last. */
    uint32_t read_generation, write_generation; /* 0..510 */
    uint64_t epoch;
    /* Counts: what spaces and their write generations must have seen to be valid. */
    uint64_t flushes, write_flushes;
    uint32_t global_read, global_write; /* generations of global pages, as in tlb_entry.page */
    struct tlb_range large_global;
    uint16_t keyed[TLB_KEYED]; /* slots that hold or held pages with a protection key */
    uint32_t keyed_count;
    bool keyed_overflow;       /* there are more than are listed */
    struct tlb_space spaces[TLB_SPACES];
    struct tlb_fetch fetch[TLB_FETCH_SIZE];
    struct tlb_physical physical[TLB_PHYSICAL_SIZE];
    struct tlb_device device[TLB_DEVICE_SIZE];
};

static always_inline uint64_t tlb_slot(gva_t linear)
{
    return (linear >> 12) + (linear >> 19);
}

/* Host address for a load or store of `size` bytes, NULL when the slow path must be taken. */
static always_inline uint8_t *tlb_read(const struct cpu *cpu, gva_t linear, unsigned size)
{
    const struct tlb_entry *e = &cpu->tlb_entries[tlb_slot(linear) & cpu->tlb_mask];
    uint64_t tag = ((linear + size - 1) & PAGE_MASK) | cpu->read_key;
    return likely(e->read_tag == tag) ? (uint8_t *)(linear + e->host_delta) : NULL;
}

static always_inline uint8_t *tlb_write(const struct cpu *cpu, gva_t linear, unsigned size)
{
    const struct tlb_entry *e = &cpu->tlb_entries[tlb_slot(linear) & cpu->tlb_mask];
    uint64_t tag = ((linear + size - 1) & PAGE_MASK) | cpu->write_key;
    return likely(e->write_tag == tag) ? (uint8_t *)(linear + e->host_delta) : NULL;
}

/* The same for the modes that are not the current one (the processor's own accesses): `mode` is TLB_MODE_*, not SLOW. */
static always_inline uint8_t *tlb_find(const struct cpu *cpu, gva_t linear, size_t size, enum access_type type, unsigned mode)
{
    const struct tlb_entry *e = &cpu->tlb_entries[tlb_slot(linear) & cpu->tlb_mask];
    uint64_t key = ((type == ACCESS_WRITE ? cpu->write_key : cpu->read_key) & ~(uint64_t)3) | mode;
    uint64_t tag = ((linear + size - 1) & PAGE_MASK) | key;
    return likely((type == ACCESS_WRITE ? e->write_tag : e->read_tag) == tag) ? (uint8_t *)(linear + e->host_delta) : NULL;
}

/* A store to a page that holds decoded code, and is otherwise allowed: host and guest physical address. NULL: not known. */
static always_inline uint8_t *tlb_code_page(const struct cpu *cpu, gva_t linear, size_t size, unsigned mode, gpa_t *gpa)
{
    const struct tlb_entry *e = &cpu->tlb_entries[tlb_slot(linear) & cpu->tlb_mask];
    uint64_t tag = ((linear + size - 1) & PAGE_MASK) | TLB_CODE_MARK | (cpu->write_key & ~(uint64_t)3) | mode;

    if (e->write_tag != tag)
        return NULL;
    *gpa = (e->page & TLB_PAGE_ADDRESS) | (linear & ~PAGE_MASK);
    return (uint8_t *)(linear + e->host_delta);
}

bool tlb_create(struct cpu *cpu);
void tlb_destroy(struct cpu *cpu);
/* tlb_space.c. Each drops at least what it says. */
void tlb_flush(struct cpu *cpu);            /* everything */
void tlb_flush_local(struct cpu *cpu);      /* all spaces, but not global pages */
void tlb_flush_writes(struct cpu *cpu);     /* write tags */
void tlb_flush_page(struct cpu *cpu, gva_t linear); /* of the current space, and global */
void tlb_flush_space(struct cpu *cpu, unsigned pcid);
void tlb_flush_space_page(struct cpu *cpu, unsigned pcid, gva_t linear);
/* CR3 was loaded: go on in this space, with what it had (keep) or empty. */
void tlb_enter_space(struct cpu *cpu, unsigned pcid, bool keep);
/* PKRU or PKRS now deny what they allowed for these keys (bit n: key n). */
void tlb_restrict_keys(struct cpu *cpu, unsigned keys);
/* The jump cache is stale. */
void tlb_forget_jumps(struct cpu *cpu);
void tlb_forget_host(struct cpu *cpu);  /* the physical cache too: memory has changed */
void tlb_update_keys(struct cpu *cpu, unsigned mode);

/* Between tlb_space.c and tlb.c: the entry of a large page; a global page of another space, brought into this one. */
void tlb_note_large(struct cpu *cpu, gva_t linear, uint64_t size, bool is_global);
void tlb_note_key(struct cpu *cpu, struct tlb_entry *entry, unsigned key);
void tlb_count_fill(struct cpu *cpu);
bool tlb_revive(struct cpu *cpu, gva_t linear, enum access_type type, unsigned mode);
bool tlb_revive_fetch(struct cpu *cpu, struct tlb_fetch *fetch, uint64_t tag);

/* Where a linear address leads for one access. */
struct tlb_target {
    gpa_t gpa;      /* with the page offset */
    uint8_t *host;  /* address of the byte, NULL: through the port */
    bool is_code;   /* store: tell cpu_code_stored() afterwards */
};

/*
 * Translate for an access that does not cross a page; enter it in the TLB when `mode` is the current one.
 * False: cpu->leave is set (fault or exit).
 */
must_check bool tlb_translate(struct cpu *cpu, gva_t linear, enum access_type type, unsigned mode, struct tlb_target *target);

/* Was there no memory the last time the address was translated? (At the present privilege; not for TLB_MODE_SLOW.) */
must_check bool tlb_is_known_device(struct cpu *cpu, gva_t linear, enum access_type type);

/* For instruction fetch. *host is the start of the page. */
must_check bool tlb_translate_fetch(struct cpu *cpu, gva_t linear, uint8_t **host, gpa_t *page);
/* Host address of a guest physical page for the walker and the code cache; NULL: the port refuses. */
uint8_t *tlb_physical_page(struct cpu *cpu, gpa_t gpa, enum access_type type);

/* The same as far as it is known already. */
static always_inline uint8_t *tlb_known_physical_page(const struct cpu *cpu, gpa_t gpa, enum access_type type)
{
    const struct tlb_physical *p = &cpu->tlb->physical[(gpa >> PAGE_SHIFT) % TLB_PHYSICAL_SIZE];

    return likely(p->page == (gpa & PAGE_MASK) && (p->rights & 1u << type)) ? p->host : NULL;
}

/* The tag that an instruction fetch looks for. */
static always_inline uint64_t tlb_fetch_tag(const struct cpu *cpu, gva_t linear)
{
    const unsigned mode = cpu->cpl == 3 ? TLB_MODE_USER : TLB_MODE_SUPERVISOR;

    return (linear & PAGE_MASK) | (cpu->read_key & ~(uint64_t)3) | mode;
}

/* The same without side effects on the guest (no fault, no exit): NULL when it is not there. */
static always_inline uint8_t *tlb_peek_fetch(const struct cpu *cpu, gva_t linear)
{
    const struct tlb_fetch *f = &cpu->tlb->fetch[tlb_slot(linear) % TLB_FETCH_SIZE];

    return likely(f->tag == tlb_fetch_tag(cpu, linear)) ? f->host : NULL;
}

#endif
