/*
 * The disk: a legacy virtio block device on PCI (virtio 1.1, sections 4.1.4.8 and 5.2), which SeaBIOS and
 * Linux both have a driver for. Registers in one I/O range of 64 bytes, interrupt by INTA.
 *
 * Requests are carried out at once, on the thread of the processor that rang the bell.
 */
#ifndef OPENWHP_TOOL_VIRTIO_BLK_H
#define OPENWHP_TOOL_VIRTIO_BLK_H

#include <stdint.h>

#include "disk_image.h"
#include "irq.h"
#include "pci.h"
#include "virtqueue.h"

struct virtio_blk {
    struct pci_function function;
    struct virtqueue queue;
    struct disk_image *image;
    struct irq_source irq;
    uint32_t guest_features;
    uint16_t queue_select;
    uint8_t status, interrupt_status;
    struct virtqueue_request request; /* the one being carried out; too big for a stack */
};

void virtio_blk_init(struct virtio_blk *disk, struct disk_image *image, const struct guest_memory *memory,
                     struct irq_router *router);

/* Puts the disk into a slot; port 0 leaves its place to the guest's firmware. */
void virtio_blk_plug(struct virtio_blk *disk, struct pci_bus *pci, unsigned slot, uint16_t port);

#endif
