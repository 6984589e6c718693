/*
 * A program that makes a processor and a kernel work and prints a line for each kind of work. It is built statically and run
 * in a guest and on the host: both must print the same. Nothing it prints depends on time, addresses or order of processes.
 *
 *   usage: workload [SCALE]   SCALE times the work (1)
 */
#include <errno.h>
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned scale = 1;

static uint64_t hash(uint64_t h, const void *data, size_t size)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void report(const char *what, uint64_t value)
{
    printf("%-12s %016llx\n", what, (unsigned long long)value);
    fflush(stdout);
}

static void fail(const char *what)
{
    printf("%s failed: %s\n", what, strerror(errno));
    fflush(stdout);
    exit(1);
}

/* ---- floating point: x87, SSE2, whatever the C library picks for this processor ---- */

static void floating_point(void)
{
    uint64_t h = 14695981039346656037u;

    for (unsigned i = 1; i <= 20000 * scale; i++) {
        double x = (double)i / 37.0;
        double r[] = {sin(x),  exp(-x / 100),   log(x),  pow(x, 0.37),   atan2(x, 3.0),
                      cbrt(x), fma(x, x, -1.0), sqrt(x), tgamma(x / 999)};
        float f[] = {sinf((float)x), expf((float)-x / 100), powf((float)x, 1.5f), floorf((float)x)};
        h = hash(hash(h, r, sizeof(r)), f, sizeof(f));
    }
    report("double", h);
    for (unsigned i = 1; i <= 2000 * scale; i++) {
        long double x = (long double)i / 7.0L, r[] = {sinl(x), expl(-x / 50), logl(x), x / 3, sqrtl(x)};
        for (unsigned k = 0; k < sizeof(r) / sizeof(r[0]); k++)
            h = hash(h, &r[k], 10);
    }
    report("long double", h);
}

static void rounding(void)
{
    static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    uint64_t h = 1;

    for (unsigned m = 0; m < 4; m++) {
        fesetround(modes[m]);
        feclearexcept(FE_ALL_EXCEPT);
        for (volatile double x = 1e-320; x < 1e300; x = x * 1234.5 + 1e-300) {
            double r[] = {x / 3, rint(x), (double)(float)x, nearbyint(x / 7)};
            h = hash(h, r, sizeof(r));
        }
        int raised = fetestexcept(FE_ALL_EXCEPT);
        h = hash(h, &raised, sizeof(raised));
    }
    fesetround(FE_TONEAREST);
    report("rounding", h);
}

enum { ORDER = 96 };

static void matrices(void)
{
    static double a[ORDER][ORDER], b[ORDER][ORDER], c[ORDER][ORDER];
    uint64_t seed = 7;

    for (unsigned i = 0; i < ORDER * ORDER; i++) {
        a[i / ORDER][i % ORDER] = (double)(random_next(&seed) % 1000) / 8;
        b[i / ORDER][i % ORDER] = (double)(random_next(&seed) % 1000) / 16;
    }
    for (unsigned n = 0; n < scale; n++)
        for (unsigned i = 0; i < ORDER; i++)
            for (unsigned k = 0; k < ORDER; k++)
                for (unsigned j = 0; j < ORDER; j++)
                    c[i][j] += a[i][k] * b[k][j];
    report("matrices", hash(1, c, sizeof(c)));
}

/* ---- integers: sorting, a compressor of repetitions and its inverse ---- */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void sorting(void)
{
    size_t count = 50000 * (size_t)scale;
    uint64_t *v = malloc(count * sizeof(*v)), seed = 3;

    for (size_t i = 0; v && i < count; i++)
        v[i] = random_next(&seed) % 100000 * 0x9e3779b97f4a7c15u;
    if (!v)
        fail("malloc");
    qsort(v, count, sizeof(*v), by_value);
    report("sorting", hash(1, v, count * sizeof(*v)));
    free(v);
}

static size_t compress(const uint8_t *in, size_t size, uint8_t *out)
{
    static uint32_t last[65536];
    size_t used = 0;

    memset(last, 0xff, sizeof(last));
    for (size_t i = 0; i < size;) {
        uint32_t *slot = &last[i + 2 < size ? (in[i] * 2654435761u ^ in[i + 1] * 40503u ^ in[i + 2] * 97u) & 0xffff : 0];
        size_t from = *slot, length = 0;
        *slot = (uint32_t)i;
        while (from < i && i - from < 65536 && length < 255 && i + length < size && in[from + length] == in[i + length])
            length++;
        if (length < 5) {
            out[used++] = 0;
            out[used++] = in[i++];
            continue;
        }
        out[used++] = (uint8_t)length;
        out[used++] = (uint8_t)(i - from);
        out[used++] = (uint8_t)((i - from) >> 8);
        i += length;
    }
    return used;
}

static size_t expand(const uint8_t *in, size_t size, uint8_t *out)
{
    size_t used = 0;

    for (size_t i = 0; i < size;) {
        unsigned length = in[i];
        if (!length) {
            out[used++] = in[i + 1];
            i += 2;
            continue;
        }
        size_t distance = in[i + 1] | (size_t)in[i + 2] << 8;
        for (unsigned k = 0; k < length; k++, used++)
            out[used] = out[used - distance];
        i += 3;
    }
    return used;
}

static void compression(void)
{
    size_t size = 400000 * (size_t)scale;
    uint8_t *in = malloc(size), *out = malloc(2 * size + 16), *back = malloc(size + 300);
    uint64_t seed = 11;

    if (!in || !out || !back)
        fail("malloc");
    for (size_t i = 0; i < size; i++)
        in[i] = i > 1000 && random_next(&seed) % 8 ? in[i - 1 - random_next(&seed) % 4 * 100] : (uint8_t)(seed >> 40);
    size_t packed = compress(in, size, out);
    if (expand(out, packed, back) != size || memcmp(in, back, size) != 0)
        printf("compression: what came back is not what went in\n");
    report("compression", hash(packed, out, packed));
    free(in);
    free(out);
    free(back);
}

/* ---- the kernel: processes, threads, signals, memory, pipes ---- */

static uint64_t child_work(unsigned depth, uint64_t seed)
{
    uint64_t h = seed * 0x9e3779b97f4a7c15u, part;

    for (unsigned i = 0; i < 2 && depth > 0; i++) {
        int ends[2], status;
        if (pipe(ends) != 0)
            fail("pipe");
        pid_t child = fork();
        if (child < 0)
            fail("fork");
        if (child == 0) {
            part = child_work(depth - 1, seed * 2 + i);
            _exit(write(ends[1], &part, sizeof(part)) == sizeof(part) ? (int)(part & 63) : 64);
        }
        close(ends[1]);
        if (read(ends[0], &part, sizeof(part)) != sizeof(part))
            fail("read");
        close(ends[0]);
        if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != (int)(part & 63))
            fail("waitpid");
        h = hash(h, &part, sizeof(part));
    }
    return h;
}

static void fork_storm(void)
{
    uint64_t h = 0;

    for (unsigned i = 0; i < scale; i++)
        h ^= child_work(6, i + 1);
    report("fork storm", h);
}

static _Atomic uint64_t shared_sum;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t locked_sum;

static void *thread_work(void *argument)
{
    uint64_t seed = (uintptr_t)argument;

    for (unsigned i = 0; i < 20000 * scale; i++) {
        uint64_t value = random_next(&seed);
        atomic_fetch_add(&shared_sum, value);
        if (i % 16 == 0) {
            pthread_mutex_lock(&mutex);
            locked_sum += value;
            pthread_mutex_unlock(&mutex);
        }
    }
    return NULL;
}

static void threads(void)
{
    pthread_t thread[8];

    for (uintptr_t i = 0; i < 8; i++)
        if ((errno = pthread_create(&thread[i], NULL, thread_work, (void *)(i + 1))) != 0)
            fail("pthread_create");
    for (unsigned i = 0; i < 8; i++)
        pthread_join(thread[i], NULL);
    report("threads", shared_sum ^ locked_sum << 1);
}

static sigjmp_buf after_fault;
static volatile uint64_t faults;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    faults += (uint64_t)number;
    siglongjmp(after_fault, 1);
}

/* Pages that come, change their protection, fault and go; division by zero; an illegal instruction. */
static void fault_storm(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    size_t page = 4096;
    volatile uint64_t h = 1;

    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
    sigaction(SIGILL, &action, NULL);
    for (volatile unsigned i = 0; i < 500 * scale; i++) {
        volatile uint8_t *p = mmap(NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        volatile int zero = 0;
        if (p == MAP_FAILED)
            fail("mmap");
        p[3 * page] = (uint8_t)i;
        mprotect((void *)(p + 3 * page), page, PROT_READ);
        if (sigsetjmp(after_fault, 1) == 0)
            p[3 * page] = 99;
        if (sigsetjmp(after_fault, 1) == 0)
            faults += (uint64_t)(100 / zero);
        if (sigsetjmp(after_fault, 1) == 0)
            __asm__ volatile("ud2");
        mprotect((void *)(p + 3 * page), page, PROT_READ | PROT_WRITE);
        for (unsigned k = 0; k < 8; k++)
            h = h * 31 + p[k * page];
        munmap((void *)p, 8 * page);
    }
    report("faults", h + faults * 1000003);
}

static void sockets(void)
{
    int ends[2];
    uint8_t block[5000];
    uint64_t seed = 5, h = 1;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        fail("socketpair");
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    for (unsigned i = 0; i < 200 * scale; i++) {
        if (child == 0) {
            for (size_t k = 0; k < sizeof(block); k++)
                block[k] = (uint8_t)random_next(&seed);
            for (size_t done = 0; done < sizeof(block);) {
                ssize_t n = write(ends[1], block + done, sizeof(block) - done);
                if (n <= 0)
                    _exit(1);
                done += (size_t)n;
            }
            continue;
        }
        for (size_t done = 0; done < sizeof(block);) {
            ssize_t n = read(ends[0], block + done, sizeof(block) - done);
            if (n <= 0)
                fail("read");
            done += (size_t)n;
        }
        h = hash(h, block, sizeof(block));
    }
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    report("sockets", h);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        scale = (unsigned)strtoul(argv[1], NULL, 10);
    floating_point();
    rounding();
    matrices();
    sorting();
    compression();
    fork_storm();
    threads();
    fault_storm();
    sockets();
    return 0;
}
