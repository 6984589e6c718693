/* A split virtqueue; see virtqueue.h. */
#include "virtqueue.h"

#include <stdatomic.h>
#include <stddef.h>

#include "bytes.h"

enum {
    DESCRIPTOR_BYTES = 16, /* address 8, length 4, flags 2, next 2 */
    DESCRIPTOR_NEXT = 1,
    DESCRIPTOR_WRITE = 2,
    DESCRIPTOR_INDIRECT = 4, /* not offered */
    AVAILABLE_OFFSET = VIRTQUEUE_SIZE * DESCRIPTOR_BYTES,
    AVAILABLE_BYTES = 4 + 2 * VIRTQUEUE_SIZE + 2,
    AVAILABLE_NO_INTERRUPT = 1,
    USED_OFFSET = (AVAILABLE_OFFSET + AVAILABLE_BYTES + 4095) & ~4095,
    USED_BYTES = 4 + 8 * VIRTQUEUE_SIZE + 2,
};

void virtqueue_reset(struct virtqueue *queue)
{
    queue->gpa = 0;
    queue->next_available = 0;
    queue->broken = false;
}

static uint8_t *rings(const struct virtqueue *queue)
{
    if (queue->gpa == 0 || queue->broken)
        return NULL;
    return guest_memory_at(queue->memory, queue->gpa, USED_OFFSET + USED_BYTES, true);
}

static bool add_piece(struct virtqueue_request *request, const struct guest_memory *memory, uint64_t gpa,
                      uint32_t length, bool write)
{
    void *host = guest_memory_at(memory, gpa, length, write);
    if (host == NULL || (!write && request->write_count > 0)) /* readable pieces come first */
        return false;
    struct iovec piece = {.iov_base = host, .iov_len = length};
    if (write) {
        request->write_gpa[request->write_count] = gpa;
        request->write[request->write_count++] = piece;
    } else {
        request->read[request->read_count++] = piece;
    }
    return true;
}

/* Follows the chain; at most VIRTQUEUE_SIZE pieces, so that a loop ends. */
static bool collect(struct virtqueue_request *request, const struct guest_memory *memory,
                    const uint8_t *table)
{
    unsigned index = request->head;
    for (unsigned pieces = 0; pieces < VIRTQUEUE_SIZE; pieces++) {
        uint8_t descriptor[DESCRIPTOR_BYTES];
        if (index >= VIRTQUEUE_SIZE)
            return false;
        memcpy(descriptor, table + index * DESCRIPTOR_BYTES, sizeof descriptor);
        uint16_t flags = get16(descriptor + 12);
        if ((flags & DESCRIPTOR_INDIRECT) ||
            !add_piece(request, memory, get64(descriptor), get32(descriptor + 8), flags & DESCRIPTOR_WRITE))
            return false;
        if (!(flags & DESCRIPTOR_NEXT))
            return true;
        index = get16(descriptor + 14);
    }
    return false;
}

bool virtqueue_take(struct virtqueue *queue, struct virtqueue_request *request)
{
    const uint8_t *at = rings(queue);
    if (at == NULL)
        return false;
    const uint8_t *available = at + AVAILABLE_OFFSET;
    uint16_t index = get16(available + 2);
    if (index == queue->next_available)
        return false;
    atomic_thread_fence(memory_order_acquire); /* the entry was written before the index */
    request->head = get16(available + 4 + 2 * (queue->next_available % VIRTQUEUE_SIZE));
    request->read_count = request->write_count = 0;
    queue->broken = (uint16_t)(index - queue->next_available) > VIRTQUEUE_SIZE ||
                    !collect(request, queue->memory, at);
    queue->next_available++;
    return !queue->broken;
}

bool virtqueue_give(struct virtqueue *queue, const struct virtqueue_request *request, uint32_t written)
{
    uint8_t *at = rings(queue);
    if (at == NULL)
        return false;
    uint8_t *used = at + USED_OFFSET;
    uint16_t index = get16(used + 2);
    uint8_t *entry = used + 4 + 8 * (index % VIRTQUEUE_SIZE);
    put32(entry, request->head);
    put32(entry + 4, written);
    atomic_thread_fence(memory_order_release); /* the entry is complete before the index says so */
    put16(used + 2, (uint16_t)(index + 1));
    guest_memory_stored(queue->memory, queue->gpa + USED_OFFSET, USED_BYTES);
    atomic_thread_fence(memory_order_seq_cst);
    return !(get16(at + AVAILABLE_OFFSET) & AVAILABLE_NO_INTERRUPT);
}
