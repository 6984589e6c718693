/*
 * State in bulk: the XSAVE image (compacted format, SDM 1 13.4.3), the local APIC's page, counters.
 */
#include <stddef.h>
#include <string.h>

#include "engine/soft/soft.h"
#include "util/last_error.h"
#include "x86/system/control.h"

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
#define MXCSR_INITIAL 0x1f80u

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

    cpu_set_pkru(cpu, present & XCR0_PKRU ? (uint32_t)*pkru_of(image, image->xcomp_bv) : 0);
    cpu->x87 = present & XCR0_X87 ? image->legacy : initial;
    cpu->mxcsr = present & XCR0_SSE ? image->legacy.mxcsr : MXCSR_INITIAL;
    memset(cpu->vector, 0, sizeof(cpu->vector));
    for (unsigned i = 0; i < 16; i++) {
        if (present & XCR0_SSE)
            memcpy(&cpu->vector[i], LEGACY_XMM(image, i), 16);
        if (present & XCR0_AVX)
            memcpy(&cpu->vector[i].q[2], image->avx[i], 16);
    }
}

/* What XRSTOR would refuse of a compacted image (SDM 1 13.8.2, 13.12), and XRSTOR of another form. */
static const char *header_problem(const struct xsave_image *image, uint64_t components)
{
    static const uint8_t zeros[sizeof(image->reserved)];

    if (!(image->xcomp_bv & XCOMP_COMPACT))
        return "it is not compacted";
    if (image->xcomp_bv & ~(XCOMP_COMPACT | components))
        return "XCOMP_BV names state that this processor does not have";
    if (image->xstate_bv & ~(image->xcomp_bv & ~XCOMP_COMPACT))
        return "XSTATE_BV names state that the image has no place for";
    if (memcmp(image->reserved, zeros, sizeof(zeros)) != 0)
        return "reserved bytes of its header are not 0";
    if ((image->xstate_bv & XCR0_SSE) && (image->legacy.mxcsr & 0xffff0000u))
        return "MXCSR has reserved bits";
    return NULL;
}

enum status soft_set_xsave(struct engine_vcpu *vcpu, const void *buffer, uint32_t size)
{
    struct xsave_image image = {0};

    memcpy(&image, buffer, size < sizeof(image) ? size : sizeof(image));
    const uint32_t needed = image_size(image.xcomp_bv);
    if (size < needed)
        return fail(STATUS_INVALID_ARGUMENT, "the XSAVE image takes %u bytes, not %u", needed, size);
    const char *problem = header_problem(&image, cpu_xcr0_mask(vcpu->cpu));
    if (problem)
        return fail(STATUS_INVALID_ARGUMENT, "XSAVE image (XSTATE_BV 0x%llx, XCOMP_BV 0x%llx): %s",
                    (unsigned long long)image.xstate_bv, (unsigned long long)image.xcomp_bv, problem);
    load_image(vcpu->cpu, &image);
    return STATUS_OK;
}

enum status soft_get_apic(struct engine_vcpu *vcpu, void *buffer, uint32_t size, uint32_t *written)
{
    *written = LAPIC_STATE_SIZE;
    if (!vcpu->lapic)
        return fail(STATUS_INVALID_VP_STATE, "the partition has no local APIC emulation");
    if (size < LAPIC_STATE_SIZE)
        return fail(STATUS_INSUFFICIENT_BUFFER, "the local APIC's state takes %u bytes, the buffer has %u", LAPIC_STATE_SIZE,
                    size);
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

/* ---- the local APIC's page, for others ---- */

void soft_apic_publish(struct engine_vcpu *vcpu, _Atomic uint64_t *page)
{
    if (vcpu->lapic)
        lapic_publish_page(vcpu->lapic, page);
}

bool soft_apic_accepts_write(const struct engine_vcpu *vcpu)
{
    return !vcpu->exit_pending;
}

/*
 * An exit of the write goes out at the next boundary, as that of a store does. There is only one: what has an effect is 4 bytes
 * at the beginning of a register, and of the pieces only the last can be that.
 */
void soft_apic_access(struct engine_vcpu *vcpu, uint32_t offset, uint32_t size, uint8_t *data, bool is_write)
{
    struct vcpu_exit exit;
    uint32_t piece;

    lapic_set_traps(vcpu->lapic, vcpu->partition->config->extended_exits); /* as at the beginning of a run */
    for (uint32_t done = 0; done < size; done += piece) {
        const uint32_t at = offset + done, room = 16 - at % 16;

        piece = size - done < room ? size - done : room;
        if (!is_write)
            lapic_mmio_read(vcpu->lapic, at, (uint8_t)piece, data + done);
        else if (lapic_mmio_write(vcpu->lapic, at, (uint8_t)piece, data + done, &exit) == LAPIC_DONE_EXIT)
            soft_exit_after(vcpu, &exit);
    }
    atomic_fetch_or(&vcpu->cpu->request, REQUEST_INTERRUPT);
}

/* ---- counters ---- */

uint64_t soft_runtime_100ns(const struct engine_vcpu *vcpu)
{
    return runtime_read(&vcpu->counters.runtime);
}

static uint64_t counted(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Instructions that the processor itself has done on the way. */
static void add_instructions(const struct cpu *cpu, struct vcpu_counters *out)
{
    static const uint8_t kinds[CPU_COUNTS] = {
        [CPU_COUNT_INVALIDATION] = INTERCEPT_PAGE_INVALIDATION, [CPU_COUNT_CONTROL] = INTERCEPT_CONTROL_REGISTER,
        [CPU_COUNT_DEBUG] = INTERCEPT_DEBUG_REGISTER, [CPU_COUNT_RDPMC] = INTERCEPT_RDPMC};

    for (unsigned i = 0; i < CPU_COUNTS; i++)
        out->intercept[kinds[i]].count += counted(&cpu->counts[i]);
}

/* Times of single intercepts, and the hypervisor's share, are not taken: the engine is the processor. */
void soft_counters(struct engine_vcpu *vcpu, struct vcpu_counters *out)
{
    const struct counters *counters = &vcpu->counters;

    *out = (struct vcpu_counters){.runtime_100ns = soft_runtime_100ns(vcpu),
                                  .page_faults = counted(&counters->page_faults),
                                  .exceptions = counted(&counters->exceptions),
                                  .interrupts = counted(&counters->interrupts)};
    for (unsigned i = 0; i < INTERCEPT_COUNT; i++)
        out->intercept[i].count = counted(&counters->intercept[i]);
    add_instructions(vcpu->cpu, out);
    if (vcpu->lapic)
        lapic_counters(vcpu->lapic, out);
}
