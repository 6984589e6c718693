/* What the boot protocols share, and the small ones: flat images and firmware; see boot.h. */
#include "boot.h"

#include <string.h>
#include <sys/mman.h>

#include "bytes.h"
#include "image_file.h"
#include "multiboot_header.h"
#include "problem.h"

enum {
    ROM_LIMIT = 16 * 1024 * 1024,
    ROM_SHADOW_LIMIT = 128 * 1024,
    REAL_MODE_STACK = 0x7C00,
    FIRST_DISK = 0x80,
    BIOS_DATA_AT = 0x400,
};

/* Segment descriptors (SDM 3A, section 3.4.5): flat, present, ring 0, accessed. */
void boot_write_gdt(uint8_t *at, int long_mode)
{
    put64(at, 0);
    put64(at + 8, 0);
    put64(at + BOOT_CODE_SELECTOR, long_mode ? UINT64_C(0x00AF9B000000FFFF) : UINT64_C(0x00CF9B000000FFFF));
    put64(at + BOOT_DATA_SELECTOR, UINT64_C(0x00CF93000000FFFF));
}

/*
 * The BIOS data area, as far as it tells of the machine: kernels look here although their boot protocol tells them, too (Xen
 * places its trampoline by the size of conventional memory). There is no extended area.
 */
static void write_bios_data(uint8_t *at)
{
    enum {
        FIRST_SERIAL = 0x00,
        EQUIPMENT = 0x10,
        MEMORY_SIZE = 0x13, /* of conventional memory, in KiB */
        VIDEO_MODE = 0x49,
        COLUMNS = 0x4A,
        PAGE_SIZE_OF_VIDEO = 0x4C,
        CRT_CONTROLLER = 0x63,
        LAST_ROW = 0x84,
        CHARACTER_HEIGHT = 0x85,

        HAS_FPU = 0x02,
        HAS_COLOR_TEXT = 0x20,
        HAS_ONE_SERIAL = 0x200,
    };
    put16(at + FIRST_SERIAL, 0x3F8);
    put16(at + EQUIPMENT, HAS_FPU | HAS_COLOR_TEXT | HAS_ONE_SERIAL);
    put16(at + MEMORY_SIZE, CONVENTIONAL_END / KIB);
    at[VIDEO_MODE] = 3;
    put16(at + COLUMNS, 80);
    put16(at + PAGE_SIZE_OF_VIDEO, 0x1000);
    put16(at + CRT_CONTROLLER, 0x3D4);
    at[LAST_ROW] = 24;
    put16(at + CHARACTER_HEIGHT, 16);
}

int boot_kernel(struct boot_state *state, struct guest_memory *memory, const struct options *options,
                uint64_t rsdp)
{
    struct image_file image;
    struct multiboot_header header;
    if (image_file_open(&image, options->kernel, "kernel") != 0)
        return -1;
    int found = multiboot_find_header(&image, &header);
    image_file_close(&image);
    if (found < 0)
        return -1;
    write_bios_data(memory->host + BIOS_DATA_AT);
    return found > 0 ? boot_multiboot(state, memory, options)
                     : boot_linux(state, memory, options, rsdp);
}

/* Real mode reaches the first MiB; an entry above it starts in 32-bit protected mode. */
static void flat_entry(struct boot_state *state, uint64_t entry)
{
    *state = (struct boot_state){.mode = entry < EXTENDED_FIRST ? BOOT_REAL : BOOT_PROTECTED,
                                 .entry = entry,
                                 .rdx = FIRST_DISK,
                                 .rsp = REAL_MODE_STACK};
}

int boot_flat(struct boot_state *state, struct guest_memory *memory, const struct options *options)
{
    const struct flat_option *flat = &options->flat;
    struct image_file image;
    if (image_file_open(&image, flat->path, "flat") != 0)
        return -1;
    int result = 0;
    void *to = guest_memory_at(memory, flat->gpa, image.size, true);
    if (to == NULL)
        result = problem("flat image %s (%llu bytes) is not inside the RAM at 0x%llx; give another address or"
                         " more --memory", flat->path, (unsigned long long)image.size,
                         (unsigned long long)flat->gpa);
    else if (flat->entry < flat->gpa || flat->entry - flat->gpa >= image.size || flat->entry > UINT32_MAX)
        result = problem("the entry 0x%llx of flat image %s is not inside it below 4 GiB; give another one",
                         (unsigned long long)flat->entry, flat->path);
    if (result == 0)
        result = image_file_read(&image, 0, to, image.size);
    image_file_close(&image);
    flat_entry(state, flat->entry);
    return result;
}

static int load_rom(struct rom *rom, const struct image_file *image)
{
    if (image->size > ROM_LIMIT || image->size % PAGE_BYTES != 0)
        return problem("bios %s has %llu bytes; give --bios an image of whole 4 KiB pages up to 16 MiB",
                       image->path, (unsigned long long)image->size);
    void *host = mmap(NULL, image->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (host == MAP_FAILED)
        return problem("not enough memory for bios %s; end other programs", image->path);
    *rom = (struct rom){.host = host, .size = image->size};
    return image_file_read(image, 0, host, image->size);
}

int boot_bios(struct boot_state *state, struct rom *rom, const struct options *options)
{
    struct image_file image;
    if (image_file_open(&image, options->bios, "bios") != 0)
        return -1;
    int result = load_rom(rom, &image);
    image_file_close(&image);
    *state = (struct boot_state){.mode = BOOT_RESET, .entry = 0xFFFFFFF0};
    return result;
}

void rom_release(struct rom *rom)
{
    if (rom->host != NULL)
        munmap(rom->host, rom->size);
    rom->host = NULL;
}

uint64_t rom_shadow_size(const struct rom *rom)
{
    if (rom->host == NULL)
        return 0;
    return rom->size < ROM_SHADOW_LIMIT ? rom->size : ROM_SHADOW_LIMIT;
}
