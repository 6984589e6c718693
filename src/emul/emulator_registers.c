#include "emul/emulator_registers.h"

#include <string.h>

#include "x86/integer/aflags.h"
#include "x86/system/control.h"

/* First batch: general registers, RIP, RFLAGS, segments, what decoding and translation depend on. */
enum { BASE_SEGMENTS = 18, BASE_CONTROL = BASE_SEGMENTS + 6, BASE_SIZE = BASE_CONTROL + 3 };

static const uint32_t base_names[BASE_SIZE] = {
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, VREG_RIP, VREG_RFLAGS,
    VREG_ES, VREG_CS, VREG_SS, VREG_DS, VREG_FS, VREG_GS, VREG_CR0, VREG_CR4, VREG_EFER,
};

enum { SYSTEM_LDTR, SYSTEM_TR, SYSTEM_IDTR, SYSTEM_GDTR, SYSTEM_CR3, SYSTEM_STATE, SYSTEM_SIZE };

static const uint32_t system_names[SYSTEM_SIZE] = {VREG_LDTR, VREG_TR,  VREG_IDTR,
                                                   VREG_GDTR, VREG_CR3, (uint32_t)VREG_INTERRUPT_STATE};

enum { VECTOR_ST = 16, VECTOR_FP = VECTOR_ST + 8, VECTOR_MXCSR, VECTOR_SIZE };

static const uint32_t vector_names[VECTOR_SIZE] = {
    VREG_XMM0,
    VREG_XMM0 + 1,
    VREG_XMM0 + 2,
    VREG_XMM0 + 3,
    VREG_XMM0 + 4,
    VREG_XMM0 + 5,
    VREG_XMM0 + 6,
    VREG_XMM0 + 7,
    VREG_XMM0 + 8,
    VREG_XMM0 + 9,
    VREG_XMM0 + 10,
    VREG_XMM0 + 11,
    VREG_XMM0 + 12,
    VREG_XMM0 + 13,
    VREG_XMM0 + 14,
    VREG_XMM15,
    VREG_FPMMX0,
    VREG_FPMMX0 + 1,
    VREG_FPMMX0 + 2,
    VREG_FPMMX0 + 3,
    VREG_FPMMX0 + 4,
    VREG_FPMMX0 + 5,
    VREG_FPMMX0 + 6,
    VREG_FPMMX7,
    VREG_FP_CONTROL_STATUS,
    VREG_XMM_CONTROL_STATUS,
};

/* ---- fetching ---- */

static struct segment segment_from(const union vreg_value *v)
{
    return (struct segment){.base = v->segment.base, .limit = v->segment.limit, .selector = v->segment.selector,
                            .attributes = v->segment.attributes};
}

static struct table_register table_from(const union vreg_value *v)
{
    return (struct table_register){.base = v->table.base, .limit = v->table.limit};
}

/* The privilege level is SS.DPL (SDM 3A 5.5), in real mode 0, in virtual-8086 mode 3. */
static uint8_t privilege(const struct cpu *cpu)
{
    if (cpu_is_real(cpu))
        return 0;
    return cpu_is_v86(cpu) ? 3 : (uint8_t)(cpu->segment[SEG_SS].attributes >> SEG_DPL_SHIFT & 3);
}

bool emulator_registers_load(struct emulator_registers *r, struct cpu *cpu, const struct emulator_client *client)
{
    union vreg_value v[BASE_SIZE];

    memset(v, 0, sizeof(v));
    if (!client->callbacks->get_registers(client->context, base_names, BASE_SIZE, v))
        return false;
    for (unsigned i = 0; i < 16; i++)
        r->gpr[i] = cpu->gpr[i].q = v[i].q[0];
    r->rip = cpu->rip = v[16].q[0];
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        r->segment[i] = cpu->segment[i] = segment_from(&v[BASE_SEGMENTS + i]);
    r->cr0 = cpu->cr0 = v[BASE_CONTROL].q[0];
    r->cr4 = cpu->cr4 = v[BASE_CONTROL + 1].q[0];
    cpu->efer = v[BASE_CONTROL + 2].q[0];
    cpu->aflags = aflags_from_rflags(v[17].q[0]);
    cpu->rflags = (v[17].q[0] & ~RFLAGS_ARITHMETIC) | RFLAGS_ONE;
    r->rflags = cpu_rflags(cpu);
    r->cpl = cpu->cpl = privilege(cpu);
    cpu->interrupt_shadow = false;
    cpu->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX; /* an instruction that has come to an exit is enabled */
    r->has_system = r->has_vector = r->has_upper = r->has_pkru = r->traps = false;
    cpu_update_mode(cpu);
    return true;
}

bool emulator_registers_load_system(struct emulator_registers *r, struct cpu *cpu, const struct emulator_client *client)
{
    union vreg_value v[SYSTEM_SIZE];

    memset(v, 0, sizeof(v));
    if (!client->callbacks->get_registers(client->context, system_names, SYSTEM_SIZE, v))
        return false;
    r->segment[SEG_LDTR] = cpu->segment[SEG_LDTR] = segment_from(&v[SYSTEM_LDTR]);
    r->segment[SEG_TR] = cpu->segment[SEG_TR] = segment_from(&v[SYSTEM_TR]);
    r->idtr = cpu->idtr = table_from(&v[SYSTEM_IDTR]);
    r->gdtr = cpu->gdtr = table_from(&v[SYSTEM_GDTR]);
    r->cr3 = cpu->cr3 = v[SYSTEM_CR3].q[0];
    r->nmi_masked = cpu->nmi_masked = v[SYSTEM_STATE].q[0] & 2;
    r->in_shadow = v[SYSTEM_STATE].q[0] & 1;
    r->has_system = true;
    return true;
}

bool emulator_registers_load_vector(struct emulator_registers *r, struct cpu *cpu, const struct emulator_client *client)
{
    union vreg_value v[VECTOR_SIZE];

    memset(v, 0, sizeof(v));
    if (!client->callbacks->get_registers(client->context, vector_names, VECTOR_SIZE, v))
        return false;
    for (unsigned i = 0; i < 16; i++)
        memcpy(&cpu->vector[i], &v[i], 16);
    cpu->x87.control = v[VECTOR_FP].w[0];
    cpu->x87.status = v[VECTOR_FP].w[1];
    cpu->x87.tag = (uint8_t)v[VECTOR_FP].w[2];
    cpu->x87.opcode = v[VECTOR_FP].w[3];
    cpu->x87.instruction_pointer = v[VECTOR_FP].q[1];
    cpu->x87.data_pointer = v[VECTOR_MXCSR].q[0];
    cpu->mxcsr = v[VECTOR_MXCSR].d[2] & 0xffff;
    for (unsigned i = 0; i < 8; i++) { /* as FXSAVE has them: ST(0) first */
        cpu->x87.st[i].mantissa = v[VECTOR_ST + i].q[0];
        cpu->x87.st[i].exponent = v[VECTOR_ST + i].w[4];
    }
    memcpy(r->vector, cpu->vector, sizeof(r->vector));
    r->x87 = cpu->x87;
    r->mxcsr = cpu->mxcsr;
    r->has_vector = true;
    return true;
}

enum { UPPER = 16 };

bool emulator_registers_load_extended(struct emulator_registers *r, struct cpu *cpu, const struct emulator_client *client,
                                      uint64_t components)
{
    uint32_t names[UPPER + 1], count = 0;
    union vreg_value v[UPPER + 1];

    r->has_upper = components & XCR0_AVX;
    r->has_pkru = components & XCR0_PKRU;
    if (r->has_upper)
        for (; count < UPPER; count++)
            names[count] = VREG_YMM0_HIGH + count;
    if (r->has_pkru)
        names[count++] = VREG_PKRU;
    memset(v, 0, sizeof(v));
    if (count && !client->callbacks->get_registers(client->context, names, count, v))
        return false;
    if (r->has_upper)
        for (unsigned i = 0; i < UPPER; i++)
            r->vector[i].q[2] = cpu->vector[i].q[2] = v[i].q[0], r->vector[i].q[3] = cpu->vector[i].q[3] = v[i].q[1];
    if (r->has_pkru)
        r->pkru = cpu->pkru = v[count - 1].d[0];
    return true;
}

bool emulator_registers_progressed(const struct emulator_registers *r, const struct cpu *cpu)
{
    for (unsigned i = 0; i < 16; i++)
        if (r->gpr[i] != cpu->gpr[i].q)
            return true;
    return false;
}

/* ---- storing ---- */

enum { PENDING_SINGLE_STEP = 1 << 4 }; /* WHV_X64_PENDING_DEBUG_EXCEPTION */
enum { CHANGES = BASE_SIZE + SYSTEM_SIZE + VECTOR_SIZE + UPPER + 1 + 2 };

struct changes {
    uint32_t count;
    uint32_t names[CHANGES];
    union vreg_value values[CHANGES];
};

static union vreg_value *add(struct changes *c, uint32_t name)
{
    c->names[c->count] = name;
    c->values[c->count] = (union vreg_value){0};
    return &c->values[c->count++];
}

static void add_if(struct changes *c, uint32_t name, uint64_t before, uint64_t now)
{
    if (unlikely(before != now))
        add(c, name)->q[0] = now;
}

static bool same_segment(const struct segment *a, const struct segment *b)
{
    return a->base == b->base && a->limit == b->limit && a->selector == b->selector && a->attributes == b->attributes;
}

static void add_segments(struct changes *c, const struct emulator_registers *r, const struct cpu *cpu)
{
    unsigned last = r->has_system ? SEG_TR : SEG_GS;

    for (unsigned i = SEG_ES; i <= last; i++) {
        const struct segment *s = &cpu->segment[i];

        if (likely(same_segment(&r->segment[i], s)))
            continue;
        union vreg_value *v = add(c, VREG_ES + i);
        v->segment.base = s->base;
        v->segment.limit = s->limit;
        v->segment.selector = s->selector;
        v->segment.attributes = s->attributes;
    }
}

static void add_table(struct changes *c, uint32_t name, const struct table_register *before, const struct table_register *now)
{
    if (before->base == now->base && before->limit == now->limit)
        return;
    union vreg_value *v = add(c, name);
    v->table.base = now->base;
    v->table.limit = now->limit;
}

static void add_system(struct changes *c, const struct emulator_registers *r, const struct cpu *cpu)
{
    add_table(c, VREG_IDTR, &r->idtr, &cpu->idtr);
    add_table(c, VREG_GDTR, &r->gdtr, &cpu->gdtr);
    if (cpu->interrupt_shadow != r->in_shadow || cpu->nmi_masked != r->nmi_masked)
        add(c, (uint32_t)VREG_INTERRUPT_STATE)->q[0] = (uint64_t)cpu->interrupt_shadow | (uint64_t)cpu->nmi_masked << 1;
}

/* The status word comes before the registers: it says which physical register is the top. */
static void add_x87(struct changes *c, const struct emulator_registers *r, const struct cpu *cpu)
{
    if (!memcmp(&r->x87, &cpu->x87, sizeof(r->x87)))
        return;
    union vreg_value *v = add(c, VREG_FP_CONTROL_STATUS);
    v->w[0] = cpu->x87.control;
    v->w[1] = cpu->x87.status;
    v->w[2] = cpu->x87.tag;
    v->w[3] = cpu->x87.opcode;
    v->q[1] = cpu->x87.instruction_pointer;
    for (unsigned i = 0; i < 8; i++) {
        v = add(c, VREG_FPMMX0 + i);
        v->q[0] = cpu->x87.st[i].mantissa;
        v->w[4] = cpu->x87.st[i].exponent;
    }
}

static void add_vector(struct changes *c, const struct emulator_registers *r, const struct cpu *cpu)
{
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(&r->vector[i], &cpu->vector[i], 16))
            memcpy(add(c, VREG_XMM0 + i), &cpu->vector[i], 16);
    add_x87(c, r, cpu);
    if (r->mxcsr != cpu->mxcsr || r->x87.data_pointer != cpu->x87.data_pointer) {
        union vreg_value *v = add(c, VREG_XMM_CONTROL_STATUS);
        v->q[0] = cpu->x87.data_pointer;
        v->d[2] = cpu->mxcsr;
        v->d[3] = 0xffff;
    }
}

static void add_extended(struct changes *c, const struct emulator_registers *r, const struct cpu *cpu)
{
    if (r->has_upper)
        for (unsigned i = 0; i < UPPER; i++)
            if (memcmp(&r->vector[i].q[2], &cpu->vector[i].q[2], 16))
                memcpy(add(c, VREG_YMM0_HIGH + i), &cpu->vector[i].q[2], 16);
    if (r->has_pkru)
        add_if(c, VREG_PKRU, r->pkru, cpu->pkru);
}

bool emulator_registers_store(const struct emulator_registers *r, const struct cpu *cpu, const struct emulator_client *client,
                              const union vreg_value *event)
{
    struct changes c;

    c.count = 0;
    add(&c, VREG_RIP)->q[0] = cpu->rip;
    add(&c, VREG_RFLAGS)->q[0] = cpu_rflags(cpu);
    for (unsigned i = 0; i < 16; i++)
        add_if(&c, i, r->gpr[i], cpu->gpr[i].q);
    add_segments(&c, r, cpu);
    add_if(&c, VREG_CR0, r->cr0, cpu->cr0);
    if (r->has_system)
        add_system(&c, r, cpu);
    if (r->has_vector) {
        add_vector(&c, r, cpu);
        add_extended(&c, r, cpu);
    }
    if (event)
        *add(&c, (uint32_t)VREG_PENDING_EVENT) = *event;
    if (r->traps)
        add(&c, (uint32_t)VREG_PENDING_DEBUG_EXCEPTION)->q[0] = PENDING_SINGLE_STEP;
    return client->callbacks->set_registers(client->context, c.names, c.count, c.values);
}
