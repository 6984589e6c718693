#include "silicon_native.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "util/compiler.h"
#include "util/check.h"

/* What the assembly below shares with us; the offsets are in it. */
struct native_block {
    uint64_t gpr[16];  /* 0 */
    uint64_t rflags;   /* 128 */
    uint64_t target;   /* 136 */
    uint64_t host_rsp; /* 144 */
    uint64_t path;     /* 152: which way out was taken */
    uint32_t far_offset; /* 160: m16:32 of the 32-bit entry */
    uint16_t far_selector;
};

extern struct native_block native_block;
struct native_block native_block;

void native_enter(void);
void native_enter_32(void);
void native_recover(void);
void native_exit_0(void);
void native_exit_1(void);
void native_exit_2(void);

/* clang-format off */
__asm__(
    ".pushsection .text\n"
    ".macro native_load_registers\n"
    "   pushq native_block+128(%rip)\n popfq\n"
    "   movq native_block(%rip), %rax\n movq native_block+8(%rip), %rcx\n movq native_block+16(%rip), %rdx\n"
    "   movq native_block+24(%rip), %rbx\n movq native_block+40(%rip), %rbp\n movq native_block+48(%rip), %rsi\n"
    "   movq native_block+56(%rip), %rdi\n movq native_block+64(%rip), %r8\n movq native_block+72(%rip), %r9\n"
    "   movq native_block+80(%rip), %r10\n movq native_block+88(%rip), %r11\n movq native_block+96(%rip), %r12\n"
    "   movq native_block+104(%rip), %r13\n movq native_block+112(%rip), %r14\n movq native_block+120(%rip), %r15\n"
    "   movq native_block+32(%rip), %rsp\n"
    ".endm\n"
    ".macro native_save_host\n"
    "   pushq %rbx\n pushq %rbp\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    "   movq %rsp, native_block+144(%rip)\n"
    ".endm\n"
    "native_enter:\n"
    "   native_save_host\n"
    "   native_load_registers\n"
    "   jmp *native_block+136(%rip)\n"
    "native_enter_32:\n"
    "   native_save_host\n"
    "   movl $0x2b, %eax\n movl %eax, %ds\n movl %eax, %es\n"
    "   native_load_registers\n"
    "   ljmpl *native_block+160(%rip)\n"
    "native_exit_1:\n movq $1, native_block+152(%rip)\n jmp native_exit_0\n"
    "native_exit_2:\n movq $2, native_block+152(%rip)\n"
    "native_exit_0:\n"
    "   movq %rax, native_block(%rip)\n movq %rcx, native_block+8(%rip)\n movq %rdx, native_block+16(%rip)\n"
    "   movq %rbx, native_block+24(%rip)\n movq %rsp, native_block+32(%rip)\n movq %rbp, native_block+40(%rip)\n"
    "   movq %rsi, native_block+48(%rip)\n movq %rdi, native_block+56(%rip)\n movq %r8, native_block+64(%rip)\n"
    "   movq %r9, native_block+72(%rip)\n movq %r10, native_block+80(%rip)\n movq %r11, native_block+88(%rip)\n"
    "   movq %r12, native_block+96(%rip)\n movq %r13, native_block+104(%rip)\n movq %r14, native_block+112(%rip)\n"
    "   movq %r15, native_block+120(%rip)\n"
    "   movq native_block+144(%rip), %rsp\n"
    "   pushfq\n popq native_block+128(%rip)\n"
    "native_recover:\n"
    "   pushq $0x202\n popfq\n"
    "   popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbp\n popq %rbx\n"
    "   ret\n"
    ".popsection\n");
/* clang-format on */

static struct native_state *current;
static bool is_32_placed;
static unsigned placed_length;
static uint8_t *writable_code;

/*
 * A fault outside the arena is that of fetching at a branch target that is not there: the instruction itself has
 * happened. Inside it is the instruction's; anything else is our own mistake.
 */
static void on_signal(int number, siginfo_t *info, void *context)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    greg_t *gregs = ((ucontext_t *)context)->uc_mcontext.gregs;

    (void)number, (void)info;
    check(current);
    for (unsigned i = 0; i < 16; i++)
        current->gpr[i] = (uint64_t)gregs[order[i]];
    current->rflags = (uint64_t)gregs[REG_EFL];
    current->rip = (uint64_t)gregs[REG_RIP];
    current->has_fault = current->rip == NATIVE_AT;
    current->went_elsewhere = !current->has_fault;
    check(current->rip < ARENA_BASE || current->rip >= ARENA_BASE + ARENA_SIZE || current->has_fault);
    current->vector = (uint8_t)gregs[REG_TRAPNO];
    current->error = (uint32_t)gregs[REG_ERR];
    current->address = (uint64_t)gregs[REG_CR2];
    gregs[REG_RIP] = (greg_t)(uintptr_t)native_recover;
    gregs[REG_RSP] = (greg_t)native_block.host_rsp;
    gregs[REG_EFL] = 0x202;
    gregs[REG_CSGSFS] = (gregs[REG_CSGSFS] & ~(greg_t)0xffff) | 0x33;
}

/* The code page twice: executable at its place, writable (by us only) elsewhere. */
static bool map_code(void)
{
    const int file = memfd_create("silicon", MFD_CLOEXEC);
    const int prot = PROT_READ | PROT_EXEC;

    if (file < 0 || ftruncate(file, PAGE_SIZE) != 0)
        return false;
    writable_code = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mmap((void *)ARENA_CODE, PAGE_SIZE, prot, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
        return false;
    close(file);
    return writable_code != MAP_FAILED;
}

static bool map_arena(void)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    uint8_t *base = mmap((void *)ARENA_BASE, ARENA_SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);

    if (base == MAP_FAILED || !map_code())
        return false;
    /* Touched, so that the faults of the read-only page are those of a page that is there. */
    memset(base + PAGE_SIZE, 0, ARENA_SIZE - PAGE_SIZE);
    return mprotect((void *)ARENA_NOTHING, PAGE_SIZE, PROT_NONE) == 0 &&
           mprotect((void *)ARENA_READ_ONLY, PAGE_SIZE, PROT_READ) == 0 &&
           mprotect((void *)(ARENA_READ_ONLY + 0x1000), PAGE_SIZE, PROT_NONE) == 0 &&
           mprotect((void *)(ARENA_STACK + 0x1000), PAGE_SIZE, PROT_NONE) == 0;
}

bool native_init(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    static uint8_t stack[1 << 16];
    const stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    if (!map_arena() || sigaltstack(&alternate, NULL) != 0)
        return false;
    for (unsigned i = 0; i < array_size(signals); i++)
        if (sigaction(signals[i], &action, NULL) != 0)
            return false;
    return true;
}

/* A jump to a way out: jmp *0(%rip) and the address; 32-bit code first changes into 64-bit code. */
static void place_exit(uint64_t at, void (*to)(void), bool from_32)
{
    uint8_t *p = writable_code + (at - ARENA_CODE);
    const uint64_t address = (uint64_t)(uintptr_t)to;

    if (from_32) {
        const uint32_t next = (uint32_t)at + 7;
        *p = 0xea;
        memcpy(p + 1, &next, 4);
        memcpy(p + 5, "\x33\x00", 2);
        p += 7;
    }
    memcpy(p, "\xff\x25\x00\x00\x00\x00", 6);
    memcpy(p + 6, &address, 8);
}

void native_place(const uint8_t *bytes, unsigned length, bool is_32)
{
    memcpy(writable_code + (NATIVE_AT - ARENA_CODE), bytes, length);
    place_exit(NATIVE_AT + length, native_exit_0, is_32);
    place_exit(NATIVE_FORWARD, native_exit_1, is_32);
    place_exit(NATIVE_BACKWARD, native_exit_2, is_32);
    is_32_placed = is_32;
    placed_length = length;
}

void native_run(struct native_state *state)
{
    const uint64_t ends[3] = {NATIVE_AT + placed_length, NATIVE_FORWARD, NATIVE_BACKWARD};

    memcpy(native_block.gpr, state->gpr, sizeof(state->gpr));
    native_block.rflags = state->rflags;
    native_block.target = native_block.far_offset = NATIVE_AT;
    native_block.far_selector = 0x23;
    native_block.path = 0;
    state->has_fault = state->went_elsewhere = false;
    current = state;
    if (is_32_placed)
        native_enter_32();
    else
        native_enter();
    current = NULL;
    if (state->has_fault || state->went_elsewhere)
        return;
    memcpy(state->gpr, native_block.gpr, sizeof(state->gpr));
    state->rflags = native_block.rflags;
    state->rip = ends[native_block.path];
}

bool native_has_32(void)
{
    static const uint8_t inc_eax = 0x40; /* a REX prefix in 64-bit code */
    struct native_state state = {.gpr[0] = 1, .rflags = 0x202, .gpr[4] = ARENA_STACK + 0x800};

    native_place(&inc_eax, 1, true);
    native_run(&state);
    return !state.has_fault && (uint32_t)state.gpr[0] == 2;
}
