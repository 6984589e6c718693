#include "guest.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/guarded.h"
#include "util/compiler.h"
#include "x86/port.h"

static struct guest *guest_of(struct cpu *cpu) { return cpu->port_context; }

static bool guest_page(struct cpu *cpu, gpa_t page_address, enum access_type type, struct port_page *page)
{
    struct guest *guest = guest_of(cpu);

    if (page_address >= GUEST_MEMORY || (!guest->direct && type != ACCESS_EXECUTE))
        return false;
    *page = (struct port_page){.host = guest->memory + page_address, .rights = PAGE_READ | PAGE_WRITE | PAGE_EXECUTE};
    return true;
}

static bool wants_exit(struct guest *guest)
{
    if (!guest->exit_one_in)
        return false;
    guest->exit_random = guest->exit_random * 6364136223846793005u + 1442695040888963407u;
    return (guest->exit_random >> 33) % guest->exit_one_in == 0;
}

static enum port_result guest_access(struct cpu *cpu, const struct port_access *access)
{
    struct guest *guest = guest_of(cpu);

    if (wants_exit(guest)) {
        guest->exits++;
        return PORT_EXIT;
    }
    if (access->gpa >= GUEST_MEMORY || access->size > GUEST_MEMORY - access->gpa) {
        guest->device_accesses++;
        if (access->type == ACCESS_READ)
            memset(access->data, 0xff, access->size);
        return access->type == ACCESS_EXECUTE ? PORT_EXIT : PORT_DONE;
    }
    if (access->type == ACCESS_READ)
        memcpy(access->data, guest->memory + access->gpa, access->size);
    else if (access->type == ACCESS_WRITE)
        memcpy(guest->memory + access->gpa, access->data, access->size);
    return PORT_DONE;
}

static void request(struct cpu *cpu, uint32_t what)
{
    atomic_fetch_or_explicit(&cpu->request, what, memory_order_relaxed);
}

static enum port_result guest_io(struct cpu *cpu, const struct port_io *io)
{
    struct guest *guest = guest_of(cpu);

    if (!io->is_write) {
        *io->data = io->port == 0x80 ? guest->pending_vector >= 0 : 0xffffffff;
        return PORT_DONE;
    }
    switch (io->port) {
    case 0x80:
        guest->pending_vector = *io->data & 0xff;
        request(cpu, REQUEST_INTERRUPT);
        break;
    case 0xe9:
        if (guest->output_length + 1 < sizeof(guest->output))
            guest->output[guest->output_length++] = (char)*io->data;
        break;
    case 0xf4:
        guest->ended = true;
        guest->code = *io->data;
        request(cpu, REQUEST_CANCEL);
        break;
    default:
        break;
    }
    return PORT_DONE;
}

static const struct cpu_port port = {.page = guest_page, .access = guest_access, .io = guest_io};

static bool load(struct guest *guest, const char *path)
{
    FILE *file = fopen(path, "rb");

    if (!file)
        return false;
    const size_t size = fread(guest->memory + GUEST_LOAD, 1, 0x80000 - GUEST_LOAD, file);
    fclose(file);
    return size > 0;
}

bool guest_create(struct guest *guest, const char *path, bool direct)
{
    *guest = (struct guest){.direct = direct, .pending_vector = -1};
    guest->memory = aligned_alloc(4096, GUEST_MEMORY);
    guest->cpu = cpu_create(&port, guest, 40);
    if (!guest->memory || !guest->cpu || !guarded_init())
        return false;
    memset(guest->memory, 0, GUEST_MEMORY);
    struct segment *cs = &guest->cpu->segment[SEG_CS];
    cs->selector = 0;
    cs->base = 0;
    guest->cpu->rip = GUEST_LOAD;
    guest->cpu->gpr[REG_RSP].q = GUEST_LOAD;
    cpu_update_mode(guest->cpu);
    return !path || load(guest, path);
}

void guest_destroy(struct guest *guest)
{
    cpu_destroy(guest->cpu);
    free(guest->memory);
}

/* Deliver the pending interrupt when the processor takes it. */
static enum cpu_leave interrupt(struct guest *guest, struct event *pending)
{
    struct cpu *cpu = guest->cpu;

    atomic_fetch_and_explicit(&cpu->request, ~(uint32_t)REQUEST_INTERRUPT, memory_order_relaxed);
    if (guest->pending_vector < 0)
        return LEAVE_NONE;
    cpu->interrupt_waiting = true;
    if (!(cpu->rflags & RFLAGS_IF) || cpu->interrupt_shadow)
        return LEAVE_NONE;
    cpu->interrupt_waiting = false;
    *pending = (struct event){.type = EVENT_EXTERNAL, .vector = (uint8_t)guest->pending_vector};
    guest->pending_vector = -1;
    return event_dispatch(cpu, pending);
}

/* ---- running ---- */

enum { TIME_LIMIT = 20 }; /* seconds: a payload takes milliseconds */

struct watchdog {
    struct cpu *cpu;
    pthread_t thread;
    atomic_bool done;
};

static void *watch(void *argument)
{
    struct watchdog *watchdog = argument;

    for (unsigned i = 0; i < TIME_LIMIT * 100 && !atomic_load(&watchdog->done); i++)
        usleep(10000);
    if (!atomic_load(&watchdog->done))
        request(watchdog->cpu, REQUEST_CANCEL);
    return NULL;
}

/* With GUEST_TRACE in the environment: instruction by instruction, each one's address on standard error. */
static enum cpu_leave step(struct guest *guest, struct event *pending)
{
    struct cpu *cpu = guest->cpu;

    if (atomic_load(&cpu->request) & REQUEST_INTERRUPT)
        return LEAVE_REQUEST;
    fprintf(stderr, "%x:%llx cpl %u sp %llx ax %llx\n", cpu->segment[SEG_CS].selector, (unsigned long long)cpu->rip, cpu->cpl,
            (unsigned long long)cpu->gpr[REG_RSP].q, (unsigned long long)cpu->gpr[REG_RAX].q);
    cpu->interrupt_shadow = false;
    const enum cpu_leave leave = cpu_step(cpu);
    if (leave != LEAVE_FAULT)
        return leave;
    fprintf(stderr, "   fault %u error %#x address %#llx\n", cpu->fault.vector, cpu->fault.error,
            (unsigned long long)cpu->fault.address);
    *pending = event_from_fault(cpu);
    return event_dispatch(cpu, pending);
}

/* After an exit: nothing of the instruction has happened, or the event is still to be delivered. */
static enum cpu_leave resume(struct guest *guest, struct event *pending)
{
    enum cpu_leave leave = LEAVE_NONE;

    while (guest->cpu->memory_event && (leave = event_dispatch(guest->cpu, pending)) == LEAVE_EXIT)
        ;
    return leave;
}

static enum cpu_leave run(struct guest *guest, bool trace)
{
    struct event pending = {0};
    enum cpu_leave leave;

    for (;;) {
        leave = trace ? step(guest, &pending) : cpu_run(guest->cpu, &pending);
        if (guest->ended || (atomic_load(&guest->cpu->request) & REQUEST_CANCEL))
            return leave;
        if (leave == LEAVE_REQUEST || (leave == LEAVE_HALT && guest->pending_vector >= 0 && (guest->cpu->rflags & RFLAGS_IF)))
            leave = interrupt(guest, &pending);
        if (leave == LEAVE_EXIT && guest->exit_one_in)
            leave = resume(guest, &pending);
        if (leave != LEAVE_NONE)
            return leave;
    }
}

enum cpu_leave guest_run(struct guest *guest)
{
    struct watchdog watchdog = {.cpu = guest->cpu};
    const bool watched = pthread_create(&watchdog.thread, NULL, watch, &watchdog) == 0;
    const enum cpu_leave leave = run(guest, getenv("GUEST_TRACE") != NULL);

    atomic_store(&watchdog.done, true);
    if (watched)
        pthread_join(watchdog.thread, NULL);
    return leave;
}
