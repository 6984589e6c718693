/*
 * The model's snapshots. One is a copy of the pages as they were seen, and of what was mapped where. A page that was protected when
 * a snapshot was taken is unknown in it: zeros, or what a snapshot before has. The next one sees what it is.
 */
#include "memory_model_state.h"

#include <string.h>
#include <sys/mman.h>

enum { SNAPSHOTS = 3 };

static struct snapshot {
    OWHP_SNAPSHOT_HANDLE handle; /* or NULL */
    struct guest_page page[GUEST];
    UINT8 content[GUEST][PAGE];
    bool changed[GUEST], unknown[GUEST];
} snapshots[SNAPSHOTS];

void model_snapshots_begin(void)
{
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        snapshots[i].handle = NULL;
}

bool model_has_snapshot(void)
{
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        if (snapshots[i].handle)
            return true;
    return false;
}

void model_snapshots_stored(unsigned page)
{
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        snapshots[i].changed[page] = true;
}

/* Memory that a snapshot has at another address can be stored to without its knowing: all of it counts as changed. */
void model_snapshots_mapped(unsigned page)
{
    model_snapshots_stored(page);
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        for (unsigned other = 0; other < GUEST && model.page[page].host != NO_PAGE; other++)
            if (snapshots[i].page[other].host == model.page[page].host)
                snapshots[i].changed[other] = true;
}

static bool is_unknown(unsigned page)
{
    return model.page[page].host != NO_PAGE && !(model.protection[model.page[page].host] & PROT_READ);
}

static void take(struct snapshot *s)
{
    bool unknown[GUEST];

    for (unsigned i = 0; i < GUEST; i++)
        unknown[i] = is_unknown(i);
    model_note("snapshot");
    model_expect("snapshot", OwhpCreateSnapshot(model.partition, 0, &s->handle), S_OK);
    memcpy(s->page, model.page, sizeof(s->page));
    memcpy(s->unknown, unknown, sizeof(s->unknown));
    memset(s->changed, 0, sizeof(s->changed));
    for (unsigned i = 0; i < GUEST; i++)
        if (s->page[i].host != NO_PAGE)
            memcpy(s->content[i], model.content[s->page[i].host], PAGE);
}

static bool is_mapped_alike(const struct guest_page *a, const struct guest_page *b)
{
    return a->host == b->host &&
           (a->host == NO_PAGE || (a->is_twin == b->is_twin && ((a->flags ^ b->flags) & (R | W | X)) == 0));
}

static bool differs(const struct snapshot *s)
{
    for (unsigned i = 0; i < GUEST; i++)
        if (!is_mapped_alike(&s->page[i], &model.page[i]))
            return true;
    return false;
}

static void map_back(const struct snapshot *s)
{
    for (unsigned i = 0; i < GUEST; i++) {
        if (is_mapped_alike(&s->page[i], &model.page[i]))
            continue;
        model.page[i] = s->page[i];
        model.page[i].pins = 0;
        model_forget(i, OwhpDirtyConsumerFlagKeepUnmapped);
        model_snapshots_mapped(i);
    }
}

/* Whether a page that cannot be written needs to be is not known of one that is unknown. */
static void make_writable(const struct snapshot *s)
{
    for (unsigned i = 0; i < GUEST; i++)
        if (s->page[i].host != NO_PAGE && s->unknown[i] && model.protection[s->page[i].host] == PROT_READ)
            model_protect(s->page[i].host, PROT_READ | PROT_WRITE);
}

/* False: its memory is protected, and not what it was. What was unknown is what is there now. */
static bool write_back(struct snapshot *s, unsigned page)
{
    const int host = s->page[page].host;
    const bool good = model.protection[host] & PROT_WRITE ||
                      (model.protection[host] & PROT_READ && memcmp(model.content[host], s->content[page], PAGE) == 0);

    if (good)
        memcpy(model.content[host], s->unknown[page] ? model_host_at(host) : s->content[page], PAGE);
    model_mark(page);
    s->changed[page] = !good;
    return good;
}

static void restore(struct snapshot *s, bool mappings)
{
    UINT64 count = 0, got = 0;
    bool good = true;

    model_note("restore %d", mappings);
    make_writable(s);
    if (!mappings && differs(s)) {
        model_expect("restore", OwhpRestoreSnapshot(model.partition, s->handle, OwhpRestoreFlagNone, &got),
                     WHV_E_GPA_RANGE_NOT_FOUND);
        return;
    }
    HRESULT result = OwhpRestoreSnapshot(model.partition, s->handle, mappings ? OwhpRestoreFlagMappings : OwhpRestoreFlagNone, &got);
    map_back(s);
    for (unsigned i = 0; i < GUEST; i++) {
        if (s->changed[i] && s->page[i].host != NO_PAGE) {
            good = write_back(s, i) && good;
            count++;
        }
        s->changed[i] = s->changed[i] && s->page[i].host != NO_PAGE;
    }
    model_expect("restore", result, good ? S_OK : E_ACCESSDENIED);
    if (good)
        model_same("pages restored", got, count);
}

static void query(const struct snapshot *s)
{
    OWHP_SNAPSHOT_INFO info;
    UINT64 changed = 0, mapped = 0;

    model_note("query snapshot");
    for (unsigned i = 0; i < GUEST; i++) {
        mapped += s->page[i].host != NO_PAGE;
        changed += s->page[i].host != NO_PAGE && s->changed[i];
    }
    model_expect("query snapshot", OwhpQuerySnapshot(s->handle, &info), S_OK);
    model_same("pages of a snapshot", info.GuestSizeInBytes, mapped * PAGE);
    model_same("changed pages", info.ChangedSizeInBytes, changed * PAGE);
}

static void destroy(struct snapshot *s)
{
    model_note("destroy snapshot");
    model_expect("destroy snapshot", OwhpDestroySnapshot(s->handle), S_OK);
    s->handle = NULL;
}

void model_snapshot_step(void)
{
    struct snapshot *s = &snapshots[model_below(SNAPSHOTS)];
    const unsigned how = model_below(8);

    if (!s->handle)
        take(s);
    else if (how == 0)
        destroy(s);
    else if (how == 1)
        query(s);
    else
        restore(s, how & 1);
}

void model_snapshots_end(void)
{
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        if (snapshots[i].handle)
            destroy(&snapshots[i]);
}
