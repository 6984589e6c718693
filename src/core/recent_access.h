/*
 * WHvReadGpaRange and WHvWriteGpaRange once more near where the thread was the last time: the call for which a client pays most
 * often, and which does little but copy.
 *
 * What the thread remembers (in its slot of os/read_section.h) is a partition's handle, a processor and a piece of a mapping.
 * Only if all three are asked for again, nothing of the space has changed, the processor is still there, its local APIC is
 * elsewhere and no byte is refused, is the call answered here; everything else goes the long way, which has all checks and all
 * error texts.
 */
#ifndef OWHP_CORE_RECENT_ACCESS_H
#define OWHP_CORE_RECENT_ACCESS_H

#include "core/partition.h"
#include "mem/gpa_recent.h"

struct recent_access {
    uint64_t handle;
    struct vcpu *vcpu;
    uint32_t index;
    struct gpa_recent memory;
};
_Static_assert(sizeof(struct recent_access) <= READ_SLOT_ROOM, "there is room for it");

/* What this thread remembers; NULL: it cannot. */
static always_inline struct recent_access *recent_access_of_thread(void)
{
    struct read_slot *slot = read_slot_of_thread();

    return likely(slot) ? (struct recent_access *)(void *)slot->room : NULL;
}

/* Remember the processor for what the next gpa_space_read_first or -write_first finds; returns where to put that, or NULL. */
static inline struct gpa_recent *recent_access_begin(uint64_t handle, struct vcpu *vcpu)
{
    struct recent_access *recent = vcpu->partition->strict_access ? NULL : recent_access_of_thread();

    if (!recent)
        return NULL;
    *recent = (struct recent_access){.handle = handle, .vcpu = vcpu, .index = vcpu->index};
    return &recent->memory;
}

/* True: done. False: do it the long way. */
must_check static always_inline bool recent_access(uint64_t handle, uint32_t index, gpa_t gpa, uint8_t *buffer, uint64_t size,
                                                   bool write)
{
    struct read_slot *slot = read_slot_of_thread();

    if (unlikely(!slot))
        return false;
    const struct recent_access *recent = (const struct recent_access *)(const void *)slot->room;
    if (recent->handle != handle || recent->index != index || !gpa_recent_covers(&recent->memory, gpa, size, write) || !buffer)
        return false;
    struct read_gate *gate = recent->memory.gate;
    if (!read_section_resume(slot, gate, recent->memory.version))
        return false;
    const bool done = vcpu_exists(recent->vcpu) && !vcpu_apic_is_at(recent->vcpu, gpa) &&
                      gpa_recent_copy(&recent->memory, gpa, buffer, size, write);
    read_section_leave(slot, gate);
    return done;
}

#endif
