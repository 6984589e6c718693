#include "memory_model.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <WinHvPlatform.h>
#include <openwhp.h>

enum {
    PAGE = 4096,
    GUEST = 72,      /* pages in the window; more than a word of dirty bits */
    PRIVATE = 48,    /* host pages: private memory */
    SHARED = 24,     /* and a memfd */
    HOST = PRIVATE + SHARED,
    CONSUMERS = 4,   /* [0] is that of WHvQueryGpaRangeDirtyBitmap */
    MOST_BYTES = 3 * PAGE,
};
enum { R = 1, W = 2, X = 4, T = 8 };
enum { NO_PAGE = -1 };

#define GPA_FLAGS(value) ((WHV_MAP_GPA_RANGE_FLAGS)(value))
#define NOT_FOUND        HRESULT_FROM_WIN32(ERROR_NOT_FOUND)
#define NOT_SUPPORTED    HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)

struct guest_page {
    int host; /* or NO_PAGE */
    unsigned flags, pins;
};

struct consumer {
    UINT32 id, flags;
    bool exists, dirty[GUEST];
    unsigned first, end;
};

static struct {
    WHV_PARTITION_HANDLE partition;
    UINT64 base;
    struct guest_page page[GUEST];
    struct consumer consumer[CONSUMERS];
    UINT8 *private, *shared;
    UINT8 content[HOST][PAGE];
    int protection[HOST];
    const uint8_t *program;
    size_t size, at;
    unsigned calls;
    bool trace;
} m;

/* ---- the program ---- */

static unsigned byte(void)
{
    return m.at < m.size ? m.program[m.at++] : 0;
}

static unsigned below(unsigned limit)
{
    unsigned value = byte();
    return (limit > 256 ? value << 8 | byte() : value) % limit;
}

static void note(const char *format, ...)
{
    va_list args;

    m.calls++;
    if (!m.trace)
        return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static void wrong(const char *what, unsigned long long got, unsigned long long expected)
{
    fprintf(stderr, "call %u, %s: %#llx, the model says %#llx (%s)\n", m.calls, what, got, expected, OwhpGetLastErrorText());
    abort();
}

static void expect(const char *what, HRESULT got, HRESULT expected)
{
    if (got != expected)
        wrong(what, (UINT32)got, (UINT32)expected);
}

static void same(const char *what, UINT64 got, UINT64 expected)
{
    if (got != expected)
        wrong(what, got, expected);
}

/* ---- the model ---- */

static UINT8 *host_at(int page)
{
    return page < PRIVATE ? m.private + (size_t)page * PAGE : m.shared + (size_t)(page - PRIVATE) * PAGE;
}

/* A range of the window; now and then one that reaches out of it. */
struct range {
    unsigned first, count;
    UINT64 gpa, size;
    bool misaligned;
};

static struct range some_range(void)
{
    struct range r = {.first = below(GUEST)};
    unsigned odd = byte();

    r.count = 1 + below(odd & 1 ? 4 : GUEST);
    r.count = r.count > GUEST - r.first ? GUEST - r.first : r.count;
    r.gpa = m.base + (UINT64)r.first * PAGE;
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
        if (m.page[i].host == NO_PAGE || (m.page[i].flags & flags) != flags)
            return false;
    return true;
}

static bool seen_by(const struct consumer *c, unsigned page)
{
    return c->exists && page >= c->first && page < c->end &&
           (m.page[page].flags & T || c->flags & OwhpDirtyConsumerFlagAllPages) && m.page[page].host != NO_PAGE;
}

static void mark(unsigned page)
{
    for (unsigned c = 0; c < CONSUMERS; c++)
        if (seen_by(&m.consumer[c], page))
            m.consumer[c].dirty[page] = true;
}

static void forget(unsigned page, unsigned keepers)
{
    for (unsigned c = 0; c < CONSUMERS; c++)
        if (!(m.consumer[c].flags & keepers))
            m.consumer[c].dirty[page] = false;
}

/* ---- map, unmap, protect ---- */

static void do_map(void)
{
    struct range r = some_range();
    unsigned host = below(HOST), flags = below(20), rights = flags & 7, space = host < PRIVATE ? PRIVATE - host : HOST - host;
    bool good =
        !r.misaligned && flags < 16 && (rights == 0 || rights == R || rights == (R | W) || rights == (R | X) || rights == 7);
    bool second = byte() & 1;

    if (r.count > space && !r.misaligned)
        r.size = (UINT64)(r.count = space) * PAGE;
    note("map %u+%u at %u flags %u", r.first, r.count, host, flags);
    expect("map",
           second ? WHvMapGpaRange2(m.partition, (HANDLE)(intptr_t)-1, host_at((int)host), r.gpa, r.size, GPA_FLAGS(flags))
                  : WHvMapGpaRange(m.partition, host_at((int)host), r.gpa, r.size, GPA_FLAGS(flags)),
           good ? S_OK : E_INVALIDARG);
    for (unsigned i = 0; good && i < r.count; i++) {
        m.page[r.first + i] = (struct guest_page){(int)(host + i), flags, 0};
        forget(r.first + i, OwhpDirtyConsumerFlagKeepUnmapped);
    }
}

static void do_unmap(void)
{
    struct range r = some_range();

    note("unmap %u+%u", r.first, r.count);
    expect("unmap", WHvUnmapGpaRange(m.partition, r.gpa, r.size), r.misaligned ? E_INVALIDARG : S_OK);
    for (unsigned i = r.first; !r.misaligned && i < r.first + r.count; i++) {
        m.page[i] = (struct guest_page){NO_PAGE, 0, 0};
        forget(i, OwhpDirtyConsumerFlagKeepUnmapped);
    }
}

static void do_protect(void)
{
    static const int kinds[] = {PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE};
    int page = (int)below(HOST), protection = kinds[below(4)];

    note("protect %d %d", page, protection);
    m.protection[page] = protection;
    if (mprotect(host_at(page), PAGE, protection) != 0)
        wrong("mprotect", 1, 0);
}

/* ---- read, write ---- */

static HRESULT access_result(UINT64 start, unsigned size, bool write)
{
    for (unsigned i = (unsigned)(start / PAGE); i <= (start + size - 1) / PAGE; i++) {
        if (i >= GUEST || m.page[i].host == NO_PAGE || !(m.page[i].flags & (write ? W : R)) ||
            !(m.protection[m.page[i].host] & (write ? PROT_WRITE : PROT_READ)))
            return E_ACCESSDENIED;
    }
    return S_OK;
}

static void do_access(bool write)
{
    static UINT8 data[MOST_BYTES], expected[MOST_BYTES];
    const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = WHvCacheTypeWriteBack};
    unsigned start = below(GUEST) * PAGE + below(PAGE), size = byte() & 1 ? below(20) : below(MOST_BYTES), value = byte();
    HRESULT result = size ? access_result(start, size, write) : E_INVALIDARG;

    note("%s %#x+%u", write ? "write" : "read", start, size);
    memset(data, (int)value, sizeof(data));
    memset(expected, (int)value, sizeof(expected));
    for (unsigned i = 0; result == S_OK && i < size; i++) {
        UINT8 *byte_of = &m.content[m.page[(start + i) / PAGE].host][(start + i) % PAGE];
        if (write)
            *byte_of = (UINT8)value;
        else
            expected[i] = *byte_of;
    }
    if (write) {
        expect("write", WHvWriteGpaRange(m.partition, 0, m.base + start, controls, data, size), result);
        for (unsigned page = start / PAGE; result == S_OK && page <= (start + size - 1) / PAGE; page++)
            mark(page);
        return;
    }
    expect("read", WHvReadGpaRange(m.partition, 0, m.base + start, controls, data, size), result);
    if (memcmp(data, expected, sizeof(data)) != 0)
        wrong("the bytes read differ", 1, 0);
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
        same("dirty", told[i], c->dirty[r->first + i]);
}

static void query_bitmap(struct consumer *c, const struct range *r, bool peek, HRESULT result)
{
    UINT64 bitmap[2] = {0}, count = 0, sum = 0;
    bool told[GUEST];
    HRESULT got = c->id == 0 && !peek
                      ? WHvQueryGpaRangeDirtyBitmap(m.partition, r->gpa, r->size, bitmap, sizeof(bitmap))
                      : OwhpQueryDirtyBitmap(m.partition, c->id, (OWHP_QUERY_DIRTY_FLAGS)peek, r->gpa, r->size, bitmap,
                                             sizeof(bitmap), &count);

    expect("dirty bitmap", got, result);
    for (unsigned i = 0; result == S_OK && i < r->count; i++) {
        told[i] = bitmap[i / 64] >> (i % 64) & 1;
        sum += told[i];
    }
    if (result != S_OK)
        return;
    if (c->id != 0 || peek)
        same("dirty count", count, sum);
    compare_dirty(c, r, told);
}

static void query_list(struct consumer *c, const struct range *r, bool peek, HRESULT result)
{
    WHV_MEMORY_RANGE_ENTRY entries[GUEST];
    bool told[GUEST] = {false};
    UINT32 capacity = peek ? GUEST : 1 + below(6), count = 0;
    HRESULT got;

    do {
        got = OwhpQueryDirtyRanges(m.partition, c->id, (OWHP_QUERY_DIRTY_FLAGS)peek, r->gpa, r->size, entries, capacity, &count);
        if (got != S_FALSE)
            expect("dirty ranges", got, result);
        if (FAILED(got))
            return;
        for (UINT32 i = 0; i < count; i++)
            for (UINT64 at = 0; at < entries[i].SizeInBytes; at += PAGE) {
                UINT64 page = (entries[i].GuestAddress + at - r->gpa) / PAGE;
                if (page >= r->count || told[page])
                    wrong("a range told twice or outside", page, r->count);
                told[page] = true;
            }
    } while (got == S_FALSE);
    compare_dirty(c, r, told);
}

static void do_query(void)
{
    struct range r = some_range();
    struct consumer *c = &m.consumer[below(CONSUMERS)];
    unsigned how = byte();
    bool peek = how & 1;
    HRESULT result = r.misaligned ? E_INVALIDARG : query_result(c, &r);

    note("query %u+%u of %u how %u", r.first, r.count, c->id, how & 3);
    if ((!c->exists && !r.misaligned) || (r.gpa == 0 && r.size == 0))
        return;
    (how & 2 ? query_list : query_bitmap)(c, &r, peek, result);
    if (result == S_OK && !peek)
        memset(c->dirty + r.first, 0, r.count);
}

static void do_consumer(void)
{
    static const UINT32 kinds[] = {0, OwhpDirtyConsumerFlagAllPages, 3, OwhpDirtyConsumerFlagKeepUnmapped};
    struct consumer *c = &m.consumer[1 + below(CONSUMERS - 1)];
    struct range r = some_range();
    UINT32 flags = kinds[below(4)];

    if (r.gpa == 0 && r.size == 0)
        return; /* stands for all addresses */
    note("consumer %s %u+%u flags %u", c->exists ? "delete" : "create", r.first, r.count, flags);
    if (c->exists) {
        expect("delete consumer", OwhpDeleteDirtyConsumer(m.partition, c->id), S_OK);
        expect("delete consumer again", OwhpDeleteDirtyConsumer(m.partition, c->id), NOT_FOUND);
        *c = (struct consumer){0};
        return;
    }
    HRESULT result = r.misaligned || flags == OwhpDirtyConsumerFlagKeepUnmapped ? E_INVALIDARG : S_OK;
    UINT32 id = 0;
    expect("create consumer", OwhpCreateDirtyConsumer(m.partition, r.gpa, r.size, (OWHP_DIRTY_CONSUMER_FLAGS)flags, &id), result);
    if (result == S_OK)
        *c = (struct consumer){.id = id, .flags = flags, .exists = true, .first = r.first, .end = r.first + r.count};
}

static void do_tracking(void)
{
    struct range r = some_range();
    bool on = byte() & 1;
    HRESULT result = r.misaligned ? E_INVALIDARG : all_have(&r, 0) ? S_OK : WHV_E_GPA_RANGE_NOT_FOUND;

    note("tracking %u+%u %d", r.first, r.count, on);
    expect("tracking", OwhpSetDirtyTracking(m.partition, r.gpa, r.size, on), result);
    for (unsigned i = r.first; result == S_OK && i < r.first + r.count; i++) {
        if (!(m.page[i].flags & T) == !on)
            continue;
        m.page[i].flags ^= T;
        forget(i, OwhpDirtyConsumerFlagAllPages);
    }
}

static void do_mark(void)
{
    struct range r = some_range();
    bool all = false, odd = r.gpa != m.base + (UINT64)r.first * PAGE || r.size != (UINT64)r.count * PAGE;

    for (unsigned c = 0; c < CONSUMERS; c++)
        all = all || (m.consumer[c].exists && m.consumer[c].flags & OwhpDirtyConsumerFlagAllPages);
    if (odd)
        return; /* (alignment is free here; the other oddities have cases of their own) */
    HRESULT result = all_have(&r, all ? 0 : T) ? S_OK : WHV_E_GPA_RANGE_NOT_FOUND;
    note("mark %u+%u", r.first, r.count);
    expect("mark", OwhpMarkDirty(m.partition, r.gpa + 1, r.size - 1), result);
    for (unsigned i = r.first; result == S_OK && i < r.first + r.count; i++)
        mark(i);
}

/* ---- advice ---- */

static HRESULT advise(const struct range *r, UINT32 code, const WHV_ADVISE_GPA_RANGE_POPULATE *populate)
{
    const WHV_MEMORY_RANGE_ENTRY entry = {r->gpa, r->size};

    return WHvAdviseGpaRange(m.partition, &entry, 1, (WHV_ADVISE_GPA_RANGE_CODE)code, populate, populate ? sizeof(*populate) : 0);
}

/* The host may refuse to lock (its limit, memory that is not there): then nothing has changed. */
static void do_pin(void)
{
    struct range r = some_range();
    bool pin = byte() & 1, pinned = true;

    note("%s %u+%u", pin ? "pin" : "unpin", r.first, r.count);
    for (unsigned i = r.first; i < r.first + r.count; i++)
        pinned = pinned && m.page[i].pins;
    HRESULT got = advise(&r, pin ? WHvAdviseGpaRangeCodePin : WHvAdviseGpaRangeCodeUnpin, NULL);
    if (r.misaligned)
        expect("pin, bad range", got, E_INVALIDARG);
    else if (!pin)
        expect("unpin", got, pinned ? S_OK : E_INVALIDARG);
    else if (!all_have(&r, 0))
        expect("pin", got, WHV_E_GPA_RANGE_NOT_FOUND);
    else if (got != E_OUTOFMEMORY && got != E_ACCESSDENIED)
        expect("pin", got, S_OK);
    for (unsigned i = r.first; got == S_OK && i < r.first + r.count; i++)
        m.page[i].pins += pin ? 1 : (unsigned)-1;
}

static void do_populate(void)
{
    struct range r = some_range();
    UINT32 type = below(4), flags = below(5);
    WHV_ADVISE_GPA_RANGE_POPULATE populate = {.AccessType = (WHV_MEMORY_ACCESS_TYPE)type};
    bool host = true;

    if (r.misaligned)
        return; /* (alignment is free here) */
    populate.Flags.AsUINT32 = flags;
    note("populate %u+%u type %u flags %u", r.first, r.count, type, flags);
    for (unsigned i = r.first; i < r.first + r.count; i++)
        host = host && (m.page[i].host == NO_PAGE || m.protection[m.page[i].host] == (PROT_READ | PROT_WRITE));
    HRESULT got = advise(&r, WHvAdviseGpaRangeCodePopulate, &populate);
    if (type > 2 || flags > 3)
        expect("populate, bad advice", got, E_INVALIDARG);
    else if (!all_have(&r, 0))
        expect("populate", got, WHV_E_GPA_RANGE_NOT_FOUND);
    else if (!all_have(&r, 1u << type))
        expect("populate", got, E_ACCESSDENIED);
    else if (host || flags & 1 || got != E_ACCESSDENIED)
        expect("populate", got, S_OK);
}

static void do_discard(void)
{
    struct range r = some_range();
    HRESULT result = r.misaligned ? E_INVALIDARG : all_have(&r, 0) ? S_OK : WHV_E_GPA_RANGE_NOT_FOUND;
    bool locked[HOST] = {false}, pinned = false;

    for (unsigned i = 0; i < GUEST; i++)
        if (m.page[i].pins)
            locked[m.page[i].host] = true;
    for (unsigned i = r.first; result == S_OK && i < r.first + r.count; i++) {
        if (locked[m.page[i].host] && !m.page[i].pins)
            return; /* pinned through another guest page: the kernel refuses somewhere in the middle */
        pinned = pinned || m.page[i].pins;
    }
    for (unsigned i = r.first; result == S_OK && i < r.first + r.count; i++)
        if (m.page[i].host >= PRIVATE && !(m.protection[m.page[i].host] & PROT_WRITE))
            result = NOT_SUPPORTED;
    if (result == S_OK && pinned)
        result = E_ACCESSDENIED;
    note("discard %u+%u", r.first, r.count);
    expect("discard", OwhpDiscardGpaRange(m.partition, r.gpa, r.size), result);
    for (unsigned i = r.first; result == S_OK && i < r.first + r.count; i++) {
        memset(m.content[m.page[i].host], 0, PAGE);
        mark(i);
    }
}

/* ---- what is told of the whole ---- */

static bool continues(unsigned i)
{
    const struct guest_page *a = &m.page[i - 1], *b = &m.page[i];

    return a->host != NO_PAGE && b->host != NO_PAGE && a->flags == b->flags && host_at(a->host) + PAGE == host_at(b->host);
}

static void do_enumerate(void)
{
    static OWHP_GPA_RANGE ranges[GUEST];
    WHV_PARTITION_MEMORY_COUNTERS counters;
    UINT32 count = 0, at = 0;
    UINT64 mapped = 0;

    note("enumerate");
    expect("enumerate", OwhpEnumerateGpaRanges(m.partition, ranges, GUEST, &count), S_OK);
    for (unsigned i = 0, end; i < GUEST; i = end) {
        UINT64 dirty = 0, pinned = 0;
        end = i + 1;
        if (m.page[i].host == NO_PAGE)
            continue;
        while (end < GUEST && continues(end))
            end++;
        for (unsigned page = i; page < end; page++) {
            dirty += m.page[i].flags & T && m.consumer[0].dirty[page];
            pinned += m.page[page].pins != 0;
        }
        if (at == count)
            wrong("ranges", count, at + 1);
        same("range address", ranges[at].GuestAddress, m.base + (UINT64)i * PAGE);
        same("range size", ranges[at].SizeInBytes, (UINT64)(end - i) * PAGE);
        same("range flags", (UINT64)ranges[at].Flags, m.page[i].flags);
        same("range source", ranges[at].SourceAddress, (uintptr_t)host_at(m.page[i].host));
        same("range dirty", ranges[at].DirtyPageCount, dirty);
        same("range pinned", ranges[at].PinnedPageCount, pinned);
        mapped += end - i;
        at++;
    }
    same("ranges", count, at);
    expect("counters",
           WHvGetPartitionCounters(m.partition, WHvPartitionCounterSetMemory, &counters, sizeof(counters), NULL), S_OK);
    same("mapped pages", counters.Mapped4KPageCount, mapped);
}

/* ---- a run ---- */

static void begin(void)
{
    UINT32 processors = 1, engine = OwhpEngineSoft;
    WHV_CAPABILITY width = {0};
    int fd = memfd_create("model", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, SHARED * PAGE) != 0)
        wrong("memfd", 1, 0);
    /* A page between, so that the two never continue each other. */
    m.private = mmap(NULL, (PRIVATE + 1 + SHARED) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    m.shared = m.private + (PRIVATE + 1) * PAGE;
    mprotect(m.private, PRIVATE * PAGE, PROT_READ | PROT_WRITE);
    mmap(m.shared, SHARED * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    close(fd);
    expect("create", WHvCreatePartition(&m.partition), S_OK);
    expect("set", WHvSetPartitionProperty(m.partition, WHvPartitionPropertyCodeProcessorCount, &processors, 4), S_OK);
    expect("set", WHvSetPartitionProperty(m.partition, OwhpPartitionPropertyCodeEngine, &engine, 4), S_OK);
    expect("set up", WHvSetupPartition(m.partition), S_OK);
    expect("processor", WHvCreateVirtualProcessor(m.partition, 0, 0), S_OK);
    expect("width", WHvGetCapability(WHvCapabilityCodePhysicalAddressWidth, &width, sizeof(width), NULL), S_OK);
    /* At 0; around a border of the record's windows; at the end. */
    const UINT64 bases[] = {0, ((UINT64)1 << 42) - GUEST / 2 * PAGE, ((UINT64)1 << width.PhysicalAddressWidth) - GUEST * PAGE};
    m.base = bases[byte() % (width.PhysicalAddressWidth > 42 ? 3 : 1)];
    for (unsigned i = 0; i < GUEST; i++)
        m.page[i].host = NO_PAGE;
    for (unsigned i = 0; i < HOST; i++)
        m.protection[i] = PROT_READ | PROT_WRITE;
    m.consumer[0] = (struct consumer){.exists = true, .end = GUEST};
}

/* Nothing else has changed, and nothing was written that should not. */
static void finish(void)
{
    do_enumerate();
    expect("delete", WHvDeletePartition(m.partition), S_OK);
    for (int i = 0; i < HOST; i++) {
        mprotect(host_at(i), PAGE, PROT_READ);
        if (memcmp(host_at(i), m.content[i], PAGE) != 0)
            wrong("host page differs", (unsigned)i, 0);
    }
    munmap(m.private, (PRIVATE + 1 + SHARED) * PAGE);
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
        do_mark,  do_pin,   do_populate, do_discard, do_enumerate,
    };

    memset(&m, 0, sizeof(m));
    m.program = program;
    m.size = size;
    m.trace = getenv("OWHP_MODEL_TRACE") != NULL;
    begin();
    while (m.at < m.size)
        steps[byte() % (sizeof(steps) / sizeof(steps[0]))]();
    finish();
    return m.calls;
}
