/*
 * FXSAVE and FXRSTOR (SDM 1 10.5, SDM 2A): x87, MXCSR and XMM registers in 512 bytes.
 *
 *      0   control     2   status      4   tag (abridged)   6   opcode
 *      8   FIP: 8 bytes with REX.W, else 4, then FCS (2)    16  FDP and FDS likewise
 *      24  MXCSR       28  MXCSR_MASK  32  ST(0)..ST(7), 16 bytes each
 *      160 XMM0..XMM7  288 XMM8..XMM15 (64-bit mode only)   416 reserved   464 available to
 * software
 *
 * FCS and FDS are always zero (CPUID leaf 7 EBX bit 13). XMM registers and MXCSR take part when
 * CR4.OSFXSR is set; without it the manual leaves it to the implementation.
 */
#include "x86/vector/exec_simd.h"
#include "x86/vector/exec_x87.h"

#include <string.h>

#define AREA_SIZE   512u
#define OFFSET_ST   32u
#define OFFSET_XMM  160u
#define OFFSET_XMM8 288u
#define OFFSET_END  416u

/* #NM, then alignment. The whole area must be accessible, though the tail is neither read nor
 * written. */
static bool area_linear(struct cpu *cpu, const struct insn *insn, enum access_type type,
                        gva_t *linear)
{
    if (!x87_usable(cpu) || !operand_linear(cpu, insn, AREA_SIZE, type, linear))
        return false;
    if (*linear & 15)
        return raise_gp(cpu, 0);
    return mem_probe(cpu, *linear, AREA_SIZE, type, MEM_CURRENT);
}

/* How many bytes of the area belong to state in this mode. */
static size_t area_used(const struct cpu *cpu)
{
    if (!(cpu->cr4 & CR4_OSFXSR))
        return OFFSET_XMM;
    return cpu_is_64(cpu) ? OFFSET_END : OFFSET_XMM8;
}

static enum exec_result save(struct cpu *cpu, const struct insn *insn, bool is_wide)
{
    struct x87_image area = cpu->x87;
    uint8_t *bytes = (uint8_t *)&area;
    gva_t linear;
    size_t used = area_used(cpu);

    if (!area_linear(cpu, insn, ACCESS_WRITE, &linear))
        return EXEC_LEAVE;
    area.reserved = 0;
    if (!is_wide) {
        area.instruction_pointer = (uint32_t)area.instruction_pointer;
        area.data_pointer = (uint32_t)area.data_pointer;
    }
    area.mxcsr = cpu->mxcsr;
    area.mxcsr_mask = MXCSR_VALID;
    for (unsigned i = 0; i < 8; i++)
        memset(area.st[i].reserved, 0, sizeof(area.st[i].reserved));
    for (size_t i = 0; OFFSET_XMM + 16 * i < used; i++)
        memcpy(bytes + OFFSET_XMM + 16 * i, &cpu->vector[i], 16);
    return exec_done(mem_write(cpu, linear, bytes, used, MEM_CURRENT));
}

static enum exec_result restore(struct cpu *cpu, const struct insn *insn, bool is_wide)
{
    struct x87_image area;
    const uint8_t *bytes = (const uint8_t *)&area;
    gva_t linear;
    size_t used = area_used(cpu);

    if (!area_linear(cpu, insn, ACCESS_READ, &linear) ||
        !mem_read(cpu, linear, &area, used, MEM_CURRENT))
        return EXEC_LEAVE;
    if (cpu->cr4 & CR4_OSFXSR) {
        if (area.mxcsr & ~MXCSR_VALID)
            return exec_done(raise_gp(cpu, 0));
        cpu->mxcsr = area.mxcsr;
    }
    for (size_t i = 0; OFFSET_XMM + 16 * i < used; i++)
        memcpy(&cpu->vector[i], bytes + OFFSET_XMM + 16 * i, 16);
    if (!is_wide) {
        area.instruction_pointer = (uint32_t)area.instruction_pointer;
        area.data_pointer = (uint32_t)area.data_pointer;
    }
    area.opcode &= 0x7ff;
    memcpy(&cpu->x87, &area, OFFSET_ST - 8);
    memcpy(cpu->x87.st, area.st, sizeof(area.st));
    x87_settle(&cpu->x87);
    return EXEC_NEXT;
}

enum exec_result exec_fxsave(struct cpu *cpu, const struct insn *insn)
{
    return save(cpu, insn, false);
}
enum exec_result exec_fxsave64(struct cpu *cpu, const struct insn *insn)
{
    return save(cpu, insn, true);
}
enum exec_result exec_fxrstor(struct cpu *cpu, const struct insn *insn)
{
    return restore(cpu, insn, false);
}
enum exec_result exec_fxrstor64(struct cpu *cpu, const struct insn *insn)
{
    return restore(cpu, insn, true);
}
