/*
 * Host pages locked in memory. Each page's pins are counted here, for the kernel does not nest locks: only the last one's end
 * unlocks. It is asked for each new pin, though: what was pinned at an address may have been released since, and its lock with it.
 */
#include "mem/host_pins.h"

#include "mem/extent_tree.h"
#include "mem/gpa_space_state.h"
#include "util/last_error.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Start and target: host address; attributes: number of pins, at least 1. Under `lock`.
 * Process-wide because locked memory is. */
static struct extent_tree pins;

static void set_count(const struct extent *piece, uint32_t count)
{
    if (count)
        extent_tree_set(&pins,
                        &(struct extent){piece->start, piece->size, piece->start, 0, count});
    else
        extent_tree_clear(&pins, piece->start, piece->size);
}

static void unlock_pages(uint64_t address, uint64_t size)
{
    munlock((void *)(uintptr_t)address, size); /* fails where memory is gone already: fine */
}

/* Unlock again the pages before `end` that nobody had pinned. */
static void undo(uint64_t address, uint64_t end)
{
    struct extent piece;
    for (; address < end; address += piece.size) {
        piece = extent_tree_piece(&pins, address, end);
        if (piece.attributes == 0)
            unlock_pages(piece.start, piece.size);
    }
}

static enum status explain(uint64_t address, uint64_t size, int error)
{
    struct rlimit limit = {0};
    uint64_t good = gpa_probe_host((uint8_t *)(uintptr_t)address, size, false);
    if (good < size)
        return fail(STATUS_ACCESS_DENIED,
                    "pin: the host memory at 0x%" PRIx64 " is missing or protected",
                    address + good);
    getrlimit(RLIMIT_MEMLOCK, &limit);
    return fail(STATUS_NO_MEMORY,
                "pin: the host does not lock 0x%" PRIx64 " bytes at 0x%" PRIx64
                ": %s (limit of locked memory, RLIMIT_MEMLOCK: %llu bytes)",
                size, address, strerror(error), (unsigned long long)limit.rlim_cur);
}

/* Lock the pages; *pieces is the number of changes to come. */
static enum status lock_all(uint64_t address, uint64_t size, size_t *pieces)
{
    struct extent piece;
    for (uint64_t at = address, end = address + size; at < end; at += piece.size, ++*pieces) {
        piece = extent_tree_piece(&pins, at, end);
        if (mlock((void *)(uintptr_t)at, piece.size) != 0) {
            enum status status = explain(at, piece.size, errno);
            undo(address, at + piece.size); /* a failed mlock may have locked a part */
            return status;
        }
    }
    return STATUS_OK;
}

enum status host_pins_add(uint64_t address, uint64_t size)
{
    struct extent piece;
    size_t pieces = 0;
    uint64_t end = address + size;

    pthread_mutex_lock(&lock);
    enum status status = lock_all(address, size, &pieces);
    if (status == STATUS_OK && !extent_tree_reserve(&pins, pieces)) {
        undo(address, end);
        status = fail(STATUS_NO_MEMORY, "pin: no memory to record the pins");
    }
    for (uint64_t at = address; status == STATUS_OK && at < end; at += piece.size) {
        piece = extent_tree_piece(&pins, at, end);
        set_count(&piece, piece.attributes + 1);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

void host_pins_drop(uint64_t address, uint64_t size)
{
    struct extent piece;
    pthread_mutex_lock(&lock);
    for (uint64_t at = address, end = address + size; at < end; at += piece.size) {
        piece = extent_tree_piece(&pins, at, end);
        if (piece.attributes == 0 || !extent_tree_reserve(&pins, 1))
            continue;
        set_count(&piece, piece.attributes - 1);
        if (piece.attributes == 1)
            unlock_pages(piece.start, piece.size);
    }
    extent_tree_trim(&pins);
    pthread_mutex_unlock(&lock);
}
