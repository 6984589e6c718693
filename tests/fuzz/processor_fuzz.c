/*
 * The processor under random everything: code, registers, control registers, descriptor and page tables, rights of memory,
 * exits in the middle, events from outside. Nothing is expected of it but that it stays a processor: no crash, no hang, no
 * access beside the guest's memory, and after each run a state that a processor can be in.
 *
 *     processor_fuzz [--count N | --seconds N] [--seed N]
 *
 * The same as a target of libFuzzer (scripts/fuzz): the input is where the random numbers come from first.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "duel/duel_code.h"
#include "fuzz_limits.h"
#include "insn/simd_values.h"
#include "os/guarded.h"
#include "processor_world.h"
#include "util/check.h"
#include "x86/system/control.h"
#include "x86/system/event.h"

enum { STEPS = 200 }; /* in one world; a run is one, too */

static struct world world;
static uint64_t instructions, lives, shutdowns, halts, exits_seen, faults_seen;

/* ---- ending what does not end ---- */

static void *cancel(void *unused)
{
    (void)unused;
    for (;;) {
        usleep(1000);
        atomic_fetch_or_explicit(&world.cpu->request, REQUEST_CANCEL, memory_order_relaxed);
    }
    return NULL;
}

/* ---- what must hold ---- */

static void fail_life(const char *what, uint64_t seed)
{
    const struct cpu *cpu = world.cpu;

    fprintf(stderr, "FAILED: %s, --seed %llu --count 1; cs:rip %x:%llx cr0 %llx cr4 %llx efer %llx rflags %llx cpl %u\n", what,
            (unsigned long long)seed, cpu->segment[SEG_CS].selector, (unsigned long long)cpu->rip, (unsigned long long)cpu->cr0,
            (unsigned long long)cpu->cr4, (unsigned long long)cpu->efer, (unsigned long long)cpu->rflags, cpu->cpl);
    abort();
}

static void check_state(uint64_t seed)
{
    struct cpu *cpu = world.cpu;
    const char *problem = cpu_control_problem(cpu);
    const uint32_t mode = cpu->mode;
    const uint64_t read_key = cpu->read_key, write_key = cpu->write_key, bound = cpu->read_bound[SEG_DS];

    if (problem)
        fail_life(problem, seed);
    cpu_update_mode(cpu);
    if (mode != cpu->mode || read_key != cpu->read_key || write_key != cpu->write_key || bound != cpu->read_bound[SEG_DS])
        fail_life("what is derived from the registers was not up to date", seed);
    if (cpu->cpl > 3 || (cpu_is_real(cpu) && cpu->cpl != 0) || (cpu_is_v86(cpu) && cpu->cpl != 3))
        fail_life("CPL", seed);
    if (cpu->zero != 0)
        fail_life("the register that is zero is not", seed);
    if (!world_is_intact(&world))
        fail_life("memory beside the guest's was written", seed);
}

/* ---- one life ---- */

static struct event random_event(void)
{
    const enum event_type types[] = {EVENT_EXTERNAL,       EVENT_NMI,  EVENT_EXCEPTION, EVENT_SOFTWARE,
                                     EVENT_SOFT_EXCEPTION, EVENT_ICEBP};
    struct event e = {.type = types[simd_random() % array_size(types)], .vector = (uint8_t)simd_random()};

    if (e.type == EVENT_NMI)
        e.vector = VECTOR_NMI;
    if (e.type == EVENT_EXCEPTION) {
        e.vector &= 31;
        e.has_error = simd_one_in(2);
        e.error = (uint32_t)simd_random() & 0xffff;
    }
    return e;
}

static enum cpu_leave go(struct event *pending)
{
    struct cpu *cpu = world.cpu;

    if (cpu->memory_event)
        return event_dispatch(cpu, pending);
    if (simd_one_in(12)) {
        *pending = random_event();
        return event_dispatch(cpu, pending);
    }
    if (simd_one_in(16))
        cpu_invalidate_code(cpu, simd_random() % WORLD_MEMORY & PAGE_MASK, PAGE_SIZE);
    if (simd_one_in(16)) {
        world_random_rights(&world);
        cpu_drop_memory(cpu, simd_one_in(2));
    }
    if (simd_one_in(20))
        return cpu_run(cpu, pending);
    const enum cpu_leave leave = cpu_step(cpu);
    if (leave != LEAVE_FAULT)
        return leave;
    faults_seen++;
    *pending = event_from_fault(cpu);
    return event_dispatch(cpu, pending);
}

static void one_life(uint64_t seed)
{
    struct event pending = {0};

    world_random(&world);
    lives++;
    for (unsigned i = 0; i < STEPS; i++) {
        atomic_fetch_and(&world.cpu->request, REQUEST_ATTENTION);
        if (simd_one_in(16))
            atomic_fetch_or(&world.cpu->request, REQUEST_INTERRUPT);
        const enum cpu_leave leave = go(&pending);
        instructions++;
        check_state(seed);
        shutdowns += leave == LEAVE_SHUTDOWN;
        halts += leave == LEAVE_HALT;
        exits_seen += leave == LEAVE_EXIT || leave == LEAVE_DONE_EXIT;
        if (leave == LEAVE_SHUTDOWN) {
            pending = (struct event){0};
            world_restart(&world);
        } else if (simd_one_in(10))
            world_random_code_registers(&world);
    }
    world.cpu->memory_event = false;
}

static bool prepare(void)
{
    pthread_t thread;

    return guarded_init() && world_create(&world) && pthread_create(&thread, NULL, cancel, NULL) == 0;
}

#ifdef OWHP_LIBFUZZER

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool ready;

    if (!ready && !prepare())
        abort();
    ready = true;
    simd_restart(size);
    simd_feed(data, size);
    one_life(0);
    simd_feed(NULL, 0);
    return 0;
}

#else

int main(int argc, char **argv)
{
    const struct fuzz_limits limits = fuzz_limits(argc, argv, 500);

    if (!prepare())
        return 1;
    for (uint64_t i = 0; fuzz_goes_on(&limits, i); i++) {
        simd_restart(limits.seed + i);
        one_life(limits.seed + i);
    }
    printf("%llu lives from seed %llu, %llu runs, %llu single faults, %llu exits, %llu halts, %llu shutdowns\n",
           (unsigned long long)lives, (unsigned long long)limits.seed, (unsigned long long)instructions,
           (unsigned long long)faults_seen, (unsigned long long)exits_seen, (unsigned long long)halts,
           (unsigned long long)shutdowns);
    return 0; /* the world stays: the other thread still looks at it */
}

#endif
