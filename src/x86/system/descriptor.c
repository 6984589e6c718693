/* Descriptors and segment loads; the contract is in descriptor.h. */
#include "x86/system/descriptor.h"

#include "x86/system/control.h"

#define DESCRIPTOR_ACCESSED BIT64(40)
#define DESCRIPTOR_BUSY     BIT64(41)

/* ---- reading ---- */

bool descriptor_address(const struct cpu *cpu, uint16_t selector, unsigned size, gva_t *linear)
{
    const bool local = selector & SELECTOR_TI;
    const struct segment *ldt = &cpu->segment[SEG_LDTR];
    const uint64_t base = local ? ldt->base : cpu->gdtr.base;
    const uint32_t limit = local ? ldt->limit : cpu->gdtr.limit;
    const uint32_t offset = selector & ~7u;

    if (local && (selector_is_null(ldt->selector) || !(ldt->attributes & SEG_P)))
        return false;
    if (offset + size - 1 > limit)
        return false;
    *linear = cpu_is_long(cpu) ? base + offset : (uint32_t)(base + offset);
    return true;
}

static bool read_sized(struct cpu *cpu, uint16_t selector, unsigned size, struct cpu_fault fault, struct descriptor *out)
{
    gva_t linear;

    *out = (struct descriptor){0};
    if (!descriptor_address(cpu, selector, size, &linear))
        return raise_error(cpu, fault.vector, fault.error);
    return mem_read(cpu, linear, out, size, MEM_SYSTEM);
}

bool descriptor_read(struct cpu *cpu, uint16_t selector, uint8_t vector, uint32_t ext, struct descriptor *out)
{
    const struct cpu_fault fault = {.vector = vector, .error = SELECTOR_ERROR(selector, ext)};
    return read_sized(cpu, selector, 8, fault, out);
}

bool descriptor_read_system(struct cpu *cpu, uint16_t selector, uint8_t vector, uint32_t ext, struct descriptor *out)
{
    const struct cpu_fault fault = {.vector = vector, .error = SELECTOR_ERROR(selector, ext)};
    return read_sized(cpu, selector, cpu_is_long(cpu) ? 16 : 8, fault, out);
}

/* ---- accessed and busy bits: locked updates of the second doubleword (SDM 3A 8.1.2.1) ---- */

static uint64_t set_bits(uint64_t old, void *bits) { return old | *(const uint64_t *)bits; }
static uint64_t clear_bits(uint64_t old, void *bits) { return old & ~*(const uint64_t *)bits; }

static bool change_bit(struct cpu *cpu, uint16_t selector, uint64_t bit, bool set, struct descriptor *d)
{
    uint64_t bits = bit >> 32;
    gva_t linear;

    if (!descriptor_address(cpu, selector, 8, &linear))
        return raise_gp(cpu, SELECTOR_ERROR(selector, 0));
    if (!mem_modify_system(cpu, linear + 4, 4, set ? set_bits : clear_bits, &bits))
        return false;
    d->low = set ? d->low | bit : d->low & ~bit;
    return true;
}

bool descriptor_set_accessed(struct cpu *cpu, uint16_t selector, struct descriptor *d)
{
    return likely(d->low & DESCRIPTOR_ACCESSED) || change_bit(cpu, selector, DESCRIPTOR_ACCESSED, true, d);
}

bool descriptor_set_busy(struct cpu *cpu, uint16_t selector, bool busy, struct descriptor *d)
{
    return change_bit(cpu, selector, DESCRIPTOR_BUSY, busy, d);
}

/* ---- hidden parts ---- */

/*
 *      63      56 55   52 51     48 47        40 39              16 15             0
 *      [base31:24][G DB L A][lim19:16][P DPL S type][   base 23:0    ][  limit 15:0  ]
 */
void descriptor_to_segment(const struct descriptor *d, uint16_t selector, struct segment *out)
{
    uint64_t low = d->low;
    uint32_t limit = (uint32_t)(low & 0xffff) | ((uint32_t)(low >> 32) & 0xf0000);

    *out = (struct segment){
        .base = ((low >> 16) & 0xffffff) | ((low >> 32) & 0xff000000) | (d->high & 0xffffffff) << 32,
        .limit = low & BIT64(55) ? limit << 12 | 0xfff : limit,
        .selector = selector,
        .attributes = (uint16_t)((low >> 40) & 0xf0ff),
    };
    /* What is loaded has been accessed, also where the descriptor is marked only later. */
    if (out->attributes & SEG_S)
        out->attributes |= SEG_TYPE_ACCESSED;
}

void segment_real(const struct cpu *cpu, const struct segment *old, uint16_t selector, struct segment *out)
{
    *out = *old;
    out->selector = selector;
    out->base = (uint32_t)selector << 4;
    if (cpu_is_v86(cpu)) {
        out->limit = 0xffff;
        out->attributes = SEG_P | SEG_S | 3 << SEG_DPL_SHIFT | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED;
    }
}

void segment_null(uint16_t selector, unsigned dpl, struct segment *out)
{
    *out = (struct segment){.selector = selector, .attributes = (uint16_t)(dpl << SEG_DPL_SHIFT)};
}

bool segment_contains(const struct segment *s, uint64_t offset, uint64_t size)
{
    const uint64_t last = offset + size - 1;

    if ((s->attributes & (SEG_S | SEG_TYPE_CODE | SEG_TYPE_EXPAND_DOWN)) == (SEG_S | SEG_TYPE_EXPAND_DOWN))
        return offset > s->limit && last <= (s->attributes & SEG_DB ? 0xffffffffu : 0xffffu);
    return last <= s->limit;
}

/* ---- loads ---- */

bool segment_check_stack(struct cpu *cpu, uint16_t selector, unsigned cpl, uint8_t vector, uint32_t ext,
                         struct segment *out)
{
    struct descriptor d;
    const uint32_t error = SELECTOR_ERROR(selector, ext);

    if (selector_is_null(selector))
        return raise_error(cpu, vector, ext);
    if (!descriptor_read(cpu, selector, vector, ext, &d))
        return false;
    if ((selector & SELECTOR_RPL) != cpl || descriptor_dpl(&d) != cpl || !descriptor_is_writable_data(&d))
        return raise_error(cpu, vector, error);
    if (!descriptor_is_present(&d))
        return raise_ss(cpu, error);
    if (!descriptor_set_accessed(cpu, selector, &d))
        return false;
    descriptor_to_segment(&d, selector, out);
    return true;
}

static bool check_ss(struct cpu *cpu, uint16_t selector, struct segment *out)
{
    /* 64-bit mode below privilege 3 may run on a null stack segment. */
    if (selector_is_null(selector) && cpu_is_64(cpu) && cpu->cpl != 3 && (selector & SELECTOR_RPL) == cpu->cpl) {
        segment_null(selector, cpu->cpl, out);
        return true;
    }
    return segment_check_stack(cpu, selector, cpu->cpl, VECTOR_GP, 0, out);
}

static bool check_data(struct cpu *cpu, uint16_t selector, struct segment *out)
{
    struct descriptor d;
    const uint32_t error = SELECTOR_ERROR(selector, 0);

    if (selector_is_null(selector)) {
        segment_null(selector, 0, out);
        return true;
    }
    if (!descriptor_read(cpu, selector, VECTOR_GP, 0, &d))
        return false;
    const bool is_code = descriptor_is_code(&d);
    if (descriptor_is_system(&d) || (is_code && !(descriptor_type(&d) & SEG_TYPE_READABLE)))
        return raise_gp(cpu, error);
    if (!(is_code && descriptor_is_conforming(&d)) &&
        ((selector & SELECTOR_RPL) > descriptor_dpl(&d) || cpu->cpl > descriptor_dpl(&d)))
        return raise_gp(cpu, error);
    if (!descriptor_is_present(&d))
        return raise_np(cpu, error);
    if (!descriptor_set_accessed(cpu, selector, &d))
        return false;
    descriptor_to_segment(&d, selector, out);
    return true;
}

bool segment_check(struct cpu *cpu, enum segment_index index, uint16_t selector, struct segment *out)
{
    if (!cpu_is_protected(cpu)) {
        segment_real(cpu, &cpu->segment[index], selector, out);
        return true;
    }
    return index == SEG_SS ? check_ss(cpu, selector, out) : check_data(cpu, selector, out);
}

bool load_segment(struct cpu *cpu, enum segment_index index, uint16_t selector)
{
    struct segment loaded;

    if (!segment_check(cpu, index, selector, &loaded))
        return false;
    cpu->segment[index] = loaded;
    cpu_update_mode(cpu);
    return true;
}
