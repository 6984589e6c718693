/*
 * The x87 unit: arithmetic, loads and stores, by the host's unit.
 *
 * A stub takes the guest's image with FXRSTOR64, executes the instruction with its memory operand
 * at [RSI], and leaves the new image with FXSAVE64. What the host's unit says about the instruction
 * itself (its address FIP, its operand's address FDP, its opcode FOP; SDM 1 8.1.8) is about the
 * stub. Which of the three are updated, and when, differs between processors (CPUID leaf 7 EBX bit
 * 6, IA32_MISC_ENABLE bit 2); so the stub starts with values that no instruction leaves, and what
 * has changed is replaced by the guest's.
 */
#include "x86/vector/exec_x87.h"

#include <string.h>

#include "x86/vector/exec_simd.h"
#include "x86/vector/host_stub.h"

/* Values that FIP, FDP and FOP never get from a stub (the buffer is aligned; DF FF is no
 * instruction). */
#define UNTOUCHED_ADDRESS 1u
#define UNTOUCHED_OPCODE  0x7ffu

#define IMAGE_USED offsetof(struct x87_image, rest)

/* ---- rules ---- */

bool x87_check_pending(struct cpu *cpu)
{
    return likely(!x87_is_pending(&cpu->x87)) || raise_fault(cpu, VECTOR_MF);
}

bool x87_usable(struct cpu *cpu)
{
    return likely(!(cpu->cr0 & (CR0_EM | CR0_TS))) || raise_nm(cpu);
}

bool x87_usable_waiting(struct cpu *cpu)
{
    return x87_usable(cpu) && x87_check_pending(cpu);
}

/* ---- state ---- */

void x87_set_top(struct x87_image *image, unsigned top)
{
    unsigned turn = (top - x87_top(image)) & 7;
    struct x87_image old;
    if (turn == 0)
        return;
    memcpy(&old, image, IMAGE_USED);
    for (unsigned i = 0; i < 8; i++)
        image->st[i] = old.st[(i + turn) & 7];
    image->status = (uint16_t)((image->status & ~X87_TOP_MASK) | top << X87_TOP_SHIFT);
}

void x87_initialize(struct x87_image *image)
{
    x87_set_top(image, 0);
    image->control = X87_INITIAL_CONTROL;
    image->status = 0;
    image->tag = 0;
    image->opcode = 0;
    image->instruction_pointer = image->data_pointer = 0;
}

uint16_t x87_full_tag(const struct x87_image *image)
{
    enum { VALID, ZERO, SPECIAL, EMPTY };
    unsigned full = 0;
    for (unsigned i = 0; i < 8; i++) {
        unsigned exponent = image->st[(i - x87_top(image)) & 7].exponent & 0x7fff;
        uint64_t mantissa = image->st[(i - x87_top(image)) & 7].mantissa;
        unsigned tag = VALID;
        if (!(image->tag & 1u << i))
            tag = EMPTY;
        else if (exponent == 0 && mantissa == 0)
            tag = ZERO;
        else if (exponent == 0 || exponent == 0x7fff || !(mantissa >> 63))
            tag = SPECIAL;
        full |= tag << 2 * i;
    }
    return (uint16_t)full;
}

uint8_t x87_abridged_tag(uint16_t full)
{
    unsigned tag = 0;
    for (unsigned i = 0; i < 8; i++)
        tag |= (unsigned)((full >> 2 * i & 3) != 3) << i;
    return (uint8_t)tag;
}

/* ---- the host's unit ---- */

void x87_run(x87_stub *stub, struct x87_image *in, void *buffer, struct x87_image *out,
             struct cpu *cpu)
{
    uint16_t control;
    uint32_t mxcsr;
    __asm__ volatile("fnstcw %0\n\tstmxcsr %1" : "=m"(control), "=m"(mxcsr)::"memory");
    in->mxcsr = mxcsr; /* so that FXRSTOR leaves it alone */
    stub(in, buffer, out, cpu);
    __asm__ volatile("fninit\n\tfldcw %0" ::"m"(control) : "memory");
}

static const char restore_image[] = "\x48\x0f\xae\x0f";  /* fxrstor64 [rdi] */
static const char save_image[] = "\x48\x0f\xae\x02\xc3"; /* fxsave64 [rdx]; ret */

void x87_settle(struct x87_image *image)
{
    struct x87_image work = {0};
    struct stub_code code = {.size = 0};
    stub_bytes(&code, restore_image, 4);
    stub_bytes(&code, save_image, 5);
    x87_stub *stub = (x87_stub *)(uintptr_t)host_stub_get(&code);
    if (!stub) /* bind has made x87 stubs before, so executable memory is there */
        return;
    memcpy(&work, image, IMAGE_USED);
    x87_run(stub, &work, NULL, &work, NULL);
    image->control = work.control;
    image->status = work.status;
}

/* ---- execution ---- */

/* FIP, FDP and FOP that the instruction has changed become the guest's; the others keep their
 * values. */
static void replace_pointers(const struct cpu *cpu, const struct insn *insn,
                             struct x87_image *image)
{
    uint64_t mask = cpu_is_64(cpu) ? UINT64_MAX : UINT32_MAX;
    image->instruction_pointer = image->instruction_pointer == UNTOUCHED_ADDRESS
                                     ? cpu->x87.instruction_pointer
                                     : cpu->rip & mask;
    image->data_pointer = image->data_pointer == UNTOUCHED_ADDRESS ? cpu->x87.data_pointer
                          : insn->operand[0].kind == OPERAND_MEMORY
                              ? operand_offset(cpu, insn) & mask
                              : 0;
    image->opcode = image->opcode == UNTOUCHED_OPCODE
                        ? cpu->x87.opcode
                        : (uint16_t)((insn->opcode & 7u) << 8 | insn->modrm);
}

/*
 * Unmasked invalid operation, overflow and underflow suppress the store to memory, which is then
 * not even looked at; precision does not (SDM 1 8.5). Nothing unmasked was pending before, so what
 * is now, was raised by this instruction.
 */
static bool is_store_suppressed(const struct x87_image *image)
{
    return image->status & ~image->control & (X87_IE | X87_OE | X87_UE);
}

/* 80-bit numbers are written as eight bytes and two: a fault of the second part finds the first one written. */
static bool store_result(struct cpu *cpu, const struct insn *insn, const union simd_buffer *buffer)
{
    gva_t linear;

    if (insn->operand[0].size != 10)
        return operand_write_bytes(cpu, insn, buffer, insn->operand[0].size);
    return operand_linear(cpu, insn, 10, ACCESS_WRITE, &linear) && mem_write(cpu, linear, buffer->bytes, 8, MEM_CURRENT) &&
           mem_write(cpu, linear + 8, buffer->bytes + 8, 2, MEM_CURRENT);
}

static enum exec_result exec_arithmetic(struct cpu *cpu, const struct insn *insn)
{
    const struct operand *operand = &insn->operand[0];
    bool is_memory = operand->kind == OPERAND_MEMORY;
    union simd_buffer buffer;
    struct x87_image work = {0};

    if (!simd_has_feature(cpu, insn->extra) || !x87_usable_waiting(cpu))
        return EXEC_LEAVE;
    if (is_memory && operand->is_read && !operand_read_bytes(cpu, insn, &buffer, operand->size))
        return EXEC_LEAVE;
    memcpy(&work, &cpu->x87, IMAGE_USED);
    work.instruction_pointer = work.data_pointer = UNTOUCHED_ADDRESS;
    work.opcode = UNTOUCHED_OPCODE;
    x87_run((x87_stub *)(uintptr_t)insn->extra, &work, &buffer, &work, cpu);
    replace_pointers(cpu, insn, &work);
    if (is_memory && operand->is_written && !is_store_suppressed(&work) &&
        !store_result(cpu, insn, &buffer))
        return EXEC_LEAVE;
    memcpy(&cpu->x87, &work, IMAGE_USED);
    return EXEC_NEXT;
}

/* ---- binding ---- */

/* FCMOVcc reads the arithmetic flags, FCOMI and relatives write them. */
static bool touches_flags(const ZydisDecodedInstruction *decoded,
                          const ZydisDecodedOperand *operands)
{
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_FLAGS)
            return true;
    }
    return false;
}

static const void *make_stub(const struct insn *insn, bool flags, uint8_t tag)
{
    struct stub_code code = {.tag = tag};
    stub_bytes(&code, restore_image, 4);
    if (flags) {
        stub_bytes(&code, "\x49\x89\xc8\x41\x8b", 5); /* mov r8, rcx; mov eax, [r8 + aflags] */
        stub_modrm_memory(&code, HOST_RAX, HOST_R8, (uint32_t)offsetof(struct cpu, aflags));
        stub_bytes(&code, "\x04\x7f\x9e", 3); /* add al, 7Fh; sahf */
    }
    stub_byte(&code, insn->opcode);
    if (insn->modrm < 0xc0)
        stub_modrm_memory(&code, insn->modrm >> 3 & 7, HOST_RSI, 0);
    else
        stub_byte(&code, insn->modrm);
    if (flags) {
        stub_bytes(&code, "\x9f\x0f\x90\xc0\x0f\xb7\xc0\x41\x89",
                   9); /* lahf; seto al; movzx eax, ax; mov */
        stub_modrm_memory(&code, HOST_RAX, HOST_R8, (uint32_t)offsetof(struct cpu, aflags));
    }
    stub_bytes(&code, save_image, 5);
    return host_stub_get(&code);
}

static bool is_x87_opcode(const ZydisDecodedInstruction *decoded)
{
    return decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
           decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (decoded->opcode & 0xf8) == 0xd8;
}

/* Zydis lists an implicit ST(0) among the visible operands; here operand 0 is the memory operand,
 * if there is one. */
bool exec_x87_bind(struct insn *insn, const ZydisDecodedInstruction *decoded,
                   const ZydisDecodedOperand *operands)
{
    insn->exec = x87_control_instruction(decoded->mnemonic);
    if (insn->exec)
        return true;
    if (!is_x87_opcode(decoded))
        return false;
    insn->extra = make_stub(insn, touches_flags(decoded, operands),
                            simd_feature_tag(decoded)); /* FISTTP came with SSE3 */
    insn->exec = exec_arithmetic;
    return insn->extra != NULL;
}
