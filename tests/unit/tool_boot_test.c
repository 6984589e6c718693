/* The loaders: where good images go, and the one line about bad ones. Images are made here, byte by byte. */
#include "tool_test.h"

#include <elf.h>

#include "boot.h"
#include "multiboot_header.h"
#include "placement.h"

#define MEMORY (64 * MIB)

static struct guest_memory memory;
static struct options options;
static struct boot_state start;
static char path[64];

static int set_up(void **state)
{
    (void)state;
    memset(&options, 0, sizeof options);
    return guest_memory_create(&memory, MEMORY);
}

static int tear_down(void **state)
{
    (void)state;
    guest_memory_destroy(&memory);
    if (path[0] != '\0')
        unlink(path);
    path[0] = '\0';
    problem_clear();
    return 0;
}

static void file_of(const void *bytes, size_t size)
{
    if (path[0] != '\0')
        unlink(path);
    strcpy(path, temporary_file(bytes, size));
}

/* ---- Linux ---- */

enum { SETUP_BYTES = 5 * 512, CODE_BYTES = 0x1000 };

static void make_linux(uint8_t *image)
{
    memset(image, 0, SETUP_BYTES + CODE_BYTES);
    image[0x1F1] = 4;
    put32(image + 0x1F4, CODE_BYTES / 16);
    put16(image + 0x1FE, 0xAA55);
    image[0x200] = 0xEB, image[0x201] = 0x66;
    memcpy(image + 0x202, "HdrS", 4);
    put16(image + 0x206, 0x020F);
    image[0x211] = 1;
    put32(image + 0x22C, 0x7fffffff);
    put32(image + 0x230, 0x200000);
    image[0x234] = 1;
    put16(image + 0x236, 1);
    put32(image + 0x238, 2047);
    put64(image + 0x258, 0x1000000);
    put32(image + 0x260, 0x800000);
    memset(image + SETUP_BYTES, 0xCC, CODE_BYTES);
}

static uint8_t image[SETUP_BYTES + CODE_BYTES];

static int boot_image(size_t size)
{
    file_of(image, size);
    options.kernel = path;
    return boot_kernel(&start, &memory, &options, 0xE0000);
}

static void test_linux(void **state)
{
    (void)state;
    static struct module_option module = {NULL, ""};
    char initrd[64];
    make_linux(image);
    strcpy(initrd, temporary_file("initial RAM disk", 16));
    module.path = initrd;
    options.modules[0] = module;
    options.module_count = 1;
    options.append = "console=ttyS0";
    assert_int_equal(boot_image(sizeof image), 0);
    unlink(initrd);
    assert_int_equal(start.mode, BOOT_LONG);
    assert_int_equal(start.entry, 0x1000200);
    assert_int_equal(get16(memory.host + 0x413), 640);
    assert_memory_equal(memory.host + 0x1000000, image + SETUP_BYTES, CODE_BYTES);
    const uint8_t *zero_page = memory.host + start.rsi;
    assert_string_equal((char *)memory.host + get32(zero_page + 0x228), "console=ttyS0");
    assert_int_equal(get32(zero_page + 0x21C), 16);
    assert_memory_equal(memory.host + get32(zero_page + 0x218), "initial RAM disk", 16);
    assert_int_equal(get32(zero_page + 0x218) % 4096, 0);
    assert_int_equal(get64(zero_page + 0x70), 0xE0000);
    assert_int_equal(zero_page[0x210], 0xFF);
    assert_true(zero_page[0x1E8] >= 3);
    assert_int_equal(get64(memory.host + start.cr3) & ~0xfffull, start.cr3 + 0x1000);
    /* The identity map: the last 2 MiB page of the 4 GiB. */
    assert_int_equal(get64(memory.host + start.cr3 + 0x6000 - 8), 0xFFE00000ull | 0x83);
}

static void test_linux_moves_down_in_small_memory(void **state)
{
    (void)state;
    make_linux(image);
    guest_memory_destroy(&memory);
    assert_int_equal(guest_memory_create(&memory, 16 * MIB), 0);
    assert_int_equal(boot_image(sizeof image), 0);
    assert_int_equal(start.entry, 0x200200);
    guest_memory_destroy(&memory);
    assert_int_equal(guest_memory_create(&memory, 4 * MIB), 0);
    expect_problem(boot_image(sizeof image), "larger size");
}

/* Without a 64-bit entry: the same memory, flat 32-bit segments, and the start of the code. */
static void test_linux_32(void **state)
{
    (void)state;
    make_linux(image);
    put16(image + 0x236, 0);
    assert_int_equal(boot_image(sizeof image), 0);
    assert_int_equal(start.mode, BOOT_PROTECTED);
    assert_int_equal(start.entry, 0x1000000);
    assert_int_equal(get64(memory.host + start.rsi + 0x70), 0xE0000);
    assert_int_equal(get64(memory.host + start.gdt + 0x10), 0x00CF9B000000FFFFull);
    make_linux(image);
    put16(image + 0x206, 0x020A); /* the field that says so is not there yet */
    assert_int_equal(boot_image(sizeof image), 0);
    assert_int_equal(start.mode, BOOT_PROTECTED);
}

/* The size is in 16 bytes; the file's need not be. */
static void test_linux_of_any_size(void **state)
{
    (void)state;
    make_linux(image);
    assert_int_equal(boot_image(sizeof image - 15), 0);
    assert_memory_equal(memory.host + 0x1000000, image + SETUP_BYTES, CODE_BYTES - 15);
}

static void test_bad_linux(void **state)
{
    (void)state;
    make_linux(image);
    expect_problem(boot_image(sizeof image - 16), "truncated");
    expect_problem(boot_image(700), "too short");
    put16(image + 0x206, 0x0209);
    expect_problem(boot_image(sizeof image), "2.6.31");
    make_linux(image);
    image[0x211] = 0;
    expect_problem(boot_image(sizeof image), "2.6.31");
    make_linux(image);
    put32(image + 0x1F4, 0);
    expect_problem(boot_image(sizeof image), "no code");
    make_linux(image);
    put32(image + 0x1F4, 0xffffffff);
    expect_problem(boot_image(sizeof image), "truncated");
    make_linux(image);
    image[0x202] = 'X';
    expect_problem(boot_image(sizeof image), "no header");
    make_linux(image);
    put32(image + 0x260, 0xffffffff);
    expect_problem(boot_image(sizeof image), "larger size");
    make_linux(image);
    put64(image + 0x258, UINT64_MAX - 4096);
    image[0x234] = 0;
    expect_problem(boot_image(sizeof image), "larger size");
    make_linux(image);
    put32(image + 0x230, 3); /* an alignment that is none */
    put64(image + 0x258, 0);
    expect_problem(boot_image(sizeof image), "larger size");
    make_linux(image);
    put32(image + 0x238, 4);
    options.append = "12345";
    expect_problem(boot_image(sizeof image), "--append");
}

static void test_missing_files(void **state)
{
    (void)state;
    options.kernel = "/nonexistent/kernel";
    expect_problem(boot_kernel(&start, &memory, &options, 0), "/nonexistent/kernel");
    options.kernel = "/";
    expect_problem(boot_kernel(&start, &memory, &options, 0), "no regular file");
    options.bios = "/nonexistent/bios";
    struct rom rom = {NULL, 0};
    expect_problem(boot_bios(&start, &rom, &options), "--bios");
    make_linux(image);
    static struct module_option module = {(char *)"/nonexistent/initrd", (char *)""};
    options.modules[0] = module;
    options.module_count = 1;
    expect_problem(boot_image(sizeof image), "/nonexistent/initrd");
}

/* ---- Multiboot ---- */

static size_t put_multiboot_header(uint8_t *at, uint32_t flags)
{
    put32(at, 0x1BADB002);
    put32(at + 4, flags);
    put32(at + 8, 0u - 0x1BADB002u - flags);
    return 12;
}

static uint8_t elf[0x3000];

static Elf32_Phdr *make_elf(void)
{
    static Elf32_Phdr segment;
    memset(elf, 0, sizeof elf);
    Elf32_Ehdr header = {.e_machine = EM_386, .e_entry = 0xC0100010, .e_phoff = 64, .e_phnum = 1,
                         .e_phentsize = sizeof(Elf32_Phdr), .e_type = ET_EXEC};
    memcpy(header.e_ident, ELFMAG, 4);
    header.e_ident[EI_CLASS] = ELFCLASS32;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    segment = (Elf32_Phdr){.p_type = PT_LOAD, .p_offset = 0x1000, .p_vaddr = 0xC0100000, .p_paddr = 0x100000,
                           .p_filesz = 0x1000, .p_memsz = 0x3000};
    memcpy(elf, &header, sizeof header);
    memcpy(elf + 64, &segment, sizeof segment);
    put_multiboot_header(elf + 0x1004, 0x3);
    return &segment;
}

static int boot_elf(void)
{
    file_of(elf, sizeof elf);
    options.kernel = path;
    return boot_kernel(&start, &memory, &options, 0);
}

static void test_multiboot_elf(void **state)
{
    (void)state;
    char name[64];
    strcpy(name, temporary_file("module", 6));
    static struct module_option module;
    module = (struct module_option){name, (char *)"its arguments"};
    options.modules[0] = module;
    options.module_count = 1;
    options.append = "some text";
    memset(memory.host + 0x100000, 0xEE, 0x4000);
    make_elf();
    assert_int_equal(boot_elf(), 0);
    unlink(name);
    assert_int_equal(start.mode, BOOT_PROTECTED);
    assert_int_equal(start.entry, 0x100010); /* the virtual entry, moved to where it is */
    assert_int_equal(start.rax, 0x2BADB002);
    assert_memory_equal(memory.host + 0x100000, elf + 0x1000, 0x1000);
    assert_int_equal(memory.host[0x101000], 0); /* bss */
    assert_int_equal(memory.host[0x102fff], 0);
    const uint8_t *info = memory.host + start.rbx;
    assert_true(start.rbx >= 0x103000);
    assert_int_equal(get32(info) & 0x4D, 0x4D);
    assert_int_equal(get32(info + 4), 640);
    assert_int_equal(get32(info + 8), (MEMORY - MIB) / 1024);
    char expected[128];
    snprintf(expected, sizeof expected, "%s some text", path);
    assert_string_equal((char *)memory.host + get32(info + 16), expected);
    assert_int_equal(get32(info + 20), 1);
    const uint8_t *entry = memory.host + get32(info + 24);
    assert_memory_equal(memory.host + get32(entry), "module", 6);
    assert_int_equal(get32(entry + 4) - get32(entry), 6);
    assert_int_equal(get32(entry) % 4096, 0);
    snprintf(expected, sizeof expected, "%s its arguments", name);
    assert_string_equal((char *)memory.host + get32(entry + 8), expected);
    const uint8_t *map = memory.host + get32(info + 48);
    assert_int_equal(get32(info + 44), 48);
    assert_int_equal(get32(map), 20);
    assert_int_equal(get64(map + 24 + 12), MEMORY - MIB);
    assert_string_equal((char *)memory.host + get32(info + 64), "openwhp");
}

static void test_bad_multiboot(void **state)
{
    (void)state;
    Elf32_Phdr *segment = make_elf();
    segment->p_paddr = 0xB8000;
    memcpy(elf + 64, segment, sizeof *segment);
    expect_problem(boot_elf(), "not RAM");
    segment = make_elf();
    segment->p_filesz = 0x9000, segment->p_memsz = 0x9000;
    memcpy(elf + 64, segment, sizeof *segment);
    expect_problem(boot_elf(), "truncated");
    segment = make_elf();
    segment->p_memsz = 0xffffffff, segment->p_filesz = 1;
    memcpy(elf + 64, segment, sizeof *segment);
    expect_problem(boot_elf(), "not RAM");
    segment = make_elf();
    segment->p_memsz = 1;
    memcpy(elf + 64, segment, sizeof *segment);
    expect_problem(boot_elf(), "smaller in memory");
    make_elf();
    put16(elf + 44, 0xffff); /* program headers beyond the file */
    expect_problem(boot_elf(), "truncated");
    make_elf();
    put16(elf + 44, 0);
    expect_problem(boot_elf(), "nothing to load");
    make_elf();
    put16(elf + 18, EM_ARM);
    expect_problem(boot_elf(), "another processor");
    make_elf();
    put_multiboot_header(elf + 0x1004, 0x80);
    expect_problem(boot_elf(), "newer loader");
    make_elf();
    elf[1] = 'X';
    expect_problem(boot_elf(), "no ELF");
}

/* Flat: addresses in the header, the file laid out from load_address on. */
static void make_flat(uint32_t load, uint32_t load_end, uint32_t bss_end)
{
    memset(elf, 0xAB, sizeof elf);
    size_t at = 0x20 + put_multiboot_header(elf + 0x20, 1u << 16);
    const uint32_t addresses[5] = {0x200000 + 0x10, load, load_end, bss_end, 0x200040};
    for (unsigned i = 0; i < 5; i++)
        put32(elf + at + 4 * i, addresses[i]);
}

static void test_multiboot_flat(void **state)
{
    (void)state;
    make_flat(0x200000, 0, 0x210000); /* 10 bytes of the file before the image */
    memset(memory.host + 0x200000, 0xEE, 0x10000);
    assert_int_equal(boot_elf(), 0);
    assert_int_equal(start.entry, 0x200040);
    assert_memory_equal(memory.host + 0x200000, elf + 0x10, sizeof elf - 0x10);
    assert_int_equal(memory.host[0x200000 + sizeof elf - 0x10], 0);
    make_flat(0x200000, 0x200100, 0);
    memset(memory.host + 0x200000, 0xEE, 0x10000);
    assert_int_equal(boot_elf(), 0);
    assert_int_equal(memory.host[0x200100], 0xEE);
    make_flat(0x100000, 0, 0); /* the header cannot be that far behind the start */
    expect_problem(boot_elf(), "before its file");
    make_flat(0x200011, 0, 0);
    expect_problem(boot_elf(), "before its file");
    make_flat(0x200000, 0x300000, 0);
    expect_problem(boot_elf(), "truncated");
    make_flat(0x200000, 0x1000, 0);
    expect_problem(boot_elf(), "truncated");
    make_flat(0x200000, 0, 0xfffffff0);
    expect_problem(boot_elf(), "not RAM");
}

static void test_modules_that_do_not_fit(void **state)
{
    (void)state;
    char name[64];
    strcpy(name, temporary_file("x", 1));
    assert_int_equal(truncate(name, (off_t)MEMORY), 0);
    static struct module_option module;
    module = (struct module_option){name, (char *)""};
    options.modules[0] = module;
    options.module_count = 1;
    make_elf();
    expect_problem(boot_elf(), "larger size");
    make_linux(image);
    expect_problem(boot_image(sizeof image), "larger size");
    unlink(name);
}

/* ---- Flat images, firmware, placement ---- */

static void test_flat_image(void **state)
{
    (void)state;
    file_of("\x90\x90\xf4", 3);
    options.flat = (struct flat_option){path, 0x7c00, 0x7c01};
    assert_int_equal(boot_flat(&start, &memory, &options), 0);
    assert_int_equal(start.mode, BOOT_REAL);
    assert_memory_equal(memory.host + 0x7c00, "\x90\x90\xf4", 3);
    options.flat = (struct flat_option){path, 0x200000, 0x200000};
    assert_int_equal(boot_flat(&start, &memory, &options), 0);
    assert_int_equal(start.mode, BOOT_PROTECTED);
    const struct flat_option bad[] = {
        {path, 0x9ffff, 0x9ffff}, {path, 0xA0000, 0xA0000},       {path, MEMORY - 1, MEMORY - 1},
        {path, UINT64_MAX, 0},    {path, 0xFFFFFFFF, 0xFFFFFFFF}, {path, UINT64_MAX - 1, UINT64_MAX - 1},
    };
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        options.flat = bad[i];
        expect_problem(boot_flat(&start, &memory, &options), "not inside the RAM");
    }
    options.flat = (struct flat_option){path, 0x7c00, 0x7c03};
    expect_problem(boot_flat(&start, &memory, &options), "entry");
    options.flat = (struct flat_option){path, 0x7c00, 0x7bff};
    expect_problem(boot_flat(&start, &memory, &options), "entry");
}

static void test_firmware(void **state)
{
    (void)state;
    static uint8_t bytes[256 * 1024];
    struct rom rom = {NULL, 0};
    file_of(bytes, sizeof bytes);
    options.bios = path;
    assert_int_equal(boot_bios(&start, &rom, &options), 0);
    assert_int_equal(start.mode, BOOT_RESET);
    assert_int_equal(rom.size, sizeof bytes);
    assert_int_equal(rom_shadow_size(&rom), 128 * 1024);
    rom_release(&rom);
    assert_int_equal(rom_shadow_size(&rom), 0);
    file_of(bytes, 1000);
    expect_problem(boot_bios(&start, &rom, &options), "4 KiB");
    file_of(bytes, 1);
    assert_int_equal(truncate(path, 32 << 20), 0);
    expect_problem(boot_bios(&start, &rom, &options), "16 MiB");
}

static void test_placement(void **state)
{
    (void)state;
    struct placement placement = {.count = 0};
    uint64_t at;
    assert_true(placement_take(&placement, 0x1000, 0x1000));
    assert_false(placement_take(&placement, 0x1fff, 1));
    assert_true(placement_take(&placement, 0x2000, 0x100));
    assert_false(placement_take(&placement, UINT64_MAX, 2));
    assert_true(placement_find(&placement, 0x1000, 0x1000, 0, 0x10000, &at));
    assert_int_equal(at, 0);
    assert_true(placement_find(&placement, 0x1000, 0x1000, 0, 0x10000, &at));
    assert_int_equal(at, 0x3000);
    assert_false(placement_find(&placement, 0xd000, 0x1000, 0, 0x10000, &at));
    assert_true(placement_find(&placement, 0xc000, 0x1000, 0, 0x10000, &at));
    assert_int_equal(at, 0x4000);
    assert_false(placement_find(&placement, UINT64_MAX, 0x1000, 0, 0x10000, &at));
}

/* Bytes at random in valid images: an error or a success, never trouble (the sanitizers watch). */
static void test_damaged_images(void **state)
{
    (void)state;
    uint32_t random = 12345;
    for (unsigned round = 0; round < 300; round++) {
        make_linux(image);
        make_elf();
        if (round % 2 == 0)
            make_flat(0x200000, 0, 0x210000);
        for (unsigned change = 0; change < 3; change++) {
            random = random * 1664525 + 1013904223;
            image[0x1F1 + (random >> 16) % 0x80] = (uint8_t)(random >> 8);
            elf[(random >> 16) % 0x60] = (uint8_t)(random >> 8);
        }
        boot_image(sizeof image);
        problem_clear();
        boot_elf();
        problem_clear();
    }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_linux),
        CASE(test_linux_moves_down_in_small_memory),
        CASE(test_linux_32),
        CASE(test_linux_of_any_size),
        CASE(test_bad_linux),
        CASE(test_missing_files),
        CASE(test_multiboot_elf),
        CASE(test_bad_multiboot),
        CASE(test_multiboot_flat),
        CASE(test_modules_that_do_not_fit),
        CASE(test_flat_image),
        CASE(test_firmware),
        CASE(test_placement),
        CASE(test_damaged_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
