/* The table of the fast operations (x86/code/ops.h), after the handlers that ops_template.h makes. */

/* clang-format off */
#define SIZES(name, form) {name##8_##form, name##16_##form, name##32_##form, name##64_##form}
#define FORMS(name) {[FORM_RR] = SIZES(name, rr), [FORM_RI] = SIZES(name, ri), [FORM_RM] = SIZES(name, rm), [FORM_MR] = SIZES(name, mr), [FORM_MI] = SIZES(name, mi)}
#define WORDS(name, form) {NULL, name##16##form, name##32##form, name##64##form}
#define CCS(prefix, suffix) {prefix##o##suffix, prefix##no##suffix, prefix##b##suffix, prefix##nb##suffix, prefix##z##suffix, prefix##nz##suffix, prefix##be##suffix, prefix##nbe##suffix, \
                             prefix##s##suffix, prefix##ns##suffix, prefix##p##suffix, prefix##np##suffix, prefix##l##suffix, prefix##nl##suffix, prefix##le##suffix, prefix##nle##suffix}
#define CMOVS(cc, form) WORDS(cmov##cc, form)
#define CMOV_TABLE(form) {CMOVS(o, form), CMOVS(no, form), CMOVS(b, form), CMOVS(nb, form), CMOVS(z, form), CMOVS(nz, form), CMOVS(be, form), CMOVS(nbe, form), \
                          CMOVS(s, form), CMOVS(ns, form), CMOVS(p, form), CMOVS(np, form), CMOVS(l, form), CMOVS(nl, form), CMOVS(le, form), CMOVS(nle, form)}

const struct op_table OPS_TABLE = {
    .alu = {[OP_ADD] = FORMS(add), [OP_OR] = FORMS(or), [OP_ADC] = FORMS(adc), [OP_SBB] = FORMS(sbb), [OP_AND] = FORMS(and),
            [OP_SUB] = FORMS(sub), [OP_XOR] = FORMS(xor), [OP_CMP] = FORMS(cmp), [OP_TEST] = FORMS(test), [OP_MOV] = FORMS(mov)},
    .unary_r = {[OP_INC] = SIZES(inc, r), [OP_DEC] = SIZES(dec, r), [OP_NEG] = SIZES(neg, r), [OP_NOT] = SIZES(not, r)},
    .unary_m = {[OP_INC] = SIZES(inc, m), [OP_DEC] = SIZES(dec, m), [OP_NEG] = SIZES(neg, m), [OP_NOT] = SIZES(not, m)},
    .shift_ri = {[OP_SHL] = SIZES(shl, ri), [OP_SHR] = SIZES(shr, ri), [OP_SAR] = SIZES(sar, ri), [OP_ROL] = SIZES(rol, ri), [OP_ROR] = SIZES(ror, ri)},
    .shift_rc = {[OP_SHL] = SIZES(shl, rc), [OP_SHR] = SIZES(shr, rc), [OP_SAR] = SIZES(sar, rc), [OP_ROL] = SIZES(rol, rc), [OP_ROR] = SIZES(ror, rc)},
    .shift_mi = {[OP_SHL] = SIZES(shl, mi), [OP_SHR] = SIZES(shr, mi), [OP_SAR] = SIZES(sar, mi), [OP_ROL] = SIZES(rol, mi), [OP_ROR] = SIZES(ror, mi)},
    .shift_mc = {[OP_SHL] = SIZES(shl, mc), [OP_SHR] = SIZES(shr, mc), [OP_SAR] = SIZES(sar, mc), [OP_ROL] = SIZES(rol, mc), [OP_ROR] = SIZES(ror, mc)},
    .movzx_r = {{NULL, movzx8_16_r, movzx8_32_r, movzx8_64_r}, {NULL, NULL, movzx16_32_r, movzx16_64_r}},
    .movzx_m = {{NULL, movzx8_16_m, movzx8_32_m, movzx8_64_m}, {NULL, NULL, movzx16_32_m, movzx16_64_m}},
    .movsx_r = {{NULL, movsx8_16_r, movsx8_32_r, movsx8_64_r}, {NULL, NULL, movsx16_32_r, movsx16_64_r}, {NULL, NULL, NULL, movsx32_64_r}},
    .movsx_m = {{NULL, movsx8_16_m, movsx8_32_m, movsx8_64_m}, {NULL, NULL, movsx16_32_m, movsx16_64_m}, {NULL, NULL, NULL, movsx32_64_m}},
    .lea = WORDS(lea, ),
    .imul_rr = WORDS(imul, _rr), .imul_rm = WORDS(imul, _rm), .imul_rri = WORDS(imul, _rri),
    .setcc = CCS(set, ), .cmov_r = CMOV_TABLE(_r), .cmov_m = CMOV_TABLE(_m), .jcc = CCS(jcc_, ),
    .jmp = jmp_rel, .jmp_r = jmp_reg, .jmp_m = jmp_mem, .call = call_rel, .call_r = call_reg, .ret = ret_near, .ret_imm = ret_near_imm,
    .push_r = push_reg, .push_i = push_imm, .pop_r = pop_reg, .leave = leave_frame,
    .xchg_rr = {xchg8, xchg16, xchg32, xchg64}, .bswap = {NULL, NULL, bswap32, bswap64},
    .cbw = WORDS(cbw, ), .cwd = WORDS(cwd, ), .bt_ri = WORDS(bt, ), .nop = nop,
    .vector = {copy16, load16, load16_aligned, store16, store16_aligned, load8_zero, load4_zero, load8_low, load8_high, store8_low, store8_high, store4},
    .stub = {[SIMD_SHAPE_REGISTERS] = stub_integer_registers, [SIMD_SHAPE_LOAD4] = stub_integer_load4, [SIMD_SHAPE_LOAD8] = stub_integer_load8,
             [SIMD_SHAPE_LOAD16] = stub_integer_load16, [SIMD_SHAPE_LOAD16_ALIGNED] = stub_integer_load16_aligned,
             [SIMD_SHAPE_FLOAT + SIMD_SHAPE_REGISTERS] = stub_float_registers, [SIMD_SHAPE_FLOAT + SIMD_SHAPE_LOAD4] = stub_float_load4,
             [SIMD_SHAPE_FLOAT + SIMD_SHAPE_LOAD8] = stub_float_load8, [SIMD_SHAPE_FLOAT + SIMD_SHAPE_LOAD16] = stub_float_load16,
             [SIMD_SHAPE_FLOAT + SIMD_SHAPE_LOAD16_ALIGNED] = stub_float_load16_aligned},
};
/* clang-format on */
