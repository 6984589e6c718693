/*
 * Which files are behind a range of addresses, asked of the kernel for this range only (PROCMAP_QUERY, Linux 6.11, proc_pid_maps(5)).
 * Older kernels have only the list of all areas.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "os/cancel.h"
#include "os/host_data.h"

/* struct procmap_query of linux/fs.h, which our headers may be too old for. */
struct query {
    uint64_t size, flags, address;
    uint64_t start, end, rights, page_size, offset, inode; /* answers */
    uint32_t major, minor;
    uint32_t name_size, build_id_size;
    uint64_t name, build_id;
};
#define QUERY _IOWR('f', 17, struct query)
enum { QUERY_SHARED = 8, QUERY_OR_NEXT = 0x10, QUERY_OF_FILE = 0x20 };

/* False: that kernel cannot be asked. */
static bool ask(int maps, uint64_t start, uint64_t end, host_file_visitor *visit, void *context)
{
    while (start < end) {
        struct query q = {.size = sizeof(q), .flags = QUERY_OR_NEXT | QUERY_OF_FILE, .address = start};
        if (ioctl(maps, QUERY, &q) != 0)
            return errno == ENOENT; /* none from there on */
        const uint64_t from = q.start > start ? q.start : start, to = q.end < end ? q.end : end;
        if (from >= to)
            return true;
        visit(context, &(struct host_file_piece){from, makedev(q.major, q.minor), q.inode, q.offset + (from - q.start), to - from,
                                                 !(q.rights & QUERY_SHARED)});
        start = to;
    }
    return true;
}

static bool read_list(const void *address, uint64_t size, host_file_visitor *visit, void *context)
{
    struct host_data *data = host_data_open();

    if (!data)
        return false;
    host_data_each_file(data, address, size, visit, context);
    host_data_close(data);
    return true;
}

bool host_files_each(const void *address, uint64_t size, host_file_visitor *visit, void *context)
{
    NO_CANCEL;
    const uint64_t start = (uintptr_t)address;
    int maps = open("/proc/thread-self/maps", O_RDONLY | O_CLOEXEC);
    bool told = maps >= 0 && ask(maps, start, start + size, visit, context);

    if (maps >= 0)
        close(maps);
    return told || read_list(address, size, visit, context);
}
