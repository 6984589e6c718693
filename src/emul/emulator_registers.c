#include "emul/emulator_registers.h"

#include <string.h>

#include "x86/aflags.h"

/* First batch: general registers, RIP, RFLAGS, segments, control. */
enum { BATCH_SEGMENTS = 18, BATCH_TABLES = BATCH_SEGMENTS + 8, BATCH_CONTROL = BATCH_TABLES + 2, BATCH_SIZE = BATCH_CONTROL + 5 };

static const uint32_t batch[BATCH_SIZE] = {
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, VREG_RIP, VREG_RFLAGS,
    VREG_ES, VREG_CS, VREG_SS, VREG_DS, VREG_FS, VREG_GS, VREG_LDTR, VREG_TR, VREG_IDTR, VREG_GDTR,
    VREG_CR0, VREG_CR2, VREG_CR3, VREG_CR4, VREG_EFER,
};

/* Second batch: vector and floating-point registers. */
enum { VECTOR_ST = 16, VECTOR_FP = VECTOR_ST + 8, VECTOR_MXCSR, VECTOR_SIZE };

static void vector_names(uint32_t names[VECTOR_SIZE])
{
    for (unsigned i = 0; i < 16; i++)
        names[i] = VREG_XMM0 + i;
    for (unsigned i = 0; i < 8; i++)
        names[VECTOR_ST + i] = VREG_FPMMX0 + i;
    names[VECTOR_FP] = VREG_FP_CONTROL_STATUS;
    names[VECTOR_MXCSR] = VREG_XMM_CONTROL_STATUS;
}

/* FpMmx registers go by their physical number, the image by their distance from the top of the stack. */
static unsigned image_slot(const struct cpu *cpu, unsigned physical)
{
    return (physical - (cpu->x87.status >> 11 & 7)) & 7;
}

static void unpack(struct cpu *cpu, const union vreg_value *v)
{
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i].q = v[i].q[0];
    cpu->rip = v[16].q[0];
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->segment[i] = (struct segment){.base = v[BATCH_SEGMENTS + i].segment.base, .limit = v[BATCH_SEGMENTS + i].segment.limit,
                                           .selector = v[BATCH_SEGMENTS + i].segment.selector,
                                           .attributes = v[BATCH_SEGMENTS + i].segment.attributes};
    cpu->idtr = (struct table_register){.base = v[BATCH_TABLES].table.base, .limit = v[BATCH_TABLES].table.limit};
    cpu->gdtr = (struct table_register){.base = v[BATCH_TABLES + 1].table.base, .limit = v[BATCH_TABLES + 1].table.limit};
    cpu->cr0 = v[BATCH_CONTROL].q[0];
    cpu->cr2 = v[BATCH_CONTROL + 1].q[0];
    cpu->cr3 = v[BATCH_CONTROL + 2].q[0];
    cpu->cr4 = v[BATCH_CONTROL + 3].q[0];
    cpu->efer = v[BATCH_CONTROL + 4].q[0];
    cpu->rflags = 0;
    cpu->cpl = cpu->cr0 & CR0_PE ? (v[17].q[0] & RFLAGS_VM ? 3 : (uint8_t)(cpu->segment[SEG_SS].attributes >> SEG_DPL_SHIFT & 3)) : 0;
    cpu_set_rflags(cpu, v[17].q[0]);
    cpu_update_mode(cpu);
}

bool emulator_registers_load(struct emulator_registers *r, struct cpu *cpu, const struct emulator_callbacks *callbacks, void *context)
{
    union vreg_value values[BATCH_SIZE];

    memset(values, 0, sizeof(values));
    if (!callbacks->get_registers(context, batch, BATCH_SIZE, values))
        return false;
    unpack(cpu, values);
    for (unsigned i = 0; i < 16; i++)
        r->gpr[i] = cpu->gpr[i].q;
    r->rip = cpu->rip;
    r->rflags = cpu_rflags(cpu);
    r->has_vector = false;
    return true;
}

bool emulator_registers_load_vector(struct emulator_registers *r, struct cpu *cpu, const struct emulator_callbacks *callbacks, void *context)
{
    uint32_t names[VECTOR_SIZE];
    union vreg_value v[VECTOR_SIZE];

    vector_names(names);
    memset(v, 0, sizeof(v));
    if (!callbacks->get_registers(context, names, VECTOR_SIZE, v))
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
    for (unsigned i = 0; i < 8; i++) {
        cpu->x87.st[image_slot(cpu, i)].mantissa = v[VECTOR_ST + i].q[0];
        cpu->x87.st[image_slot(cpu, i)].exponent = v[VECTOR_ST + i].w[4];
    }
    memcpy(r->vector, cpu->vector, sizeof(r->vector));
    r->x87 = cpu->x87;
    r->mxcsr = cpu->mxcsr;
    r->has_vector = true;
    return true;
}

bool emulator_registers_changed(const struct emulator_registers *r, const struct cpu *cpu)
{
    for (unsigned i = 0; i < 16; i++)
        if (r->gpr[i] != cpu->gpr[i].q)
            return true;
    return r->rip != cpu->rip || r->rflags != cpu_rflags(cpu);
}

/* ---- storing ---- */

struct changes {
    uint32_t names[18 + SEG_COUNT + VECTOR_SIZE];
    union vreg_value values[18 + SEG_COUNT + VECTOR_SIZE];
    uint32_t count;
};

static union vreg_value *add(struct changes *c, uint32_t name)
{
    c->names[c->count] = name;
    memset(&c->values[c->count], 0, sizeof(c->values[0]));
    return &c->values[c->count++];
}

static void add_vector(struct changes *c, const struct emulator_registers *r, const struct cpu *cpu)
{
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(&r->vector[i], &cpu->vector[i], 16))
            memcpy(add(c, VREG_XMM0 + i), &cpu->vector[i], 16);
    if (memcmp(&r->x87, &cpu->x87, sizeof(r->x87))) {
        for (unsigned i = 0; i < 8; i++) {
            union vreg_value *v = add(c, VREG_FPMMX0 + i);
            v->q[0] = cpu->x87.st[image_slot(cpu, i)].mantissa;
            v->w[4] = cpu->x87.st[image_slot(cpu, i)].exponent;
        }
        union vreg_value *v = add(c, VREG_FP_CONTROL_STATUS);
        v->w[0] = cpu->x87.control;
        v->w[1] = cpu->x87.status;
        v->w[2] = cpu->x87.tag;
        v->w[3] = cpu->x87.opcode;
        v->q[1] = cpu->x87.instruction_pointer;
    }
    if (r->mxcsr != cpu->mxcsr || r->x87.data_pointer != cpu->x87.data_pointer) {
        union vreg_value *v = add(c, VREG_XMM_CONTROL_STATUS);
        v->q[0] = cpu->x87.data_pointer;
        v->d[2] = cpu->mxcsr;
        v->d[3] = 0xffff;
    }
}

bool emulator_registers_store(const struct emulator_registers *r, const struct cpu *cpu, const struct emulator_callbacks *callbacks, void *context)
{
    struct changes c = {.count = 0};

    add(&c, VREG_RIP)->q[0] = cpu->rip;
    add(&c, VREG_RFLAGS)->q[0] = cpu_rflags(cpu);
    for (unsigned i = 0; i < 16; i++)
        if (r->gpr[i] != cpu->gpr[i].q)
            add(&c, i)->q[0] = cpu->gpr[i].q;
    if (r->has_vector)
        add_vector(&c, r, cpu);
    return callbacks->set_registers(context, c.names, c.count, c.values);
}
