/*
 * The bus between the local APICs of a partition: who is meant by a destination, and requests from
 * outside (WHvRequestInterrupt: what an IOAPIC or an MSI would send).
 *
 * Threads: every function but create and destroy from any thread; processors may come and go
 * meanwhile. Memory of an APIC stays with the bus until the bus is destroyed, so a message on its
 * way never meets freed memory.
 */
#ifndef OWHP_ENGINE_SOFT_APIC_BUS_H
#define OWHP_ENGINE_SOFT_APIC_BUS_H

#include "core/config.h"
#include "engine/engine.h"
#include "engine/apic/timer.h"
#include "util/status.h"

struct apic_bus;

/* `config` and `timers` outlive the bus. Uses processor_count, apic_mode, apic_frequency (0: 200
 * MHz), physical_address_bits; works with APIC_MODE_NONE, where requests are denied.
 * STATUS_NO_MEMORY. */
enum status apic_bus_create(const struct partition_config *config, struct timer_queue *timers,
                            struct apic_bus **out);
void apic_bus_destroy(struct apic_bus *bus); /* every lapic was destroyed; NULL: nothing */

/*
 * An interrupt from outside. Nobody at the destination, or nobody who takes it: STATUS_OK.
 * STATUS_HV_OPERATION_DENIED: the partition has no APIC. STATUS_HV_INVALID_PARAMETER: a type that
 * does not exist, a fixed or lowest-priority vector outside 16..255, a SIPI vector above 255.
 */
enum status apic_bus_request(struct apic_bus *bus, const struct interrupt_request *request);

/*
 * The processors a destination selects, one bit per index in `set`, all `words` words written.
 * STATUS_HV_OPERATION_DENIED: no APIC. STATUS_HV_INVALID_PARAMETER: destination above 32 bits.
 * STATUS_INSUFFICIENT_BUFFER: fewer bits than the partition's processors.
 */
enum status apic_bus_targets(struct apic_bus *bus, uint64_t destination, bool is_logical,
                             uint64_t *set, size_t words);

#endif
