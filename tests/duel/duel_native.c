/*
 * The host's processor. A trap in this program enters the signal handler, which replaces the saved context by the
 * case's; the fault that ends the case enters it again, and puts the program's context back.
 *
 * System calls are refused by the kernel (syscall user dispatch): whatever the code does stays in the arena and the
 * registers.
 */
#include "duel.h"

#include <asm/hwcap2.h>
#include <asm/ldt.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "util/check.h"

/* Its shadow memory is where the code under test expects nothing. */
#if defined(__SANITIZE_ADDRESS__)
#define HAS_SHADOW true
#elif defined(__has_feature)
#define HAS_SHADOW __has_feature(address_sanitizer)
#else
#define HAS_SHADOW false
#endif

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON           1
#endif
#define STRICT_SS 4u /* UC_STRICT_RESTORE_SS */
#define LEGACY    416u /* of the FXSAVE image; behind it are the kernel's own fields */

/* The handler runs before anything of this program's is as the compiler expects. */
#define BARE __attribute__((no_sanitize("address", "undefined", "thread"), optimize_attribute))
#ifdef __clang__
#define optimize_attribute no_stack_protector
#else
#define optimize_attribute optimize("no-stack-protector")
#endif

/* Filled by the assembly below at the entry of the handler. */
extern struct duel_seen {
    uint64_t base[2];      /* 0: FS, GS */
    uint64_t host_base[2]; /* 16 */
    uint16_t selector[4];  /* 32: DS, ES, FS, GS */
} duel_seen;
struct duel_seen duel_seen;

void duel_handler(int, siginfo_t *, void *);
void duel_on_signal(int number, siginfo_t *info, void *context);
void duel_native_trap(void);

/* clang-format off */
__asm__(
    ".pushsection .text\n"
    ".globl duel_handler\n"
    "duel_handler:\n"
    "   mov %ds, duel_seen+32(%rip)\n mov %es, duel_seen+34(%rip)\n"
    "   mov %fs, duel_seen+36(%rip)\n mov %gs, duel_seen+38(%rip)\n"
    "   rdfsbase %rax\n mov %rax, duel_seen(%rip)\n rdgsbase %rax\n mov %rax, duel_seen+8(%rip)\n"
    "   xor %eax, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %fs\n mov %eax, %gs\n"
    "   mov duel_seen+16(%rip), %rax\n wrfsbase %rax\n mov duel_seen+24(%rip), %rax\n wrgsbase %rax\n"
    "   pushq $0x202\n popfq\n" /* AC, TF, NT */
    "   jmp duel_on_signal\n"
    ".globl duel_native_trap\n"
    "duel_native_trap:\n"
    "   ud2\n"
    "   ret\n"
    ".popsection\n");
/* clang-format on */

static struct duel_state *volatile current;
static volatile bool running;
static volatile enum duel_end end;
static volatile unsigned cases, ticked_case, ticks;
static void (*watched)(void);
static bool has_avx;
static greg_t host_gregs[__NGREG];
static uint8_t host_vector[1024] __attribute__((aligned(64)));
static struct sigaction previous[NSIG];
static unsigned pinned_cpu;

static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
enum { ES, CS, SS, DS, FS, GS };

BARE static void copy(void *to, const void *from, size_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
}

BARE static void load_vector(uint8_t *fp, const struct duel_state *s)
{
    const uint64_t parts = 7;
    uint64_t header;

    copy(fp, s->fxsave, LEGACY);
    copy(&header, fp + 512, 8);
    header |= has_avx ? parts : parts & 3;
    copy(fp + 512, &header, 8);
    if (has_avx)
        copy(fp + 576, s->upper, sizeof(s->upper));
}

BARE static void store_vector(const uint8_t *fp, struct duel_state *s)
{
    uint64_t header;

    copy(s->fxsave, fp, LEGACY);
    copy(&header, fp + 512, 8);
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 16; k++)
            s->upper[i][k] = 0;
    if (has_avx && (header & 4))
        copy(s->upper, fp + 576, sizeof(s->upper));
}

BARE static void enter(ucontext_t *uc)
{
    const struct duel_state *s = current;
    greg_t *g = uc->uc_mcontext.gregs;

    copy(host_gregs, g, sizeof(host_gregs));
    copy(host_vector, uc->uc_mcontext.fpregs, sizeof(host_vector));
    for (unsigned i = 0; i < 16; i++)
        g[order[i]] = (greg_t)s->gpr[i];
    g[REG_RIP] = (greg_t)s->rip;
    g[REG_EFL] = (greg_t)s->rflags;
    g[REG_CSGSFS] = (greg_t)((uint64_t)s->selector[CS] | (uint64_t)s->selector[SS] << 48);
    uc->uc_flags |= STRICT_SS;
    load_vector((uint8_t *)uc->uc_mcontext.fpregs, s);
    running = true;
    __asm__ volatile("mov %0, %%ds\n mov %1, %%es\n mov %2, %%fs\n mov %3, %%gs"
                     : : "r"((uint32_t)s->selector[DS]), "r"((uint32_t)s->selector[ES]),
                         "r"((uint32_t)s->selector[FS]), "r"((uint32_t)s->selector[GS]));
    if (s->selector[FS] < 4)
        __asm__ volatile("wrfsbase %0" : : "r"(s->base[0]));
    if (s->selector[GS] < 4)
        __asm__ volatile("wrgsbase %0" : : "r"(s->base[1]));
}

BARE static void leave(ucontext_t *uc)
{
    struct duel_state *s = current;
    greg_t *g = uc->uc_mcontext.gregs;

    running = false;
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = (uint64_t)g[order[i]];
    s->rip = (uint64_t)g[REG_RIP];
    s->rflags = (uint64_t)g[REG_EFL];
    s->selector[CS] = (uint16_t)g[REG_CSGSFS];
    s->selector[SS] = (uint16_t)((uint64_t)g[REG_CSGSFS] >> 48);
    s->selector[DS] = duel_seen.selector[0];
    s->selector[ES] = duel_seen.selector[1];
    s->selector[FS] = duel_seen.selector[2];
    s->selector[GS] = duel_seen.selector[3];
    s->base[0] = duel_seen.base[0];
    s->base[1] = duel_seen.base[1];
    s->vector = (uint8_t)g[REG_TRAPNO];
    s->error = (uint32_t)g[REG_ERR];
    s->address = s->vector == VECTOR_PF ? (uint64_t)g[REG_CR2] : 0;
    store_vector((const uint8_t *)uc->uc_mcontext.fpregs, s);
    copy(g, host_gregs, sizeof(host_gregs));
    copy(uc->uc_mcontext.fpregs, host_vector, sizeof(host_vector));
    g[REG_RIP] += 2; /* behind the trap */
}

/* A periodic signal, by processor time: what does not end is ended. */
BARE static void on_tick(ucontext_t *uc)
{
    if (ticked_case != cases) {
        ticked_case = cases;
        ticks = 0;
        return;
    }
    if (++ticks < 3)
        return;
    if (watched)
        watched();
    if (running) {
        leave(uc);
        end = DUEL_ENDLESS;
    }
}

BARE void duel_on_signal(int number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    const bool was_running = running;

    if (number == SIGVTALRM) {
        on_tick(uc);
        /* It comes at any time: what it interrupted gets its segments back. */
        if (was_running && running)
            __asm__ volatile("mov %0, %%ds\n mov %1, %%es\n mov %2, %%fs\n mov %3, %%gs\n wrfsbase %4\n wrgsbase %5"
                             : : "r"((uint32_t)duel_seen.selector[0]), "r"((uint32_t)duel_seen.selector[1]),
                                 "r"((uint32_t)duel_seen.selector[2]), "r"((uint32_t)duel_seen.selector[3]),
                                 "r"(duel_seen.base[0]), "r"(duel_seen.base[1]));
    } else if (was_running) {
        leave(uc);
        end = number == SIGSYS ? DUEL_CALL : DUEL_FAULT;
    } else if (current && uc->uc_mcontext.gregs[REG_RIP] == (greg_t)(uintptr_t)duel_native_trap) {
        enter(uc);
    } else if (previous[number].sa_sigaction) {
        previous[number].sa_sigaction(number, info, context);
    } else {
        signal(number, SIG_DFL);
    }
}

enum duel_end duel_native_run(struct duel_state *state)
{
    cases++;
    current = state;
    end = DUEL_FAULT;
    duel_native_trap();
    current = NULL;
    cases++;
    return end;
}

void duel_native_next(void) { cases++; }

/* ---- preparations ---- */

static const struct user_desc local_table[DUEL_LOCAL] = {
    /* base, limit, 32-bit, contents (0 data, 1 expand-down, 2 code, 3 conforming), read/execute only, pages, not present */
    {0, DUEL_BASE, 0xffff, 0, 2, 0, 0, 0, 0, 0},
    {1, DUEL_BASE, 0xffff, 0, 0, 0, 0, 0, 0, 0},
    {2, DUEL_DATA, 0x17ff, 1, 0, 0, 0, 0, 0, 0},
    {3, DUEL_BASE, 0x3fff, 0, 1, 0, 0, 0, 0, 0},
    {4, DUEL_DATA - 0x1000, 0xfff, 1, 1, 0, 0, 0, 0, 0},
    {5, DUEL_BASE, 0xffff, 1, 0, 1, 0, 0, 0, 0},
    {6, DUEL_BASE, 0xffff, 1, 0, 0, 0, 1, 0, 0},
    {7, DUEL_BASE, 0x1fff, 1, 2, 0, 0, 0, 0, 0},
    {8, DUEL_BASE, 0xffff, 0, 3, 0, 0, 1, 0, 0},
    {9, 0, 0xfffff, 1, 2, 1, 1, 0, 0, 0},
};

/* As the kernel makes it of struct user_desc. */
uint64_t duel_local_descriptor(unsigned index)
{
    const struct user_desc *u = &local_table[index];
    const unsigned type = (unsigned)(u->read_exec_only ^ 1) << 1 | (unsigned)u->contents << 2 | 1;

    return (u->limit & 0xffff) | (uint64_t)(u->base_addr & 0xffffff) << 16 | (uint64_t)type << 40 | 1ull << 44 | 3ull << 45 |
           (uint64_t)(u->seg_not_present ^ 1) << 47 | (uint64_t)(u->limit >> 16) << 48 | (uint64_t)u->useable << 52 |
           (uint64_t)u->seg_32bit << 54 | (uint64_t)u->limit_in_pages << 55 | (uint64_t)(u->base_addr >> 24) << 56;
}

static bool write_local_table(void)
{
    for (unsigned i = 0; i < DUEL_LOCAL; i++) {
        struct user_desc u = local_table[i];
        if (syscall(SYS_modify_ldt, 0x11, &u, sizeof(u)) != 0)
            return false;
    }
    return true;
}

static bool map_arena(void)
{
    static const struct {
        uint64_t at;
        size_t size;
        int rights;
    } pages[] = {{DUEL_CODE, 0x2000, PROT_READ | PROT_WRITE | PROT_EXEC}, {DUEL_DATA, 0x3000, PROT_READ | PROT_WRITE},
                 {DUEL_READ_ONLY, 0x1000, PROT_READ}, {DUEL_STACK, 0x2000, PROT_READ | PROT_WRITE}};
    uint8_t *base = mmap((void *)DUEL_BASE, DUEL_SIZE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    if (base != (uint8_t *)DUEL_BASE)
        return false;
    memset(base, 0, DUEL_SIZE);
    if (mprotect(base, DUEL_SIZE, PROT_NONE) != 0)
        return false;
    for (unsigned i = 0; i < array_size(pages); i++)
        if (mprotect((void *)pages[i].at, pages[i].size, pages[i].rights) != 0)
            return false;
    return true;
}

static bool catch_signals(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGVTALRM};
    static uint8_t stack[1 << 17];
    const stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_sigaction = duel_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};

    sigfillset(&action.sa_mask);
    if (sigaltstack(&alternate, NULL) != 0)
        return false;
    for (unsigned i = 0; i < array_size(signals); i++)
        if (sigaction(signals[i], &action, &previous[signals[i]]) != 0)
            return false;
    return true;
}

static int cannot(const char *why)
{
    fprintf(stderr, "SKIPPED: this host cannot: %s\n", why);
    return 77;
}

unsigned duel_native_cpu(void) { return pinned_cpu; }
bool duel_native_has_avx(void) { return has_avx; }
void duel_native_watch(void (*cancel)(void)) { watched = cancel; }

/* LSL of one of the kernel's descriptors tells the processor's number: it is not to change. */
void duel_native_pin(void)
{
    cpu_set_t set;

    pinned_cpu = (unsigned)sched_getcpu();
    CPU_ZERO(&set);
    CPU_SET(pinned_cpu, &set);
    (void)!sched_setaffinity(0, sizeof(set), &set);
}

int duel_native_init(void)
{
    const struct itimerval period = {.it_interval = {.tv_usec = 30000}, .it_value = {.tv_usec = 30000}};

    has_avx = __builtin_cpu_supports("avx");
    if (HAS_SHADOW)
        return cannot("duels under AddressSanitizer");
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE))
        return cannot("RDFSBASE");
    __asm__("rdfsbase %0" : "=r"(duel_seen.host_base[0]));
    __asm__("rdgsbase %0" : "=r"(duel_seen.host_base[1]));
    if (!map_arena())
        return cannot("code at a fixed address");
    if (!write_local_table())
        return cannot("modify_ldt");
    if (!catch_signals() || setitimer(ITIMER_VIRTUAL, &period, NULL) != 0)
        return cannot("signals");
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, DUEL_BASE + DUEL_SIZE, ~0ul - (DUEL_BASE + DUEL_SIZE) - 1,
              NULL) != 0)
        return cannot("refusing system calls (PR_SET_SYSCALL_USER_DISPATCH)");
    return 0;
}
