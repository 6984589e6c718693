#include "processor_world.h"

#include <string.h>
#include <sys/mman.h>

#include "duel/duel_code.h"
#include "insn/simd_values.h"
#include "util/compiler.h"
#include "x86/system/control.h"

enum {
    CODE_SIZE = 0x800, CODE_PAGES = 0x2000, /* where RIP begins; with what is behind it */
    CODE = 0x10000, STACK = 0x20000, GDT = 0x30000, IDT = 0x31000, TSS = 0x33000, LDT = 0x34000, DATA = 0x38000,
    TABLES = 0x40000, TABLE_PAGES = 16, CANARY = 0xc5,
};

static unsigned below(unsigned n) { return (unsigned)((simd_random() >> 32) % n); }

/* ---- the port ---- */

static struct world *world_of(struct cpu *cpu) { return cpu->port_context; }

static bool world_page(struct cpu *cpu, gpa_t page_address, enum access_type type, struct port_page *page)
{
    static const uint8_t need[] = {[ACCESS_READ] = PAGE_READ, [ACCESS_WRITE] = PAGE_WRITE, [ACCESS_EXECUTE] = PAGE_EXECUTE};
    struct world *world = world_of(cpu);

    if (page_address >= WORLD_MEMORY || !(world->rights[page_address / PAGE_SIZE] & need[type]))
        return false;
    *page = (struct port_page){.host = world->memory + page_address, .rights = world->rights[page_address / PAGE_SIZE]};
    return true;
}

static bool wants_exit(const struct world *world) { return world->exit_one_in && below(world->exit_one_in) == 0; }

static enum port_result world_access(struct cpu *cpu, const struct port_access *access)
{
    struct world *world = world_of(cpu);
    const bool inside = access->gpa < WORLD_MEMORY && access->size <= WORLD_MEMORY - access->gpa;

    if (wants_exit(world) || (access->type == ACCESS_EXECUTE))
        return PORT_EXIT;
    if (access->lost) {
        uint64_t entry = 0;
        if (inside)
            memcpy(&entry, world->memory + access->gpa, access->size);
        *access->lost = memcmp(&entry, &access->expected, access->size) != 0;
        if (*access->lost)
            return PORT_DONE;
    }
    if (access->type == ACCESS_READ && inside)
        memcpy(access->data, world->memory + access->gpa, access->size);
    else if (access->type == ACCESS_READ)
        memset(access->data, 0xff, access->size);
    else if (inside)
        memcpy(world->memory + access->gpa, access->data, access->size);
    return PORT_DONE;
}

static enum port_result world_io(struct cpu *cpu, const struct port_io *io)
{
    if (wants_exit(world_of(cpu)))
        return PORT_EXIT;
    if (!io->is_write)
        *io->data = (uint32_t)simd_random() & (io->size == 4 ? 0xffffffff : (1u << io->size * 8) - 1);
    return PORT_DONE;
}

static enum port_result world_msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    (void)index, (void)value;
    return wants_exit(world_of(cpu)) ? PORT_EXIT : PORT_DEFAULT;
}

static enum port_result world_msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
    (void)index, (void)value;
    return wants_exit(world_of(cpu)) ? PORT_EXIT : PORT_DEFAULT;
}

static enum port_result world_exception(struct cpu *cpu, const struct cpu_fault *fault)
{
    (void)fault;
    return wants_exit(world_of(cpu)) ? PORT_EXIT : PORT_DEFAULT;
}

static const struct cpu_port port = {.page = world_page, .access = world_access, .io = world_io, .msr_read = world_msr_read,
                                     .msr_write = world_msr_write, .exception = world_exception};

bool world_create(struct world *world)
{
    uint8_t *base = mmap(NULL, WORLD_MEMORY + 2 * WORLD_CANARY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (base == MAP_FAILED)
        return false;
    memset(base, CANARY, WORLD_MEMORY + 2 * WORLD_CANARY);
    *world = (struct world){.memory = base + WORLD_CANARY};
    world->cpu = cpu_create(&port, world, 40);
    if (!world->cpu)
        return false;
    cpuid_init(&world->cpu->cpuid);
    code_catalogue(64);
    return true;
}

void world_destroy(struct world *world)
{
    cpu_destroy(world->cpu);
    munmap(world->memory - WORLD_CANARY, WORLD_MEMORY + 2 * WORLD_CANARY);
}

bool world_is_intact(const struct world *world)
{
    const uint8_t *sides[] = {world->memory - WORLD_CANARY, world->memory + WORLD_MEMORY};

    /* Mostly the nearest page, now and then all. */
    for (unsigned s = 0; s < 2; s++)
        for (unsigned i = 0; i < WORLD_CANARY; i += 8)
            if (*(const uint64_t *)(const void *)(sides[s] + i) != 0x0101010101010101u * CANARY)
                return false;
    return true;
}

/* ---- tables ---- */

static uint16_t random_selector(void)
{
    static const uint16_t often[] = {0, 0x08, 0x10, 0x1b, 0x23, 0x28, 0x30, 0x38, 0x40};
    return simd_one_in(4) ? (uint16_t)simd_random() : often[below(array_size(often))];
}

static uint64_t random_descriptor(void)
{
    static const uint8_t access[] = {0x9a, 0x9b, 0x92, 0x93, 0xfa, 0xf2, 0xfb, 0xf3, 0x9e, 0xfe, 0x96, 0x90, 0x98, 0xba,
                                     0x85, 0x8c, 0x84, 0x8e, 0x8f, 0x86, 0x87, 0xec, 0xee, 0xef, 0xe5, 0x82, 0x89, 0x8b, 0x81};
    static const uint8_t flags[] = {0x0, 0x4, 0x8, 0xc, 0xa, 0x2, 0xe};
    uint64_t d = simd_one_in(2) ? 0xffff : simd_random() & 0xffff;

    if (simd_one_in(8))
        return simd_random();
    d |= (uint64_t)access[below(array_size(access))] << 40 | (uint64_t)flags[below(array_size(flags))] << 52 | 15ull << 48;
    if (simd_one_in(3))
        d |= (simd_random() & 0xfffff) << 16;
    return d;
}

static void put(struct world *w, uint32_t at, const void *data, size_t size) { memcpy(w->memory + at, data, size); }

/* Stacks that can be switched to, in the first TSS. */
static void fill_stacks(struct world *w, bool is_long)
{
    static const uint16_t selector[] = {0x10, 0x11, 0x12};

    for (unsigned i = 0; i < (is_long ? 11u : 3u); i++) {
        const uint64_t at = STACK + 0x800 + (below(0x800) & ~7u);
        if (is_long && i != 3)
            put(w, TSS + 4 + 8 * i, &at, 8);
        else if (!is_long) {
            put(w, TSS + 4 + 8 * i, &at, 4);
            put(w, TSS + 8 + 8 * i, &selector[i], 2);
        }
    }
}

static void fill_tables(struct world *w, bool is_long)
{
    const uint64_t fixed[] = {0, is_long ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff,
                              is_long ? 0x00affb000000ffff : 0x00cffb000000ffff, 0x00cff3000000ffff,
                              0x00008b0000000067 | (uint64_t)TSS << 16, 0, 0x0000890000000067 | (uint64_t)(TSS + 0x200) << 16,
                              0x0000810000000067 | (uint64_t)(TSS + 0x400) << 16};

    for (unsigned i = 0; i < 64; i++) {
        const uint64_t d = random_descriptor();
        put(w, GDT + i * 8, &d, 8);
        put(w, LDT + i * 8, &d, 8);
    }
    put(w, GDT, fixed, sizeof(fixed));
    for (unsigned i = 0; i < 256; i++) {
        uint64_t d[2] = {(CODE + below(CODE_SIZE)) & 0xffff, simd_one_in(8) ? simd_random() : 0};
        /* Mostly one that leads somewhere; in long mode there are no others than 32-bit gates. */
        static const uint8_t types[] = {0x8e, 0xee, 0x8f, 0x8e, 0xee, 0x8f, 0x86, 0xe7, 0x85, 0x8c};
        d[0] |= (uint64_t)(simd_one_in(4) ? random_selector() : 0x08) << 16 | (uint64_t)types[below(is_long && !simd_one_in(16) ? 6 : array_size(types))] << 40 |
                (uint64_t)(CODE >> 16) << 48 | (is_long && simd_one_in(4) ? (uint64_t)below(8) << 32 : 0);
        put(w, IDT + i * (is_long ? 16 : 8), d, is_long ? 16 : 8);
    }
    for (uint32_t at = TSS; at < TSS + 0x600; at += 4) {
        const uint32_t v = simd_one_in(3) ? random_selector() : STACK + (below(0x1000) & ~7u);
        put(w, at, &v, 4);
    }
    if (!simd_one_in(4))
        fill_stacks(w, is_long);
}

/* Tables that map most of the memory to itself, with entries broken at random, or anything at all. */
static void fill_pages(struct world *w, unsigned levels, bool wide)
{
    for (unsigned t = 0; t < TABLE_PAGES; t++)
        for (unsigned i = 0; i < 512; i++) {
            uint64_t e = (uint64_t)(TABLES + (t + 1) % TABLE_PAGES * PAGE_SIZE) | 0x27;
            const bool is_leaf = t + 1 >= levels;
            if (is_leaf)
                e = (uint64_t)(i & 255) << 12 | 0x67;
            if (levels > 2 && t + 2 == levels && simd_one_in(3))
                e = 0xe7; /* large */
            if (simd_one_in(12))
                e ^= 1ull << below(simd_one_in(3) ? 64 : 12);
            if (simd_one_in(64))
                e = simd_random();
            if (levels == 3 && t == 0)
                e &= ~0x1e6ull; /* PDPTEs of PAE */
            if (wide)
                put(w, (uint32_t)(TABLES + t * PAGE_SIZE + i * 8), &e, 8);
            else {
                const uint32_t narrow[2] = {(uint32_t)e, (uint32_t)e ^ (is_leaf ? 0x1000 : 0)};
                put(w, (uint32_t)(TABLES + t * PAGE_SIZE + i * 8), narrow, 8);
            }
        }
}

/* ---- code ---- */

static const struct {
    uint8_t length, bytes[3];
} system_opcodes[] = {
    {2, {0x0f, 0x00}}, {2, {0x0f, 0x01}}, {2, {0x0f, 0x02}}, {2, {0x0f, 0x03}}, {2, {0x0f, 0x05}}, {2, {0x0f, 0x07}}, {2, {0x0f, 0x20}},
    {2, {0x0f, 0x22}}, {2, {0x0f, 0x23}}, {2, {0x0f, 0x30}}, {2, {0x0f, 0x32}}, {2, {0x0f, 0x34}}, {2, {0x0f, 0x35}}, {2, {0x0f, 0xa1}},
    {2, {0x0f, 0xa9}}, {2, {0x0f, 0xae}}, {2, {0x0f, 0xc7}}, {2, {0x0f, 0xb2}}, {3, {0x66, 0x0f, 0x38}}, {1, {0x07}}, {1, {0x17}}, {1, {0x1f}},
    {1, {0x8e}}, {1, {0x9a}}, {1, {0x9d}}, {1, {0xca}}, {1, {0xcb}}, {1, {0xcc}}, {1, {0xcd}}, {1, {0xcf}}, {2, {0x48, 0xcf}}, {1, {0xea}},
    {1, {0xe4}}, {1, {0x6c}}, {1, {0x6e}}, {2, {0xf3, 0x6c}}, {2, {0xf3, 0xa4}}, {2, {0xf3, 0xab}}, {1, {0xf4}}, {1, {0xfb}}, {1, {0xff}}, {1, {0xc8}},
};

static void fill_code(struct world *w)
{
    const unsigned kind = below(3);
    uint32_t at = CODE;

    for (uint32_t i = CODE; i < CODE + CODE_PAGES; i += 8) {
        const uint64_t r = simd_random();
        put(w, i, &r, 8);
    }
    while (kind > 0 && at < CODE + CODE_SIZE) {
        if (kind == 1 || simd_one_in(3)) {
            const unsigned i = below(array_size(system_opcodes));
            put(w, at, system_opcodes[i].bytes, system_opcodes[i].length);
            at += system_opcodes[i].length + below(4);
            if (simd_one_in(4)) {
                const uint16_t selector = random_selector();
                const uint32_t offset = CODE + below(CODE_SIZE);
                put(w, at, &offset, 4);
                put(w, at + 4, &selector, 2);
                at += 6;
            }
        } else {
            uint8_t code[CODE_LONGEST];
            const unsigned n = code_random(64, at, code);
            put(w, at, code, n);
            at += n;
        }
    }
}

/* ---- registers ---- */

enum kind { REAL, UNREAL, PROTECTED_16, PROTECTED_32, PAGED, PAE, V86, COMPATIBILITY_16, COMPATIBILITY_32, LONG, KINDS };

static void random_segments(struct cpu *cpu, enum kind kind)
{
    const bool narrow = kind == PROTECTED_16 || kind == COMPATIBILITY_16;
    const uint16_t dpl = (uint16_t)(cpu->cpl << SEG_DPL_SHIFT);

    for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
        cpu->segment[i] = (struct segment){.limit = 0xffffffff, .selector = cpu->cpl == 3 ? 0x23 : 0x10,
                                           .attributes = (uint16_t)((narrow && simd_one_in(2) ? 0x8093 : 0xc093) | dpl)};
        if (i != SEG_CS && i != SEG_SS && simd_one_in(8))
            cpu->segment[i] = (struct segment){.limit = (uint32_t)simd_random(), .base = simd_random() & 0xfffff,
                                               .selector = random_selector(), .attributes = (uint16_t)(0x93 | dpl | (simd_random() & 0x4006))};
    }
    cpu->segment[SEG_CS].selector = cpu->cpl == 3 ? 0x1b : 0x08;
    cpu->segment[SEG_CS].attributes = (uint16_t)((kind == LONG ? 0xa09b : narrow ? 0x809b : 0xc09b) | dpl);
    if (kind == REAL || kind == UNREAL || kind == V86)
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            cpu->segment[i] = (struct segment){.base = i == SEG_CS ? CODE : STACK, .limit = kind == UNREAL && i != SEG_CS ? 0xffffffff : 0xffff,
                                               .attributes = kind == V86 ? 0xf3 : 0x93, .selector = (uint16_t)((i == SEG_CS ? CODE : STACK) >> 4)};
    cpu->segment[SEG_TR] = (struct segment){.base = TSS, .limit = simd_one_in(4) ? below(0x200) : 0x67, .selector = 0x28, .attributes = 0x8b};
    cpu->segment[SEG_LDTR] = (struct segment){.base = LDT, .limit = 0x1ff, .selector = simd_one_in(2) ? 0x30 : 0, .attributes = 0x82};
}

static void random_control(struct cpu *cpu, enum kind kind)
{
    const bool is_long = kind >= COMPATIBILITY_16;

    cpu->cr0 = CR0_ET | (kind <= UNREAL ? 0 : CR0_PE) | (kind == PAGED || kind == PAE || is_long || (kind == V86 && simd_one_in(2)) ? CR0_PG : 0);
    cpu->cr4 = (is_long || kind == PAE ? CR4_PAE : 0) | CR4_PSE | CR4_OSFXSR | CR4_OSXSAVE | CR4_OSXMMEXCPT;
    cpu->efer = (is_long ? EFER_LME | EFER_LMA : 0) | EFER_SCE | (simd_one_in(2) ? EFER_NXE : 0);
    for (unsigned attempt = 0; attempt < 8; attempt++) {
        const uint64_t cr0 = cpu->cr0, cr4 = cpu->cr4, efer = cpu->efer;
        cpu->cr0 ^= simd_random() & simd_random() & (CR0_WP | CR0_AM | CR0_MP | CR0_TS | CR0_EM | CR0_NE | CR0_CD | CR0_NW);
        cpu->cr4 ^= simd_random() & simd_random() & cpu_cr4_mask(cpu) & ~(kind == LONG ? 0 : CR4_LA57);
        cpu->efer ^= simd_random() & simd_random() & (EFER_SCE | EFER_NXE);
        if (!cpu_control_problem(cpu))
            break;
        cpu->cr0 = cr0, cpu->cr4 = cr4, cpu->efer = efer;
    }
    cpu->cr3 = TABLES | (cpu->cr4 & CR4_PCIDE ? simd_random() & 0xfff : 0);
    cpu->xcr0 = simd_one_in(4) ? 1 : simd_one_in(2) ? 3 : cpu_xcr0_mask(cpu);
    cpu->star = simd_random();
    cpu->lstar = cpu->cstar = cpu->sysenter_eip = CODE;
    cpu->sysenter_esp = STACK;
    cpu->sysenter_cs = random_selector();
    cpu->dr7 = simd_one_in(4) ? DR7_FIXED | (simd_random() & DR7_WRITABLE) : DR7_FIXED;
    for (unsigned i = 0; i < 4; i++)
        cpu->dr[i] = simd_one_in(2) ? CODE + below(CODE_SIZE) : DATA + below(0x1000);
}

void world_random_code_registers(struct world *w)
{
    struct cpu *cpu = w->cpu;
    const bool based = !cpu_is_protected(cpu);

    if (cpu->memory_event)
        return;
    cpu->gpr[REG_RSP].q = (based ? 0 : STACK) + (below(0x1000) & ~7u);
    for (unsigned i = 0; i < 4; i++)
        cpu->gpr[simd_random() & 15].q = (uint64_t)(based ? 0 : DATA) + below(0x2000);
}

static void random_registers(struct world *w, enum kind kind)
{
    struct cpu *cpu = w->cpu;

    cpu->cpl = kind <= UNREAL ? 0 : kind == V86 ? 3 : (uint8_t)(simd_one_in(2) ? 0 : simd_one_in(6) ? 1 + below(2) : 3);
    random_control(cpu, kind);
    random_segments(cpu, kind);
    for (unsigned i = 0; i < 16; i++) {
        cpu->gpr[i].q = simd_one_in(4) ? simd_random() : simd_one_in(2) ? DATA + below(0x2000) : random_selector();
        if (kind < COMPATIBILITY_16)
            cpu->gpr[i].q = cpu->gpr[i].d;
    }
    cpu->rip = (kind == REAL || kind == UNREAL || kind == V86 ? 0 : CODE) + below(CODE_SIZE);
    cpu->gdtr = (struct table_register){.base = GDT, .limit = simd_one_in(8) ? (uint16_t)below(0x200) : 0x1ff};
    cpu->idtr = (struct table_register){.base = IDT, .limit = simd_one_in(8) ? (uint16_t)below(0x1000) : 0xfff};
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 4; k++)
            cpu->vector[i].q[k] = simd_random_lane();
    cpu->mxcsr = simd_random_mxcsr();
    cpu_set_rflags(cpu, RFLAGS_ONE | (simd_random() & (RFLAGS_ARITHMETIC | RFLAGS_IF | RFLAGS_IOPL | RFLAGS_DF | RFLAGS_AC |
                                                       (simd_one_in(8) ? RFLAGS_NT | RFLAGS_TF | RFLAGS_RF : 0))) |
                            (kind == V86 ? RFLAGS_VM : 0));
    world_random_code_registers(w);
    cpu_control_changed(cpu);
}

void world_random_rights(struct world *w)
{
    const bool all = simd_one_in(2);

    for (unsigned i = 0; i < WORLD_MEMORY / PAGE_SIZE; i++)
        w->rights[i] = all || !simd_one_in(6) ? PAGE_READ | PAGE_WRITE | PAGE_EXECUTE : (uint8_t)(simd_random() & 7);
}

void world_random(struct world *w)
{
    const enum kind kind = (enum kind)below(KINDS);
    const bool is_long = kind >= COMPATIBILITY_16;

    w->kind = kind;
    memset(w->memory, 0, TABLES + TABLE_PAGES * PAGE_SIZE);
    w->exit_one_in = simd_one_in(2) ? 0 : 2 + below(40);
    world_random_rights(w);
    fill_tables(w, is_long);
    fill_code(w);
    cpu_reset(w->cpu, false);
    random_registers(w, kind);
    fill_pages(w, w->cpu->cr4 & CR4_LA57 && is_long ? 5 : is_long ? 4 : kind == PAE ? 3 : 2, is_long || (w->cpu->cr4 & CR4_PAE));
    cpu_control_changed(w->cpu);
    cpu_invalidate_code(w->cpu, 0, WORLD_MEMORY);
    cpu_drop_memory(w->cpu, false);
}

void world_restart(struct world *w)
{
    cpu_reset(w->cpu, false);
    random_registers(w, (enum kind)w->kind);
    cpu_invalidate_code(w->cpu, 0, WORLD_MEMORY);
    cpu_drop_memory(w->cpu, false);
}
