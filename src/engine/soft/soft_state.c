/*
 * State in bulk: the XSAVE image (compacted format, SDM 1 13.4.3), the local APIC's page, counters.
 */
#include <string.h>

#include "engine/soft/soft.h"
#include "util/last_error.h"

/* The image: 512 bytes as FXSAVE64, the 64-byte header, then AVX state when it is presented. */
struct xsave_image {
    struct x87_image legacy; /* XMM registers at byte 160 */
    uint64_t xstate_bv, xcomp_bv;
    uint8_t reserved[48];
};

#define LEGACY_XMM(image, i) ((uint8_t *)&(image)->legacy + 160 + 16 * (i))
#define XSTATE_X87  1ull
#define XSTATE_SSE  2ull
#define XCOMP_COMPACT BIT64(63)

enum status soft_get_xsave(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written)
{
    struct xsave_image image = {.legacy = vcpu->cpu->x87};

    *written = sizeof(image);
    if (size < sizeof(image))
        return fail(STATUS_INSUFFICIENT_BUFFER, "the XSAVE state takes %zu bytes, the buffer has %u", sizeof(image), size);
    memset((uint8_t *)&image.legacy + 160, 0, sizeof(image.legacy) - 160);
    image.legacy.mxcsr = vcpu->cpu->mxcsr;
    image.legacy.mxcsr_mask = 0xffff;
    for (unsigned i = 0; i < 16; i++)
        memcpy(LEGACY_XMM(&image, i), &vcpu->cpu->vector[i], 16);
    image.xstate_bv = XSTATE_X87 | XSTATE_SSE;
    image.xcomp_bv = XCOMP_COMPACT | XSTATE_X87 | XSTATE_SSE;
    memcpy(buffer, &image, sizeof(image));
    return STATUS_OK;
}

enum status soft_set_xsave(struct engine_vcpu *vcpu, const void *buffer, uint32_t size)
{
    struct xsave_image image;
    struct cpu *cpu = vcpu->cpu;

    if (size < sizeof(image))
        return fail(STATUS_INVALID_ARGUMENT, "the XSAVE state takes %zu bytes, not %u", sizeof(image), size);
    memcpy(&image, buffer, sizeof(image));
    if (image.legacy.mxcsr & 0xffff0000u)
        return fail(STATUS_INVALID_ARGUMENT, "MXCSR 0x%x has reserved bits", image.legacy.mxcsr);
    if ((image.xstate_bv & ~(XSTATE_X87 | XSTATE_SSE)) || (image.xcomp_bv & ~(XCOMP_COMPACT | XSTATE_X87 | XSTATE_SSE)))
        return fail(STATUS_INVALID_ARGUMENT, "XSAVE header 0x%llx/0x%llx names state that this processor does not have",
                    (unsigned long long)image.xstate_bv, (unsigned long long)image.xcomp_bv);
    cpu->x87 = image.legacy;
    cpu->mxcsr = image.legacy.mxcsr;
    for (unsigned i = 0; i < 16; i++)
        memcpy(&cpu->vector[i], LEGACY_XMM(&image, i), 16);
    return STATUS_OK;
}

enum status soft_get_apic(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written)
{
    *written = LAPIC_STATE_SIZE;
    if (!vcpu->lapic)
        return fail(STATUS_INVALID_VP_STATE, "the partition has no local APIC emulation");
    if (size < LAPIC_STATE_SIZE)
        return fail(STATUS_INSUFFICIENT_BUFFER, "the local APIC's state takes %u bytes, the buffer has %u", LAPIC_STATE_SIZE, size);
    lapic_save(vcpu->lapic, buffer);
    return STATUS_OK;
}

enum status soft_set_apic(struct engine_vcpu *vcpu, const void *buffer, uint32_t size)
{
    if (!vcpu->lapic)
        return fail(STATUS_INVALID_VP_STATE, "the partition has no local APIC emulation");
    if (size != LAPIC_STATE_SIZE)
        return fail(STATUS_INVALID_ARGUMENT, "the local APIC's state takes %u bytes, not %u", LAPIC_STATE_SIZE, size);
    lapic_restore(vcpu->lapic, buffer);
    atomic_fetch_or(&vcpu->cpu->request, REQUEST_INTERRUPT);
    return STATUS_OK;
}

void soft_counters(struct engine_vcpu *vcpu, struct vcpu_counters *out)
{
    *out = vcpu->counters;
    if (vcpu->lapic)
        lapic_counters(vcpu->lapic, out);
}
