/*
 * Another process: a name for it that outlives it, and its memory.
 *
 * A process is named by a pidfd, so that a number that was given to somebody else is never taken for it. Its memory is
 * reached in two ways: what it maps shared is mapped here too (os/process_view.h), everything is copied by
 * process_vm_readv and process_vm_writev, which obey the protections the process has set and need the rights of a tracer.
 *
 * Reference counted; all functions: any thread.
 */
#ifndef OWHP_OS_PROCESS_H
#define OWHP_OS_PROCESS_H

#include "util/compiler.h"
#include "util/status.h"
#include "util/types.h"

#include <sys/types.h>

struct process;

/*
 * A reference to the process with this id, or to the one a pidfd names (the descriptor stays the caller's). *out may be
 * the one the caller has already: a process has one struct.
 * STATUS_INVALID_ARGUMENT  id 0; not a pidfd
 * STATUS_NOT_FOUND         no such process, or it has ended
 * STATUS_ACCESS_DENIED     its memory may not be read and written by this process
 * STATUS_NO_MEMORY
 */
must_check enum status process_open(uint32_t id, struct process **out);
must_check enum status process_open_pidfd(int pidfd, struct process **out);

/* Watch for the end of the process: afterwards it counts as ended without being asked. Counted. False: the host gives no
 * thread or descriptor. */
must_check bool process_watch(struct process *process);
void process_unwatch(struct process *process);

void process_get(struct process *process);
void process_put(struct process *process);

uint32_t process_id(const struct process *process);
bool process_is_self(const struct process *process);

/* Have all its threads ended (though perhaps not been waited for)? */
bool process_has_ended(const struct process *process);

/* Copy; returns the bytes that were copied, from the first on: less than size where its memory is missing or protected, or
 * the process has ended. `local` is memory of the library, not a caller's pointer. */
must_check uint64_t process_read(struct process *process, uint64_t address, void *local, uint64_t size);
must_check uint64_t process_write(struct process *process, uint64_t address, const void *local, uint64_t size);

/* Between these nobody else who uses them stores: for a read-modify-write. */
void process_lock_writes(struct process *process);
void process_unlock_writes(struct process *process);

/* A run of addresses that the process maps alike. */
struct process_area {
    uint64_t start, end; /* bytes, half-open */
    bool readable, writable, executable, is_shared;
    uint64_t offset;     /* in the file */
    uint64_t device, inode; /* of the file; inode 0: none */
};

/* Calls visit with each area, in ascending order, until it answers false. False: the areas cannot be had (as of a process
 * that has ended). */
must_check bool process_each_area(struct process *process, bool (*visit)(void *context, const struct process_area *area),
                                  void *context);

/* How many bytes from the address on the process may read, or write, by its own mappings; at most size. */
uint64_t process_allows(struct process *process, uint64_t address, uint64_t size, bool write);

/* How many bytes of [address, address + size) are in memory; 0 if that cannot be had. */
uint64_t process_resident(struct process *process, uint64_t address, uint64_t size);

/* A descriptor for the file of a shared area, writable if the area is; -1: cannot be had. */
must_check int process_open_file(struct process *process, const struct process_area *area);

#endif
