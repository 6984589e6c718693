/*
 * State in bulk: the XSAVE image (compacted format, SDM 1 13.4.3), the local APIC's page, counters.
 */
#include <stddef.h>
#include <string.h>

#include "engine/soft/soft.h"
#include "util/last_error.h"
#include "x86/control.h"

/* The image: 512 bytes as FXSAVE64, the 64-byte header, then AVX state when it is presented. */
struct xsave_image {
    struct x87_image legacy; /* XMM registers at byte 160 */
    uint64_t xstate_bv, xcomp_bv;
    uint8_t reserved[48];
    uint64_t avx[16][2]; /* upper halves of YMM registers */
    uint64_t pkru;       /* without AVX it is in avx[0][0] */
    uint64_t end[1];     /* the structure is aligned; nothing is here */
};
_Static_assert(offsetof(struct xsave_image, end) == XSAVE_SIZE_PKRU, "as the processor lays it out");

static uint32_t image_size(uint64_t components)
{
    if (!(components & XCR0_AVX))
        return XSAVE_SIZE_SSE + (components & XCR0_PKRU ? 8 : 0);
    return components & XCR0_PKRU ? XSAVE_SIZE_PKRU : XSAVE_SIZE_AVX;
}

static uint64_t *pkru_of(struct xsave_image *image, uint64_t layout)
{
    return layout & XCR0_AVX ? &image->pkru : &image->avx[0][0];
}

#define LEGACY_XMM(image, i) ((uint8_t *)&(image)->legacy + 160 + 16 * (i))
#define XCOMP_COMPACT BIT64(63)

enum status soft_get_xsave(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written)
{
    const struct cpu *cpu = vcpu->cpu;
    struct xsave_image image = {.legacy = cpu->x87};
    const uint64_t components = cpu_xcr0_mask(cpu);

    *written = image_size(components);
    if (size < *written)
        return fail(STATUS_INSUFFICIENT_BUFFER, "the XSAVE state takes %u bytes, the buffer has %u", *written, size);
    memset((uint8_t *)&image.legacy + 160, 0, sizeof(image.legacy) - 160);
    image.legacy.mxcsr = cpu->mxcsr;
    image.legacy.mxcsr_mask = 0xffff;
    for (unsigned i = 0; i < 16; i++) {
        memcpy(LEGACY_XMM(&image, i), &cpu->vector[i], 16);
        memcpy(image.avx[i], &cpu->vector[i].q[2], 16);
    }
    *pkru_of(&image, components) = cpu->pkru;
    image.xstate_bv = components;
    image.xcomp_bv = XCOMP_COMPACT | components;
    memcpy(buffer, &image, *written);
    return STATUS_OK;
}

/* A component that the header does not name gets its initial configuration, as XRSTOR does it. */
static void load_image(struct cpu *cpu, struct xsave_image *image)
{
    const uint64_t present = image->xstate_bv;
    const struct x87_image initial = {.control = 0x37f};

    /* The standard format (no XCOMP_BV) has all components in their places. */
    const uint64_t layout = image->xcomp_bv & XCOMP_COMPACT ? image->xcomp_bv : XCR0_AVX;

    cpu_set_pkru(cpu, present & XCR0_PKRU ? (uint32_t)*pkru_of(image, layout) : 0);
    cpu->x87 = present & XCR0_X87 ? image->legacy : initial;
    cpu->mxcsr = image->legacy.mxcsr;
    memset(cpu->vector, 0, sizeof(cpu->vector));
    for (unsigned i = 0; i < 16; i++) {
        if (present & XCR0_SSE)
            memcpy(&cpu->vector[i], LEGACY_XMM(image, i), 16);
        if (present & XCR0_AVX)
            memcpy(&cpu->vector[i].q[2], image->avx[i], 16);
    }
}

enum status soft_set_xsave(struct engine_vcpu *vcpu, const void *buffer, uint32_t size)
{
    struct xsave_image image = {0};
    const uint64_t components = cpu_xcr0_mask(vcpu->cpu);
    uint32_t needed = XSAVE_SIZE_SSE;

    if (size >= needed)
        memcpy(&image, buffer, size < sizeof(image) ? size : sizeof(image));
    if (image.xstate_bv & components & (XCR0_AVX | XCR0_PKRU))
        needed = image_size((image.xcomp_bv & XCOMP_COMPACT ? image.xcomp_bv : image.xstate_bv) & components);
    if (size < needed)
        return fail(STATUS_INVALID_ARGUMENT, "the XSAVE state takes %u bytes, not %u", needed, size);
    if (image.legacy.mxcsr & 0xffff0000u)
        return fail(STATUS_INVALID_ARGUMENT, "MXCSR 0x%x has reserved bits", image.legacy.mxcsr);
    if ((image.xstate_bv & ~components) || (image.xcomp_bv & ~(XCOMP_COMPACT | components)))
        return fail(STATUS_INVALID_ARGUMENT, "XSAVE header 0x%llx/0x%llx names state that this processor does not have",
                    (unsigned long long)image.xstate_bv, (unsigned long long)image.xcomp_bv);
    load_image(vcpu->cpu, &image);
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
