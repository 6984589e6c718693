#include "os/event_fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "util/last_error.h"

static bool is_event_fd(int fd)
{
    char path[64], name[64];
    snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
    ssize_t length = fd < 0 ? -1 : readlink(path, name, sizeof(name) - 1);

    if (length < 0)
        return false;
    name[length] = 0;
    return strcmp(name, "anon_inode:[eventfd]") == 0;
}

enum status event_fd_keep(int fd, int *own)
{
    if (!is_event_fd(fd))
        return fail(STATUS_BAD_HANDLE, "the event must be a descriptor of eventfd(2), %d is none", fd);
    *own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (*own < 0)
        return fail(STATUS_NO_MEMORY, "no descriptor for the event (%s)", strerror(errno));
    return STATUS_OK;
}

void event_fd_signal(int own)
{
    struct pollfd room = {.fd = own, .events = POLLOUT};
    const uint64_t one = 1;

    if (poll(&room, 1, 0) == 1 && (room.revents & POLLOUT))
        (void)!write(own, &one, sizeof(one));
}
