/* MOVS, STOS, LODS (SDM 2A, 2B), and the table of the string instructions. */
#include "x86/integer/exec_string.h"

#include "os/guarded.h"

/* ---- MOVS ---- */

/* One element, everything checked on the way. The source's faults come first. */
static uint64_t movs_one(struct cpu *cpu, const struct string *s, const struct string_end *from)
{
    struct string_end to;
    uint64_t value;

    return string_read(cpu, s, from->linear, &value) && string_destination(cpu, s, ACCESS_WRITE, &to) &&
           string_write(cpu, s, to.linear, value);
}

/* Element after element: what overlapping strings need. */
static uint64_t copy_elements(const struct string *s, uint8_t *to, const uint8_t *from, uint64_t n)
{
    const int64_t step = string_step_bytes(s);
    uint64_t value;

    for (uint64_t i = 0; i < n; i++, to += step, from += step)
        if (!string_load(s, from, &value) || !string_store(s, to, value))
            return i;
    return n;
}

/*
 * n elements on host memory. Bytes copied one by one in ascending order (the guarantee of REP MOVSB, which guarded_copy_partial
 * is) are the same as elements, unless the destination begins inside the source's first element.
 */
static uint64_t copy_forward(const struct string *s, uint8_t *to, const uint8_t *from, uint64_t n)
{
    const uintptr_t distance = (uintptr_t)to - (uintptr_t)from;
    const size_t bytes = (size_t)n * s->size;

    if (distance != 0 && distance < s->size)
        return copy_elements(s, to, from, n);
    return (bytes - guarded_copy_partial(to, from, bytes)) / s->size;
}

static uint64_t copy_backward(const struct string *s, uint8_t *to, const uint8_t *from, uint64_t n)
{
    const size_t bytes = (size_t)n * s->size, before = bytes - s->size;
    const uintptr_t distance = to > from ? (uintptr_t)(to - from) : (uintptr_t)(from - to);

    if (distance < bytes)
        return copy_elements(s, to, from, n);
    return guarded_copy(to - before, from - before, bytes) ? n : 0;
}

static uint64_t movs_step(struct cpu *cpu, struct string *s)
{
    struct string_end from, to;
    const uint8_t *source;
    uint8_t *destination;
    uint64_t n, done;

    if (!string_source(cpu, s, &from))
        return 0;
    n = string_room(cpu, s, &from);
    n = n < s->count ? n : s->count;
    source = n > 1 ? mem_direct(cpu, from.linear, ACCESS_READ) : NULL;
    if (!source)
        return movs_one(cpu, s, &from);
    if (!string_destination(cpu, s, ACCESS_WRITE, &to))
        return 0;
    done = string_room(cpu, s, &to);
    n = n < done ? n : done;
    destination = n > 1 ? mem_direct(cpu, to.linear, ACCESS_WRITE) : NULL;
    if (!destination)
        return movs_one(cpu, s, &from);
    done = s->backward ? copy_backward(s, destination, source, n) : copy_forward(s, destination, source, n);
    return done ? done : movs_one(cpu, s, &from);
}

static enum exec_result exec_movs(struct cpu *cpu, const struct insn *insn)
{
    return string_run(cpu, insn, movs_step, STRING_SOURCE | STRING_DESTINATION);
}

/* ---- STOS ---- */

/* REP STOS on the host, guarded; returns how many elements are left. */
#define FILL(suffix)                                                                               \
    __asm__ volatile("1: rep stos" suffix "\n2:\n\t" GUARD_RESUME                                  \
                     : "+D"(to), "+c"(n)                                                           \
                     : "a"(value)                                                                  \
                     : "memory")

static uint64_t fill(const struct string *s, void *to, uint64_t value, uint64_t n)
{
    switch (s->size) {
    case 1: FILL("b"); break;
    case 2: FILL("w"); break;
    case 4: FILL("l"); break;
    default: FILL("q"); break;
    }
    return n;
}

static uint64_t stos_step(struct cpu *cpu, struct string *s)
{
    const uint64_t value = gpr_read(cpu, REG_RAX, s->size);
    struct string_end to;
    uint8_t *destination;
    uint64_t n, left;

    if (!string_destination(cpu, s, ACCESS_WRITE, &to))
        return 0;
    n = string_room(cpu, s, &to);
    n = n < s->count ? n : s->count;
    destination = n > 1 ? mem_direct(cpu, to.linear, ACCESS_WRITE) : NULL;
    if (!destination)
        return string_write(cpu, s, to.linear, value);
    if (s->backward)
        destination -= (n - 1) * s->size;
    left = fill(s, destination, value, n);
    /* Backward the filled part is the far one: start over the slow way. */
    if (left == n || (left && s->backward))
        return string_write(cpu, s, to.linear, value);
    return n - left;
}

static enum exec_result exec_stos(struct cpu *cpu, const struct insn *insn)
{
    return string_run(cpu, insn, stos_step, STRING_DESTINATION);
}

/* ---- LODS ---- */

static uint64_t lods_step(struct cpu *cpu, struct string *s)
{
    struct string_end from;
    uint64_t value;

    if (!string_source(cpu, s, &from) || !string_read(cpu, s, from.linear, &value))
        return 0;
    gpr_write(cpu, REG_RAX, s->size, value);
    return 1;
}

static enum exec_result exec_lods(struct cpu *cpu, const struct insn *insn)
{
    return string_run(cpu, insn, lods_step, STRING_SOURCE);
}

/* clang-format off */
const struct exec_entry exec_string_table[] = {
    {ZYDIS_MNEMONIC_INSB, exec_ins, 0}, {ZYDIS_MNEMONIC_INSW, exec_ins, 0},     /* 6c 6d */
    {ZYDIS_MNEMONIC_INSD, exec_ins, 0},
    {ZYDIS_MNEMONIC_OUTSB, exec_outs, 0}, {ZYDIS_MNEMONIC_OUTSW, exec_outs, 0}, /* 6e 6f */
    {ZYDIS_MNEMONIC_OUTSD, exec_outs, 0},
    {ZYDIS_MNEMONIC_MOVSB, exec_movs, 0}, {ZYDIS_MNEMONIC_MOVSW, exec_movs, 0}, /* a4 a5 */
    {ZYDIS_MNEMONIC_MOVSD, exec_movs, 0}, {ZYDIS_MNEMONIC_MOVSQ, exec_movs, 0},
    {ZYDIS_MNEMONIC_CMPSB, exec_cmps, 0}, {ZYDIS_MNEMONIC_CMPSW, exec_cmps, 0}, /* a6 a7 */
    {ZYDIS_MNEMONIC_CMPSD, exec_cmps, 0}, {ZYDIS_MNEMONIC_CMPSQ, exec_cmps, 0},
    {ZYDIS_MNEMONIC_STOSB, exec_stos, 0}, {ZYDIS_MNEMONIC_STOSW, exec_stos, 0}, /* aa ab */
    {ZYDIS_MNEMONIC_STOSD, exec_stos, 0}, {ZYDIS_MNEMONIC_STOSQ, exec_stos, 0},
    {ZYDIS_MNEMONIC_LODSB, exec_lods, 0}, {ZYDIS_MNEMONIC_LODSW, exec_lods, 0}, /* ac ad */
    {ZYDIS_MNEMONIC_LODSD, exec_lods, 0}, {ZYDIS_MNEMONIC_LODSQ, exec_lods, 0},
    {ZYDIS_MNEMONIC_SCASB, exec_scas, 0}, {ZYDIS_MNEMONIC_SCASW, exec_scas, 0}, /* ae af */
    {ZYDIS_MNEMONIC_SCASD, exec_scas, 0}, {ZYDIS_MNEMONIC_SCASQ, exec_scas, 0},
    {ZYDIS_MNEMONIC_INVALID, NULL, 0},
};
/* clang-format on */
