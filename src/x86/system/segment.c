/*
 * Segment checks: from (segment, offset) to a linear address (SDM 3A 5.3, 5.5; in 64-bit mode 5.3.1).
 */
#include "x86/memory/memory.h"

static bool segment_fault(struct cpu *cpu, enum segment_index segment)
{
    return raise_error(cpu, segment == SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
}

static bool is_canonical(const struct cpu *cpu, gva_t linear)
{
    unsigned shift = cpu->cr4 & CR4_LA57 ? 7 : 16;
    return (uint64_t)((int64_t)(linear << shift) >> shift) == linear;
}

/* May the segment be used for this kind of access? Real and virtual-8086 mode do not look at the type. */
static bool type_allows(const struct cpu *cpu, const struct segment *s, enum access_type type)
{
    unsigned attributes = s->attributes;

    if (!cpu_is_protected(cpu))
        return true;
    if (!(attributes & SEG_P) || !(attributes & SEG_S))
        return false;
    if (attributes & SEG_TYPE_CODE)
        return type == ACCESS_EXECUTE || (type == ACCESS_READ && (attributes & SEG_TYPE_READABLE));
    return type == ACCESS_READ || (type == ACCESS_WRITE && (attributes & SEG_TYPE_WRITABLE));
}

static bool limit_allows(const struct segment *s, uint64_t offset, size_t size)
{
    uint64_t last = offset + size - 1;

    if ((s->attributes & (SEG_S | SEG_TYPE_CODE | SEG_TYPE_EXPAND_DOWN)) == (SEG_S | SEG_TYPE_EXPAND_DOWN)) {
        uint64_t top = s->attributes & SEG_DB ? 0xffffffffu : 0xffffu;
        return offset > s->limit && last <= top;
    }
    /* With a limit of 4G - 1 an access may wrap around (SDM 3A 5.3: implementation-specific; seen on silicon). */
    return last <= s->limit || s->limit == 0xffffffff;
}

static bool linear_64(struct cpu *cpu, enum segment_index segment, uint64_t offset, size_t size, gva_t *linear)
{
    *linear = offset + (segment == SEG_FS || segment == SEG_GS ? cpu->segment[segment].base : 0);
    if (likely(is_canonical(cpu, *linear) && is_canonical(cpu, *linear + size - 1)))
        return true;
    /* The end is looked at when the beginning has nothing to complain of, alignment included (seen on silicon). */
    if (is_canonical(cpu, *linear) && mem_is_misaligned(cpu, *linear, size))
        return raise_error(cpu, VECTOR_AC, 0);
    return segment_fault(cpu, segment);
}

bool seg_linear(struct cpu *cpu, enum segment_index segment, uint64_t offset, size_t size, enum access_type type,
                gva_t *linear)
{
    const struct segment *s = &cpu->segment[segment];

    if (cpu_is_64(cpu))
        return linear_64(cpu, segment, offset, size, linear);
    *linear = (uint32_t)(s->base + offset);
    if (likely(offset + size <= (type == ACCESS_WRITE ? cpu->write_bound : cpu->read_bound)[segment]))
        return true;
    if (!type_allows(cpu, s, type) || !limit_allows(s, offset, size))
        return segment_fault(cpu, segment);
    return true;
}
