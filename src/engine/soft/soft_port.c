/*
 * The processor's port in the soft engine: guest memory through the partition's space, and an exit for everything that
 * nothing here can serve.
 */
#include <string.h>

#include "engine/soft/soft.h"
#include "os/guarded.h"
#include "x86/integer/aflags.h"
#include "x86/system/debug.h"
#include "x86/system/msr.h"

/* ---- memory ---- */

/* Code and a device, say, take turns: the mapping before the last is kept too. */
static noinline bool find_other_view(struct engine_vcpu *vcpu, gpa_t gpa)
{
    const struct gpa_view last = vcpu->view;

    if (gpa - vcpu->other_view.gpa < vcpu->other_view.size)
        vcpu->view = vcpu->other_view;
    else
        (void)gpa_space_find(vcpu->partition->space, gpa, &vcpu->view);
    vcpu->other_view = last;
    return vcpu->view.host != NULL;
}

bool soft_find_view(struct engine_vcpu *vcpu, gpa_t gpa)
{
    if (likely(gpa - vcpu->view.gpa < vcpu->view.size))
        return vcpu->view.host != NULL;
    return find_other_view(vcpu, gpa);
}

static bool is_apic_page(const struct engine_vcpu *vcpu, gpa_t page)
{
    return vcpu->lapic && lapic_page(vcpu->lapic) == page;
}

static bool port_page(struct cpu *cpu, gpa_t page, enum access_type type, struct port_page *out)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);
    const struct gpa_view *view = &vcpu->view;
    uint32_t flags;

    if (unlikely(is_apic_page(vcpu, page)) || !soft_find_view(vcpu, page))
        return false;
    flags = view->flags;
    if (!(flags & (1u << type)))
        return false;
    if (unlikely(view->source))
        return type == ACCESS_EXECUTE && soft_copied_code(vcpu, page, out);
    out->host = gpa_view_host(view, page);
    out->rights = flags & (PAGE_READ | PAGE_WRITE | PAGE_EXECUTE);
    if (type == ACCESS_WRITE)
        gpa_view_mark_dirty(view, page); /* invariant W: before anybody may store */
    else if (view->dirty)
        out->rights &= ~(uint32_t)PAGE_WRITE;
    if (soft_is_code(vcpu->partition, (uintptr_t)out->host) || unlikely(soft_monitor_is_page(vcpu->partition, (uintptr_t)out->host)))
        out->rights |= PAGE_CODE;
    return true;
}

/* The client is to finish the instruction: what traps then (soft.h, struct unfinished). */
static void note_breakpoints(struct engine_vcpu *vcpu, uint64_t hits)
{
    const struct cpu *cpu = vcpu->cpu;

    vcpu->unfinished = (struct unfinished){.rip = cpu->rip, .next_rip = cpu->next_rip, .rcx = cpu->gpr[REG_RCX].q,
                                           .hits = hits | (cpu->debug_pending & ~cpu->debug_held)};
}

/* Instruction bytes come with exits of unmapped addresses, not with refused ones (whp-facts 7.4). */
static void memory_exit(struct engine_vcpu *vcpu, const struct port_access *access, bool mapped)
{
    struct vcpu_exit *exit = soft_exit_begin(vcpu, EXIT_MEMORY_ACCESS, false);

    exit->memory.gpa = access->gpa;
    exit->memory.gva = access->gva_valid ? access->gva : 0;
    exit->memory.gva_valid = access->gva_valid;
    exit->memory.type = (uint8_t)access->type;
    exit->memory.gpa_unmapped = !mapped;
    if (unlikely(vcpu->cpu->debug_watch & DEBUG_DATA) && access->gva_valid && access->type != ACCESS_EXECUTE &&
        !vcpu->cpu->memory_event)
        note_breakpoints(vcpu, debug_hits_data(vcpu->cpu, access->gva, access->size, access->type));
    if (!mapped && access->type != ACCESS_EXECUTE && !vcpu->cpu->memory_event)
        exit->code.count = (uint8_t)cpu_peek_code(vcpu->cpu, exit->code.bytes);
}

static enum port_result apic_access(struct engine_vcpu *vcpu, const struct port_access *access)
{
    uint32_t offset = (uint32_t)(access->gpa & ~PAGE_MASK);
    struct vcpu_exit exit;

    if (unlikely(access->is_touch))
        return PORT_DONE; /* a read may have effects */
    count(&vcpu->counters.intercept[INTERCEPT_EMULATED]);
    if (access->type == ACCESS_READ) {
        lapic_mmio_read(vcpu->lapic, offset, access->size, access->data);
        return PORT_DONE;
    }
    if (lapic_mmio_write(vcpu->lapic, offset, access->size, access->data, &exit) == LAPIC_DONE_EXIT)
        soft_exit_after(vcpu, &exit);
    return PORT_DONE;
}

/*
 * Memory that is there but cannot be pointed at: another process's. Or readable memory: the first half of a locked
 * read-modify-write that may not write (the store half is what exits, with its data); or host memory that has vanished, which the
 * copy finds out.
 */
static noinline bool mapped_access(struct engine_vcpu *vcpu, const struct port_access *access)
{
    const struct gpa_view *view = &vcpu->view;

    if (view->source)
        return soft_copied_access(vcpu, access);
    return access->type == ACCESS_READ && (view->flags & PAGE_READ) &&
           guarded_copy(access->data, gpa_view_host(view, access->gpa), access->size);
}

static enum port_result port_access(struct cpu *cpu, const struct port_access *access)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);

    if (unlikely(is_apic_page(vcpu, access->gpa & PAGE_MASK)) && access->type != ACCESS_EXECUTE)
        return apic_access(vcpu, access);
    const bool mapped = soft_find_view(vcpu, access->gpa);
    if (mapped ? mapped_access(vcpu, access) : access->type == ACCESS_WRITE && soft_rings_doorbell(vcpu, access))
        return PORT_DONE;
    if (completion_access(vcpu, access) == PORT_DONE)
        return PORT_DONE;
    memory_exit(vcpu, access, mapped);
    count(&vcpu->counters.intercept[INTERCEPT_NESTED_PAGE_FAULT]);
    return PORT_EXIT;
}

static bool port_serves(struct cpu *cpu, gpa_t page, enum access_type type)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);

    return !is_apic_page(vcpu, page) && soft_copied_serves(vcpu, page, type);
}

/* ---- ports ---- */

static union vreg_value segment_of(const struct cpu *cpu, unsigned index)
{
    const struct segment *s = &cpu->segment[index];
    return (union vreg_value){
        .segment = {.base = s->base, .limit = s->limit, .selector = s->selector, .attributes = s->attributes}};
}

static enum port_result port_io(struct cpu *cpu, const struct port_io *io)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);
    struct vcpu_exit *exit = soft_exit_begin(vcpu, EXIT_IO_PORT, true);

    exit->io.port = io->port;
    exit->io.size = io->size;
    exit->io.is_write = io->is_write;
    exit->io.is_string = io->is_string;
    exit->io.has_rep = io->has_rep;
    exit->io.rax = cpu->gpr[REG_RAX].q;
    exit->io.rcx = cpu->gpr[REG_RCX].q;
    exit->io.rsi = cpu->gpr[REG_RSI].q;
    exit->io.rdi = cpu->gpr[REG_RDI].q;
    exit->io.ds = segment_of(cpu, io->is_string && io->is_write ? io->segment : SEG_DS);
    exit->io.es = segment_of(cpu, SEG_ES);
    exit->code.count = (uint8_t)cpu_peek_code(cpu, exit->code.bytes);
    if (unlikely(cpu->debug_watch))
        note_breakpoints(vcpu, debug_hits_io(cpu, io->port, io->size));
    count(&vcpu->counters.intercept[INTERCEPT_IO]);
    return PORT_EXIT;
}

/* ---- model-specific registers ---- */

static enum port_result msr_exit(struct engine_vcpu *vcpu, uint32_t index, bool is_write)
{
    struct vcpu_exit *exit = soft_exit_begin(vcpu, EXIT_MSR_ACCESS, true);

    exit->msr.index = index;
    exit->msr.is_write = is_write;
    exit->msr.rax = vcpu->cpu->gpr[REG_RAX].q;
    exit->msr.rdx = vcpu->cpu->gpr[REG_RDX].q;
    return PORT_EXIT;
}

static bool is_own_msr(uint32_t index)
{
    return index == MSR_TSC || index == MSR_TSC_ADJUST || index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE ||
           (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST);
}

/* Does the partition want an exit for this register? */
static bool wants_msr_exit(const struct engine_vcpu *vcpu, uint32_t index, bool is_write)
{
    const struct partition_config *config = vcpu->partition->config;
    static const struct {
        uint32_t index, bit;
        bool is_write;
    } rows[] = {
        {MSR_TSC, MSR_EXIT_TSC_WRITE, true},           {MSR_TSC, MSR_EXIT_TSC_READ, false},
        {MSR_APIC_BASE, MSR_EXIT_APIC_BASE_WRITE, true}, {MSR_MISC_ENABLE, MSR_EXIT_MISC_ENABLE_READ, false},
        {MSR_MICROCODE_REVISION, MSR_EXIT_MICROCODE_READ, false},
    };

    if (!(config->extended_exits & EXTENDED_EXIT_MSR))
        return false;
    for (size_t i = 0; i < array_size(rows); i++)
        if (rows[i].index == index && rows[i].is_write == is_write && (config->msr_exit_bitmap & rows[i].bit))
            return true;
    return (config->msr_exit_bitmap & MSR_EXIT_UNHANDLED) && !is_own_msr(index) && !msr_is_known(vcpu->cpu, index);
}

enum msr_action_kind { MSR_DEFAULT, MSR_IGNORE, MSR_TO_EXIT };

static enum msr_action_kind msr_action_for(const struct engine_vcpu *vcpu, uint32_t index, bool is_write)
{
    const struct partition_config *config = vcpu->partition->config;

    for (size_t i = 0; i < config->msr_action_count; i++)
        if (config->msr_actions[i].index == index)
            return is_write ? config->msr_actions[i].write : config->msr_actions[i].read;
    if (config->unimplemented_msr_action && !is_own_msr(index) && !msr_is_known(vcpu->cpu, index))
        return config->unimplemented_msr_action;
    return MSR_DEFAULT;
}

/* PORT_DEFAULT: go on. */
static enum port_result msr_policy(struct engine_vcpu *vcpu, uint32_t index, bool is_write)
{
    count(&vcpu->counters.intercept[INTERCEPT_MSR]);
    switch (msr_action_for(vcpu, index, is_write)) {
    case MSR_IGNORE:
        return PORT_DONE;
    case MSR_TO_EXIT:
        return msr_exit(vcpu, index, is_write);
    default:
        return wants_msr_exit(vcpu, index, is_write) ? msr_exit(vcpu, index, is_write) : PORT_DEFAULT;
    }
}

static enum port_result refuse(struct cpu *cpu)
{
    (void)!raise_gp(cpu, 0);
    return PORT_FAULT;
}

static enum port_result lapic_outcome(struct engine_vcpu *vcpu, enum lapic_result result, const struct vcpu_exit *exit)
{
    switch (result) {
    case LAPIC_DONE_EXIT:
        soft_exit_after(vcpu, exit);
        return PORT_DONE;
    case LAPIC_DONE_MOVED:
        cpu_drop_memory(vcpu->cpu, false);
        return PORT_DONE;
    case LAPIC_DONE:
        return PORT_DONE;
    case LAPIC_GP:
        return refuse(vcpu->cpu);
    default:
        return PORT_DEFAULT;
    }
}

static enum port_result port_msr_read(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);
    enum port_result policy = msr_policy(vcpu, index, false);

    if (policy != PORT_DEFAULT) {
        *value = 0;
        return policy;
    }
    switch (index) {
    case MSR_TSC:
        *value = tsc_read(&vcpu->tsc);
        return PORT_DONE;
    case MSR_TSC_ADJUST:
        *value = tsc_adjust(&vcpu->tsc);
        return PORT_DONE;
    default:
        return vcpu->lapic ? lapic_outcome(vcpu, lapic_msr_read(vcpu->lapic, index, value), NULL) : PORT_DEFAULT;
    }
}

static enum port_result port_msr_write(struct cpu *cpu, uint32_t index, uint64_t value)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);
    enum port_result policy = msr_policy(vcpu, index, true);
    struct vcpu_exit exit;

    if (policy != PORT_DEFAULT)
        return policy;
    if (index == MSR_TSC || index == MSR_TSC_ADJUST) {
        if (index == MSR_TSC)
            tsc_write(&vcpu->tsc, value);
        else
            tsc_write_adjust(&vcpu->tsc, value);
        if (vcpu->lapic)
            lapic_tsc_changed(vcpu->lapic);
        return PORT_DONE;
    }
    return vcpu->lapic ? lapic_outcome(vcpu, lapic_msr_write(vcpu->lapic, index, value, &exit), &exit) : PORT_DEFAULT;
}

/* ---- CPUID, RDTSC, hypercalls, exceptions ---- */

/* Later entries win. */
void soft_override_cpuid(const struct engine_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    const struct partition_config *config = vcpu->partition->config;

    for (size_t i = 0; i < config->cpuid_override_count; i++) {
        const struct cpuid_override *o = &config->cpuid_overrides[i];

        if (o->function != leaf || (o->subleaf_specific && o->index != subleaf) || (o->vp_specific && o->vp_index != vcpu->index))
            continue;
        for (unsigned r = 0; r < 4; r++)
            out[r] = (out[r] & ~o->mask[r]) | (o->output[r] & o->mask[r]);
    }
}

void soft_cpuid(struct engine_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    cpuid_read(vcpu->cpu, leaf, subleaf, out);
    if (vcpu->lapic && !lapic_is_shown(vcpu->lapic) && (leaf == 1 || (leaf == 0x80000001 && vcpu->cpu->cpuid.is_amd)))
        out[3] &= ~(1u << 9);
    soft_override_cpuid(vcpu, leaf, subleaf, out);
}

static bool wants_cpuid_exit(const struct partition_config *config, uint32_t leaf)
{
    if (!(config->extended_exits & EXTENDED_EXIT_CPUID))
        return false;
    for (size_t i = 0; i < config->cpuid_exit_count; i++)
        if (config->cpuid_exits[i] == leaf)
            return true;
    return false;
}

static enum port_result port_cpuid(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);

    count(&vcpu->counters.intercept[INTERCEPT_CPUID]);
    soft_cpuid(vcpu, leaf, subleaf, out);
    if (!wants_cpuid_exit(vcpu->partition->config, leaf))
        return PORT_DONE;
    struct vcpu_exit *exit = soft_exit_begin(vcpu, EXIT_CPUID, true);
    exit->cpuid.rax = cpu->gpr[REG_RAX].q;
    exit->cpuid.rcx = cpu->gpr[REG_RCX].q;
    exit->cpuid.rdx = cpu->gpr[REG_RDX].q;
    exit->cpuid.rbx = cpu->gpr[REG_RBX].q;
    exit->cpuid.default_rax = out[0];
    exit->cpuid.default_rbx = out[1];
    exit->cpuid.default_rcx = out[2];
    exit->cpuid.default_rdx = out[3];
    return PORT_EXIT;
}

static enum port_result port_rdtsc(struct cpu *cpu, bool is_rdtscp, uint64_t *value)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);

    if (is_rdtscp)
        __builtin_ia32_lfence(); /* it waits for the loads before it (SDM 2B RDTSCP) */
    *value = tsc_read(&vcpu->tsc);
    if (!(vcpu->partition->config->extended_exits & EXTENDED_EXIT_RDTSC))
        return PORT_DONE;
    struct vcpu_exit *exit = soft_exit_begin(vcpu, EXIT_RDTSC, true);
    count(&vcpu->counters.intercept[INTERCEPT_OTHER]);
    exit->rdtsc.tsc_aux = cpu->tsc_aux;
    exit->rdtsc.virtual_offset = tsc_offset(&vcpu->tsc);
    exit->rdtsc.tsc = *value;
    exit->rdtsc.reference_time = clock_reference_time(&vcpu->partition->clock);
    exit->rdtsc.is_rdtscp = is_rdtscp;
    return PORT_EXIT;
}

static enum port_result port_hypercall(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);

    if (!(vcpu->partition->config->extended_exits & EXTENDED_EXIT_HYPERCALL))
        return PORT_DEFAULT;
    struct vcpu_exit *exit = soft_exit_begin(vcpu, EXIT_HYPERCALL, true);
    exit->hypercall.rax = cpu->gpr[REG_RAX].q;
    exit->hypercall.rbx = cpu->gpr[REG_RBX].q;
    exit->hypercall.rcx = cpu->gpr[REG_RCX].q;
    exit->hypercall.rdx = cpu->gpr[REG_RDX].q;
    exit->hypercall.r8 = cpu->gpr[8].q;
    exit->hypercall.rsi = cpu->gpr[REG_RSI].q;
    exit->hypercall.rdi = cpu->gpr[REG_RDI].q;
    for (unsigned i = 0; i < 6; i++)
        memcpy(exit->hypercall.xmm[i], cpu->vector[i].q, 16);
    count(&vcpu->counters.intercept[INTERCEPT_HYPERCALL]);
    return PORT_EXIT;
}

bool soft_exception_exit(struct engine_vcpu *vcpu, const struct cpu_fault *fault)
{
    const struct partition_config *config = vcpu->partition->config;

    if (!(config->extended_exits & EXTENDED_EXIT_EXCEPTION) || fault->vector >= 64 ||
        !(config->exception_exit_bitmap >> fault->vector & 1))
        return false;
    count(&vcpu->counters.intercept[fault->vector == VECTOR_PF ? INTERCEPT_PAGE_FAULT : INTERCEPT_OTHER]);
    struct vcpu_exit *exit = soft_exit_begin(vcpu, EXIT_EXCEPTION, false);
    exit->exception.vector = fault->vector;
    /* Only INT3, INTO and INT1 come as #BP, #OF and a #DB without a cause. */
    exit->exception.is_software = fault->vector == VECTOR_BP || fault->vector == VECTOR_OF ||
                                  (fault->vector == VECTOR_DB && fault->is_trap && !fault->debug);
    exit->exception.has_error = fault->has_error;
    exit->exception.error = fault->error;
    exit->exception.parameter = fault->vector == VECTOR_PF ? fault->address : fault->vector == VECTOR_DB ? fault->debug : 0;
    exit->code.count = (uint8_t)cpu_peek_code(vcpu->cpu, exit->code.bytes);
    return true;
}

static enum port_result port_exception(struct cpu *cpu, const struct cpu_fault *fault)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);

    if (soft_exception_exit(vcpu, fault))
        return PORT_EXIT;
    count(&vcpu->counters.exceptions);
    if (fault->vector == VECTOR_PF)
        count(&vcpu->counters.page_faults);
    return PORT_DEFAULT;
}

static uint64_t port_read_cr8(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);
    if (!vcpu->lapic)
        return cpu->cr8;
    lapic_count_tpr(vcpu->lapic);
    return lapic_cr8(vcpu->lapic);
}

static void port_write_cr8(struct cpu *cpu, uint64_t value)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);

    cpu->cr8 = value;
    if (vcpu->lapic) {
        lapic_count_tpr(vcpu->lapic);
        lapic_set_cr8(vcpu->lapic, value);
    } else {
        cpu_interrupts_enabled(cpu);
    }
}

const struct cpu_port soft_port = {
    .page = port_page,
    .access = port_access,
    .serves = port_serves,
    .io = port_io,
    .msr_read = port_msr_read,
    .msr_write = port_msr_write,
    .cpuid = port_cpuid,
    .rdtsc = port_rdtsc,
    .hypercall = port_hypercall,
    .exception = port_exception,
    .read_cr8 = port_read_cr8,
    .write_cr8 = port_write_cr8,
    .code_page = soft_code_page,
    .code_page_dropped = soft_code_page_dropped,
    .code_written = soft_code_written,
    .monitor = soft_monitor_executed,
    .wait = soft_monitor_wait,
    .exclusive_begin = soft_exclusive_begin,
    .exclusive_end = soft_exclusive_end,
};
