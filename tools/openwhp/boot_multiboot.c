/*
 * Multiboot 1 (Multiboot 0.6.96): an ELF image by its program headers, or a flat one by the addresses in its header,
 * entered in 32-bit protected mode with EAX = 2BADB002 and EBX at the information structure.
 *
 * Modules and the information structure go to the lowest free RAM above 1 MiB.
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot.h"
#include "bytes.h"
#include "image_file.h"
#include "multiboot_header.h"
#include "placement.h"
#include "problem.h"

enum {
    LOADER_MAGIC = 0x2BADB002,
    /* All but aligned modules and memory information, and the video mode, which is left as it is. */
    REQUIRED_UNKNOWN = 0xfff8,

    /* Information structure (section 3.3). */
    INFO_FLAGS = 0,
    INFO_MEMORY_LOWER = 4,
    INFO_MEMORY_UPPER = 8,
    INFO_COMMAND_LINE = 16,
    INFO_MODULE_COUNT = 20,
    INFO_MODULES = 24,
    INFO_MAP_LENGTH = 44,
    INFO_MAP = 48,
    INFO_LOADER_NAME = 64,
    INFO_BYTES = 120,
    HAS_MEMORY = 1 << 0,
    HAS_COMMAND_LINE = 1 << 2,
    HAS_MODULES = 1 << 3,
    HAS_MAP = 1 << 6,
    HAS_LOADER_NAME = 1 << 9,
    MODULE_BYTES = 16,
    MAP_ENTRY_BYTES = 24,
    MAP_ENTRIES = 3,
};

static const char loader_name[] = "openwhp";

struct multiboot {
    struct image_file file;
    struct multiboot_header header;
    struct guest_memory *memory;
    struct placement placement;
    uint32_t entry;
};

static int bad_image(const struct multiboot *boot, const char *why)
{
    return problem("multiboot kernel %s %s; build it again or give another --kernel", boot->file.path, why);
}

/* Copies a piece of the file to its place and clears the rest of it. */
static int load_piece(struct multiboot *boot, uint64_t offset, uint64_t size, uint64_t gpa,
                      uint64_t memory_size)
{
    if (memory_size < size)
        return bad_image(boot, "has a segment that is smaller in memory than in the file");
    if (memory_size == 0)
        return 0;
    uint8_t *to = guest_memory_at(boot->memory, gpa, memory_size, true);
    if (to == NULL || gpa >= HIGH_RAM_FIRST)
        return problem("multiboot kernel %s wants [0x%llx, 0x%llx), which is not RAM below 4 GiB; give more"
                       " --memory", boot->file.path, (unsigned long long)gpa,
                       (unsigned long long)(gpa + memory_size));
    if (!placement_take(&boot->placement, gpa, memory_size))
        return bad_image(boot, "has segments that overlap");
    memset(to + size, 0, memory_size - size);
    return image_file_read(&boot->file, offset, to, size);
}

/* Section 3.1.3: load_end 0 means up to the end of the file, bss_end 0 no bss. */
static int load_flat(struct multiboot *boot)
{
    const struct multiboot_header *header = &boot->header;
    uint32_t before = header->header_address - header->load_address;
    if (header->header_address < header->load_address || before > header->offset)
        return bad_image(boot, "says that it begins before its file");
    uint64_t offset = header->offset - before, size = boot->file.size - offset;
    if (header->load_end != 0) {
        if (header->load_end < header->load_address || header->load_end - header->load_address > size)
            return bad_image(boot, "is truncated, or its load addresses are wrong");
        size = header->load_end - header->load_address;
    }
    uint64_t memory_size = size;
    if (header->bss_end > header->load_address && header->bss_end - header->load_address > size)
        memory_size = header->bss_end - header->load_address;
    boot->entry = header->entry;
    return load_piece(boot, offset, size, header->load_address, memory_size);
}

/* What both classes of ELF say, in one form. */
struct segment {
    uint32_t type;
    uint64_t offset, file_size, virtual_address, physical_address, memory_size;
};

static int read_segment(const struct multiboot *boot, bool is_64, uint64_t at, struct segment *segment)
{
    if (is_64) {
        Elf64_Phdr header;
        if (image_file_read(&boot->file, at, &header, sizeof header) != 0)
            return -1;
        *segment = (struct segment){header.p_type,  header.p_offset, header.p_filesz,
                                    header.p_vaddr, header.p_paddr,  header.p_memsz};
        return 0;
    }
    Elf32_Phdr header;
    if (image_file_read(&boot->file, at, &header, sizeof header) != 0)
        return -1;
    *segment = (struct segment){header.p_type,  header.p_offset, header.p_filesz,
                                header.p_vaddr, header.p_paddr,  header.p_memsz};
    return 0;
}

struct elf_layout {
    bool is_64;
    uint64_t entry, headers;
    unsigned count, stride;
};

static int read_elf_header(struct multiboot *boot, struct elf_layout *layout)
{
    uint8_t bytes[sizeof(Elf64_Ehdr)] = {0};
    uint64_t size = boot->file.size < sizeof bytes ? boot->file.size : sizeof bytes;
    if (image_file_read(&boot->file, 0, bytes, size) != 0)
        return -1;
    if (size < sizeof(Elf32_Ehdr) || memcmp(bytes, ELFMAG, SELFMAG) != 0)
        return bad_image(boot, "is no ELF file and its header has no addresses");
    Elf32_Ehdr narrow;
    Elf64_Ehdr wide;
    memcpy(&narrow, bytes, sizeof narrow);
    memcpy(&wide, bytes, sizeof wide);
    layout->is_64 = bytes[EI_CLASS] == ELFCLASS64;
    unsigned machine = layout->is_64 ? wide.e_machine : narrow.e_machine;
    if (bytes[EI_DATA] != ELFDATA2LSB || (machine != EM_386 && machine != EM_X86_64))
        return bad_image(boot, "is for another processor");
    layout->entry = layout->is_64 ? wide.e_entry : narrow.e_entry;
    layout->headers = layout->is_64 ? wide.e_phoff : narrow.e_phoff;
    layout->count = layout->is_64 ? wide.e_phnum : narrow.e_phnum;
    layout->stride = layout->is_64 ? wide.e_phentsize : narrow.e_phentsize;
    if (layout->stride < (layout->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
        return bad_image(boot, "has no program headers");
    return 0;
}

static int load_elf(struct multiboot *boot)
{
    struct elf_layout layout;
    unsigned loaded = 0;
    if (read_elf_header(boot, &layout) != 0)
        return -1;
    uint64_t entry = layout.entry;
    for (unsigned i = 0; i < layout.count; i++) {
        struct segment segment;
        uint64_t at = layout.headers + (uint64_t)i * layout.stride;
        if (at < layout.headers || read_segment(boot, layout.is_64, at, &segment) != 0)
            return bad_image(boot, "has program headers outside the file");
        if (segment.type != PT_LOAD)
            continue;
        if (load_piece(boot, segment.offset, segment.file_size, segment.physical_address,
                       segment.memory_size) != 0)
            return -1;
        loaded++;
        /* An entry given as a virtual address means the same place in physical memory. */
        if (layout.entry - segment.virtual_address < segment.memory_size)
            entry = layout.entry - segment.virtual_address + segment.physical_address;
    }
    if (loaded == 0)
        return bad_image(boot, "has nothing to load");
    if (entry > UINT32_MAX)
        return bad_image(boot, "has its entry above 4 GiB");
    boot->entry = (uint32_t)entry;
    return 0;
}

static int find_room(struct multiboot *boot, uint64_t size, uint64_t alignment, const char *what,
                     uint64_t *gpa)
{
    if (!placement_find(&boot->placement, size, alignment, EXTENDED_FIRST, boot->memory->low_end, gpa))
        return problem("%s (%llu bytes) does not fit into the RAM; give --memory a larger size", what,
                       (unsigned long long)size);
    return 0;
}

/* Start and end of each module, in page-aligned memory. */
static int load_modules(struct multiboot *boot, const struct options *options, uint64_t (*ranges)[2])
{
    for (unsigned i = 0; i < options->module_count; i++) {
        struct image_file file;
        if (image_file_open(&file, options->modules[i].path, "initrd") != 0)
            return -1;
        int result = find_room(boot, file.size, PAGE_BYTES, file.path, &ranges[i][0]);
        if (result == 0)
            result = image_file_read(&file, 0, boot->memory->host + ranges[i][0], file.size);
        ranges[i][1] = ranges[i][0] + file.size;
        image_file_close(&file);
        if (result != 0)
            return -1;
    }
    return 0;
}

static void map_entry(uint8_t *at, uint64_t first, uint64_t end)
{
    put32(at, MAP_ENTRY_BYTES - 4);
    put64(at + 4, first);
    put64(at + 12, end - first);
    put32(at + 20, 1);
}

/* A block that is filled from its start on; base is its guest address. */
struct block {
    uint8_t *host;
    uint32_t base, used;
};

static uint32_t block_take(struct block *block, uint32_t size)
{
    uint32_t at = block->base + block->used;
    block->used += (uint32_t)align_up(size, 8);
    return at;
}

/* "first second" as a string of the block. */
static uint32_t block_text(struct block *block, const char *first, const char *second)
{
    size_t size = strlen(first) + strlen(second) + 2;
    uint32_t at = block_take(block, (uint32_t)size);
    snprintf((char *)block->host + (at - block->base), size, "%s%s%s", first,
             second[0] != '\0' ? " " : "", second);
    return at;
}

static uint64_t info_size(const struct options *options)
{
    uint64_t size = INFO_BYTES + MAP_ENTRIES * MAP_ENTRY_BYTES + BOOT_GDT_BYTES + 64;
    size += strlen(options->kernel) + strlen(options->append != NULL ? options->append : "") + 16;
    for (unsigned i = 0; i < options->module_count; i++)
        size += MODULE_BYTES + strlen(options->modules[i].path) + strlen(options->modules[i].arguments) + 16;
    return size;
}

static void fill_modules(struct block *block, uint8_t *info, const struct options *options,
                         uint64_t (*ranges)[2])
{
    uint32_t list = block_take(block, MODULE_BYTES * options->module_count);
    put32(info + INFO_MODULE_COUNT, options->module_count);
    put32(info + INFO_MODULES, list);
    for (unsigned i = 0; i < options->module_count; i++) {
        uint8_t *entry = block->host + (list - block->base) + (size_t)MODULE_BYTES * i;
        put32(entry, (uint32_t)ranges[i][0]);
        put32(entry + 4, (uint32_t)ranges[i][1]);
        put32(entry + 8, block_text(block, options->modules[i].path, options->modules[i].arguments));
    }
}

static void fill_map(struct block *block, uint8_t *info, const struct guest_memory *memory)
{
    unsigned count = memory->size > memory->low_end ? 3 : 2;
    uint32_t map = block_take(block, MAP_ENTRIES * MAP_ENTRY_BYTES);
    uint8_t *entry = block->host + (map - block->base);
    map_entry(entry, 0, CONVENTIONAL_END);
    map_entry(entry + MAP_ENTRY_BYTES, EXTENDED_FIRST, memory->low_end);
    if (count == 3)
        map_entry(entry + 2 * MAP_ENTRY_BYTES, HIGH_RAM_FIRST, guest_memory_high_end(memory));
    put32(info + INFO_MAP, map);
    put32(info + INFO_MAP_LENGTH, count * MAP_ENTRY_BYTES);
}

static int write_info(struct multiboot *boot, const struct options *options, uint64_t (*ranges)[2],
                      struct boot_state *state)
{
    uint64_t gpa;
    if (find_room(boot, info_size(options), PAGE_BYTES, "the multiboot information", &gpa) != 0)
        return -1;
    struct block block = {.host = boot->memory->host + gpa, .base = (uint32_t)gpa};
    uint8_t *info = block.host;
    block_take(&block, INFO_BYTES);
    put32(info + INFO_FLAGS, HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MAP | HAS_LOADER_NAME);
    put32(info + INFO_MEMORY_LOWER, CONVENTIONAL_END / KIB);
    put32(info + INFO_MEMORY_UPPER, (uint32_t)((boot->memory->low_end - MIB) / KIB));
    put32(info + INFO_COMMAND_LINE,
          block_text(&block, options->kernel, options->append != NULL ? options->append : ""));
    put32(info + INFO_LOADER_NAME, block_text(&block, loader_name, ""));
    fill_map(&block, info, boot->memory);
    fill_modules(&block, info, options, ranges);
    uint32_t gdt = block_take(&block, BOOT_GDT_BYTES);
    boot_write_gdt(block.host + (gdt - block.base), 0);
    *state = (struct boot_state){.mode = BOOT_PROTECTED,
                                 .entry = boot->entry,
                                 .rax = LOADER_MAGIC,
                                 .rbx = gpa,
                                 .gdt = gdt};
    return 0;
}

static int load(struct multiboot *boot, const struct options *options, struct boot_state *state)
{
    uint64_t ranges[MAX_MODULES][2];
    if (multiboot_find_header(&boot->file, &boot->header) <= 0)
        return bad_image(boot, "has no multiboot header");
    if (boot->header.flags & REQUIRED_UNKNOWN)
        return bad_image(boot, "asks for features of a newer loader");
    int result = boot->header.flags & MULTIBOOT_ADDRESSES_VALID ? load_flat(boot) : load_elf(boot);
    if (result != 0 || load_modules(boot, options, ranges) != 0)
        return -1;
    return write_info(boot, options, ranges, state);
}

int boot_multiboot(struct boot_state *state, struct guest_memory *memory, const struct options *options)
{
    struct multiboot boot = {.memory = memory};
    if (image_file_open(&boot.file, options->kernel, "kernel") != 0)
        return -1;
    int result = load(&boot, options, state);
    image_file_close(&boot.file);
    return result;
}
