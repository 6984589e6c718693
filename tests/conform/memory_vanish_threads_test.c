/*
 * Host memory that goes away and comes back while a processor does nothing but change it: an exit each time, before the
 * instruction; what ran on is neither done twice nor lost. The guest counts in memory and in a register.
 */
#include "guest.h"

#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { AREA = 0x140000, PAGE = 4096, ROUNDS = 40 };

struct vanishing {
    struct guest g;
    UINT8 *memory;
    int left_with; /* PROT_NONE, or PROT_READ: loads go on */
    sem_t is_back;
};

/* The counter is at [rdi]; rcx counts too. Up to the JMP, which is put behind. */
static const struct {
    const char *what;
    UINT8 size, code[24];
} programs[] = {
    {"inc [rdi]", 2, {0xff, 0x07}},
    {"lock inc [rdi]", 3, {0xf0, 0xff, 0x07}},
    {"add [rdi], 1", 3, {0x83, 0x07, 0x01}},
    {"mov eax, 1; xadd [rdi], eax", 8, {0xb8, 1, 0, 0, 0, 0x0f, 0xc1, 0x07}},
    {"mov eax, 1; lock xadd [rdi], eax", 9, {0xb8, 1, 0, 0, 0, 0xf0, 0x0f, 0xc1, 0x07}},
    {"lea rax, [rcx + 1]; xchg [rdi], rax", 7, {0x48, 0x8d, 0x41, 0x01, 0x48, 0x87, 0x07}},
    {"mov rax, rcx; lea rdx, [rcx + 1]; lock cmpxchg [rdi], rdx", 12,
     {0x48, 0x89, 0xc8, 0x48, 0x8d, 0x51, 0x01, 0xf0, 0x48, 0x0f, 0xb1, 0x17}},
    {"lea rax, [rcx + 1]; mov [rdi], rax", 7, {0x48, 0x8d, 0x41, 0x01, 0x48, 0x89, 0x07}},
    {"lea rax, [rcx + 1]; stosq; sub rdi, 8", 10, {0x48, 0x8d, 0x41, 0x01, 0x48, 0xab, 0x48, 0x83, 0xef, 0x08}},
    {"lea rsp, [rdi + 8]; lea rax, [rcx + 1]; push rax", 9, {0x48, 0x8d, 0x67, 0x08, 0x48, 0x8d, 0x41, 0x01, 0x50}},
};

static void load(struct vanishing *v, unsigned program)
{
    const unsigned size = programs[program].size;
    UINT8 code[32];

    memcpy(code, programs[program].code, size);
    memcpy(code + size, (const UINT8[]){0x48, 0xff, 0xc1, 0xeb, (UINT8)-(int)(size + 5)}, 5); /* inc rcx; jmp to the start */
    guest_load(&v->g, CODE, code, size + 5);
    memset(v->memory, 0, PAGE);
    guest_set(&v->g, WHvX64RegisterRip, CODE);
    guest_set(&v->g, WHvX64RegisterRdi, AREA + 0x100);
    guest_set(&v->g, WHvX64RegisterRcx, 0);
}

static void *take_away(void *context)
{
    const struct timespec t = {.tv_nsec = 500000};
    struct vanishing *v = context;

    for (int i = 0; i < ROUNDS; i++) {
        nanosleep(&t, NULL);
        mprotect(v->memory, PAGE, v->left_with);
        sem_wait(&v->is_back);
    }
    return NULL;
}

static UINT64 counter(const struct vanishing *v)
{
    UINT64 value;

    memcpy(&value, v->memory + 0x100, sizeof(value));
    return value;
}

static void count(struct vanishing *v, unsigned program)
{
    pthread_t thread;

    load(v, program);
    assert_int_equal(pthread_create(&thread, NULL, take_away, v), 0);
    for (int i = 0; i < ROUNDS; i++) {
        run_to(&v->g, WHvRunVpExitReasonMemoryAccess);
        assert_field(&v->g, MemoryAccess.Gpa, AREA + 0x100);
        assert_field(&v->g, MemoryAccess.AccessInfo.GpaUnmapped, 0);
        assert_int_equal(mprotect(v->memory, PAGE, PROT_READ | PROT_WRITE), 0);
        if (counter(v) != guest_get(&v->g, WHvX64RegisterRcx))
            fail_msg("%s: %llu in memory, %llu in rcx at %#llx, exit %d", programs[program].what, (unsigned long long)counter(v),
                     (unsigned long long)guest_get(&v->g, WHvX64RegisterRcx),
                     (unsigned long long)guest_get(&v->g, WHvX64RegisterRip), i);
        sem_post(&v->is_back);
    }
    pthread_join(thread, NULL);
}

static void vanishes(struct vanishing *v)
{
    guest_begin(&v->g, NULL);
    guest_long_mode(&v->g, 0);
    v->memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_int_equal(sem_init(&v->is_back, 0, 0), 0);
    assert_ok(WHvMapGpaRange(v->g.partition, v->memory, AREA, PAGE, (WHV_MAP_GPA_RANGE_FLAGS)15));
    for (unsigned i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
        count(v, i);
    guest_end(&v->g);
    munmap(v->memory, PAGE);
    sem_destroy(&v->is_back);
}

static void not_even_loads(void **state)
{
    static struct vanishing v = {.left_with = PROT_NONE};

    (void)state;
    vanishes(&v);
}

static void not_stores(void **state)
{
    static struct vanishing v = {.left_with = PROT_READ};

    (void)state;
    vanishes(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("MEX-8", "F 2.9, 7.3: protected under a run", not_even_loads),
        CASE("MEX-9", "F 2.9, 7.3: protected against stores under a run", not_stores),
    };

    return cmocka_run_group_tests_name("memory that vanishes", tests, NULL, NULL);
}
