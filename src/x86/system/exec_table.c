/*
 * Descriptor-table registers, LDTR and TR, and the instructions that look at descriptors:
 * LGDT .. STR, LAR, LSL, VERR, VERW, ARPL (SDM 2A-2B under each name).
 */
#include <string.h>

#include "x86/system/control.h"
#include "x86/system/descriptor.h"
#include "x86/system/exec_system.h"

/* ---- GDTR, IDTR: limit in 2 bytes, base in 4 or (64-bit mode) 8 ---- */

static enum exec_result load_table(struct cpu *cpu, const struct insn *insn, struct table_register *table)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } image = {0};

    if (!require_supervisor(cpu) || !operand_read_bytes(cpu, insn, &image, cpu_is_64(cpu) ? 10 : 6))
        return EXEC_LEAVE;
    if (cpu_is_64(cpu) && !cpu_is_storable(cpu, image.base))
        return exec_done(raise_gp(cpu, 0));
    /* A 16-bit operand size takes 24 bits of base. */
    if (!cpu_is_64(cpu) && insn->operand_size == 2)
        image.base &= 0xffffff;
    *table = (struct table_register){.base = image.base, .limit = image.limit};
    return EXEC_NEXT;
}

static enum exec_result store_table(struct cpu *cpu, const struct insn *insn, const struct table_register *table)
{
    uint8_t image[10];

    if (!check_umip(cpu))
        return EXEC_LEAVE;
    memcpy(image, &table->limit, 2);
    memcpy(image + 2, &table->base, 8);
    return exec_done(operand_write_bytes(cpu, insn, image, cpu_is_64(cpu) ? 10 : 6));
}

/* clang-format off */
enum exec_result exec_lgdt(struct cpu *cpu, const struct insn *insn) { return load_table(cpu, insn, &cpu->gdtr); }
enum exec_result exec_lidt(struct cpu *cpu, const struct insn *insn) { return load_table(cpu, insn, &cpu->idtr); }
enum exec_result exec_sgdt(struct cpu *cpu, const struct insn *insn) { return store_table(cpu, insn, &cpu->gdtr); }
enum exec_result exec_sidt(struct cpu *cpu, const struct insn *insn) { return store_table(cpu, insn, &cpu->idtr); }
/* clang-format on */

/* ---- LDTR, TR ---- */

/* Long mode: the upper half's type field must be 0, the base canonical (SDM 3A 3.5.2). */
static bool check_long_system(struct cpu *cpu, const struct descriptor *d, uint32_t error)
{
    struct segment s;

    if (!cpu_is_long(cpu))
        return true;
    descriptor_to_segment(d, 0, &s);
    if ((d->high >> 40) & 0x1f)
        return raise_gp(cpu, error);
    return cpu_is_storable(cpu, s.base) || raise_gp(cpu, error);
}

enum exec_result exec_lldt(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;
    struct descriptor d;

    if (!require_protected(cpu) || !require_supervisor(cpu) || !operand_read(cpu, insn, 0, &value))
        return EXEC_LEAVE;
    const uint16_t selector = (uint16_t)value;
    const uint32_t error = SELECTOR_ERROR(selector, 0);
    if (selector_is_null(selector)) {
        segment_null(selector, 0, &cpu->segment[SEG_LDTR]);
        return EXEC_NEXT;
    }
    if (selector & SELECTOR_TI)
        return exec_done(raise_gp(cpu, error));
    if (!descriptor_read_system(cpu, selector, VECTOR_GP, 0, &d))
        return EXEC_LEAVE;
    if (!descriptor_is_system(&d) || descriptor_type(&d) != SYSTEM_LDT)
        return exec_done(raise_gp(cpu, error));
    if (!descriptor_is_present(&d))
        return exec_done(raise_np(cpu, error));
    if (!check_long_system(cpu, &d, error))
        return EXEC_LEAVE;
    descriptor_to_segment(&d, selector, &cpu->segment[SEG_LDTR]);
    return EXEC_NEXT;
}

static bool is_available_tss(const struct cpu *cpu, const struct descriptor *d)
{
    unsigned type = descriptor_type(d);
    return descriptor_is_system(d) &&
           (type == SYSTEM_TSS_AVAILABLE || (type == SYSTEM_TSS16_AVAILABLE && !cpu_is_long(cpu)));
}

enum exec_result exec_ltr(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;
    struct descriptor d;

    if (!require_protected(cpu) || !require_supervisor(cpu) || !operand_read(cpu, insn, 0, &value))
        return EXEC_LEAVE;
    const uint16_t selector = (uint16_t)value;
    const uint32_t error = SELECTOR_ERROR(selector, 0);
    if (selector_is_null(selector))
        return exec_done(raise_gp(cpu, 0));
    if (selector & SELECTOR_TI)
        return exec_done(raise_gp(cpu, error));
    if (!descriptor_read_system(cpu, selector, VECTOR_GP, 0, &d))
        return EXEC_LEAVE;
    if (!is_available_tss(cpu, &d))
        return exec_done(raise_gp(cpu, error));
    if (!descriptor_is_present(&d))
        return exec_done(raise_np(cpu, error));
    if (!check_long_system(cpu, &d, error) || !descriptor_set_busy(cpu, selector, true, &d))
        return EXEC_LEAVE;
    descriptor_to_segment(&d, selector, &cpu->segment[SEG_TR]);
    return EXEC_NEXT;
}

static enum exec_result store_selector(struct cpu *cpu, const struct insn *insn, enum segment_index index)
{
    if (!require_protected(cpu) || !check_umip(cpu))
        return EXEC_LEAVE;
    return exec_done(operand_write(cpu, insn, 0, cpu->segment[index].selector));
}

/* clang-format off */
enum exec_result exec_sldt(struct cpu *cpu, const struct insn *insn) { return store_selector(cpu, insn, SEG_LDTR); }
enum exec_result exec_str(struct cpu *cpu, const struct insn *insn) { return store_selector(cpu, insn, SEG_TR); }
/* clang-format on */

/* ---- looking at descriptors: the answer is ZF ---- */

static void set_zf(struct cpu *cpu, bool value)
{
    cpu->aflags = (cpu->aflags & ~AFLAG_ZF) | (value ? AFLAG_ZF : 0);
}

/* Fetch for LAR, LSL, VERR, VERW: what is outside a table is "no" (*found false), not a fault. */
static bool look(struct cpu *cpu, uint16_t selector, struct descriptor *d, bool *found)
{
    gva_t linear;

    *d = (struct descriptor){0};
    *found = !selector_is_null(selector) && descriptor_address(cpu, selector, 8, &linear);
    return !*found || mem_read(cpu, linear, d, 8, MEM_SYSTEM);
}

/* Visible from the current privilege? Conforming code always is. */
static bool is_visible(const struct cpu *cpu, uint16_t selector, const struct descriptor *d)
{
    if (descriptor_is_code(d) && descriptor_is_conforming(d))
        return true;
    return cpu->cpl <= descriptor_dpl(d) && (selector & SELECTOR_RPL) <= descriptor_dpl(d);
}

/* System types that LAR and LSL accept (SDM 2A tables 3-53 and 3-56), a bit each. */
enum { LAR_LEGACY = 0x1a3e, LAR_LONG = 0x1a04, LSL_LEGACY = 0x0a0e, LSL_LONG = 0x0a04 };

static bool type_is_accepted(const struct descriptor *d, unsigned system_types)
{
    return !descriptor_is_system(d) || ((system_types >> descriptor_type(d)) & 1);
}

static enum exec_result load_rights_or_limit(struct cpu *cpu, const struct insn *insn, bool is_limit)
{
    uint64_t selector;
    struct descriptor d;
    struct segment s;
    bool found;
    const unsigned types = is_limit ? (cpu_is_long(cpu) ? LSL_LONG : LSL_LEGACY) : (cpu_is_long(cpu) ? LAR_LONG : LAR_LEGACY);

    if (!require_protected(cpu) || !operand_read(cpu, insn, 1, &selector) ||
        !look(cpu, (uint16_t)selector, &d, &found))
        return EXEC_LEAVE;
    found = found && type_is_accepted(&d, types) && is_visible(cpu, (uint16_t)selector, &d);
    if (found) {
        descriptor_to_segment(&d, 0, &s);
        gpr_write(cpu, insn->operand[0].number, insn->operand[0].size, is_limit ? s.limit : (d.low >> 32) & 0x00ffff00);
    }
    set_zf(cpu, found);
    return EXEC_NEXT;
}

/* clang-format off */
enum exec_result exec_lar(struct cpu *cpu, const struct insn *insn) { return load_rights_or_limit(cpu, insn, false); }
enum exec_result exec_lsl(struct cpu *cpu, const struct insn *insn) { return load_rights_or_limit(cpu, insn, true); }
/* clang-format on */

static enum exec_result verify(struct cpu *cpu, const struct insn *insn, bool for_write)
{
    uint64_t selector;
    struct descriptor d;
    bool found;

    if (!require_protected(cpu) || !operand_read(cpu, insn, 0, &selector) ||
        !look(cpu, (uint16_t)selector, &d, &found))
        return EXEC_LEAVE;
    const bool allowed = for_write ? descriptor_is_writable_data(&d)
                                   : !descriptor_is_code(&d) || (descriptor_type(&d) & SEG_TYPE_READABLE);
    set_zf(cpu, found && !descriptor_is_system(&d) && is_visible(cpu, (uint16_t)selector, &d) && allowed);
    return EXEC_NEXT;
}

/* clang-format off */
enum exec_result exec_verr(struct cpu *cpu, const struct insn *insn) { return verify(cpu, insn, false); }
enum exec_result exec_verw(struct cpu *cpu, const struct insn *insn) { return verify(cpu, insn, true); }
/* clang-format on */

enum exec_result exec_arpl(struct cpu *cpu, const struct insn *insn)
{
    uint64_t to, from;

    if (!require_protected(cpu) || !operand_read(cpu, insn, 0, &to) || !operand_read(cpu, insn, 1, &from))
        return EXEC_LEAVE;
    const bool raises = (to & SELECTOR_RPL) < (from & SELECTOR_RPL);
    if (raises && !operand_write(cpu, insn, 0, (to & ~(uint64_t)SELECTOR_RPL) | (from & SELECTOR_RPL)))
        return EXEC_LEAVE;
    set_zf(cpu, raises);
    return EXEC_NEXT;
}
