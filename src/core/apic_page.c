/*
 * Accesses that meet the register page of a local APIC.
 *
 * A local APIC belongs to the thread that runs its processor (apic/lapic.h). So the processor is held for the access, as it is
 * when a property changes: a run pauses and goes on, and nothing of that can be seen but that it took longer. While it is held
 * its APIC cannot move either; whether the page is among the bytes is asked again then.
 *
 * All or nothing, in an order that makes it so. Whatever can be refused comes first: the exit that waits, the bytes for the page
 * (copied out of the buffer), then the memory around it, which is all or nothing by itself. Registers refuse nothing.
 */
#include "core/apic_page.h"

#include "core/caller_memory.h"
#include "mem/gpa_access.h"
#include "mem/gpa_range.h"
#include "os/cancel.h"
#include "util/check.h"
#include "util/last_error.h"

struct access {
    struct vcpu *vcpu;
    gpa_t gpa;
    uint8_t *buffer;
    uint32_t size;
    bool write; /* else the buffer is written */
};

static enum status memory_only(const struct access *a)
{
    struct gpa_space *space = a->vcpu->partition->space;

    return a->write ? gpa_space_write(space, a->gpa, a->buffer, a->size) : gpa_space_read(space, a->gpa, a->buffer, a->size);
}

static enum status memory_around(const struct access *a, gpa_t page)
{
    struct gpa_space *space = a->vcpu->partition->space;

    return a->write ? gpa_space_write_around(space, page, a->gpa, a->buffer, a->size)
                    : gpa_space_read_around(space, page, a->gpa, a->buffer, a->size);
}

static enum status prepare_write(const struct access *a, uint8_t *data, const uint8_t *from, uint32_t size)
{
    if (!a->vcpu->partition->engine->apic_accepts_write(a->vcpu->engine))
        return fail(STATUS_INVALID_VP_STATE,
                    "local APIC of processor %u: the exit of an earlier write has to go out first, with the next run",
                    a->vcpu->index);
    return caller_read(data, from, size, "Data");
}

/* The processor is held, and exists. */
static enum status access_held(const struct access *a)
{
    const struct vcpu *vcpu = a->vcpu;
    const gpa_t page = atomic_load(&vcpu->apic_page);
    const struct gpa_range range = {a->gpa, a->size};
    uint8_t data[PAGE_SIZE];

    if (range_wraps(a->gpa, a->size) || page == NO_APIC_PAGE)
        return memory_only(a);
    const struct gpa_range part = range_intersect(range, (struct gpa_range){page, PAGE_SIZE});
    if (!part.size)
        return memory_only(a);
    uint8_t *there = a->buffer + (part.gpa - a->gpa);
    enum status status = a->write ? prepare_write(a, data, there, (uint32_t)part.size) : STATUS_OK;
    if (status == STATUS_OK)
        status = memory_around(a, page);
    if (status != STATUS_OK)
        return status;
    vcpu->partition->engine->apic_access(vcpu->engine, (uint32_t)(part.gpa - page), (uint32_t)part.size, data, a->write);
    return a->write ? STATUS_OK : caller_write(there, data, part.size, "Data");
}

static enum status access(const struct access *a)
{
    struct partition *partition = a->vcpu->partition;
    NO_CANCEL;

    pthread_mutex_lock(&partition->lock);
    check(vcpu_hold(a->vcpu, true));
    enum status status = vcpu_require_existing(a->vcpu);
    if (status == STATUS_OK)
        status = access_held(a);
    vcpu_release(a->vcpu);
    pthread_mutex_unlock(&partition->lock);
    return status;
}

enum status apic_page_read(struct vcpu *vcpu, gpa_t gpa, void *buffer, uint32_t size)
{
    return access(&(struct access){vcpu, gpa, buffer, size, false});
}

enum status apic_page_write(struct vcpu *vcpu, gpa_t gpa, const void *buffer, uint32_t size)
{
    /* The buffer is only read when `write` is set. */
    return access(&(struct access){vcpu, gpa, (uint8_t *)(uintptr_t)buffer, size, true});
}
