/*
 * Four processors store to pages, each to its own place in them, a number that grows; what they stored last is the ground
 * truth. Meanwhile the host harvests, replaces, unmaps, switches tracking, cancels. Not one store may be missed, no page
 * reported that nobody stores to, no memory touched after its unmap returned.
 */
#include "guest.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PROCESSORS = 4,
    AREA = 0x40000,         /* 128 pages; the processors store to the even ones */
    PAGES = 128,
    SIZE = PAGES * 4096,
    STRIDE = 0x1a000,
    FAR = 0x40000000 - 0x80000, /* where other memory comes and goes */
    ROUNDS = 1500,         /* times OPENWHP_TEST_ROUNDS */
};

#define FLAGS(value) ((WHV_MAP_GPA_RANGE_FLAGS)(value))
#define RWXT         FLAGS(15)

struct team {
    struct guest g;
    atomic_bool stop;
    atomic_uint refused; /* exits for memory that is mapped */
    pthread_t threads[PROCESSORS];
};

struct player {
    struct team *team;
    UINT32 index;
};

static struct player players[PROCESSORS];

static int rounds(void)
{
    const char *times = getenv("OPENWHP_TEST_ROUNDS");

    return ROUNDS * (times ? atoi(times) : 1);
}

static void *play(void *context)
{
    struct player *player = context;
    struct team *team = player->team;
    WHV_RUN_VP_EXIT_CONTEXT exit;

    while (!atomic_load(&team->stop)) {
        if (FAILED(WHvRunVirtualProcessor(team->g.partition, player->index, &exit, sizeof(exit))))
            return context;
        if (exit.ExitReason == WHvRunVpExitReasonMemoryAccess) {
            if (!exit.MemoryAccess.AccessInfo.GpaUnmapped)
                atomic_fetch_add(&team->refused, 1);
        } else if (exit.ExitReason != WHvRunVpExitReasonCanceled) {
            print_exit(&exit);
            return context;
        }
    }
    return NULL;
}

/* The registers that guest_long_mode gave processor 0, for the others. */
static const WHV_REGISTER_NAME names[] = {
    WHvX64RegisterCr0, WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterEfer, WHvX64RegisterCs, WHvX64RegisterDs,
    WHvX64RegisterEs,  WHvX64RegisterSs,  WHvX64RegisterGdtr, WHvX64RegisterIdtr, WHvX64RegisterTr, WHvX64RegisterRip,
    WHvX64RegisterRflags,
};
enum { NAMES = sizeof(names) / sizeof(names[0]) };

static void set_on(struct team *team, UINT32 index, WHV_REGISTER_NAME name, UINT64 number)
{
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = number;
    assert_ok(WHvSetVirtualProcessorRegisters(team->g.partition, index, &name, 1, &value));
}

/* again: mov rax, rbx; and eax, 0x7e000; mov [rdi+rax], rbx; add rbx, rsi; jmp again. */
static void start(struct team *team, UINT64 area)
{
    WHV_REGISTER_VALUE values[NAMES];

    memset(team, 0, sizeof(*team));
    guest_begin(&team->g, &(struct guest_options){.processors = PROCESSORS});
    guest_long_mode(&team->g, 0);
    guest_code(&team->g, 0x48, 0x89, 0xd8, 0x25, 0, 0xe0, 0x07, 0, 0x48, 0x89, 0x1c, 0x07, 0x48, 0x01, 0xf3, 0xeb, 0xef);
    assert_ok(WHvGetVirtualProcessorRegisters(team->g.partition, 0, names, NAMES, values));
    for (UINT32 i = 0; i < PROCESSORS; i++) {
        if (i) {
            assert_ok(WHvCreateVirtualProcessor(team->g.partition, i, 0));
            assert_ok(WHvSetVirtualProcessorRegisters(team->g.partition, i, names, NAMES, values));
        }
        set_on(team, i, WHvX64RegisterRdi, area + 8 * i);
        set_on(team, i, WHvX64RegisterRsi, STRIDE);
        set_on(team, i, WHvX64RegisterRbx, STRIDE * (i + 1));
    }
}

static void go(struct team *team)
{
    for (UINT32 i = 0; i < PROCESSORS; i++) {
        players[i] = (struct player){team, i};
        assert_int_equal(pthread_create(&team->threads[i], NULL, play, &players[i]), 0);
    }
}

static void end(struct team *team)
{
    void *result;

    atomic_store(&team->stop, true);
    for (UINT32 i = 0; i < PROCESSORS; i++)
        assert_ok(WHvCancelRunVirtualProcessor(team->g.partition, i, 0));
    for (UINT32 i = 0; i < PROCESSORS; i++) {
        pthread_join(team->threads[i], &result);
        assert_null(result);
    }
    assert_int_equal(atomic_load(&team->refused), 0);
}

/* ---- readers ---- */

/* What a consumer has seen of each processor's number in each page. */
struct reader {
    UINT32 consumer;
    bool by_list;
    UINT64 seen[PAGES][PROCESSORS];
    unsigned reports;
};

static void look(struct team *team, struct reader *reader, UINT64 page)
{
    if (page % 2)
        fail_msg("page %u was reported, and nobody stores to it", (unsigned)page);
    memcpy(reader->seen[page], team->g.ram + AREA + 4096 * page, sizeof(reader->seen[page]));
    reader->reports++;
}

static void read_bitmap(struct team *team, struct reader *reader)
{
    UINT64 bitmap[PAGES / 64];

    assert_ok(OwhpQueryDirtyBitmap(team->g.partition, reader->consumer, OwhpQueryDirtyFlagNone, AREA, SIZE, bitmap,
                                   sizeof(bitmap), NULL));
    for (UINT64 page = 0; page < PAGES; page++)
        if (bitmap[page / 64] >> page % 64 & 1)
            look(team, reader, page);
}

static void read_list(struct team *team, struct reader *reader)
{
    WHV_MEMORY_RANGE_ENTRY ranges[10];
    UINT32 count;
    HRESULT result = OwhpQueryDirtyRanges(team->g.partition, reader->consumer, OwhpQueryDirtyFlagNone, AREA, SIZE, ranges, 10,
                                          &count);
    assert_true(result == S_OK || result == S_FALSE);
    for (UINT32 i = 0; i < count; i++)
        for (UINT64 at = 0; at < ranges[i].SizeInBytes; at += 4096)
            look(team, reader, (ranges[i].GuestAddress + at - AREA) / 4096);
}

static void check_last(struct team *team, struct reader *reader)
{
    for (int i = 0; i < 20; i++) /* lists are short */
        (reader->by_list ? read_list : read_bitmap)(team, reader);
    for (UINT64 page = 0; page < PAGES; page++)
        for (unsigned cpu = 0; cpu < PROCESSORS; cpu++) {
            UINT64 now;
            memcpy(&now, team->g.ram + AREA + 4096 * page + 8 * cpu, 8);
            if (now != reader->seen[page][cpu])
                fail_msg("consumer %u, page %u, processor %u: %#llx was stored, last told %#llx", reader->consumer,
                         (unsigned)page, cpu, (unsigned long long)now, (unsigned long long)reader->seen[page][cpu]);
        }
}

static UINT32 consumer(struct team *team, UINT32 flags)
{
    UINT32 id;

    assert_ok(OwhpCreateDirtyConsumer(team->g.partition, 0, 0, (OWHP_DIRTY_CONSUMER_FLAGS)flags, &id));
    return id;
}

/* The first consumer, one more of tracked pages and one of all: each on its own. */
static void no_store_is_missed(void **state)
{
    static struct team team;
    static struct reader readers[3];

    (void)state;
    start(&team, AREA);
    memset(readers, 0, sizeof(readers));
    readers[1].consumer = consumer(&team, 0);
    readers[2].consumer = consumer(&team, OwhpDirtyConsumerFlagAllPages);
    readers[2].by_list = true;
    go(&team);
    for (int round = 0; round < rounds(); round++) {
        struct reader *reader = &readers[round % 7 % 3];
        (reader->by_list ? read_list : read_bitmap)(&team, reader);
        if (round % 16 == 0)
            usleep(100);
    }
    end(&team);
    for (int i = 0; i < 3; i++) {
        check_last(&team, &readers[i]);
        print_message("consumer %d: %u reports\n", i, readers[i].reports);
    }
    guest_end(&team.g);
}

/* Pages are replaced (by the same memory), unmapped and mapped again, and their tracking is switched: who keeps unmapped pages
 * misses nothing. */
static void changes_under_way(void **state)
{
    static struct team team;
    static struct reader reader;
    UINT32 random = 1;

    (void)state;
    start(&team, AREA);
    memset(&reader, 0, sizeof(reader));
    reader.consumer = consumer(&team, OwhpDirtyConsumerFlagAllPages | OwhpDirtyConsumerFlagKeepUnmapped);
    go(&team);
    for (int round = 0; round < rounds(); round++) {
        random = random * 1103515245 + 12345;
        UINT64 page = random >> 16 & 127, count = 1 + (random >> 24 & 15), gpa = AREA + 4096 * page;
        count = count > PAGES - page ? PAGES - page : count;
        switch (random >> 10 & 3) {
        case 0:
            assert_ok(WHvMapGpaRange(team.g.partition, team.g.ram + gpa, gpa, 4096 * count, FLAGS(random & 1 ? 15 : 7)));
            break;
        case 1:
            assert_ok(WHvUnmapGpaRange(team.g.partition, gpa, 4096 * count));
            assert_ok(WHvMapGpaRange(team.g.partition, team.g.ram + gpa, gpa, 4096 * count, RWXT));
            break;
        case 2:
            assert_ok(OwhpSetDirtyTracking(team.g.partition, gpa, 4096 * count, random & 1));
            break;
        default:
            read_bitmap(&team, &reader);
        }
        if (round % 64 == 0)
            assert_ok(WHvCancelRunVirtualProcessor(team.g.partition, random >> 8 & 3, 0));
        if (round % 16 == 0)
            usleep(100);
    }
    end(&team);
    check_last(&team, &reader);
    guest_end(&team.g);
}

/* Memory that was unmapped is the host's again: poisoned at once, and nobody touches it. Every other round it is taken away
 * altogether: a processor that still knew it would exit with GpaUnmapped = 0. */
static void unmapped_memory_is_free(void **state)
{
    static struct team team;
    UINT8 *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned touched = 0, used = 0;

    (void)state;
    assert_true(memory != MAP_FAILED);
    start(&team, FAR);
    go(&team);
    for (int round = 0; round < rounds() / 10; round++) {
        assert_ok(WHvMapGpaRange(team.g.partition, memory, FAR, SIZE, round & 1 ? RWXT : FLAGS(7)));
        usleep(200);
        assert_ok(WHvUnmapGpaRange(team.g.partition, FAR, SIZE));
        used += memory[8] != 0xdd;
        if (round & 1)
            assert_int_equal(mprotect(memory, SIZE, PROT_NONE), 0);
        else
            for (UINT64 page = 0; page < PAGES; page++)
                memset(memory + 4096 * page, 0xdd, 8 * PROCESSORS);
        usleep(50);
        for (UINT64 page = 0; !(round & 1) && page < PAGES; page++)
            for (unsigned i = 0; i < 8 * PROCESSORS; i++)
                touched += memory[4096 * page + i] != 0xdd;
        assert_int_equal(mprotect(memory, SIZE, PROT_READ | PROT_WRITE), 0);
        if (round % 8 == 0)
            assert_ok(WHvCancelRunVirtualProcessor(team.g.partition, (UINT32)round / 8 % PROCESSORS, 0));
    }
    end(&team);
    assert_int_equal(touched, 0);
    assert_int_not_equal(used, 0);
    guest_end(&team.g);
    munmap(memory, SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("DIRTY-3", "F 3: concurrency; ground truth", no_store_is_missed),
        CASE("DIRTY-4", "S overlap, H consumers: changes under way", changes_under_way),
        CASE("MAP-9", "S overlap, F 2.3: the caller may free", unmapped_memory_is_free),
    };
    return cmocka_run_group_tests_name("dirty threads", tests, NULL, NULL);
}
