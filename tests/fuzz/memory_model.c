/*
 * Programs come in two kinds. In the one every page of memory may be at several guest addresses, also through a second mapping of
 * the memfd, and mappings change all the time. In the other, the calm one, each page has one place, mappings change seldom, and
 * protections by many pages at once: there snapshots refer to each other.
 */
#include "memory_model_state.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct model model;

/* ---- the program ---- */

unsigned model_byte(void)
{
    return model.at < model.size ? model.program[model.at++] : 0;
}

unsigned model_below(unsigned limit)
{
    unsigned value = model_byte();
    return (limit > 256 ? value << 8 | model_byte() : value) % limit;
}

void model_note(const char *format, ...)
{
    va_list args;

    model.calls++;
    if (!model.trace)
        return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

void model_wrong(const char *what, unsigned long long got, unsigned long long expected)
{
    fprintf(stderr, "call %u, %s: %#llx, the model says %#llx (%s)\n", model.calls, what, got, expected, OwhpGetLastErrorText());
    abort();
}

void model_expect(const char *what, HRESULT got, HRESULT expected)
{
    if (got != expected)
        model_wrong(what, (UINT32)got, (UINT32)expected);
}

void model_same(const char *what, UINT64 got, UINT64 expected)
{
    if (got != expected)
        model_wrong(what, got, expected);
}

/* ---- the model ---- */

UINT8 *model_source_at(const struct guest_page *page)
{
    return page->is_twin ? model.twin + (page->host - PRIVATE) * PAGE : model_host_at(page->host);
}

UINT8 *model_host_at(int page)
{
    if (page >= HOST)
        return model_far_at(page - HOST);
    return page < PRIVATE ? model.private + (size_t)page * PAGE : model.shared + (size_t)(page - PRIVATE) * PAGE;
}

/* A range of the window; now and then one that reaches out of it. */
struct range {
    unsigned first, count;
    UINT64 gpa, size;
    bool misaligned;
};

static struct range some_range(void)
{
    struct range r = {.first = model_below(GUEST)};
    unsigned odd = model_byte();

    r.count = 1 + model_below(odd & 1 ? 4 : GUEST);
    r.count = r.count > GUEST - r.first ? GUEST - r.first : r.count;
    r.gpa = model.base + (UINT64)r.first * PAGE;
    r.size = (UINT64)r.count * PAGE;
    r.misaligned = odd >= 250;
    if (odd == 250)
        r.gpa += 8;
    else if (odd == 251)
        r.size -= 1;
    else if (odd == 252)
        r.size = 0;
    else if (odd == 253)
        r.size = (UINT64)1 << 63;
    else if (odd >= 254)
        r.gpa = 0xfffffffffffff000;
    return r;
}

static bool all_have(const struct range *r, unsigned flags)
{
    for (unsigned i = r->first; i < r->first + r->count; i++)
        if (model.page[i].host == NO_PAGE || (model.page[i].flags & flags) != flags)
            return false;
    return true;
}

static bool seen_by(const struct consumer *c, unsigned page)
{
    return c->exists && page >= c->first && page < c->end &&
           (model.page[page].flags & T || c->flags & OwhpDirtyConsumerFlagAllPages) && model.page[page].host != NO_PAGE;
}

void model_mark(unsigned page)
{
    model_snapshots_stored(page);
    for (unsigned c = 0; c < CONSUMERS; c++)
        if (seen_by(&model.consumer[c], page))
            model.consumer[c].dirty[page] = true;
}

void model_forget(unsigned page, unsigned keepers)
{
    for (unsigned c = 0; c < CONSUMERS; c++)
        if (!(model.consumer[c].flags & keepers))
            model.consumer[c].dirty[page] = false;
}

/* ---- map, unmap, protect ---- */

static HRESULT map_somehow(const struct range *r, const struct guest_page *first, bool second)
{
    const HANDLE process = first->host >= HOST ? model_far_handle() : (HANDLE)(intptr_t)-1;
    UINT8 *source = model_source_at(first);

    return second || first->host >= HOST
               ? WHvMapGpaRange2(model.partition, process, source, r->gpa, r->size, GPA_FLAGS(first->flags))
               : WHvMapGpaRange(model.partition, source, r->gpa, r->size, GPA_FLAGS(first->flags));
}

static void map(struct range r, struct guest_page first, bool second)
{
    const unsigned host = (unsigned)first.host, rights = first.flags & 7;
    unsigned space = host < PRIVATE ? PRIVATE - host : host < HOST ? HOST - host : ALL - host;
    bool legal = rights == 0 || rights == R || rights == (R | W) || rights == (R | X) || rights == 7;
    bool good = !r.misaligned && first.flags < 16 && legal;

    if (r.count > space && !r.misaligned)
        r.size = (UINT64)(r.count = space) * PAGE;
    model_note("map %u+%u at %u%s flags %u", r.first, r.count, host, first.is_twin ? " twin" : "", first.flags);
    model_expect("map", map_somehow(&r, &first, second), good ? S_OK : E_INVALIDARG);
    for (unsigned i = 0; good && i < r.count; i++) {
        model.page[r.first + i] = (struct guest_page){(int)(host + i), first.is_twin, first.flags, 0};
        model_forget(r.first + i, OwhpDirtyConsumerFlagKeepUnmapped);
        model_snapshots_mapped(r.first + i);
    }
}

static void do_map(void)
{
    struct range r = some_range();
    unsigned host = model_below(ALL), flags = model_below(20);
    unsigned how = model_byte();

    if (model.is_calm && how & 0x70)
        return;
    host = model.is_calm ? r.first : host;
    map(r, (struct guest_page){(int)host, how & 2 && host >= PRIVATE && host < HOST, flags, 0}, how & 1);
}

/* A calm program begins with all its pages. */
static void map_all(void)
{
    map((struct range){.count = PRIVATE, .gpa = model.base, .size = PRIVATE * PAGE},
        (struct guest_page){.flags = R | W | X}, false);
    map((struct range){.first = PRIVATE, .count = SHARED, .gpa = model.base + PRIVATE * PAGE, .size = SHARED * PAGE},
        (struct guest_page){.host = PRIVATE, .flags = R | W | T}, false);
}

static void do_unmap(void)
{
    struct range r = some_range();

    if (model.is_calm && model_below(8))
        return;
    model_note("unmap %u+%u", r.first, r.count);
    model_expect("unmap", WHvUnmapGpaRange(model.partition, r.gpa, r.size), r.misaligned ? E_INVALIDARG : S_OK);
    for (unsigned i = r.first; !r.misaligned && i < r.first + r.count; i++) {
        model.page[i] = (struct guest_page){.host = NO_PAGE};
        model_forget(i, OwhpDirtyConsumerFlagKeepUnmapped);
        model_snapshots_mapped(i);
    }
}

void model_protect(int page, int protection)
{
    model.protection[page] = protection;
    if (mprotect(model_host_at(page), PAGE, protection) != 0 ||
        (page >= PRIVATE && mprotect(model.twin + (page - PRIVATE) * PAGE, PAGE, protection) != 0))
        model_wrong("mprotect", 1, 0);
}

static void do_protect(void)
{
    static const int kinds[] = {PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE};
    int page = (int)model_below(HOST), count = model.is_calm ? 1 + (int)model_below(HOST) : 1, protection = kinds[model_below(4)];

    model_note("protect %d+%d %d", page, count, protection);
    for (int i = page; i < page + count && i < HOST; i++)
        model_protect(i, protection);
}

/* ---- read, write ---- */

static HRESULT access_result(UINT64 start, unsigned size, bool write)
{
    for (unsigned i = (unsigned)(start / PAGE); i <= (start + size - 1) / PAGE; i++) {
        if (i >= GUEST || model.page[i].host == NO_PAGE || !(model.page[i].flags & (write ? W : R)) ||
            !(model.protection[model.page[i].host] & (write ? PROT_WRITE : PROT_READ)))
            return E_ACCESSDENIED;
    }
    return S_OK;
}

static void do_access(bool write)
{
    static UINT8 data[MOST_BYTES], expected[MOST_BYTES];
    const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = WHvCacheTypeWriteBack};
    unsigned start = model_below(GUEST) * PAGE + model_below(PAGE), size = model_byte() & 1 ? model_below(20) : model_below(MOST_BYTES), value = model_byte();
    HRESULT result = size ? access_result(start, size, write) : E_INVALIDARG;

    model_note("%s %#x+%u", write ? "write" : "read", start, size);
    memset(data, (int)value, sizeof(data));
    memset(expected, (int)value, sizeof(expected));
    for (unsigned i = 0; result == S_OK && i < size; i++) {
        UINT8 *byte_of = &model.content[model.page[(start + i) / PAGE].host][(start + i) % PAGE];
        if (write)
            *byte_of = (UINT8)value;
        else
            expected[i] = *byte_of;
    }
    if (write) {
        model_expect("write", WHvWriteGpaRange(model.partition, 0, model.base + start, controls, data, size), result);
        for (unsigned page = start / PAGE; result == S_OK && page <= (start + size - 1) / PAGE; page++)
            model_mark(page);
        return;
    }
    model_expect("read", WHvReadGpaRange(model.partition, 0, model.base + start, controls, data, size), result);
    if (memcmp(data, expected, sizeof(data)) != 0)
        model_wrong("the bytes read differ", 1, 0);
}

/* ---- dirty pages ---- */

static HRESULT query_result(const struct consumer *c, const struct range *r)
{
    if (!c->exists)
        return NOT_FOUND;
    if (r->first < c->first || r->first + r->count > c->end)
        return E_INVALIDARG;
    return c->flags & OwhpDirtyConsumerFlagAllPages || all_have(r, T) ? S_OK : WHV_E_GPA_RANGE_NOT_FOUND;
}

static void compare_dirty(const struct consumer *c, const struct range *r, const bool told[GUEST])
{
    for (unsigned i = 0; i < r->count; i++)
        model_same("dirty", told[i], c->dirty[r->first + i]);
}

static void query_bitmap(struct consumer *c, const struct range *r, bool peek, HRESULT result)
{
    UINT64 bitmap[2] = {0}, count = 0, sum = 0;
    bool told[GUEST];
    HRESULT got = c->id == 0 && !peek
                      ? WHvQueryGpaRangeDirtyBitmap(model.partition, r->gpa, r->size, bitmap, sizeof(bitmap))
                      : OwhpQueryDirtyBitmap(model.partition, c->id, (OWHP_QUERY_DIRTY_FLAGS)peek, r->gpa, r->size, bitmap,
                                             sizeof(bitmap), &count);

    model_expect("dirty bitmap", got, result);
    for (unsigned i = 0; result == S_OK && i < r->count; i++) {
        told[i] = bitmap[i / 64] >> (i % 64) & 1;
        sum += told[i];
    }
    if (result != S_OK)
        return;
    if (c->id != 0 || peek)
        model_same("dirty count", count, sum);
    compare_dirty(c, r, told);
}

static void query_list(struct consumer *c, const struct range *r, bool peek, HRESULT result)
{
    WHV_MEMORY_RANGE_ENTRY entries[GUEST];
    bool told[GUEST] = {false};
    UINT32 capacity = peek ? GUEST : 1 + model_below(6), count = 0;
    HRESULT got;

    do {
        got = OwhpQueryDirtyRanges(model.partition, c->id, (OWHP_QUERY_DIRTY_FLAGS)peek, r->gpa, r->size, entries, capacity, &count);
        if (got != S_FALSE)
            model_expect("dirty ranges", got, result);
        if (FAILED(got))
            return;
        for (UINT32 i = 0; i < count; i++)
            for (UINT64 at = 0; at < entries[i].SizeInBytes; at += PAGE) {
                UINT64 page = (entries[i].GuestAddress + at - r->gpa) / PAGE;
                if (page >= r->count || told[page])
                    model_wrong("a range told twice or outside", page, r->count);
                told[page] = true;
            }
    } while (got == S_FALSE);
    compare_dirty(c, r, told);
}

static void do_query(void)
{
    struct range r = some_range();
    struct consumer *c = &model.consumer[model_below(CONSUMERS)];
    unsigned how = model_byte();
    bool peek = how & 1;
    HRESULT result = r.misaligned ? E_INVALIDARG : query_result(c, &r);

    model_note("query %u+%u of %u how %u", r.first, r.count, c->id, how & 3);
    if ((!c->exists && !r.misaligned) || (r.gpa == 0 && r.size == 0))
        return;
    (how & 2 ? query_list : query_bitmap)(c, &r, peek, result);
    if (result == S_OK && !peek)
        memset(c->dirty + r.first, 0, r.count);
}

static void do_consumer(void)
{
    static const UINT32 kinds[] = {0, OwhpDirtyConsumerFlagAllPages, 3, OwhpDirtyConsumerFlagKeepUnmapped};
    struct consumer *c = &model.consumer[1 + model_below(CONSUMERS - 1)];
    struct range r = some_range();
    UINT32 flags = kinds[model_below(4)];

    if (r.gpa == 0 && r.size == 0)
        return; /* stands for all addresses */
    model_note("consumer %s %u+%u flags %u", c->exists ? "delete" : "create", r.first, r.count, flags);
    if (c->exists) {
        model_expect("delete consumer", OwhpDeleteDirtyConsumer(model.partition, c->id), S_OK);
        model_expect("delete consumer again", OwhpDeleteDirtyConsumer(model.partition, c->id), NOT_FOUND);
        *c = (struct consumer){0};
        return;
    }
    HRESULT result = r.misaligned || flags == OwhpDirtyConsumerFlagKeepUnmapped ? E_INVALIDARG : S_OK;
    UINT32 id = 0;
    model_expect("create consumer", OwhpCreateDirtyConsumer(model.partition, r.gpa, r.size, (OWHP_DIRTY_CONSUMER_FLAGS)flags, &id), result);
    if (result == S_OK)
        *c = (struct consumer){.id = id, .flags = flags, .exists = true, .first = r.first, .end = r.first + r.count};
}

static void do_tracking(void)
{
    struct range r = some_range();
    bool on = model_byte() & 1;
    HRESULT result = r.misaligned ? E_INVALIDARG : all_have(&r, 0) ? S_OK : WHV_E_GPA_RANGE_NOT_FOUND;

    model_note("tracking %u+%u %d", r.first, r.count, on);
    model_expect("tracking", OwhpSetDirtyTracking(model.partition, r.gpa, r.size, on), result);
    for (unsigned i = r.first; result == S_OK && i < r.first + r.count; i++) {
        if (!(model.page[i].flags & T) == !on)
            continue;
        model.page[i].flags ^= T;
        model_forget(i, OwhpDirtyConsumerFlagAllPages);
    }
}

static void do_mark(void)
{
    struct range r = some_range();
    bool all = model_has_snapshot(), odd = r.gpa != model.base + (UINT64)r.first * PAGE || r.size != (UINT64)r.count * PAGE;

    for (unsigned c = 0; c < CONSUMERS; c++)
        all = all || (model.consumer[c].exists && model.consumer[c].flags & OwhpDirtyConsumerFlagAllPages);
    if (odd)
        return; /* (alignment is free here; the other oddities have cases of their own) */
    HRESULT result = all_have(&r, all ? 0 : T) ? S_OK : WHV_E_GPA_RANGE_NOT_FOUND;
    model_note("mark %u+%u", r.first, r.count);
    model_expect("mark", OwhpMarkDirty(model.partition, r.gpa + 1, r.size - 1), result);
    for (unsigned i = r.first; result == S_OK && i < r.first + r.count; i++)
        model_mark(i);
}

/* ---- advice ---- */

static HRESULT advise(const struct range *r, UINT32 code, const WHV_ADVISE_GPA_RANGE_POPULATE *populate)
{
    const WHV_MEMORY_RANGE_ENTRY entry = {r->gpa, r->size};

    return WHvAdviseGpaRange(model.partition, &entry, 1, (WHV_ADVISE_GPA_RANGE_CODE)code, populate, populate ? sizeof(*populate) : 0);
}

static bool has_copied(const struct range *r)
{
    for (unsigned i = r->first; i < r->first + r->count; i++)
        if (model.page[i].host != NO_PAGE && model_source_of(model.page[i].host) == OwhpGpaSourceCopiedProcess)
            return true;
    return false;
}

/* The host may refuse to lock (its limit, memory that is not there): then nothing has changed. */
static void do_pin(void)
{
    struct range r = some_range();
    bool pin = model_byte() & 1, pinned = true, copied = has_copied(&r);

    model_note("%s %u+%u", pin ? "pin" : "unpin", r.first, r.count);
    for (unsigned i = r.first; i < r.first + r.count; i++)
        pinned = pinned && model.page[i].pins;
    HRESULT got = advise(&r, pin ? WHvAdviseGpaRangeCodePin : WHvAdviseGpaRangeCodeUnpin, NULL);
    if (r.misaligned)
        model_expect("pin, bad range", got, E_INVALIDARG);
    else if (!pin)
        model_expect("unpin", got, pinned ? S_OK : E_INVALIDARG);
    else if (!all_have(&r, 0))
        model_expect("pin", got, WHV_E_GPA_RANGE_NOT_FOUND);
    else if (got != E_OUTOFMEMORY && got != E_ACCESSDENIED)
        model_expect("pin", got, copied ? NOT_SUPPORTED : S_OK);
    for (unsigned i = r.first; got == S_OK && i < r.first + r.count; i++)
        model.page[i].pins += pin ? 1 : (unsigned)-1;
}

static void do_populate(void)
{
    struct range r = some_range();
    UINT32 type = model_below(4), flags = model_below(5);
    WHV_ADVISE_GPA_RANGE_POPULATE populate = {.AccessType = (WHV_MEMORY_ACCESS_TYPE)type};
    bool host = true;

    if (r.misaligned)
        return; /* (alignment is free here) */
    populate.Flags.AsUINT32 = flags;
    model_note("populate %u+%u type %u flags %u", r.first, r.count, type, flags);
    for (unsigned i = r.first; i < r.first + r.count; i++)
        host = host && (model.page[i].host == NO_PAGE || model.protection[model.page[i].host] == (PROT_READ | PROT_WRITE));
    HRESULT got = advise(&r, WHvAdviseGpaRangeCodePopulate, &populate);
    if (type > 2 || flags > 3)
        model_expect("populate, bad advice", got, E_INVALIDARG);
    else if (!all_have(&r, 0))
        model_expect("populate", got, WHV_E_GPA_RANGE_NOT_FOUND);
    else if (!all_have(&r, 1u << type))
        model_expect("populate", got, E_ACCESSDENIED);
    else if (host || flags & 1 || got != E_ACCESSDENIED)
        model_expect("populate", got, S_OK);
}

static void do_discard(void)
{
    struct range r = some_range();
    HRESULT result = r.misaligned ? E_INVALIDARG : all_have(&r, 0) ? S_OK : WHV_E_GPA_RANGE_NOT_FOUND;
    bool locked[ALL] = {false}, pinned = false;

    for (unsigned i = 0; i < GUEST; i++)
        if (model.page[i].pins)
            locked[model.page[i].host] = true;
    for (unsigned i = r.first; result == S_OK && i < r.first + r.count; i++) {
        if (locked[model.page[i].host] && !model.page[i].pins)
            return; /* pinned through another guest page: the kernel refuses somewhere in the middle */
        pinned = pinned || model.page[i].pins;
    }
    for (unsigned i = r.first; result == S_OK && i < r.first + r.count; i++)
        if (model.page[i].host >= PRIVATE && !(model.protection[model.page[i].host] & PROT_WRITE))
            result = NOT_SUPPORTED;
    if (result == S_OK && has_copied(&r))
        result = NOT_SUPPORTED;
    if (result == S_OK && pinned)
        result = E_ACCESSDENIED;
    model_note("discard %u+%u", r.first, r.count);
    model_expect("discard", OwhpDiscardGpaRange(model.partition, r.gpa, r.size), result);
    for (unsigned i = r.first; result == S_OK && i < r.first + r.count; i++) {
        memset(model.content[model.page[i].host], 0, PAGE);
        model_mark(i);
    }
}

/* ---- what is told of the whole ---- */

static bool continues(unsigned i)
{
    const struct guest_page *a = &model.page[i - 1], *b = &model.page[i];

    return a->host != NO_PAGE && b->host != NO_PAGE && a->flags == b->flags && model_source_of(a->host) == model_source_of(b->host) &&
           model_source_at(a) + PAGE == model_source_at(b);
}

static void do_enumerate(void)
{
    static OWHP_GPA_RANGE ranges[GUEST];
    WHV_PARTITION_MEMORY_COUNTERS counters;
    UINT32 count = 0, at = 0;
    UINT64 mapped = 0;

    model_note("enumerate");
    model_expect("enumerate", OwhpEnumerateGpaRanges(model.partition, ranges, GUEST, &count), S_OK);
    for (unsigned i = 0, end; i < GUEST; i = end) {
        UINT64 dirty = 0, pinned = 0;
        end = i + 1;
        if (model.page[i].host == NO_PAGE)
            continue;
        while (end < GUEST && continues(end))
            end++;
        for (unsigned page = i; page < end; page++) {
            dirty += model.page[i].flags & T && model.consumer[0].dirty[page];
            pinned += model.page[page].pins != 0;
        }
        if (at == count)
            model_wrong("ranges", count, at + 1);
        model_same("range address", ranges[at].GuestAddress, model.base + (UINT64)i * PAGE);
        model_same("range size", ranges[at].SizeInBytes, (UINT64)(end - i) * PAGE);
        model_same("range flags", (UINT64)ranges[at].Flags, model.page[i].flags);
        model_same("range source", ranges[at].SourceAddress, (uintptr_t)model_source_at(&model.page[i]));
        model_same("range's kind of source", ranges[at].Source, model_source_of(model.page[i].host));
        model_same("range's process", ranges[at].ProcessId, model.page[i].host < HOST ? 0 : model_far_process());
        model_same("range dirty", ranges[at].DirtyPageCount, dirty);
        model_same("range pinned", ranges[at].PinnedPageCount, pinned);
        mapped += end - i;
        at++;
    }
    model_same("ranges", count, at);
    model_expect("counters",
           WHvGetPartitionCounters(model.partition, WHvPartitionCounterSetMemory, &counters, sizeof(counters), NULL), S_OK);
    model_same("mapped pages", counters.Mapped4KPageCount, mapped);
}

/* ---- a run ---- */

static void begin(void)
{
    UINT32 processors = 1, engine = OwhpEngineSoft;
    WHV_CAPABILITY width = {0};
    int fd = memfd_create("model", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, SHARED * PAGE) != 0)
        model_wrong("memfd", 1, 0);
    /* A page between, so that they never continue each other. */
    model.private = mmap(NULL, ALL_OURS * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    model.shared = model.private + (PRIVATE + 1) * PAGE;
    model.twin = model.shared + (SHARED + 1) * PAGE;
    mprotect(model.private, PRIVATE * PAGE, PROT_READ | PROT_WRITE);
    mmap(model.shared, SHARED * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    mmap(model.twin, SHARED * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    close(fd);
    model_expect("create", WHvCreatePartition(&model.partition), S_OK);
    model_expect("set", WHvSetPartitionProperty(model.partition, WHvPartitionPropertyCodeProcessorCount, &processors, 4), S_OK);
    model_expect("set", WHvSetPartitionProperty(model.partition, OwhpPartitionPropertyCodeEngine, &engine, 4), S_OK);
    model_expect("set up", WHvSetupPartition(model.partition), S_OK);
    model_expect("processor", WHvCreateVirtualProcessor(model.partition, 0, 0), S_OK);
    model_expect("width", WHvGetCapability(WHvCapabilityCodePhysicalAddressWidth, &width, sizeof(width), NULL), S_OK);
    /* At 0; around a border of the record's windows; at the end. */
    const UINT64 bases[] = {0, ((UINT64)1 << 42) - GUEST / 2 * PAGE, ((UINT64)1 << width.PhysicalAddressWidth) - GUEST * PAGE};
    model.base = bases[model_byte() % (width.PhysicalAddressWidth > 42 ? 3 : 1)];
    for (unsigned i = 0; i < GUEST; i++)
        model.page[i].host = NO_PAGE;
    for (unsigned i = 0; i < ALL; i++)
        model.protection[i] = PROT_READ | PROT_WRITE;
    model.consumer[0] = (struct consumer){.exists = true, .end = GUEST};
    model.is_calm = model_byte() & 1;
    if (model.is_calm)
        map_all();
}

/* Nothing else has changed, and nothing was written that should not. */
static void finish(void)
{
    do_enumerate();
    model_snapshots_end();
    model_expect("delete", WHvDeletePartition(model.partition), S_OK);
    for (int i = 0; i < HOST; i++) {
        mprotect(model_host_at(i), PAGE, PROT_READ);
        if (memcmp(model_host_at(i), model.content[i], PAGE) != 0)
            model_wrong("host page differs", (unsigned)i, 0);
    }
    munmap(model.private, ALL_OURS * PAGE);
    static UINT8 there[FAR * PAGE];
    model_far_read(there);
    for (unsigned i = 0; i < FAR; i++)
        if (memcmp(there + (size_t)i * PAGE, model.content[HOST + i], PAGE) != 0)
            model_wrong("page of the other process differs", i, 0);
    model_far_end();
}

static void do_read(void)
{
    do_access(false);
}

static void do_write(void)
{
    do_access(true);
}

unsigned memory_model_run(const uint8_t *program, size_t size)
{
    static void (*const steps[])(void) = {
        do_map,   do_map,   do_map,     do_map,     do_unmap, do_protect,  do_write, do_write,    do_write,
        do_write, do_write, do_read,    do_read,    do_query, do_query,    do_query, do_consumer, do_tracking,
        do_mark,  do_pin,   do_populate, do_discard, do_enumerate, model_snapshot_step, model_snapshot_step,
    };

    memset(&model, 0, sizeof(model));
    model.program = program;
    model.size = size;
    model.trace = getenv("OWHP_MODEL_TRACE") != NULL;
    begin();
    model_snapshots_begin();
    model_far_begin();
    while (model.at < model.size)
        steps[model_byte() % (sizeof(steps) / sizeof(steps[0]))]();
    finish();
    return model.calls;
}
