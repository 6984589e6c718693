/* One thread per processor; see run_loop.h. */
#include "run_loop.h"

#include <openwhp.h>

#include "guest_io.h"
#include "interrupts.h"
#include "problem.h"

typedef void exit_handler(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit);

static void on_nothing(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    (void)processor;
    (void)exit;
}

static void on_window(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    (void)exit;
    interrupts_window(processor);
}

static void on_end_of_interrupt(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct machine *machine = processor->machine;
    pthread_mutex_lock(&machine->lock);
    ioapic_end_of_interrupt(&machine->devices.ioapic, (uint8_t)exit->ApicEoi.InterruptVector);
    pthread_mutex_unlock(&machine->lock);
}

static void on_triple_fault(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    power_fail(&processor->machine->power, STOP_GUEST_CRASH,
               "processor %u: shut down by a triple fault at RIP 0x%llx", processor->index,
               (unsigned long long)exit->VpContext.Rip);
}

static void on_unexpected(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    power_fail(&processor->machine->power, STOP_GUEST_CRASH,
               "processor %u: exit \"%s\" (0x%x) at RIP 0x%llx, which this machine does not handle",
               processor->index, exit_reason_name(exit->ExitReason), (unsigned)exit->ExitReason,
               (unsigned long long)exit->VpContext.Rip);
}

static const struct {
    WHV_RUN_VP_EXIT_REASON reason;
    exit_handler *handle;
} handlers[] = {
    {WHvRunVpExitReasonX64IoPortAccess, guest_io_port},
    {WHvRunVpExitReasonMemoryAccess, guest_io_memory},
    {WHvRunVpExitReasonX64ApicEoi, on_end_of_interrupt},
    {WHvRunVpExitReasonX64InterruptWindow, on_window},
    {WHvRunVpExitReasonCanceled, on_nothing},
    {WHvRunVpExitReasonNone, on_nothing},
    {WHvRunVpExitReasonUnrecoverableException, on_triple_fault},
};

static void handle(struct processor *processor, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    exit_handler *handler = on_unexpected;
    for (unsigned i = 0; i < sizeof handlers / sizeof handlers[0]; i++) {
        if (handlers[i].reason == exit->ExitReason) {
            handler = handlers[i].handle;
            break;
        }
    }
    exit_count_add(&processor->exits, exit->ExitReason);
    handler(processor, exit);
}

static void *processor_thread(void *argument)
{
    struct processor *processor = argument;
    struct machine *machine = processor->machine;
    WHV_RUN_VP_EXIT_CONTEXT exit = {.ExitReason = WHvRunVpExitReasonNone};
    while (!power_is_stopping(&machine->power)) {
        if (processor->index == 0)
            interrupts_before_run(processor);
        HRESULT result =
            WHvRunVirtualProcessor(machine->partition, processor->index, &exit, sizeof exit);
        if (FAILED(result)) {
            power_fail(&machine->power, STOP_FAILURE, "processor %u does not run (0x%08x: %s); report this",
                       processor->index, (unsigned)result, OwhpGetLastErrorText());
            break;
        }
        handle(processor, &exit);
    }
    return NULL;
}

int run_loop_start(struct processor *processor)
{
    processor->running = true;
    if (pthread_create(&processor->thread, NULL, processor_thread, processor) == 0)
        return 0;
    processor->running = false;
    return problem("cannot start a thread for processor %u; give --cpus a smaller number", processor->index);
}

void run_loop_join(struct processor *processor)
{
    if (processor->running)
        pthread_join(processor->thread, NULL);
}

void run_loop_cancel_all(struct machine *machine)
{
    for (unsigned i = 0; i < machine->processor_count; i++)
        WHvCancelRunVirtualProcessor(machine->partition, i, 0);
}
