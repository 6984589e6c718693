/* The loop around string instructions and its helpers; see exec_string.h. */
#include "x86/integer/exec_string.h"

#include "os/guarded.h"
#include "x86/system/debug.h"
#include "x86/vendor.h"

enum { COST_LIMIT = 4096, COST_STEP = 8 };

/* F2 and F3 among the prefixes; the last one counts, and either repeats MOVS, STOS, LODS, INS and OUTS. */
static uint8_t repeat_prefix(const struct insn *insn)
{
    uint8_t repeat = 0;

    for (unsigned i = 0; i < insn->length; i++) {
        switch (insn->bytes[i]) {
        case 0xf2: case 0xf3: repeat = insn->bytes[i]; break;
        case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67: case 0xf0: break;
        default:
            /* REX that is not the last prefix counts for nothing (40-4f is no string instruction). */
            if ((insn->bytes[i] & 0xf0) == 0x40)
                break;
            return repeat;
        }
    }
    return repeat;
}

/* An even opcode works on bytes; ports have at most 4 (6c-6f). */
static unsigned element_size(const struct insn *insn)
{
    if (!(insn->opcode & 1))
        return 1;
    return insn->opcode < 0x70 && insn->operand_size == 8 ? 4 : insn->operand_size;
}

/*
 * A repeated instruction with 32-bit addresses in 64-bit mode: Intel processors clear the upper half of RCX, and those of
 * the pointers of MOVS and STOS, before anything else, even when ECX is 0 or the first element faults.
 */
static void clear_upper_halves(struct cpu *cpu, const struct insn *insn)
{
    const bool is_movs = (insn->opcode & 0xfe) == 0xa4, is_stos = (insn->opcode & 0xfe) == 0xaa;

    if (!cpu_is_64(cpu) || insn->address_size != 4 || !vendor_clears_upper_halves(cpu))
        return;
    cpu->gpr[REG_RCX].q = cpu->gpr[REG_RCX].d;
    if (is_movs)
        cpu->gpr[REG_RSI].q = cpu->gpr[REG_RSI].d;
    if (is_movs || is_stos)
        cpu->gpr[REG_RDI].q = cpu->gpr[REG_RDI].d;
}

static void move_pointer(struct cpu *cpu, const struct string *s, unsigned reg, uint64_t elements)
{
    const uint64_t by = elements * (uint64_t)string_step_bytes(s);

    gpr_write(cpu, reg, s->address_size, cpu->gpr[reg].q + by);
}

static void commit(struct cpu *cpu, struct string *s, unsigned moves, uint64_t done)
{
    if (moves & STRING_SOURCE)
        move_pointer(cpu, s, REG_RSI, done);
    if (moves & STRING_DESTINATION)
        move_pointer(cpu, s, REG_RDI, done);
    s->count -= done;
    if (s->repeat)
        gpr_write(cpu, REG_RCX, s->address_size, s->count);
    s->cost += COST_STEP + (unsigned)(done * s->size / 64);
}

/* Flags of the last comparison, at the end; a fault on the way leaves those from before the instruction (SDM 2B REP). */
static void commit_flags(struct cpu *cpu, const struct string *s)
{
    if (!s->has_compared)
        return;
    switch (s->size) {
    case 1: alu_cmp8((uint8_t)s->a, (uint8_t)s->b, &cpu->aflags); break;
    case 2: alu_cmp16((uint16_t)s->a, (uint16_t)s->b, &cpu->aflags); break;
    case 4: alu_cmp32((uint32_t)s->a, (uint32_t)s->b, &cpu->aflags); break;
    default: alu_cmp64(s->a, s->b, &cpu->aflags); break;
    }
}

enum exec_result string_run(struct cpu *cpu, const struct insn *insn, string_step *step, unsigned moves)
{
    struct string s = {
        .insn = insn, .size = element_size(insn), .address_size = insn->address_size,
        .backward = cpu->rflags & RFLAGS_DF, .repeat = repeat_prefix(insn), .count = 1};
    const bool one_by_one = cpu->rflags & RFLAGS_TF;
    bool is_watched, asked;

    if (s.repeat) {
        clear_upper_halves(cpu, insn);
        s.count = gpr_read(cpu, REG_RCX, s.address_size);
        if (s.count == 0)
            return EXEC_NEXT;
    }
    do {
        const uint64_t count = s.count;
        uint64_t done;

        s.count = one_by_one ? 1 : count;
        done = step(cpu, &s);
        s.count = count;
        if (done == 0)
            return EXEC_LEAVE;
        commit(cpu, &s, moves, done);
        is_watched = cpu->debug_pending != cpu->debug_held;
        /* A store to a local APIC may have an exit that follows it: one of the next element's would take its place. */
        asked = atomic_load_explicit(&cpu->request, memory_order_relaxed) & REQUEST_SERVICE;
    } while (s.count && !s.stop && s.cost < COST_LIMIT && !one_by_one && !is_watched && !asked);
    if (s.count == 0 || s.stop) {
        commit_flags(cpu, &s); /* only now, on silicon: what interrupts the loop finds the flags from before it */
        return EXEC_NEXT;
    }
    /* What interrupts the loop finds RF set: an instruction breakpoint here has had its turn (SDM 3B 17.3.1.1). */
    cpu->next_rip = cpu->rip;
    debug_set_resume(cpu, cpu->rip);
    return EXEC_END;
}

bool string_source(struct cpu *cpu, const struct string *s, struct string_end *end)
{
    end->segment = s->insn->memory.segment;
    end->offset = gpr_read(cpu, REG_RSI, s->address_size);
    return seg_linear(cpu, end->segment, end->offset, s->size, ACCESS_READ, &end->linear);
}

bool string_destination(struct cpu *cpu, const struct string *s, enum access_type type, struct string_end *end)
{
    end->segment = SEG_ES;
    end->offset = gpr_read(cpu, REG_RDI, s->address_size);
    return seg_linear(cpu, SEG_ES, end->offset, s->size, type, &end->linear);
}

static uint64_t min(uint64_t a, uint64_t b) { return a < b ? a : b; }

static bool is_expand_down(const struct segment *segment)
{
    return (segment->attributes & (SEG_TYPE_CODE | SEG_TYPE_EXPAND_DOWN)) == SEG_TYPE_EXPAND_DOWN;
}

uint64_t string_room(const struct cpu *cpu, const struct string *s, const struct string_end *end)
{
    const struct segment *segment = &cpu->segment[end->segment];
    const uint64_t in_page = end->linear & ~PAGE_MASK;
    uint64_t last = size_mask(s->address_size), left;

    if (in_page + s->size > PAGE_SIZE)
        return 0;
    if (!cpu_is_64(cpu) && is_expand_down(segment))
        return 1;
    if (s->backward)
        return min(in_page, end->offset) / s->size + 1;
    if (!cpu_is_64(cpu))
        last = min(last, segment->limit);
    left = min(last - end->offset, PAGE_SIZE) + 1;
    return min(PAGE_SIZE - in_page, left) / s->size;
}

bool string_read(struct cpu *cpu, const struct string *s, gva_t linear, uint64_t *value)
{
    *value = 0;
    switch (s->size) {
    case 1: return mem_read8(cpu, linear, (uint8_t *)value);
    case 2: return mem_read16(cpu, linear, (uint16_t *)value);
    case 4: return mem_read32(cpu, linear, (uint32_t *)value);
    default: return mem_read64(cpu, linear, value);
    }
}

bool string_write(struct cpu *cpu, const struct string *s, gva_t linear, uint64_t value)
{
    switch (s->size) {
    case 1: return mem_write8(cpu, linear, (uint8_t)value);
    case 2: return mem_write16(cpu, linear, (uint16_t)value);
    case 4: return mem_write32(cpu, linear, (uint32_t)value);
    default: return mem_write64(cpu, linear, value);
    }
}

bool string_load(const struct string *s, const uint8_t *from, uint64_t *value)
{
    *value = 0;
    switch (s->size) {
    case 1: return guarded_load8(from, (uint8_t *)value);
    case 2: return guarded_load16(from, (uint16_t *)value);
    case 4: return guarded_load32(from, (uint32_t *)value);
    default: return guarded_load64(from, value);
    }
}

bool string_store(const struct string *s, uint8_t *to, uint64_t value)
{
    switch (s->size) {
    case 1: return guarded_store8(to, (uint8_t)value);
    case 2: return guarded_store16(to, (uint16_t)value);
    case 4: return guarded_store32(to, (uint32_t)value);
    default: return guarded_store64(to, value);
    }
}
