/*
 * Completeness of the instruction set: every opcode of the one-, two- and three-byte maps with every ModRM byte and the
 * selecting prefixes, in each decode mode. What decodes and belongs to a set that the guest is shown must be bound
 * to a function; what does not decode, or belongs to another set, is #UD.
 */
#include <stdio.h>
#include <string.h>

#include "util/compiler.h"
#include "x86/code/decode.h"
#include "x86/vector/exec_simd.h"

/* The sets that make up the integer and system instructions. */
static const ZydisISASet required[] = {
    ZYDIS_ISA_SET_I86, ZYDIS_ISA_SET_I186, ZYDIS_ISA_SET_I286PROTECTED, ZYDIS_ISA_SET_I286REAL, ZYDIS_ISA_SET_I386,
    ZYDIS_ISA_SET_I486, ZYDIS_ISA_SET_I486REAL, ZYDIS_ISA_SET_PENTIUMREAL, ZYDIS_ISA_SET_PPRO, ZYDIS_ISA_SET_CMOV,
    ZYDIS_ISA_SET_LONGMODE, ZYDIS_ISA_SET_LAHF, ZYDIS_ISA_SET_POPCNT, ZYDIS_ISA_SET_LZCNT, ZYDIS_ISA_SET_BMI1,
    ZYDIS_ISA_SET_BMI2, ZYDIS_ISA_SET_ADOX_ADCX, ZYDIS_ISA_SET_MOVBE, ZYDIS_ISA_SET_CMPXCHG16B, ZYDIS_ISA_SET_RDRAND,
    ZYDIS_ISA_SET_RDSEED, ZYDIS_ISA_SET_SMAP, ZYDIS_ISA_SET_CLFLUSHOPT, ZYDIS_ISA_SET_CLFSH, ZYDIS_ISA_SET_CLWB,
    ZYDIS_ISA_SET_FAT_NOP, ZYDIS_ISA_SET_PREFETCH_NOP, ZYDIS_ISA_SET_PAUSE, ZYDIS_ISA_SET_RDTSCP, ZYDIS_ISA_SET_RDPID,
    ZYDIS_ISA_SET_RDWRFSGS, ZYDIS_ISA_SET_INVPCID, ZYDIS_ISA_SET_RDPMC, ZYDIS_ISA_SET_PENTIUMMMX, ZYDIS_ISA_SET_X87,
    ZYDIS_ISA_SET_SSE, ZYDIS_ISA_SET_SSE2, ZYDIS_ISA_SET_SSE3, ZYDIS_ISA_SET_SSSE3, ZYDIS_ISA_SET_SSE4,
    ZYDIS_ISA_SET_SSE42, ZYDIS_ISA_SET_AES, ZYDIS_ISA_SET_PCLMULQDQ, ZYDIS_ISA_SET_XSAVE, ZYDIS_ISA_SET_XSAVEOPT,
    ZYDIS_ISA_SET_XSAVEC, ZYDIS_ISA_SET_XSAVES,
};

/* The same where the host can execute them. */
static const struct {
    enum cpu_feature feature;
    ZydisISASet set;
} required_of_host[] = {
    {FEATURE_AVX, ZYDIS_ISA_SET_AVX}, {FEATURE_AVX2, ZYDIS_ISA_SET_AVX2}, {FEATURE_AVX2, ZYDIS_ISA_SET_AVX2GATHER},
    {FEATURE_FMA, ZYDIS_ISA_SET_FMA}, {FEATURE_F16C, ZYDIS_ISA_SET_F16C}, {FEATURE_AVX, ZYDIS_ISA_SET_AVXAES},
};

static const uint32_t modes[] = {
    MODE_64 | MODE_LONG | MODE_PROTECTED | MODE_SS32, MODE_PROTECTED | MODE_CS32 | MODE_SS32, MODE_PROTECTED, 0};
static const char *const mode_names[] = {"64-bit", "32-bit", "16-bit protected", "real"};

static bool is_required[ZYDIS_ISA_SET_MAX_VALUE + 1];
static bool reported[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static exec_fn *undefined;
static unsigned long bound, absent, invalid, missing;

/* SMM does not exist here: RSM is #UD outside it (SDM 3C 31.3). */
static bool is_absent_by_design(ZydisMnemonic mnemonic) { return mnemonic == ZYDIS_MNEMONIC_RSM; }

static void look_at(unsigned mode, const uint8_t bytes[15])
{
    struct decoded d;

    if (decode(modes[mode], bytes, 15, &d) != DECODE_OK) {
        invalid++;
    } else if (d.insn.exec != undefined) {
        bound++;
    } else if (!is_required[d.zydis.meta.isa_set] || is_absent_by_design(d.insn.mnemonic)) {
        absent++;
    } else {
        missing++;
        if (!reported[d.insn.mnemonic])
            fprintf(stderr, "not implemented: %s (set %s), %s code, %02x %02x %02x %02x\n",
                    ZydisMnemonicGetString(d.insn.mnemonic), ZydisISASetGetString(d.zydis.meta.isa_set),
                    mode_names[mode], bytes[0], bytes[1], bytes[2], bytes[3]);
        reported[d.insn.mnemonic] = true;
    }
}

static void look_at_legacy(unsigned mode)
{
    static const char *const prefixes[] = {"", "\x66", "\xf3", "\xf2", "\x48", "\x66\x48", "\xf3\x48", "\xf2\x48"};
    static const char *const escapes[] = {"", "\x0f", "\x0f\x38", "\x0f\x3a"};
    /* REX is INC and DEC elsewhere. */
    const unsigned prefix_count = mode == 0 ? 8 : 4;

    for (unsigned p = 0; p < prefix_count; p++)
        for (unsigned e = 0; e < array_size(escapes); e++)
            for (unsigned i = 0; i < 0x10000; i++) {
                uint8_t bytes[16] = {0};
                const int at = snprintf((char *)bytes, sizeof(bytes), "%s%s", prefixes[p], escapes[e]);
                bytes[at] = (uint8_t)(i >> 8);
                bytes[at + 1] = (uint8_t)i;
                look_at(mode, bytes);
            }
}

static void look_at_vex(unsigned mode)
{
    for (unsigned map = 1; map <= 3; map++)
        for (unsigned wpp = 0; wpp < 8; wpp++)
            for (unsigned i = 0; i < 0x10000; i++) {
                const uint8_t bytes[15] = {0xc4, (uint8_t)(0xe0 | map), (uint8_t)((wpp & 4) << 5 | 0x78 | (wpp & 3)),
                                           (uint8_t)(i >> 8), (uint8_t)i};
                look_at(mode, bytes);
            }
}

int main(void)
{
    static const uint8_t vmfunc[15] = {0x0f, 0x01, 0xd4};
    struct decoded d;

    for (unsigned i = 0; i < array_size(required); i++)
        is_required[required[i]] = true;
    for (unsigned i = 0; i < array_size(required_of_host); i++)
        is_required[required_of_host[i].set] =
            simd_host_has(FEATURE_AVX) && simd_host_has(required_of_host[i].feature);
    if (decode(modes[0], vmfunc, sizeof(vmfunc), &d) != DECODE_OK)
        return 1;
    undefined = d.insn.exec;
    for (unsigned mode = 0; mode < array_size(modes); mode++) {
        look_at_legacy(mode);
        look_at_vex(mode);
    }
    printf("encodings: %lu implemented, %lu of sets that are not shown, %lu invalid, %lu missing\n", bound, absent, invalid,
           missing);
    return missing == 0 && bound != 0 ? 0 : 1;
}
