/*
 * Registers by name. A table of those that are members of struct cpu (register_place.h), and a function per kind of the rest.
 *
 * A batch is set all or nothing: everything is written to the processor, and when one is refused the state from before is put
 * back. Whether the registers fit together is judged at the next run (InvalidVpRegisterValue), because a client sets them in any
 * order and in several batches.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/soft/register_place.h"
#include "engine/soft/soft.h"
#include "util/last_error.h"
#include "x86/system/control.h"
#include "x86/system/msr.h"

/* ---- plain members ---- */

/*
 * Values that no processor can hold are refused at once (whp-facts 9.3), by the rules that WRMSR, XSETBV and MOV DR have. Bits of
 * a row: those that may be set; 0: the value is a canonical address.
 */
#define CANONICAL   0
#define CR0_IGNORED (0xffc0ull | BIT64(17) | 0x1ff80000ull) /* reserved, but neither MOV CR0 nor a monitor is told */

static bool mask_allows(const struct cpu *cpu, uint32_t name, uint64_t value)
{
    static const struct {
        uint32_t name;
        uint64_t bits;
    } rows[] = {
        {VREG_KERNEL_GS_BASE, CANONICAL}, {VREG_LSTAR, CANONICAL},           {VREG_CSTAR, CANONICAL},
        {VREG_SYSENTER_EIP, CANONICAL},   {VREG_SYSENTER_ESP, CANONICAL},    {VREG_SYSENTER_CS, 0xffffffff},
        {VREG_SFMASK, 0xffffffff},        {VREG_TSC_AUX, 0xffffffff},        {VREG_SPEC_CTRL, MSR_SPEC_CTRL_BITS},
        {VREG_DR6, 0xffffffff},           {VREG_DR7, 0xffffffff},
    };

    for (size_t i = 0; i < array_size(rows); i++)
        if (rows[i].name == name)
            return rows[i].bits == CANONICAL ? cpu_is_storable(cpu, value) : !(value & ~rows[i].bits);
    return name != VREG_XSS || !value; /* no supervisor state */
}

static bool is_in(uint32_t name, uint32_t first, unsigned count)
{
    return name >= first && name < first + count;
}

static bool memory_types_allow(const struct cpu *cpu, uint32_t name, uint64_t value)
{
    if (name == VREG_PAT)
        return msr_pat_is_valid(value);
    if (name == VREG_MTRR_DEF_TYPE)
        return msr_mtrr_def_type_is_valid(value);
    if (is_in(name, VREG_MTRR_PHYS_BASE0, 8))
        return msr_mtrr_base_is_valid(cpu, value);
    if (is_in(name, VREG_MTRR_PHYS_MASK0, 8))
        return msr_mtrr_mask_is_valid(cpu, value);
    return name < VREG_MTRR_FIX64K_00000 || name > VREG_MTRR_FIX4K_F8000 || msr_mtrr_fixed_is_valid(value);
}

static enum status set_plain(struct cpu *cpu, uint32_t name, uint64_t *member, uint64_t value)
{
    if (!mask_allows(cpu, name, value) || !memory_types_allow(cpu, name, value) ||
        (name == VREG_XCR0 && !cpu_xcr0_is_valid(cpu, value)))
        return fail(STATUS_HV_INVALID_REGISTER_VALUE, "register 0x%x cannot hold 0x%llx", name, (unsigned long long)value);
    /* Bits that are wired: ET is 1, the reserved ones of DR6 and DR7 have their values (SDM 3A 2.5, 3B 17.2). */
    if (name == VREG_CR0)
        value = (value & ~CR0_IGNORED) | CR0_ET;
    else if (name == VREG_DR6)
        value = (value & DR6_WRITABLE) | DR6_FIXED;
    else if (name == VREG_DR7)
        value = (value & DR7_WRITABLE) | DR7_FIXED;
    *member = value;
    return STATUS_OK;
}

/* ---- floating point ---- */

static bool get_floating_point(const struct cpu *cpu, uint32_t name, union vreg_value *v)
{
    if (name >= VREG_XMM0 && name <= VREG_XMM15) {
        memcpy(v, &cpu->vector[name - VREG_XMM0], 16);
    } else if (name >= VREG_FPMMX0 && name <= VREG_FPMMX7) {
        /* As FXSAVE has them: FpMmx0 is ST(0), so registers and TOP can be set in any order. */
        unsigned i = name - VREG_FPMMX0;
        v->q[0] = cpu->x87.st[i].mantissa;
        v->q[1] = cpu->x87.st[i].exponent;
    } else if (name == VREG_FP_CONTROL_STATUS) {
        v->w[0] = cpu->x87.control;
        v->w[1] = cpu->x87.status;
        v->w[2] = cpu->x87.tag;
        v->w[3] = cpu->x87.opcode;
        v->q[1] = cpu->x87.instruction_pointer;
    } else if (name == VREG_XMM_CONTROL_STATUS) {
        v->q[0] = cpu->x87.data_pointer;
        v->d[2] = cpu->mxcsr;
        v->d[3] = 0xffff;
    } else {
        return false;
    }
    return true;
}

static bool set_floating_point(struct cpu *cpu, uint32_t name, const union vreg_value *v, enum status *status)
{
    if (name >= VREG_XMM0 && name <= VREG_XMM15) {
        memcpy(&cpu->vector[name - VREG_XMM0], v, 16);
    } else if (name >= VREG_FPMMX0 && name <= VREG_FPMMX7) {
        unsigned i = name - VREG_FPMMX0;
        cpu->x87.st[i].mantissa = v->q[0];
        cpu->x87.st[i].exponent = v->w[4];
    } else if (name == VREG_FP_CONTROL_STATUS) {
        cpu->x87.control = v->w[0];
        cpu->x87.status = v->w[1];
        cpu->x87.tag = (uint8_t)v->w[2];
        cpu->x87.opcode = v->w[3] & 0x7ff;
        cpu->x87.instruction_pointer = v->q[1];
    } else if (name == VREG_XMM_CONTROL_STATUS) {
        if (v->d[2] & 0xffff0000u)
            *status = fail(STATUS_HV_INVALID_REGISTER_VALUE, "MXCSR 0x%x has reserved bits", v->d[2]);
        else
            cpu->mxcsr = v->d[2], cpu->x87.data_pointer = v->q[0];
    } else {
        return false;
    }
    return true;
}

/* What the API has no names for (openwhp.h). */
static bool get_extended(const struct cpu *cpu, uint32_t name, union vreg_value *v)
{
    const uint64_t components = cpu_xcr0_mask(cpu);

    if (name >= VREG_YMM0_HIGH && name <= VREG_YMM15_HIGH && (components & XCR0_AVX))
        memcpy(v, &cpu->vector[name - VREG_YMM0_HIGH].q[2], 16);
    else if (name == VREG_PKRU && (components & XCR0_PKRU))
        v->q[0] = cpu->pkru;
    else
        return false;
    return true;
}

static bool set_extended(struct cpu *cpu, uint32_t name, const union vreg_value *v, enum status *status)
{
    if (name >= VREG_YMM0_HIGH && name <= VREG_YMM15_HIGH)
        memcpy(&cpu->vector[name - VREG_YMM0_HIGH].q[2], v, 16);
    else if (name == VREG_PKRU && v->q[0] >> 32)
        *status = fail(STATUS_HV_INVALID_REGISTER_VALUE, "PKRU has 32 bits, not 0x%llx", (unsigned long long)v->q[0]);
    else if (name == VREG_PKRU)
        cpu_set_pkru(cpu, v->d[0]);
    else
        return false;
    return true;
}

/* ---- time, and what has no member ---- */

static bool get_special(struct engine_vcpu *vcpu, uint32_t name, uint64_t *value)
{
    switch (name) {
    case VREG_TSC: *value = tsc_read(&vcpu->tsc); return true;
    case VREG_TSC_ADJUST: *value = tsc_adjust(&vcpu->tsc); return true;
    case VREG_TSC_VIRTUAL_OFFSET: *value = tsc_offset(&vcpu->tsc); return true;
    case VREG_VP_RUNTIME: *value = soft_runtime_100ns(vcpu); return true;
    case VREG_MTRR_CAP: *value = MTRR_CAPABILITIES; return true;
    case VREG_PRED_CMD: *value = 0; return true;
    case VREG_FEATURE_CONTROL: *value = FEATURE_CONTROL_LOCKED; return true;
    default: return false;
    }
}

static bool set_special(struct engine_vcpu *vcpu, uint32_t name, uint64_t value, enum status *status)
{
    uint64_t fixed;

    switch (name) {
    case VREG_TSC: tsc_set(&vcpu->tsc, value); break;
    case VREG_TSC_ADJUST: tsc_set_adjust(&vcpu->tsc, value); break;
    case VREG_TSC_VIRTUAL_OFFSET: tsc_set_offset(&vcpu->tsc, value); break;
    case VREG_PRED_CMD: return true;
    case VREG_MTRR_CAP:
    case VREG_FEATURE_CONTROL:
    case VREG_VP_RUNTIME:
        /* The value it has may be set, so that a batch that was read can be written. */
        if (!get_special(vcpu, name, &fixed) || value != fixed)
            *status = fail(STATUS_HV_ACCESS_DENIED, "register 0x%x is read only", name);
        return true;
    default: return false;
    }
    if (vcpu->lapic)
        lapic_tsc_changed(vcpu->lapic);
    return true;
}

static bool is_apic_name(uint32_t name)
{
    return name == VREG_APIC_BASE || name == VREG_INITIAL_APIC_ID || name == VREG_TSC_DEADLINE ||
           (name >= VREG_APIC_FIRST && name <= VREG_APIC_LAST);
}

/* ---- reading ---- */

static enum status get_apic_register(struct engine_vcpu *vcpu, uint32_t name, union vreg_value *v)
{
    if (vcpu->lapic)
        return lapic_get_register(vcpu->lapic, name, v);
    switch (name) {
    case VREG_APIC_BASE: v->q[0] = vcpu->cpu->apic_base; return STATUS_OK;
    case VREG_INITIAL_APIC_ID: v->q[0] = vcpu->index; return STATUS_OK;
    default: return fail(STATUS_HV_INVALID_PARAMETER, "register 0x%x needs local APIC emulation", name);
    }
}

static noinline enum status get_other(struct engine_vcpu *vcpu, uint32_t name, union vreg_value *v)
{
    struct cpu *cpu = vcpu->cpu;

    *v = (union vreg_value){0};
    if (name == VREG_RFLAGS)
        v->q[0] = cpu_rflags(cpu);
    else if (name == VREG_CR8)
        v->q[0] = vcpu->lapic ? lapic_cr8(vcpu->lapic) : cpu->cr8;
    else if (is_apic_name(name))
        return get_apic_register(vcpu, name, v);
    else if (!get_floating_point(cpu, name, v) && !get_special(vcpu, name, &v->q[0]) && !soft_get_event(vcpu, name, v) &&
             !get_extended(cpu, name, v))
        return fail(STATUS_INVALID_VP_REGISTER_NAME, "register name 0x%x is not known", name);
    return STATUS_OK;
}

static always_inline enum status get_register(struct engine_vcpu *vcpu, uint32_t name, union vreg_value *v)
{
    void *at = NULL;
    const enum register_kind kind = register_place(vcpu->cpu, name, &at);

    if (likely(kind == PLACE_PLAIN)) {
        v->q[0] = *(const uint64_t *)at;
        v->q[1] = 0;
    } else if (kind == PLACE_SEGMENT) {
        const struct segment *segment = at;
        v->segment.base = segment->base;
        v->segment.limit = segment->limit;
        v->segment.selector = segment->selector;
        v->segment.attributes = segment->attributes;
    } else if (kind == PLACE_TABLE) {
        const struct table_register *table = at;
        *v = (union vreg_value){.table = {.base = table->base, .limit = table->limit}};
    } else {
        return get_other(vcpu, name, v);
    }
    return STATUS_OK;
}

enum status soft_get_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, union vreg_value *values)
{
    for (uint32_t i = 0; i < count; i++) {
        enum status status = get_register(vcpu, names[i], &values[i]);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

/* ---- writing ---- */

/*
 * Without an emulated APIC the client has one of its own, and IA32_APIC_BASE is a value that is kept for it (clients set it with
 * all the others).
 */
static enum status check_apic_register(const struct engine_vcpu *vcpu, uint32_t name, const union vreg_value *v)
{
    const uint64_t base_bits = ((BIT64(vcpu->cpu->physical_bits) - 1) & PAGE_MASK) | 0xd00;

    if (vcpu->lapic)
        return lapic_check_register(vcpu->lapic, name, v);
    if (name == VREG_APIC_BASE && (v->q[0] & ~base_bits))
        return fail(STATUS_HV_INVALID_REGISTER_VALUE, "APIC base 0x%llx has reserved bits", (unsigned long long)v->q[0]);
    if (name == VREG_APIC_BASE || (name == VREG_INITIAL_APIC_ID && v->q[0] == vcpu->index))
        return STATUS_OK;
    return fail(STATUS_HV_INVALID_PARAMETER, "register 0x%x needs local APIC emulation", name);
}

static enum status set_apic_register(struct engine_vcpu *vcpu, uint32_t name, const union vreg_value *v)
{
    if (!vcpu->lapic) {
        if (name == VREG_APIC_BASE)
            vcpu->cpu->apic_base = v->q[0];
        return STATUS_OK;
    }
    gpa_t page = lapic_page(vcpu->lapic);
    enum status status = lapic_set_register(vcpu->lapic, name, v);
    if (lapic_page(vcpu->lapic) != page)
        cpu_drop_memory(vcpu->cpu, false);
    return status;
}

static enum status set_cr8(struct engine_vcpu *vcpu, uint64_t value)
{
    if (value > 15)
        return fail(STATUS_HV_INVALID_REGISTER_VALUE, "CR8 0x%llx is above 15", (unsigned long long)value);
    vcpu->cpu->cr8 = value;
    if (vcpu->lapic)
        lapic_set_cr8(vcpu->lapic, value);
    return STATUS_OK;
}

static noinline enum status set_other(struct engine_vcpu *vcpu, uint32_t name, const union vreg_value *v)
{
    struct cpu *cpu = vcpu->cpu;
    enum status status = STATUS_OK;

    if (name == VREG_RFLAGS) {
        cpu_set_rflags(cpu, v->q[0]);
        if (!(v->q[0] & RFLAGS_ONE))
            cpu->rflags &= ~RFLAGS_ONE; /* refused at the next run */
    } else if (name == VREG_CR8) {
        status = set_cr8(vcpu, v->q[0]);
    } else if (is_apic_name(name)) {
        status = set_apic_register(vcpu, name, v);
    } else if (!set_floating_point(cpu, name, v, &status) && !set_special(vcpu, name, v->q[0], &status) &&
               !soft_set_event(vcpu, name, v, &status) && !set_extended(cpu, name, v, &status)) {
        return fail(STATUS_INVALID_VP_REGISTER_NAME, "register name 0x%x is not known", name);
    }
    return status;
}

static enum status set_register(struct engine_vcpu *vcpu, uint32_t name, const union vreg_value *v)
{
    struct cpu *cpu = vcpu->cpu;
    void *at = NULL;

    switch (register_place(cpu, name, &at)) {
    case PLACE_PLAIN:
        if (name > VREG_RIP)
            return set_plain(cpu, name, at, v->q[0]);
        *(uint64_t *)at = v->q[0]; /* these hold anything */
        return STATUS_OK;
    case PLACE_SEGMENT:
        vcpu->segments_unchecked |= (uint8_t)(1u << (name - VREG_ES));
        *(struct segment *)at = (struct segment){.base = v->segment.base, .limit = v->segment.limit,
                                                 .selector = v->segment.selector, .attributes = v->segment.attributes};
        return STATUS_OK;
    case PLACE_TABLE:
        *(struct table_register *)at = (struct table_register){.base = v->table.base, .limit = v->table.limit};
        return STATUS_OK;
    default:
        return set_other(vcpu, name, v);
    }
}

/* Writing RIP, RFLAGS or SS ends an interrupt shadow, unless the batch sets InterruptState too (whp-facts 9.3). */
static bool ends_shadow(const uint32_t *names, uint32_t count)
{
    bool ends = false;

    for (uint32_t i = 0; i < count; i++) {
        if (names[i] == (uint32_t)VREG_INTERRUPT_STATE)
            return false;
        ends |= names[i] == VREG_RIP || names[i] == VREG_RFLAGS || names[i] == VREG_SS;
    }
    return ends;
}

/* Does a register of the batch change what translation or decoding depends on? */
static bool changes_control(const uint32_t *names, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if ((names[i] >= VREG_ES && names[i] <= VREG_CR4) || names[i] == VREG_EFER || names[i] == VREG_DR7 ||
            names[i] == VREG_XCR0)
            return true;
    return false;
}

/* The privilege level is SS.DPL (SDM 3A 5.5; APM 2 4.8.1), in real mode 0, in virtual-8086 mode 3. */
static uint8_t privilege_level(const struct cpu *cpu)
{
    if (cpu_is_real(cpu))
        return 0;
    return cpu_is_v86(cpu) ? 3 : (uint8_t)(cpu->segment[SEG_SS].attributes >> SEG_DPL_SHIFT & 3);
}

/* `before` receives what the registers hold now: what can be read, exists. */
static enum status check_names(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values,
                               union vreg_value *before)
{
    enum status status = soft_get_registers(vcpu, names, count, before);

    for (uint32_t i = 0; i < count && status == STATUS_OK; i++)
        if (is_apic_name(names[i]))
            status = check_apic_register(vcpu, names[i], &values[i]);
    return status;
}

/* Undo: the values from before, in reverse. They were readable, so they can be written. */
static void put_back(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *before)
{
    while (count--)
        if (!is_apic_name(names[count]))
            (void)set_register(vcpu, names[count], &before[count]);
}

/* The APIC's registers were all checked before: they come last and cannot fail. */
static void set_apic_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values)
{
    for (uint32_t i = 0; i < count; i++)
        if (is_apic_name(names[i]))
            (void)set_apic_register(vcpu, names[i], &values[i]);
}

/* `before` has room for what the registers hold now. */
static enum status set_batch(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values,
                             union vreg_value *before)
{
    enum status status = check_names(vcpu, names, count, values, before);

    for (uint32_t i = 0; i < count && status == STATUS_OK; i++) {
        if (is_apic_name(names[i]))
            continue;
        status = set_register(vcpu, names[i], &values[i]);
        if (status != STATUS_OK)
            put_back(vcpu, names, i, before);
    }
    if (status == STATUS_OK)
        set_apic_registers(vcpu, names, count, values);
    return status;
}

enum { ON_STACK = 64 };

static enum status set_any_batch(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values)
{
    union vreg_value stack[ON_STACK], *heap;

    if (likely(count <= ON_STACK))
        return set_batch(vcpu, names, count, values, stack);
    heap = aligned_alloc(16, count * sizeof(*heap));
    if (!heap)
        return fail(STATUS_NO_MEMORY, "no memory for %u registers", count);
    enum status status = set_batch(vcpu, names, count, values, heap);
    free(heap);
    return status;
}

/* What every processor that could run can run with. */
static bool rflags_fit(const struct cpu *cpu, uint64_t vm_before)
{
    return !(cpu->rflags & ~RFLAGS_ALL & ~RFLAGS_ONE) && (cpu->rflags & RFLAGS_ONE) && (cpu->rflags & RFLAGS_VM) == vm_before;
}

/* General registers, an RIP that can be one, flags in the same mode fit to anything: most of what clients set, to finish an
 * instruction by hand. */
static bool may_not_fit(const struct cpu *cpu, const uint32_t *names, uint32_t count, uint64_t vm_before)
{
    for (uint32_t i = 0; i < count; i++)
        if (names[i] > VREG_RFLAGS || (names[i] == VREG_RFLAGS && !rflags_fit(cpu, vm_before)) ||
            (names[i] == VREG_RIP && cpu_is_64(cpu) && !cpu_is_canonical(cpu, cpu->rip)))
            return true;
    return false;
}

enum status soft_set_registers(struct engine_vcpu *vcpu, const uint32_t *names, uint32_t count, const union vreg_value *values)
{
    struct cpu *cpu = vcpu->cpu;
    const uint64_t vm_before = cpu->rflags & RFLAGS_VM;
    enum status status = set_any_batch(vcpu, names, count, values);

    if (status != STATUS_OK)
        return status;
    if (ends_shadow(names, count))
        cpu->interrupt_shadow = cpu->debug_shadow = false;
    if (changes_control(names, count) || cpu->cpl != privilege_level(cpu)) {
        cpu->cpl = privilege_level(cpu);
        cpu_control_changed(cpu);
    }
    vcpu->control_unchecked |= may_not_fit(cpu, names, count, vm_before);
    cpu_interrupts_enabled(cpu);
    atomic_fetch_or(&cpu->request, REQUEST_INTERRUPT);
    return STATUS_OK;
}
