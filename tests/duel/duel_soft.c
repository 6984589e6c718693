/*
 * Our processor, with the tables of a small kernel: what it delivers goes to a page of HLT, one for each vector, and the
 * frame on the kernel's stack tells the rest.
 */
#include <string.h>

#include "duel.h"
#include "duel_code.h"

#include "support/flat_cpu.h"
#include "x86/system/control.h"
#include "x86/system/descriptor.h"
#include "x86/system/event.h"

enum {
    PHYSICAL_ARENA = DUEL_PHYSICAL, /* its pages lie in descending order: what crosses them is not consecutive */
    PHYSICAL_KERNEL = 0x200000,
    KERNEL_PAGES = 4,
};

#define KERNEL    0xffffffff80000000ull
#define GDT       KERNEL
#define LDT       (KERNEL + 0x200)
#define TSS       (KERNEL + 0x400)
#define IDT       (KERNEL + 0x1000)
#define HANDLERS  (KERNEL + 0x2000)
#define STACK_TOP (KERNEL + 0x4000)

static struct flat_cpu *flat;
bool (*duel_soft_first)(struct cpu *cpu);

static gpa_t arena_page(uint64_t address)
{
    return PHYSICAL_ARENA + (DUEL_SIZE - PAGE_SIZE) - ((address - DUEL_BASE) & PAGE_MASK);
}

static const struct {
    uint64_t at;
    unsigned rights;
} arena[] = {
    {DUEL_CODE, FLAT_WRITE}, {DUEL_CODE + 0x1000, FLAT_WRITE}, {DUEL_DATA, FLAT_WRITE | FLAT_NO_EXECUTE},
    {DUEL_DATA + 0x1000, FLAT_WRITE | FLAT_NO_EXECUTE}, {DUEL_DATA + 0x2000, FLAT_WRITE | FLAT_NO_EXECUTE},
    {DUEL_READ_ONLY, FLAT_READ | FLAT_NO_EXECUTE}, {DUEL_STACK, FLAT_WRITE | FLAT_NO_EXECUTE},
    {DUEL_STACK + 0x1000, FLAT_WRITE | FLAT_NO_EXECUTE},
};

void duel_soft_cancel(void) { atomic_fetch_or_explicit(&flat->cpu->request, REQUEST_CANCEL, memory_order_relaxed); }

uint8_t *duel_soft_page(uint64_t address)
{
    for (unsigned i = 0; i < array_size(arena); i++)
        if ((address & PAGE_MASK) == arena[i].at)
            return flat->memory + arena_page(address);
    return NULL;
}

void duel_soft_code_changed(void)
{
    cpu_invalidate_code(flat->cpu, arena_page(DUEL_CODE), PAGE_SIZE);
    cpu_invalidate_code(flat->cpu, arena_page(DUEL_CODE + 0x1000), PAGE_SIZE);
}

static void *kernel(uint64_t address) { return flat->memory + PHYSICAL_KERNEL + (address - KERNEL); }

/* Linux's (arch/x86/include/asm/segment.h); the descriptor at 0x78 holds the processor's number. */
static void write_tables(void)
{
    const uint64_t system = 1ull << 47; /* they are loaded already: the base is not looked at */
    const uint64_t gdt[16] = {
        [1] = 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff,
        0x00affb000000ffff, [8] = system | 0xbull << 40 | 0x67,
        [10] = system | 2ull << 40 | (DUEL_LOCAL * 8 - 1),
        [15] = 0x0040f50000000000 | duel_native_cpu(),
    };
    const uint64_t rsp0 = STACK_TOP;

    memcpy(kernel(GDT), gdt, sizeof(gdt));
    for (unsigned i = 0; i < DUEL_LOCAL; i++)
        ((uint64_t *)kernel(LDT))[i] = duel_local_descriptor(i);
    memcpy((uint8_t *)kernel(TSS) + 4, &rsp0, 8);
    ((uint16_t *)kernel(TSS))[51] = 0x68; /* no I/O bitmap */
    for (unsigned v = 0; v < 256; v++) {
        const uint64_t at = HANDLERS + v, dpl = v == VECTOR_BP || v == VECTOR_OF || v == 0x80 ? 3 : 0;
        uint64_t *gate = (uint64_t *)kernel(IDT) + 2 * v;
        gate[0] = (at & 0xffff) | 0x10 << 16 | (0x8e00ull | dpl << 13) << 32 | (at & 0xffff0000) << 32;
        gate[1] = at >> 32;
    }
    memset(kernel(HANDLERS), 0xf4, 256);
}

static void set_system_registers(struct cpu *cpu)
{
    cpu->gdtr = (struct table_register){.base = GDT, .limit = 127};
    cpu->idtr = (struct table_register){.base = IDT, .limit = 0xfff};
    cpu->segment[SEG_LDTR] =
        (struct segment){.base = LDT, .limit = DUEL_LOCAL * 8 - 1, .selector = 0x50, .attributes = SEG_P | SYSTEM_LDT};
    cpu->segment[SEG_TR] = (struct segment){.base = TSS, .limit = 0x67, .selector = 0x40, .attributes = SEG_P | SYSTEM_TSS_BUSY};
    cpu->cr4 |= CR4_OSXSAVE | CR4_FSGSBASE | CR4_SMEP | CR4_UMIP;
    cpu->cr4 |= CR4_PKE;
    cpu_set_pkru(cpu, 0);
    cpu->xcr0 = cpu_xcr0_mask(cpu) & ~XCR0_PKRU; /* the test process's own PKRU stays as it is */
}

bool duel_soft_init(void)
{
    flat = flat_create();
    if (!flat)
        return false;
    flat_long(flat, true, 3);
    for (unsigned i = 0; i < array_size(arena); i++)
        flat_map(flat, arena[i].at, arena_page(arena[i].at), arena[i].rights);
    for (unsigned i = 0; i < KERNEL_PAGES; i++)
        flat_map(flat, KERNEL + i * PAGE_SIZE, PHYSICAL_KERNEL + i * PAGE_SIZE,
                 i == 2 ? FLAT_SUPERVISOR : FLAT_SUPERVISOR | FLAT_WRITE | FLAT_NO_EXECUTE);
    write_tables();
    set_system_registers(flat->cpu);
    return true;
}

void duel_soft_fini(void) { flat_destroy(flat); }

static void load_selector(struct cpu *cpu, unsigned i, uint16_t selector)
{
    struct descriptor d = {0};

    if (selector_is_null(selector)) {
        segment_null(selector, i == SEG_SS ? 3 : 0, &cpu->segment[i]);
        return;
    }
    memcpy(&d.low, (const uint8_t *)kernel(selector & SELECTOR_TI ? LDT : GDT) + (selector & ~7u), 8);
    descriptor_to_segment(&d, selector, &cpu->segment[i]);
}

static void load(struct cpu *cpu, const struct duel_state *s)
{
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i].q = s->gpr[i];
    for (unsigned i = 0; i < 6; i++)
        load_selector(cpu, i, s->selector[i]);
    for (unsigned i = 0; i < 2; i++)
        if (selector_is_null(s->selector[SEG_FS + i]))
            cpu->segment[SEG_FS + i].base = s->base[i];
    cpu->rip = s->rip;
    cpu->cpl = 3;
    cpu->dr6 = DR6_FIXED;
    cpu->cr2 = 0;
    cpu->interrupt_shadow = cpu->memory_event = false;
    cpu->debug_pending = 0;
    cpu_set_rflags(cpu, s->rflags);
    memcpy(&cpu->x87, s->fxsave, 160);
    memcpy(&cpu->mxcsr, s->fxsave + 24, 4);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(&cpu->vector[i], s->fxsave + 160 + 16 * i, 16);
        memcpy(&cpu->vector[i].q[2], s->upper[i], 16);
    }
    cpu_update_mode(cpu);
}

static bool has_error_code(unsigned vector)
{
    return vector == VECTOR_DF || (vector >= VECTOR_TS && vector <= VECTOR_PF) || vector == VECTOR_AC;
}

/* At a handler's HLT: the frame. */
static void store(const struct cpu *cpu, struct duel_state *s)
{
    const uint64_t *frame = (const uint64_t *)kernel(STACK_TOP - 40);

    s->vector = (uint8_t)(cpu->rip - 1 - HANDLERS);
    s->error = has_error_code(s->vector) ? (uint32_t)frame[-1] : 0;
    s->address = s->vector == VECTOR_PF ? cpu->cr2 : 0;
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = cpu->gpr[i].q;
    s->rip = frame[0];
    s->gpr[REG_RSP] = frame[3];
    s->rflags = frame[2];
    for (unsigned i = 0; i < 6; i++)
        s->selector[i] = cpu->segment[i].selector;
    s->selector[SEG_CS] = (uint16_t)frame[1];
    s->selector[SEG_SS] = (uint16_t)frame[4];
    s->base[0] = cpu->segment[SEG_FS].base;
    s->base[1] = cpu->segment[SEG_GS].base;
    memcpy(s->fxsave, &cpu->x87, 160);
    memcpy(s->fxsave + 24, &cpu->mxcsr, 4);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(s->fxsave + 160 + 16 * i, &cpu->vector[i], 16);
        memcpy(s->upper[i], &cpu->vector[i].q[2], 16);
    }
}

static enum cpu_leave run(struct cpu *cpu)
{
    struct event pending;

    if (duel_soft_first && !duel_soft_first(cpu)) {
        pending = event_from_fault(cpu);
        if (event_dispatch(cpu, &pending) != LEAVE_NONE)
            return LEAVE_SHUTDOWN;
    }
    return cpu_run(cpu, &pending);
}

enum duel_end duel_soft_run(struct duel_state *state, bool direct)
{
    struct cpu *cpu = flat->cpu;
    enum cpu_leave leave;

    if (flat->direct != direct)
        cpu_drop_memory(cpu, false);
    flat->direct = direct;
    atomic_store(&cpu->request, 0);
    load(cpu, state);
    leave = run(cpu);
    if (leave == LEAVE_REQUEST)
        return DUEL_ENDLESS;
    if (leave != LEAVE_HALT || cpu->cpl != 0) {
        *state = (struct duel_state){.vector = 0xff, .error = leave}; /* equal to nothing */
        return DUEL_FAULT;
    }
    store(cpu, state);
    return DUEL_FAULT;
}

/* ---- what the outcome depends on ---- */

static bool is_split_lock(const struct cpu *cpu, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o)
{
    ZydisRegisterContext registers = {{0}};
    ZyanU64 address;

    if (!(z->attributes & ZYDIS_ATTRIB_HAS_LOCK) && z->mnemonic != ZYDIS_MNEMONIC_XCHG)
        return false;
    for (unsigned i = 0; i < z->operand_count_visible; i++) {
        if (o[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        for (unsigned r = 0; r < 16; r++) {
            registers.values[ZYDIS_REGISTER_AX + r] = cpu->gpr[r].w;
            registers.values[ZYDIS_REGISTER_EAX + r] = cpu->gpr[r].d;
            registers.values[ZYDIS_REGISTER_RAX + r] = cpu->gpr[r].q;
        }
        if (!ZYAN_SUCCESS(ZydisCalcAbsoluteAddressEx(z, &o[i], cpu->rip, &registers, &address)))
            return true;
        for (unsigned s = SEG_ES; s <= SEG_GS; s++)
            if (o[i].mem.segment == (ZydisRegister)(ZYDIS_REGISTER_ES + s))
                address += cpu->segment[s].base;
        if ((address & 63) + o[i].size / 8 > 64)
            return true;
    }
    return false;
}

/* The instruction at CS:RIP. False: not in the arena, or none. */
static bool decode_current(const struct cpu *cpu, ZydisDecodedInstruction *z, ZydisDecodedOperand *o, bool *is_ours)
{
    const unsigned bits = cpu_is_64(cpu) ? 64 : cpu->segment[SEG_CS].attributes & SEG_DB ? 32 : 16;
    const uint64_t at = cpu->rip + (cpu_is_64(cpu) ? 0 : cpu->segment[SEG_CS].base);
    uint8_t bytes[15];
    ZydisDecoder decoder;

    for (unsigned i = 0; i < sizeof(bytes); i++) {
        const uint8_t *page = duel_soft_page(at + i);
        bytes[i] = page ? page[(at + i) & ~PAGE_MASK] : 0xf4;
    }
    *is_ours = code_is_implemented(bits, bytes);
    code_decoder(bits, &decoder);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, sizeof(bytes), z, o));
}

bool duel_soft_trace(const struct duel_state *state, uint64_t *undefined)
{
    struct cpu *cpu = flat->cpu;
    bool is_last = false;

    load(cpu, state);
    *undefined = 0;
    for (unsigned i = 0; i < 100000 && cpu->cpl == 3 && !is_last; i++) {
        const uint64_t rip = cpu->rip;
        ZydisDecodedInstruction z;
        ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
        bool is_ours;
        const bool known = decode_current(cpu, &z, o, &is_ours);
        const ZydisAccessedFlags *flags = known ? z.cpu_flags : NULL;

        /* It may have more state components than ours. */
        if (known && z.meta.isa_set >= ZYDIS_ISA_SET_XSAVE && z.meta.isa_set <= ZYDIS_ISA_SET_XSAVES &&
            (cpu->gpr[REG_RDX].d || (cpu->gpr[REG_RAX].d & ~7u)))
            return false;
        /* With nothing to save it does not even look at its operand. */
        if (known && z.mnemonic == ZYDIS_MNEMONIC_XSAVEOPT && !(cpu->gpr[REG_RAX].d & 7))
            return false;
        /* FIP and FDP have as many bits as its linear addresses: 48 or 57. */
        if (known && (z.meta.isa_set == ZYDIS_ISA_SET_SSE || z.meta.isa_set == ZYDIS_ISA_SET_FXSAVE64) &&
            (cpu->x87.instruction_pointer >> 47 || cpu->x87.data_pointer >> 47))
            return false;
        if (known &&
            (!is_ours || !code_is_comparable(&z) || (flags && (flags->tested & *undefined)) || is_split_lock(cpu, &z, o)))
            return false;
        is_last = cpu->rflags & RFLAGS_TF;
        if (cpu_step(cpu) != LEAVE_NONE)
            break;
        if (flags && cpu->rip != rip)
            *undefined = (*undefined & ~(uint64_t)(flags->modified | flags->set_0 | flags->set_1)) | flags->undefined;
    }
    return true;
}
