#include "other_process.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAP_MEMORY, UNMAP, PROTECT, STORE, LOAD, FILL };

struct order {
    UINT64 what, at, size, value;
};

/* ---- over there ---- */

static int file_for(UINT64 kind, size_t size)
{
    char name[] = "/tmp/openwhp-test-XXXXXX";
    int fd = kind == OTHER_MEMFD || kind == OTHER_MEMFD_CLOSED ? memfd_create("other", 0) : mkstemp(name);

    if (kind == OTHER_FILE || kind == OTHER_FILE_PRIVATE)
        unlink(name);
    return fd >= 0 && ftruncate(fd, (off_t)size) == 0 ? fd : -1;
}

static void fill_file(int fd, size_t size)
{
    char page[4096];

    memset(page, 0x5a, sizeof(page));
    for (size_t at = 0; at < size; at += sizeof(page))
        if (pwrite(fd, page, sizeof(page), (off_t)at) != sizeof(page))
            _exit(4);
}

static UINT64 map_memory(const struct order *o)
{
    bool has_file = o->value != OTHER_PRIVATE && o->value != OTHER_ANONYMOUS;
    int flags = o->value == OTHER_PRIVATE || o->value == OTHER_FILE_PRIVATE ? MAP_PRIVATE : MAP_SHARED;
    int fd = has_file ? file_for(o->value, o->size) : -1;

    if (o->value == OTHER_FILE_PRIVATE)
        fill_file(fd, o->size);
    flags |= (has_file ? 0 : MAP_ANONYMOUS) | (o->at ? MAP_FIXED : 0);
    void *p = mmap((void *)o->at, o->size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (fd >= 0 && o->value != OTHER_MEMFD)
        close(fd);
    return p == MAP_FAILED ? 0 : (UINT64)p;
}

static UINT64 obey(const struct order *o, int from)
{
    char *at = (char *)o->at;
    UINT64 value;

    switch (o->what) {
    case MAP_MEMORY:
        return map_memory(o);
    case UNMAP:
        return (UINT64)munmap(at, o->size);
    case PROTECT:
        return (UINT64)mprotect(at, o->size, (int)o->value);
    case STORE:
        memcpy(at, &o->value, 8);
        return 0;
    case LOAD:
        memcpy(&value, at, 8);
        return value;
    default:
        for (size_t done = 0; done < o->size;) {
            ssize_t n = read(from, at + done, o->size - done);
            if (n <= 0)
                _exit(3);
            done += (size_t)n;
        }
        return 0;
    }
}

static void serve(int from, int to)
{
    struct order o;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (read(from, &o, sizeof(o)) == sizeof(o)) {
        UINT64 answer = obey(&o, from);
        if (write(to, &answer, sizeof(answer)) != sizeof(answer))
            break;
    }
    _exit(0);
}

/* ---- here ---- */

void other_begin(struct other *other)
{
    int to[2], from[2];

    assert_int_equal(pipe(to), 0);
    assert_int_equal(pipe(from), 0);
    other->id = fork();
    assert_true(other->id >= 0);
    if (other->id == 0) {
        close(to[1]);
        close(from[0]);
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        serve(to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    other->to = to[1];
    other->from = from[0];
}

void other_kill(struct other *other)
{
    if (other->id <= 0)
        return;
    kill(other->id, SIGKILL);
    waitpid(other->id, NULL, 0);
    other->id = 0;
}

void other_end(struct other *other)
{
    other_kill(other);
    close(other->to);
    close(other->from);
}

static UINT64 order(struct other *other, UINT64 what, UINT64 at, UINT64 size, UINT64 value)
{
    const struct order o = {what, at, size, value};
    UINT64 answer = 0;

    assert_int_equal(write(other->to, &o, sizeof(o)), sizeof(o));
    assert_int_equal(read(other->from, &answer, sizeof(answer)), sizeof(answer));
    return answer;
}

UINT64 other_map(struct other *other, enum other_memory kind, UINT64 at, UINT64 size)
{
    UINT64 address = order(other, MAP_MEMORY, at, size, kind);

    assert_true(address != 0);
    return address;
}

void other_unmap(struct other *other, UINT64 at, UINT64 size)
{
    assert_int_equal(order(other, UNMAP, at, size, 0), 0);
}

void other_protect(struct other *other, UINT64 at, UINT64 size, int protection)
{
    assert_int_equal(order(other, PROTECT, at, size, (UINT64)protection), 0);
}

void other_store(struct other *other, UINT64 at, UINT64 value)
{
    order(other, STORE, at, 8, value);
}

UINT64 other_load(struct other *other, UINT64 at)
{
    return order(other, LOAD, at, 8, 0);
}

void other_fill(struct other *other, UINT64 at, const void *bytes, size_t size)
{
    const struct order o = {FILL, at, size, 0};
    UINT64 answer;

    assert_int_equal(write(other->to, &o, sizeof(o)), sizeof(o));
    assert_int_equal(write(other->to, bytes, size), size);
    assert_int_equal(read(other->from, &answer, sizeof(answer)), sizeof(answer));
}
