/*
 * The handlers of the fast operations, compiled once for 64-bit code (OPS_64 1) and once for the legacy modes (0).
 *
 * Rules: a handler never takes the address of a local (that would forbid the sibling call), changes state only after its last
 * memory access has succeeded, and leaves every odd case (device, page crossing, faults, code pages, segment limits)
 * to interpret_cold and interpret_miss_*, which carry out the instruction by its exec function.
 */
#include "os/guarded.h"
#include "x86/code/ops.h"
#include "x86/integer/alu.h"
#include "x86/integer/alu_bits.h"
#include "x86/integer/alu_muldiv.h"
#include "x86/integer/alu_shift.h"
#include "x86/integer/condition.h"
#include "x86/memory/tlb.h"
#include "x86/vector/exec_simd.h"
#include "x86/vector/host_stub.h"

/* clang-format off */
#define HANDLER(name) static const struct op *name(struct cpu *cpu, const struct op *op)
#define NEXT()        INTERPRET_GO(cpu, op + 1)
#define COLD()        return interpret_cold(cpu, op)

#define REG(bits, at) (*(uint##bits##_t *)((uint8_t *)cpu + (at)))
/* A write of 32 bits clears the upper half. */
/* Narrow writes store the whole register: a wide read soon after would otherwise wait for the store to leave the buffer.
 * (AH..BH are no destinations of fast operations.) */
#define SET_8(at, v)  (REG(64, at) = (REG(64, at) & ~(uint64_t)0xff) | (uint64_t)(uint8_t)(v))
#define SET_16(at, v) (REG(64, at) = (REG(64, at) & ~(uint64_t)0xffff) | (uint64_t)(uint16_t)(v))
#define SET_32(at, v) (REG(64, at) = (uint64_t)(uint32_t)(v))
#define SET_64(at, v) (REG(64, at) = (uint64_t)(v))
#define FLAGS (&cpu->aflags)

#define OFFSET() (REG(64, op->base) + (REG(64, op->index) << op->scale_shift) + (uint64_t)(int64_t)op->displacement)

#if OPS_64
/* Linear address of the memory operand. */
#define ADDRESS(size, kind)                                                                         \
    uint64_t offset_ = OFFSET();                                                                    \
    if (unlikely(op->address_32))                                                                   \
        offset_ = (uint32_t)offset_;                                                                \
    const gva_t linear = offset_ + REG(64, op->segment_base)
#define STACK_ADDRESS(offset, size, kind) const gva_t linear = (offset)
#define STACK_MASKED(value) (value)
#define STACK_BITS 64
#define SET_RSP(v) (cpu->gpr[REG_RSP].q = (v))
#define RSP() (cpu->gpr[REG_RSP].q)
#define WRAP_RIP(v) (v)
#define WIDE 64
#else
#define ADDRESS(size, kind)                                                                         \
    uint64_t offset_ = OFFSET();                                                                    \
    offset_ = op->address_32 ? (uint32_t)offset_ : (uint16_t)offset_;                               \
    if (unlikely(offset_ + (size) > cpu->kind##_bound[op->segment]))                                \
        COLD();                                                                                     \
    const gva_t linear = (uint32_t)(cpu->segment[op->segment].base + offset_)
/* The fast stack operations of the legacy modes are chosen only for 32-bit operands on a 32-bit stack. */
#define STACK_ADDRESS(offset, size, kind)                                                           \
    if (unlikely((uint64_t)(offset) + (size) > cpu->kind##_bound[SEG_SS]))                          \
        COLD();                                                                                     \
    const gva_t linear = (uint32_t)(cpu->segment[SEG_SS].base + (offset))
#define STACK_BITS 32
#define SET_RSP(v) (cpu->gpr[REG_RSP].q = (uint32_t)(v))
#define RSP() ((uint64_t)cpu->gpr[REG_RSP].d)
#define WRAP_RIP(v) ((uint64_t)((cpu->mode & MODE_CS32) ? (uint32_t)(v) : (uint16_t)(v)))
#define WIDE 32
#endif

#define LOAD(bits, value)                                                                           \
    uint##bits##_t value;                                                                           \
    do {                                                                                            \
        const uint8_t *host_ = tlb_read(cpu, linear, bits / 8);                                     \
        if (unlikely(!host_))                                                                       \
            return interpret_miss_read(cpu, op, linear);                                            \
        if (unlikely(!guarded_load##bits(host_, &value)))                                           \
            COLD();                                                                                 \
    } while (0)

#define STORE(bits, value)                                                                          \
    do {                                                                                            \
        uint8_t *host_ = tlb_write(cpu, linear, bits / 8);                                          \
        if (unlikely(!host_))                                                                       \
            return interpret_miss_write(cpu, op, linear);                                           \
        if (unlikely(!guarded_store##bits(host_, (value))))                                         \
            COLD();                                                                                 \
    } while (0)

/* ---- two operands: ALU and MOV ---- */

#define KERNEL_mov(bits, a, b, flags) (b)
#define KERNEL_add(bits, a, b, flags) alu_add##bits(a, b, flags)
#define KERNEL_or(bits, a, b, flags)  alu_or##bits(a, b, flags)
#define KERNEL_adc(bits, a, b, flags) alu_adc##bits(a, b, flags)
#define KERNEL_sbb(bits, a, b, flags) alu_sbb##bits(a, b, flags)
#define KERNEL_and(bits, a, b, flags) alu_and##bits(a, b, flags)
#define KERNEL_sub(bits, a, b, flags) alu_sub##bits(a, b, flags)
#define KERNEL_xor(bits, a, b, flags) alu_xor##bits(a, b, flags)

#define TWO_REGISTER(name, bits)                                                                    \
    HANDLER(name##bits##_rr)                                                                        \
    {                                                                                               \
        SET_##bits(op->destination, KERNEL_##name(bits, REG(bits, op->destination), REG(bits, op->source), FLAGS)); \
        NEXT();                                                                                     \
    }                                                                                               \
    HANDLER(name##bits##_ri)                                                                        \
    {                                                                                               \
        SET_##bits(op->destination, KERNEL_##name(bits, REG(bits, op->destination), (uint##bits##_t)op->immediate, FLAGS)); \
        NEXT();                                                                                     \
    }                                                                                               \
    HANDLER(name##bits##_rm)                                                                        \
    {                                                                                               \
        ADDRESS(bits / 8, read);                                                                    \
        LOAD(bits, value);                                                                          \
        SET_##bits(op->destination, KERNEL_##name(bits, REG(bits, op->destination), value, FLAGS)); \
        NEXT();                                                                                     \
    }

/* Memory destination: the write tag implies that reading is fine too. The flags are committed last. */
#define TWO_MEMORY(name, bits, form, operand)                                                       \
    HANDLER(name##bits##_##form)                                                                    \
    {                                                                                               \
        ADDRESS(bits / 8, write);                                                                   \
        uint8_t *host = tlb_write(cpu, linear, bits / 8);                                           \
        uint##bits##_t value;                                                                       \
        if (unlikely(!host))                                                                        \
            return interpret_miss_write(cpu, op, linear);                                           \
        if (unlikely(!guarded_load##bits(host, &value)))                                            \
            COLD();                                                                                 \
        uint32_t flags = cpu->aflags;                                                               \
        value = KERNEL_##name(bits, value, operand, &flags);                                        \
        if (unlikely(!guarded_store##bits(host, value)))                                            \
            COLD();                                                                                 \
        cpu->aflags = flags;                                                                        \
        NEXT();                                                                                     \
    }

#define TWO_SIZED(name, bits)                                                                       \
    TWO_REGISTER(name, bits)                                                                        \
    TWO_MEMORY(name, bits, mr, REG(bits, op->source))                                               \
    TWO_MEMORY(name, bits, mi, (uint##bits##_t)op->immediate)
#define TWO(name) TWO_SIZED(name, 8) TWO_SIZED(name, 16) TWO_SIZED(name, 32) TWO_SIZED(name, 64)

TWO(add) TWO(or) TWO(adc) TWO(sbb) TWO(and) TWO(sub) TWO(xor)

#define MOV_SIZED(bits)                                                                             \
    TWO_REGISTER(mov, bits)                                                                         \
    HANDLER(mov##bits##_mr) { ADDRESS(bits / 8, write); STORE(bits, REG(bits, op->source)); NEXT(); } \
    HANDLER(mov##bits##_mi) { ADDRESS(bits / 8, write); STORE(bits, (uint##bits##_t)op->immediate); NEXT(); }
MOV_SIZED(8) MOV_SIZED(16) MOV_SIZED(32) MOV_SIZED(64)

#define COMPARE_SIZED(name, bits)                                                                   \
    HANDLER(name##bits##_rr) { alu_##name##bits(REG(bits, op->destination), REG(bits, op->source), FLAGS); NEXT(); } \
    HANDLER(name##bits##_ri) { alu_##name##bits(REG(bits, op->destination), (uint##bits##_t)op->immediate, FLAGS); NEXT(); } \
    HANDLER(name##bits##_rm) { ADDRESS(bits / 8, read); LOAD(bits, v); alu_##name##bits(REG(bits, op->destination), v, FLAGS); NEXT(); } \
    HANDLER(name##bits##_mr) { ADDRESS(bits / 8, read); LOAD(bits, v); alu_##name##bits(v, REG(bits, op->source), FLAGS); NEXT(); } \
    HANDLER(name##bits##_mi) { ADDRESS(bits / 8, read); LOAD(bits, v); alu_##name##bits(v, (uint##bits##_t)op->immediate, FLAGS); NEXT(); }
#define COMPARE(name) COMPARE_SIZED(name, 8) COMPARE_SIZED(name, 16) COMPARE_SIZED(name, 32) COMPARE_SIZED(name, 64)
COMPARE(cmp) COMPARE(test)

/* ---- one operand ---- */

#define KERNEL_inc(bits, a, flags) alu_inc##bits(a, flags)
#define KERNEL_dec(bits, a, flags) alu_dec##bits(a, flags)
#define KERNEL_neg(bits, a, flags) alu_neg##bits(a, flags)
#define KERNEL_not(bits, a, flags) ((void)(flags), alu_not##bits(a))
#define UNARY_SIZED(name, bits)                                                                     \
    HANDLER(name##bits##_r) { SET_##bits(op->destination, KERNEL_##name(bits, REG(bits, op->destination), FLAGS)); NEXT(); } \
    HANDLER(name##bits##_m)                                                                         \
    {                                                                                               \
        ADDRESS(bits / 8, write);                                                                   \
        uint8_t *host = tlb_write(cpu, linear, bits / 8);                                           \
        uint##bits##_t value;                                                                       \
        if (unlikely(!host))                                                                        \
            return interpret_miss_write(cpu, op, linear);                                           \
        if (unlikely(!guarded_load##bits(host, &value)))                                            \
            COLD();                                                                                 \
        uint32_t flags = cpu->aflags;                                                               \
        value = KERNEL_##name(bits, value, &flags);                                                 \
        if (unlikely(!guarded_store##bits(host, value)))                                            \
            COLD();                                                                                 \
        cpu->aflags = flags;                                                                        \
        NEXT();                                                                                     \
    }
#define UNARY(name) UNARY_SIZED(name, 8) UNARY_SIZED(name, 16) UNARY_SIZED(name, 32) UNARY_SIZED(name, 64)
UNARY(inc) UNARY(dec) UNARY(neg) UNARY(not)

#define SHIFT_SIZED(name, bits)                                                                     \
    HANDLER(name##bits##_ri) { SET_##bits(op->destination, alu_##name##_imm##bits(REG(bits, op->destination), (uint8_t)op->immediate, FLAGS)); NEXT(); } \
    HANDLER(name##bits##_rc) { SET_##bits(op->destination, alu_##name##bits(REG(bits, op->destination), cpu->gpr[REG_RCX].b[0], FLAGS)); NEXT(); }
#define SHIFT_MEMORY(name, kernel, bits, form, count)                                               \
    HANDLER(name##bits##_##form)                                                                    \
    {                                                                                               \
        ADDRESS(bits / 8, write);                                                                   \
        uint8_t *host = tlb_write(cpu, linear, bits / 8);                                           \
        uint##bits##_t value;                                                                       \
        if (unlikely(!host))                                                                        \
            return interpret_miss_write(cpu, op, linear);                                           \
        if (unlikely(!guarded_load##bits(host, &value)))                                            \
            COLD();                                                                                 \
        uint32_t flags = cpu->aflags;                                                               \
        value = kernel(value, (uint8_t)(count), &flags);                                            \
        if (unlikely(!guarded_store##bits(host, value)))                                            \
            COLD();                                                                                 \
        cpu->aflags = flags;                                                                        \
        NEXT();                                                                                     \
    }
#define SHIFT_MEMORIES(name, bits)                                                                  \
    SHIFT_MEMORY(name, alu_##name##_some##bits, bits, mi, op->immediate)                            \
    SHIFT_MEMORY(name, alu_##name##bits, bits, mc, cpu->gpr[REG_RCX].b[0])
SHIFT_MEMORIES(shl, 8) SHIFT_MEMORIES(shl, 16) SHIFT_MEMORIES(shl, 32) SHIFT_MEMORIES(shl, 64)
SHIFT_MEMORIES(shr, 8) SHIFT_MEMORIES(shr, 16) SHIFT_MEMORIES(shr, 32) SHIFT_MEMORIES(shr, 64)
SHIFT_MEMORIES(sar, 8) SHIFT_MEMORIES(sar, 16) SHIFT_MEMORIES(sar, 32) SHIFT_MEMORIES(sar, 64)
SHIFT_MEMORIES(rol, 8) SHIFT_MEMORIES(rol, 16) SHIFT_MEMORIES(rol, 32) SHIFT_MEMORIES(rol, 64)
SHIFT_MEMORIES(ror, 8) SHIFT_MEMORIES(ror, 16) SHIFT_MEMORIES(ror, 32) SHIFT_MEMORIES(ror, 64)

#define SHIFT(name) SHIFT_SIZED(name, 8) SHIFT_SIZED(name, 16) SHIFT_SIZED(name, 32) SHIFT_SIZED(name, 64)
SHIFT(shl) SHIFT(shr) SHIFT(sar) SHIFT(rol) SHIFT(ror)

/* ---- widening moves, LEA, IMUL ---- */

#define WIDEN(name, from, to, type)                                                                 \
    HANDLER(name##from##_##to##_r) { SET_##to(op->destination, (type)REG(from, op->source)); NEXT(); } \
    HANDLER(name##from##_##to##_m) { ADDRESS(from / 8, read); LOAD(from, v); SET_##to(op->destination, (type)v); NEXT(); }
WIDEN(movzx, 8, 16, uint8_t) WIDEN(movzx, 8, 32, uint8_t) WIDEN(movzx, 8, 64, uint8_t) WIDEN(movzx, 16, 32, uint16_t) WIDEN(movzx, 16, 64, uint16_t)
WIDEN(movsx, 8, 16, int8_t) WIDEN(movsx, 8, 32, int8_t) WIDEN(movsx, 8, 64, int8_t) WIDEN(movsx, 16, 32, int16_t) WIDEN(movsx, 16, 64, int16_t)
WIDEN(movsx, 32, 64, int32_t)

#if OPS_64
#define LEA_OFFSET() (op->address_32 ? (uint32_t)OFFSET() : OFFSET())
#else
#define LEA_OFFSET() (op->address_32 ? (uint32_t)OFFSET() : (uint16_t)OFFSET())
#endif
#define LEA(bits) HANDLER(lea##bits) { SET_##bits(op->destination, LEA_OFFSET()); NEXT(); }
LEA(16) LEA(32) LEA(64)

#define IMUL(bits)                                                                                  \
    HANDLER(imul##bits##_rr) { SET_##bits(op->destination, alu_imul2_##bits(REG(bits, op->destination), REG(bits, op->source), FLAGS)); NEXT(); } \
    HANDLER(imul##bits##_rri) { SET_##bits(op->destination, alu_imul2_##bits(REG(bits, op->source), (uint##bits##_t)op->immediate, FLAGS)); NEXT(); } \
    HANDLER(imul##bits##_rm) { ADDRESS(bits / 8, read); LOAD(bits, v); SET_##bits(op->destination, alu_imul2_##bits(REG(bits, op->destination), v, FLAGS)); NEXT(); }
IMUL(16) IMUL(32) IMUL(64)

/* ---- branches ---- */

/* To a target in this page: through the link; block_rip moves by the displacement. */
#define TAKE_LINK()                                                                                 \
    do {                                                                                            \
        const struct block *to_ = op->link;                                                         \
        if (likely(to_ && to_->verified == cpu->verify_epoch && !atomic_load_explicit(&cpu->request, memory_order_relaxed))) { \
            cpu->block_rip = WRAP_RIP(cpu->block_rip + (uint64_t)op->target);                       \
            INTERPRET_GO(cpu, to_->ops);                                                            \
        }                                                                                           \
        return interpret_branch(cpu, op);                                                           \
    } while (0)

HANDLER(jmp_rel) { TAKE_LINK(); }

#define JCC(cc) HANDLER(jcc_##cc) { if (cond_##cc(cpu->aflags)) TAKE_LINK(); NEXT(); }
JCC(o) JCC(no) JCC(b) JCC(nb) JCC(z) JCC(nz) JCC(be) JCC(nbe) JCC(s) JCC(ns) JCC(p) JCC(np) JCC(l) JCC(nl) JCC(le) JCC(nle)

/* To anywhere. In 64-bit code a target that is not canonical faults here, at the branch: the cold way's work. */
#if OPS_64
#define GOOD_TARGET(rip) ((gva_t)((int64_t)((rip) << 16) >> 16) == (rip))
#else
#define GOOD_TARGET(rip) ((rip) <= cpu->segment[SEG_CS].limit)
#endif
#define JUMP_TO(target_rip)                                                                         \
    do {                                                                                            \
        cpu->rip = (target_rip);                                                                    \
        return interpret_lookup(cpu, op);                                                           \
    } while (0)

#define NATIVE_CAT_(a, b) a##b
#define NATIVE_CAT(a, b) NATIVE_CAT_(a, b)
#define REG_WIDE(at) NATIVE_REG(WIDE, at)
#define NATIVE_REG(bits, at) REG_BITS(bits, at)
#define REG_BITS(bits, at) REG(bits, at)
#define LOAD_WIDE(value) LOAD_BITS(WIDE, value)
#define LOAD_BITS(bits, value) LOAD(bits, value)
#define STORE_WIDE(value) STORE_BITS(WIDE, (value))
#define STORE_BITS(bits, value) STORE_CAST(bits, value)
#define STORE_CAST(bits, value) STORE(bits, (uint##bits##_t)(value))

HANDLER(jmp_reg)
{
    uint64_t target = REG_WIDE(op->source);
    if (unlikely(!GOOD_TARGET(target)))
        COLD();
    JUMP_TO(target);
}

HANDLER(jmp_mem)
{
    ADDRESS(WIDE / 8, read);
    LOAD_WIDE(target);
    if (unlikely(!GOOD_TARGET((uint64_t)target)))
        COLD();
    JUMP_TO(target);
}

#define RETURN_RIP() WRAP_RIP(cpu->block_rip + op->offset + op->length)

HANDLER(call_rel)
{
    uint64_t rsp = RSP() - WIDE / 8;
#if !OPS_64
    rsp = (uint32_t)rsp;
#endif
    if (unlikely(!GOOD_TARGET(WRAP_RIP(cpu->block_rip + (uint64_t)op->target))))
        COLD();
    STACK_ADDRESS(rsp, WIDE / 8, write);
    STORE_WIDE(RETURN_RIP());
    SET_RSP(rsp);
    TAKE_LINK();
}

HANDLER(call_reg)
{
    uint64_t target = REG_WIDE(op->source), rsp = RSP() - WIDE / 8;
#if !OPS_64
    rsp = (uint32_t)rsp;
#endif
    if (unlikely(!GOOD_TARGET(target)))
        COLD();
    STACK_ADDRESS(rsp, WIDE / 8, write);
    STORE_WIDE(RETURN_RIP());
    SET_RSP(rsp);
    JUMP_TO(target);
}

HANDLER(ret_near)
{
    STACK_ADDRESS(RSP(), WIDE / 8, read);
    LOAD_WIDE(target);
    if (unlikely(!GOOD_TARGET((uint64_t)target)))
        COLD();
    SET_RSP(RSP() + WIDE / 8);
    JUMP_TO(target);
}

HANDLER(ret_near_imm)
{
    STACK_ADDRESS(RSP(), WIDE / 8, read);
    LOAD_WIDE(target);
    if (unlikely(!GOOD_TARGET((uint64_t)target)))
        COLD();
    SET_RSP(RSP() + WIDE / 8 + op->immediate);
    JUMP_TO(target);
}

/* ---- stack ---- */

HANDLER(push_reg)
{
    uint64_t rsp = RSP() - WIDE / 8;
#if !OPS_64
    rsp = (uint32_t)rsp;
#endif
    STACK_ADDRESS(rsp, WIDE / 8, write);
    STORE_WIDE(REG_WIDE(op->source));
    SET_RSP(rsp);
    NEXT();
}

HANDLER(push_imm)
{
    uint64_t rsp = RSP() - WIDE / 8;
#if !OPS_64
    rsp = (uint32_t)rsp;
#endif
    STACK_ADDRESS(rsp, WIDE / 8, write);
#if OPS_64
    STORE(64, op->immediate);
#else
    STORE(32, (uint32_t)op->immediate);
#endif
    SET_RSP(rsp);
    NEXT();
}

HANDLER(pop_reg)
{
    STACK_ADDRESS(RSP(), WIDE / 8, read);
    LOAD_WIDE(value);
    SET_RSP(RSP() + WIDE / 8);
    REG(64, op->destination) = (uint64_t)value;
    NEXT();
}

HANDLER(leave_frame)
{
    uint64_t frame = REG_WIDE(offsetof(struct cpu, gpr) + REG_RBP * 8);
    STACK_ADDRESS(frame, WIDE / 8, read);
    LOAD_WIDE(value);
    SET_RSP(frame + WIDE / 8);
    cpu->gpr[REG_RBP].q = (uint64_t)value;
    NEXT();
}

/* ---- conditional moves, SETcc and what is left ---- */

#define CMOV(cc, bits)                                                                              \
    HANDLER(cmov##cc##bits##_r) { SET_##bits(op->destination, cond_##cc(cpu->aflags) ? REG(bits, op->source) : REG(bits, op->destination)); NEXT(); } \
    HANDLER(cmov##cc##bits##_m) { ADDRESS(bits / 8, read); LOAD(bits, v); SET_##bits(op->destination, cond_##cc(cpu->aflags) ? v : REG(bits, op->destination)); NEXT(); }
#define CONDITIONAL(cc) CMOV(cc, 16) CMOV(cc, 32) CMOV(cc, 64) HANDLER(set##cc) { SET_8(op->destination, cond_##cc(cpu->aflags)); NEXT(); }
CONDITIONAL(o) CONDITIONAL(no) CONDITIONAL(b) CONDITIONAL(nb) CONDITIONAL(z) CONDITIONAL(nz) CONDITIONAL(be) CONDITIONAL(nbe)
CONDITIONAL(s) CONDITIONAL(ns) CONDITIONAL(p) CONDITIONAL(np) CONDITIONAL(l) CONDITIONAL(nl) CONDITIONAL(le) CONDITIONAL(nle)

#define EXCHANGE(bits) HANDLER(xchg##bits) { uint##bits##_t a = REG(bits, op->destination), b = REG(bits, op->source); SET_##bits(op->destination, b); SET_##bits(op->source, a); NEXT(); }
EXCHANGE(8) EXCHANGE(16) EXCHANGE(32) EXCHANGE(64)

HANDLER(bswap32) { SET_32(op->destination, __builtin_bswap32(REG(32, op->destination))); NEXT(); }
HANDLER(bswap64) { SET_64(op->destination, __builtin_bswap64(REG(64, op->destination))); NEXT(); }
HANDLER(cbw16) { SET_16(offsetof(struct cpu, gpr), (int8_t)cpu->gpr[REG_RAX].b[0]); NEXT(); }
HANDLER(cbw32) { SET_32(offsetof(struct cpu, gpr), (int16_t)cpu->gpr[REG_RAX].w); NEXT(); }
HANDLER(cbw64) { cpu->gpr[REG_RAX].q = (uint64_t)(int32_t)cpu->gpr[REG_RAX].d; NEXT(); }
HANDLER(cwd16) { cpu->gpr[REG_RDX].w = (uint16_t)((int16_t)cpu->gpr[REG_RAX].w >> 15); NEXT(); }
HANDLER(cwd32) { cpu->gpr[REG_RDX].q = (uint32_t)((int32_t)cpu->gpr[REG_RAX].d >> 31); NEXT(); }
HANDLER(cwd64) { cpu->gpr[REG_RDX].q = (uint64_t)((int64_t)cpu->gpr[REG_RAX].q >> 63); NEXT(); }
#define BT_RI(bits) HANDLER(bt##bits) { cpu->aflags = (cpu->aflags & ~AFLAG_CF) | ((REG(bits, op->destination) >> (op->immediate & (bits - 1))) & 1 ? AFLAG_CF : 0); NEXT(); }
BT_RI(16) BT_RI(32) BT_RI(64)
HANDLER(nop) { NEXT(); }

/* ---- vector moves, and instructions that the host carries out ---- */

#define VECTOR(at) ((union vector *)(void *)((uint8_t *)cpu + (at)))

#define LOAD_128(to)                                                                                \
    do {                                                                                            \
        const uint8_t *host_ = tlb_read(cpu, linear, 16);                                           \
        if (unlikely(!host_))                                                                       \
            return interpret_miss_read(cpu, op, linear);                                            \
        if (unlikely(!guarded_load128(host_, (to))))                                                \
            COLD();                                                                                 \
    } while (0)

#define STORE_128(from)                                                                             \
    do {                                                                                            \
        uint8_t *host_ = tlb_write(cpu, linear, 16);                                                \
        if (unlikely(!host_))                                                                       \
            return interpret_miss_write(cpu, op, linear);                                           \
        if (unlikely(!guarded_store128(host_, (from))))                                             \
            COLD();                                                                                 \
    } while (0)

#define VECTOR_HANDLER(name) HANDLER(name) { if (unlikely(!simd_ready(cpu))) COLD();
#define END NEXT(); }
#define ALIGNED_16() if (unlikely(linear & 15)) COLD()

VECTOR_HANDLER(copy16) __builtin_memcpy(VECTOR(op->destination), VECTOR(op->source), 16); END
VECTOR_HANDLER(load16) ADDRESS(16, read); LOAD_128(VECTOR(op->destination)); END
VECTOR_HANDLER(load16_aligned) ADDRESS(16, read); ALIGNED_16(); LOAD_128(VECTOR(op->destination)); END
VECTOR_HANDLER(store16) ADDRESS(16, write); STORE_128(VECTOR(op->source)); END
VECTOR_HANDLER(store16_aligned) ADDRESS(16, write); ALIGNED_16(); STORE_128(VECTOR(op->source)); END
VECTOR_HANDLER(load8_zero) ADDRESS(8, read); LOAD(64, v); VECTOR(op->destination)->q[0] = v; VECTOR(op->destination)->q[1] = 0; END
VECTOR_HANDLER(load4_zero) ADDRESS(4, read); LOAD(32, v); VECTOR(op->destination)->q[0] = v; VECTOR(op->destination)->q[1] = 0; END
VECTOR_HANDLER(load8_low) ADDRESS(8, read); LOAD(64, v); VECTOR(op->destination)->q[0] = v; END
VECTOR_HANDLER(load8_high) ADDRESS(8, read); LOAD(64, v); VECTOR(op->destination)->q[1] = v; END
VECTOR_HANDLER(store8_low) ADDRESS(8, write); STORE(64, VECTOR(op->source)->q[0]); END
VECTOR_HANDLER(store8_high) ADDRESS(8, write); STORE(64, VECTOR(op->source)->q[1]); END
VECTOR_HANDLER(store4) ADDRESS(4, write); STORE(32, VECTOR(op->source)->d[0]); END

/* Stubs take pointers to their operands (exec_simd_stub.c); a memory operand goes through cpu->scratch. Features that a partition
 * may take away, and unmasked exceptions, are the exec function's. */
#define RUN_STUB(first, second) ((simd_stub *)(uintptr_t)op->immediate)((first), (second), cpu)
#define RUN_STUB_FLOAT(first, second) (void)!simd_run_float(cpu, (simd_stub *)(uintptr_t)op->immediate, (first), 16, (second))
#define INTEGER_GUARD() if (unlikely(!simd_ready(cpu) || host_stub_tag((const void *)(uintptr_t)op->immediate))) COLD()
#define FLOAT_GUARD() if (unlikely(!simd_ready(cpu) || (cpu->mxcsr & 0x1f80) != 0x1f80 || host_stub_tag((const void *)(uintptr_t)op->immediate))) COLD()

#define STUB_SHAPES(kind, GUARD, RUN)                                                               \
    HANDLER(stub_##kind##_registers) { GUARD(); RUN(VECTOR(op->destination), VECTOR(op->source)); NEXT(); } \
    HANDLER(stub_##kind##_load4) { GUARD(); ADDRESS(4, read); LOAD(32, v); cpu->scratch.q[0] = v; RUN(VECTOR(op->destination), &cpu->scratch); NEXT(); } \
    HANDLER(stub_##kind##_load8) { GUARD(); ADDRESS(8, read); LOAD(64, v); cpu->scratch.q[0] = v; RUN(VECTOR(op->destination), &cpu->scratch); NEXT(); } \
    HANDLER(stub_##kind##_load16) { GUARD(); ADDRESS(16, read); LOAD_128(&cpu->scratch); RUN(VECTOR(op->destination), &cpu->scratch); NEXT(); } \
    HANDLER(stub_##kind##_load16_aligned) { GUARD(); ADDRESS(16, read); ALIGNED_16(); LOAD_128(&cpu->scratch); RUN(VECTOR(op->destination), &cpu->scratch); NEXT(); }
STUB_SHAPES(integer, INTEGER_GUARD, RUN_STUB)
STUB_SHAPES(float, FLOAT_GUARD, RUN_STUB_FLOAT)
/* clang-format on */
