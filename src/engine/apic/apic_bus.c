/*
 * Routing between the local APICs of a partition.
 *
 * Processor `index` has APIC ID `index` for good, so a physical destination is an index. Logical
 * destinations and broadcasts look at every APIC, but for x2APIC clusters, whose members follow
 * from the ID. Who is meant depends on the mode of each receiver (SDM 3A 11.6.2, 11.12.10) and, for
 * the value that means everybody, on the sender's.
 */
#include "engine/apic/apic_bus.h"

#include <stdlib.h>
#include <string.h>

#include "engine/apic/lapic_state.h"
#include "util/last_error.h"

#define DEFAULT_APIC_FREQUENCY UINT64_C(200000000) /* as the Windows hypervisor's */
#define XAPIC_BROADCAST        0xffu
#define X2APIC_BROADCAST       0xffffffffu

struct apic_bus {
    const struct partition_config *config;
    struct timer_queue *timers;
    uint32_t count;
    _Atomic uint32_t arbitration;     /* breaks ties among equal priorities in turn */
    _Atomic(struct lapic *) lapics[]; /* set once each */
};

enum status apic_bus_create(const struct partition_config *config, struct timer_queue *timers,
                            struct apic_bus **out)
{
    uint32_t count = config->processor_count;
    struct apic_bus *bus = calloc(1, sizeof(*bus) + count * sizeof(bus->lapics[0]));
    if (!bus)
        return fail(STATUS_NO_MEMORY, "no memory for the APIC bus of %u processors", count);
    bus->config = config;
    bus->timers = timers;
    bus->count = count;
    *out = bus;
    return STATUS_OK;
}

void apic_bus_destroy(struct apic_bus *bus)
{
    if (!bus)
        return;
    for (uint32_t i = 0; i < bus->count; i++)
        free(atomic_load(&bus->lapics[i]));
    free(bus);
}

/* Not for an index that is attached; the caller (partition's processor creation) is one thread at a
 * time. */
struct lapic *apic_bus_attach(struct apic_bus *bus, uint32_t index)
{
    if (index >= bus->count)
        return NULL;
    struct lapic *lapic = atomic_load(&bus->lapics[index]);
    if (lapic)
        return lapic;
    lapic = aligned_alloc(_Alignof(struct lapic), sizeof(*lapic));
    if (!lapic)
        return NULL;
    memset(lapic, 0, sizeof(*lapic));
    lapic->id = index;
    lapic->bus = bus;
    atomic_store(&bus->lapics[index], lapic);
    return lapic;
}

const struct partition_config *apic_bus_config(const struct apic_bus *bus)
{
    return bus->config;
}

struct timer_queue *apic_bus_timers(const struct apic_bus *bus)
{
    return bus->timers;
}

uint64_t apic_bus_frequency(const struct apic_bus *bus)
{
    return bus->config->apic_frequency ? bus->config->apic_frequency : DEFAULT_APIC_FREQUENCY;
}

/* ---- who is meant ---- */

/* NULL: no processor there, or its APIC is disabled and hears nothing. */
static struct lapic *listener(struct apic_bus *bus, uint32_t index)
{
    if (index >= bus->count)
        return NULL;
    struct lapic *lapic = atomic_load_explicit(&bus->lapics[index], memory_order_acquire);
    return lapic && atomic_load(&lapic->attached) && lapic_is_enabled(lapic) ? lapic : NULL;
}

/* From outside, where destinations have 8 bits (IOAPIC, MSI), FFH means everybody unless somebody
 * has that ID. */
static bool is_broadcast(const struct apic_bus *bus, const struct apic_message *message)
{
    uint32_t destination = message->destination;
    switch (message->source) {
    case SOURCE_XAPIC:
        return destination == XAPIC_BROADCAST;
    case SOURCE_X2APIC:
        return destination == X2APIC_BROADCAST;
    case SOURCE_EXTERNAL:
        break;
    }
    return destination == X2APIC_BROADCAST ||
           (destination == XAPIC_BROADCAST && !message->is_logical &&
            bus->count <= XAPIC_BROADCAST);
}

/* SDM 3A 11.6.2.2: the flat model compares bits, the cluster model a 4-bit cluster and 4 bits. */
static bool matches_xapic_logical(const struct lapic *lapic, uint32_t destination)
{
    uint32_t ldr = lapic_load(&lapic->ldr) >> 24;
    if (destination > 0xff)
        return false;
    switch (lapic_load(&lapic->dfr) >> 28) {
    case 0xf:
        return destination & ldr;
    case 0x0:
        return (destination >> 4 == ldr >> 4 || destination >> 4 == 0xf) &&
               (destination & ldr & 0xf);
    default:
        return false;
    }
}

static bool matches_x2apic_logical(const struct lapic *lapic, uint32_t destination)
{
    uint32_t ldr = lapic_x2apic_ldr(lapic->id);
    return destination >> 16 == ldr >> 16 && (destination & ldr & 0xffff);
}

/* Physical: 32 bits also where the receiver is still in xAPIC mode, or nobody could start
 * processors above 255. */
static bool matches(const struct lapic *lapic, const struct apic_message *message)
{
    if (message->is_logical)
        return lapic_is_x2apic(lapic) ? matches_x2apic_logical(lapic, message->destination)
                                      : matches_xapic_logical(lapic, message->destination);
    return message->destination == lapic->id;
}

/* Where to look for the receivers of a message: indexes first..end-1, then matches() decides. */
struct search {
    uint32_t first, end;
    bool everybody;
};

static struct search where(const struct apic_bus *bus, const struct apic_message *message)
{
    uint32_t destination = message->destination;
    struct search all = {.end = bus->count};
    if (is_broadcast(bus, message)) {
        all.everybody = true;
        return all;
    }
    if (!message->is_logical)
        return destination < bus->count ? (struct search){destination, destination + 1, false}
                                        : (struct search){0};
    if (message->is_logical && message->source == SOURCE_X2APIC) {
        uint32_t first = (destination >> 16) * 16;
        if (first >= bus->count)
            return (struct search){0};
        return (struct search){first, first + 16 < bus->count ? first + 16 : bus->count, false};
    }
    return all;
}

/* The next receiver at or behind *index, which moves past it. */
static struct lapic *next(struct apic_bus *bus, const struct apic_message *message,
                          const struct search *search, uint32_t *index)
{
    while (*index < search->end) {
        struct lapic *lapic = listener(bus, (*index)++);
        if (lapic && (search->everybody || matches(lapic, message)))
            return lapic;
    }
    return NULL;
}

/* ---- delivery ---- */

/*
 * Lowest priority (SDM 3A 11.6.2.4): the processor with the lowest task priority class among those
 * that can take it; among equals each in turn.
 */
static void send_lowest(struct apic_bus *bus, const struct apic_message *message,
                        const struct search *search, const struct lapic *except)
{
    struct lapic *best = NULL, *lapic;
    uint32_t best_class = 16, equals = 0, index = search->first;
    uint32_t turn = atomic_fetch_add_explicit(&bus->arbitration, 1, memory_order_relaxed);
    while ((lapic = next(bus, message, search, &index))) {
        if (lapic == except || !lapic_is_software_enabled(lapic))
            continue;
        uint32_t class = lapic_load(&lapic->tpr) >> 4;
        if (class < best_class) {
            best_class = class;
            best = NULL;
            equals = 0;
        }
        if (class == best_class && (!best || turn % (equals + 1) == equals))
            best = lapic;
        equals += class == best_class;
    }
    if (best)
        lapic_receive(best, message);
}

static void send_all(struct apic_bus *bus, const struct apic_message *message,
                     const struct search *search, const struct lapic *except)
{
    struct lapic *lapic;
    uint32_t index = search->first;
    if (message->mode == DELIVERY_LOWEST) {
        send_lowest(bus, message, search, except);
        return;
    }
    while ((lapic = next(bus, message, search, &index)))
        if (lapic != except)
            lapic_receive(lapic, message);
}

void apic_bus_send(struct apic_bus *bus, const struct apic_message *message)
{
    struct search search = where(bus, message);
    send_all(bus, message, &search, NULL);
}

void apic_bus_broadcast(struct apic_bus *bus, const struct apic_message *message,
                        const struct lapic *except)
{
    struct search search = {.end = bus->count, .everybody = true};
    send_all(bus, message, &search, except);
}

/* ---- from outside ---- */

enum { REQUEST_LINT1 = 9 }; /* the other types have the numbers of the delivery modes */

static void send_lint1(struct apic_bus *bus, const struct apic_message *message)
{
    struct search search = where(bus, message);
    struct lapic *lapic;
    uint32_t index = search.first;
    while ((lapic = next(bus, message, &search, &index)))
        lapic_receive_lint1(lapic);
}

static enum status check_request(const struct apic_bus *bus,
                                 const struct interrupt_request *request)
{
    if (bus->config->apic_mode == APIC_MODE_NONE)
        return fail(STATUS_HV_OPERATION_DENIED,
                    "the partition has no local APICs (LocalApicEmulationMode None)");
    switch (request->type) {
    case DELIVERY_FIXED:
    case DELIVERY_LOWEST:
        if (request->vector >= LAPIC_FIRST_VECTOR && request->vector <= 0xff)
            return STATUS_OK;
        return fail(STATUS_HV_INVALID_PARAMETER, "interrupt vector %u is not within 16..255",
                    request->vector);
    case DELIVERY_SIPI:
        if (request->vector <= 0xff)
            return STATUS_OK;
        return fail(STATUS_HV_INVALID_PARAMETER, "SIPI vector %u is above 255", request->vector);
    case DELIVERY_NMI:
    case DELIVERY_INIT:
    case REQUEST_LINT1:
        return STATUS_OK;
    default:
        return fail(STATUS_HV_INVALID_PARAMETER, "interrupt type %u does not exist", request->type);
    }
}

enum status apic_bus_request(struct apic_bus *bus, const struct interrupt_request *request)
{
    enum status status = check_request(bus, request);
    if (status != STATUS_OK)
        return status;
    struct apic_message message = {
        .mode = (enum delivery_mode)(request->type & 7),
        .source = SOURCE_EXTERNAL,
        .destination = request->destination,
        .vector = (uint8_t)request->vector,
        .is_logical = request->is_logical,
        .is_level = request->is_level,
    };
    if (request->type == REQUEST_LINT1)
        send_lint1(bus, &message);
    else
        apic_bus_send(bus, &message);
    return STATUS_OK;
}

enum status apic_bus_targets(struct apic_bus *bus, uint64_t destination, bool is_logical,
                             uint64_t *set, size_t words)
{
    if (bus->config->apic_mode == APIC_MODE_NONE)
        return fail(STATUS_HV_OPERATION_DENIED,
                    "the partition has no local APICs (LocalApicEmulationMode None)");
    if (destination > UINT32_MAX)
        return fail(STATUS_HV_INVALID_PARAMETER,
                    "interrupt destination %#llx has more than 32 bits",
                    (unsigned long long)destination);
    if (words * 64 < bus->count)
        return fail(STATUS_INSUFFICIENT_BUFFER, "room for %zu processors of %u", words * 64,
                    bus->count);
    struct apic_message message = {
        .source = SOURCE_EXTERNAL, .destination = (uint32_t)destination, .is_logical = is_logical};
    struct search search = where(bus, &message);
    struct lapic *lapic;
    uint32_t index = search.first;
    memset(set, 0, words * sizeof(*set));
    while ((lapic = next(bus, &message, &search, &index)))
        set[lapic->id / 64] |= UINT64_C(1) << (lapic->id % 64);
    return STATUS_OK;
}
