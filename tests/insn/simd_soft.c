#include "simd_soft.h"

#include <stdlib.h>
#include <string.h>

#include "support/flat_cpu.h"
#include "x86/system/control.h"

enum { GUEST_CODE = 0x100000, GUEST_ARENA = 0x110000 };

static struct flat_cpu *flat;
static uint8_t *host_arena;
static size_t arena_size;
static uint64_t code_size;

void simd_soft_init(uint8_t *arena, size_t size)
{
    flat = flat_create();
    if (!flat)
        abort();
    host_arena = arena;
    arena_size = size;
    flat_long(flat, true, 3);
    flat->cpu->cr4 |= CR4_OSXSAVE;
    flat->cpu->xcr0 = cpu_xcr0_mask(flat->cpu);
    flat_map(flat, native_address(), GUEST_CODE, FLAT_READ);
    for (size_t i = 0; i < size; i += PAGE_SIZE)
        flat_map(flat, (uint64_t)arena + i, GUEST_ARENA + i, FLAT_WRITE);
}

void simd_soft_place(const uint8_t *code, size_t size)
{
    memcpy(flat->memory + GUEST_CODE, code, size);
    code_size = size;
    cpu_invalidate_code(flat->cpu, GUEST_CODE, PAGE_SIZE);
}

static void load(struct cpu *cpu, const struct native_state *state)
{
    memcpy(cpu->gpr, state->gpr, sizeof(cpu->gpr));
    cpu_set_rflags(cpu, state->rflags | RFLAGS_IF);
    memcpy(&cpu->x87, state->fxsave, 160);
    memcpy(&cpu->mxcsr, state->fxsave + 24, 4);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(&cpu->vector[i], state->fxsave + 160 + 16 * i, 16);
        memcpy(&cpu->vector[i].q[2], state->upper[i], 16);
    }
    cpu->rip = native_address();
}

/* False: RIP is not where it should be. */
static bool store(const struct cpu *cpu, struct native_state *state)
{
    memcpy(state->gpr, cpu->gpr, sizeof(cpu->gpr));
    state->rflags = cpu_rflags(cpu);
    memcpy(state->fxsave, &cpu->x87, 160);
    memcpy(state->fxsave + 24, &cpu->mxcsr, 4);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(state->fxsave + 160 + 16 * i, &cpu->vector[i], 16);
        memcpy(state->upper[i], &cpu->vector[i].q[2], 16);
    }
    return cpu->rip == native_address() + (state->fault == NATIVE_NO_FAULT ? code_size : 0);
}

void simd_soft_run(struct native_state *state)
{
    load(flat->cpu, state);
    memcpy(flat->memory + GUEST_ARENA, host_arena, arena_size);
    enum cpu_leave leave = simd_emulate
                               ? simd_emulate(flat->cpu, flat->memory + GUEST_CODE, code_size)
                               : cpu_step(flat->cpu);
    state->fault = leave == LEAVE_NONE    ? NATIVE_NO_FAULT
                   : leave == LEAVE_FAULT ? flat->cpu->fault.vector
                                          : -2;
    memcpy(host_arena, flat->memory + GUEST_ARENA, arena_size);
    if (!store(flat->cpu, state))
        state->fault = -2;
}
