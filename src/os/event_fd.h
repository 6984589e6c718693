/*
 * Events of the client: descriptors of eventfd(2), kept as descriptors of our own, so that what the client closes stays usable.
 * Any thread.
 */
#ifndef OWHP_OS_EVENT_FD_H
#define OWHP_OS_EVENT_FD_H

#include "util/compiler.h"
#include "util/status.h"

/* A descriptor of the same event, to be closed with close(). STATUS_BAD_HANDLE: not an eventfd; STATUS_NO_MEMORY: no
 * descriptor is left. */
must_check enum status event_fd_keep(int fd, int *own);

/* Adds 1, if there is room: a full counter is signaled already. Does not block. */
void event_fd_signal(int own);

#endif
