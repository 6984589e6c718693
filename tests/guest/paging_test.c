/*
 * The running processor against the second statement of the rules of paging (tests/walk/walk_oracle.h).
 *
 * A life is one set of random page tables in one mode. The processor executes loads, stores, read-modify-writes, jumps and
 * LAR (an implicit supervisor access) on one page; in between come MOV CR0, CR3, CR4, WRPKRU, changes of IA32_PKRS, EFER.NXE,
 * AC and CPL, page-table changes followed by an invalidation that suffices, dirty harvests, and switches between two PCIDs.
 * After each access: fault, error code and address, the physical address, what was read or written, and accessed and dirty
 * bits are what the oracle says of the tables as they are, however much of it came from the TLB.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../walk/paging_modes.h"
#include "../walk/walk_oracle.h"
#include "os/guarded.h"
#include "util/compiler.h"
#include "x86/cpu.h"
#include "x86/port.h"
#include "x86/system/control.h"
#include "x86/system/msr.h"

enum { MEMORY = 16 << 20, CODE = 0x10000, FRAMES = 0x40000, FRAMES_END = 0x80000, DESCRIPTOR = 1 << 3 };

struct machine {
    struct cpu *cpu;
    uint8_t *memory;
    gpa_t device; /* the last access outside memory; ~0: none */
    bool dirty[MEMORY >> 12]; /* as a dirty log: stores are allowed where it is set */
};

/* ---- random ---- */

static uint64_t random_state;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1d;
}

static unsigned below(unsigned n) { return (unsigned)((random_u64() >> 32) % n); }
static bool one_in(unsigned n) { return below(n) == 0; }

/* ---- the port: memory and, outside it, a device that notes addresses ---- */

static bool port_page(struct cpu *cpu, gpa_t page, enum access_type type, struct port_page *out)
{
    struct machine *m = cpu->port_context;

    if (page >= MEMORY)
        return false;
    m->dirty[page >> 12] |= type == ACCESS_WRITE;
    *out = (struct port_page){.host = m->memory + page,
                              .rights = PAGE_READ | PAGE_EXECUTE | (m->dirty[page >> 12] ? PAGE_WRITE : 0)};
    return true;
}

static enum port_result port_access(struct cpu *cpu, const struct port_access *access)
{
    struct machine *m = cpu->port_context;

    m->device = access->gpa;
    if (access->type == ACCESS_EXECUTE)
        return PORT_EXIT;
    if (access->type == ACCESS_READ)
        memset(access->data, 0xff, access->size);
    return PORT_DONE;
}

static const struct cpu_port port = {.page = port_page, .access = port_access};

/* ---- spaces: modes of tests/walk, and where the code is ---- */

/* One address space: tables for the tested page, and for the code beside it. */
struct space {
    gpa_t frame[9]; /* the page's path, then the code's, twice */
    gva_t gva;
    uint64_t cr3;   /* with the PCID */
};

struct life {
    struct machine *m;
    const struct mode *mode;
    struct space space[2];
    unsigned current;
    bool has_pcid;
    uint64_t seed;
};

static gpa_t entry_address(const struct life *l, const struct space *s, unsigned level)
{
    return s->frame[level] + index_of(l->mode, level, s->gva) * l->mode->entry_size;
}

static void put_entry(struct life *l, gpa_t at, uint64_t entry)
{
    memcpy(l->m->memory + at, &entry, l->mode->entry_size);
}

static uint64_t leaf_base(const struct mode *mode)
{
    return mode->leaf == mode->levels - 1 ? 0x207000 : PTE_PS | (1ull << mode->shift[mode->leaf] & 0xffffff);
}

static uint64_t random_entry(uint64_t good)
{
    uint64_t entry = good | (random_u64() & (PTE_A | PTE_D | PTE_G));

    entry ^= one_in(3) ? random_u64() & (PTE_W | PTE_U) : 0;
    if (one_in(2))
        entry |= (random_u64() & 15) << 59;
    if (one_in(8))
        entry |= PTE_NX;
    while (one_in(12))
        entry ^= 1ull << (random_u64() & 63);
    return entry;
}

/* A new random entry on the way to the page. */
static void change_entry(struct life *l, const struct space *s, unsigned level)
{
    const struct mode *mode = l->mode;
    uint64_t entry = level == mode->leaf ? leaf_base(mode) | PTE_P | PTE_W | PTE_U : s->frame[level + 1] | PTE_P;

    if (level >= mode->first_with_rights)
        entry = random_entry(entry | PTE_W | PTE_U);
    else if (one_in(16))
        entry &= ~PTE_P;
    put_entry(l, entry_address(l, s, level), entry);
}

/* The code is mapped twice, for CPL 0 and 3, under root entries of its own, which are even. */
static gva_t code_gva(const struct mode *mode, bool user)
{
    return (user ? (gva_t)2 << mode->shift[0] : 0) | CODE;
}

/* Protection keys deny this one nothing: INVPCID reads its descriptor here. */
#define CODE_KEY   1ull
#define ALLOW_CODE (~(3u << 2 * CODE_KEY))

static void map_code(struct life *l, struct space *s, bool user)
{
    const gva_t code = code_gva(l->mode, user);
    const struct mode *mode = l->mode;
    const uint64_t rights = PTE_P | PTE_W | PTE_A | PTE_D | (user ? PTE_U : 0);
    gpa_t table = s->frame[0];

    for (unsigned level = 0; level < mode->levels; level++) {
        const gpa_t at = table + index_of(mode, level, code) * mode->entry_size;
        if (level == mode->levels - 1) {
            put_entry(l, at, CODE | rights);
            break;
        }
        table = s->frame[5 + (level & 1) + (user ? 2 : 0)];
        if (mode->levels > 3 && level == mode->levels - 3) { /* 1G page at 0 */
            put_entry(l, at, PTE_PS | rights | CODE_KEY << 59);
            break;
        }
        put_entry(l, at, table | (level >= mode->first_with_rights ? rights : PTE_P));
    }
}

static gva_t random_gva(const struct mode *mode)
{
    const gva_t gva = random_u64() | 1ull << mode->shift[0];

    if (mode->levels < 4)
        return (uint32_t)gva & ~0xfffu;
    const unsigned shift = mode->levels == 5 ? 7 : 16;
    return ((gva_t)((int64_t)(gva << shift) >> shift) & PAGE_MASK) ^ (one_in(20) ? BIT64(62) : 0);
}

static void set_cpl(struct life *l, unsigned cpl)
{
    struct cpu *cpu = l->m->cpu;
    const bool is_64 = l->mode->levels > 3;

    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        cpu->segment[i] = (struct segment){
            .limit = 0xffffffff, .selector = (uint16_t)(0x10 | cpl), .attributes = (uint16_t)(0xc093 | cpl << 5)};
    cpu->segment[SEG_CS].attributes = (uint16_t)((is_64 ? 0xa09b : 0xc09b) | cpl << 5);
    cpu->cpl = (uint8_t)cpl;
    cpu_update_mode(cpu);
}

static gva_t code_now(const struct life *l)
{
    return code_gva(l->mode, l->m->cpu->cpl == 3);
}

static void begin(struct life *l)
{
    struct cpu *cpu = l->m->cpu;
    const struct mode *mode = l->mode;
    const bool is_long = mode->levels > 3, pge = one_in(2);

    memset(l->m->memory + FRAMES, 0, FRAMES_END - FRAMES);
    cpu_reset(cpu, false);
    l->has_pcid = is_long && !one_in(4);
    for (unsigned i = 0; i < 2; i++) {
        struct space *s = &l->space[i];
        for (unsigned f = 0; f < 9; f++)
            s->frame[f] = FRAMES + (i * 16 + f) * 0x1000;
        /* Both spaces may use the same address unless a page is global, which is a promise about all spaces. */
        s->gva = i && !pge && one_in(2) ? l->space[0].gva : random_gva(mode);
        s->cr3 = s->frame[0] | (l->has_pcid ? (i ? 0x801 : 1) : 0);
        for (unsigned level = 0; level <= mode->leaf; level++)
            change_entry(l, s, level);
        map_code(l, s, false);
        map_code(l, s, true);
    }
    l->current = 0;
    cpu->cr0 = CR0_PE | CR0_PG | CR0_ET | (one_in(2) ? CR0_WP : 0);
    cpu->cr4 = mode->cr4 | (pge ? CR4_PGE : 0) | (l->has_pcid ? CR4_PCIDE : 0) |
               (random_u64() & (CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS));
    cpu->efer = mode->efer | (one_in(4) ? 0 : EFER_NXE);
    cpu->cr3 = l->space[0].cr3;
    cpu_set_pkru(cpu, one_in(2) ? 0 : (uint32_t)random_u64() & ALLOW_CODE);
    cpu_set_pkrs(cpu, one_in(2) ? 0 : (uint32_t)random_u64() & ALLOW_CODE);
    cpu_control_changed(cpu);
    set_cpl(l, one_in(2) ? 3 : 0);
}

/* ---- one instruction at CODE ---- */

static enum cpu_leave execute(struct life *l, const void *bytes, size_t size)
{
    struct cpu *cpu = l->m->cpu;

    memcpy(l->m->memory + CODE, bytes, size);
    cpu_verify_code(cpu);
    cpu->rip = code_now(l);
    l->m->device = ~(gpa_t)0;
    atomic_store(&cpu->request, 0);
    return cpu_step(cpu);
}

#define EXECUTE(l, ...) execute((l), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* ---- the oracle ---- */

static const uint32_t all_flags[] = {
    [0] = WALK_READ, [1] = WALK_WRITE, [2] = WALK_WRITE, [3] = WALK_EXECUTE, [4] = WALK_READ | WALK_IMPLICIT};
enum { LOAD, STORE, MODIFY, JUMP, LAR, KINDS };

static void ask_oracle(struct life *l, gva_t gva, unsigned kind, struct oracle_result *want)
{
    static struct tables tables;
    const struct cpu *cpu = l->m->cpu;
    const struct space *s = &l->space[l->current];
    const struct walk_state state = {.cr0 = cpu->cr0, .cr3 = cpu->cr3, .cr4 = cpu->cr4, .efer = cpu->efer, .pdpte = cpu->pdpte,
                                     .pkru = cpu->pkru, .pkrs = (uint32_t)cpu->pkrs, .physical_bits = cpu->physical_bits,
                                     .ac = cpu->rflags & RFLAGS_AC};

    tables.count = l->mode->leaf + 1;
    for (unsigned i = 0; i < tables.count; i++) {
        tables.base[i] = s->frame[i];
        memcpy(tables.bytes[i], l->m->memory + s->frame[i], 4096);
    }
    oracle_walk(&state, &tables, gva, all_flags[kind] | WALK_SET_BITS | (cpu->cpl == 3 ? WALK_USER : 0), want);
}

/* ---- accesses ---- */

static bool is_precious(gpa_t gpa)
{
    return (gpa >= CODE && gpa < CODE + 0x1000) || (gpa >= FRAMES && gpa < FRAMES_END);
}

static void explain(const struct life *l, gva_t gva, unsigned kind, enum cpu_leave leave, const struct oracle_result *want)
{
    const struct cpu *cpu = l->m->cpu;

    print_error(
        "seed %llu, %s: kind %u gva %#llx cpl %u cr0 %#llx cr3 %#llx cr4 %#llx efer %#llx pkru %#x pkrs %#llx rflags %#llx\n",
        (unsigned long long)l->seed, l->mode->name, kind, (unsigned long long)gva, cpu->cpl, (unsigned long long)cpu->cr0,
        (unsigned long long)cpu->cr3, (unsigned long long)cpu->cr4, (unsigned long long)cpu->efer, cpu->pkru,
        (unsigned long long)cpu->pkrs, (unsigned long long)cpu->rflags);
    print_error(
        "  expected: status %d error %#x gpa %#llx; got: leave %d vector %u error %#x address %#llx device %#llx al %#x\n",
        want->status, want->error, (unsigned long long)want->gpa, leave, cpu->fault.vector, cpu->fault.error,
        (unsigned long long)cpu->fault.address, (unsigned long long)l->m->device, cpu->gpr[REG_RAX].d & 0xff);
    for (unsigned i = 0; i < want->entries; i++) {
        uint64_t now = 0;
        memcpy(&now, l->m->memory + want->entry_gpa[i], want->entry_size);
        print_error("  entry at %#llx: expected %#llx, is %#llx\n", (unsigned long long)want->entry_gpa[i],
                    (unsigned long long)want->entry_after[i], (unsigned long long)now);
    }
}

static bool entries_hold(const struct life *l, const struct oracle_result *want)
{
    for (unsigned i = 0; i < want->entries; i++)
        if (memcmp(l->m->memory + want->entry_gpa[i], &want->entry_after[i], want->entry_size) != 0)
            return false;
    return true;
}

static bool fault_is(const struct cpu *cpu, enum cpu_leave leave, const struct oracle_result *want, gva_t gva)
{
    if (leave != LEAVE_FAULT)
        return false;
    if (want->status == WALK_NOT_CANONICAL)
        return cpu->fault.vector == VECTOR_GP && cpu->fault.error == 0;
    return cpu->fault.vector == VECTOR_PF && cpu->fault.error == want->error && cpu->fault.address == gva;
}

static enum cpu_leave perform(struct life *l, gva_t gva, unsigned kind)
{
    struct cpu *cpu = l->m->cpu;
    enum cpu_leave leave;

    switch (kind) {
    case LOAD: return EXECUTE(l, 0x8a, 0x03);   /* mov al, [rbx] */
    case STORE: return EXECUTE(l, 0x88, 0x03);  /* mov [rbx], al */
    case MODIFY: return one_in(2) ? EXECUTE(l, 0x30, 0x03) : EXECUTE(l, 0xf0, 0x30, 0x03); /* (lock) xor [rbx], al */
    case LAR:
        cpu->gdtr = (struct table_register){.base = gva - DESCRIPTOR, .limit = 0xffff};
        return EXECUTE(l, 0x0f, 0x02, 0xd1);    /* lar edx, ecx */
    default:
        leave = EXECUTE(l, 0xff, 0xe3);         /* jmp rbx, and what is there: a NOP */
        if (leave == LEAVE_REQUEST || leave == LEAVE_NONE)
            leave = cpu_step(cpu);
        return leave;
    }
}

/* Any of the first pages of a large page, a few of which suffice. */
static gva_t address_within(const struct life *l, const struct space *s)
{
    return l->mode->leaf == l->mode->levels - 1 ? s->gva : (s->gva & ~0x7000ull) | (gva_t)below(8) << 12;
}

/* The access happened, where it should: what does memory or the device say? */
static bool landed(const struct life *l, const struct oracle_result *want, unsigned kind, uint8_t before, uint8_t al, gva_t gva)
{
    const struct machine *m = l->m;
    const uint8_t al_after = (uint8_t)m->cpu->gpr[REG_RAX].d;

    if (want->gpa >= MEMORY)
        return m->device == want->gpa;
    if ((kind == STORE || kind == MODIFY) && !m->dirty[want->gpa >> 12])
        return false;
    switch (kind) {
    case LOAD: return al_after == before;
    case STORE: return m->memory[want->gpa] == al;
    case MODIFY: return m->memory[want->gpa] == (before ^ al);
    case JUMP: return m->cpu->rip == (m->cpu->efer & EFER_LMA ? gva + 1 : (uint32_t)(gva + 1));
    default: return true;
    }
}

/* An entry with a flipped address bit: its table is a device or code, or it is a table of another level. */
static bool is_odd(const struct oracle_result *want)
{
    for (unsigned i = 1; i < want->entries; i++)
        for (unsigned k = 0; k < i; k++)
            if (want->entry_gpa[i] == want->entry_gpa[k])
                return true;
    return want->status == WALK_TABLE_UNMAPPED;
}

static void access_once(struct life *l)
{
    struct machine *m = l->m;
    struct cpu *cpu = m->cpu;
    const unsigned kind = below(KINDS);
    const gva_t gva = address_within(l, &l->space[l->current]) | (below(0xf00) & ~15u);
    struct oracle_result want;

    ask_oracle(l, gva, kind, &want);
    const bool inside = want.status == WALK_OK && want.gpa < MEMORY;
    if (inside && is_precious(want.gpa) && kind != LOAD && kind != LAR)
        return;
    if (is_odd(&want))
        return;
    if (inside && kind == JUMP)
        m->memory[want.gpa] = 0x90;
    const uint8_t before = inside ? m->memory[want.gpa] : 0, al = (uint8_t)random_u64();
    cpu->gpr[REG_RBX].q = gva;
    cpu->gpr[REG_RAX].q = al;
    cpu->gpr[REG_RCX].q = DESCRIPTOR;
    const enum cpu_leave leave = perform(l, gva, kind);
    bool good;
    if (want.status != WALK_OK)
        good = fault_is(cpu, leave, &want, gva);
    else if (kind == JUMP && !inside)
        good = leave == LEAVE_EXIT && m->device == want.gpa;
    else
        good = (leave == LEAVE_NONE || leave == LEAVE_REQUEST) && landed(l, &want, kind, before, al, gva);
    if (good && entries_hold(l, &want))
        return;
    explain(l, gva, kind, leave, &want);
    fail_msg("the processor differs from the oracle");
}

/* ---- what comes in between ---- */

static void must(struct life *l, enum cpu_leave leave)
{
    if (leave != LEAVE_NONE && leave != LEAVE_REQUEST)
        fail_msg("%s: leave %d vector %u error %#x at %#llx", l->mode->name, leave, l->m->cpu->fault.vector,
                 l->m->cpu->fault.error, (unsigned long long)l->m->cpu->rip);
}

/* Run at CPL 0 what needs it, whatever the current level is. */
static void as_supervisor(struct life *l, const void *bytes, size_t size)
{
    const unsigned cpl = l->m->cpu->cpl;

    if (cpl)
        set_cpl(l, 0);
    must(l, execute(l, bytes, size));
    if (cpl)
        set_cpl(l, cpl);
}

#define SUPERVISOR(l, ...) as_supervisor((l), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void load_cr3(struct life *l, unsigned to, bool keep)
{
    l->m->cpu->gpr[REG_RAX].q = l->space[to].cr3 | (keep ? BIT64(63) : 0);
    l->current = to;
    SUPERVISOR(l, 0x0f, 0x22, 0xd8);
}

static void invpcid(struct life *l, unsigned type, unsigned space)
{
    uint64_t descriptor[2] = {l->space[space].cr3 & 0xfff, address_within(l, &l->space[space])};

    memcpy(l->m->memory + CODE + 0x800, descriptor, 16);
    l->m->cpu->gpr[REG_RCX].q = type == 0 && !cpu_is_canonical(l->m->cpu, descriptor[1]) ? 1 : type;
    l->m->cpu->gpr[REG_RBX].q = code_gva(l->mode, false) + 0x800;
    SUPERVISOR(l, 0x66, 0x0f, 0x38, 0x82, 0x0b);
}

static void invalidate_current(struct life *l, bool may_be_global)
{
    struct cpu *cpu = l->m->cpu;
    const unsigned choice = below(may_be_global ? 2 : 4);

    if (choice == 0 || (choice != 2 && !(l->mode->levels > 3))) {
        cpu->gpr[REG_RBX].q = address_within(l, &l->space[l->current]) | below(0x1000);
        SUPERVISOR(l, 0x0f, 0x01, 0x3b);
    } else if (choice == 1) {
        invpcid(l, 2, l->current);
    } else if (choice == 2) {
        load_cr3(l, l->current, false);
    } else {
        invpcid(l, one_in(3) ? 3 : one_in(2), l->current);
    }
}

static void change_tables(struct life *l)
{
    const bool pge = l->m->cpu->cr4 & CR4_PGE;
    const unsigned which = l->has_pcid && !pge && one_in(3) ? !l->current : l->current;
    const unsigned level = below(l->mode->leaf + 1);

    if (l->mode->levels == 3 && level == 0 && which == l->current) { /* PDPTEs come with CR3; a reserved bit there is #GP */
        change_entry(l, &l->space[which], level);
        load_cr3(l, which, false);
        invalidate_current(l, pge);
        return;
    }
    change_entry(l, &l->space[which], level);
    if (which == l->current)
        invalidate_current(l, pge);
    else
        invpcid(l, one_in(4) ? 3 : one_in(4) ? 2 : one_in(2), which);
}

static void change_control(struct life *l)
{
    static const uint64_t bits[] = {CR4_SMEP, CR4_SMAP, CR4_PKE, CR4_PKS};
    struct cpu *cpu = l->m->cpu;
    bool done;

    if (one_in(3))
        done = cpu_set_cr0(cpu, cpu->cr0 ^ CR0_WP);
    else if (one_in(3))
        done = cpu_set_efer(cpu, cpu->efer ^ EFER_NXE);
    else
        done = cpu_set_cr4(cpu, cpu->cr4 ^ bits[below(array_size(bits))]);
    assert_true(done);
}

static void change_keys(struct life *l)
{
    struct cpu *cpu = l->m->cpu;
    const uint32_t value = (one_in(2) ? cpu->pkru ^ 1u << below(32) : (uint32_t)random_u64()) & ALLOW_CODE;

    if ((cpu->cr4 & CR4_PKE) && one_in(2)) {
        cpu->gpr[REG_RAX].q = value;
        cpu->gpr[REG_RCX].q = cpu->gpr[REG_RDX].q = 0;
        must(l, EXECUTE(l, 0x0f, 0x01, 0xef));
    } else {
        assert_int_equal(msr_write(cpu, MSR_PKRS, value), MSR_OK);
    }
}

static void harvest(struct life *l)
{
    memset(l->m->dirty, 0, sizeof(l->m->dirty));
    cpu_drop_memory(l->m->cpu, !one_in(8));
}

static void something(struct life *l)
{
    struct cpu *cpu = l->m->cpu;

    switch (below(20)) {
    case 0: change_control(l); break;
    case 1: case 2: change_keys(l); break;
    case 3: case 4: cpu_set_rflags(cpu, cpu_rflags(cpu) ^ RFLAGS_AC); break;
    case 5: case 6: set_cpl(l, cpu->cpl ? 0 : 3); break;
    case 7: case 8: harvest(l); break;
    case 9: case 10: case 11: case 12: change_tables(l); break;
    default: load_cr3(l, one_in(2), l->has_pcid && !one_in(4)); break;
    }
}

static void one_life(struct machine *m, uint64_t seed)
{
    struct life l = {.m = m, .seed = seed};

    random_state = seed * 0x9e3779b97f4a7c15 + 1;
    for (unsigned i = 0; i < 4; i++)
        (void)random_u64();
    l.mode = &modes[below(array_size(modes))];
    begin(&l);
    for (unsigned i = 0; i < 80; i++) {
        access_once(&l);
        if (one_in(2))
            something(&l);
    }
}

static void test_processor_against_oracle(void **unused)
{
    static struct machine m;
    m = (struct machine){.memory = aligned_alloc(4096, MEMORY), .device = ~(gpa_t)0};
    const char *only = getenv("PAGING_SEED"); /* repeat one life */
    const uint64_t first = only ? strtoull(only, NULL, 0) : 1, last = only ? first : 20000;

    (void)unused;
    assert_true(m.memory && guarded_init());
    m.cpu = cpu_create(&port, &m, 40);
    assert_non_null(m.cpu);
    memset(m.memory, 0, MEMORY);
    for (uint64_t i = first; i <= last; i++)
        one_life(&m, i);
    cpu_destroy(m.cpu);
    free(m.memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_processor_against_oracle)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
