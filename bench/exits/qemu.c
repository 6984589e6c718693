/*
 * The exit benchmarks in QEMU's translator (TCG): a device's register, reached without leaving the process.
 *
 * The guest, a few bytes of 32-bit code behind a multiboot header, accesses the register TICK times, writes a character to the
 * debug console, and so on for ever. The device is the I/O APIC (index register), the port 80h.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exits.h"

enum { TICK = 1024, LOAD_AT = 0x100000, HEADER = 32 };

static pid_t child;
static int console = -1;

static const struct {
    uint8_t bytes[2];
    uint8_t size;
} accesses[LOOP_COUNT] = {
    [LOOP_LOAD] = {{0x8b, 0x03}, 2},  /* mov eax, [ebx] */
    [LOOP_STORE] = {{0x89, 0x03}, 2}, /* mov [ebx], eax */
    [LOOP_IN] = {{0xed}, 1},          /* in eax, dx */
    [LOOP_OUT] = {{0xef}, 1},         /* out dx, eax */
};

static size_t make_image(enum guest_loop loop, uint8_t image[128])
{
    static const uint8_t begin[] = {0xbb, 0, 0, 0xc0, 0xfe, 0x66, 0xba, 0x80, 0}; /* mov ebx, 0xfec00000; mov dx, 80h */
    static const uint8_t more[] = {0xb9, TICK & 255, TICK >> 8, 0, 0};            /* outer: mov ecx, TICK */
    const uint8_t size = accesses[loop].size;
    const uint8_t end[] = {0x49, 0x75, (uint8_t)(-3 - size),         /* dec ecx; jnz inner */
                           0xb0, 'x', 0xe6, 0xe9,                    /* mov al, 'x'; out E9h, al */
                           0xeb, (uint8_t)(-14 - size)};             /* jmp outer */
    const uint32_t flags = 0x10000, header[HEADER / 4] = {
        0x1badb002, flags, 0u - 0x1badb002 - flags, LOAD_AT, LOAD_AT, LOAD_AT + 128, LOAD_AT + 4096, LOAD_AT + HEADER};
    size_t n = HEADER;

    memset(image, 0x90, 128);
    memcpy(image, header, sizeof(header));
    memcpy(image + n, begin, sizeof(begin)), n += sizeof(begin);
    memcpy(image + n, more, sizeof(more)), n += sizeof(more);
    memcpy(image + n, accesses[loop].bytes, size), n += size;
    memcpy(image + n, end, sizeof(end));
    return 128;
}

static void execute(const char *path, int output)
{
    const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);

    dup2(nothing, 0);
    dup2(output, 1);
    dup2(nothing, 2);
    execlp("qemu-system-x86_64", "qemu-system-x86_64", "-kernel", path, "-accel", "tcg", "-display", "none", "-serial", "none",
           "-monitor", "none", "-nodefaults", "-debugcon", "stdio", "-m", "64", (char *)NULL);
    _exit(127);
}

static bool tick(void)
{
    char c;

    return read(console, &c, 1) == 1;
}

/* The time now, from when on no tick waits in the pipe. */
static double drained_at(void)
{
    int waiting = 0;
    double at = now_ns();

    while (ioctl(console, FIONREAD, &waiting) == 0 && waiting > 0) {
        if (!tick())
            break;
        at = now_ns();
    }
    return at;
}

static void stop(void)
{
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        close(console);
    }
    child = 0;
}

/* A QEMU that has begun to tick. */
static bool start(enum guest_loop loop)
{
    char path[] = "/tmp/exits-XXXXXX";
    uint8_t image[128];
    int file = mkstemp(path), ends[2];
    bool works = file >= 0 && write(file, image, make_image(loop, image)) == 128 && pipe2(ends, O_CLOEXEC) == 0;

    if (works) {
        child = fork();
        if (child == 0)
            execute(path, ends[1]);
        close(ends[1]);
        console = ends[0];
        works = child > 0 && tick();
    }
    close(file);
    unlink(path);
    return works;
}

static double run(const struct bench *bench, unsigned count)
{
    static const struct bench *running;
    const unsigned ticks = count / TICK + 1;

    if (running != bench) {
        stop();
        running = bench;
        if (!start(bench->loop)) {
            fprintf(stderr, "SKIPPED: qemu-system-x86_64 does not run\n");
            stop();
        } else {
            atexit(stop);
        }
    }
    if (child <= 0)
        return -1;
    double ns = drained_at();
    for (unsigned i = 0; i < ticks; i++)
        if (!tick())
            return -1;
    ns = now_ns() - ns;
    return ns / ((double)ticks * TICK) * count;
}

const struct bench qemu_benches[] = {
    {"qemu tcg load, device inside", LOOP_LOAD, run}, {"qemu tcg store, device inside", LOOP_STORE, run},
    {"qemu tcg in, device inside", LOOP_IN, run},     {"qemu tcg out, device inside", LOOP_OUT, run},
    {0},
};
