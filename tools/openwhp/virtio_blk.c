/* The virtio block device; see virtio_blk.h. */
#include "virtio_blk.h"

#include <stdio.h>
#include <string.h>

#include "bytes.h"

enum {
    /* Registers of the legacy interface (virtio 1.1, section 4.1.4.8). */
    HOST_FEATURES = 0,
    GUEST_FEATURES = 4,
    QUEUE_ADDRESS = 8,
    QUEUE_SIZE = 12,
    QUEUE_SELECT = 14,
    QUEUE_NOTIFY = 16,
    DEVICE_STATUS = 18,
    INTERRUPT_STATUS = 19,
    DEVICE_CONFIG = 20,
    IO_BYTES = 64,
    CONFIG_BYTES = 24,
    INTERRUPT_QUEUE = 1,
    FEATURE_SEG_MAX = 1 << 2,
    FEATURE_READ_ONLY = 1 << 5,
    FEATURE_BLOCK_SIZE = 1 << 6,
    FEATURE_FLUSH = 1 << 9,
    REQUEST_READ = 0,
    REQUEST_WRITE = 1,
    REQUEST_FLUSH = 4,
    REQUEST_IDENTIFY = 8,
    STATUS_OK = 0,
    STATUS_ERROR = 1,
    STATUS_UNSUPPORTED = 2,
    HEADER_BYTES = 16,
    IDENTITY_BYTES = 20,
};

static uint32_t host_features(const struct virtio_blk *disk)
{
    return FEATURE_SEG_MAX | FEATURE_BLOCK_SIZE | FEATURE_FLUSH |
           (disk->image->read_only ? FEATURE_READ_ONLY : 0);
}

/* Device configuration (section 5.2.4): capacity, longest segment, segments, geometry, block size. */
static void fill_config(const struct virtio_blk *disk, uint8_t config[CONFIG_BYTES])
{
    memset(config, 0, CONFIG_BYTES);
    put64(config, disk->image->sectors);
    put32(config + 12, VIRTQUEUE_SIZE - 2);
    put32(config + 20, SECTOR_BYTES);
}

static void update_irq(struct virtio_blk *disk)
{
    bool pending = disk->interrupt_status != 0;
    uint8_t *status = &disk->function.config[PCI_STATUS];
    *status = (uint8_t)(pending ? *status | PCI_STATUS_INTERRUPT : *status & ~PCI_STATUS_INTERRUPT);
    bool allowed = !(get16(disk->function.config + PCI_COMMAND) & PCI_COMMAND_NO_INTX);
    irq_set(&disk->irq, pending && allowed);
}

/* Takes bytes off the front of the readable pieces; false when there are too few. */
static bool take_front(struct virtqueue_request *request, uint8_t *to, size_t size)
{
    for (unsigned i = 0; i < request->read_count && size > 0; i++) {
        struct iovec *piece = &request->read[i];
        size_t part = piece->iov_len < size ? piece->iov_len : size;
        memcpy(to, piece->iov_base, part);
        piece->iov_base = (uint8_t *)piece->iov_base + part;
        piece->iov_len -= part;
        to += part;
        size -= part;
    }
    return size == 0;
}

/* The last writable byte is the status: takes it off and says where it is, NULL when there is none. */
static uint8_t *take_status_byte(struct virtqueue_request *request, uint64_t *gpa)
{
    for (unsigned i = request->write_count; i-- > 0;) {
        struct iovec *piece = &request->write[i];
        if (piece->iov_len == 0)
            continue;
        piece->iov_len--;
        *gpa = request->write_gpa[i] + piece->iov_len;
        return (uint8_t *)piece->iov_base + piece->iov_len;
    }
    return NULL;
}

/* Bytes the device has written, told to the machine piece by piece. */
static uint32_t announce_written(const struct virtio_blk *disk, const struct virtqueue_request *request,
                                 const size_t *lengths)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < request->write_count; i++) {
        guest_memory_stored(disk->queue.memory, request->write_gpa[i], lengths[i]);
        total += lengths[i];
    }
    return (uint32_t)(total < UINT32_MAX ? total : UINT32_MAX);
}

static uint8_t read_sectors(struct virtio_blk *disk, uint64_t sector, uint32_t *written)
{
    struct virtqueue_request *request = &disk->request;
    size_t lengths[VIRTQUEUE_SIZE];
    for (unsigned i = 0; i < request->write_count; i++)
        lengths[i] = request->write[i].iov_len;
    bool done = disk_image_read(disk->image, sector, request->write, request->write_count);
    *written = announce_written(disk, request, lengths); /* a failed read may have moved a part */
    return done ? STATUS_OK : STATUS_ERROR;
}

static uint8_t identify(struct virtio_blk *disk, uint32_t *written)
{
    struct virtqueue_request *request = &disk->request;
    static const char identity[IDENTITY_BYTES] = "openwhp-disk";
    if (request->write_count == 0 || request->write[0].iov_len < IDENTITY_BYTES)
        return STATUS_ERROR;
    memcpy(request->write[0].iov_base, identity, IDENTITY_BYTES);
    guest_memory_stored(disk->queue.memory, request->write_gpa[0], IDENTITY_BYTES);
    *written = IDENTITY_BYTES;
    return STATUS_OK;
}

static uint8_t execute(struct virtio_blk *disk, uint32_t *written)
{
    struct virtqueue_request *request = &disk->request;
    uint8_t header[HEADER_BYTES];
    if (!take_front(request, header, sizeof header))
        return STATUS_ERROR;
    uint64_t sector = get64(header + 8);
    switch (get32(header)) {
    case REQUEST_READ:
        return read_sectors(disk, sector, written);
    case REQUEST_WRITE:
        return disk_image_write(disk->image, sector, request->read, request->read_count) ? STATUS_OK
                                                                                       : STATUS_ERROR;
    case REQUEST_FLUSH:
        return disk_image_flush(disk->image) ? STATUS_OK : STATUS_ERROR;
    case REQUEST_IDENTIFY:
        return identify(disk, written);
    default:
        return STATUS_UNSUPPORTED;
    }
}

static void serve_queue(struct virtio_blk *disk)
{
    bool interrupt = false;
    /* A queue holds at most its size; what comes meanwhile rings the bell again. */
    for (unsigned i = 0; i < VIRTQUEUE_SIZE && virtqueue_take(&disk->queue, &disk->request); i++) {
        uint64_t status_gpa;
        uint8_t *status = take_status_byte(&disk->request, &status_gpa);
        uint32_t written = 0;
        if (status == NULL) {
            disk->queue.broken = true; /* no place to answer */
            break;
        }
        *status = execute(disk, &written);
        guest_memory_stored(disk->queue.memory, status_gpa, 1);
        interrupt |= virtqueue_give(&disk->queue, &disk->request, written + 1);
    }
    if (interrupt) {
        disk->interrupt_status |= INTERRUPT_QUEUE;
        update_irq(disk);
    }
}

static void reset(struct virtio_blk *disk)
{
    virtqueue_reset(&disk->queue);
    disk->guest_features = 0;
    disk->queue_select = 0;
    disk->status = disk->interrupt_status = 0;
    update_irq(disk);
}

static uint64_t read_interrupt_status(struct virtio_blk *disk)
{
    uint64_t value = disk->interrupt_status;
    disk->interrupt_status = 0;
    update_irq(disk);
    return value;
}

static uint64_t register_value(struct virtio_blk *disk, unsigned offset)
{
    switch (offset) {
    case HOST_FEATURES:
        return host_features(disk);
    case GUEST_FEATURES:
        return disk->guest_features;
    case QUEUE_ADDRESS:
        return disk->queue_select == 0 ? disk->queue.gpa / PAGE_BYTES : 0;
    case QUEUE_SIZE:
        return disk->queue_select == 0 ? VIRTQUEUE_SIZE : 0;
    case QUEUE_SELECT:
        return disk->queue_select;
    case DEVICE_STATUS:
        return disk->status;
    case INTERRUPT_STATUS:
        return read_interrupt_status(disk);
    default:
        return 0;
    }
}

static uint64_t port_read(void *device, uint64_t offset, unsigned size)
{
    struct virtio_blk *disk = device;
    if (offset < DEVICE_CONFIG)
        return register_value(disk, (unsigned)offset);
    uint8_t config[CONFIG_BYTES];
    uint64_t value = 0;
    fill_config(disk, config);
    if (offset - DEVICE_CONFIG + size <= CONFIG_BYTES)
        memcpy(&value, config + (offset - DEVICE_CONFIG), size);
    return value;
}

static void set_queue(struct virtio_blk *disk, uint32_t page)
{
    if (disk->queue_select != 0)
        return;
    virtqueue_reset(&disk->queue);
    disk->queue.gpa = (uint64_t)page * PAGE_BYTES;
}

static void port_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_blk *disk = device;
    (void)size;
    switch (offset) {
    case GUEST_FEATURES:
        disk->guest_features = (uint32_t)value & host_features(disk);
        break;
    case QUEUE_ADDRESS:
        set_queue(disk, (uint32_t)value);
        break;
    case QUEUE_SELECT:
        disk->queue_select = (uint16_t)value;
        break;
    case QUEUE_NOTIFY:
        if ((uint16_t)value == 0)
            serve_queue(disk);
        break;
    case DEVICE_STATUS:
        disk->status = (uint8_t)value;
        if (disk->status == 0)
            reset(disk);
        break;
    default:
        break;
    }
}

static void config_written(void *device, unsigned offset)
{
    if (offset == PCI_COMMAND + 1)
        update_irq(device);
}

void virtio_blk_init(struct virtio_blk *disk, struct disk_image *image, const struct guest_memory *memory,
                     struct irq_router *router)
{
    static const struct bus_ops ops = {port_read, port_write};
    memset(disk, 0, sizeof *disk);
    disk->image = image;
    disk->queue.memory = memory;
    disk->irq = (struct irq_source){.router = router};
    pci_function_init(&disk->function, 0x1AF4, 0x1001, 0x0100);
    uint8_t *config = disk->function.config;
    put16(config + PCI_SUBSYSTEM_VENDOR, 0x1AF4);
    put16(config + PCI_SUBSYSTEM, 2); /* block device */
    config[PCI_INTERRUPT_PIN] = 1;
    disk->function.io = (struct bus_range){0, IO_BYTES, &ops, disk, "virtio disk", 0};
    disk->function.config_written = config_written;
    disk->function.device = disk;
}

void virtio_blk_plug(struct virtio_blk *disk, struct pci_bus *pci, unsigned slot, uint16_t port)
{
    disk->irq.line = pci_interrupt_line(slot);
    pci_plug(pci, slot, &disk->function, port);
}
