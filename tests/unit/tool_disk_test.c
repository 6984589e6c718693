/* The virtio disk: what a driver does, and what a driver must not be able to do. */
#include "tool_test.h"

#include "disk_image.h"
#include "ioapic.h"
#include "virtio_blk.h"

#define MEMORY    (16 * MIB)
#define RING      0x100000u
#define AVAILABLE (RING + 16 * VIRTQUEUE_SIZE)
#define USED      (RING + 0x1000)
#define HEADER    0x200000u
#define DATA      0x210000u
#define STATUS    0x220000u
#define PORT      0xC000

enum { SECTORS = 64, IN = 0, OUT = 1, FLUSH = 4, IDENTIFY = 8, NEXT = 1, WRITE = 2 };

static struct guest_memory memory;
static struct disk_image image;
static struct virtio_blk disk;
static struct pci_bus pci;
static struct bus ports;
static struct ioapic ioapic;
static struct irq_router router;
static struct interrupt_sink sink;
static unsigned messages;
static uint64_t stored_bytes;
static char path[64];
static uint16_t next_available;

static void on_message(void *context, const struct interrupt_message *message)
{
    (void)context;
    (void)message;
    messages++;
}

static void on_output(void *context, bool asserted)
{
    (void)context;
    (void)asserted;
}

static void on_stored(void *context, uint64_t gpa, uint64_t size)
{
    (void)context;
    (void)gpa;
    stored_bytes += size;
}

static int set_up(void **state)
{
    (void)state;
    static uint8_t content[SECTORS * SECTOR_BYTES + 100];
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (uint8_t)(i / SECTOR_BYTES);
    strcpy(path, temporary_file(content, sizeof content));
    messages = 0;
    stored_bytes = 0;
    next_available = 0;
    memset(&ports, 0, sizeof ports);
    assert_int_equal(guest_memory_create(&memory, MEMORY), 0);
    memory.stored = on_stored;
    assert_int_equal(disk_image_open(&image, path), 0);
    sink = (struct interrupt_sink){on_message, on_output, NULL};
    ioapic_init(&ioapic, 0, &sink);
    ioapic.entries[10] = 0x40; /* edge, so that each rise is a message */
    router = (struct irq_router){.ioapic = &ioapic};
    pci_init(&pci, NULL, NULL, NULL);
    assert_int_equal(pci_attach(&pci, &ports), 0);
    virtio_blk_init(&disk, &image, &memory, &router);
    virtio_blk_plug(&disk, &pci, 2, PORT);
    bus_write(&ports, PORT + 18, 1, 7);
    bus_write(&ports, PORT + 14, 2, 0);
    bus_write(&ports, PORT + 8, 4, RING / 4096);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    disk_image_close(&image);
    guest_memory_destroy(&memory);
    unlink(path);
    problem_clear();
    return 0;
}

static void descriptor(unsigned index, uint64_t gpa, uint32_t length, uint16_t flags, uint16_t next)
{
    uint8_t *at = memory.host + RING + 16 * index;
    put64(at, gpa), put32(at + 8, length), put16(at + 12, flags), put16(at + 14, next);
}

static void ring_bell(uint16_t head)
{
    put16(memory.host + AVAILABLE + 4 + 2 * (next_available % VIRTQUEUE_SIZE), head);
    put16(memory.host + AVAILABLE + 2, ++next_available);
    bus_write(&ports, PORT + 16, 2, 0);
}

static void header(uint32_t type, uint64_t sector)
{
    put32(memory.host + HEADER, type);
    put64(memory.host + HEADER + 8, sector);
}

/* One request with one data piece; returns the status byte, 0xEE when nothing was answered. */
static uint8_t request(uint32_t type, uint64_t sector, uint64_t data, uint32_t length)
{
    header(type, sector);
    memory.host[STATUS] = 0xEE;
    descriptor(0, HEADER, 16, NEXT, 1);
    descriptor(1, data, length, (uint16_t)(NEXT | (type == OUT ? 0 : WRITE)), 2);
    descriptor(2, STATUS, 1, WRITE, 0);
    ring_bell(0);
    return memory.host[STATUS];
}

static uint16_t used_index(void) { return get16(memory.host + USED + 2); }

static void test_identity(void **state)
{
    (void)state;
    bus_write(&ports, 0xCF8, 4, 0x80001000);
    assert_int_equal(bus_read(&ports, 0xCFC, 4), 0x10011AF4);
    assert_int_equal(bus_read(&ports, PORT + 20, 4), SECTORS); /* a torn last sector does not count */
    assert_int_equal(bus_read(&ports, PORT + 12, 2), VIRTQUEUE_SIZE);
    bus_write(&ports, PORT + 14, 2, 1);
    assert_int_equal(bus_read(&ports, PORT + 12, 2), 0);
    assert_int_equal(bus_read(&ports, PORT + 63, 1), 0);
}

static void test_read_write_flush(void **state)
{
    (void)state;
    assert_int_equal(request(IN, 3, DATA, 1024), 0);
    assert_int_equal(memory.host[DATA], 3);
    assert_int_equal(memory.host[DATA + 1023], 4);
    assert_int_equal(used_index(), 1);
    assert_int_equal(get32(memory.host + USED + 8), 1025);
    assert_true(stored_bytes >= 1025);
    assert_int_equal(messages, 1);
    assert_int_equal(bus_read(&ports, PORT + 19, 1), 1);
    assert_int_equal(bus_read(&ports, PORT + 19, 1), 0);
    memset(memory.host + DATA, 0x5A, 512);
    assert_int_equal(request(OUT, SECTORS - 1, DATA, 512), 0);
    assert_int_equal(messages, 2);
    assert_int_equal(request(FLUSH, 0, DATA, 0), 0);
    uint8_t sector[SECTOR_BYTES];
    struct iovec vector = {sector, sizeof sector};
    assert_true(disk_image_read(&image, SECTORS - 1, &vector, 1));
    assert_int_equal(sector[511], 0x5A);
    assert_int_equal(request(IDENTIFY, 0, DATA, 20), 0);
    assert_string_equal((char *)memory.host + DATA, "openwhp-disk");
}

static void test_pieces(void **state)
{
    (void)state;
    header(IN, 0);
    descriptor(0, HEADER, 7, NEXT, 9); /* a header in two pieces, data in three, status with the last */
    descriptor(9, HEADER + 7, 9, NEXT, 5);
    descriptor(5, DATA, 100, NEXT | WRITE, 6);
    descriptor(6, DATA + 100, 0, NEXT | WRITE, 7);
    descriptor(7, DATA + 100, 413, WRITE, 0);
    memset(memory.host + DATA, 0xEE, 600);
    ring_bell(0);
    assert_int_equal(memory.host[DATA + 511], 0);
    assert_int_equal(memory.host[DATA + 512], 0); /* the status */
    assert_int_equal(memory.host[DATA + 513], 0xEE);
}

static void test_requests_outside_the_disk(void **state)
{
    (void)state;
    assert_int_equal(request(IN, SECTORS, DATA, 512), 1);
    assert_int_equal(request(IN, SECTORS - 1, DATA, 1024), 1);
    assert_int_equal(request(IN, UINT64_MAX, DATA, 512), 1);
    assert_int_equal(request(IN, UINT64_MAX / 512, DATA, 1024), 1);
    assert_int_equal(request(OUT, SECTORS, DATA, 512), 1);
    assert_int_equal(request(IN, 0, DATA, 511), 1);
    assert_int_equal(request(99, 0, DATA, 512), 2);
    assert_int_equal(request(IDENTIFY, 0, DATA, 5), 1);
    assert_int_equal(used_index(), 8);
}

static void test_pieces_outside_memory(void **state)
{
    (void)state;
    const uint64_t bad[] = {MEMORY - 100, MEMORY, 0xA0000, 0x9ffff, UINT64_MAX - 10, 0xFEC00000, 4 * GIB};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(request(IN, 0, bad[i], 512), 0xEE);
        assert_true(disk.queue.broken);
        assert_int_equal(request(IN, 0, DATA, 512), 0xEE); /* until it is reset */
        bus_write(&ports, PORT + 18, 1, 0);
        next_available = 0;
        bus_write(&ports, PORT + 8, 4, RING / 4096);
        assert_false(disk.queue.broken);
        put16(memory.host + AVAILABLE + 2, 0);
    }
    assert_int_equal(request(IN, 0, DATA, 512), 0);
}

static void expect_broken(uint16_t head)
{
    ring_bell(head);
    assert_true(disk.queue.broken);
}

static void test_chain_that_loops(void **state)
{
    (void)state;
    descriptor(0, HEADER, 16, NEXT, 0);
    expect_broken(0);
}

/* Behind the rings there is a chain that looks good: it must not be followed. */
enum { OUTSIDE = 600 };

static void put_chain_outside(void)
{
    header(FLUSH, 0);
    memory.host[STATUS] = 0xEE;
    descriptor(OUTSIDE, HEADER, 16, NEXT, 1);
    descriptor(1, STATUS, 1, WRITE, 0);
}

static void test_chain_outside_the_table(void **state)
{
    (void)state;
    put_chain_outside();
    descriptor(0, HEADER, 0, NEXT, OUTSIDE);
    expect_broken(0);
    assert_int_equal(memory.host[STATUS], 0xEE);
}

static void test_head_outside_the_table(void **state)
{
    (void)state;
    put_chain_outside();
    expect_broken(OUTSIDE);
    assert_int_equal(memory.host[STATUS], 0xEE);
}

static void test_readable_behind_writable(void **state)
{
    (void)state;
    descriptor(0, DATA, 16, NEXT | WRITE, 1);
    descriptor(1, HEADER, 16, 0, 0);
    expect_broken(0);
}

static void test_indirect_is_not_offered(void **state)
{
    (void)state;
    descriptor(0, DATA, 16, 4, 0);
    expect_broken(0);
}

static void test_no_place_for_the_status(void **state)
{
    (void)state;
    descriptor(0, HEADER, 16, 0, 0);
    expect_broken(0);
}

static void test_index_that_jumps(void **state)
{
    (void)state;
    descriptor(0, HEADER, 16, 0, 0);
    next_available = 1000;
    expect_broken(0);
}

static void test_ring_outside_memory(void **state)
{
    (void)state;
    const uint32_t pages[] = {MEMORY / 4096 - 1, MEMORY / 4096, 0xA0, 0x9f, UINT32_MAX, 0};
    for (unsigned i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        bus_write(&ports, PORT + 8, 4, pages[i]);
        bus_write(&ports, PORT + 16, 2, 0);
    }
    assert_int_equal(messages, 0);
}

static void test_header_that_is_too_short(void **state)
{
    (void)state;
    descriptor(0, HEADER, 8, NEXT, 1);
    descriptor(1, STATUS, 1, WRITE, 0);
    ring_bell(0);
    assert_int_equal(memory.host[STATUS], 1);
}

static void test_read_only_image(void **state)
{
    (void)state;
    image.read_only = true;
    assert_int_equal(bus_read(&ports, PORT, 4) & 1 << 5, 1 << 5);
    assert_int_equal(request(OUT, 0, DATA, 512), 1);
}

static void test_interrupts_can_be_kept_away(void **state)
{
    (void)state;
    put16(memory.host + AVAILABLE, 1);
    assert_int_equal(request(IN, 0, DATA, 512), 0);
    assert_int_equal(messages, 0);
}

static void test_random_rings(void **state)
{
    (void)state;
    uint32_t random = 99;
    for (unsigned round = 0; round < 2000; round++) {
        for (unsigned i = 0; i < 4; i++) {
            random = random * 1664525 + 1013904223;
            descriptor(i, random >> 8, (random >> 4) & 0x3fff, (uint16_t)(random >> 20 & 3), (uint16_t)(random >> 28 & 7));
        }
        header(random >> 30, random & 0x7f);
        ring_bell((uint16_t)(random >> 13 & 3));
        if (disk.queue.broken) {
            bus_write(&ports, PORT + 18, 1, 0);
            bus_write(&ports, PORT + 8, 4, RING / 4096);
            next_available = 0;
            put16(memory.host + AVAILABLE + 2, 0);
        }
    }
}

static void test_base_address_register(void **state)
{
    (void)state;
    bus_write(&ports, 0xCF8, 4, 0x80001010);
    assert_int_equal(bus_read(&ports, 0xCFC, 4), PORT | 1);
    bus_write(&ports, 0xCFC, 4, 0xffffffff);
    assert_int_equal(bus_read(&ports, 0xCFC, 4), 0xFFFFFFC1); /* 64 bytes */
    bus_write(&ports, 0xCFC, 4, 0xCF8); /* over the configuration ports: nothing is there */
    assert_int_equal(bus_read(&ports, PORT + 12, 2), 0xffff);
    bus_write(&ports, 0xCFC, 4, 0xD000);
    assert_int_equal(bus_read(&ports, 0xD000 + 12, 2), VIRTQUEUE_SIZE);
    bus_write(&ports, 0xCF8, 4, 0x80001004);
    bus_write(&ports, 0xCFC, 2, 0);
    assert_int_equal(bus_read(&ports, 0xD000 + 12, 2), 0xffff);
}

static void test_image_files(void **state)
{
    (void)state;
    struct disk_image other;
    expect_problem(disk_image_open(&other, path), "used by another");
    expect_problem(disk_image_open(&other, "/nonexistent/disk"), "/nonexistent/disk");
    expect_problem(disk_image_open(&other, "/dev/null"), "no file");
    const char *small = temporary_file("x", 1);
    expect_problem(disk_image_open(&other, small), "no sector");
    unlink(small);
    /* A file that shrinks under us is an error of the request. */
    assert_int_equal(truncate(path, 512), 0);
    assert_int_equal(request(IN, 3, DATA, 512), 1);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_identity),
        CASE(test_read_write_flush),
        CASE(test_pieces),
        CASE(test_requests_outside_the_disk),
        CASE(test_pieces_outside_memory),
        CASE(test_chain_that_loops),
        CASE(test_chain_outside_the_table),
        CASE(test_head_outside_the_table),
        CASE(test_readable_behind_writable),
        CASE(test_indirect_is_not_offered),
        CASE(test_no_place_for_the_status),
        CASE(test_index_that_jumps),
        CASE(test_ring_outside_memory),
        CASE(test_header_that_is_too_short),
        CASE(test_read_only_image),
        CASE(test_interrupts_can_be_kept_away),
        CASE(test_random_rings),
        CASE(test_base_address_register),
        CASE(test_image_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
