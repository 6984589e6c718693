/* Registers of the first processor; see boot_registers.h. */
#include "boot_registers.h"

#include <openwhp.h>

#include "problem.h"

enum {
    MAX_REGISTERS = 24,
    RFLAGS_FIXED = 0x2,
    CR0_PE = 0x1,
    CR0_ET = 0x10,
    CR0_PG = 0x80000000,
    CR4_PAE = 0x20,
    EFER_LME = 0x100,
    EFER_LMA = 0x400,
    TYPE_CODE = 0xB, /* execute, read, accessed */
    TYPE_DATA = 0x3, /* read, write, accessed */
    FAMILY_6 = 0x600, /* RDX after reset: the processor's signature (SDM 3A, section 10.1.1) */
};

struct register_list {
    WHV_REGISTER_NAME names[MAX_REGISTERS];
    WHV_REGISTER_VALUE values[MAX_REGISTERS];
    UINT32 count;
};

static void add(struct register_list *list, WHV_REGISTER_NAME name, uint64_t value)
{
    list->names[list->count] = name;
    list->values[list->count] = (WHV_REGISTER_VALUE){.Reg64 = value};
    list->count++;
}

static void add_segment(struct register_list *list, WHV_REGISTER_NAME name, WHV_X64_SEGMENT_REGISTER value)
{
    list->names[list->count] = name;
    list->values[list->count] = (WHV_REGISTER_VALUE){.Segment = value};
    list->count++;
}

/* A segment of real mode: its base is sixteen times the selector, but for CS after a reset. */
static WHV_X64_SEGMENT_REGISTER real_segment(uint16_t selector, uint64_t base, unsigned type)
{
    WHV_X64_SEGMENT_REGISTER segment = {.Base = base, .Limit = 0xffff, .Selector = selector};
    segment.SegmentType = type & 15;
    segment.NonSystemSegment = 1;
    segment.Present = 1;
    return segment;
}

static WHV_X64_SEGMENT_REGISTER flat_segment(uint16_t selector, unsigned type, bool long_mode)
{
    WHV_X64_SEGMENT_REGISTER segment = {.Limit = 0xffffffff, .Selector = selector};
    segment.SegmentType = type & 15;
    segment.NonSystemSegment = 1;
    segment.Present = 1;
    segment.Long = long_mode;
    segment.Default = !long_mode;
    segment.Granularity = 1;
    return segment;
}

static void add_data_segments(struct register_list *list, WHV_X64_SEGMENT_REGISTER segment)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterDs, WHvX64RegisterEs, WHvX64RegisterFs,
                                              WHvX64RegisterGs, WHvX64RegisterSs};
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        add_segment(list, names[i], segment);
}

static void add_reset(struct register_list *list)
{
    add(list, WHvX64RegisterRip, 0xFFF0);
    add(list, WHvX64RegisterRdx, FAMILY_6);
    add_segment(list, WHvX64RegisterCs, real_segment(0xF000, 0xFFFF0000, TYPE_CODE));
    add_data_segments(list, real_segment(0, 0, TYPE_DATA));
}

/* CS:IP is 0000:xxxx where that reaches, as boot sectors expect. */
static void add_real(struct register_list *list, const struct boot_state *state)
{
    uint16_t selector = state->entry <= 0xffff ? 0 : (uint16_t)(state->entry >> 4);
    add(list, WHvX64RegisterRip, state->entry - ((uint64_t)selector << 4));
    add(list, WHvX64RegisterRdx, state->rdx);
    add_segment(list, WHvX64RegisterCs, real_segment(selector, (uint64_t)selector << 4, TYPE_CODE));
    add_data_segments(list, real_segment(0, 0, TYPE_DATA));
}

static void add_protected(struct register_list *list, const struct boot_state *state, bool long_mode)
{
    add(list, WHvX64RegisterRip, state->entry);
    add(list, WHvX64RegisterRdx, state->rdx);
    add_segment(list, WHvX64RegisterCs, flat_segment(BOOT_CODE_SELECTOR, TYPE_CODE, long_mode));
    add_data_segments(list, flat_segment(BOOT_DATA_SELECTOR, TYPE_DATA, false));
    if (state->gdt != 0) {
        WHV_X64_TABLE_REGISTER table = {.Limit = BOOT_GDT_BYTES - 1, .Base = state->gdt};
        list->names[list->count] = WHvX64RegisterGdtr;
        list->values[list->count++] = (WHV_REGISTER_VALUE){.Table = table};
    }
}

int boot_registers_write(WHV_PARTITION_HANDLE partition, const struct boot_state *state)
{
    struct register_list list = {.count = 0};
    bool long_mode = state->mode == BOOT_LONG;
    uint64_t cr0 = CR0_ET;
    if (state->mode == BOOT_RESET) {
        add_reset(&list);
    } else if (state->mode == BOOT_REAL) {
        add_real(&list, state);
    } else {
        add_protected(&list, state, long_mode);
        cr0 |= CR0_PE;
    }
    if (long_mode) {
        cr0 |= CR0_PG;
        add(&list, WHvX64RegisterCr3, state->cr3);
        add(&list, WHvX64RegisterCr4, CR4_PAE);
        add(&list, WHvX64RegisterEfer, EFER_LME | EFER_LMA);
    }
    add(&list, WHvX64RegisterCr0, cr0);
    add(&list, WHvX64RegisterRflags, RFLAGS_FIXED);
    add(&list, WHvX64RegisterRax, state->rax);
    add(&list, WHvX64RegisterRbx, state->rbx);
    add(&list, WHvX64RegisterRsi, state->rsi);
    add(&list, WHvX64RegisterRsp, state->rsp);
    if (FAILED(WHvSetVirtualProcessorRegisters(partition, 0, list.names, list.count, list.values)))
        return problem("cannot start processor 0 (%s); report this", OwhpGetLastErrorText());
    return 0;
}
