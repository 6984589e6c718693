/*
 * The doorbells of a space are one array in the order of their addresses, written like the mappings (gpa_space_state.h): with
 * `change` held, the gate closed and all processors held.
 */
#include "mem/gpa_doorbell.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/gpa_space_state.h"
#include "os/event_fd.h"
#include "util/last_error.h"

/* The first one at or above gpa. */
static size_t first_from(const struct gpa_doorbells *bells, gpa_t gpa)
{
    size_t low = 0, high = bells->count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (bells->array[middle].match.gpa < gpa)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- what processors see ---- */

void gpa_doorbells_hide(const struct gpa_space *space, gpa_t gpa, struct gpa_view *view)
{
    const struct gpa_doorbells *bells = &space->doorbells;
    const gpa_t page = gpa & PAGE_MASK;
    size_t next = first_from(bells, page);
    gpa_t start = view->gpa, end = view->gpa + view->size;

    if (next < bells->count && (bells->array[next].match.gpa & PAGE_MASK) == page) {
        *view = (struct gpa_view){.gpa = page, .size = PAGE_SIZE};
        return;
    }
    if (next > 0 && (bells->array[next - 1].match.gpa & PAGE_MASK) + PAGE_SIZE > start)
        start = (bells->array[next - 1].match.gpa & PAGE_MASK) + PAGE_SIZE;
    if (next < bells->count && (bells->array[next].match.gpa & PAGE_MASK) - start < end - start)
        end = bells->array[next].match.gpa & PAGE_MASK;
    if (view->host)
        view->host += start - view->gpa;
    view->gpa = start;
    view->size = end - start;
}

static bool rings(const struct gpa_doorbell *doorbell, const void *data, unsigned size)
{
    uint64_t value = 0;

    if (doorbell->length && doorbell->length != size)
        return false;
    if (!doorbell->match_value)
        return true;
    memcpy(&value, data, size);
    return value == doorbell->value;
}

bool gpa_doorbell_ring(const struct gpa_space *space, gpa_t gpa, const void *data, unsigned size)
{
    const struct gpa_doorbells *bells = &space->doorbells;

    if (likely(!bells->count))
        return false;
    for (size_t i = first_from(bells, gpa); i < bells->count && bells->array[i].match.gpa == gpa; i++)
        if (rings(&bells->array[i].match, data, size)) {
            event_fd_signal(bells->array[i].event);
            return true;
        }
    return false;
}

/* ---- changes ---- */

static enum status check(const struct gpa_space *space, const struct gpa_doorbell *d)
{
    const unsigned length = d->length ? d->length : 1;
    enum status status = gpa_space_check_bytes(space, d->gpa, length);

    if (status != STATUS_OK)
        return status;
    if ((d->gpa & ~PAGE_MASK) + length > PAGE_SIZE)
        return fail(STATUS_INVALID_ARGUMENT, "doorbell at 0x%" PRIx64 ": stores of %u bytes there cross a page", d->gpa, length);
    if (length < 8 && d->value >> (8 * length))
        return fail(STATUS_INVALID_ARGUMENT, "doorbell at 0x%" PRIx64 ": a store of %u bytes cannot have the value 0x%" PRIx64,
                    d->gpa, length, d->value);
    return STATUS_OK;
}

static enum status check_conflicts(const struct gpa_doorbells *bells, const struct gpa_doorbell *d)
{
    for (size_t i = first_from(bells, d->gpa); i < bells->count && bells->array[i].match.gpa == d->gpa; i++) {
        const struct gpa_doorbell *other = &bells->array[i].match;
        if (other->length != d->length || !other->match_value || !d->match_value || other->value == d->value)
            return fail(STATUS_HV_INVALID_PARAMETER, "doorbell at 0x%" PRIx64 ": in conflict with another one there", d->gpa);
    }
    return STATUS_OK;
}

/* Put another array in place, and let everybody forget the page. */
static void change(struct gpa_space *space, struct gpa_doorbell_entry *array, size_t count, gpa_t page)
{
    const struct gpa_change change = {GPA_CHANGE_MAP, {page, PAGE_SIZE}};
    struct gpa_doorbell_entry *old = space->doorbells.array;

    gpa_space_hold(space);
    space->doorbells.array = array;
    space->doorbells.count = count;
    space->map_changes++;
    gpa_space_release(space, &change);
    free(old);
}

static enum status insert(struct gpa_space *space, const struct gpa_doorbell_entry *entry)
{
    const struct gpa_doorbells *bells = &space->doorbells;
    const size_t at = first_from(bells, entry->match.gpa);
    struct gpa_doorbell_entry *array = malloc((bells->count + 1) * sizeof(*array));

    if (!array)
        return fail(STATUS_NO_MEMORY, "no memory for a doorbell");
    if (bells->count) {
        memcpy(array, bells->array, at * sizeof(*array));
        memcpy(array + at + 1, bells->array + at, (bells->count - at) * sizeof(*array));
    }
    array[at] = *entry;
    change(space, array, bells->count + 1, entry->match.gpa & PAGE_MASK);
    return STATUS_OK;
}

enum status gpa_doorbell_create(struct gpa_space *space, const struct gpa_doorbell *doorbell, int event, uint64_t *id)
{
    struct gpa_doorbell_entry entry = {.match = *doorbell};
    enum status status = check(space, doorbell);

    if (status == STATUS_OK)
        status = event_fd_keep(event, &entry.event);
    if (status != STATUS_OK)
        return status;
    pthread_mutex_lock(&space->change);
    status = check_conflicts(&space->doorbells, doorbell);
    entry.id = space->doorbells.last_id + 1;
    if (status == STATUS_OK)
        status = insert(space, &entry);
    if (status == STATUS_OK)
        *id = ++space->doorbells.last_id;
    pthread_mutex_unlock(&space->change);
    if (status != STATUS_OK)
        close(entry.event);
    return status;
}

static size_t index_of(const struct gpa_doorbells *bells, uint64_t id)
{
    size_t i = 0;

    while (i < bells->count && bells->array[i].id != id)
        i++;
    return i;
}

/* In place: fewer need no memory, so this cannot fail. */
static void remove_at(struct gpa_space *space, size_t at)
{
    struct gpa_doorbells *bells = &space->doorbells;
    const struct gpa_change change = {GPA_CHANGE_MAP, {bells->array[at].match.gpa & PAGE_MASK, PAGE_SIZE}};
    const int event = bells->array[at].event;

    gpa_space_hold(space);
    memmove(bells->array + at, bells->array + at + 1, (bells->count - at - 1) * sizeof(*bells->array));
    bells->count--;
    space->map_changes++;
    gpa_space_release(space, &change);
    close(event);
}

enum status gpa_doorbell_delete(struct gpa_space *space, uint64_t id)
{
    enum status status = STATUS_OK;

    pthread_mutex_lock(&space->change);
    const size_t at = index_of(&space->doorbells, id);
    if (at < space->doorbells.count)
        remove_at(space, at);
    else
        status = fail(STATUS_NOT_FOUND, "there is no such doorbell");
    pthread_mutex_unlock(&space->change);
    return status;
}

enum status gpa_doorbell_find(struct gpa_space *space, const struct gpa_doorbell *d, uint64_t *id)
{
    const struct gpa_doorbells *bells = &space->doorbells;

    *id = 0;
    pthread_mutex_lock(&space->change);
    for (size_t i = first_from(bells, d->gpa); i < bells->count && bells->array[i].match.gpa == d->gpa; i++) {
        const struct gpa_doorbell *other = &bells->array[i].match;
        if (other->length == d->length && other->match_value == d->match_value && other->value == d->value)
            *id = bells->array[i].id;
    }
    pthread_mutex_unlock(&space->change);
    return *id ? STATUS_OK : fail(STATUS_NOT_FOUND, "there is no such doorbell");
}

bool gpa_doorbell_exists(struct gpa_space *space, uint64_t id)
{
    pthread_mutex_lock(&space->change);
    const bool exists = index_of(&space->doorbells, id) < space->doorbells.count;
    pthread_mutex_unlock(&space->change);
    return exists;
}

void gpa_doorbells_fini(struct gpa_space *space)
{
    for (size_t i = 0; i < space->doorbells.count; i++)
        close(space->doorbells.array[i].event);
    free(space->doorbells.array);
}
