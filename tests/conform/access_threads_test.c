/*
 * Reads and writes by guest physical address, again and again at the same place, where a thread remembers what it found: whatever
 * changes between two of them is noticed. Then on several threads at once, while mappings change and partitions end.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FLAGS(value) ((WHV_MAP_GPA_RANGE_FLAGS)(value))
#define READ         FLAGS(1)
#define RW           FLAGS(3)
#define RWT          FLAGS(11)

enum { PAGE = 4096, AT = 0x10000000 };

static const WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = WHvCacheTypeWriteBack};

static UINT8 *pages(size_t count)
{
    UINT8 *memory = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(memory != MAP_FAILED);
    return memory;
}

static HRESULT read_at(struct guest *g, UINT64 gpa, UINT64 *value)
{
    return WHvReadGpaRange(g->partition, 0, gpa, controls, value, sizeof(*value));
}

static HRESULT write_at(struct guest *g, UINT64 gpa, UINT64 value)
{
    return WHvWriteGpaRange(g->partition, 0, gpa, controls, &value, sizeof(value));
}

static void assert_reads(struct guest *g, UINT64 gpa, UINT64 expected)
{
    UINT64 value = 0;

    for (int i = 0; i < 3; i++) {
        assert_ok(read_at(g, gpa, &value));
        assert_int_equal(value, expected);
    }
}

static void assert_writes(struct guest *g, UINT64 gpa, UINT8 *host)
{
    UINT64 value;

    for (UINT64 i = 1; i < 4; i++) {
        assert_ok(write_at(g, gpa, i));
        memcpy(&value, host, sizeof(value));
        assert_int_equal(value, i);
    }
}

static void assert_no_access(struct guest *g, UINT64 gpa, bool write)
{
    UINT64 value = 0;

    for (int i = 0; i < 2; i++)
        if (write)
            assert_refused(WHvWriteGpaRange(g->partition, 0, gpa, controls, &value, 8), E_ACCESSDENIED);
        else
            assert_refused(WHvReadGpaRange(g->partition, 0, gpa, controls, &value, 8), E_ACCESSDENIED);
}

/* ---- one thread ---- */

static void changes_of_the_mapping(void **state)
{
    struct guest g;
    UINT8 *a = pages(3), *b = pages(1);

    (void)state;
    memset(a, 0x11, 3 * PAGE);
    memset(b, 0x22, PAGE);
    guest_begin(&g, &(struct guest_options){0});
    assert_no_access(&g, AT, false);
    assert_ok(WHvMapGpaRange(g.partition, a, AT, 3 * PAGE, RW));
    assert_reads(&g, AT + PAGE, 0x1111111111111111);
    assert_ok(WHvMapGpaRange(g.partition, b, AT + PAGE, PAGE, RW)); /* in the middle */
    assert_reads(&g, AT + PAGE, 0x2222222222222222);
    assert_reads(&g, AT, 0x1111111111111111);
    assert_writes(&g, AT + PAGE, b);
    assert_ok(WHvMapGpaRange(g.partition, b, AT + PAGE, PAGE, READ));
    assert_no_access(&g, AT + PAGE, true);
    assert_reads(&g, AT + PAGE, 3);
    assert_no_access(&g, AT + PAGE, true); /* also right behind a read that is allowed */
    assert_ok(WHvMapGpaRange(g.partition, b, AT + PAGE, PAGE, FLAGS(0)));
    assert_no_access(&g, AT + PAGE, false);
    assert_reads(&g, AT + 2 * PAGE, 0x1111111111111111);
    assert_ok(WHvUnmapGpaRange(g.partition, AT + 2 * PAGE, PAGE));
    assert_no_access(&g, AT + 2 * PAGE, false);
    assert_reads(&g, AT + PAGE - 8, 0x1111111111111111); /* the last bytes before what is not allowed */
    UINT64 value;
    assert_refused(WHvReadGpaRange(g.partition, 0, AT + PAGE - 4, controls, &value, 8), E_ACCESSDENIED);
    guest_end(&g);
}

static UINT64 dirty_bits(struct guest *g)
{
    UINT64 bits = 99;

    assert_ok(WHvQueryGpaRangeDirtyBitmap(g->partition, AT, 2 * PAGE, &bits, sizeof(bits)));
    return bits;
}

static void dirty_each_time(void **state)
{
    struct guest g;
    UINT8 *a = pages(2);
    UINT64 value;

    (void)state;
    guest_begin(&g, &(struct guest_options){0});
    assert_ok(WHvMapGpaRange(g.partition, a, AT, 2 * PAGE, RWT));
    for (int i = 0; i < 5; i++) {
        assert_ok(write_at(&g, AT + 8, 1));
        assert_ok(write_at(&g, AT + 16, 1));
        assert_int_equal(dirty_bits(&g), 1);
        assert_ok(read_at(&g, AT, &value));
        assert_int_equal(dirty_bits(&g), 0);
        assert_ok(write_at(&g, AT + PAGE, 1));
        assert_ok(write_at(&g, AT + PAGE + 8, 1));
        assert_int_equal(dirty_bits(&g), 2);
    }
    assert_ok(OwhpSetDirtyTracking(g.partition, AT, 2 * PAGE, FALSE));
    assert_ok(write_at(&g, AT, 1));
    assert_ok(OwhpSetDirtyTracking(g.partition, AT, 2 * PAGE, TRUE));
    assert_int_equal(dirty_bits(&g), 0);
    assert_ok(write_at(&g, AT, 1));
    assert_int_equal(dirty_bits(&g), 1);
    guest_end(&g);
}

static void memory_that_goes(void **state)
{
    struct guest g;
    UINT8 *a = pages(2), *buffer = pages(2);
    UINT64 value;

    (void)state;
    guest_begin(&g, &(struct guest_options){0});
    assert_ok(WHvMapGpaRange(g.partition, a, AT, 2 * PAGE, RWT));
    assert_writes(&g, AT, a);
    assert_int_equal(mprotect(a, PAGE, PROT_READ), 0);
    assert_int_equal(dirty_bits(&g), 1);
    assert_reads(&g, AT, 3);
    assert_no_access(&g, AT, true);
    assert_int_equal(dirty_bits(&g), 0);
    assert_int_equal(mprotect(a, PAGE, PROT_NONE), 0);
    assert_no_access(&g, AT, false);
    assert_int_equal(mprotect(a, PAGE, PROT_READ | PROT_WRITE), 0);
    assert_reads(&g, AT, 3);

    /* A buffer that ends where nothing is: nothing is written, to either side. */
    assert_int_equal(mprotect(buffer + PAGE, PAGE, PROT_NONE), 0);
    memset(buffer, 0xab, PAGE);
    assert_refused(WHvWriteGpaRange(g.partition, 0, AT, controls, buffer + PAGE - 100, 200), E_POINTER);
    assert_reads(&g, AT, 3);
    assert_int_equal(dirty_bits(&g), 0);
    assert_refused(WHvReadGpaRange(g.partition, 0, AT, controls, buffer + PAGE - 100, 200), E_POINTER);
    assert_int_equal(buffer[PAGE - 100], 0xab);
    assert_refused(WHvReadGpaRange(g.partition, 0, AT, controls, NULL, 8), E_POINTER);
    assert_refused(WHvReadGpaRange(g.partition, 0, AT, controls, &value, 0), E_INVALIDARG);
    assert_refused(WHvReadGpaRange(g.partition, 0, AT, (WHV_ACCESS_GPA_CONTROLS){.AsUINT64 = 2}, &value, 8), E_INVALIDARG);
    guest_end(&g);
}

static void processors_and_partitions_that_go(void **state)
{
    struct guest g, other;
    UINT64 value;

    (void)state;
    guest_begin(&g, &(struct guest_options){.processors = 2});
    guest_begin(&other, &(struct guest_options){.processors = 2});
    memset(g.ram, 1, PAGE);
    memset(other.ram, 2, PAGE);
    assert_reads(&g, 0, 0x0101010101010101);
    assert_reads(&other, 0, 0x0202020202020202);
    assert_reads(&g, 0, 0x0101010101010101);
    assert_refused(WHvReadGpaRange(g.partition, 1, 0, controls, &value, 8), WHV_E_VP_DOES_NOT_EXIST);
    assert_ok(WHvCreateVirtualProcessor(g.partition, 1, 0));
    assert_ok(WHvReadGpaRange(g.partition, 1, 0, controls, &value, 8));
    assert_ok(WHvDeleteVirtualProcessor(g.partition, 1));
    assert_refused(WHvReadGpaRange(g.partition, 1, 0, controls, &value, 8), WHV_E_VP_DOES_NOT_EXIST);
    for (int i = 0; i < 20; i++) {
        assert_reads(&g, 0, 0x0101010101010101);
        WHV_PARTITION_HANDLE old = g.partition;
        guest_end(&g);
        assert_hr(WHvReadGpaRange(old, 0, 0, controls, &value, 8), E_HANDLE);
        guest_begin(&g, &(struct guest_options){.processors = 2});
        memset(g.ram, 1, PAGE);
        assert_hr(WHvReadGpaRange(old, 0, 0, controls, &value, 8), E_HANDLE);
    }
    assert_reads(&other, 0, 0x0202020202020202);
    guest_end(&other);
    guest_end(&g);
}

/* ---- many threads ---- */

enum { THREADS = 3, ROUNDS = 100, AREA = 16 * PAGE };

static struct {
    struct guest g;
    _Atomic(WHV_PARTITION_HANDLE) partition;
    atomic_bool stop;
    atomic_uint bad, done, refused;
} shared;

static unsigned rounds(void)
{
    const char *times = getenv("OPENWHP_TEST_ROUNDS");

    return ROUNDS * (times ? (unsigned)atoi(times) : 1);
}

/* Stores of threads are this number, so a page holds it or what it was filled with; 0xdd is poison. */
#define STORED 0x5555555555555555ull

static void look(UINT64 random)
{
    const UINT64 gpa = AT + random % (AREA / 8) * 8;
    UINT64 value = STORED;
    HRESULT result = random >> 32 & 1 ? WHvWriteGpaRange(shared.partition, 0, gpa, controls, &value, sizeof(value))
                                      : WHvReadGpaRange(shared.partition, 0, gpa, controls, &value, sizeof(value));

    atomic_fetch_add_explicit(result == S_OK ? &shared.done : &shared.refused, 1, memory_order_relaxed);
    if (result == S_OK ? value == 0xdddddddddddddddd : result != E_ACCESSDENIED && result != E_HANDLE)
        atomic_fetch_add(&shared.bad, 1);
}

static void *look_all_the_time(void *context)
{
    UINT64 random = 88172645463325252ull + (size_t)context;

    while (!atomic_load(&shared.stop)) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        look(random);
    }
    return NULL;
}

static void start(pthread_t *threads)
{
    atomic_store(&shared.stop, false);
    atomic_store(&shared.bad, 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, look_all_the_time, (void *)i), 0);
}

static void stop(const pthread_t *threads)
{
    atomic_store(&shared.stop, true);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&shared.bad), 0);
    assert_int_not_equal(atomic_load(&shared.done), 0);
}

/* The threads come by at least once. */
static void let_them_look(void)
{
    unsigned before = atomic_load(&shared.done) + atomic_load(&shared.refused);

    while (atomic_load(&shared.done) + atomic_load(&shared.refused) < before + THREADS)
        sched_yield();
}

/* When an unmap or a replacing map returns, the old memory is the host's: poisoned, and nobody sees or overwrites the poison. */
static void memory_that_is_freed(void **state)
{
    UINT8 *memory[2] = {pages(AREA / PAGE), pages(AREA / PAGE)};
    pthread_t threads[THREADS];

    (void)state;
    guest_begin(&shared.g, &(struct guest_options){0});
    shared.partition = shared.g.partition;
    start(threads);
    for (unsigned round = 0; round < rounds(); round++) {
        UINT8 *now = memory[round % 2], *old = memory[(round + 1) % 2];
        memset(now, 0x33, AREA);
        assert_ok(WHvMapGpaRange(shared.g.partition, now, AT, AREA, round & 4 ? RWT : RW));
        memset(old, 0xdd, AREA);
        let_them_look();
        for (size_t i = 0; i < AREA; i++)
            if (old[i] != 0xdd)
                fail_msg("round %u: byte %zu of memory that is not mapped any more was written", round, i);
        if (round % 3 == 0) {
            assert_ok(WHvUnmapGpaRange(shared.g.partition, AT, AREA));
            memset(now, 0xdd, AREA);
            let_them_look();
        }
    }
    stop(threads);
    guest_end(&shared.g);
    munmap(memory[0], AREA);
    munmap(memory[1], AREA);
}

static void partitions_that_end(void **state)
{
    pthread_t threads[THREADS];
    UINT8 *memory = pages(AREA / PAGE);

    (void)state;
    start(threads);
    for (unsigned round = 0; round < rounds() / 10; round++) {
        guest_begin(&shared.g, &(struct guest_options){0});
        memset(memory, 0x44, AREA);
        assert_ok(WHvMapGpaRange(shared.g.partition, memory, AT, AREA, RWT));
        atomic_store(&shared.partition, shared.g.partition);
        let_them_look();
        guest_end(&shared.g);
        memset(memory, 0xdd, AREA);
        let_them_look();
        for (size_t i = 0; i < AREA; i++)
            assert_int_equal(memory[i], 0xdd);
    }
    stop(threads);
    munmap(memory, AREA);
}

/*
 * Accessed and dirty bits are set by compare-exchange: what another thread does with the entry meanwhile (counts in the bits that
 * the processor ignores, takes accessed and dirty away) is never lost, and neither are the bits.
 */
enum { COUNTS = 20000 };
#define COUNT_UNIT ((UINT64)1 << 52) /* bits 58:52 are the software's */

static void *count_in_entry(void *context)
{
    _Atomic UINT64 *entry = context;

    for (unsigned i = 0; i < COUNTS; i++) {
        atomic_fetch_xor(entry, COUNT_UNIT * ((i + 1) ^ i) & (127 * COUNT_UNIT));
        atomic_fetch_and(entry, ~(UINT64)0x60);
    }
    atomic_store(&shared.stop, true);
    return NULL;
}

static void bits_by_exchange(void **state)
{
    const WHV_TRANSLATE_GVA_FLAGS flags =
        (WHV_TRANSLATE_GVA_FLAGS)(WHvTranslateGvaFlagValidateWrite | WHvTranslateGvaFlagSetPageTableBits);
    const UINT64 gva = 0x60000;
    UINT64 gvas[4] = {gva, 0x61000, gva, gva}, gpas[4], last = 0;
    WHV_TRANSLATE_GVA_RESULT results[4];
    pthread_t thread;
    struct guest g;

    (void)state;
    guest_begin(&g, &(struct guest_options){0});
    guest_long_mode(&g, 0);
    _Atomic UINT64 *entry = (_Atomic UINT64 *)(void *)guest_pte(&g, gva);
    atomic_store(&shared.stop, false);
    assert_int_equal(pthread_create(&thread, NULL, count_in_entry, (void *)entry), 0);
    while (!atomic_load(&shared.stop)) {
        assert_ok(WHvTranslateGva(g.partition, 0, gva, flags, results, gpas));
        assert_true(results[0].ResultCode == WHvTranslateGvaResultSuccess && gpas[0] == gva);
        assert_ok(OwhpTranslateGvas(g.partition, 0, flags, gvas, 4, results, gpas));
        assert_true(results[3].ResultCode == WHvTranslateGvaResultSuccess && gpas[3] == gva);
    }
    pthread_join(thread, NULL);
    last = atomic_load(entry);
    assert_int_equal(last / COUNT_UNIT & 127, COUNTS & 127); /* not one count was undone */
    assert_ok(WHvTranslateGva(g.partition, 0, gva, flags, results, gpas));
    assert_int_equal(atomic_load(entry) & 0x60, 0x60);
    guest_end(&g);
}

/*
 * A map waits for a read by address that does not come to its end; a running processor does not wait. The read is stopped in the
 * middle: a page of its buffer is one that this process has to provide (userfaultfd).
 */
static struct {
    struct guest g;
    UINT8 *buffer, *other;
    atomic_bool mapped;
    _Atomic long mapper; /* its thread id */
} late;

static void *read_late(void *context)
{
    (void)context;
    return (void *)(intptr_t)WHvReadGpaRange(late.g.partition, 0, AT, controls, late.buffer, 2 * PAGE);
}

static void *map_late(void *context)
{
    (void)context;
    atomic_store(&late.mapper, syscall(SYS_gettid));
    HRESULT result = WHvMapGpaRange(late.g.partition, late.other, AT + PAGE, PAGE, RW);
    atomic_store(&late.mapped, true);
    return (void *)(intptr_t)result;
}

static void *count_on(void *context)
{
    (void)context;
    return (void *)(intptr_t)WHvRunVirtualProcessor(late.g.partition, 0, &late.g.exit, sizeof(late.g.exit));
}

/* It waits for somebody. */
static bool sleeps(long thread)
{
    char path[64], text[256] = "";

    snprintf(path, sizeof(path), "/proc/self/task/%ld/stat", thread);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    (void)!fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    const char *end = strrchr(text, ')');
    return end && end[1] == ' ' && end[2] == 'S';
}

/* The second page of the buffer is not there until the test provides it. -1: the host has no such thing. */
static int missing_page(UINT8 *page)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)page, PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

    if (fd < 0)
        return -1;
    assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
    assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &range), 0);
    return fd;
}

static void wait_for_fault(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    struct uffd_msg message;

    assert_int_equal(poll(&ready, 1, 60000), 1);
    assert_int_equal(read(fd, &message, sizeof(message)), sizeof(message));
    assert_int_equal(message.event, UFFD_EVENT_PAGEFAULT);
}

static UINT64 counter(void)
{
    return atomic_load((_Atomic UINT64 *)(void *)(late.g.ram + 0x3000));
}

/* The limit is there to end what hangs. */
static bool goes_on(void)
{
    const UINT64 from = counter();

    for (int i = 0; i < 20000; i++) {
        if (counter() - from > 100000)
            return true;
        usleep(1000);
    }
    return false;
}

static void readers_delay_no_processor(void **state)
{
    UINT8 *memory = pages(2);
    pthread_t runner, reader, mapper;
    void *result;

    (void)state;
    late.buffer = pages(2);
    late.other = pages(1);
    const int fd = missing_page(late.buffer + PAGE);
    if (fd < 0) {
        print_message("SKIPPED: userfaultfd: %s\n", strerror(errno));
        skip();
    }
    memset(memory, 0x11, 2 * PAGE);
    memset(late.other, 0x22, PAGE);
    guest_begin(&late.g, &(struct guest_options){0});
    guest_long_mode(&late.g, 0);
    guest_code(&late.g, 0x48, 0xff, 0x04, 0x25, 0x00, 0x30, 0x00, 0x00, 0xeb, 0xf6); /* again: inc qword [0x3000]; jmp again */
    assert_ok(WHvMapGpaRange(late.g.partition, memory, AT, 2 * PAGE, RW));
    assert_int_equal(pthread_create(&runner, NULL, count_on, NULL), 0);
    while (!counter())
        sched_yield();
    assert_int_equal(pthread_create(&reader, NULL, read_late, NULL), 0);
    wait_for_fault(fd);
    assert_int_equal(pthread_create(&mapper, NULL, map_late, NULL), 0);
    while (!atomic_load(&late.mapper) || !sleeps(atomic_load(&late.mapper)))
        sched_yield();
    const bool went_on = goes_on(), mapped = atomic_load(&late.mapped);

    struct uffdio_zeropage zero = {.range = {(uintptr_t)late.buffer + PAGE, PAGE}};
    assert_int_equal(ioctl(fd, UFFDIO_ZEROPAGE, &zero), 0);
    pthread_join(reader, &result);
    assert_hr((HRESULT)(intptr_t)result, S_OK);
    pthread_join(mapper, &result);
    assert_hr((HRESULT)(intptr_t)result, S_OK);
    assert_ok(WHvCancelRunVirtualProcessor(late.g.partition, 0, 0));
    pthread_join(runner, &result);
    assert_hr((HRESULT)(intptr_t)result, S_OK);
    assert_true(went_on);
    assert_false(mapped);
    for (unsigned i = 0; i < 2 * PAGE; i++)
        assert_int_equal(late.buffer[i], 0x11); /* as it was before the map */
    assert_reads(&late.g, AT + PAGE, 0x2222222222222222);
    close(fd);
    guest_end(&late.g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("GPA-4", "F 5, 2.4: the next access after a change", changes_of_the_mapping),
        CASE("GPA-5", "F 3: write by GPA, each time", dirty_each_time),
        CASE("GPA-6", "F 5, S: host memory and buffers that go", memory_that_goes),
        CASE("GPA-7", "F 5: processors and partitions that go", processors_and_partitions_that_go),
        CASE("GPA-8", "F 2.3: the caller may free", memory_that_is_freed),
        CASE("GPA-9", "H WHvDeletePartition", partitions_that_end),
        CASE("GPA-19", "F 2.3: a change that waits for a reader", readers_delay_no_processor),
        CASE("GVA-13", "F 4.7: accessed and dirty by compare-exchange", bits_by_exchange),
    };

    return cmocka_run_group_tests_name("access threads", tests, NULL, NULL);
}
