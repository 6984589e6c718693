/*
 * Linux: a bzImage by the 64-bit boot protocol, or, where it has no 64-bit entry, by the 32-bit one (Linux,
 * Documentation/x86/boot.rst and zero-page.rst). Both want the same memory; the 64-bit one also page tables.
 *
 *   500    descriptor table          7000  boot_params ("zero page")      9000  page tables
 *   20000  command line              kernel at its preferred address, or as low as it may
 *   initrd as high as the kernel allows
 */
#include <string.h>

#include "boot.h"
#include "bytes.h"
#include "image_file.h"
#include "problem.h"

enum {
    GDT_AT = 0x500,
    ZERO_PAGE_AT = 0x7000,
    PAGE_TABLES_AT = 0x9000, /* PML4, PDPT, four page directories */
    COMMAND_LINE_AT = 0x20000,
    COMMAND_LINE_LIMIT = 0x10000,
    TABLE_BYTES = 4096,
    SECTOR = 512,

    /* boot_params; the setup header is part of it and of the file, at the same offsets. */
    ACPI_RSDP = 0x070,
    EXT_RAMDISK_IMAGE = 0x0C0,
    EXT_RAMDISK_SIZE = 0x0C4,
    E820_ENTRIES = 0x1E8,
    SETUP_SECTORS = 0x1F1,
    SYSTEM_SIZE = 0x1F4, /* in 16 bytes */
    BOOT_FLAG = 0x1FE,
    HEADER_JUMP = 0x200, /* a short jump: its distance says where the header ends */
    HEADER_MAGIC = 0x202,
    VERSION = 0x206,
    TYPE_OF_LOADER = 0x210,
    LOADFLAGS = 0x211,
    CODE32_START = 0x214,
    RAMDISK_IMAGE = 0x218,
    RAMDISK_SIZE = 0x21C,
    COMMAND_LINE_POINTER = 0x228,
    INITRD_ADDRESS_MAX = 0x22C,
    KERNEL_ALIGNMENT = 0x230,
    RELOCATABLE = 0x234,
    XLOADFLAGS = 0x236,
    COMMAND_LINE_SIZE = 0x238,
    PREFERRED_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    E820_TABLE = 0x2D0,
    ZERO_PAGE_BYTES = 0x1000,
    HEADER_LIMIT = 0x290,

    LOADER_UNDEFINED = 0xFF,
    LOADED_HIGH = 1,
    XLOAD_64 = 1,
    ENTRY_64 = 0x200,
    MINIMUM_VERSION = 0x020A, /* the first that says where it wants to be, and how much memory it needs */
    VERSION_OF_XLOADFLAGS = 0x020C,
};

#define MAGIC_HDRS UINT32_C(0x53726448)

struct linux_image {
    struct image_file file;
    uint8_t head[HEADER_LIMIT]; /* start of the file */
    uint64_t code_offset, code_size;
    uint64_t load, init_size;
    bool has_64_bit_entry;
};

static int not_linux(const struct linux_image *image, const char *why)
{
    return problem("kernel %s %s; give --kernel a Linux bzImage or a multiboot image",
                   image->file.path, why);
}

/* The header counts in 16 bytes: the file may end before the last of them does. */
static int measure_code(struct linux_image *image)
{
    const unsigned sectors = image->head[SETUP_SECTORS] != 0 ? image->head[SETUP_SECTORS] : 4;
    const uint64_t offset = (uint64_t)(sectors + 1) * SECTOR, size = (uint64_t)get32(image->head + SYSTEM_SIZE) * 16;
    if (size <= ENTRY_64)
        return not_linux(image, "says that it has no code");
    if (offset + size > align_up(image->file.size, 16))
        return problem("kernel %s is truncated (%llu bytes, its header says %llu); copy or build it again", image->file.path,
                       (unsigned long long)image->file.size, (unsigned long long)(offset + size));
    image->code_offset = offset;
    image->code_size = offset + size <= image->file.size ? size : image->file.size - offset;
    return 0;
}

static int check_header(struct linux_image *image)
{
    if (image->file.size < 2 * SECTOR + HEADER_LIMIT)
        return not_linux(image, "is too short");
    if (image_file_read(&image->file, 0, image->head, sizeof image->head) != 0)
        return -1;
    const uint8_t *head = image->head;
    if (get16(head + BOOT_FLAG) != 0xAA55 || get32(head + HEADER_MAGIC) != MAGIC_HDRS)
        return not_linux(image, "has no header that is known");
    if (get16(head + VERSION) < MINIMUM_VERSION || !(head[LOADFLAGS] & LOADED_HIGH))
        return not_linux(image, "is for boot loaders before Linux 2.6.31");
    image->has_64_bit_entry = get16(head + VERSION) >= VERSION_OF_XLOADFLAGS && get16(head + XLOADFLAGS) & XLOAD_64;
    if (measure_code(image) != 0)
        return -1;
    image->init_size = get32(head + INIT_SIZE);
    if (image->init_size < image->code_size)
        image->init_size = image->code_size;
    return 0;
}

static bool fits(const struct guest_memory *memory, uint64_t load, uint64_t size)
{
    return load >= EXTENDED_FIRST && load < memory->low_end && size <= memory->low_end - load;
}

static int choose_address(struct linux_image *image, const struct guest_memory *memory)
{
    image->load = get64(image->head + PREFERRED_ADDRESS);
    if (fits(memory, image->load, image->init_size))
        return 0;
    uint64_t alignment = get32(image->head + KERNEL_ALIGNMENT);
    bool is_power = alignment != 0 && (alignment & (alignment - 1)) == 0;
    image->load = is_power ? align_up(EXTENDED_FIRST, alignment) : UINT64_MAX;
    if (image->head[RELOCATABLE] && fits(memory, image->load, image->init_size))
        return 0;
    return problem("kernel %s needs %llu MiB behind 0x%llx; give --memory a larger size", image->file.path,
                   (unsigned long long)(image->init_size / MIB + 1),
                   (unsigned long long)get64(image->head + PREFERRED_ADDRESS));
}

static int load_code(const struct linux_image *image, const struct guest_memory *memory)
{
    void *to = guest_memory_at(memory, image->load, image->code_size, true);
    if (to == NULL)
        return problem("kernel %s does not fit; give --memory a larger size", image->file.path);
    return image_file_read(&image->file, image->code_offset, to, image->code_size);
}

static int load_command_line(const struct linux_image *image, const struct guest_memory *memory,
                             const char *text)
{
    size_t length = strlen(text), limit = get32(image->head + COMMAND_LINE_SIZE);
    if (limit > COMMAND_LINE_LIMIT - 1)
        limit = COMMAND_LINE_LIMIT - 1;
    if (length > limit)
        return problem("the command line has %zu bytes, kernel %s takes %zu; give --append a shorter text",
                       length, image->file.path, limit);
    memcpy(memory->host + COMMAND_LINE_AT, text, length + 1);
    return 0;
}

/* All files one behind the other, each on a multiple of four bytes, as the kernel unpacks them. */
static int measure_initrd(const struct options *options, uint64_t *total)
{
    *total = 0;
    for (unsigned i = 0; i < options->module_count; i++) {
        struct image_file file;
        if (options->modules[i].arguments[0] != '\0')
            return problem("initrd %s has arguments, which Linux does not take; leave them away",
                           options->modules[i].path);
        if (image_file_open(&file, options->modules[i].path, "initrd") != 0)
            return -1;
        *total = align_up(*total, 4) + file.size;
        image_file_close(&file);
    }
    return 0;
}

static int read_initrd(const struct options *options, uint8_t *to, uint64_t room)
{
    uint64_t at = 0;
    for (unsigned i = 0; i < options->module_count; i++) {
        struct image_file file;
        if (image_file_open(&file, options->modules[i].path, "initrd") != 0)
            return -1;
        at = align_up(at, 4);
        int result = at > room || file.size > room - at
                         ? problem("initrd %s changes while it is read; try again", file.path)
                         : image_file_read(&file, 0, to + at, file.size);
        at += file.size;
        image_file_close(&file);
        if (result != 0)
            return -1;
    }
    return 0;
}

static int load_initrd(const struct linux_image *image, const struct guest_memory *memory,
                       const struct options *options, uint8_t *zero_page)
{
    uint64_t size, end = (uint64_t)get32(image->head + INITRD_ADDRESS_MAX) + 1;
    if (options->module_count == 0)
        return 0;
    if (measure_initrd(options, &size) != 0)
        return -1;
    if (end > memory->low_end)
        end = memory->low_end;
    uint64_t from = image->load + image->init_size;
    if (end < from || size > end - from || ((end - size) & ~(PAGE_BYTES - 1)) < from)
        return problem("initrd %s (%llu MiB) does not fit behind the kernel; give --memory a larger size",
                       options->modules[0].path, (unsigned long long)(size / MIB));
    uint64_t at = (end - size) & ~(PAGE_BYTES - 1);
    put32(zero_page + RAMDISK_IMAGE, (uint32_t)at);
    put32(zero_page + RAMDISK_SIZE, (uint32_t)size);
    put32(zero_page + EXT_RAMDISK_IMAGE, (uint32_t)(at >> 32));
    put32(zero_page + EXT_RAMDISK_SIZE, (uint32_t)(size >> 32));
    return read_initrd(options, memory->host + at, size);
}

static void add_e820(uint8_t *zero_page, uint64_t first, uint64_t end, uint32_t type)
{
    if (end <= first)
        return;
    uint8_t *entry = zero_page + E820_TABLE + 20 * zero_page[E820_ENTRIES]++;
    put64(entry, first);
    put64(entry + 8, end - first);
    put32(entry + 16, type);
}

static void fill_e820(uint8_t *zero_page, const struct guest_memory *memory)
{
    enum { RAM = 1, RESERVED = 2 };
    add_e820(zero_page, 0, CONVENTIONAL_END, RAM);
    add_e820(zero_page, 0xE0000, EXTENDED_FIRST, RESERVED); /* the ACPI tables */
    add_e820(zero_page, EXTENDED_FIRST, memory->low_end, RAM);
    add_e820(zero_page, 0xFEC00000, 0xFEC01000, RESERVED);
    add_e820(zero_page, 0xFEE00000, 0xFEE01000, RESERVED);
    add_e820(zero_page, HIGH_RAM_FIRST, guest_memory_high_end(memory), RAM);
}

/* Identity map of the first 4 GiB with 2 MiB pages. */
static void write_page_tables(uint8_t *tables)
{
    enum { PRESENT_WRITABLE = 3, LARGE = 0x80 };
    memset(tables, 0, 6 * TABLE_BYTES);
    put64(tables, (PAGE_TABLES_AT + TABLE_BYTES) | PRESENT_WRITABLE);
    for (unsigned i = 0; i < 4; i++)
        put64(tables + TABLE_BYTES + 8 * i,
              (uint64_t)(PAGE_TABLES_AT + (2 + i) * TABLE_BYTES) | PRESENT_WRITABLE);
    for (uint64_t i = 0; i < 4 * 512; i++)
        put64(tables + 2 * TABLE_BYTES + 8 * i, i << 21 | LARGE | PRESENT_WRITABLE);
}

static void fill_zero_page(uint8_t *zero_page, const struct linux_image *image,
                           const struct guest_memory *memory, uint64_t rsdp)
{
    size_t end = HEADER_MAGIC + (size_t)image->head[HEADER_JUMP + 1];
    if (end > HEADER_LIMIT)
        end = HEADER_LIMIT;
    memset(zero_page, 0, ZERO_PAGE_BYTES);
    memcpy(zero_page + SETUP_SECTORS, image->head + SETUP_SECTORS, end - SETUP_SECTORS);
    zero_page[TYPE_OF_LOADER] = LOADER_UNDEFINED;
    put32(zero_page + CODE32_START, (uint32_t)image->load);
    put32(zero_page + COMMAND_LINE_POINTER, COMMAND_LINE_AT);
    put32(zero_page + RAMDISK_IMAGE, 0);
    put32(zero_page + RAMDISK_SIZE, 0);
    put64(zero_page + ACPI_RSDP, rsdp);
    fill_e820(zero_page, memory);
}

static int load(struct linux_image *image, const struct guest_memory *memory, const struct options *options,
                uint64_t rsdp)
{
    uint8_t *zero_page = memory->host + ZERO_PAGE_AT;
    if (check_header(image) != 0 || choose_address(image, memory) != 0)
        return -1;
    fill_zero_page(zero_page, image, memory, rsdp);
    if (load_code(image, memory) != 0 || load_initrd(image, memory, options, zero_page) != 0 ||
        load_command_line(image, memory, options->append != NULL ? options->append : "") != 0)
        return -1;
    if (image->has_64_bit_entry)
        write_page_tables(memory->host + PAGE_TABLES_AT);
    boot_write_gdt(memory->host + GDT_AT, image->has_64_bit_entry);
    return 0;
}

int boot_linux(struct boot_state *state, struct guest_memory *memory, const struct options *options,
               uint64_t rsdp)
{
    struct linux_image image;
    if (image_file_open(&image.file, options->kernel, "kernel") != 0)
        return -1;
    int result = load(&image, memory, options, rsdp);
    image_file_close(&image.file);
    if (result == 0)
        *state = (struct boot_state){.mode = image.has_64_bit_entry ? BOOT_LONG : BOOT_PROTECTED,
                                     .entry = image.load + (image.has_64_bit_entry ? ENTRY_64 : 0),
                                     .rsi = ZERO_PAGE_AT,
                                     .cr3 = PAGE_TABLES_AT,
                                     .gdt = GDT_AT};
    return result;
}
