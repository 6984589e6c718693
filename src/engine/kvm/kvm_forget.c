/*
 * An instruction that KVM has begun is finished, and forgotten: KVM_RUN is called with immediate_exit until nothing is pending.
 * The state that was saved before counts again, and memory is to be what it was.
 *
 * Loads get zeros. But where the result is stored in memory at once (PUSH, MOVS, INS), they get what is there already, so that
 * nothing changes but the page's dirty bit. What was computed with the zeros and stored is put back. Strings end after the item:
 * RCX is made 1.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm.h"
#include "os/guarded.h"
#include "x86/code/code.h"
#include "x86/exec.h"
#include "x86/memory/memory.h"
#include "x86/memory/tlb.h"

/* ---- answers ---- */

/* Where an instruction that loads will store at once. */
struct pending_store {
    enum segment_index segment;
    uint64_t mask;    /* of offsets */
    uint64_t offset;  /* PUSH; of strings it is RDI, as KVM has it at each exit */
    unsigned item;    /* bytes; 0: it stores nowhere */
    bool is_string, is_down;
    uint64_t last;    /* the offset of the exit before, */
    unsigned loaded;  /* and bytes of its item that are answered: a load that crosses pages comes in two */
};

static uint64_t mask_of(unsigned bits)
{
    return bits == 64 ? ~0ull : bits == 32 ? 0xffffffffu : 0xffffu;
}

static gva_t linear_at(const struct cpu *cpu, enum segment_index segment, uint64_t offset)
{
    const uint64_t base = cpu->segment[segment].base;

    return cpu_is_64(cpu) ? offset + (segment == SEG_FS || segment == SEG_GS ? base : 0) : (uint32_t)(base + offset);
}

static struct pending_store store_of_load(const struct cpu *cpu, const struct decoded *d)
{
    struct pending_store s = {0};

    switch (d->zydis.mnemonic) {
    case ZYDIS_MNEMONIC_MOVSB: case ZYDIS_MNEMONIC_MOVSW: case ZYDIS_MNEMONIC_MOVSD: case ZYDIS_MNEMONIC_MOVSQ:
    case ZYDIS_MNEMONIC_INSB: case ZYDIS_MNEMONIC_INSW: case ZYDIS_MNEMONIC_INSD:
        if (d->zydis.meta.category == ZYDIS_CATEGORY_DATAXFER)
            return s; /* MOVSD of SSE2 */
        s.is_string = true;
        s.is_down = cpu->rflags & RFLAGS_DF;
        s.mask = mask_of(d->zydis.address_width);
        s.segment = SEG_ES;
        break;
    case ZYDIS_MNEMONIC_PUSH:
        s.offset = cpu->gpr[REG_RSP].q - d->zydis.operand_width / 8;
        s.mask = mask_of(cpu_is_64(cpu) ? 64 : d->zydis.stack_width);
        s.segment = SEG_SS;
        break;
    default:
        return s;
    }
    s.item = d->zydis.operand_width / 8;
    return s;
}

/* What is there already, from byte `at` of the items on: strings go on up or down. */
static void load_stored(struct cpu *cpu, const struct pending_store *s, uint64_t offset, unsigned at, uint8_t *to, size_t size)
{
    for (size_t done = 0, piece; done < size; done += piece) {
        const uint64_t before = (at + done) / s->item * s->item, within = (at + done) % s->item;
        const uint64_t start = (s->is_down ? offset - before : offset + before) & s->mask;
        const gva_t linear = linear_at(cpu, s->segment, start + within);
        const size_t room = PAGE_SIZE - (linear & ~PAGE_MASK);
        const uint8_t *host = mem_direct(cpu, linear, ACCESS_READ);

        piece = s->item - within < size - done ? s->item - within : size - done;
        piece = piece < room ? piece : room;
        if (host && !guarded_copy(to + done, host, piece))
            return;
    }
}

/* What the pending load is to get: what it will store is there already. */
static void answer(struct engine_vcpu *vcpu, struct pending_store *s)
{
    struct kvm_run *run = vcpu->kvm->run;
    const uint64_t offset = s->is_string ? run->s.regs.regs.rdi : s->offset;
    uint8_t *to = NULL;
    size_t size = 0;

    if (run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write) {
        to = run->mmio.data;
        size = run->mmio.len;
    } else if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_IN) {
        to = (uint8_t *)run + run->io.data_offset;
        size = (size_t)run->io.size * run->io.count;
    } else if (run->exit_reason == KVM_EXIT_X86_RDMSR || run->exit_reason == KVM_EXIT_X86_WRMSR) {
        run->msr.error = 0;
        run->msr.data = 0;
    }
    if (!to)
        return;
    memset(to, 0, size);
    if (!s->item)
        return;
    if (offset != s->last || s->loaded >= s->item)
        s->loaded = 0;
    load_stored(vcpu->cpu, s, offset, s->loaded, to, size);
    s->last = offset;
    s->loaded += (unsigned)size;
}

/* KVM would go on with what comes after the item, and that may be memory: copied where the client does not expect it yet. */
static void end_repetition(struct kvm_run *run)
{
    run->s.regs.regs.rcx = 1;
    run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

/* ---- what was stored ---- */

/*
 * What the instruction has computed with our answer is stored where there is memory: the half of a read-modify-write over two
 * pages, the return address of a CALL, an item of MOVS that is partly in memory. It is put back; for to do ADD twice is not to do
 * it once.
 */
struct kept {
    struct {
        uint8_t *host; /* NULL: none */
        size_t size;
        uint8_t bytes[16];
    } part[2];
};

static void keep_part(struct cpu *cpu, gva_t linear, size_t size, struct kept *kept, unsigned i)
{
    uint8_t *host = mem_direct(cpu, linear, ACCESS_READ);

    kept->part[i].size = size;
    kept->part[i].host = host && guarded_copy(kept->part[i].bytes, host, size) ? host : NULL;
}

static void keep(struct cpu *cpu, gva_t linear, size_t size, struct kept *kept)
{
    const size_t room = (size_t)(PAGE_SIZE - (linear & ~PAGE_MASK)), first = size < room ? size : room;

    keep_part(cpu, linear, first, kept, 0);
    if (size > first)
        keep_part(cpu, cpu_is_64(cpu) ? linear + first : (uint32_t)(linear + first), size - first, kept, 1);
}

/* The processor is at an instruction that loads. */
static struct kept keep_stored(struct cpu *cpu, const struct decoded *d, const struct pending_store *store)
{
    enum { MOST = 16 };
    struct kept kept = {0};

    if (store->is_string) {
        keep(cpu, linear_at(cpu, SEG_ES, cpu->gpr[REG_RDI].q & store->mask), store->item, &kept);
        return kept;
    }
    if (d->zydis.mnemonic == ZYDIS_MNEMONIC_CALL) {
        const uint64_t mask = mask_of(cpu_is_64(cpu) ? 64 : d->zydis.stack_width);
        keep(cpu, linear_at(cpu, SEG_SS, (cpu->gpr[REG_RSP].q - MOST) & mask), MOST, &kept);
        return kept;
    }
    cpu->next_rip = kvm_rip_within(cpu, cpu->rip + d->insn.length);
    for (unsigned i = 0; i < d->zydis.operand_count_visible; i++)
        if (d->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && d->operands[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT &&
            (d->operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) && d->operands[i].size <= 8 * MOST)
            keep(cpu, linear_at(cpu, d->insn.memory.segment, operand_offset(cpu, &d->insn)), d->operands[i].size / 8, &kept);
    return kept;
}

static void put_back(const struct kept *kept)
{
    uint8_t now[sizeof(kept->part[0].bytes)];

    for (unsigned i = 0; i < 2; i++)
        if (kept->part[i].host && guarded_copy(now, kept->part[i].host, kept->part[i].size) &&
            memcmp(now, kept->part[i].bytes, kept->part[i].size) != 0)
            (void)!guarded_copy(kept->part[i].host, kept->part[i].bytes, kept->part[i].size);
}

/* ---- forget ---- */

void kvm_forget(struct engine_vcpu *vcpu)
{
    enum { PIECES = 4096 };
    struct kvm_vcpu *k = vcpu->kvm;
    const bool is_load = k->run->exit_reason == KVM_EXIT_MMIO && !k->run->mmio.is_write;
    const bool is_open = k->open.is_open;
    struct pending_store store = {0};
    struct kept kept = {0};
    struct decoded d;

    if (kvm_decode_here(vcpu->cpu, &d)) {
        store = store_of_load(vcpu->cpu, &d);
        if (is_load && !is_open)
            kept = keep_stored(vcpu->cpu, &d, &store);
    }

    kvm_log_grows(vcpu);
    __atomic_store_n(&k->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < PIECES; i++) {
        answer(vcpu, &store);
        if (store.is_string && !is_open)
            end_repetition(k->run);
        if (ioctl(k->fd, KVM_RUN, 0) < 0 && errno == EINTR)
            break; /* nothing is pending any more; after any other failure something may be */
    }
    __atomic_store_n(&k->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    put_back(&kept);
    kvm_ring_drain(vcpu);
    k->mirror.valid = k->mirror.rest_valid = false;
    k->open.is_open = false;
}
