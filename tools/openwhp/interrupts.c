/* From the interrupt controllers to the processors; see interrupts.h. */
#include "interrupts.h"

enum {
    DELIVERY_FIXED = 0,
    DELIVERY_LOWEST_PRIORITY = 1,
    DELIVERY_NMI = 4,
    DELIVERY_INIT = 5,
    FIRST_VECTOR = 16, /* vectors below are exceptions; a local APIC refuses them */
};

/* SMI and ExtINT are not for the message bus of this machine: no SMM; INTR has its own wire. */
static bool message_type(uint8_t mode, WHV_INTERRUPT_TYPE *type)
{
    switch (mode) {
    case DELIVERY_FIXED:
        *type = WHvX64InterruptTypeFixed;
        return true;
    case DELIVERY_LOWEST_PRIORITY:
        *type = WHvX64InterruptTypeLowestPriority;
        return true;
    case DELIVERY_NMI:
        *type = WHvX64InterruptTypeNmi;
        return true;
    case DELIVERY_INIT:
        *type = WHvX64InterruptTypeInit;
        return true;
    default:
        return false;
    }
}

/* A guest may program nonsense into the IOAPIC: what the platform refuses is lost, as on the bus. */
static void send_message(void *context, const struct interrupt_message *message)
{
    struct machine *machine = context;
    WHV_INTERRUPT_TYPE type;
    if (!message_type(message->delivery_mode, &type))
        return;
    if (type <= WHvX64InterruptTypeLowestPriority && message->vector < FIRST_VECTOR)
        return;
    WHV_INTERRUPT_CONTROL control = {.Destination = message->destination, .Vector = message->vector};
    control.Type = (UINT64)type & 0xff;
    control.DestinationMode = message->logical ? WHvX64InterruptDestinationModeLogical
                                               : WHvX64InterruptDestinationModePhysical;
    control.TriggerMode = message->level ? WHvX64InterruptTriggerModeLevel : WHvX64InterruptTriggerModeEdge;
    WHvRequestInterrupt(machine->partition, &control, sizeof control);
}

static void pic_output(void *context, bool asserted)
{
    struct machine *machine = context;
    struct processor *processor = &machine->processors[0];
    atomic_store(&machine->pic_asserted, asserted);
    /* On its own thread the processor looks before it runs; elsewhere it has to be stopped first. */
    if (asserted && processor->running && !pthread_equal(processor->thread, pthread_self()))
        WHvCancelRunVirtualProcessor(machine->partition, 0, 0);
}

void interrupts_init(struct machine *machine)
{
    machine->interrupts = (struct interrupt_sink){send_message, pic_output, machine};
    atomic_init(&machine->pic_asserted, false);
}

static void set_register(struct processor *processor, WHV_REGISTER_NAME name, WHV_REGISTER_VALUE value)
{
    WHvSetVirtualProcessorRegisters(processor->machine->partition, processor->index, &name, 1, &value);
}

void interrupts_before_run(struct processor *processor)
{
    if (processor->window_armed || !atomic_load(&processor->machine->pic_asserted))
        return;
    WHV_REGISTER_VALUE value = {.Reg64 = 0};
    value.DeliverabilityNotifications.InterruptNotification = 1;
    set_register(processor, WHvX64RegisterDeliverabilityNotifications, value);
    processor->window_armed = true;
}

void interrupts_window(struct processor *processor)
{
    struct machine *machine = processor->machine;
    processor->window_armed = false; /* the notification is given once */
    pthread_mutex_lock(&machine->lock);
    int vector = pic8259_acknowledge(&machine->devices.pic);
    pthread_mutex_unlock(&machine->lock);
    if (vector < 0)
        return; /* the request has gone away in between */
    WHV_REGISTER_VALUE value = {.Reg64 = 0};
    value.ExtIntEvent.EventPending = 1;
    value.ExtIntEvent.EventType = WHvX64PendingEventExtInt;
    value.ExtIntEvent.Vector = (UINT64)vector & 0xff;
    set_register(processor, WHvRegisterPendingEvent, value);
}
