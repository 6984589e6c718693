/*
 * Every integer instruction against the host processor: all opcodes of the one-, two- and three-byte maps that
 * a program may run, with every ModRM byte, in 64-bit and (where the host runs it) 32-bit code.
 *
 * Left out, because running them here would leave the arena or change this process: far branches, segment loads,
 * software interrupts, system calls, and what differs by nature (time stamps, random numbers).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "silicon_forms.h"

#define F(name) RFLAGS_##name

/* clang-format off */
static const struct form_row alu_rows[] = {
    {0, 0x00, 0x03, FORM_MODRM, 0, FORM_BOTH},  {0, 0x04, 0x05, 0, 0, FORM_BOTH},  /* ADD */
    {0, 0x08, 0x0b, FORM_MODRM, 0, FORM_BOTH},  {0, 0x0c, 0x0d, 0, 0, FORM_BOTH},  /* OR */
    {0, 0x10, 0x13, FORM_MODRM, 0, FORM_BOTH},  {0, 0x14, 0x15, 0, 0, FORM_BOTH},  /* ADC */
    {0, 0x18, 0x1b, FORM_MODRM, 0, FORM_BOTH},  {0, 0x1c, 0x1d, 0, 0, FORM_BOTH},  /* SBB */
    {0, 0x20, 0x23, FORM_MODRM, 0, FORM_BOTH},  {0, 0x24, 0x25, 0, 0, FORM_BOTH},  /* AND */
    {0, 0x28, 0x2b, FORM_MODRM, 0, FORM_BOTH},  {0, 0x2c, 0x2d, 0, 0, FORM_BOTH},  /* SUB */
    {0, 0x30, 0x33, FORM_MODRM, 0, FORM_BOTH},  {0, 0x34, 0x35, 0, 0, FORM_BOTH},  /* XOR */
    {0, 0x38, 0x3b, FORM_MODRM, 0, FORM_BOTH},  {0, 0x3c, 0x3d, 0, 0, FORM_BOTH},  /* CMP */
    {0, 0x40, 0x4f, 0, 0, FORM_32},                                                /* INC DEC */
    {0, 0x80, 0x81, FORM_MODRM, 0, FORM_BOTH},  {0, 0x82, 0x82, FORM_MODRM, 0, FORM_32}, /* group 1 */
    {0, 0x83, 0x83, FORM_MODRM, 0, FORM_BOTH},
    {0, 0x84, 0x87, FORM_MODRM, 0, FORM_BOTH},                                     /* TEST XCHG */
    {0, 0x90, 0x97, 0, 0, FORM_BOTH},                                              /* XCHG NOP */
    {0, 0xa8, 0xa9, 0, 0, FORM_BOTH},                                              /* TEST */
    {0, 0xf6, 0xf7, FORM_MODRM, 0x0f, FORM_BOTH},                                  /* TEST NOT NEG */
    {0, 0xfe, 0xff, FORM_MODRM, 0x03, FORM_BOTH},                                  /* INC DEC */
    {1, 0xb0, 0xb1, FORM_MODRM, 0, FORM_BOTH},                                     /* CMPXCHG */
    {1, 0xc0, 0xc1, FORM_MODRM, 0, FORM_BOTH},                                     /* XADD */
    {1, 0xc7, 0xc7, FORM_MODRM, 0x02, FORM_BOTH},                                  /* CMPXCHG8B CMPXCHG16B */
    {2, 0xf6, 0xf6, FORM_MODRM | FORM_SELECTING, 0, FORM_BOTH},                    /* ADCX ADOX */
};

static const struct form_row shift_rows[] = {
    {0, 0xc0, 0xc1, FORM_MODRM | FORM_INTEL_OF, 0x0f, FORM_BOTH}, {0, 0xc0, 0xc1, FORM_MODRM, 0xf0, FORM_BOTH}, /* by imm8 */
    {0, 0xd0, 0xd3, FORM_MODRM, 0, FORM_BOTH}, /* by 1 and CL */
    {1, 0xa4, 0xa5, FORM_MODRM, 0, FORM_BOTH}, /* SHLD */
    {1, 0xac, 0xad, FORM_MODRM, 0, FORM_BOTH}, /* SHRD */
};

static const struct form_row muldiv_rows[] = {
    {0, 0x69, 0x69, FORM_MODRM, 0, FORM_BOTH}, {0, 0x6b, 0x6b, FORM_MODRM, 0, FORM_BOTH}, /* IMUL */
    {1, 0xaf, 0xaf, FORM_MODRM, 0, FORM_BOTH},                                            /* IMUL */
    {0, 0xf6, 0xf7, FORM_MODRM, 0x30, FORM_BOTH},                                         /* MUL IMUL */
    {0, 0xf6, 0xf7, FORM_MODRM | FORM_DIVIDE, 0xc0, FORM_BOTH},                           /* DIV IDIV */
};

/* The flags that the counts and BMI instructions leave undefined are not taken from the host. */
static const struct form_row bit_rows[] = {
    {1, 0xa3, 0xa3, FORM_MODRM | FORM_BIT_STRING, 0, FORM_BOTH}, /* BT */
    {1, 0xab, 0xab, FORM_MODRM | FORM_BIT_STRING, 0, FORM_BOTH}, /* BTS */
    {1, 0xb3, 0xb3, FORM_MODRM | FORM_BIT_STRING, 0, FORM_BOTH}, /* BTR */
    {1, 0xbb, 0xbb, FORM_MODRM | FORM_BIT_STRING, 0, FORM_BOTH}, /* BTC */
    {1, 0xba, 0xba, FORM_MODRM, 0, FORM_BOTH},                   /* BT.. imm8 */
    {1, 0xb8, 0xb8, FORM_MODRM | FORM_SELECTING, 0, FORM_BOTH},  /* POPCNT; #UD */
    {1, 0xbc, 0xbd, FORM_MODRM | FORM_SELECTING, 0, FORM_BOTH, F(OF) | F(SF) | F(PF) | F(AF)}, /* BSF TZCNT BSR LZCNT */
    {1, 0xc8, 0xcf, 0, 0, FORM_BOTH},                            /* BSWAP */
    {2, 0xf0, 0xf1, FORM_MODRM | FORM_SELECTING, 0, FORM_BOTH},  /* MOVBE CRC32 */
    {2, 0xf2, 0xf2, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, F(AF) | F(PF)},            /* ANDN */
    {2, 0xf3, 0xf3, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, F(AF) | F(PF)},            /* BLSR BLSMSK BLSI */
    {2, 0xf5, 0xf5, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, F(AF) | F(PF), 0},         /* BZHI */
    {2, 0xf5, 0xf5, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, 0, 2},                     /* PEXT */
    {2, 0xf5, 0xf5, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, 0, 3},                     /* PDEP */
    {2, 0xf6, 0xf6, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, 0, 3},                     /* MULX */
    {2, 0xf7, 0xf7, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, F(AF) | F(SF) | F(PF), 0}, /* BEXTR */
    {2, 0xf7, 0xf7, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, 0, 1},                     /* SHLX */
    {2, 0xf7, 0xf7, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, 0, 2},                     /* SARX */
    {2, 0xf7, 0xf7, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, 0, 3},                     /* SHRX */
    {3, 0xf0, 0xf0, FORM_MODRM | FORM_VEX, 0, FORM_BOTH, 0, 3},                     /* RORX */
};

static const struct form_row move_rows[] = {
    {0, 0x63, 0x63, FORM_MODRM, 0, FORM_64},                                       /* MOVSXD */
    {0, 0x88, 0x8b, FORM_MODRM, 0, FORM_BOTH}, {0, 0x8d, 0x8d, FORM_MODRM, 0, FORM_BOTH}, /* MOV LEA */
    {0, 0x98, 0x99, 0, 0, FORM_BOTH}, {0, 0x9e, 0x9f, 0, 0, FORM_BOTH},            /* CBW CWD SAHF LAHF */
    {0, 0xa0, 0xa3, 0, 0, FORM_BOTH}, {0, 0xb0, 0xbf, 0, 0, FORM_BOTH},            /* MOV */
    {0, 0xc6, 0xc7, FORM_MODRM, 0x01, FORM_BOTH},                                  /* MOV */
    {0, 0xd7, 0xd7, 0, 0, FORM_BOTH},                                              /* XLAT */
    {0, 0xf5, 0xf5, 0, 0, FORM_BOTH}, {0, 0xf8, 0xf9, 0, 0, FORM_BOTH}, {0, 0xfc, 0xfd, 0, 0, FORM_BOTH}, /* flags */
    {1, 0x0d, 0x0d, FORM_MODRM, 0, FORM_BOTH}, {1, 0x18, 0x1f, FORM_MODRM, 0, FORM_BOTH}, /* NOP */
    {1, 0x40, 0x4f, FORM_MODRM, 0, FORM_BOTH}, {1, 0x90, 0x9f, FORM_MODRM, 0, FORM_BOTH}, /* CMOVcc SETcc */
    {1, 0xb6, 0xb7, FORM_MODRM, 0, FORM_BOTH}, {1, 0xbe, 0xbf, FORM_MODRM, 0, FORM_BOTH}, /* MOVZX MOVSX */
    {1, 0xc3, 0xc3, FORM_MODRM, 0, FORM_BOTH},                                     /* MOVNTI */
    {1, 0x0b, 0x0b, 0, 0, FORM_BOTH}, {1, 0xb9, 0xb9, FORM_MODRM, 0, FORM_BOTH}, {1, 0xff, 0xff, FORM_MODRM, 0, FORM_BOTH}, /* UD */
    {1, 0xae, 0xae, FORM_MODRM, 0x80, FORM_BOTH},                                  /* SFENCE, CLFLUSH */
};

static const struct form_row bcd_rows[] = {
    {0, 0x27, 0x27, 0, 0, FORM_32, F(OF)}, {0, 0x2f, 0x2f, 0, 0, FORM_32, F(OF)},                    /* DAA DAS */
    {0, 0x37, 0x37, 0, 0, FORM_32, F(OF) | F(SF) | F(ZF) | F(PF)},                                   /* AAA */
    {0, 0x3f, 0x3f, 0, 0, FORM_32, F(OF) | F(SF) | F(ZF) | F(PF)},                                   /* AAS */
    {0, 0xd4, 0xd5, 0, 0, FORM_32, F(OF) | F(AF) | F(CF)}, {0, 0xd6, 0xd6, 0, 0, FORM_32},           /* AAM AAD SALC */
    /* In 64-bit code none of them exists. */
    {0, 0x27, 0x27, 0, 0, FORM_64}, {0, 0x2f, 0x2f, 0, 0, FORM_64}, {0, 0x37, 0x37, 0, 0, FORM_64},
    {0, 0x3f, 0x3f, 0, 0, FORM_64}, {0, 0xd4, 0xd6, 0, 0, FORM_64}, {0, 0x60, 0x62, 0, 0, FORM_64},
};

static const struct form_row stack_rows[] = {
    {0, 0x06, 0x06, 0, 0, FORM_32}, {0, 0x0e, 0x0e, 0, 0, FORM_32}, {0, 0x16, 0x16, 0, 0, FORM_32},  /* PUSH ES CS SS */
    {0, 0x1e, 0x1e, 0, 0, FORM_32},                                                                  /* PUSH DS */
    {0, 0x50, 0x5f, 0, 0, FORM_BOTH}, {0, 0x60, 0x60, 0, 0, FORM_32}, {0, 0x62, 0x62, FORM_MODRM | FORM_MEMORY_ONLY, 0, FORM_32},
    {0, 0x61, 0x61, 0, 0, FORM_32},                                                                  /* POPA */
    {0, 0x68, 0x68, 0, 0, FORM_BOTH}, {0, 0x6a, 0x6a, 0, 0, FORM_BOTH},                              /* PUSH */
    {0, 0x8f, 0x8f, FORM_MODRM, 0x01, FORM_BOTH}, {0, 0xff, 0xff, FORM_MODRM, 0x40, FORM_BOTH},      /* POP PUSH */
    {0, 0xc8, 0xc8, FORM_FRAME, 0, FORM_BOTH}, {0, 0xc9, 0xc9, FORM_FRAME, 0, FORM_BOTH},            /* ENTER LEAVE */
    {1, 0xa0, 0xa0, 0, 0, FORM_BOTH}, {1, 0xa8, 0xa8, 0, 0, FORM_BOTH},                              /* PUSH FS GS */
};

static const struct form_row branch_rows[] = {
    {0, 0x70, 0x7f, FORM_BRANCH, 0, FORM_BOTH}, {1, 0x80, 0x8f, FORM_BRANCH, 0, FORM_BOTH}, /* Jcc */
    {0, 0xe0, 0xe3, FORM_BRANCH, 0, FORM_BOTH}, {0, 0xe8, 0xe9, FORM_BRANCH, 0, FORM_BOTH}, /* LOOP JrCXZ CALL JMP */
    {0, 0xeb, 0xeb, FORM_BRANCH, 0, FORM_BOTH},                                             /* JMP */
    {0, 0xc2, 0xc3, FORM_INDIRECT, 0, FORM_BOTH}, {0, 0xff, 0xff, FORM_MODRM | FORM_INDIRECT, 0x14, FORM_BOTH}, /* RET CALL JMP */
};

static const struct form_row string_rows[] = {
    {0, 0xa4, 0xa7, FORM_REPEAT, 0, FORM_BOTH}, {0, 0xaa, 0xaf, FORM_REPEAT, 0, FORM_BOTH},
};

/* #GP: no port is open to a program. */
static const struct form_row io_rows[] = {
    {0, 0x6c, 0x6f, FORM_REPEAT, 0, FORM_BOTH}, {0, 0xe4, 0xe7, 0, 0, FORM_BOTH}, {0, 0xec, 0xef, 0, 0, FORM_BOTH},
};

#define GROUP(name, sets) {#name, name##_rows, array_size(name##_rows), sets}
static const struct group {
    const char *name;
    const struct form_row *rows;
    size_t count;
    unsigned sets;
} groups[] = {
    GROUP(alu, 2), GROUP(shift, 4), GROUP(muldiv, 8), GROUP(bit, 4), GROUP(move, 1), GROUP(bcd, 32), GROUP(stack, 4),
    GROUP(branch, 4), GROUP(string, 16), GROUP(io, 1),
};
/* clang-format on */

static void run_group(const struct group *g, bool has_32, enum silicon_way way)
{
    /* Through the port everything is much slower. */
    const unsigned sets = way == SILICON_STEP || way == SILICON_EXEC ? g->sets : (g->sets + 3) / 4;

    for (size_t i = 0; i < g->count; i++) {
        if (g->rows[i].modes & FORM_64)
            forms_run(&g->rows[i], false, sets);
        if (has_32 && (g->rows[i].modes & FORM_32))
            forms_run(&g->rows[i], true, sets);
    }
}

/* Arguments: the group to run, and how: "port" or "exec" (see enum silicon_way). */
int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    const char *how = argc > 2 ? argv[2] : "";
    const enum silicon_way way = silicon_emulate           ? SILICON_EMULATOR
                                 : strcmp(how, "port") == 0 ? SILICON_PORT
                                 : strcmp(how, "exec") == 0 ? SILICON_EXEC
                                                            : SILICON_STEP;
    int result = silicon_init(way);

    if (result != 0)
        return result;
    const bool has_32 = silicon_has_32();
    for (size_t i = 0; i < array_size(groups); i++)
        if (!*name || strcmp(name, groups[i].name) == 0)
            run_group(&groups[i], has_32, way);
    result = silicon_result(*name ? name : "all");
    silicon_fini();
    return result;
}
