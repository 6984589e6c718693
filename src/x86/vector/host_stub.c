/*
 * Host stubs: the memory they are in and the table that finds them.
 *
 * Memory comes in areas: one memory file, mapped twice. Stubs are appended to the current area,
 * each with its tag and its length in the two bytes before it. The table is open addressing over
 * pointers into the executable view, so what is looked up is the code itself. Readers load a
 * pointer with acquire order and compare bytes; writers hold the lock, write the bytes, then
 * publish the pointer. Nothing is ever changed or freed.
 *
 * The file is shared with children after fork(), the table is not: parent and child would append to
 * the same place. An area therefore belongs to the process that made it, and a child starts its
 * own; what it inherited stays executable.
 */
#include "x86/vector/host_stub.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define AREA_SIZE  ((size_t)4 << 20)
#define TABLE_SIZE 262144u
/*
 * All instructions of the families that use stubs, in all forms and with all immediates, make
 * 28,300 SSE and MMX stubs, 570 for x87 and 76,000 for VEX (tests/insn/simd_test.c and
 * simd_vex_test.c ask for every one), so no guest gets to this bound.
 */
#define HOST_STUB_LIMIT 196608u
#define STUB_ALIGN      16u

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u
#endif

struct area {
    uint8_t *writable;
    const uint8_t *executable;
    size_t used;
    pid_t owner;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct area area;                         /* under lock */
static unsigned stub_count;                      /* under lock */
static const uint8_t *_Atomic table[TABLE_SIZE]; /* written under lock */

void stub_byte(struct stub_code *code, unsigned byte)
{
    if (code->size == HOST_STUB_MAX) {
        code->overflow = true;
        return;
    }
    code->bytes[code->size++] = (uint8_t)byte;
}

void stub_bytes(struct stub_code *code, const void *bytes, size_t size)
{
    const uint8_t *from = bytes;
    for (size_t i = 0; i < size; i++)
        stub_byte(code, from[i]);
}

void stub_modrm_memory(struct stub_code *code, unsigned reg, unsigned base, uint32_t displacement)
{
    unsigned low = (reg & 7) << 3 | (base & 7);
    if (displacement == 0) {
        stub_byte(code, low);
        return;
    }
    stub_byte(code, 0x80 | low);
    stub_bytes(code, &displacement, sizeof(displacement));
}

static uint32_t hash_of(const struct stub_code *code)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (unsigned i = 0; i < code->size; i++)
        hash = (hash ^ code->bytes[i]) * 16777619u;
    return hash ^ hash >> 16;
}

/* The table slot that holds this code, or the empty one where it belongs. */
static const uint8_t *_Atomic *slot_of(const struct stub_code *code, const uint8_t **found)
{
    for (uint32_t i = hash_of(code);; i++) {
        const uint8_t *_Atomic *slot = &table[i % TABLE_SIZE];
        *found = atomic_load_explicit(slot, memory_order_acquire);
        if (!*found || ((*found)[-1] == code->size && !memcmp(*found, code->bytes, code->size)))
            return slot;
    }
}

static bool area_create(void)
{
    int fd = memfd_create("openwhp-stubs", MFD_CLOEXEC | MFD_EXEC);
    if (fd < 0) /* kernels before 6.3 do not know MFD_EXEC and need none */
        fd = memfd_create("openwhp-stubs", MFD_CLOEXEC);
    if (fd < 0)
        return false;
    void *writable = MAP_FAILED, *executable = MAP_FAILED;
    if (ftruncate(fd, (off_t)AREA_SIZE) == 0) {
        writable = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        executable = mmap(NULL, AREA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    close(fd);
    if (writable == MAP_FAILED || executable == MAP_FAILED) {
        if (writable != MAP_FAILED)
            munmap(writable, AREA_SIZE);
        if (executable != MAP_FAILED)
            munmap(executable, AREA_SIZE);
        return false;
    }
    area = (struct area){.writable = writable, .executable = executable, .owner = getpid()};
    return true;
}

/* Room for a stub in an area of this process. Under the lock. */
static bool area_ready(size_t size)
{
    if (area.writable && area.owner == getpid() && area.used + size <= AREA_SIZE)
        return true;
    return area_create();
}

static const uint8_t *append(const struct stub_code *code)
{
    if (stub_count >= HOST_STUB_LIMIT || !area_ready(1 + STUB_ALIGN + code->size))
        return NULL;
    size_t start = (area.used + 1 + STUB_ALIGN) &
                   ~(size_t)(STUB_ALIGN - 1); /* leaves two bytes before it free */
    area.writable[start - 2] = code->tag;
    area.writable[start - 1] = (uint8_t)code->size;
    memcpy(area.writable + start, code->bytes, code->size);
    area.used = start + code->size;
    stub_count++;
    return area.executable + start;
}

const void *host_stub_get(const struct stub_code *code)
{
    const uint8_t *found;
    if (code->overflow)
        return NULL;
    (void)slot_of(code, &found);
    if (found)
        return found;
    pthread_mutex_lock(&lock);
    const uint8_t *_Atomic *slot = slot_of(code, &found);
    if (!found) {
        found = append(code);
        if (found)
            atomic_store_explicit(slot, found, memory_order_release);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

bool host_stub_available(void)
{
    pthread_mutex_lock(&lock);
    bool ready = area_ready(2 * STUB_ALIGN);
    pthread_mutex_unlock(&lock);
    return ready;
}
