/*
 * Every instruction of the comparison with the host (tests/insn), carried out by the emulator. On the way
 *   - code bytes are held back, so that it must fetch them,
 *   - a callback fails first: nothing may have changed (elements of a repeated string instruction stay done), and the
 *     emulator is asked again,
 *   - what it refuses is executed by the processor, whose port then must not see an access.
 */
#include "insn/silicon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emul/flat_emulator.h"
#include "support/flat_cpu.h"
#include "util/check.h"
#include "x86/memory/tlb.h"

enum { ARENA = 0x100000, ARENA_BYTES = 0x40000 }; /* of the harness, in the flat processor's memory */

/* Not the harness's generator: its cases are to be the same ones. */
static uint64_t random_number(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static _Noreturn void give_up(const char *what, const uint8_t *code, size_t size)
{
    fprintf(stderr, "%s:", what);
    for (size_t i = 0; i < size; i++)
        fprintf(stderr, " %02x", code[i]);
    fprintf(stderr, "\n");
    exit(1);
}

enum cpu_leave simd_emulate(struct cpu *cpu, const uint8_t *code, size_t size); /* insn/simd_soft.h */

/* ---- what is refused ---- */

static unsigned accesses;

static enum port_result count_access(struct cpu *cpu, const struct port_access *access)
{
    struct flat_cpu *flat = cpu->port_context;

    if (access->gva_valid)
        accesses++; /* and not those of the page walk */
    if (access->type == ACCESS_READ && access->gpa < FLAT_SIZE)
        memcpy(access->data, flat->memory + access->gpa, access->size);
    return PORT_DONE;
}

static bool code_only(struct cpu *cpu, gpa_t page, enum access_type type, struct port_page *out)
{
    struct flat_cpu *flat = cpu->port_context;

    *out = (struct port_page){.host = flat->memory + page, .rights = PAGE_EXECUTE};
    return type == ACCESS_EXECUTE;
}

static enum cpu_leave step_without_memory(struct cpu *cpu, const uint8_t *code, size_t size)
{
    static const struct cpu_port counting = {.page = code_only, .access = count_access};
    const struct cpu_port *port = cpu->port;
    enum cpu_leave leave;

    accesses = 0;
    cpu_drop_memory(cpu, false);
    cpu->port = &counting;
    leave = cpu_step(cpu);
    cpu->port = port;
    cpu_drop_memory(cpu, false);
    if (accesses && !(leave == LEAVE_FAULT && cpu->fault.vector == VECTOR_UD))
        give_up("refused although it accesses memory", code, size);
    return leave;
}

/* ---- one that fails, then one that does not ---- */

static bool is_repeated(const uint8_t *code, size_t size)
{
    for (size_t i = 0; i < size && i < 4; i++)
        if (code[i] == 0xf2 || code[i] == 0xf3)
            return true;
    return false;
}

static void fail_first(struct cpu *cpu, const uint8_t *code, size_t size, size_t give)
{
    struct flat_cpu *flat = cpu->port_context;
    static uint8_t memory[ARENA_BYTES];
    struct cpu before;
    struct flat_emulation done;
    enum flat_callback which = (enum flat_callback)(random_number() % FLAT_CALLBACKS);

    memcpy(memory, flat->memory + ARENA, sizeof(memory));
    memcpy(&before, cpu, sizeof(before));
    flat_emulate(cpu, code, give, which, 1 + (unsigned)(random_number() % 4), &done);
    if (done.outcome != EMULATOR_SUCCESS && done.outcome != EMULATOR_SET_REGISTERS_FAILED && is_repeated(code, size) &&
        done.calls[FLAT_SET])
        return; /* some elements: the rest follows */
    if (done.outcome != EMULATOR_SUCCESS && (memcmp(cpu->gpr, before.gpr, sizeof(before.gpr)) || cpu_rflags(cpu) != cpu_rflags(&before) || cpu->rip != before.rip ||
        memcmp(cpu->segment, before.segment, sizeof(before.segment)) || memcmp(&cpu->x87, &before.x87, sizeof(before.x87)) ||
        memcmp(cpu->vector, before.vector, sizeof(before.vector))))
        give_up("registers changed although a callback failed", code, size);
    /* Once more, from the beginning. */
    memcpy(flat->memory + ARENA, memory, sizeof(memory));
    memcpy(cpu->gpr, before.gpr, sizeof(before.gpr));
    memcpy(cpu->vector, before.vector, sizeof(before.vector));
    cpu->x87 = before.x87;
    cpu->mxcsr = before.mxcsr;
    cpu->fault = before.fault;
    cpu->rip = before.rip;
    cpu_set_rflags(cpu, cpu_rflags(&before));
}

static enum cpu_leave emulate(struct cpu *cpu, const uint8_t *code, size_t size)
{
    uint64_t r = random_number();
    size_t give = r & 7 ? size : (r >> 8) % (size + 1);
    struct flat_emulation done;

    if ((r >> 16 & 7) == 0)
        fail_first(cpu, code, size, give);
    flat_emulate(cpu, code, give, FLAT_GET, 0, &done);
    if (done.outcome == EMULATOR_INTERNAL_FAILURE) {
        if (done.calls[FLAT_SET] || done.writes)
            give_up("refused after something had happened", code, size);
        return step_without_memory(cpu, code, size);
    }
    if (done.outcome != EMULATOR_SUCCESS)
        give_up("failed without reason", code, size);
    return done.has_event ? LEAVE_FAULT : LEAVE_NONE;
}

enum cpu_leave silicon_emulate(struct cpu *cpu, const uint8_t *code, size_t size)
{
    return emulate(cpu, code, size);
}

enum cpu_leave simd_emulate(struct cpu *cpu, const uint8_t *code, size_t size)
{
    return emulate(cpu, code, size);
}
