/*
 * One split virtqueue with the legacy layout (virtio 1.1, sections 2.6 and 2.6.2): descriptor table, available ring
 * and used ring follow each other in guest memory.
 *
 * Everything in it is the guest's and may be nonsense or change under our hands: each value is read once
 * and checked, and a queue that breaks the rules is broken until the driver resets the device.
 */
#ifndef OPENWHP_TOOL_VIRTQUEUE_H
#define OPENWHP_TOOL_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "guest_memory.h"

enum { VIRTQUEUE_SIZE = 128 };

struct virtqueue {
    const struct guest_memory *memory;
    uint64_t gpa; /* 0: the driver has not set it up */
    uint16_t next_available;
    bool broken;
};

/* A request: what the device reads, then what it writes, as host memory. */
struct virtqueue_request {
    uint16_t head;
    unsigned read_count, write_count;
    struct iovec read[VIRTQUEUE_SIZE], write[VIRTQUEUE_SIZE];
    uint64_t write_gpa[VIRTQUEUE_SIZE]; /* of each writable piece, for guest_memory_stored() */
};

void virtqueue_reset(struct virtqueue *queue);

/* Takes the next request; false when there is none or the queue is broken. */
bool virtqueue_take(struct virtqueue *queue, struct virtqueue_request *request);

/* Gives a request back with the number of bytes written; true when the driver wants an interrupt. */
bool virtqueue_give(struct virtqueue *queue, const struct virtqueue_request *request, uint32_t written);

#endif
