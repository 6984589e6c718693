/* Memory of another process (WHvMapGpaRange2), with real second processes. */
#include "guest.h"
#include "other_process.h"

#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FLAGS(f) ((WHV_MAP_GPA_RANGE_FLAGS)(f))
#define R   WHvMapGpaRangeFlagRead
#define RW  (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite)
#define RWX (RW | WHvMapGpaRangeFlagExecute)
#define T   WHvMapGpaRangeFlagTrackDirtyPages
#define OWN ((HANDLE)(intptr_t)-1)

enum { FAR = 0x100000, PAGES = 8, SIZE = PAGES * 4096 }; /* FAR: GPA of the other's memory; identity-mapped by the guest */

struct both {
    struct guest g;
    struct other other;
    HANDLE process;
    UINT64 at;
};

static void begin(struct both *b, enum other_memory kind, UINT32 flags)
{
    guest_begin(&b->g, NULL);
    guest_long_mode(&b->g, 0);
    other_begin(&b->other);
    assert_ok(OwhpOpenProcess((UINT32)b->other.id, &b->process));
    b->at = other_map(&b->other, kind, 0, SIZE);
    assert_ok(WHvMapGpaRange2(b->g.partition, b->process, (void *)b->at, FAR, SIZE, FLAGS(flags)));
}

static void end(struct both *b)
{
    assert_ok(OwhpCloseProcess(b->process));
    guest_end(&b->g);
    other_end(&b->other);
}

/* The dirty pages of the other's memory as bits. */
static UINT64 dirty(struct both *b)
{
    UINT64 bits = ~0ull;

    assert_ok(WHvQueryGpaRangeDirtyBitmap(b->g.partition, FAR, SIZE, &bits, sizeof(bits)));
    return bits;
}

static void at(struct both *b, UINT64 rip, UINT64 rdi)
{
    guest_set(&b->g, WHvX64RegisterRip, rip);
    guest_set(&b->g, WHvX64RegisterRdi, rdi);
}

#define assert_exit(b, type, gpa)                                                                  \
    do {                                                                                           \
        run_to(&(b)->g, WHvRunVpExitReasonMemoryAccess);                                           \
        assert_field(&(b)->g, MemoryAccess.AccessInfo.AccessType, type);                           \
        assert_field(&(b)->g, MemoryAccess.AccessInfo.GpaUnmapped, 0);                             \
        assert_field(&(b)->g, MemoryAccess.Gpa, gpa);                                              \
    } while (0)

/* ---- sharing ---- */

static void live(enum other_memory kind)
{
    struct both b;

    begin(&b, kind, RWX | T);
    guest_code(&b.g, 0x48, 0x8b, 0x07,              /* mov rax, [rdi] */
               0x48, 0x89, 0x87, 0x00, 0x10, 0, 0,  /* mov [rdi + 0x1000], rax */
               0xf4, 0xeb, 0xf3);                   /* hlt; jmp to the start */
    assert_int_equal(dirty(&b), 0);
    for (UINT64 i = 1; i < 4; i++) {
        other_store(&b.other, b.at + 0x10, 0x1111111111111111 * i);
        at(&b, CODE, FAR + 0x10);
        run_to(&b.g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(guest_get(&b.g, WHvX64RegisterRax), 0x1111111111111111 * i);
        assert_int_equal(other_load(&b.other, b.at + 0x1010), 0x1111111111111111 * i);
        assert_dirty(dirty(&b), 1 << 1, 1); /* the store, not the other's */
    }
    assert_int_equal(dirty(&b), 0);
    end(&b);
}

static void private_memory(void **state)
{
    (void)state;
    live(OTHER_PRIVATE);
}

static void shared_memory(void **state)
{
    (void)state;
    live(OTHER_MEMFD);
    live(OTHER_MEMFD_CLOSED);
    live(OTHER_ANONYMOUS);
    live(OTHER_FILE);
}

static void private_file(void **state)
{
    struct both b;
    UINT64 value = 0;

    (void)state;
    begin(&b, OTHER_FILE_PRIVATE, RW | T);
    assert_ok(WHvReadGpaRange(b.g.partition, 0, FAR + 0x2345, (WHV_ACCESS_GPA_CONTROLS){.AsUINT64 = WHvCacheTypeWriteBack},
                              &value, 8));
    assert_int_equal(value, 0x5a5a5a5a5a5a5a5a);
    other_store(&b.other, b.at + 0x2345, 7);
    assert_ok(WHvReadGpaRange(b.g.partition, 0, FAR + 0x2345, (WHV_ACCESS_GPA_CONTROLS){.AsUINT64 = WHvCacheTypeWriteBack},
                              &value, 8));
    assert_int_equal(value, 7);
    end(&b);
}

/* One mapping over shared memory, private memory, nothing, and shared memory again. */
static void mixed_range(void **state)
{
    struct both b;
    OWHP_GPA_RANGE ranges[8];
    UINT32 count;

    (void)state;
    begin(&b, OTHER_PRIVATE, RW);
    other_unmap(&b.other, b.at, SIZE);
    other_map(&b.other, OTHER_MEMFD, b.at, 2 * 4096);
    other_map(&b.other, OTHER_PRIVATE, b.at + 0x2000, 4096);
    other_map(&b.other, OTHER_ANONYMOUS, b.at + 0x5000, 2 * 4096);
    assert_ok(WHvMapGpaRange2(b.g.partition, b.process, (void *)b.at, FAR, SIZE, FLAGS(RW | T)));
    guest_code(&b.g, 0xff, 0x07, 0xf4); /* inc dword [rdi]; hlt */
    for (UINT64 page = 0; page < PAGES; page++) {
        at(&b, CODE, FAR + page * 4096 + 8);
        if (page == 3 || page == 4 || page == 7) {
            assert_exit(&b, WHvMemoryAccessRead, FAR + page * 4096 + 8); /* its first access fails */
            continue;
        }
        run_to(&b.g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(other_load(&b.other, b.at + page * 4096 + 8), 1);
    }
    assert_int_equal(dirty(&b), 0x67);
    assert_ok(OwhpEnumerateGpaRanges(b.g.partition, ranges, 8, &count));
    assert_int_equal(count, 6); /* ours, shared, copied, shared, copied, ours */
    end(&b);
}

/* ---- what the process forbids ---- */

static void protections(void **state)
{
    struct both b;

    (void)state;
    begin(&b, OTHER_PRIVATE, RWX | T);
    guest_code(&b.g, 0x48, 0x8b, 0x07, 0x48, 0x89, 0x07, 0xf4); /* mov rax, [rdi]; mov [rdi], rax; hlt */
    other_store(&b.other, b.at, 77);
    other_protect(&b.other, b.at, 4096, PROT_READ);
    at(&b, CODE, FAR);
    assert_exit(&b, WHvMemoryAccessWrite, FAR);
    assert_field(&b.g, VpContext.Rip, CODE + 3);
    assert_int_equal(guest_get(&b.g, WHvX64RegisterRax), 77);
    assert_int_equal(dirty(&b), 0);
    other_protect(&b.other, b.at, 4096, PROT_NONE);
    at(&b, CODE, FAR);
    assert_exit(&b, WHvMemoryAccessRead, FAR);
    assert_field(&b.g, VpContext.Rip, CODE);
    other_protect(&b.other, b.at, 4096, PROT_READ | PROT_WRITE); /* and the same instruction goes on, once */
    other_store(&b.other, b.at, 78);
    run_to(&b.g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&b.g, WHvX64RegisterRax), 78);
    assert_int_equal(dirty(&b), 1);
    end(&b);
}

static void rights_of_the_mapping(void **state)
{
    struct both b;

    (void)state;
    begin(&b, OTHER_PRIVATE, R);
    guest_code(&b.g, 0x48, 0x8b, 0x07, 0x48, 0x89, 0x07, 0xff, 0xe7); /* mov rax, [rdi]; mov [rdi], rax; jmp rdi */
    at(&b, CODE, FAR);
    assert_exit(&b, WHvMemoryAccessWrite, FAR);
    at(&b, CODE + 6, FAR);
    assert_exit(&b, WHvMemoryAccessExecute, FAR);
    assert_ok(WHvMapGpaRange2(b.g.partition, b.process, (void *)b.at, FAR, SIZE, WHvMapGpaRangeFlagNone));
    at(&b, CODE, FAR);
    assert_exit(&b, WHvMemoryAccessRead, FAR);
    end(&b);
}

static void unmapped_over_there(void **state)
{
    const WHV_ACCESS_GPA_CONTROLS plain = {.AsUINT64 = WHvCacheTypeWriteBack};
    struct both b;
    UINT64 data[1024] = {5};

    (void)state;
    begin(&b, OTHER_PRIVATE, RWX | T);
    guest_code(&b.g, 0x48, 0x89, 0x07, 0xf4); /* mov [rdi], rax; hlt */
    other_unmap(&b.other, b.at + 0x1000, 4096);
    at(&b, CODE, FAR + 0x1008);
    assert_exit(&b, WHvMemoryAccessWrite, FAR + 0x1008);
    assert_refused(WHvReadGpaRange(b.g.partition, 0, FAR + 0x1000, plain, data, 8), E_ACCESSDENIED);
    assert_refused(WHvWriteGpaRange(b.g.partition, 0, FAR + 0x1000, plain, data, 8), E_ACCESSDENIED);
    /* All or nothing. */
    assert_refused(WHvWriteGpaRange(b.g.partition, 0, FAR + 0x800, plain, data, 4096), E_ACCESSDENIED);
    assert_int_equal(other_load(&b.other, b.at + 0x800), 0);
    assert_int_equal(dirty(&b), 0);
    other_map(&b.other, OTHER_PRIVATE, b.at + 0x1000, 4096); /* the address counts, not what was there */
    run_to(&b.g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(dirty(&b), 2);
    assert_ok(WHvWriteGpaRange(b.g.partition, 0, FAR + 0x800, plain, data, sizeof(data)));
    assert_int_equal(other_load(&b.other, b.at + 0x800), 5);
    assert_int_equal(dirty(&b), 7);
    end(&b);
}

static void nap(void)
{
    const struct timespec t = {.tv_nsec = 1000000};

    nanosleep(&t, NULL);
}

static void ends(enum other_memory kind)
{
    struct both b;
    UINT32 tries = 0;

    begin(&b, kind, RWX);
    guest_code(&b.g, 0x48, 0x8b, 0x07, 0xf4); /* mov rax, [rdi]; hlt */
    at(&b, CODE, FAR + 0x20);
    run_to(&b.g, WHvRunVpExitReasonX64Halt);
    other_kill(&b.other);
    do { /* shared memory goes soon, all else at once */
        at(&b, CODE, FAR + 0x20);
        assert_ok(WHvRunVirtualProcessor(b.g.partition, 0, &b.g.exit, sizeof(b.g.exit)));
        nap();
    } while (kind != OTHER_PRIVATE && b.g.exit.ExitReason == WHvRunVpExitReasonX64Halt && tries++ < 5000);
    at(&b, CODE, FAR + 0x20);
    assert_exit(&b, WHvMemoryAccessRead, FAR + 0x20);
    assert_refused(WHvMapGpaRange2(b.g.partition, b.process, (void *)b.at, FAR, SIZE, FLAGS(RW)), E_ACCESSDENIED);
    assert_exit(&b, WHvMemoryAccessRead, FAR + 0x20); /* the refused call changed nothing */
    end(&b);
}

static void process_ends(void **state)
{
    (void)state;
    ends(OTHER_PRIVATE);
    ends(OTHER_MEMFD);
    ends(OTHER_ANONYMOUS);
}

static void mapping_outlives_handle(void **state)
{
    struct both b;

    (void)state;
    for (int kind = OTHER_PRIVATE; kind <= OTHER_MEMFD; kind++) {
        begin(&b, (enum other_memory)kind, RWX);
        assert_ok(OwhpCloseProcess(b.process));
        guest_code(&b.g, 0xff, 0x07, 0xf4); /* inc dword [rdi]; hlt */
        at(&b, CODE, FAR);
        run_to(&b.g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(other_load(&b.other, b.at), 1);
        assert_ok(WHvUnmapGpaRange(b.g.partition, FAR, 4096)); /* the rest stays */
        at(&b, CODE, FAR + 4096);
        run_to(&b.g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(other_load(&b.other, b.at + 4096), 1);
        guest_end(&b.g);
        other_end(&b.other);
    }
}

/* ---- what processors do with it ---- */

static void code_in_private_memory(void **state)
{
    static const UINT8 first[] = {0xb8, 1, 0, 0, 0, 0xf4}, /* mov eax, 1; hlt */
        second[] = {0xb8, 2, 0, 0, 0, 0xf4},
        modifies[] = {0xc6, 0x05, 0x01, 0, 0, 0, 9, 0xb8, 3, 0, 0, 0, 0xf4}; /* mov byte [rip + 1], 9: the next one's 3 */
    struct both b;

    (void)state;
    begin(&b, OTHER_PRIVATE, RWX | T);
    other_fill(&b.other, b.at, first, sizeof(first));
    for (int again = 0; again < 3; again++) {
        at(&b, FAR, 0);
        run_to(&b.g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(guest_get(&b.g, WHvX64RegisterRax), 1);
    }
    other_fill(&b.other, b.at, second, sizeof(second));
    at(&b, FAR, 0);
    run_to(&b.g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&b.g, WHvX64RegisterRax), 2);
    assert_int_equal(dirty(&b), 0); /* executing is not writing */
    for (int again = 0; again < 2; again++) {
        other_fill(&b.other, b.at + 0x1000, modifies, sizeof(modifies));
        at(&b, FAR + 0x1000, 0);
        run_to(&b.g, WHvRunVpExitReasonX64Halt);
        assert_int_equal(guest_get(&b.g, WHvX64RegisterRax), 9);
        assert_int_equal(dirty(&b), 2);
    }
    /* Across the page end, and a page that goes away. */
    other_fill(&b.other, b.at + 0x3ffd, second, sizeof(second));
    at(&b, FAR + 0x3ffd, 0);
    run_to(&b.g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(guest_get(&b.g, WHvX64RegisterRax), 2);
    other_unmap(&b.other, b.at + 0x4000, 4096);
    at(&b, FAR + 0x3ffd, 0);
    assert_exit(&b, WHvMemoryAccessExecute, FAR + 0x4000);
    assert_field(&b.g, VpContext.Rip, FAR + 0x3ffd);
    end(&b);
}

static void page_tables_in_private_memory(void **state)
{
    struct both b;
    UINT8 tables[4096];
    WHV_TRANSLATE_GVA_RESULT result;
    WHV_GUEST_PHYSICAL_ADDRESS gpa;

    (void)state;
    begin(&b, OTHER_PRIVATE, RW | T);
    for (UINT64 page = 0; page < 4; page++) { /* the guest's own tables move: PML4, PDPT, PD, PT */
        memcpy(tables, b.g.ram + TABLES + page * 4096, 4096);
        for (UINT64 i = 0; page < 3 && i < 512; i++) {
            UINT64 *entry = (UINT64 *)(void *)tables + i;
            UINT64 address = *entry & 0xffffffffff000;
            if ((*entry & 1) && !(*entry & 0x80) && address >= TABLES && address < TABLES + 0x4000)
                *entry += FAR - TABLES;
        }
        for (UINT64 i = 0; i < 512; i++)
            ((UINT64 *)(void *)tables)[i] &= ~0x60ull; /* not accessed, not dirty */
        other_fill(&b.other, b.at + page * 4096, tables, sizeof(tables));
    }
    guest_set(&b.g, WHvX64RegisterCr3, FAR);
    guest_code(&b.g, 0x48, 0x89, 0x07, 0xf4); /* mov [rdi], rax; hlt */
    at(&b, CODE, 0x50000);
    run_to(&b.g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(dirty(&b), 0xf); /* the walk's updates */
    assert_int_equal(other_load(&b.other, b.at + 0x3000 + 8 * 0x50) & 0x60, 0x60);
    assert_int_equal(other_load(&b.other, b.at + 0x3000 + 8 * 0x51) & 0x60, 0);
    assert_int_equal(other_load(&b.other, b.at + 0x3000 + 8 * (CODE >> 12)) & 0x60, 0x20);
    assert_ok(WHvTranslateGva(b.g.partition, 0, 0x51234, FLAGS(0) | WHvTranslateGvaFlagValidateRead, &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultSuccess);
    assert_int_equal(gpa, 0x51234);
    assert_int_equal(dirty(&b), 0);
    assert_ok(WHvTranslateGva(b.g.partition, 0, 0x51234,
                              (WHV_TRANSLATE_GVA_FLAGS)(WHvTranslateGvaFlagValidateWrite | WHvTranslateGvaFlagSetPageTableBits),
                              &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultSuccess);
    assert_int_equal(other_load(&b.other, b.at + 0x3000 + 8 * 0x51) & 0x60, 0x60);
    assert_int_equal(dirty(&b), 8);
    other_protect(&b.other, b.at + 0x3000, 4096, PROT_NONE);
    assert_ok(WHvTranslateGva(b.g.partition, 0, 0x51234, WHvTranslateGvaFlagValidateRead, &result, &gpa));
    assert_int_equal(result.ResultCode, WHvTranslateGvaResultGpaNoReadAccess);
    assert_int_equal(gpa, FAR + 0x3000);
    end(&b);
}

static void store_across_pages(void **state)
{
    struct both b;

    (void)state;
    begin(&b, OTHER_PRIVATE, RW | T);
    guest_code(&b.g, 0x48, 0x89, 0x07, 0xf4); /* mov [rdi], rax; hlt */
    guest_set(&b.g, WHvX64RegisterRax, 0x8877665544332211);
    at(&b, CODE, FAR + 0xffc);
    run_to(&b.g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(other_load(&b.other, b.at + 0xffc), 0x8877665544332211);
    assert_int_equal(dirty(&b), 3);
    /* The second page may not be stored to: nothing has happened. */
    other_protect(&b.other, b.at + 0x2000, 4096, PROT_READ);
    at(&b, CODE, FAR + 0x1ffc);
    assert_exit(&b, WHvMemoryAccessWrite, FAR + 0x2000);
    assert_int_equal(other_load(&b.other, b.at + 0x1ff8), 0);
    assert_int_equal(dirty(&b), 0);
    /* The second page is not mapped. */
    assert_ok(WHvUnmapGpaRange(b.g.partition, FAR + 0x4000, 4096));
    at(&b, CODE, FAR + 0x3ffc);
    run_to(&b.g, WHvRunVpExitReasonMemoryAccess);
    assert_field(&b.g, MemoryAccess.AccessInfo.GpaUnmapped, 1);
    assert_field(&b.g, MemoryAccess.Gpa, FAR + 0x4000);
    assert_int_equal(other_load(&b.other, b.at + 0x3ff8), 0);
    /* The first is ours and the second the other's, and the other way round. */
    at(&b, CODE, FAR - 4);
    run_to(&b.g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(other_load(&b.other, b.at), 0x88776655);
    at(&b, CODE, FAR + SIZE - 4);
    run_to(&b.g, WHvRunVpExitReasonX64Halt);
    assert_int_equal(other_load(&b.other, b.at + SIZE - 8), 0x4433221100000000);
    end(&b);
}

static void string_and_wide_instructions(void **state)
{
    static const UINT8 code[] = {
        0xb9, 0x00, 0x18, 0, 0,       /* mov ecx, 0x1800 */
        0xf3, 0xa4,                   /* rep movsb */
        0x0f, 0xae, 0x07,             /* fxsave [rdi], 16-byte aligned */
        0xf3, 0x0f, 0x6f, 0x06,       /* movdqu xmm0, [rsi] */
        0xf3, 0x0f, 0x7f, 0x87, 0xf8, 0x0f, 0, 0, /* movdqu [rdi + 0xff8], xmm0 */
        0xf4,
    };
    struct both b;

    (void)state;
    begin(&b, OTHER_PRIVATE, RW | T);
    guest_load(&b.g, CODE, code, sizeof(code));
    for (size_t i = 0; i < 0x3000; i++)
        b.g.ram[0x40000 + i] = (UINT8)(i * 7);
    guest_set(&b.g, WHvX64RegisterCr4, 0x220);
    guest_set(&b.g, WHvX64RegisterRsi, 0x40000);
    at(&b, CODE, FAR + 0x800);
    run_to(&b.g, WHvRunVpExitReasonX64Halt);
    UINT64 word;
    for (UINT64 i = 0; i < 0x1800; i += 8) {
        memcpy(&word, b.g.ram + 0x40000 + i, 8);
        assert_int_equal(other_load(&b.other, b.at + 0x800 + i), word);
    }
    assert_int_equal(other_load(&b.other, b.at + 0x2000) & 0xffff, 0x37f); /* FCW after FXSAVE; reset: 0x40 */
    memcpy(&word, b.g.ram + 0x40000 + 0x1808, 8);
    assert_int_equal(other_load(&b.other, b.at + 0x3000), word);
    assert_int_equal(dirty(&b), 0xf);
    end(&b);
}

struct counting {
    WHV_PARTITION_HANDLE partition;
    UINT32 vp;
    WHV_RUN_VP_EXIT_CONTEXT exit;
};

static void *count_up(void *context)
{
    struct counting *c = context;

    if (WHvRunVirtualProcessor(c->partition, c->vp, &c->exit, sizeof(c->exit)) != S_OK)
        c->exit.ExitReason = WHvRunVpExitReasonNone;
    return NULL;
}

/* Two processors add to one word, locked, while the page is queried. */
static void locked_by_two_processors(void **state)
{
    enum { ROUNDS = 3000 };
    struct both b;
    struct counting counters[2];
    pthread_t threads[2];
    const WHV_REGISTER_NAME names[] = {WHvX64RegisterRip, WHvX64RegisterCs, WHvX64RegisterRcx, WHvX64RegisterRdi, WHvX64RegisterRflags};
    WHV_REGISTER_VALUE values[5] = {{.Reg64 = CODE}, {.Reg64 = 0}, {.Reg64 = ROUNDS}, {.Reg64 = FAR + 0x18}, {.Reg64 = 2}};
    const struct guest_options two = {.processors = 2};

    (void)state;
    guest_begin(&b.g, &two);
    guest_long_mode(&b.g, 0);
    other_begin(&b.other);
    assert_ok(OwhpOpenProcess((UINT32)b.other.id, &b.process));
    b.at = other_map(&b.other, OTHER_PRIVATE, 0, SIZE);
    assert_ok(WHvMapGpaRange2(b.g.partition, b.process, (void *)b.at, FAR, SIZE, FLAGS(RWX | T)));
    guest_code(&b.g, 0xf0, 0x48, 0xff, 0x07, 0xff, 0xc9, 0x75, 0xf8, 0xf4); /* lock inc qword [rdi]; dec ecx; jnz; hlt */
    assert_ok(WHvCreateVirtualProcessor(b.g.partition, 1, 0));
    static const WHV_REGISTER_NAME same[] = {WHvX64RegisterCr0, WHvX64RegisterCr3, WHvX64RegisterCr4, WHvX64RegisterEfer,
                                             WHvX64RegisterCs, WHvX64RegisterDs, WHvX64RegisterSs};
    WHV_REGISTER_VALUE copy[7];
    assert_ok(WHvGetVirtualProcessorRegisters(b.g.partition, 0, same, 7, copy));
    assert_ok(WHvSetVirtualProcessorRegisters(b.g.partition, 1, same, 7, copy));
    values[1] = copy[4];
    for (UINT32 i = 0; i < 2; i++) {
        assert_ok(WHvSetVirtualProcessorRegisters(b.g.partition, i, names, 5, values));
        counters[i] = (struct counting){.partition = b.g.partition, .vp = i};
        assert_int_equal(pthread_create(&threads[i], NULL, count_up, &counters[i]), 0);
    }
    for (int i = 0; i < 50; i++) {
        dirty(&b);
        nap();
    }
    for (UINT32 i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(counters[i].exit.ExitReason, WHvRunVpExitReasonX64Halt);
    }
    assert_int_equal(other_load(&b.other, b.at + 0x18), 2 * ROUNDS);
    end(&b);
}

/* ---- advice, enumeration ---- */

static void advice(void **state)
{
    const WHV_MEMORY_RANGE_ENTRY all = {FAR, SIZE};
    const WHV_ADVISE_GPA_RANGE_POPULATE read = {.AccessType = WHvMemoryAccessRead}, write = {.AccessType = WHvMemoryAccessWrite};
    struct both b;

    (void)state;
    begin(&b, OTHER_PRIVATE, RW);
    assert_ok(WHvAdviseGpaRange(b.g.partition, &all, 1, WHvAdviseGpaRangeCodePopulate, &read, sizeof(read)));
    assert_ok(WHvAdviseGpaRange(b.g.partition, &all, 1, WHvAdviseGpaRangeCodePopulate, &write, sizeof(write)));
    other_protect(&b.other, b.at + 0x2000, 4096, PROT_READ);
    assert_ok(WHvAdviseGpaRange(b.g.partition, &all, 1, WHvAdviseGpaRangeCodePopulate, &read, sizeof(read)));
    assert_refused(WHvAdviseGpaRange(b.g.partition, &all, 1, WHvAdviseGpaRangeCodePopulate, &write, sizeof(write)), E_ACCESSDENIED);
    assert_refused(WHvAdviseGpaRange(b.g.partition, &all, 1, WHvAdviseGpaRangeCodePin, NULL, 0), E_NOT_SUPPORTED);
    end(&b);
    begin(&b, OTHER_MEMFD, RW);
    assert_ok(WHvAdviseGpaRange(b.g.partition, &all, 1, WHvAdviseGpaRangeCodePopulate, &write, sizeof(write)));
    assert_ok(WHvAdviseGpaRange(b.g.partition, &all, 1, WHvAdviseGpaRangeCodePin, NULL, 0));
    assert_ok(WHvAdviseGpaRange(b.g.partition, &all, 1, WHvAdviseGpaRangeCodeUnpin, NULL, 0));
    end(&b);
}

static void enumerated(void **state)
{
    struct both b;
    OWHP_GPA_RANGE ranges[4];
    UINT32 count;

    (void)state;
    for (int kind = OTHER_PRIVATE; kind <= OTHER_MEMFD; kind++) {
        begin(&b, (enum other_memory)kind, RW | T);
        other_store(&b.other, b.at + 0x3000, 1);
        assert_ok(OwhpEnumerateGpaRanges(b.g.partition, ranges, 4, &count));
        assert_int_equal(count, 3);
        assert_int_equal(ranges[1].GuestAddress, FAR);
        assert_int_equal(ranges[1].SizeInBytes, SIZE);
        assert_int_equal(ranges[1].Source, kind == OTHER_PRIVATE ? OwhpGpaSourceCopiedProcess : OwhpGpaSourceSharedProcess);
        assert_int_equal(ranges[1].SourceAddress, b.at);
        assert_int_equal(ranges[1].ProcessId, b.other.id);
        assert_int_equal(ranges[1].ResidentSizeInBytes, 4096);
        assert_int_equal(ranges[1].Flags, RW | T);
        end(&b);
    }
}

/* ---- handles ---- */

static void handles(void **state)
{
    struct other other;
    HANDLE one, two, none = NULL;

    (void)state;
    WHV_PARTITION_HANDLE partition;
    assert_ok(WHvCreatePartition(&partition));
    assert_refused(OwhpOpenProcess(0, &one), E_INVALIDARG);
    assert_refused(OwhpOpenProcess(0x7ffffffe, &one), E_NOT_FOUND);
    assert_refused(OwhpOpenProcess(0xfffffffe, &one), E_NOT_FOUND);
    assert_refused(OwhpOpenProcess(1, NULL), E_POINTER);
    assert_refused(OwhpOpenProcess(1, WILD), E_POINTER);
    assert_refused(OwhpOpenProcessFromPidfd(-1, &one), E_INVALIDARG);
    assert_refused(OwhpOpenProcessFromPidfd(STDIN_FILENO, &one), E_INVALIDARG);
    assert_refused(OwhpCloseProcess(none), E_HANDLE);
    assert_refused(OwhpCloseProcess(partition), E_HANDLE);
    assert_ok(OwhpCloseProcess(OWN));
    other_begin(&other);
    assert_ok(OwhpOpenProcess((UINT32)other.id, &one));
    assert_ok(OwhpOpenProcess((UINT32)other.id, &two));
    assert_true(one != two);
    assert_ok(OwhpCloseProcess(one));
    assert_refused(OwhpCloseProcess(one), E_HANDLE);
    assert_refused(WHvDeletePartition(two), E_HANDLE);
    assert_ok(OwhpCloseProcess(two));
    UINT32 id = (UINT32)other.id;
    other_end(&other);
    assert_refused(OwhpOpenProcess(id, &one), E_NOT_FOUND);
    assert_ok(WHvDeletePartition(partition));
}

static void from_a_pidfd(void **state)
{
    struct both b;

    (void)state;
    begin(&b, OTHER_PRIVATE, RW);
    int pidfd = (int)syscall(SYS_pidfd_open, b.other.id, 0);
    HANDLE second;
    assert_ok(OwhpOpenProcessFromPidfd(pidfd, &second));
    assert_int_equal(close(pidfd), 0); /* it was ours */
    other_store(&b.other, b.at, 0x99);
    assert_ok(WHvMapGpaRange2(b.g.partition, second, (void *)b.at, FAR, SIZE, FLAGS(RW)));
    UINT64 value = 0;
    assert_ok(WHvReadGpaRange(b.g.partition, 0, FAR, (WHV_ACCESS_GPA_CONTROLS){.AsUINT64 = WHvCacheTypeWriteBack}, &value, 8));
    assert_int_equal(value, 0x99);
    assert_ok(OwhpCloseProcess(second));
    int ended = (int)syscall(SYS_pidfd_open, b.other.id, 0);
    other_kill(&b.other);
    assert_refused(OwhpOpenProcessFromPidfd(ended, &second), E_NOT_FOUND);
    close(ended);
    end(&b);
}

static void own_process(void **state)
{
    struct guest g;
    HANDLE self;
    OWHP_GPA_RANGE ranges[4];
    UINT32 count;

    (void)state;
    guest_begin(&g, NULL);
    assert_ok(OwhpOpenProcess((UINT32)getpid(), &self));
    UINT8 *page = host_pages(1);
    assert_ok(WHvMapGpaRange2(g.partition, self, page, 0x400000, 4096, FLAGS(RW)));
    assert_ok(OwhpEnumerateGpaRanges(g.partition, ranges, 4, &count));
    assert_int_equal(count, 2);
    assert_int_equal(ranges[1].Source, OwhpGpaSourceOwnProcess);
    assert_int_equal(ranges[1].ProcessId, 0);
    assert_ok(WHvMapGpaRange2(g.partition, OWN, page, 0x400000, 4096, FLAGS(R)));
    assert_refused(WHvMapGpaRange2(g.partition, NULL, page, 0x400000, 4096, FLAGS(R)), E_HANDLE);
    assert_refused(WHvMapGpaRange2(g.partition, g.partition, page, 0x400000, 4096, FLAGS(R)), E_HANDLE);
    assert_refused(WHvMapGpaRange2(g.partition, self, page + 1, 0x400000, 4096, FLAGS(R)), E_INVALIDARG);
    assert_ok(OwhpCloseProcess(self));
    assert_refused(WHvMapGpaRange2(g.partition, self, page, 0x400000, 4096, FLAGS(R)), E_HANDLE);
    guest_end(&g);
}

static void arguments(void **state)
{
    struct both b;

    (void)state;
    begin(&b, OTHER_MEMFD, RW);
    WHV_PARTITION_HANDLE p = b.g.partition;
    void *there = (void *)b.at;
    assert_refused(WHvMapGpaRange2(p, b.process, (char *)there + 8, FAR, SIZE, FLAGS(RW)), E_INVALIDARG);
    assert_refused(WHvMapGpaRange2(p, b.process, there, FAR + 8, SIZE, FLAGS(RW)), E_INVALIDARG);
    assert_refused(WHvMapGpaRange2(p, b.process, there, FAR, SIZE + 1, FLAGS(RW)), E_INVALIDARG);
    assert_refused(WHvMapGpaRange2(p, b.process, there, FAR, 0, FLAGS(RW)), E_INVALIDARG);
    assert_refused(WHvMapGpaRange2(p, b.process, there, ~0xfffull, SIZE, FLAGS(RW)), E_INVALIDARG);
    assert_refused(WHvMapGpaRange2(p, b.process, (void *)(uintptr_t)~0xfffull, FAR, SIZE, FLAGS(RW)), E_INVALIDARG);
    assert_refused(WHvMapGpaRange2(p, b.process, there, FAR, SIZE, FLAGS(WHvMapGpaRangeFlagWrite)), E_INVALIDARG);
    assert_refused(WHvMapGpaRange2(p, b.process, there, FAR, SIZE, FLAGS(0x10)), E_INVALIDARG);
    /* Addresses that no process can have are as absent as others. */
    assert_ok(WHvMapGpaRange2(p, b.process, (void *)(uintptr_t)0xffff800000000000, FAR, SIZE, FLAGS(RW)));
    guest_code(&b.g, 0x48, 0x8b, 0x07, 0xf4);
    at(&b, CODE, FAR);
    assert_exit(&b, WHvMemoryAccessRead, FAR);
    end(&b);
}

/* As a user who may not: in a process of its own, which has given up all rights. */
static void without_permission(void **state)
{
    struct other other;
    HANDLE process;
    int status;

    (void)state;
    if (getuid() != 0) {
        print_message("SKIPPED: needs to be root to become somebody else\n");
        return;
    }
    other_begin(&other);
    pid_t child = fork();
    if (child == 0) {
        if (setgroups(0, NULL) || setgid(65534) || setuid(65534))
            _exit(2);
        HRESULT result = OwhpOpenProcess((UINT32)other.id, &process);
        _exit(result == E_ACCESSDENIED && strstr(OwhpGetLastErrorText(), "may not be accessed") ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    other_end(&other);
}

/* Without the privilege to open files by area: through the other's descriptors; what has none is copied. */
static void without_privilege(void **state)
{
    int status;

    (void)state;
    if (getuid() != 0) {
        print_message("SKIPPED: needs to be root to become somebody else\n");
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        if (setgroups(0, NULL) || setgid(65534) || setuid(65534) || prctl(PR_SET_DUMPABLE, 1))
            _exit(2); /* its children may be accessed by it again */
        struct both b;
        OWHP_GPA_RANGE ranges[4];
        UINT32 count;
        begin(&b, OTHER_MEMFD, RW | T);
        assert_ok(OwhpEnumerateGpaRanges(b.g.partition, ranges, 4, &count));
        assert_int_equal(ranges[1].Source, OwhpGpaSourceSharedProcess);
        end(&b);
        begin(&b, OTHER_MEMFD_CLOSED, RW | T);
        assert_ok(OwhpEnumerateGpaRanges(b.g.partition, ranges, 4, &count));
        assert_int_equal(ranges[1].Source, OwhpGpaSourceCopiedProcess);
        end(&b);
        live(OTHER_MEMFD_CLOSED); /* and is as live */
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* The size of a mapping of which single pages are mapped, many times over. */
static void many_mappings(void **state)
{
    struct both b;

    (void)state;
    for (int kind = OTHER_PRIVATE; kind <= OTHER_MEMFD; kind++) {
        begin(&b, (enum other_memory)kind, RW);
        for (UINT64 i = 0; i < 500; i++)
            assert_ok(WHvMapGpaRange2(b.g.partition, b.process, (void *)(b.at + i % PAGES * 4096), FAR + 2 * i * 4096, 4096, FLAGS(RW)));
        guest_code(&b.g, 0xff, 0x07, 0xf4); /* inc dword [rdi]; hlt */
        for (UINT64 i = 1; i < 100; i++) {
            at(&b, CODE, FAR + 2 * i * 4096);
            run_to(&b.g, WHvRunVpExitReasonX64Halt);
        }
        assert_int_equal(other_load(&b.other, b.at + 3 * 4096), 13); /* 3, 11, ... 99 */
        assert_ok(WHvUnmapGpaRange(b.g.partition, FAR, 4096 * 1024));
        end(&b);
    }
}

/* ---- snapshots ---- */

static void store_by_host(struct both *b, UINT8 value)
{
    assert_ok(WHvWriteGpaRange(b->g.partition, 0, FAR + 0x10, (WHV_ACCESS_GPA_CONTROLS){.AsUINT64 = WHvCacheTypeWriteBack}, &value, 1));
}

/* Shared memory and private memory alike; and mapped back after it was unmapped. */
static void snapshots(void **state)
{
    static const enum other_memory kinds[] = {OTHER_PRIVATE, OTHER_MEMFD, OTHER_ANONYMOUS, OTHER_FILE_PRIVATE};

    (void)state;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct both b;
        OWHP_SNAPSHOT_HANDLE s;
        UINT64 pages;

        begin(&b, kinds[i], RW);
        other_store(&b.other, b.at + 0x10, 1);
        assert_ok(OwhpCreateSnapshot(b.g.partition, 0, &s));
        store_by_host(&b, 2);
        assert_int_equal(other_load(&b.other, b.at + 0x10), 2);
        assert_ok(OwhpRestoreSnapshot(b.g.partition, s, OwhpRestoreFlagNone, &pages));
        assert_int_equal(pages, 1);
        assert_int_equal(other_load(&b.other, b.at + 0x10), 1);
        assert_ok(WHvUnmapGpaRange(b.g.partition, FAR, SIZE));
        assert_hr(OwhpRestoreSnapshot(b.g.partition, s, OwhpRestoreFlagNone, &pages), WHV_E_GPA_RANGE_NOT_FOUND);
        assert_ok(OwhpRestoreSnapshot(b.g.partition, s, OwhpRestoreFlagMappings, &pages));
        store_by_host(&b, 3);
        assert_int_equal(other_load(&b.other, b.at + 0x10), 3);
        assert_ok(OwhpRestoreSnapshot(b.g.partition, s, OwhpRestoreFlagNone, &pages));
        assert_int_equal(other_load(&b.other, b.at + 0x10), 1);
        assert_ok(OwhpDestroySnapshot(s));
        end(&b);
    }
}

/* What the process forbids is zeros in a snapshot; the next one sees what it is when the process allows it again. What it forbids
 * to write need not be written if it is what it was. */
static void snapshots_of_what_is_forbidden(void **state)
{
    OWHP_SNAPSHOT_HANDLE first, second;
    struct both b;
    UINT64 pages;

    (void)state;
    begin(&b, OTHER_PRIVATE, RW);
    other_store(&b.other, b.at + 0x10, 1);
    other_protect(&b.other, b.at, 4096, PROT_NONE);
    assert_ok(OwhpCreateSnapshot(b.g.partition, 0, &first));
    other_protect(&b.other, b.at, 4096, PROT_READ | PROT_WRITE);
    assert_ok(OwhpCreateSnapshot(b.g.partition, 0, &second));
    store_by_host(&b, 2);
    assert_ok(OwhpRestoreSnapshot(b.g.partition, second, OwhpRestoreFlagNone, &pages));
    assert_int_equal(other_load(&b.other, b.at + 0x10), 1);
    store_by_host(&b, 3);
    assert_ok(OwhpRestoreSnapshot(b.g.partition, first, OwhpRestoreFlagNone, &pages));
    assert_int_equal(other_load(&b.other, b.at + 0x10), 0);
    other_protect(&b.other, b.at, 4096, PROT_READ);
    assert_ok(WHvUnmapGpaRange(b.g.partition, FAR, SIZE));
    assert_hr(OwhpRestoreSnapshot(b.g.partition, second, OwhpRestoreFlagMappings, &pages), E_ACCESSDENIED);
    assert_ok(OwhpRestoreSnapshot(b.g.partition, first, OwhpRestoreFlagMappings, &pages)); /* it is what it was */
    assert_ok(OwhpDestroySnapshot(first));
    assert_ok(OwhpDestroySnapshot(second));
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("PROC-1", "S openwhp.h: private memory", private_memory),
        CASE("PROC-2", "F 2.5, S: shared memory is live", shared_memory),
        CASE("PROC-3", "F 2.11", private_file),
        CASE("PROC-4", "S: page by page", mixed_range),
        CASE("PROC-5", "S host memory protected", protections),
        CASE("PROC-6", "F 2.1", rights_of_the_mapping),
        CASE("PROC-7", "F 2.9, 2.11: released, allocated again", unmapped_over_there),
        CASE("PROC-8", "F 2.11: the process exits", process_ends),
        CASE("PROC-9", "H OwhpOpenProcess: mappings stay", mapping_outlives_handle),
        CASE("PROC-10", "H: code", code_in_private_memory),
        CASE("PROC-11", "S what sets a dirty bit: page walks", page_tables_in_private_memory),
        CASE("PROC-12", "F 7.3: nothing of the instruction has happened", store_across_pages),
        CASE("PROC-13", "F 2.11", string_and_wide_instructions),
        CASE("PROC-14", "H: locked instructions", locked_by_two_processors),
        CASE("PROC-15", "F 6", advice),
        CASE("PROC-16", "H OwhpEnumerateGpaRanges", enumerated),
        CASE("PROC-17", "H OwhpOpenProcess", handles),
        CASE("PROC-18", "H OwhpOpenProcessFromPidfd", from_a_pidfd),
        CASE("PROC-19", "F 2.11: own process", own_process),
        CASE("PROC-20", "F 2.2", arguments),
        CASE("PROC-21", "F 2.11: rights to the process", without_permission),
        CASE("PROC-22", "H: files without privilege", without_privilege),
        CASE("PROC-23", "F 2.7: MapGpaRange2 handles", many_mappings),
        CASE("PROC-24", "H", snapshots),
        CASE("PROC-31", "H: memory that is protected counts as zeros", snapshots_of_what_is_forbidden),
    };

    return cmocka_run_group_tests_name("memory of another process", tests, NULL, NULL);
}
