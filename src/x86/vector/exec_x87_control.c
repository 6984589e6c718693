/*
 * x87 instructions that move control and environment: FNINIT, FNCLEX, FWAIT, control and status
 * word, FNSTENV, FLDENV, FNSAVE, FRSTOR (SDM 1 8.1.8 to 8.1.10, 8.3.11).
 *
 * FCS and FDS do not exist (CPUID leaf 7 EBX bit 13): they are stored as zero and ignored when
 * loaded.
 */
#include "x86/vector/exec_x87.h"
#include "x86/vector/exec_xsave.h"

#include <string.h>

/*
 * The environment in memory (SDM 1 figures 8-9 to 8-12). In 32-bit format each field has 4 bytes:
 *
 *              protected mode                          real mode
 *      0       control                                 control
 *      4       status                                  status
 *      8       tag                                     tag
 *      12      FIP 31-0                                FIP 15-0
 *      16      FCS 15-0, FOP 26-16                     FOP 10-0, FIP 31-16 in 27-12
 *      20      FDP 31-0                                FDP 15-0
 *      24      FDS                                     FDP 31-16 in 27-12
 *
 * In 16-bit format the same with 2 bytes each; protected mode has no FOP there, real mode has FOP
 * in 10-0 and address bits 19-16 in 15-12. What is reserved in a field of 4 bytes is stored as
 * ones.
 */
enum { CONTROL, STATUS, TAG, IP, CS_OPCODE, DP, DS, ENVIRONMENT_FIELDS };

struct environment {
    unsigned size; /* 14 or 28 bytes */
    union {
        uint16_t w[ENVIRONMENT_FIELDS];
        uint32_t d[ENVIRONMENT_FIELDS];
        uint8_t bytes[28];
    };
};

#define SAVE_REGISTERS                                                                             \
    80u /* bytes behind the environment in FNSAVE's image: ST(0) first, 10 each */

static void environment_build(const struct cpu *cpu, bool is_32, struct environment *environment)
{
    const struct x87_image *image = &cpu->x87;
    uint32_t ip = (uint32_t)image->instruction_pointer, dp = (uint32_t)image->data_pointer;
    uint32_t opcode = image->opcode & 0x7ffu;
    bool is_real = !cpu_is_protected(cpu);
    uint32_t field[ENVIRONMENT_FIELDS] = {[CONTROL] = image->control,
                                          [STATUS] = image->status,
                                          [TAG] = x87_full_tag(image),
                                          [IP] = ip,
                                          [DP] = dp};

    if (is_real) {
        field[CS_OPCODE] = (ip >> 16) << 12 | opcode;
        field[DS] = (dp >> 16) << 12;
    } else if (is_32) {
        field[CS_OPCODE] = opcode << 16;
    }
    environment->size = is_32 ? 28 : 14;
    if (!is_32) {
        for (unsigned i = 0; i < ENVIRONMENT_FIELDS; i++)
            environment->w[i] = (uint16_t)field[i];
        return;
    }
    for (unsigned i = 0; i < ENVIRONMENT_FIELDS; i++)
        environment->d[i] = field[i];
    for (unsigned i = CONTROL; i <= TAG; i++)
        environment->d[i] |= 0xffff0000u;
    if (is_real) {
        environment->d[IP] = 0xffff0000u | (ip & 0xffff);
        environment->d[DP] = 0xffff0000u | (dp & 0xffff);
    } else {
        environment->d[DS] = 0xffff0000u;
    }
}

/* Take an environment over into the image; registers keep their order from ST(0) on. */
static void environment_apply(const struct cpu *cpu, const struct environment *environment,
                              struct x87_image *image)
{
    uint32_t field[ENVIRONMENT_FIELDS];
    bool is_32 = environment->size == 28;
    for (unsigned i = 0; i < ENVIRONMENT_FIELDS; i++)
        field[i] = is_32 ? environment->d[i] : environment->w[i];
    image->control = (uint16_t)field[CONTROL];
    image->status = (uint16_t)field[STATUS];
    image->tag = x87_abridged_tag((uint16_t)field[TAG]);
    if (!cpu_is_protected(cpu)) {
        image->instruction_pointer = (field[IP] & 0xffff) | (field[CS_OPCODE] >> 12 & 0xffff) << 16;
        image->data_pointer = (field[DP] & 0xffff) | (field[DS] >> 12 & 0xffff) << 16;
        image->opcode = field[CS_OPCODE] & 0x7ff;
        return;
    }
    image->instruction_pointer = field[IP];
    image->data_pointer = field[DP];
    image->opcode = is_32 ? field[CS_OPCODE] >> 16 & 0x7ff : 0;
}

static bool is_32_bit_format(const struct insn *insn)
{
    return insn->operand_size != 2;
}

/* ---- environment and state ---- */

static enum exec_result exec_fnstenv(struct cpu *cpu, const struct insn *insn)
{
    struct environment environment;
    if (!x87_usable(cpu))
        return EXEC_LEAVE;
    environment_build(cpu, is_32_bit_format(insn), &environment);
    if (!operand_write_bytes(cpu, insn, environment.bytes, environment.size))
        return EXEC_LEAVE;
    cpu->x87.control |= X87_EXCEPTIONS; /* all masked from here on */
    cpu->x87.status &= (uint16_t) ~(X87_ES | X87_B);
    return EXEC_NEXT;
}

static enum exec_result exec_fldenv(struct cpu *cpu, const struct insn *insn)
{
    struct environment environment = {.size = is_32_bit_format(insn) ? 28 : 14};
    if (!x87_usable_waiting(cpu) ||
        !operand_read_bytes(cpu, insn, environment.bytes, environment.size))
        return EXEC_LEAVE;
    x87_set_top(&cpu->x87,
                (environment.size == 28 ? environment.d[STATUS] : environment.w[STATUS]) >>
                        X87_TOP_SHIFT &
                    7);
    environment_apply(cpu, &environment, &cpu->x87);
    x87_settle(&cpu->x87);
    return EXEC_NEXT;
}

static enum exec_result exec_fnsave(struct cpu *cpu, const struct insn *insn)
{
    struct environment environment;
    uint8_t image[28 + SAVE_REGISTERS];
    if (!x87_usable(cpu))
        return EXEC_LEAVE;
    environment_build(cpu, is_32_bit_format(insn), &environment);
    memcpy(image, environment.bytes, environment.size);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + environment.size + 10 * i, &cpu->x87.st[i], 10);
    if (!operand_write_bytes(cpu, insn, image, environment.size + SAVE_REGISTERS))
        return EXEC_LEAVE;
    x87_initialize(&cpu->x87);
    return EXEC_NEXT;
}

static enum exec_result exec_frstor(struct cpu *cpu, const struct insn *insn)
{
    struct environment environment = {.size = is_32_bit_format(insn) ? 28 : 14};
    uint8_t image[28 + SAVE_REGISTERS];
    if (!x87_usable_waiting(cpu) ||
        !operand_read_bytes(cpu, insn, image, environment.size + SAVE_REGISTERS))
        return EXEC_LEAVE;
    memcpy(environment.bytes, image, environment.size);
    environment_apply(cpu, &environment, &cpu->x87);
    for (unsigned i = 0; i < 8; i++)
        memcpy(&cpu->x87.st[i], image + environment.size + 10 * i, 10);
    x87_settle(&cpu->x87);
    return EXEC_NEXT;
}

/* ---- words ---- */

static enum exec_result exec_fldcw(struct cpu *cpu, const struct insn *insn)
{
    uint64_t control;
    if (!x87_usable_waiting(cpu) || !operand_read(cpu, insn, 0, &control))
        return EXEC_LEAVE;
    cpu->x87.control = (uint16_t)control;
    x87_settle(&cpu->x87);
    return EXEC_NEXT;
}

static enum exec_result exec_fnstcw(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(x87_usable(cpu) && operand_write(cpu, insn, 0, cpu->x87.control));
}

static enum exec_result exec_fnstsw(struct cpu *cpu, const struct insn *insn)
{
    return exec_done(x87_usable(cpu) && operand_write(cpu, insn, 0, cpu->x87.status));
}

/* ---- the rest ---- */

static enum exec_result exec_fninit(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!x87_usable(cpu))
        return EXEC_LEAVE;
    x87_initialize(&cpu->x87);
    return EXEC_NEXT;
}

static enum exec_result exec_fnclex(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!x87_usable(cpu))
        return EXEC_LEAVE;
    cpu->x87.status &= (uint16_t) ~(X87_EXCEPTIONS | X87_SF | X87_ES | X87_B);
    return EXEC_NEXT;
}

/* FNENI, FNDISI, FNSETPM: of the 8087 and the 80287, without effect since. */
static enum exec_result exec_ancient(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    return exec_done(x87_usable(cpu));
}

/* WAIT looks at MP and TS, not at EM (SDM 3A table 2-2). */
static enum exec_result exec_fwait(struct cpu *cpu, const struct insn *insn)
{
    (void)insn;
    if ((cpu->cr0 & CR0_MP) && (cpu->cr0 & CR0_TS))
        return exec_done(raise_nm(cpu));
    return exec_done(x87_check_pending(cpu));
}

exec_fn *x87_control_instruction(ZydisMnemonic mnemonic)
{
    static const struct {
        ZydisMnemonic mnemonic;
        exec_fn *exec;
    } table[] = {
        {ZYDIS_MNEMONIC_FNINIT, exec_fninit},         {ZYDIS_MNEMONIC_FNCLEX, exec_fnclex},
        {ZYDIS_MNEMONIC_FENI8087_NOP, exec_ancient},  {ZYDIS_MNEMONIC_FDISI8087_NOP, exec_ancient},
        {ZYDIS_MNEMONIC_FSETPM287_NOP, exec_ancient}, {ZYDIS_MNEMONIC_FWAIT, exec_fwait},
        {ZYDIS_MNEMONIC_FLDCW, exec_fldcw},           {ZYDIS_MNEMONIC_FNSTCW, exec_fnstcw},
        {ZYDIS_MNEMONIC_FNSTSW, exec_fnstsw},         {ZYDIS_MNEMONIC_FNSTENV, exec_fnstenv},
        {ZYDIS_MNEMONIC_FLDENV, exec_fldenv},         {ZYDIS_MNEMONIC_FNSAVE, exec_fnsave},
        {ZYDIS_MNEMONIC_FRSTOR, exec_frstor},         {ZYDIS_MNEMONIC_FXSAVE, exec_fxsave},
        {ZYDIS_MNEMONIC_FXSAVE64, exec_fxsave64},     {ZYDIS_MNEMONIC_FXRSTOR, exec_fxrstor},
        {ZYDIS_MNEMONIC_FXRSTOR64, exec_fxrstor64},   {ZYDIS_MNEMONIC_XSAVE, exec_xsave},
        {ZYDIS_MNEMONIC_XSAVE64, exec_xsave64},       {ZYDIS_MNEMONIC_XSAVEOPT, exec_xsaveopt},
        {ZYDIS_MNEMONIC_XSAVEOPT64, exec_xsaveopt64}, {ZYDIS_MNEMONIC_XSAVEC, exec_xsavec},
        {ZYDIS_MNEMONIC_XSAVEC64, exec_xsavec64},     {ZYDIS_MNEMONIC_XSAVES, exec_xsaves},
        {ZYDIS_MNEMONIC_XSAVES64, exec_xsaves64},     {ZYDIS_MNEMONIC_XRSTOR, exec_xrstor},
        {ZYDIS_MNEMONIC_XRSTOR64, exec_xrstor64},     {ZYDIS_MNEMONIC_XRSTORS, exec_xrstors},
        {ZYDIS_MNEMONIC_XRSTORS64, exec_xrstors64},
    };
    for (size_t i = 0; i < array_size(table); i++) {
        if (table[i].mnemonic == mnemonic)
            return table[i].exec;
    }
    return NULL;
}
