/* Bits and numbers of the architecture (SDM volumes 1 and 3A, APM volume 2). */
#ifndef OWHP_X86_BITS_H
#define OWHP_X86_BITS_H

/* clang-format off */
#define BIT64(n) (1ull << (n))

#define RFLAGS_CF   BIT64(0)
#define RFLAGS_ONE  BIT64(1)
#define RFLAGS_PF   BIT64(2)
#define RFLAGS_AF   BIT64(4)
#define RFLAGS_ZF   BIT64(6)
#define RFLAGS_SF   BIT64(7)
#define RFLAGS_TF   BIT64(8)
#define RFLAGS_IF   BIT64(9)
#define RFLAGS_DF   BIT64(10)
#define RFLAGS_OF   BIT64(11)
#define RFLAGS_IOPL (3ull << 12)
#define RFLAGS_NT   BIT64(14)
#define RFLAGS_RF   BIT64(16)
#define RFLAGS_VM   BIT64(17)
#define RFLAGS_AC   BIT64(18)
#define RFLAGS_VIF  BIT64(19)
#define RFLAGS_VIP  BIT64(20)
#define RFLAGS_ID   BIT64(21)
#define RFLAGS_ARITHMETIC (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)
#define RFLAGS_ALL  (RFLAGS_ARITHMETIC | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_RF | \
                     RFLAGS_VM | RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID)

#define CR0_PE BIT64(0)
#define CR0_MP BIT64(1)
#define CR0_EM BIT64(2)
#define CR0_TS BIT64(3)
#define CR0_ET BIT64(4)
#define CR0_NE BIT64(5)
#define CR0_WP BIT64(16)
#define CR0_AM BIT64(18)
#define CR0_NW BIT64(29)
#define CR0_CD BIT64(30)
#define CR0_PG BIT64(31)

#define CR4_VME        BIT64(0)
#define CR4_PVI        BIT64(1)
#define CR4_TSD        BIT64(2)
#define CR4_DE         BIT64(3)
#define CR4_PSE        BIT64(4)
#define CR4_PAE        BIT64(5)
#define CR4_MCE        BIT64(6)
#define CR4_PGE        BIT64(7)
#define CR4_PCE        BIT64(8)
#define CR4_OSFXSR     BIT64(9)
#define CR4_OSXMMEXCPT BIT64(10)
#define CR4_UMIP       BIT64(11)
#define CR4_LA57       BIT64(12)
#define CR4_FSGSBASE   BIT64(16)
#define CR4_PCIDE      BIT64(17)
#define CR4_OSXSAVE    BIT64(18)
#define CR4_SMEP       BIT64(20)
#define CR4_SMAP       BIT64(21)
#define CR4_PKE        BIT64(22)
#define CR4_PKS        BIT64(24)

#define EFER_SCE BIT64(0)
#define EFER_LME BIT64(8)
#define EFER_LMA BIT64(10)
#define EFER_NXE BIT64(11)

#define PTE_P   BIT64(0)
#define PTE_W   BIT64(1)
#define PTE_U   BIT64(2)
#define PTE_A   BIT64(5)
#define PTE_D   BIT64(6)
#define PTE_PS  BIT64(7)
#define PTE_G   BIT64(8)
#define PTE_NX  BIT64(63)

/* Page fault error code (SDM 3A 4.7) */
#define PF_P    1u
#define PF_W    2u
#define PF_U    4u
#define PF_RSVD 8u
#define PF_I    16u
#define PF_PK   32u

/* Exception vectors (SDM 3A 6.3.1) */
enum {
    VECTOR_DE = 0, VECTOR_DB = 1, VECTOR_NMI = 2, VECTOR_BP = 3, VECTOR_OF = 4, VECTOR_BR = 5, VECTOR_UD = 6, VECTOR_NM = 7,
    VECTOR_DF = 8, VECTOR_TS = 10, VECTOR_NP = 11, VECTOR_SS = 12, VECTOR_GP = 13, VECTOR_PF = 14, VECTOR_MF = 16,
    VECTOR_AC = 17, VECTOR_MC = 18, VECTOR_XM = 19, VECTOR_VE = 20, VECTOR_CP = 21,
};

/* Segment attributes as in struct segment */
#define SEG_TYPE_MASK 0x000fu
#define SEG_TYPE_ACCESSED 0x0001u
#define SEG_TYPE_WRITABLE 0x0002u   /* data */
#define SEG_TYPE_READABLE 0x0002u   /* code */
#define SEG_TYPE_EXPAND_DOWN 0x0004u /* data */
#define SEG_TYPE_CONFORMING 0x0004u /* code */
#define SEG_TYPE_CODE 0x0008u
#define SEG_S   0x0010u  /* code or data, not system */
#define SEG_DPL_SHIFT 5
#define SEG_DPL_MASK 0x0060u
#define SEG_P   0x0080u
#define SEG_AVL 0x1000u
#define SEG_L   0x2000u
#define SEG_DB  0x4000u
#define SEG_G   0x8000u
/* clang-format on */

#endif
