#include "form_emulate.h"

#include <stdio.h>
#include <string.h>

#include "support/flat_cpu.h"
#include "util/last_error.h"

enum { PRINTED = 20, AREA = 0x20000 };

static unsigned long done, faulted, refused, failed_calls, resumed, withheld, violations;

/* ---- states ---- */

void form_take(const struct cpu *cpu, struct form_state *s)
{
    memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
    s->rip = cpu->rip;
    s->rflags = cpu_rflags(cpu);
    s->cr0 = cpu->cr0;
    s->cr2 = cpu->cr2;
    s->cr3 = cpu->cr3;
    s->xcr0 = cpu->xcr0;
    memcpy(s->segment, cpu->segment, sizeof(s->segment));
    s->gdtr = cpu->gdtr;
    s->idtr = cpu->idtr;
    memcpy(s->vector, cpu->vector, sizeof(s->vector));
    s->x87 = cpu->x87;
    s->mxcsr = cpu->mxcsr;
    s->pkru = cpu->pkru;
    s->cpl = cpu->cpl;
    s->interrupt_shadow = cpu->interrupt_shadow;
}

void form_put(struct cpu *cpu, const struct form_state *s)
{
    memcpy(cpu->gpr, s->gpr, sizeof(s->gpr));
    cpu->rip = s->rip;
    cpu->cr0 = s->cr0;
    cpu->cr2 = s->cr2;
    cpu->cr3 = s->cr3;
    cpu->xcr0 = s->xcr0;
    cpu->cpl = s->cpl;
    memcpy(cpu->segment, s->segment, sizeof(s->segment));
    cpu_set_rflags(cpu, s->rflags);
    cpu->gdtr = s->gdtr;
    cpu->idtr = s->idtr;
    memcpy(cpu->vector, s->vector, sizeof(s->vector));
    cpu->x87 = s->x87;
    cpu->mxcsr = s->mxcsr;
    cpu->pkru = s->pkru;
    cpu->interrupt_shadow = s->interrupt_shadow;
    cpu->debug_shadow = false;
    cpu->debug_pending = cpu->debug_held = 0;
    cpu_update_mode(cpu);
}

/* What is state in the image: its MXCSR is the stubs' scratch, its reserved bytes are nobody's. */
static bool same_x87(const struct x87_image *a, const struct x87_image *b)
{
    bool same = a->control == b->control && a->status == b->status && a->tag == b->tag && a->opcode == b->opcode &&
                a->instruction_pointer == b->instruction_pointer && a->data_pointer == b->data_pointer;

    for (unsigned i = 0; i < 8; i++)
        same &= a->st[i].mantissa == b->st[i].mantissa && a->st[i].exponent == b->st[i].exponent;
    return same;
}

bool form_same(const struct form_state *a, const struct form_state *b, uint64_t ignored_flags)
{
    return !memcmp(a->gpr, b->gpr, sizeof(a->gpr)) && a->rip == b->rip && !((a->rflags ^ b->rflags) & ~ignored_flags) &&
           a->cr0 == b->cr0 && a->cpl == b->cpl && a->interrupt_shadow == b->interrupt_shadow && a->mxcsr == b->mxcsr && a->pkru == b->pkru &&
           !memcmp(&a->gdtr, &b->gdtr, sizeof(a->gdtr)) && !memcmp(&a->idtr, &b->idtr, sizeof(a->idtr)) &&
           !memcmp(a->segment, b->segment, sizeof(a->segment)) && !memcmp(a->vector, b->vector, sizeof(a->vector)) &&
           same_x87(&a->x87, &b->x87);
}

/* ---- attempts ---- */

static struct {
    const struct form_case *c;
    struct cpu *cpu;
    uint8_t *memory; /* what it may store to */
    size_t size;
    struct form_state before, after;
    struct flat_emulation whole;
    struct cpu_fault fault;
    uint8_t stored[AREA]; /* memory, afterwards */
} now;

static void violation(const char *what, unsigned which, unsigned at)
{
    if (violations++ >= PRINTED)
        return;
    fprintf(stderr, "FAILED: %s (callback %u, call %u; \"%s\"): ", what, which, at, last_error_text());
    form_print(now.c);
}

static void back_to_the_start(void)
{
    flat_undo(now.cpu);
    form_put(now.cpu, &now.before);
}

static bool same_fault(void)
{
    const struct cpu_fault *a = &now.fault, *b = &now.cpu->fault;

    return a->vector == b->vector && a->has_error == b->has_error && a->error == b->error && a->address == b->address;
}

/* The end of an attempt that was not disturbed, or no more, is that of the whole. */
static void check_end(const struct flat_emulation *e, const char *what, unsigned which, unsigned at)
{
    struct form_state end;

    form_take(now.cpu, &end);
    if (e->outcome != EMULATOR_SUCCESS || e->has_event != now.whole.has_event || (e->has_event && !same_fault()) ||
        !form_same(&end, &now.after, 0) || (now.c->repeats && memcmp(now.memory, now.stored, now.size)))
        violation(what, which, at);
}

/* Which status each callback's failure has. */
static const enum emulator_outcome failures[FLAT_CALLBACKS] = {
    [FLAT_GET] = EMULATOR_GET_REGISTERS_FAILED, [FLAT_SET] = EMULATOR_SET_REGISTERS_FAILED, [FLAT_MEMORY] = EMULATOR_MEMORY_FAILED,
    [FLAT_IO] = EMULATOR_IO_FAILED, [FLAT_TRANSLATE] = EMULATOR_TRANSLATE_FAILED};

static void fail_at(unsigned which, unsigned at)
{
    struct flat_emulation e;
    struct form_state end;

    back_to_the_start();
    flat_emulate(now.cpu, now.c->code, now.c->size, (enum flat_callback)which, at, &e);
    form_take(now.cpu, &end);
    failed_calls++;
    if (e.outcome != failures[which])
        violation("a callback that fails has another status", which, at);
    else if (form_same(&end, &now.before, 0))
        return;
    else if (!now.c->repeats || end.rip != now.before.rip)
        violation("registers changed although a callback failed", which, at);
    resumed++;
    flat_emulate(now.cpu, now.c->code, now.c->size, FLAT_GET, 0, &e);
    check_end(&e, "the rest of a repetition ends in another way", which, at);
}

static void hold_back(unsigned give)
{
    struct flat_emulation e;

    back_to_the_start();
    flat_emulate(now.cpu, now.c->code, give, FLAT_GET, 0, &e);
    withheld++;
    check_end(&e, "with code fetched it ends in another way", FLAT_CALLBACKS, give);
}

static void everything_that_can_fail(void)
{
    for (unsigned which = 0; which < FLAT_CALLBACKS; which++)
        for (unsigned at = 1; at <= now.whole.calls[which]; at++)
            fail_at(which, at);
    if (!now.c->flags)
        for (unsigned give = 0; give < now.c->size; give++)
            hold_back(give);
}

/* ---- the instruction ---- */

static enum form_end end_of_refusal(void)
{
    struct form_state end;
    const char *name = now.c->is_valid ? ZydisMnemonicGetString(now.c->insn.mnemonic) : "";
    const bool is_none = !cpu_is_protected(now.cpu) && strstr(last_error_text(), "not an instruction"); /* in real mode */

    form_take(now.cpu, &end);
    if (now.whole.calls[FLAT_SET] || now.whole.writes || !form_same(&end, &now.before, 0))
        violation("refused after something had happened", FLAT_CALLBACKS, 0);
    if (!strstr(last_error_text(), name) && !is_none)
        violation("the text of a refusal does not name the instruction", FLAT_CALLBACKS, 0);
    refused++;
    return FORM_REFUSED;
}

enum form_end form_emulate(const struct form_case *c, struct cpu *cpu, gpa_t from, size_t size)
{
    struct flat_cpu *flat = cpu->port_context;

    now.c = c;
    now.cpu = cpu;
    now.memory = flat->memory + from;
    now.size = size < AREA ? size : AREA;
    form_take(cpu, &now.before);
    flat_forget();
    flat_emulate(cpu, c->code, c->size, FLAT_GET, 0, &now.whole);
    if (now.whole.outcome == EMULATOR_INTERNAL_FAILURE)
        return end_of_refusal();
    if (now.whole.outcome != EMULATOR_SUCCESS)
        violation("failed without a reason", FLAT_CALLBACKS, 0);
    form_take(cpu, &now.after);
    now.fault = cpu->fault;
    if (c->repeats)
        memcpy(now.stored, now.memory, now.size);
    everything_that_can_fail();
    back_to_the_start();
    struct flat_emulation e;
    flat_emulate(cpu, c->code, c->size, FLAT_GET, 0, &e);
    check_end(&e, "the second time it ends in another way", FLAT_CALLBACKS, 0);
    *(e.has_event ? &faulted : &done) += 1;
    return e.has_event ? FORM_FAULT : FORM_DONE;
}

/* ---- what may be refused ---- */

bool form_may_be_refused(const struct form_case *c)
{
    return !c->is_valid || c->insn.mnemonic == ZYDIS_MNEMONIC_INVLPG || c->insn.mnemonic == ZYDIS_MNEMONIC_INVPCID;
}

unsigned long form_report(void)
{
    printf("the emulator: %lu done, %lu faults given, %lu refused; %lu times a callback failed, %lu repetitions gone on with, "
           "%lu times code was fetched; %lu violations\n", done, faulted, refused, failed_calls, resumed, withheld, violations);
    return violations;
}
