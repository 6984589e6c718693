/*
 * Where in this process's memory there is something: for copying memory without touching, and so bringing into being, what
 * was never used.
 */
#ifndef OWHP_OS_HOST_DATA_H
#define OWHP_OS_HOST_DATA_H

#include "util/compiler.h"
#include "util/types.h"

/* What the process maps at the moment it was opened. One thread. */
struct host_data;

/* NULL: no memory, or the kernel does not tell; the others take that. */
struct host_data *host_data_open(void);
void host_data_close(struct host_data *data);

/* A run of whole pages [start, end) that may hold something else than zeros. */
typedef void host_data_visitor(void *context, uintptr_t start, uintptr_t end);

/*
 * Calls visit with such runs, ascending, that together hold everything in [address, address + size), page aligned, that is
 * not zero at this moment. What is left out reads as zeros or is not there. Swapped-out memory counts as something. When the
 * kernel does not tell, all of the range is one run.
 */
void host_data_each(struct host_data *data, const void *address, uint64_t size, host_data_visitor *visit, void *context);

/* Calls visit with the runs of whole pages of the range, ascending, that are not there: nothing is mapped, or a shared mapping
 * reaches beyond its file's end. As far as is known: when the kernel does not tell, there are none. */
void host_data_each_missing(struct host_data *data, const void *address, uint64_t size, host_data_visitor *visit, void *context);

/*
 * Calls visit with the pieces of the range, ascending, that are a file's memory: shared with whoever maps the file (a memfd,
 * shared anonymous memory, a file), or private, which shows the file until it is written. Memory that is mapped twice is the same
 * piece of the same file.
 */
struct host_file_piece {
    uintptr_t address;
    uint64_t device, inode;
    uint64_t offset, size; /* bytes */
    bool is_private;
};
typedef void host_file_visitor(void *context, const struct host_file_piece *piece);
void host_data_each_file(const struct host_data *data, const void *address, uint64_t size, host_file_visitor *visit, void *context);

/* The same without a list, of what is mapped now. False: the kernel does not tell. */
must_check bool host_files_each(const void *address, uint64_t size, host_file_visitor *visit, void *context);

/* Can all of the range be stored to, as far as is known? False: perhaps not. */
bool host_data_is_writable(struct host_data *data, const void *address, uint64_t size);

#endif
