/* SCAS and CMPS (SDM 2A, 2B). F3 goes on while equal, F2 while different. */
#include "x86/integer/exec_string.h"

/* Remember what was compared and whether the loop ends with it. */
static bool compared(struct string *s, uint64_t a, uint64_t b)
{
    s->a = a;
    s->b = b;
    s->has_compared = true;
    s->stop = s->repeat && (a == b) != (s->repeat == 0xf3);
    return s->stop;
}

/* ---- SCAS: the accumulator against ES:[rDI] ---- */

static uint64_t scas_one(struct cpu *cpu, struct string *s, const struct string_end *at, uint64_t a)
{
    uint64_t b;

    if (!string_read(cpu, s, at->linear, &b))
        return 0;
    compared(s, a, b);
    return 1;
}

static uint64_t scas_step(struct cpu *cpu, struct string *s)
{
    const uint64_t a = gpr_read(cpu, REG_RAX, s->size);
    struct string_end at;
    const uint8_t *from;
    uint64_t n, b, done = 0;

    if (!string_destination(cpu, s, ACCESS_READ, &at))
        return 0;
    n = string_room(cpu, s, &at);
    n = n < s->count ? n : s->count;
    from = n > 1 ? mem_direct(cpu, at.linear, ACCESS_READ) : NULL;
    if (!from)
        return scas_one(cpu, s, &at, a);
    while (done < n && string_load(s, from, &b)) {
        done++;
        from += string_step_bytes(s);
        if (compared(s, a, b))
            break;
    }
    return done ? done : scas_one(cpu, s, &at, a);
}

enum exec_result exec_scas(struct cpu *cpu, const struct insn *insn)
{
    return string_run(cpu, insn, scas_step, STRING_DESTINATION);
}

/* ---- CMPS: DS:[rSI] against ES:[rDI]; silicon reads the latter first, which shows when both fault ---- */

static uint64_t cmps_one(struct cpu *cpu, struct string *s, const struct string_end *second)
{
    struct string_end first;
    uint64_t a, b;

    if (!string_read(cpu, s, second->linear, &b) || !string_source(cpu, s, &first) ||
        !string_read(cpu, s, first.linear, &a))
        return 0;
    compared(s, a, b);
    return 1;
}

/* Compare up to n elements of host memory. */
static uint64_t compare(struct string *s, const uint8_t *first, const uint8_t *second, uint64_t n)
{
    const int64_t step = string_step_bytes(s);
    uint64_t a, b, done = 0;

    while (done < n && string_load(s, first, &a) && string_load(s, second, &b)) {
        done++;
        first += step;
        second += step;
        if (compared(s, a, b))
            break;
    }
    return done;
}

static uint64_t cmps_step(struct cpu *cpu, struct string *s)
{
    struct string_end first, second;
    const uint8_t *a, *b;
    uint64_t n, done;

    if (!string_destination(cpu, s, ACCESS_READ, &second))
        return 0;
    n = string_room(cpu, s, &second);
    n = n < s->count ? n : s->count;
    b = n > 1 ? mem_direct(cpu, second.linear, ACCESS_READ) : NULL;
    if (!b)
        return cmps_one(cpu, s, &second);
    if (!string_source(cpu, s, &first))
        return 0;
    done = string_room(cpu, s, &first);
    n = n < done ? n : done;
    a = n > 1 ? mem_direct(cpu, first.linear, ACCESS_READ) : NULL;
    done = a ? compare(s, a, b, n) : 0;
    return done ? done : cmps_one(cpu, s, &second);
}

enum exec_result exec_cmps(struct cpu *cpu, const struct insn *insn)
{
    return string_run(cpu, insn, cmps_step, STRING_SOURCE | STRING_DESTINATION);
}
