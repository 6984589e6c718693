/*
 * The guest's ways in: the register page of xAPIC mode and the MSRs of x2APIC mode, and
 * IA32_APIC_BASE, which says which of them is there (SDM 3A 11.4, 11.12).
 */
#include "engine/apic/lapic_state.h"

#include <string.h>

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST  0x8ffu

/* Read-only bits, always 0 here; what is written to them does not matter. ICR has none in x2APIC
 * mode, but processors let it pass. */
#define LVT_STATUS     (1u << 12)
#define LVT_REMOTE_IRR (1u << 14)
#define ICR_BUSY       (1u << 12)

bool lapic_is_shown(const struct lapic *lapic)
{
    return lapic_is_enabled(lapic);
}

/* ---- the register page ---- */

gpa_t lapic_page(const struct lapic *lapic)
{
    uint64_t base = lapic_base(lapic);
    bool has_page = (base & (APIC_BASE_ENABLE | APIC_BASE_EXTD)) == APIC_BASE_ENABLE;
    return has_page ? base & PAGE_MASK : LAPIC_NO_PAGE;
}

void lapic_mmio_read(struct lapic *lapic, uint32_t offset, uint8_t size, void *data)
{
    unsigned number = offset / 16, byte = offset % 16;
    lapic_count(&lapic->mmio_count);
    memset(data, 0, size);
    if (!lapic_is_readable(lapic, number)) {
        lapic_error(lapic, ESR_REGISTER);
        return;
    }
    if (byte >= 4)
        return;
    if (number == LAPIC_TPR)
        lapic_count(&lapic->tpr_count);
    uint32_t value = lapic_read_register(lapic, number);
    size_t count = size < 4 - byte ? size : 4 - byte;
    memcpy(data, (const char *)&value + byte, count);
}

enum lapic_result lapic_mmio_write(struct lapic *lapic, uint32_t offset, uint8_t size,
                                   const void *data, struct vcpu_exit *exit)
{
    unsigned number = offset / 16;
    uint32_t value;
    lapic_count(&lapic->mmio_count);
    if (!lapic_is_writable(lapic, number)) {
        if (!lapic_is_readable(lapic, number)) /* a write to a read-only register is no error */
            lapic_error(lapic, ESR_REGISTER);
        return LAPIC_DONE;
    }
    if (size != 4 || offset % 16)
        return LAPIC_DONE;
    memcpy(&value, data, sizeof(value));
    return lapic_write_register(lapic, number, value, exit);
}

/* ---- MSRs ---- */

static enum lapic_result read_x2apic(struct lapic *lapic, unsigned number, uint64_t *value)
{
    if (!lapic_is_x2apic(lapic) || !lapic_is_readable(lapic, number))
        return LAPIC_GP;
    if (number == LAPIC_TPR)
        lapic_count(&lapic->tpr_count);
    *value = number == LAPIC_ICR ? lapic->icr : lapic_read_register(lapic, number);
    return LAPIC_DONE;
}

/* Reserved bits are #GP, and so is anything but 0 to EOI and ESR (SDM 3A 11.12.1.2, table 11-6). */
static bool has_reserved_bits(unsigned number, uint64_t value)
{
    if (number == LAPIC_EOI || number == LAPIC_ESR)
        return value != 0;
    if (number == LAPIC_ICR)
        value = (uint32_t)value & ~ICR_BUSY;
    else if (number == LAPIC_LVT_LINT0 || number == LAPIC_LVT_LINT1)
        value &= ~(uint64_t)(LVT_STATUS | LVT_REMOTE_IRR);
    else if (number >= LAPIC_LVT && number < LAPIC_LVT + LVT_COUNT)
        value &= ~(uint64_t)LVT_STATUS;
    return value & ~(uint64_t)lapic_writable_bits(number);
}

static enum lapic_result write_x2apic(struct lapic *lapic, unsigned number, uint64_t value,
                                      struct vcpu_exit *exit)
{
    if (!lapic_is_x2apic(lapic) || !lapic_is_writable(lapic, number) ||
        has_reserved_bits(number, value))
        return LAPIC_GP;
    if (number == LAPIC_ICR)
        lapic->icr = value & ~UINT64_C(0xffffffff);
    return lapic_write_register(lapic, number, (uint32_t)value, exit);
}

enum lapic_result lapic_msr_read(struct lapic *lapic, uint32_t index, uint64_t *value)
{
    switch (index) {
    case MSR_APIC_BASE:
        *value = lapic_base(lapic);
        return LAPIC_DONE;
    case MSR_TSC_DEADLINE:
        *value = lapic_timer_deadline(lapic);
        return LAPIC_DONE;
    case MSR_X2APIC_FIRST ... MSR_X2APIC_LAST:
        return read_x2apic(lapic, index - MSR_X2APIC_FIRST, value);
    default:
        return LAPIC_NOT_MINE;
    }
}

enum lapic_result lapic_msr_write(struct lapic *lapic, uint32_t index, uint64_t value,
                                  struct vcpu_exit *exit)
{
    switch (index) {
    case MSR_APIC_BASE:
        return lapic_write_base(lapic, value);
    case MSR_TSC_DEADLINE:
        lapic_timer_set_deadline(lapic, value);
        return LAPIC_DONE;
    case MSR_X2APIC_FIRST ... MSR_X2APIC_LAST:
        return write_x2apic(lapic, index - MSR_X2APIC_FIRST, value, exit);
    default:
        return LAPIC_NOT_MINE;
    }
}

/* ---- IA32_APIC_BASE ---- */

/* Of no mode: EXTD without EN; x2APIC where the partition has none; bits beyond the physical
 * address width. */
bool lapic_base_is_legal(const struct lapic *lapic, uint64_t value)
{
    const struct partition_config *config = apic_bus_config(lapic->bus);
    uint32_t width = config->physical_address_bits;
    uint64_t bits = APIC_BASE_BSP | APIC_BASE_ENABLE | PAGE_MASK;
    if (width >= PAGE_SHIFT && width < 64)
        bits &= (UINT64_C(1) << width) - 1;
    if (config->apic_mode == APIC_MODE_X2APIC)
        bits |= APIC_BASE_EXTD;
    return !(value & ~bits) && (!(value & APIC_BASE_EXTD) || (value & APIC_BASE_ENABLE));
}

static enum lapic_result move(struct lapic *lapic, uint64_t value)
{
    gpa_t before = lapic_page(lapic);
    lapic_put_base(lapic, value);
    return lapic_page(lapic) == before ? LAPIC_DONE : LAPIC_DONE_MOVED;
}

/* SDM 3A figure 11-27: out of x2APIC mode only by way of disabled, into it only from xAPIC mode. */
enum lapic_result lapic_write_base(struct lapic *lapic, uint64_t value)
{
    bool was_x2apic = lapic_is_x2apic(lapic), is_x2apic = value & APIC_BASE_EXTD;
    bool was_enabled = lapic_is_enabled(lapic), is_enabled = value & APIC_BASE_ENABLE;
    if (!lapic_base_is_legal(lapic, value))
        return LAPIC_GP;
    if ((was_x2apic && is_enabled && !is_x2apic) || (!was_enabled && is_x2apic))
        return LAPIC_GP;
    return move(lapic, value);
}
