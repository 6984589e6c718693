/*
 * WHP: the types and constants of the Windows Hypervisor Platform API.
 *
 * Names, values and layouts are those of the Windows API for x64, byte for byte: tests/abi checks
 * each one against a table. The file is long because its users look everything up under this one
 * name; it is ordered by subject:
 *
 *     registers            names and values of a virtual processor's registers
 *     capabilities         what WHvGetCapability tells about the host
 *     virtual trust levels types only, no function takes them
 *     partition properties what WHvGetPartitionProperty and WHvSetPartitionProperty speak of
 *     guest memory         mapping, translation, direct access, advice
 *     exits                why WHvRunVirtualProcessor returned, and the details
 *     interrupts, doorbells, counters, processor state, SynIC
 *     device assignment, triggers, notification ports
 *
 * Conventions: sizes are in bytes unless a name or comment says otherwise. A bit-field starts at
 * the least significant bit of its word and comments give bit numbers where the order matters.
 * A member called Reserved must be 0 on input and is 0 on output. A member called AsUINT64 (or
 * the like) is the whole word of which the other members are parts.
 */
#ifndef OPENWHP_WINHVPLATFORMDEFS_H
#define OPENWHP_WINHVPLATFORMDEFS_H

#include <openwhp/windows_types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Anonymous members, bit-fields of 8, 16 and 64 bits, and enumerators with bit 31 set are what the
   API is made of; a client that compiles with -Wpedantic need not hear about each. */
#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#endif

/* clang-format off */

/* ========================================================================================== */
/* Basic types                                                                                */
/* ========================================================================================== */

/* A partition: one virtual machine. Made by WHvCreatePartition, ended by WHvDeletePartition. */
typedef VOID *WHV_PARTITION_HANDLE;

/* An address in the memory of the machine, as the guest's own hardware would see it, in bytes. */
typedef UINT64 WHV_GUEST_PHYSICAL_ADDRESS;

/* An address in a guest's virtual address space (after segmentation: a linear address). */
typedef UINT64 WHV_GUEST_VIRTUAL_ADDRESS;

/* 128 bits, aligned to 16 bytes. Whatever contains one is aligned to 16 bytes too. */
typedef union DECLSPEC_ALIGN(16) WHV_UINT128 {
    struct {
        UINT64 Low64;                      /* bits 0-63 */
        UINT64 High64;                     /* bits 64-127 */
    };
    UINT32 Dword[4];                       /* the same in four pieces, least significant first */
} WHV_UINT128;
C_ASSERT(sizeof(WHV_UINT128) == 16);

/* Stands for "any processor" where a processor index is asked for. */
#define WHV_ANY_VP (0xFFFFFFFFu)

/* ========================================================================================== */
/* Registers                                                                                  */
/* ========================================================================================== */

/* Which register WHvGet/SetVirtualProcessorRegisters speaks of. The member of WHV_REGISTER_VALUE
   that holds it is named per group. */
typedef enum WHV_REGISTER_NAME {
    /* General purpose registers: Reg64. */
    WHvX64RegisterRax                        = 0x00000000,
    WHvX64RegisterRcx                        = 0x00000001,
    WHvX64RegisterRdx                        = 0x00000002,
    WHvX64RegisterRbx                        = 0x00000003,
    WHvX64RegisterRsp                        = 0x00000004,
    WHvX64RegisterRbp                        = 0x00000005,
    WHvX64RegisterRsi                        = 0x00000006,
    WHvX64RegisterRdi                        = 0x00000007,
    WHvX64RegisterR8                         = 0x00000008,
    WHvX64RegisterR9                         = 0x00000009,
    WHvX64RegisterR10                        = 0x0000000A,
    WHvX64RegisterR11                        = 0x0000000B,
    WHvX64RegisterR12                        = 0x0000000C,
    WHvX64RegisterR13                        = 0x0000000D,
    WHvX64RegisterR14                        = 0x0000000E,
    WHvX64RegisterR15                        = 0x0000000F,
    WHvX64RegisterRip                        = 0x00000010,
    WHvX64RegisterRflags                     = 0x00000011,

    /* Segment registers with their hidden parts: Segment. */
    WHvX64RegisterEs                         = 0x00000012,
    WHvX64RegisterCs                         = 0x00000013,
    WHvX64RegisterSs                         = 0x00000014,
    WHvX64RegisterDs                         = 0x00000015,
    WHvX64RegisterFs                         = 0x00000016,
    WHvX64RegisterGs                         = 0x00000017,
    WHvX64RegisterLdtr                       = 0x00000018,
    WHvX64RegisterTr                         = 0x00000019,

    /* Descriptor tables: Table. */
    WHvX64RegisterIdtr                       = 0x0000001A,
    WHvX64RegisterGdtr                       = 0x0000001B,

    /* Control registers: Reg64. CR8 is bits 4-7 of the task priority of the local APIC. */
    WHvX64RegisterCr0                        = 0x0000001C,
    WHvX64RegisterCr2                        = 0x0000001D,
    WHvX64RegisterCr3                        = 0x0000001E,
    WHvX64RegisterCr4                        = 0x0000001F,
    WHvX64RegisterCr8                        = 0x00000020,

    /* Debug registers: Reg64. */
    WHvX64RegisterDr0                        = 0x00000021,
    WHvX64RegisterDr1                        = 0x00000022,
    WHvX64RegisterDr2                        = 0x00000023,
    WHvX64RegisterDr3                        = 0x00000024,
    WHvX64RegisterDr6                        = 0x00000025,
    WHvX64RegisterDr7                        = 0x00000026,

    /* Extended control register 0 (which state XSAVE handles): Reg64. */
    WHvX64RegisterXCr0                       = 0x00000027,

    /* What a nested hypervisor's guest believes its control registers to be: Reg64. */
    WHvX64RegisterVirtualCr0                 = 0x00000028,
    WHvX64RegisterVirtualCr3                 = 0x00000029,
    WHvX64RegisterVirtualCr4                 = 0x0000002A,
    WHvX64RegisterVirtualCr8                 = 0x0000002B,

    /* SSE registers, low 128 bits: Reg128. */
    WHvX64RegisterXmm0                       = 0x00001000,
    WHvX64RegisterXmm1                       = 0x00001001,
    WHvX64RegisterXmm2                       = 0x00001002,
    WHvX64RegisterXmm3                       = 0x00001003,
    WHvX64RegisterXmm4                       = 0x00001004,
    WHvX64RegisterXmm5                       = 0x00001005,
    WHvX64RegisterXmm6                       = 0x00001006,
    WHvX64RegisterXmm7                       = 0x00001007,
    WHvX64RegisterXmm8                       = 0x00001008,
    WHvX64RegisterXmm9                       = 0x00001009,
    WHvX64RegisterXmm10                      = 0x0000100A,
    WHvX64RegisterXmm11                      = 0x0000100B,
    WHvX64RegisterXmm12                      = 0x0000100C,
    WHvX64RegisterXmm13                      = 0x0000100D,
    WHvX64RegisterXmm14                      = 0x0000100E,
    WHvX64RegisterXmm15                      = 0x0000100F,

    /* x87 registers, ST(0) first, as FXSAVE has them, whatever TOP is: Fp. */
    WHvX64RegisterFpMmx0                     = 0x00001010,
    WHvX64RegisterFpMmx1                     = 0x00001011,
    WHvX64RegisterFpMmx2                     = 0x00001012,
    WHvX64RegisterFpMmx3                     = 0x00001013,
    WHvX64RegisterFpMmx4                     = 0x00001014,
    WHvX64RegisterFpMmx5                     = 0x00001015,
    WHvX64RegisterFpMmx6                     = 0x00001016,
    WHvX64RegisterFpMmx7                     = 0x00001017,

    /* x87 and SSE control and status: FpControlStatus, XmmControlStatus. */
    WHvX64RegisterFpControlStatus            = 0x00001018,
    WHvX64RegisterXmmControlStatus           = 0x00001019,

    /* Model specific registers: Reg64. */
    WHvX64RegisterTsc                        = 0x00002000,
    WHvX64RegisterEfer                       = 0x00002001,
    WHvX64RegisterKernelGsBase               = 0x00002002,
    WHvX64RegisterApicBase                   = 0x00002003,
    WHvX64RegisterPat                        = 0x00002004,
    WHvX64RegisterSysenterCs                 = 0x00002005,
    WHvX64RegisterSysenterEip                = 0x00002006,
    WHvX64RegisterSysenterEsp                = 0x00002007,
    WHvX64RegisterStar                       = 0x00002008,
    WHvX64RegisterLstar                      = 0x00002009,
    WHvX64RegisterCstar                      = 0x0000200A,
    WHvX64RegisterSfmask                     = 0x0000200B,
    WHvX64RegisterInitialApicId              = 0x0000200C,

    /* Memory type range registers: Reg64. */
    WHvX64RegisterMsrMtrrCap                 = 0x0000200D,
    WHvX64RegisterMsrMtrrDefType             = 0x0000200E,
    WHvX64RegisterMsrMtrrPhysBase0           = 0x00002010,
    WHvX64RegisterMsrMtrrPhysBase1           = 0x00002011,
    WHvX64RegisterMsrMtrrPhysBase2           = 0x00002012,
    WHvX64RegisterMsrMtrrPhysBase3           = 0x00002013,
    WHvX64RegisterMsrMtrrPhysBase4           = 0x00002014,
    WHvX64RegisterMsrMtrrPhysBase5           = 0x00002015,
    WHvX64RegisterMsrMtrrPhysBase6           = 0x00002016,
    WHvX64RegisterMsrMtrrPhysBase7           = 0x00002017,
    WHvX64RegisterMsrMtrrPhysBase8           = 0x00002018,
    WHvX64RegisterMsrMtrrPhysBase9           = 0x00002019,
    WHvX64RegisterMsrMtrrPhysBaseA           = 0x0000201A,
    WHvX64RegisterMsrMtrrPhysBaseB           = 0x0000201B,
    WHvX64RegisterMsrMtrrPhysBaseC           = 0x0000201C,
    WHvX64RegisterMsrMtrrPhysBaseD           = 0x0000201D,
    WHvX64RegisterMsrMtrrPhysBaseE           = 0x0000201E,
    WHvX64RegisterMsrMtrrPhysBaseF           = 0x0000201F,
    WHvX64RegisterMsrMtrrPhysMask0           = 0x00002040,
    WHvX64RegisterMsrMtrrPhysMask1           = 0x00002041,
    WHvX64RegisterMsrMtrrPhysMask2           = 0x00002042,
    WHvX64RegisterMsrMtrrPhysMask3           = 0x00002043,
    WHvX64RegisterMsrMtrrPhysMask4           = 0x00002044,
    WHvX64RegisterMsrMtrrPhysMask5           = 0x00002045,
    WHvX64RegisterMsrMtrrPhysMask6           = 0x00002046,
    WHvX64RegisterMsrMtrrPhysMask7           = 0x00002047,
    WHvX64RegisterMsrMtrrPhysMask8           = 0x00002048,
    WHvX64RegisterMsrMtrrPhysMask9           = 0x00002049,
    WHvX64RegisterMsrMtrrPhysMaskA           = 0x0000204A,
    WHvX64RegisterMsrMtrrPhysMaskB           = 0x0000204B,
    WHvX64RegisterMsrMtrrPhysMaskC           = 0x0000204C,
    WHvX64RegisterMsrMtrrPhysMaskD           = 0x0000204D,
    WHvX64RegisterMsrMtrrPhysMaskE           = 0x0000204E,
    WHvX64RegisterMsrMtrrPhysMaskF           = 0x0000204F,
    WHvX64RegisterMsrMtrrFix64k00000         = 0x00002070,
    WHvX64RegisterMsrMtrrFix16k80000         = 0x00002071,
    WHvX64RegisterMsrMtrrFix16kA0000         = 0x00002072,
    WHvX64RegisterMsrMtrrFix4kC0000          = 0x00002073,
    WHvX64RegisterMsrMtrrFix4kC8000          = 0x00002074,
    WHvX64RegisterMsrMtrrFix4kD0000          = 0x00002075,
    WHvX64RegisterMsrMtrrFix4kD8000          = 0x00002076,
    WHvX64RegisterMsrMtrrFix4kE0000          = 0x00002077,
    WHvX64RegisterMsrMtrrFix4kE8000          = 0x00002078,
    WHvX64RegisterMsrMtrrFix4kF0000          = 0x00002079,
    WHvX64RegisterMsrMtrrFix4kF8000          = 0x0000207A,

    /* More model specific registers: Reg64. */
    WHvX64RegisterTscAux                     = 0x0000207B,
    WHvX64RegisterBndcfgs                    = 0x0000207C,
    WHvX64RegisterMCount                     = 0x0000207E, /* MPERF */
    WHvX64RegisterACount                     = 0x0000207F, /* APERF */
    WHvX64RegisterSpecCtrl                   = 0x00002084,
    WHvX64RegisterPredCmd                    = 0x00002085, /* write only */
    WHvX64RegisterTscVirtualOffset           = 0x00002087, /* guest TSC minus host TSC */
    WHvX64RegisterTsxCtrl                    = 0x00002088,
    WHvX64RegisterXss                        = 0x0000208B,
    WHvX64RegisterUCet                       = 0x0000208C,
    WHvX64RegisterSCet                       = 0x0000208D,
    WHvX64RegisterSsp                        = 0x0000208E,
    WHvX64RegisterPl0Ssp                     = 0x0000208F,
    WHvX64RegisterPl1Ssp                     = 0x00002090,
    WHvX64RegisterPl2Ssp                     = 0x00002091,
    WHvX64RegisterPl3Ssp                     = 0x00002092,
    WHvX64RegisterInterruptSspTableAddr      = 0x00002093,
    WHvX64RegisterTscDeadline                = 0x00002095,
    WHvX64RegisterTscAdjust                  = 0x00002096,
    WHvX64RegisterUmwaitControl              = 0x00002098,
    WHvX64RegisterXfd                        = 0x00002099,
    WHvX64RegisterXfdErr                     = 0x0000209A,

    /* Registers of the virtualization extensions that a nested hypervisor sees: Reg64. */
    WHvX64RegisterMsrIa32MiscEnable          = 0x000020A0,
    WHvX64RegisterIa32FeatureControl         = 0x000020A1,
    WHvX64RegisterIa32VmxBasic               = 0x000020A2,
    WHvX64RegisterIa32VmxPinbasedCtls        = 0x000020A3,
    WHvX64RegisterIa32VmxProcbasedCtls       = 0x000020A4,
    WHvX64RegisterIa32VmxExitCtls            = 0x000020A5,
    WHvX64RegisterIa32VmxEntryCtls           = 0x000020A6,
    WHvX64RegisterIa32VmxMisc                = 0x000020A7,
    WHvX64RegisterIa32VmxCr0Fixed0           = 0x000020A8,
    WHvX64RegisterIa32VmxCr0Fixed1           = 0x000020A9,
    WHvX64RegisterIa32VmxCr4Fixed0           = 0x000020AA,
    WHvX64RegisterIa32VmxCr4Fixed1           = 0x000020AB,
    WHvX64RegisterIa32VmxVmcsEnum            = 0x000020AC,
    WHvX64RegisterIa32VmxProcbasedCtls2      = 0x000020AD,
    WHvX64RegisterIa32VmxEptVpidCap          = 0x000020AE,
    WHvX64RegisterIa32VmxTruePinbasedCtls    = 0x000020AF,
    WHvX64RegisterIa32VmxTrueProcbasedCtls   = 0x000020B0,
    WHvX64RegisterIa32VmxTrueExitCtls        = 0x000020B1,
    WHvX64RegisterIa32VmxTrueEntryCtls       = 0x000020B2,
    WHvX64RegisterAmdVmHsavePa               = 0x000020B3,
    WHvX64RegisterAmdVmCr                    = 0x000020B4,

    /* Local APIC: 0x3000 + the number of the register (its page offset / 16): Reg64. Needs a
       partition with an emulated local APIC. */
    WHvX64RegisterApicId                     = 0x00003002,
    WHvX64RegisterApicVersion                = 0x00003003,
    WHvX64RegisterApicTpr                    = 0x00003008,
    WHvX64RegisterApicPpr                    = 0x0000300A,
    WHvX64RegisterApicEoi                    = 0x0000300B,
    WHvX64RegisterApicLdr                    = 0x0000300D,
    WHvX64RegisterApicSpurious               = 0x0000300F,
    WHvX64RegisterApicIsr0                   = 0x00003010,
    WHvX64RegisterApicIsr1                   = 0x00003011,
    WHvX64RegisterApicIsr2                   = 0x00003012,
    WHvX64RegisterApicIsr3                   = 0x00003013,
    WHvX64RegisterApicIsr4                   = 0x00003014,
    WHvX64RegisterApicIsr5                   = 0x00003015,
    WHvX64RegisterApicIsr6                   = 0x00003016,
    WHvX64RegisterApicIsr7                   = 0x00003017,
    WHvX64RegisterApicTmr0                   = 0x00003018,
    WHvX64RegisterApicTmr1                   = 0x00003019,
    WHvX64RegisterApicTmr2                   = 0x0000301A,
    WHvX64RegisterApicTmr3                   = 0x0000301B,
    WHvX64RegisterApicTmr4                   = 0x0000301C,
    WHvX64RegisterApicTmr5                   = 0x0000301D,
    WHvX64RegisterApicTmr6                   = 0x0000301E,
    WHvX64RegisterApicTmr7                   = 0x0000301F,
    WHvX64RegisterApicIrr0                   = 0x00003020,
    WHvX64RegisterApicIrr1                   = 0x00003021,
    WHvX64RegisterApicIrr2                   = 0x00003022,
    WHvX64RegisterApicIrr3                   = 0x00003023,
    WHvX64RegisterApicIrr4                   = 0x00003024,
    WHvX64RegisterApicIrr5                   = 0x00003025,
    WHvX64RegisterApicIrr6                   = 0x00003026,
    WHvX64RegisterApicIrr7                   = 0x00003027,
    WHvX64RegisterApicEse                    = 0x00003028,
    WHvX64RegisterApicIcr                    = 0x00003030,
    WHvX64RegisterApicLvtTimer               = 0x00003032,
    WHvX64RegisterApicLvtThermal             = 0x00003033,
    WHvX64RegisterApicLvtPerfmon             = 0x00003034,
    WHvX64RegisterApicLvtLint0               = 0x00003035,
    WHvX64RegisterApicLvtLint1               = 0x00003036,
    WHvX64RegisterApicLvtError               = 0x00003037,
    WHvX64RegisterApicInitCount              = 0x00003038,
    WHvX64RegisterApicCurrentCount           = 0x00003039,
    WHvX64RegisterApicDivide                 = 0x0000303E,
    WHvX64RegisterApicSelfIpi                = 0x0000303F,

    /* Synthetic interrupt controller: Reg64. */
    WHvRegisterSint0                         = 0x00004000,
    WHvRegisterSint1                         = 0x00004001,
    WHvRegisterSint2                         = 0x00004002,
    WHvRegisterSint3                         = 0x00004003,
    WHvRegisterSint4                         = 0x00004004,
    WHvRegisterSint5                         = 0x00004005,
    WHvRegisterSint6                         = 0x00004006,
    WHvRegisterSint7                         = 0x00004007,
    WHvRegisterSint8                         = 0x00004008,
    WHvRegisterSint9                         = 0x00004009,
    WHvRegisterSint10                        = 0x0000400A,
    WHvRegisterSint11                        = 0x0000400B,
    WHvRegisterSint12                        = 0x0000400C,
    WHvRegisterSint13                        = 0x0000400D,
    WHvRegisterSint14                        = 0x0000400E,
    WHvRegisterSint15                        = 0x0000400F,
    WHvRegisterScontrol                      = 0x00004010,
    WHvRegisterSversion                      = 0x00004011,
    WHvRegisterSiefp                         = 0x00004012,
    WHvRegisterSimp                          = 0x00004013,
    WHvRegisterEom                           = 0x00004014,

    /* Hypervisor interface of the guest: Reg64. */
    WHvRegisterVpRuntime                     = 0x00005000, /* 100 ns */
    WHvX64RegisterHypercall                  = 0x00005001,
    WHvRegisterGuestOsId                     = 0x00005002,
    WHvRegisterVpAssistPage                  = 0x00005013,
    WHvRegisterReferenceTsc                  = 0x00005017,
    WHvRegisterReferenceTscSequence          = 0x0000501A,

    /* Nested virtualization: NestedState, Reg64, InvEpt, InvVpid. */
    WHvX64RegisterNestedGuestState           = 0x00005050,
    WHvX64RegisterNestedCurrentVmGpa         = 0x00005051,
    WHvX64RegisterNestedVmxInvEpt            = 0x00005052,
    WHvX64RegisterNestedVmxInvVpid           = 0x00005053,

    /* What the processor is about to do; the member of WHV_REGISTER_VALUE follows the name. */
    WHvRegisterPendingInterruption           = 0x80000000,
    WHvRegisterInterruptState                = 0x80000001,
    WHvRegisterPendingEvent                  = 0x80000002, /* ExceptionEvent or ExtIntEvent */
    WHvRegisterPendingEvent1                 = 0x80000003,
    WHvX64RegisterDeliverabilityNotifications = 0x80000004,
    WHvRegisterDeliverabilityNotifications   = 0x80000004,
    WHvRegisterInternalActivityState         = 0x80000005, /* InternalActivity */
    WHvX64RegisterPendingDebugException      = 0x80000006,
    WHvRegisterPendingEvent2                 = 0x80000007,
    WHvRegisterPendingEvent3                 = 0x80000008
} WHV_REGISTER_NAME;

/* An x87 register: the 80-bit format, in the low 10 bytes. An MMX register is its Mantissa. */
typedef union DECLSPEC_ALIGN(16) WHV_X64_FP_REGISTER {
    struct {
        UINT64 Mantissa;                   /* with the explicit integer bit, 63 */
        UINT64 BiasedExponent : 15;        /* bias 16383 */
        UINT64 Sign : 1;
        UINT64 Reserved : 48;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_FP_REGISTER;
C_ASSERT(sizeof(WHV_X64_FP_REGISTER) == 16);

/* The x87 environment, as in the first 16 bytes of an FXSAVE image. */
typedef union DECLSPEC_ALIGN(16) WHV_X64_FP_CONTROL_STATUS_REGISTER {
    struct {
        UINT16 FpControl;                  /* FCW */
        UINT16 FpStatus;                   /* FSW */
        UINT8  FpTag;                      /* abridged: bit n set = register n not empty */
        UINT8  Reserved;
        UINT16 LastFpOp;                   /* opcode of the last instruction, 11 bits */
        union {
            UINT64 LastFpRip;              /* its address, 64-bit form */
            struct {
                UINT32 LastFpEip;          /* ... and 32-bit form, with its selector */
                UINT16 LastFpCs;
                UINT16 Reserved2;
            };
        };
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_FP_CONTROL_STATUS_REGISTER;
C_ASSERT(sizeof(WHV_X64_FP_CONTROL_STATUS_REGISTER) == 16);

/* The x87 data pointer and MXCSR, as in the second 16 bytes of an FXSAVE image. */
typedef union DECLSPEC_ALIGN(16) WHV_X64_XMM_CONTROL_STATUS_REGISTER {
    struct {
        union {
            UINT64 LastFpRdp;              /* address of the last memory operand, 64-bit form */
            struct {
                UINT32 LastFpDp;           /* ... and 32-bit form, with its selector */
                UINT16 LastFpDs;
                UINT16 Reserved;
            };
        };
        UINT32 XmmStatusControl;           /* MXCSR */
        UINT32 XmmStatusControlMask;       /* which bits of MXCSR may be set */
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_XMM_CONTROL_STATUS_REGISTER;
C_ASSERT(sizeof(WHV_X64_XMM_CONTROL_STATUS_REGISTER) == 16);

/* A segment register. There is no "unusable" bit: an unusable segment has Present = 0. */
typedef struct WHV_X64_SEGMENT_REGISTER {
    UINT64 Base;
    UINT32 Limit;                          /* last valid offset in bytes, granularity applied */
    UINT16 Selector;
    union {
        struct {
            UINT16 SegmentType : 4;        /* bits 0-3: type of the descriptor */
            UINT16 NonSystemSegment : 1;   /* bit 4: code or data (S) */
            UINT16 DescriptorPrivilegeLevel : 2; /* bits 5-6: DPL; that of SS is the CPL */
            UINT16 Present : 1;            /* bit 7 */
            UINT16 Reserved : 4;           /* bits 8-11 */
            UINT16 Available : 1;          /* bit 12: for the guest's own use */
            UINT16 Long : 1;               /* bit 13: 64-bit code */
            UINT16 Default : 1;            /* bit 14: 32-bit operands and addresses, or stack */
            UINT16 Granularity : 1;        /* bit 15: the descriptor counted its limit in pages */
        };
        UINT16 Attributes;
    };
} WHV_X64_SEGMENT_REGISTER;
C_ASSERT(sizeof(WHV_X64_SEGMENT_REGISTER) == 16);

/* GDTR or IDTR. */
typedef struct WHV_X64_TABLE_REGISTER {
    UINT16 Pad[3];
    UINT16 Limit;                          /* last valid offset in bytes */
    UINT64 Base;
} WHV_X64_TABLE_REGISTER;
C_ASSERT(sizeof(WHV_X64_TABLE_REGISTER) == 16);

/* What holds interrupts back for now. */
typedef union WHV_X64_INTERRUPT_STATE_REGISTER {
    struct {
        UINT64 InterruptShadow : 1;        /* the instruction after STI or MOV SS has not run yet */
        UINT64 NmiMasked : 1;              /* an NMI was delivered and its IRET has not run yet */
        UINT64 Reserved : 62;
    };
    UINT64 AsUINT64;
} WHV_X64_INTERRUPT_STATE_REGISTER;
C_ASSERT(sizeof(WHV_X64_INTERRUPT_STATE_REGISTER) == 8);

/* An event whose delivery comes before the next instruction. InterruptionType is a
   WHV_X64_PENDING_INTERRUPTION_TYPE. There is one slot: a later write replaces an earlier one. */
typedef union WHV_X64_PENDING_INTERRUPTION_REGISTER {
    struct {
        UINT32 InterruptionPending : 1;    /* bit 0: the rest counts */
        UINT32 InterruptionType : 3;       /* bits 1-3 */
        UINT32 DeliverErrorCode : 1;       /* bit 4: push ErrorCode */
        UINT32 InstructionLength : 4;      /* bits 5-8: of a software interrupt, in bytes */
        UINT32 NestedEvent : 1;            /* bit 9: for the guest of a nested hypervisor */
        UINT32 Reserved : 6;               /* bits 10-15 */
        UINT32 InterruptionVector : 16;    /* bits 16-31 */
        UINT32 ErrorCode;
    };
    UINT64 AsUINT64;
} WHV_X64_PENDING_INTERRUPTION_REGISTER;
C_ASSERT(sizeof(WHV_X64_PENDING_INTERRUPTION_REGISTER) == 8);

/* What a pending event (WHvRegisterPendingEvent) is: its EventType. */
typedef enum WHV_X64_PENDING_EVENT_TYPE {
    WHvX64PendingEventException     = 0,   /* WHV_X64_PENDING_EXCEPTION_EVENT */
    WHvX64PendingEventExtInt        = 5,   /* WHV_X64_PENDING_EXT_INT_EVENT */
    WHvX64PendingEventSvmNestedExit = 7,   /* WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT0 to 3 */
    WHvX64PendingEventVmxNestedExit = 8    /* WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT0 to 2 */
} WHV_X64_PENDING_EVENT_TYPE;

/* An exception to be raised before the next instruction. */
typedef union DECLSPEC_ALIGN(16) WHV_X64_PENDING_EXCEPTION_EVENT {
    struct {
        UINT32 EventPending : 1;           /* bit 0: the rest counts */
        UINT32 EventType : 3;              /* bits 1-3: WHvX64PendingEventException */
        UINT32 Reserved0 : 4;
        UINT32 DeliverErrorCode : 1;       /* bit 8: push ErrorCode */
        UINT32 Reserved1 : 7;
        UINT32 Vector : 16;                /* bits 16-31 */
        UINT32 ErrorCode;
        UINT64 ExceptionParameter;         /* #PF: the address for CR2; #DB: bits for DR6 */
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_EXCEPTION_EVENT;
C_ASSERT(sizeof(WHV_X64_PENDING_EXCEPTION_EVENT) == 16);

/* An interrupt as an 8259 would deliver it: it passes the local APIC by. */
typedef union DECLSPEC_ALIGN(16) WHV_X64_PENDING_EXT_INT_EVENT {
    struct {
        UINT64 EventPending : 1;           /* bit 0: the rest counts */
        UINT64 EventType : 3;              /* bits 1-3: WHvX64PendingEventExtInt */
        UINT64 Reserved0 : 4;
        UINT64 Vector : 8;                 /* bits 8-15 */
        UINT64 Reserved1 : 48;
        UINT64 Reserved2;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_EXT_INT_EVENT;
C_ASSERT(sizeof(WHV_X64_PENDING_EXT_INT_EVENT) == 16);

/* An exit that a nested AMD hypervisor is to see: WHvRegisterPendingEvent and its three followers
   hold parts 0 to 3. */
typedef union DECLSPEC_ALIGN(16) WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT0 {
    struct {
        UINT64 EventPending : 1;           /* bit 0: the rest counts */
        UINT64 EventType : 4;              /* bits 1-4: WHvX64PendingEventSvmNestedExit */
        UINT64 Reserved0 : 3;
        UINT64 InstructionBytesValid : 1;  /* bit 8: parts 2 and 3 hold instruction bytes */
        UINT64 Reserved1 : 55;
        UINT64 ExitCode;                   /* EXITCODE of the VMCB */
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT0;
C_ASSERT(sizeof(WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT0) == 16);

typedef union DECLSPEC_ALIGN(16) WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT1 {
    struct {
        UINT64 ExitInfo1;                  /* EXITINFO1 of the VMCB */
        UINT64 ExitInfo2;                  /* EXITINFO2 of the VMCB */
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT1;
C_ASSERT(sizeof(WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT1) == 16);

typedef union DECLSPEC_ALIGN(16) WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT2 {
    struct {
        UINT64 NextRip;                    /* address after the instruction */
        UINT8  InstructionBytesFetchedCount; /* 0 to 15 */
        UINT8  InstructionBytes[7];        /* the first seven; part 3 goes on */
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT2;
C_ASSERT(sizeof(WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT2) == 16);

typedef union DECLSPEC_ALIGN(16) WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT3 {
    struct {
        UINT8  InstructionBytes[8];        /* the last eight */
        UINT64 Reserved2;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT3;
C_ASSERT(sizeof(WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT3) == 16);

/* An exit that a nested Intel hypervisor is to see, in parts 0 to 2; members are named after the
   fields of its VMCS. */
typedef union DECLSPEC_ALIGN(16) WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT0 {
    struct {
        UINT32 EventPending : 1;           /* bit 0: the rest counts */
        UINT32 EventType : 4;              /* bits 1-4: WHvX64PendingEventVmxNestedExit */
        UINT32 Reserved0 : 27;
        UINT32 ExitReason;
        UINT64 ExitQualification;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT0;
C_ASSERT(sizeof(WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT0) == 16);

typedef union DECLSPEC_ALIGN(16) WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT1 {
    struct {
        UINT32 InstructionLength;          /* bytes */
        UINT32 InstructionInfo;
        UINT32 ExitInterruptionInfo;
        UINT32 ExitExceptionErrorCode;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT1;
C_ASSERT(sizeof(WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT1) == 16);

typedef union DECLSPEC_ALIGN(16) WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT2 {
    struct {
        UINT64 GuestLinearAddress;
        UINT64 GuestPhysicalAddress;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT2;
C_ASSERT(sizeof(WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT2) == 16);

/* The operands of an INVEPT that a nested hypervisor executed. */
typedef union DECLSPEC_ALIGN(16) WHV_X64_NESTED_INVEPT_REGISTER {
    struct {
        UINT8  Type;                       /* 1 one EPT pointer, 2 all */
        UINT8  Reserved[7];
        UINT64 Eptp;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_NESTED_INVEPT_REGISTER;
C_ASSERT(sizeof(WHV_X64_NESTED_INVEPT_REGISTER) == 16);

/* The operands of an INVVPID that a nested hypervisor executed. */
typedef union DECLSPEC_ALIGN(16) WHV_X64_NESTED_INVVPID_REGISTER {
    struct {
        UINT8  Type;                       /* 0 one address, 1 one VPID, 2 all, 3 all but global */
        UINT8  Reserved[3];
        UINT32 Vpid;
        UINT64 LinearAddress;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_NESTED_INVVPID_REGISTER;
C_ASSERT(sizeof(WHV_X64_NESTED_INVVPID_REGISTER) == 16);

/* Where a processor with nested virtualization stands. */
typedef union DECLSPEC_ALIGN(16) WHV_X64_NESTED_GUEST_STATE {
    struct {
        UINT64 NestedVirtActive : 1;       /* the guest has turned the extensions on */
        UINT64 NestedGuestMode : 1;        /* the guest's guest runs */
        UINT64 VmEntryPending : 1;         /* it is about to be entered */
        UINT64 Reserved0 : 61;
        UINT64 Reserved1;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_NESTED_GUEST_STATE;
C_ASSERT(sizeof(WHV_X64_NESTED_GUEST_STATE) == 16);

/* Asks for an exit as soon as the processor could take an interrupt; each bit acts once. */
typedef union WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER {
    struct {
        UINT64 NmiNotification : 1;        /* bit 0: when an NMI could be taken */
        UINT64 InterruptNotification : 1;  /* bit 1: when an interrupt could be taken */
        UINT64 InterruptPriority : 4;      /* bits 2-5: ... of at least this priority, 0 = any */
        UINT64 Reserved : 42;
        UINT64 Sint : 16;                  /* bits 48-63: one per synthetic interrupt source */
    };
    UINT64 AsUINT64;
} WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER, WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER;
C_ASSERT(sizeof(WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER) == 8);

/* Why a processor executes nothing although it is being run (only with an emulated APIC). */
typedef union WHV_INTERNAL_ACTIVITY_REGISTER {
    struct {
        UINT64 StartupSuspend : 1;         /* bit 0: waits for a start-up IPI */
        UINT64 HaltSuspend : 1;            /* bit 1: HLT, waits for an interrupt */
        UINT64 IdleSuspend : 1;            /* bit 2: waits in the synthetic idle state */
        UINT64 Reserved : 61;
    };
    UINT64 AsUINT64;
} WHV_INTERNAL_ACTIVITY_REGISTER;
C_ASSERT(sizeof(WHV_INTERNAL_ACTIVITY_REGISTER) == 8);

/* Debug traps that the last instruction caused and that have not been raised yet. */
typedef union WHV_X64_PENDING_DEBUG_EXCEPTION {
    UINT64 AsUINT64;
    struct {
        UINT64 Breakpoint0 : 1;            /* bits 0-3: the condition in DR0 ... DR3 was met */
        UINT64 Breakpoint1 : 1;
        UINT64 Breakpoint2 : 1;
        UINT64 Breakpoint3 : 1;
        UINT64 SingleStep : 1;             /* bit 4: RFLAGS.TF */
        UINT64 Reserved0 : 59;
    };
} WHV_X64_PENDING_DEBUG_EXCEPTION;
C_ASSERT(sizeof(WHV_X64_PENDING_DEBUG_EXCEPTION) == 8);

/* The value of any register. Arrays of it must be aligned to 16 bytes, which the compiler does
   for variables but malloc promises only for its own alignment. */
typedef union DECLSPEC_ALIGN(16) WHV_REGISTER_VALUE {
    WHV_UINT128                               Reg128;
    UINT64                                    Reg64;
    UINT32                                    Reg32;
    UINT16                                    Reg16;
    UINT8                                     Reg8;
    WHV_INTERNAL_ACTIVITY_REGISTER            InternalActivity;
    WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER DeliverabilityNotifications;
    WHV_X64_FP_REGISTER                       Fp;
    WHV_X64_FP_CONTROL_STATUS_REGISTER        FpControlStatus;
    WHV_X64_XMM_CONTROL_STATUS_REGISTER       XmmControlStatus;
    WHV_X64_SEGMENT_REGISTER                  Segment;
    WHV_X64_TABLE_REGISTER                    Table;
    WHV_X64_INTERRUPT_STATE_REGISTER          InterruptState;
    WHV_X64_PENDING_INTERRUPTION_REGISTER     PendingInterruption;
    WHV_X64_PENDING_EXCEPTION_EVENT           ExceptionEvent;
    WHV_X64_PENDING_EXT_INT_EVENT             ExtIntEvent;
    WHV_X64_PENDING_DEBUG_EXCEPTION           PendingDebugException;
    WHV_X64_NESTED_GUEST_STATE                NestedState;
    WHV_X64_NESTED_INVEPT_REGISTER            InvEpt;
    WHV_X64_NESTED_INVVPID_REGISTER           InvVpid;
    WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT0    SvmNestedExit0;
    WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT1    SvmNestedExit1;
    WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT2    SvmNestedExit2;
    WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT3    SvmNestedExit3;
    WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT0    VmxNestedExit0;
    WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT1    VmxNestedExit1;
    WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT2    VmxNestedExit2;
} WHV_REGISTER_VALUE;
C_ASSERT(sizeof(WHV_REGISTER_VALUE) == 16);

/* ========================================================================================== */
/* Capabilities                                                                               */
/* ========================================================================================== */

/* What WHvGetCapability is asked for. The member of WHV_CAPABILITY that answers has the same
   name; its size is the size of the answer. */
typedef enum WHV_CAPABILITY_CODE {
    /* What the platform can do. */
    WHvCapabilityCodeHypervisorPresent       = 0x00000000,
    WHvCapabilityCodeFeatures                = 0x00000001,
    WHvCapabilityCodeExtendedVmExits         = 0x00000002, /* which exits may be asked for */
    WHvCapabilityCodeExceptionExitBitmap     = 0x00000003, /* which exceptions can exit */
    WHvCapabilityCodeX64MsrExitBitmap        = 0x00000004, /* which MSR groups can exit */
    WHvCapabilityCodeGpaRangePopulateFlags   = 0x00000005, /* flags of WHvAdviseGpaRange */
    WHvCapabilityCodeSchedulerFeatures       = 0x00000006,

    /* What the processor that guests see is. */
    WHvCapabilityCodeProcessorVendor         = 0x00001000,
    WHvCapabilityCodeProcessorFeatures       = 0x00001001,
    WHvCapabilityCodeProcessorClFlushSize    = 0x00001002, /* log2 of the cache line in bytes */
    WHvCapabilityCodeProcessorXsaveFeatures  = 0x00001003,
    WHvCapabilityCodeProcessorClockFrequency = 0x00001004, /* of the TSC, Hz */
    WHvCapabilityCodeInterruptClockFrequency = 0x00001005, /* of the APIC timer, Hz */
    WHvCapabilityCodeProcessorFeaturesBanks  = 0x00001006,
    WHvCapabilityCodeProcessorFrequencyCap   = 0x00001007,
    WHvCapabilityCodeSyntheticProcessorFeaturesBanks = 0x00001008,
    WHvCapabilityCodeProcessorPerfmonFeatures = 0x00001009,
    WHvCapabilityCodePhysicalAddressWidth    = 0x0000100A, /* bits */

    /* What a nested hypervisor would find in its VMX capability MSRs: NestedFeatureRegister. */
    WHvCapabilityCodeVmxBasic                = 0x00002000,
    WHvCapabilityCodeVmxPinbasedCtls         = 0x00002001,
    WHvCapabilityCodeVmxProcbasedCtls        = 0x00002002,
    WHvCapabilityCodeVmxExitCtls             = 0x00002003,
    WHvCapabilityCodeVmxEntryCtls            = 0x00002004,
    WHvCapabilityCodeVmxMisc                 = 0x00002005,
    WHvCapabilityCodeVmxCr0Fixed0            = 0x00002006,
    WHvCapabilityCodeVmxCr0Fixed1            = 0x00002007,
    WHvCapabilityCodeVmxCr4Fixed0            = 0x00002008,
    WHvCapabilityCodeVmxCr4Fixed1            = 0x00002009,
    WHvCapabilityCodeVmxVmcsEnum             = 0x0000200A,
    WHvCapabilityCodeVmxProcbasedCtls2       = 0x0000200B,
    WHvCapabilityCodeVmxEptVpidCap           = 0x0000200C,
    WHvCapabilityCodeVmxTruePinbasedCtls     = 0x0000200D,
    WHvCapabilityCodeVmxTrueProcbasedCtls    = 0x0000200E,
    WHvCapabilityCodeVmxTrueExitCtls         = 0x0000200F,
    WHvCapabilityCodeVmxTrueEntryCtls        = 0x00002010
} WHV_CAPABILITY_CODE;

/* Optional parts of the API that exist here. */
typedef union WHV_CAPABILITY_FEATURES {
    struct {
        UINT64 PartialUnmap : 1;           /* bit 0: a part of a mapping can be unmapped */
        UINT64 LocalApicEmulation : 1;     /* bit 1: other LocalApicEmulationModes than None */
        UINT64 Xsave : 1;                  /* bit 2: extended state can be read and written */
        UINT64 DirtyPageTracking : 1;      /* bit 3: WHvMapGpaRangeFlagTrackDirtyPages */
        UINT64 SpeculationControl : 1;     /* bit 4: guests may control speculation */
        UINT64 ApicRemoteRead : 1;         /* bit 5: remote read of another processor's APIC */
        UINT64 IdleSuspend : 1;            /* bit 6: the synthetic idle state */
        UINT64 VirtualPciDeviceSupport : 1; /* bit 7: device assignment */
        UINT64 IommuSupport : 1;           /* bit 8: ... with an IOMMU behind it */
        UINT64 VpHotAddRemove : 1;         /* bit 9: processors come and go while others run */
        UINT64 DeviceAccessTracking : 1;   /* bit 10: writes of devices are in dirty bitmaps */
        UINT64 ReservedX640 : 1;           /* bit 11: of another architecture */
        UINT64 Reserved : 52;
    };
    UINT64 AsUINT64;
} WHV_CAPABILITY_FEATURES;
C_ASSERT(sizeof(WHV_CAPABILITY_FEATURES) == 8);

/* Exits that happen only if asked for: the property of the same name turns them on, the
   capability tells which may be. */
typedef union WHV_EXTENDED_VM_EXITS {
    struct {
        UINT64 X64CpuidExit : 1;           /* bit 0: CPUID of the functions in CpuidExitList */
        UINT64 X64MsrExit : 1;             /* bit 1: RDMSR and WRMSR as X64MsrExitBitmap says */
        UINT64 ExceptionExit : 1;          /* bit 2: exceptions in ExceptionExitBitmap */
        UINT64 X64RdtscExit : 1;           /* bit 3: RDTSC and RDTSCP */
        UINT64 X64ApicSmiExitTrap : 1;     /* bit 4: an SMI was sent through the ICR */
        UINT64 HypercallExit : 1;          /* bit 5: VMCALL or VMMCALL */
        UINT64 X64ApicInitSipiExitTrap : 1; /* bit 6: an INIT or start-up IPI was sent */
        UINT64 X64ApicWriteLint0ExitTrap : 1; /* bit 7: the APIC register was written */
        UINT64 X64ApicWriteLint1ExitTrap : 1; /* bit 8 */
        UINT64 X64ApicWriteSvrExitTrap : 1; /* bit 9 */
        UINT64 UnknownSynicConnection : 1; /* bit 10: a hypercall named an unknown connection */
        UINT64 RetargetUnknownVpciDevice : 1; /* bit 11: ... or an unknown device */
        UINT64 X64ApicWriteLdrExitTrap : 1; /* bit 12 */
        UINT64 X64ApicWriteDfrExitTrap : 1; /* bit 13 */
        UINT64 GpaAccessFaultExit : 1;     /* bit 14: also what bringing in a page would cure */
        UINT64 Reserved : 49;
    };
    UINT64 AsUINT64;
} WHV_EXTENDED_VM_EXITS;
C_ASSERT(sizeof(WHV_EXTENDED_VM_EXITS) == 8);

/* Who made the processor that guests see. */
typedef enum WHV_PROCESSOR_VENDOR {
    WHvProcessorVendorAmd   = 0x0000,
    WHvProcessorVendorIntel = 0x0001,
    WHvProcessorVendorHygon = 0x0002,
    WHvProcessorVendorArm   = 0x0010
} WHV_PROCESSOR_VENDOR;

/* Processor features, bank 0: what a guest's CPUID may show. One bit each unless noted. */
typedef union WHV_X64_PROCESSOR_FEATURES {
    struct {
        UINT64 Sse3Support : 1;            /* bit 0 */
        UINT64 LahfSahfSupport : 1;        /* LAHF and SAHF in 64-bit mode */
        UINT64 Ssse3Support : 1;
        UINT64 Sse4_1Support : 1;
        UINT64 Sse4_2Support : 1;
        UINT64 Sse4aSupport : 1;
        UINT64 XopSupport : 1;
        UINT64 PopCntSupport : 1;
        UINT64 Cmpxchg16bSupport : 1;      /* bit 8 */
        UINT64 Altmovcr8Support : 1;       /* LOCK MOV CR0 reaches CR8 */
        UINT64 LzcntSupport : 1;
        UINT64 MisAlignSseSupport : 1;     /* MXCSR.MM */
        UINT64 MmxExtSupport : 1;          /* AMD's additions to MMX */
        UINT64 Amd3DNowSupport : 1;
        UINT64 ExtendedAmd3DNowSupport : 1;
        UINT64 Page1GbSupport : 1;
        UINT64 AesSupport : 1;             /* bit 16 */
        UINT64 PclmulqdqSupport : 1;
        UINT64 PcidSupport : 1;
        UINT64 Fma4Support : 1;
        UINT64 F16CSupport : 1;
        UINT64 RdRandSupport : 1;
        UINT64 RdWrFsGsSupport : 1;        /* RDFSBASE and its relatives */
        UINT64 SmepSupport : 1;
        UINT64 EnhancedFastStringSupport : 1; /* bit 24: fast REP MOVSB and STOSB (ERMS) */
        UINT64 Bmi1Support : 1;
        UINT64 Bmi2Support : 1;
        UINT64 Reserved1 : 2;
        UINT64 MovbeSupport : 1;           /* bit 29 */
        UINT64 Npiep1Support : 1;          /* SGDT and the like can be denied to user code */
        UINT64 DepX87FPUSaveSupport : 1;   /* CS and DS of the x87 pointers are saved as 0 */
        UINT64 RdSeedSupport : 1;          /* bit 32 */
        UINT64 AdxSupport : 1;
        UINT64 IntelPrefetchSupport : 1;   /* PREFETCHW */
        UINT64 SmapSupport : 1;
        UINT64 HleSupport : 1;
        UINT64 RtmSupport : 1;
        UINT64 RdtscpSupport : 1;
        UINT64 ClflushoptSupport : 1;
        UINT64 ClwbSupport : 1;            /* bit 40 */
        UINT64 ShaSupport : 1;
        UINT64 X87PointersSavedSupport : 1; /* FXSAVE always saves the x87 pointers (AMD) */
        UINT64 InvpcidSupport : 1;
        UINT64 IbrsSupport : 1;
        UINT64 StibpSupport : 1;
        UINT64 IbpbSupport : 1;
        UINT64 UnrestrictedGuestSupport : 1; /* of nested virtualization */
        UINT64 SsbdSupport : 1;            /* bit 48 */
        UINT64 FastShortRepMovSupport : 1; /* FSRM */
        UINT64 Reserved3 : 1;
        UINT64 RdclNo : 1;                 /* not open to Meltdown */
        UINT64 IbrsAllSupport : 1;         /* IBRS may stay on */
        UINT64 Reserved4 : 1;
        UINT64 SsbNo : 1;                  /* not open to speculative store bypass */
        UINT64 RsbANo : 1;                 /* return stack needs no stuffing */
        UINT64 Reserved5 : 1;              /* bit 56 */
        UINT64 RdPidSupport : 1;
        UINT64 UmipSupport : 1;
        UINT64 MdsNoSupport : 1;           /* not open to MDS */
        UINT64 MdClearSupport : 1;         /* VERW clears buffers */
        UINT64 TaaNoSupport : 1;           /* not open to TSX asynchronous abort */
        UINT64 TsxCtrlSupport : 1;         /* IA32_TSX_CTRL */
        UINT64 Reserved6 : 1;              /* bit 63 */
    };
    UINT64 AsUINT64;
} WHV_X64_PROCESSOR_FEATURES, WHV_PROCESSOR_FEATURES;
C_ASSERT(sizeof(WHV_X64_PROCESSOR_FEATURES) == 8);

/* Processor features, bank 1. */
typedef union WHV_X64_PROCESSOR_FEATURES1 {
    struct {
        UINT64 ACountMCountSupport : 1;    /* bit 0: APERF and MPERF */
        UINT64 TscInvariantSupport : 1;
        UINT64 ClZeroSupport : 1;
        UINT64 RdpruSupport : 1;
        UINT64 La57Support : 1;            /* five-level paging */
        UINT64 MbecSupport : 1;            /* execute rights by mode, nested */
        UINT64 NestedVirtSupport : 1;
        UINT64 PsfdSupport : 1;            /* predictive store forwarding can be disabled */
        UINT64 CetSsSupport : 1;           /* bit 8: shadow stacks */
        UINT64 CetIbtSupport : 1;          /* indirect branch tracking */
        UINT64 VmxExceptionInjectSupport : 1;
        UINT64 Reserved2 : 1;
        UINT64 UmwaitTpauseSupport : 1;
        UINT64 MovdiriSupport : 1;
        UINT64 Movdir64bSupport : 1;
        UINT64 CldemoteSupport : 1;
        UINT64 SerializeSupport : 1;       /* bit 16 */
        UINT64 TscDeadlineTmrSupport : 1;
        UINT64 TscAdjustSupport : 1;
        UINT64 FZLRepMovsb : 1;            /* fast REP MOVSB of length 0 */
        UINT64 FSRepStosb : 1;             /* fast short REP STOSB */
        UINT64 FSRepCmpsb : 1;             /* fast short REP CMPSB */
        UINT64 TsxLdTrkSupport : 1;
        UINT64 VmxInsOutsExitInfoSupport : 1;
        UINT64 Reserved3 : 1;              /* bit 24 */
        UINT64 SbdrSsdpNoSupport : 1;      /* not open to shared-buffer stale data */
        UINT64 FbsdpNoSupport : 1;
        UINT64 PsdpNoSupport : 1;
        UINT64 FbClearSupport : 1;
        UINT64 BtcNoSupport : 1;           /* not open to branch type confusion */
        UINT64 IbpbRsbFlushSupport : 1;    /* IBPB empties the return stack too */
        UINT64 StibpAlwaysOnSupport : 1;
        UINT64 PerfGlobalCtrlSupport : 1;  /* bit 32 */
        UINT64 NptExecuteOnlySupport : 1;
        UINT64 NptADFlagsSupport : 1;
        UINT64 Npt1GbPageSupport : 1;
        UINT64 Reserved4 : 1;
        UINT64 Reserved5 : 1;
        UINT64 Reserved6 : 1;
        UINT64 Reserved7 : 1;
        UINT64 CmpccxaddSupport : 1;       /* bit 40 */
        UINT64 Reserved8 : 1;
        UINT64 Reserved9 : 1;
        UINT64 Reserved10 : 1;
        UINT64 Reserved11 : 1;
        UINT64 PrefetchISupport : 1;       /* PREFETCHIT0 and 1 */
        UINT64 Sha512Support : 1;
        UINT64 Reserved12 : 1;
        UINT64 Reserved13 : 1;             /* bit 48 */
        UINT64 Reserved14 : 1;
        UINT64 SM3Support : 1;
        UINT64 SM4Support : 1;
        UINT64 Reserved15 : 1;
        UINT64 Reserved16 : 1;
        UINT64 SbpbSupported : 1;          /* selective branch predictor barrier */
        UINT64 IbpbBrTypeSupported : 1;
        UINT64 SrsoNoSupported : 1;        /* bit 56: not open to return stack overflow */
        UINT64 SrsoUserKernelNoSupported : 1;
        UINT64 Reserved17 : 1;
        UINT64 Reserved18 : 1;
        UINT64 Reserved19 : 1;
        UINT64 Reserved20 : 3;             /* bits 61-63 */
    };
    UINT64 AsUINT64;
} WHV_X64_PROCESSOR_FEATURES1, WHV_PROCESSOR_FEATURES1;
C_ASSERT(sizeof(WHV_X64_PROCESSOR_FEATURES1) == 8);

#define WHV_PROCESSOR_FEATURES_BANKS_COUNT 2

/* All banks of processor features. BanksCount must be WHV_PROCESSOR_FEATURES_BANKS_COUNT. */
typedef struct WHV_PROCESSOR_FEATURES_BANKS {
    UINT32 BanksCount;
    UINT32 Reserved0;
    union {
        struct {
            WHV_PROCESSOR_FEATURES  Bank0;
            WHV_PROCESSOR_FEATURES1 Bank1;
        };
        UINT64 AsUINT64[WHV_PROCESSOR_FEATURES_BANKS_COUNT];
    };
} WHV_PROCESSOR_FEATURES_BANKS;
C_ASSERT(sizeof(WHV_PROCESSOR_FEATURES_BANKS) == 24);

/* Parts of the Hyper-V interface (TLFS) that a guest may be shown, bank 0. */
typedef union WHV_SYNTHETIC_PROCESSOR_FEATURES {
    struct {
        UINT64 HypervisorPresent : 1;      /* bit 0: CPUID says a hypervisor is there */
        UINT64 Hv1 : 1;                    /* ... and that it speaks the "Hv#1" interface */
        UINT64 AccessVpRunTimeReg : 1;     /* registers the guest may use: run time */
        UINT64 AccessPartitionReferenceCounter : 1; /* reference time counter */
        UINT64 AccessSynicRegs : 1;        /* synthetic interrupt controller */
        UINT64 AccessSyntheticTimerRegs : 1; /* synthetic timers */
        UINT64 AccessIntrCtrlRegs : 1;     /* APIC registers by MSR */
        UINT64 AccessHypercallRegs : 1;    /* hypercall page */
        UINT64 AccessVpIndex : 1;          /* bit 8: own processor index */
        UINT64 AccessPartitionReferenceTsc : 1; /* reference TSC page */
        UINT64 AccessGuestIdleReg : 1;     /* guest idle */
        UINT64 AccessFrequencyRegs : 1;    /* TSC and APIC frequencies */
        UINT64 ReservedZ12 : 1;
        UINT64 ReservedZ13 : 1;
        UINT64 ReservedZ14 : 1;
        UINT64 EnableExtendedGvaRangesForFlushVirtualAddressList : 1;
        UINT64 ReservedZ16 : 1;            /* bit 16 */
        UINT64 ReservedZ17 : 1;
        UINT64 FastHypercallOutput : 1;    /* results of fast hypercalls in XMM registers */
        UINT64 ReservedZ19 : 1;
        UINT64 ReservedZ20 : 1;
        UINT64 ReservedZ21 : 1;
        UINT64 DirectSyntheticTimers : 1;  /* timers that raise an interrupt, not a message */
        UINT64 ReservedZ23 : 1;
        UINT64 ExtendedProcessorMasks : 1; /* bit 24: processor sets beyond 64 */
        UINT64 TbFlushHypercalls : 1;      /* TLB flush by hypercall */
        UINT64 SyntheticClusterIpi : 1;    /* IPI by hypercall */
        UINT64 NotifyLongSpinWait : 1;     /* hint of a long spin wait */
        UINT64 QueryNumaDistance : 1;
        UINT64 SignalEvents : 1;
        UINT64 RetargetDeviceInterrupt : 1;
        UINT64 RestoreTime : 1;
        UINT64 EnlightenedVmcs : 1;        /* bit 32: nested */
        UINT64 NestedDebugCtl : 1;
        UINT64 SyntheticTimeUnhaltedTimer : 1;
        UINT64 IdleSpecCtrl : 1;
        UINT64 ReservedZ36 : 1;
        UINT64 WakeVps : 1;
        UINT64 AccessVpRegs : 1;
        UINT64 ReservedZ39 : 1;
        UINT64 ReservedZ40 : 1;            /* bit 40 */
        UINT64 ReservedZ41 : 1;
        UINT64 ReservedZ42 : 1;
        UINT64 ReservedZ43 : 1;
        UINT64 ReservedZ44 : 1;
        UINT64 Reserved : 19;              /* bits 45-63 */
    };
    UINT64 AsUINT64;
} WHV_SYNTHETIC_PROCESSOR_FEATURES;
C_ASSERT(sizeof(WHV_SYNTHETIC_PROCESSOR_FEATURES) == 8);

#define WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT 1

/* All banks of synthetic features. BanksCount must be the constant above. */
typedef struct WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS {
    UINT32 BanksCount;
    UINT32 Reserved0;
    union {
        WHV_SYNTHETIC_PROCESSOR_FEATURES Bank0;
        UINT64 AsUINT64[WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT];
    };
} WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS;
C_ASSERT(sizeof(WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS) == 16);

/* Parts of the extended processor state. */
typedef union WHV_PROCESSOR_XSAVE_FEATURES {
    struct {
        UINT64 XsaveSupport : 1;           /* bit 0 */
        UINT64 XsaveoptSupport : 1;
        UINT64 AvxSupport : 1;
        UINT64 Avx2Support : 1;
        UINT64 FmaSupport : 1;
        UINT64 MpxSupport : 1;
        UINT64 Avx512Support : 1;          /* AVX-512 foundation */
        UINT64 Avx512DQSupport : 1;
        UINT64 Avx512CDSupport : 1;        /* bit 8 */
        UINT64 Avx512BWSupport : 1;
        UINT64 Avx512VLSupport : 1;
        UINT64 XsaveCompSupport : 1;       /* XSAVEC: the compacted format */
        UINT64 XsaveSupervisorSupport : 1; /* XSAVES */
        UINT64 Xcr1Support : 1;            /* XGETBV of register 1 */
        UINT64 Avx512BitalgSupport : 1;
        UINT64 Avx512IfmaSupport : 1;
        UINT64 Avx512VBmiSupport : 1;      /* bit 16 */
        UINT64 Avx512VBmi2Support : 1;
        UINT64 Avx512VnniSupport : 1;
        UINT64 GfniSupport : 1;
        UINT64 VaesSupport : 1;
        UINT64 Avx512VPopcntdqSupport : 1;
        UINT64 VpclmulqdqSupport : 1;
        UINT64 Avx512Bf16Support : 1;
        UINT64 Avx512Vp2IntersectSupport : 1; /* bit 24 */
        UINT64 Avx512Fp16Support : 1;
        UINT64 XfdSupport : 1;             /* extended feature disable */
        UINT64 AmxTileSupport : 1;
        UINT64 AmxBf16Support : 1;
        UINT64 AmxInt8Support : 1;
        UINT64 AvxVnniSupport : 1;
        UINT64 AvxIfmaSupport : 1;
        UINT64 AvxNeConvertSupport : 1;    /* bit 32 */
        UINT64 AvxVnniInt8Support : 1;
        UINT64 AvxVnniInt16Support : 1;
        UINT64 Avx10_1_256Support : 1;
        UINT64 Avx10_1_512Support : 1;
        UINT64 AmxFp16Support : 1;
        UINT64 Reserved : 26;              /* bits 38-63 */
    };
    UINT64 AsUINT64;
} WHV_PROCESSOR_XSAVE_FEATURES;
C_ASSERT(sizeof(WHV_PROCESSOR_XSAVE_FEATURES) == 8);
typedef WHV_PROCESSOR_XSAVE_FEATURES *PWHV_PROCESSOR_XSAVE_FEATURES;

/* Performance monitoring that guests may use. */
typedef union WHV_PROCESSOR_PERFMON_FEATURES {
    struct {
        UINT64 PmuSupport : 1;             /* bit 0: counters */
        UINT64 LbrSupport : 1;             /* bit 1: last branch records */
        UINT64 Reserved : 62;
    };
    UINT64 AsUINT64;
} WHV_PROCESSOR_PERFMON_FEATURES;
C_ASSERT(sizeof(WHV_PROCESSOR_PERFMON_FEATURES) == 8);
typedef WHV_PROCESSOR_PERFMON_FEATURES *PWHV_PROCESSOR_PERFMON_FEATURES;

/* Which accesses to model specific registers exit, once ExtendedVmExits.X64MsrExit is on. */
typedef union WHV_X64_MSR_EXIT_BITMAP {
    UINT64 AsUINT64;
    struct {
        UINT64 UnhandledMsrs : 1;          /* bit 0: those that would raise #GP as unknown */
        UINT64 TscMsrWrite : 1;            /* bit 1 */
        UINT64 TscMsrRead : 1;             /* bit 2 */
        UINT64 ApicBaseMsrWrite : 1;       /* bit 3 */
        UINT64 MiscEnableMsrRead : 1;      /* bit 4 */
        UINT64 McUpdatePatchLevelMsrRead : 1; /* bit 5: microcode revision */
        UINT64 Reserved : 58;
    };
} WHV_X64_MSR_EXIT_BITMAP;
C_ASSERT(sizeof(WHV_X64_MSR_EXIT_BITMAP) == 8);

/* Whether a processor's frequency can be capped, and the frequencies of the host, MHz. */
typedef struct WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP {
    UINT32 IsSupported : 1;
    UINT32 Reserved : 31;
    UINT32 HighestFrequencyMhz;
    UINT32 NominalFrequencyMhz;
    UINT32 LowestFrequencyMhz;
    UINT32 FrequencyStepMhz;
} WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP;
C_ASSERT(sizeof(WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP) == 20);

/* Which scheduling properties a partition may be given. */
typedef union WHV_SCHEDULER_FEATURES {
    struct {
        UINT64 CpuReserve : 1;             /* bit 0 */
        UINT64 CpuCap : 1;
        UINT64 CpuWeight : 1;
        UINT64 CpuGroupId : 1;
        UINT64 DisableSmt : 1;             /* bit 4 */
        UINT64 Reserved : 59;
    };
    UINT64 AsUINT64;
} WHV_SCHEDULER_FEATURES;
C_ASSERT(sizeof(WHV_SCHEDULER_FEATURES) == 8);

/* ========================================================================================== */
/* Guest memory                                                                               */
/* ========================================================================================== */

/* What the guest may do with a mapped range. Valid: none, R, RW, RX, RWX; any of them with
   tracking. A range mapped with no right is mapped, and every access to it exits. */
typedef enum WHV_MAP_GPA_RANGE_FLAGS {
    WHvMapGpaRangeFlagNone            = 0x00000000,
    WHvMapGpaRangeFlagRead            = 0x00000001,
    WHvMapGpaRangeFlagWrite           = 0x00000002,
    WHvMapGpaRangeFlagExecute         = 0x00000004,
    WHvMapGpaRangeFlagTrackDirtyPages = 0x00000008  /* WHvQueryGpaRangeDirtyBitmap may be asked */
} WHV_MAP_GPA_RANGE_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_MAP_GPA_RANGE_FLAGS)

/* What WHvTranslateGva checks and changes on its way through the guest's page tables. */
typedef enum WHV_TRANSLATE_GVA_FLAGS {
    WHvTranslateGvaFlagNone             = 0x00000000,
    WHvTranslateGvaFlagValidateRead     = 0x00000001, /* the access reads */
    WHvTranslateGvaFlagValidateWrite    = 0x00000002, /* the access writes */
    WHvTranslateGvaFlagValidateExecute  = 0x00000004, /* the access fetches an instruction */
    WHvTranslateGvaFlagPrivilegeExempt  = 0x00000008, /* as supervisor, whatever the CPL */
    WHvTranslateGvaFlagSetPageTableBits = 0x00000010, /* set A, and D with ValidateWrite */
    WHvTranslateGvaFlagEnforceSmap      = 0x00000100, /* SMAP applies even if RFLAGS.AC is set */
    WHvTranslateGvaFlagOverrideSmap     = 0x00000200  /* SMAP does not apply */
} WHV_TRANSLATE_GVA_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_TRANSLATE_GVA_FLAGS)

/* The same as bits, with a trust level. No function takes it. */
typedef union WHV_TRANSLATE_GVA_2_FLAGS {
    struct {
        UINT64 ValidateRead : 1;           /* bit 0 */
        UINT64 ValidateWrite : 1;
        UINT64 ValidateExecute : 1;
        UINT64 PrivilegeExempt : 1;
        UINT64 SetPageTableBits : 1;       /* bit 4 */
        UINT64 Reserved1 : 3;
        UINT64 EnforceSmap : 1;            /* bit 8 */
        UINT64 OverrideSmap : 1;           /* bit 9 */
        UINT64 Reserved4 : 46;
        UINT64 InputVtl : 8;               /* bits 56-63: a WHV_INPUT_VTL */
    };
    UINT64 AsUINT64;
} WHV_TRANSLATE_GVA_2_FLAGS;
C_ASSERT(sizeof(WHV_TRANSLATE_GVA_2_FLAGS) == 8);

/* How a translation ended. Codes 4 to 7 are about the pages of the page tables, not about the
   page that the address leads to. */
typedef enum WHV_TRANSLATE_GVA_RESULT_CODE {
    WHvTranslateGvaResultSuccess                 = 0,
    WHvTranslateGvaResultPageNotPresent          = 1, /* P = 0 somewhere, or not canonical */
    WHvTranslateGvaResultPrivilegeViolation      = 2, /* R/W, U/S, XD, SMEP, SMAP, a key */
    WHvTranslateGvaResultInvalidPageTableFlags   = 3, /* a reserved bit is set */
    WHvTranslateGvaResultGpaUnmapped             = 4, /* a table is where nothing is mapped */
    WHvTranslateGvaResultGpaNoReadAccess         = 5, /* a table is in a range without read right */
    WHvTranslateGvaResultGpaNoWriteAccess        = 6, /* A or D cannot be set there */
    WHvTranslateGvaResultGpaIllegalOverlayAccess = 7, /* a table is in a page of the platform */
    WHvTranslateGvaResultIntercept               = 8  /* somebody above intercepts the access */
} WHV_TRANSLATE_GVA_RESULT_CODE;

typedef struct WHV_TRANSLATE_GVA_RESULT {
    WHV_TRANSLATE_GVA_RESULT_CODE ResultCode;
    UINT32 Reserved;
} WHV_TRANSLATE_GVA_RESULT;
C_ASSERT(sizeof(WHV_TRANSLATE_GVA_RESULT) == 8);

/* A range of guest memory, half-open: [GuestAddress, GuestAddress + SizeInBytes). */
typedef struct WHV_MEMORY_RANGE_ENTRY {
    UINT64 GuestAddress;
    UINT64 SizeInBytes;
} WHV_MEMORY_RANGE_ENTRY;
C_ASSERT(sizeof(WHV_MEMORY_RANGE_ENTRY) == 16);

/* What WHvAdviseGpaRange is to do with the ranges. */
typedef enum WHV_ADVISE_GPA_RANGE_CODE {
    WHvAdviseGpaRangeCodePopulate = 0,     /* bring the pages in; takes a ..._POPULATE */
    WHvAdviseGpaRangeCodePin      = 1,     /* ... and keep them in until Unpin */
    WHvAdviseGpaRangeCodeUnpin    = 2
} WHV_ADVISE_GPA_RANGE_CODE;

typedef union WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS {
    UINT32 AsUINT32;
    struct {
        UINT32 Prefetch : 1;               /* bit 0: a hint; do it when convenient, or not at all */
        UINT32 AvoidHardFaults : 1;        /* bit 1: leave out what needs disk input */
        UINT32 Reserved : 30;
    };
} WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS;
C_ASSERT(sizeof(WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS) == 4);

/* A kind of memory access: in advice, in exits. */
typedef enum WHV_MEMORY_ACCESS_TYPE {
    WHvMemoryAccessRead    = 0,
    WHvMemoryAccessWrite   = 1,
    WHvMemoryAccessExecute = 2
} WHV_MEMORY_ACCESS_TYPE;

typedef struct WHV_ADVISE_GPA_RANGE_POPULATE {
    WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS Flags;
    WHV_MEMORY_ACCESS_TYPE              AccessType; /* the access to come */
} WHV_ADVISE_GPA_RANGE_POPULATE;
C_ASSERT(sizeof(WHV_ADVISE_GPA_RANGE_POPULATE) == 8);

/* The advice buffer, by code. */
typedef union WHV_ADVISE_GPA_RANGE {
    WHV_ADVISE_GPA_RANGE_POPULATE Populate;
} WHV_ADVISE_GPA_RANGE;
C_ASSERT(sizeof(WHV_ADVISE_GPA_RANGE) == 8);

/* Memory type of a direct access; the values are those of the x86 PAT. */
typedef enum WHV_CACHE_TYPE {
    WHvCacheTypeUncached       = 0,
    WHvCacheTypeWriteCombining = 1,
    WHvCacheTypeWriteThrough   = 4,
    WHvCacheTypeWriteProtected = 5,
    WHvCacheTypeWriteBack      = 6
} WHV_CACHE_TYPE;

/* ========================================================================================== */
/* Virtual trust levels                                                                       */
/* ========================================================================================== */

/* A trust level: 0 is the ordinary one, and the only one there is here. */
typedef UINT8 WHV_VTL;

#define WHV_VTL_ALL 0xF

/* Which trust level an access is for. */
typedef union WHV_INPUT_VTL {
    UINT8 AsUINT8;
    struct {
        UINT8 TargetVtl : 4;               /* bits 0-3 */
        UINT8 UseTargetVtl : 1;            /* bit 4: clear = the level the processor is at */
        UINT8 Reserved : 3;
    };
} WHV_INPUT_VTL;
C_ASSERT(sizeof(WHV_INPUT_VTL) == 1);

typedef union WHV_ENABLE_PARTITION_VTL_FLAGS {
    UINT8 AsUINT8;
    struct {
        UINT8 EnableMbec : 1;              /* bit 0: execute rights by mode */
        UINT8 EnableSupervisorShadowStack : 1; /* bit 1 */
        UINT8 EnableHardwareHvpt : 1;      /* bit 2: hypervisor-managed linear translation */
        UINT8 Reserved : 5;
    };
} WHV_ENABLE_PARTITION_VTL_FLAGS;
C_ASSERT(sizeof(WHV_ENABLE_PARTITION_VTL_FLAGS) == 1);

typedef union WHV_DISABLE_PARTITION_VTL_FLAGS {
    UINT8 AsUINT8;
    struct {
        UINT8 ScrubOnly : 1;               /* bit 0: clear its state and leave it enabled */
        UINT8 Reserved : 7;
    };
} WHV_DISABLE_PARTITION_VTL_FLAGS;
C_ASSERT(sizeof(WHV_DISABLE_PARTITION_VTL_FLAGS) == 1);

typedef union WHV_DISABLE_VP_VTL_FLAGS {
    UINT8 AsUINT8;
    struct {
        UINT8 ScrubOnly : 1;               /* bit 0: clear its state and leave it enabled */
        UINT8 Reserved : 7;
    };
} WHV_DISABLE_VP_VTL_FLAGS;
C_ASSERT(sizeof(WHV_DISABLE_VP_VTL_FLAGS) == 1);

/* The state in which a processor enters a trust level for the first time. */
typedef struct WHV_INITIAL_VP_CONTEXT {
    UINT64 Rip;
    UINT64 Rsp;
    UINT64 Rflags;
    WHV_X64_SEGMENT_REGISTER Cs;
    WHV_X64_SEGMENT_REGISTER Ds;
    WHV_X64_SEGMENT_REGISTER Es;
    WHV_X64_SEGMENT_REGISTER Fs;
    WHV_X64_SEGMENT_REGISTER Gs;
    WHV_X64_SEGMENT_REGISTER Ss;
    WHV_X64_SEGMENT_REGISTER Tr;
    WHV_X64_SEGMENT_REGISTER Ldtr;
    WHV_X64_TABLE_REGISTER Idtr;
    WHV_X64_TABLE_REGISTER Gdtr;
    UINT64 Efer;
    UINT64 Cr0;
    UINT64 Cr3;
    UINT64 Cr4;
    UINT64 MsrCrPat;
} WHV_INITIAL_VP_CONTEXT;
C_ASSERT(sizeof(WHV_INITIAL_VP_CONTEXT) == 224);

/* What each trust level above 0 leaves to those below it in a page. */
typedef union WHV_VTL_PERMISSION_SET {
    UINT32 AsUINT32;
    struct {
        UINT16 VtlPermissionFrom1[2];      /* [0] by level 1, [1] by level 2 */
    };
} WHV_VTL_PERMISSION_SET;
C_ASSERT(sizeof(WHV_VTL_PERMISSION_SET) == 4);

/* How WHvReadGpaRange and WHvWriteGpaRange reach memory. Passed by value. */
typedef union WHV_ACCESS_GPA_CONTROLS {
    UINT64 AsUINT64;
    struct {
        WHV_CACHE_TYPE CacheType;
        WHV_INPUT_VTL  InputVtl;
        UINT8          Reserved;
        UINT16         Reserved1;
    };
} WHV_ACCESS_GPA_CONTROLS;
C_ASSERT(sizeof(WHV_ACCESS_GPA_CONTROLS) == 8);

/* The most bytes that one WHvReadGpaRange or WHvWriteGpaRange moves on Windows. */
#define WHV_READ_WRITE_GPA_RANGE_MAX_SIZE 16

/* An answer of WHvGetCapability: the member named like the code. */
typedef union WHV_CAPABILITY {
    BOOL                                   HypervisorPresent;
    WHV_CAPABILITY_FEATURES                Features;
    WHV_EXTENDED_VM_EXITS                  ExtendedVmExits;
    WHV_PROCESSOR_VENDOR                   ProcessorVendor;
    WHV_PROCESSOR_FEATURES                 ProcessorFeatures;
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS SyntheticProcessorFeaturesBanks;
    UINT8                                  ProcessorClFlushSize;    /* log2 of bytes */
    UINT64                                 ProcessorClockFrequency; /* Hz */
    WHV_PROCESSOR_FEATURES_BANKS           ProcessorFeaturesBanks;
    WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS    GpaRangePopulateFlags;
    WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP ProcessorFrequencyCap;
    WHV_SCHEDULER_FEATURES                 SchedulerFeatures;
    UINT32                                 PhysicalAddressWidth;    /* bits */
    UINT64                                 NestedFeatureRegister;   /* any of the Vmx codes */
    WHV_PROCESSOR_XSAVE_FEATURES           ProcessorXsaveFeatures;
    UINT64                                 InterruptClockFrequency; /* Hz */
    WHV_PROCESSOR_PERFMON_FEATURES         ProcessorPerfmonFeatures;
    WHV_X64_MSR_EXIT_BITMAP                X64MsrExitBitmap;
    UINT64                                 ExceptionExitBitmap;     /* bit n: exception n */
} WHV_CAPABILITY;
C_ASSERT(sizeof(WHV_CAPABILITY) == 24);

/* ========================================================================================== */
/* Partition properties                                                                       */
/* ========================================================================================== */

/* Which property WHvGet/SetPartitionProperty speaks of. The member of WHV_PARTITION_PROPERTY has
   the same name; its size is the size of the property. Properties are set before
   WHvSetupPartition, those marked * also after it. */
typedef enum WHV_PARTITION_PROPERTY_CODE {
    WHvPartitionPropertyCodeExtendedVmExits         = 0x00000001, /* * */
    WHvPartitionPropertyCodeExceptionExitBitmap     = 0x00000002, /* * */
    WHvPartitionPropertyCodeSeparateSecurityDomain  = 0x00000003,
    WHvPartitionPropertyCodeNestedVirtualization    = 0x00000004,
    WHvPartitionPropertyCodeX64MsrExitBitmap        = 0x00000005, /* * */
    WHvPartitionPropertyCodePrimaryNumaNode         = 0x00000006,
    WHvPartitionPropertyCodeCpuReserve              = 0x00000007,
    WHvPartitionPropertyCodeCpuCap                  = 0x00000008,
    WHvPartitionPropertyCodeCpuWeight               = 0x00000009,
    WHvPartitionPropertyCodeCpuGroupId              = 0x0000000A,
    WHvPartitionPropertyCodeProcessorFrequencyCap   = 0x0000000B,
    WHvPartitionPropertyCodeAllowDeviceAssignment   = 0x0000000C,
    WHvPartitionPropertyCodeDisableSmt              = 0x0000000D,

    WHvPartitionPropertyCodeProcessorFeatures       = 0x00001001,
    WHvPartitionPropertyCodeProcessorClFlushSize    = 0x00001002,
    WHvPartitionPropertyCodeCpuidExitList           = 0x00001003, /* *, cannot be read */
    WHvPartitionPropertyCodeCpuidResultList         = 0x00001004, /* cannot be read */
    WHvPartitionPropertyCodeLocalApicEmulationMode  = 0x00001005,
    WHvPartitionPropertyCodeProcessorXsaveFeatures  = 0x00001006,
    WHvPartitionPropertyCodeProcessorClockFrequency = 0x00001007,
    WHvPartitionPropertyCodeInterruptClockFrequency = 0x00001008,
    WHvPartitionPropertyCodeApicRemoteReadSupport   = 0x00001009,
    WHvPartitionPropertyCodeProcessorFeaturesBanks  = 0x0000100A,
    WHvPartitionPropertyCodeReferenceTime           = 0x0000100B, /* cannot be written */
    WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks = 0x0000100C,
    WHvPartitionPropertyCodeCpuidResultList2        = 0x0000100D, /* cannot be read */
    WHvPartitionPropertyCodeProcessorPerfmonFeatures = 0x0000100E,
    WHvPartitionPropertyCodeMsrActionList           = 0x0000100F, /* cannot be read */
    WHvPartitionPropertyCodeUnimplementedMsrAction  = 0x00001010,
    WHvPartitionPropertyCodePhysicalAddressWidth    = 0x00001011,

    WHvPartitionPropertyCodeProcessorCount          = 0x00001FFF  /* must be set before Setup */
} WHV_PARTITION_PROPERTY_CODE;

/* An answer to CPUID that replaces the platform's, for every sub-leaf of Function. */
typedef struct WHV_X64_CPUID_RESULT {
    UINT32 Function;                       /* EAX at the instruction */
    UINT32 Reserved[3];
    UINT32 Eax;
    UINT32 Ebx;
    UINT32 Ecx;
    UINT32 Edx;
} WHV_X64_CPUID_RESULT;
C_ASSERT(sizeof(WHV_X64_CPUID_RESULT) == 32);

typedef enum WHV_X64_CPUID_RESULT2_FLAGS {
    WHvX64CpuidResult2FlagSubleafSpecific = 0x00000001, /* Index counts */
    WHvX64CpuidResult2FlagVpSpecific      = 0x00000002  /* VpIndex counts */
} WHV_X64_CPUID_RESULT2_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_X64_CPUID_RESULT2_FLAGS)

/* The four registers of a CPUID answer. */
typedef struct WHV_CPUID_OUTPUT {
    UINT32 Eax;
    UINT32 Ebx;
    UINT32 Ecx;
    UINT32 Edx;
} WHV_CPUID_OUTPUT;
C_ASSERT(sizeof(WHV_CPUID_OUTPUT) == 16);

/* An answer to CPUID of which only some bits replace the platform's. */
typedef struct WHV_X64_CPUID_RESULT2 {
    UINT32 Function;                       /* EAX at the instruction */
    UINT32 Index;                          /* ECX at the instruction */
    UINT32 VpIndex;
    WHV_X64_CPUID_RESULT2_FLAGS Flags;     /* which of the two above count */
    WHV_CPUID_OUTPUT Output;
    WHV_CPUID_OUTPUT Mask;                 /* bit set: Output decides; clear: the platform */
} WHV_X64_CPUID_RESULT2;
C_ASSERT(sizeof(WHV_X64_CPUID_RESULT2) == 48);

/* What to do about one model specific register; the actions are WHV_MSR_ACTION. */
typedef struct WHV_MSR_ACTION_ENTRY {
    UINT32 Index;                          /* ECX at the instruction */
    UINT8  ReadAction;
    UINT8  WriteAction;
    UINT16 Reserved;
} WHV_MSR_ACTION_ENTRY;
C_ASSERT(sizeof(WHV_MSR_ACTION_ENTRY) == 8);

typedef enum WHV_MSR_ACTION {
    WHvMsrActionArchitectureDefault = 0,   /* #GP if there is no such register */
    WHvMsrActionIgnoreWriteReadZero = 1,
    WHvMsrActionExit                = 2
} WHV_MSR_ACTION;

/* Exceptions by vector: the bits of ExceptionExitBitmap, the ExceptionType of an exit. */
typedef enum WHV_EXCEPTION_TYPE {
    WHvX64ExceptionTypeDivideErrorFault            = 0x00, /* #DE */
    WHvX64ExceptionTypeDebugTrapOrFault            = 0x01, /* #DB */
    WHvX64ExceptionTypeBreakpointTrap              = 0x03, /* #BP */
    WHvX64ExceptionTypeOverflowTrap                = 0x04, /* #OF */
    WHvX64ExceptionTypeBoundRangeFault             = 0x05, /* #BR */
    WHvX64ExceptionTypeInvalidOpcodeFault          = 0x06, /* #UD */
    WHvX64ExceptionTypeDeviceNotAvailableFault     = 0x07, /* #NM */
    WHvX64ExceptionTypeDoubleFaultAbort            = 0x08, /* #DF */
    WHvX64ExceptionTypeInvalidTaskStateSegmentFault = 0x0A, /* #TS */
    WHvX64ExceptionTypeSegmentNotPresentFault      = 0x0B, /* #NP */
    WHvX64ExceptionTypeStackFault                  = 0x0C, /* #SS */
    WHvX64ExceptionTypeGeneralProtectionFault      = 0x0D, /* #GP */
    WHvX64ExceptionTypePageFault                   = 0x0E, /* #PF */
    WHvX64ExceptionTypeFloatingPointErrorFault     = 0x10, /* #MF */
    WHvX64ExceptionTypeAlignmentCheckFault         = 0x11, /* #AC */
    WHvX64ExceptionTypeMachineCheckAbort           = 0x12, /* #MC */
    WHvX64ExceptionTypeSimdFloatingPointFault      = 0x13, /* #XM */
    WHvX64ExceptionTypeControlProtectionFault      = 0x15  /* #CP */
} WHV_EXCEPTION_TYPE;

/* Who provides the local APIC. */
typedef enum WHV_X64_LOCAL_APIC_EMULATION_MODE {
    WHvX64LocalApicEmulationModeNone   = 0, /* the client, in its handlers of exits */
    WHvX64LocalApicEmulationModeXApic  = 1, /* the platform, reached by memory at FEE00000 */
    WHvX64LocalApicEmulationModeX2Apic = 2  /* the platform, also reached by MSRs */
} WHV_X64_LOCAL_APIC_EMULATION_MODE;

/* The value of a partition property: the member named like the code. Lists are arrays; the size
   given with them tells how many entries there are. */
typedef union WHV_PARTITION_PROPERTY {
    WHV_EXTENDED_VM_EXITS                  ExtendedVmExits;
    WHV_PROCESSOR_FEATURES                 ProcessorFeatures;
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS SyntheticProcessorFeaturesBanks;
    UINT8                                  ProcessorClFlushSize;    /* log2 of bytes */
    UINT32                                 ProcessorCount;
    BOOL                                   SeparateSecurityDomain;
    BOOL                                   NestedVirtualization;
    UINT64                                 ProcessorClockFrequency; /* Hz */
    WHV_PROCESSOR_FEATURES_BANKS           ProcessorFeaturesBanks;
    UINT64                                 ReferenceTime;           /* 100 ns */
    UINT16                                 PrimaryNumaNode;
    UINT32                                 CpuReserve;
    UINT32                                 CpuCap;
    UINT32                                 CpuWeight;
    UINT64                                 CpuGroupId;
    UINT32                                 ProcessorFrequencyCap;   /* MHz */
    BOOL                                   AllowDeviceAssignment;
    BOOL                                   DisableSmt;
    UINT32                                 PhysicalAddressWidth;    /* bits */
    WHV_PROCESSOR_XSAVE_FEATURES           ProcessorXsaveFeatures;
    UINT32                                 CpuidExitList[1];        /* values of EAX */
    UINT64                                 ExceptionExitBitmap;     /* bit n: exception n */
    BOOL                                   ApicRemoteRead;
    WHV_X64_MSR_EXIT_BITMAP                X64MsrExitBitmap;
    WHV_PROCESSOR_PERFMON_FEATURES         ProcessorPerfmonFeatures;
    UINT64                                 InterruptClockFrequency; /* Hz */
    WHV_X64_CPUID_RESULT                   CpuidResultList[1];
    WHV_X64_CPUID_RESULT2                  CpuidResultList2[1];
    WHV_MSR_ACTION_ENTRY                   MsrActionList[1];
    WHV_MSR_ACTION                         UnimplementedMsrAction;
    WHV_X64_LOCAL_APIC_EMULATION_MODE      LocalApicEmulationMode;
} WHV_PARTITION_PROPERTY;
C_ASSERT(sizeof(WHV_PARTITION_PROPERTY) == 48);

/* ========================================================================================== */
/* Exits                                                                                      */
/* ========================================================================================== */

/* Why WHvRunVirtualProcessor returned, and which member of WHV_RUN_VP_EXIT_CONTEXT tells more. */
typedef enum WHV_RUN_VP_EXIT_REASON {
    WHvRunVpExitReasonNone                   = 0x00000000,

    /* Always possible. */
    WHvRunVpExitReasonMemoryAccess           = 0x00000001, /* MemoryAccess */
    WHvRunVpExitReasonX64IoPortAccess        = 0x00000002, /* IoPortAccess */
    WHvRunVpExitReasonUnrecoverableException = 0x00000004, /* triple fault; nothing more to tell */
    WHvRunVpExitReasonInvalidVpRegisterValue = 0x00000005, /* the state cannot be run */
    WHvRunVpExitReasonUnsupportedFeature     = 0x00000006, /* UnsupportedFeature */
    WHvRunVpExitReasonX64InterruptWindow     = 0x00000007, /* InterruptWindow; was asked for */
    WHvRunVpExitReasonX64Halt                = 0x00000008, /* HLT, without an emulated APIC */
    WHvRunVpExitReasonX64ApicEoi             = 0x00000009, /* ApicEoi; with an emulated APIC */
    WHvRunVpExitReasonSynicSintDeliverable   = 0x0000000A, /* SynicSintDeliverable; was asked for */

    /* Only if ExtendedVmExits asks for it. */
    WHvRunVpExitReasonX64MsrAccess           = 0x00001000, /* MsrAccess */
    WHvRunVpExitReasonX64Cpuid               = 0x00001001, /* CpuidAccess */
    WHvRunVpExitReasonException              = 0x00001002, /* VpException */
    WHvRunVpExitReasonX64Rdtsc               = 0x00001003, /* ReadTsc */
    WHvRunVpExitReasonX64ApicSmiTrap         = 0x00001004, /* ApicSmi */
    WHvRunVpExitReasonHypercall              = 0x00001005, /* Hypercall */
    WHvRunVpExitReasonX64ApicInitSipiTrap    = 0x00001006, /* ApicInitSipi */
    WHvRunVpExitReasonX64ApicWriteTrap       = 0x00001007, /* ApicWrite */

    /* By the client's own wish. */
    WHvRunVpExitReasonCanceled               = 0x00002001  /* CancelReason */
} WHV_RUN_VP_EXIT_REASON;

/* The processor's mode at an exit. */
typedef union WHV_X64_VP_EXECUTION_STATE {
    struct {
        UINT16 Cpl : 2;                    /* bits 0-1: current privilege level */
        UINT16 Cr0Pe : 1;                  /* bit 2: protected mode */
        UINT16 Cr0Am : 1;                  /* bit 3: CR0.AM */
        UINT16 EferLma : 1;                /* bit 4: long mode is active */
        UINT16 DebugActive : 1;            /* bit 5: a debug register is armed */
        UINT16 InterruptionPending : 1;    /* bit 6: an event was being delivered; it stays in
                                              WHvRegisterPendingInterruption */
        UINT16 Reserved0 : 5;
        UINT16 InterruptShadow : 1;        /* bit 12: after STI or MOV SS */
        UINT16 Reserved1 : 3;
    };
    UINT16 AsUINT16;
} WHV_X64_VP_EXECUTION_STATE;
C_ASSERT(sizeof(WHV_X64_VP_EXECUTION_STATE) == 2);

/* The part of an exit that every reason has. */
typedef struct WHV_X64_VP_EXIT_CONTEXT {
    WHV_X64_VP_EXECUTION_STATE ExecutionState;
    UINT8  InstructionLength : 4;          /* bytes; 0 where it is not known, as in memory exits */
    UINT8  Cr8 : 4;                        /* task priority */
    UINT8  Reserved;
    UINT32 Reserved2;
    WHV_X64_SEGMENT_REGISTER Cs;
    UINT64 Rip;
    UINT64 Rflags;
} WHV_X64_VP_EXIT_CONTEXT, WHV_VP_EXIT_CONTEXT;
C_ASSERT(sizeof(WHV_X64_VP_EXIT_CONTEXT) == 40);

/* A synthetic interrupt that was waited for can be delivered. */
typedef struct WHV_SYNIC_SINT_DELIVERABLE_CONTEXT {
    UINT16 DeliverableSints;               /* bit n: source n */
    UINT16 Reserved1;
    UINT32 Reserved2;
} WHV_SYNIC_SINT_DELIVERABLE_CONTEXT;
C_ASSERT(sizeof(WHV_SYNIC_SINT_DELIVERABLE_CONTEXT) == 8);

typedef union WHV_MEMORY_ACCESS_INFO {
    struct {
        UINT32 AccessType : 2;             /* bits 0-1: a WHV_MEMORY_ACCESS_TYPE */
        UINT32 GpaUnmapped : 1;            /* bit 2: nothing is mapped; clear: the mapping forbids
                                              it, or host memory behind it cannot be reached */
        UINT32 GvaValid : 1;               /* bit 3: Gva counts; clear for page table walks */
        UINT32 Reserved : 28;
    };
    UINT32 AsUINT32;
} WHV_MEMORY_ACCESS_INFO;
C_ASSERT(sizeof(WHV_MEMORY_ACCESS_INFO) == 4);

/* An access that memory could not serve. Nothing of the instruction has happened and RIP is at
   it. There is no data, size or register here: whoever emulates decodes the instruction. */
typedef struct WHV_MEMORY_ACCESS_CONTEXT {
    UINT8  InstructionByteCount;           /* 0 to 16: how many of the following are valid */
    UINT8  Reserved[3];
    UINT8  InstructionBytes[16];           /* memory at CS:RIP, not only the one instruction */
    WHV_MEMORY_ACCESS_INFO AccessInfo;
    WHV_GUEST_PHYSICAL_ADDRESS Gpa;
    WHV_GUEST_VIRTUAL_ADDRESS  Gva;
} WHV_MEMORY_ACCESS_CONTEXT;
C_ASSERT(sizeof(WHV_MEMORY_ACCESS_CONTEXT) == 40);

typedef union WHV_X64_IO_PORT_ACCESS_INFO {
    struct {
        UINT32 IsWrite : 1;                /* bit 0: OUT or OUTS */
        UINT32 AccessSize : 3;             /* bits 1-3: 1, 2 or 4 bytes */
        UINT32 StringOp : 1;               /* bit 4: INS or OUTS */
        UINT32 RepPrefix : 1;              /* bit 5 */
        UINT32 Reserved : 26;
    };
    UINT32 AsUINT32;
} WHV_X64_IO_PORT_ACCESS_INFO;
C_ASSERT(sizeof(WHV_X64_IO_PORT_ACCESS_INFO) == 4);

/* IN, OUT, INS or OUTS. Nothing of it has happened and RIP is at it. */
typedef struct WHV_X64_IO_PORT_ACCESS_CONTEXT {
    UINT8  InstructionByteCount;           /* 0 to 16: how many of the following are valid */
    UINT8  Reserved[3];
    UINT8  InstructionBytes[16];
    WHV_X64_IO_PORT_ACCESS_INFO AccessInfo;
    UINT16 PortNumber;
    UINT16 Reserved2[3];
    UINT64 Rax;
    UINT64 Rcx;
    UINT64 Rsi;
    UINT64 Rdi;
    WHV_X64_SEGMENT_REGISTER Ds;           /* of OUTS: the segment of its source */
    WHV_X64_SEGMENT_REGISTER Es;           /* of INS: the segment of its destination */
} WHV_X64_IO_PORT_ACCESS_CONTEXT;
C_ASSERT(sizeof(WHV_X64_IO_PORT_ACCESS_CONTEXT) == 96);

typedef union WHV_X64_MSR_ACCESS_INFO {
    struct {
        UINT32 IsWrite : 1;                /* bit 0: WRMSR */
        UINT32 Reserved : 31;
    };
    UINT32 AsUINT32;
} WHV_X64_MSR_ACCESS_INFO;
C_ASSERT(sizeof(WHV_X64_MSR_ACCESS_INFO) == 4);

/* RDMSR or WRMSR; RIP is at it. */
typedef struct WHV_X64_MSR_ACCESS_CONTEXT {
    WHV_X64_MSR_ACCESS_INFO AccessInfo;
    UINT32 MsrNumber;                      /* ECX */
    UINT64 Rax;                            /* WRMSR: low half of the value */
    UINT64 Rdx;                            /* WRMSR: high half */
} WHV_X64_MSR_ACCESS_CONTEXT;
C_ASSERT(sizeof(WHV_X64_MSR_ACCESS_CONTEXT) == 24);

/* CPUID; RIP is at it. */
typedef struct WHV_X64_CPUID_ACCESS_CONTEXT {
    UINT64 Rax;                            /* the function */
    UINT64 Rcx;                            /* the sub-leaf */
    UINT64 Rdx;
    UINT64 Rbx;
    UINT64 DefaultResultRax;               /* what the platform would have answered */
    UINT64 DefaultResultRcx;
    UINT64 DefaultResultRdx;
    UINT64 DefaultResultRbx;
} WHV_X64_CPUID_ACCESS_CONTEXT;
C_ASSERT(sizeof(WHV_X64_CPUID_ACCESS_CONTEXT) == 64);

typedef union WHV_VP_EXCEPTION_INFO {
    struct {
        UINT32 ErrorCodeValid : 1;         /* bit 0 */
        UINT32 SoftwareException : 1;      /* bit 1: INT3, INTO or INT1 raised it */
        UINT32 Reserved : 30;
    };
    UINT32 AsUINT32;
} WHV_VP_EXCEPTION_INFO;
C_ASSERT(sizeof(WHV_VP_EXCEPTION_INFO) == 4);

/* An exception, before the guest sees anything of it: CR2 and DR6 are unchanged. */
typedef struct WHV_VP_EXCEPTION_CONTEXT {
    UINT8  InstructionByteCount;           /* 0 to 16: how many of the following are valid */
    UINT8  Reserved[3];
    UINT8  InstructionBytes[16];
    WHV_VP_EXCEPTION_INFO ExceptionInfo;
    UINT8  ExceptionType;                  /* a WHV_EXCEPTION_TYPE */
    UINT8  Reserved2[3];
    UINT32 ErrorCode;
    UINT64 ExceptionParameter;             /* #PF: the address for CR2; #DB: bits for DR6 */
} WHV_VP_EXCEPTION_CONTEXT;
C_ASSERT(sizeof(WHV_VP_EXCEPTION_CONTEXT) == 40);

typedef enum WHV_X64_UNSUPPORTED_FEATURE_CODE {
    WHvUnsupportedFeatureIntercept     = 1, /* FeatureParameter: the intercept */
    WHvUnsupportedFeatureTaskSwitchTss = 2  /* FeatureParameter: selector of the TSS */
} WHV_X64_UNSUPPORTED_FEATURE_CODE;

/* The guest did something that no processor of this platform does. */
typedef struct WHV_X64_UNSUPPORTED_FEATURE_CONTEXT {
    WHV_X64_UNSUPPORTED_FEATURE_CODE FeatureCode;
    UINT32 Reserved;
    UINT64 FeatureParameter;
} WHV_X64_UNSUPPORTED_FEATURE_CONTEXT;
C_ASSERT(sizeof(WHV_X64_UNSUPPORTED_FEATURE_CONTEXT) == 16);

typedef enum WHV_RUN_VP_CANCEL_REASON {
    WHvRunVpCancelReasonUser = 0           /* WHvCancelRunVirtualProcessor */
} WHV_RUN_VP_CANCEL_REASON;

/* The name with which the first Windows headers spelled it. */
#define WhvRunVpCancelReasonUser WHvRunVpCancelReasonUser

typedef struct WHV_RUN_VP_CANCELED_CONTEXT {
    WHV_RUN_VP_CANCEL_REASON CancelReason;
} WHV_RUN_VP_CANCELED_CONTEXT;
C_ASSERT(sizeof(WHV_RUN_VP_CANCELED_CONTEXT) == 4);

/* Kinds of event: of a pending interruption, of an interrupt window. */
typedef enum WHV_X64_PENDING_INTERRUPTION_TYPE {
    WHvX64PendingInterrupt = 0,
    WHvX64PendingNmi       = 2,
    WHvX64PendingException = 3
} WHV_X64_PENDING_INTERRUPTION_TYPE;
typedef WHV_X64_PENDING_INTERRUPTION_TYPE *PWHV_X64_PENDING_INTERRUPTION_TYPE;

/* The processor can take an event of this kind now. */
typedef struct WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT {
    WHV_X64_PENDING_INTERRUPTION_TYPE DeliverableType;
} WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT;
C_ASSERT(sizeof(WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT) == 4);
typedef WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT *PWHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT;

/* The guest ended a level-triggered interrupt: an IOAPIC may raise it again. */
typedef struct WHV_X64_APIC_EOI_CONTEXT {
    UINT32 InterruptVector;
} WHV_X64_APIC_EOI_CONTEXT;
C_ASSERT(sizeof(WHV_X64_APIC_EOI_CONTEXT) == 4);

typedef union WHV_X64_RDTSC_INFO {
    struct {
        UINT64 IsRdtscp : 1;               /* bit 0: RDTSCP, not RDTSC */
        UINT64 Reserved : 63;
    };
    UINT64 AsUINT64;
} WHV_X64_RDTSC_INFO;
C_ASSERT(sizeof(WHV_X64_RDTSC_INFO) == 8);

/* RDTSC or RDTSCP; RIP is at it. */
typedef struct WHV_X64_RDTSC_CONTEXT {
    UINT64 TscAux;                         /* what RDTSCP gives in ECX */
    UINT64 VirtualOffset;                  /* guest TSC minus host TSC */
    UINT64 Tsc;                            /* what the guest would have read */
    UINT64 ReferenceTime;                  /* of the partition, 100 ns */
    WHV_X64_RDTSC_INFO RdtscInfo;
} WHV_X64_RDTSC_CONTEXT;
C_ASSERT(sizeof(WHV_X64_RDTSC_CONTEXT) == 40);

/* An SMI was sent. */
typedef struct WHV_X64_APIC_SMI_CONTEXT {
    UINT64 ApicIcr;                        /* interrupt command register as written */
} WHV_X64_APIC_SMI_CONTEXT;
C_ASSERT(sizeof(WHV_X64_APIC_SMI_CONTEXT) == 8);

#define WHV_HYPERCALL_CONTEXT_MAX_XMM_REGISTERS 6

/* VMCALL or VMMCALL: the registers that may carry its arguments. */
typedef struct DECLSPEC_ALIGN(16) WHV_X64_HYPERCALL_CONTEXT {
    UINT64 Rax;
    UINT64 Rbx;
    UINT64 Rcx;
    UINT64 Rdx;
    UINT64 R8;
    UINT64 Rsi;
    UINT64 Rdi;
    UINT64 Reserved0;
    WHV_UINT128 XmmRegisters[WHV_HYPERCALL_CONTEXT_MAX_XMM_REGISTERS];
    UINT64 Reserved1[2];
} WHV_X64_HYPERCALL_CONTEXT, WHV_HYPERCALL_CONTEXT;
C_ASSERT(sizeof(WHV_X64_HYPERCALL_CONTEXT) == 176);

/* An INIT or start-up IPI was sent. */
typedef struct WHV_X64_APIC_INIT_SIPI_CONTEXT {
    UINT64 ApicIcr;                        /* interrupt command register as written */
} WHV_X64_APIC_INIT_SIPI_CONTEXT;
C_ASSERT(sizeof(WHV_X64_APIC_INIT_SIPI_CONTEXT) == 8);

/* An APIC register, by its offset in the APIC page. */
typedef enum WHV_X64_APIC_WRITE_TYPE {
    WHvX64ApicWriteTypeLdr   = 0x0D0,
    WHvX64ApicWriteTypeDfr   = 0x0E0,
    WHvX64ApicWriteTypeSvr   = 0x0F0,
    WHvX64ApicWriteTypeLint0 = 0x350,
    WHvX64ApicWriteTypeLint1 = 0x360
} WHV_X64_APIC_WRITE_TYPE;

/* The guest wrote an APIC register: the write is done and RIP is after the instruction. */
typedef struct WHV_X64_APIC_WRITE_CONTEXT {
    WHV_X64_APIC_WRITE_TYPE Type;
    UINT32 Reserved;
    UINT64 WriteValue;
} WHV_X64_APIC_WRITE_CONTEXT;
C_ASSERT(sizeof(WHV_X64_APIC_WRITE_CONTEXT) == 16);

/* What WHvRunVirtualProcessor fills in. */
typedef struct DECLSPEC_ALIGN(16) WHV_RUN_VP_EXIT_CONTEXT {
    WHV_RUN_VP_EXIT_REASON ExitReason;
    UINT32 Reserved;
    WHV_VP_EXIT_CONTEXT VpContext;
    union {                                /* by ExitReason; bytes past its member are undefined */
        WHV_MEMORY_ACCESS_CONTEXT                MemoryAccess;
        WHV_RUN_VP_CANCELED_CONTEXT              CancelReason;
        WHV_HYPERCALL_CONTEXT                    Hypercall;
        WHV_SYNIC_SINT_DELIVERABLE_CONTEXT       SynicSintDeliverable;
        WHV_X64_IO_PORT_ACCESS_CONTEXT           IoPortAccess;
        WHV_X64_MSR_ACCESS_CONTEXT               MsrAccess;
        WHV_X64_CPUID_ACCESS_CONTEXT             CpuidAccess;
        WHV_VP_EXCEPTION_CONTEXT                 VpException;
        WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT InterruptWindow;
        WHV_X64_UNSUPPORTED_FEATURE_CONTEXT      UnsupportedFeature;
        WHV_X64_APIC_EOI_CONTEXT                 ApicEoi;
        WHV_X64_RDTSC_CONTEXT                    ReadTsc;
        WHV_X64_APIC_SMI_CONTEXT                 ApicSmi;
        WHV_X64_APIC_INIT_SIPI_CONTEXT           ApicInitSipi;
        WHV_X64_APIC_WRITE_CONTEXT               ApicWrite;
        UINT64                                   AsUINT64[22];
    };
} WHV_RUN_VP_EXIT_CONTEXT;
C_ASSERT(sizeof(WHV_RUN_VP_EXIT_CONTEXT) == 224);

/* ========================================================================================== */
/* Interrupts and doorbells                                                                   */
/* ========================================================================================== */

/* Delivery modes of an interrupt message, with the values of the local APIC. */
typedef enum WHV_INTERRUPT_TYPE {
    WHvX64InterruptTypeFixed          = 0,
    WHvX64InterruptTypeLowestPriority = 1,
    WHvX64InterruptTypeNmi            = 4,
    WHvX64InterruptTypeInit           = 5,
    WHvX64InterruptTypeSipi           = 6,
    WHvX64InterruptTypeLocalInt1      = 9  /* the LINT1 pin */
} WHV_INTERRUPT_TYPE;

typedef enum WHV_INTERRUPT_DESTINATION_MODE {
    WHvX64InterruptDestinationModePhysical = 0, /* Destination is an APIC id */
    WHvX64InterruptDestinationModeLogical  = 1  /* ... matched with the logical ids (LDR, DFR) */
} WHV_INTERRUPT_DESTINATION_MODE;

typedef enum WHV_INTERRUPT_TRIGGER_MODE {
    WHvX64InterruptTriggerModeEdge  = 0,
    WHvX64InterruptTriggerModeLevel = 1    /* its end exits as X64ApicEoi */
} WHV_INTERRUPT_TRIGGER_MODE;

/* An interrupt message for WHvRequestInterrupt. */
typedef struct WHV_INTERRUPT_CONTROL {
    UINT64 Type : 8;                       /* bits 0-7: a WHV_INTERRUPT_TYPE */
    UINT64 DestinationMode : 4;            /* bits 8-11 */
    UINT64 TriggerMode : 4;                /* bits 12-15 */
    UINT64 TargetVtl : 8;                  /* bits 16-23: 0 */
    UINT64 Reserved : 40;
    UINT32 Destination;                    /* APIC id, or set of logical ids */
    UINT32 Vector;                         /* 16 to 255 for fixed and lowest priority */
} WHV_INTERRUPT_CONTROL;
C_ASSERT(sizeof(WHV_INTERRUPT_CONTROL) == 16);

/* Which guest writes ring a doorbell. */
typedef struct WHV_DOORBELL_MATCH_DATA {
    WHV_GUEST_PHYSICAL_ADDRESS GuestAddress;
    UINT64 Value;
    UINT32 Length;                         /* bytes: 1, 2, 4 or 8; 0: any */
    UINT32 MatchOnValue : 1;               /* bit 0: only a write of Value */
    UINT32 MatchOnLength : 1;              /* bit 1: only a write of Length bytes */
    UINT32 Reserved : 30;
} WHV_DOORBELL_MATCH_DATA;
C_ASSERT(sizeof(WHV_DOORBELL_MATCH_DATA) == 24);

/* ========================================================================================== */
/* Counters                                                                                   */
/* ========================================================================================== */

typedef enum WHV_PARTITION_COUNTER_SET {
    WHvPartitionCounterSetMemory = 0       /* WHV_PARTITION_MEMORY_COUNTERS */
} WHV_PARTITION_COUNTER_SET;

/* Mapped guest memory by the size of page that it is mapped with. */
typedef struct WHV_PARTITION_MEMORY_COUNTERS {
    UINT64 Mapped4KPageCount;
    UINT64 Mapped2MPageCount;
    UINT64 Mapped1GPageCount;
} WHV_PARTITION_MEMORY_COUNTERS;
C_ASSERT(sizeof(WHV_PARTITION_MEMORY_COUNTERS) == 24);

typedef enum WHV_PROCESSOR_COUNTER_SET {
    WHvProcessorCounterSetRuntime           = 0, /* WHV_PROCESSOR_RUNTIME_COUNTERS */
    WHvProcessorCounterSetIntercepts        = 1, /* WHV_PROCESSOR_ACTIVITY_COUNTERS */
    WHvProcessorCounterSetEvents            = 2, /* WHV_PROCESSOR_GUEST_EVENT_COUNTERS */
    WHvProcessorCounterSetApic              = 3, /* WHV_PROCESSOR_APIC_COUNTERS */
    WHvProcessorCounterSetSyntheticFeatures = 4  /* WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS */
} WHV_PROCESSOR_COUNTER_SET;

/* Time that a processor took, 100 ns: in runs, but not asleep in them. Also of a processor that runs now. */
typedef struct WHV_PROCESSOR_RUNTIME_COUNTERS {
    UINT64 TotalRuntime100ns;
    UINT64 HypervisorRuntime100ns;         /* of it, outside the guest; 0: not told apart */
} WHV_PROCESSOR_RUNTIME_COUNTERS;
C_ASSERT(sizeof(WHV_PROCESSOR_RUNTIME_COUNTERS) == 16);

/* How often something happened, and the time it took, 100 ns (0: not taken). */
typedef struct WHV_PROCESSOR_INTERCEPT_COUNTER {
    UINT64 Count;
    UINT64 Time100ns;
} WHV_PROCESSOR_INTERCEPT_COUNTER;
C_ASSERT(sizeof(WHV_PROCESSOR_INTERCEPT_COUNTER) == 16);
typedef WHV_PROCESSOR_INTERCEPT_COUNTER *PWHV_PROCESSOR_INTERCEPT_COUNTER;

/* What of the guest the platform had to do by hand. On the soft engine instructions count when they are allowed, whether or
   not they exit. */
typedef struct WHV_PROCESSOR_ACTIVITY_COUNTERS {
    WHV_PROCESSOR_INTERCEPT_COUNTER PageInvalidations;         /* INVLPG, INVPCID */
    WHV_PROCESSOR_INTERCEPT_COUNTER ControlRegisterAccesses;   /* MOV CR, LMSW, CLTS */
    WHV_PROCESSOR_INTERCEPT_COUNTER IoInstructions;            /* exits IoPortAccess */
    WHV_PROCESSOR_INTERCEPT_COUNTER HaltInstructions;
    WHV_PROCESSOR_INTERCEPT_COUNTER CpuidInstructions;
    WHV_PROCESSOR_INTERCEPT_COUNTER MsrAccesses;               /* RDMSR, WRMSR */
    WHV_PROCESSOR_INTERCEPT_COUNTER OtherIntercepts;           /* exits Rdtsc, and Exception but #PF */
    WHV_PROCESSOR_INTERCEPT_COUNTER PendingInterrupts;         /* exits InterruptWindow */
    WHV_PROCESSOR_INTERCEPT_COUNTER EmulatedInstructions;      /* accesses to the APIC's page */
    WHV_PROCESSOR_INTERCEPT_COUNTER DebugRegisterAccesses;     /* MOV DR */
    WHV_PROCESSOR_INTERCEPT_COUNTER PageFaultIntercepts;       /* exits Exception, #PF */
    WHV_PROCESSOR_INTERCEPT_COUNTER NestedPageFaultIntercepts; /* exits MemoryAccess */
    WHV_PROCESSOR_INTERCEPT_COUNTER Hypercalls;                /* exits Hypercall */
    WHV_PROCESSOR_INTERCEPT_COUNTER RdpmcInstructions;
} WHV_PROCESSOR_ACTIVITY_COUNTERS;
C_ASSERT(sizeof(WHV_PROCESSOR_ACTIVITY_COUNTERS) == 224);

/* Events that the guest saw; those that exited to the client are not among them. */
typedef struct WHV_PROCESSOR_GUEST_EVENT_COUNTERS {
    UINT64 PageFaultCount;
    UINT64 ExceptionCount;
    UINT64 InterruptCount;
} WHV_PROCESSOR_GUEST_EVENT_COUNTERS;
C_ASSERT(sizeof(WHV_PROCESSOR_GUEST_EVENT_COUNTERS) == 24);

/* What the guest did with its local APIC. Accesses of the client do not count; IPIs to itself are among the sent ones. */
typedef struct WHV_PROCESSOR_APIC_COUNTERS {
    UINT64 MmioAccessCount;
    UINT64 EoiAccessCount;
    UINT64 TprAccessCount;
    UINT64 SentIpiCount;
    UINT64 SelfIpiCount;
} WHV_PROCESSOR_APIC_COUNTERS;
C_ASSERT(sizeof(WHV_PROCESSOR_APIC_COUNTERS) == 40);

/* What the guest did with the Hyper-V interface. */
typedef struct WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS {
    UINT64 SyntheticInterruptsCount;
    UINT64 LongSpinWaitHypercallsCount;
    UINT64 OtherHypercallsCount;
    UINT64 SyntheticInterruptHypercallsCount;
    UINT64 VirtualInterruptHypercallsCount;
    UINT64 VirtualMmuHypercallsCount;
} WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS;
C_ASSERT(sizeof(WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS) == 48);

/* ========================================================================================== */
/* Processor state in bulk                                                                    */
/* ========================================================================================== */

/* A type with this bit is a list of page numbers in the guest rather than state. */
#define WHV_VIRTUAL_PROCESSOR_STATE_TYPE_PFN (1u << 31)
/* A type with this bit belongs to the partition: the processor index is WHV_ANY_VP. */
#define WHV_VIRTUAL_PROCESSOR_STATE_TYPE_ANY_VP (1u << 30)

/* What WHvGet/SetVirtualProcessorState moves. */
typedef enum WHV_VIRTUAL_PROCESSOR_STATE_TYPE {
    WHvVirtualProcessorStateTypeSynicMessagePage          = 0x00000000, /* 4096 bytes */
    WHvVirtualProcessorStateTypeSynicEventFlagPage        = 0x00000001, /* 4096 bytes */
    WHvVirtualProcessorStateTypeSynicTimerState           = 0x00000002,
    WHvVirtualProcessorStateTypeInterruptControllerState2 = 0x00001000, /* the APIC page */
    WHvVirtualProcessorStateTypeXsaveState                = 0x00001001, /* an XSAVE image */
    WHvVirtualProcessorStateTypeNestedState               = 0x00001002  /* WHV_X64_NESTED_STATE */
} WHV_VIRTUAL_PROCESSOR_STATE_TYPE;

typedef enum WHV_NESTED_STATE_TYPE {
    WHvNestedStateTypeVmx = 0,
    WHvNestedStateTypeSvm = 1
} WHV_NESTED_STATE_TYPE;

/* Which conveniences a nested hypervisor has turned on. */
typedef struct WHV_NESTED_ENLIGHTENMENTS_CONTROL {
    union {
        UINT32 AsUINT32;
        struct {
            UINT32 DirectHypercall : 1;    /* bit 0: its guest's hypercalls come to us directly */
            UINT32 VirtualizationException : 1; /* bit 1 */
            UINT32 Reserved : 30;
        };
    } Features;
    union {
        UINT32 AsUINT32;
        struct {
            UINT32 InterPartitionCommunication : 1; /* bit 0 */
            UINT32 Reserved : 31;
        };
    } HypercallControls;
} WHV_NESTED_ENLIGHTENMENTS_CONTROL;
C_ASSERT(sizeof(WHV_NESTED_ENLIGHTENMENTS_CONTROL) == 8);

/* Nested virtualization on an Intel processor. Aligned to a page. */
typedef struct DECLSPEC_ALIGN(4096) WHV_X64_VMX_NESTED_STATE {
    WHV_NESTED_STATE_TYPE Vendor;          /* WHvNestedStateTypeVmx */
    struct {
        UINT32 GuestMode : 1;              /* bit 0: the guest's guest runs */
        UINT32 Vmxon : 1;                  /* bit 1: VMXON was executed */
        UINT32 CurrentVmcsValid : 1;       /* bit 2: VmcsGpa and VmcsBytes count */
        UINT32 VmEntryPending : 1;         /* bit 3 */
        UINT32 VmcsEnlightened : 1;        /* bit 4: CurrentEnlightenedVmcs counts */
        UINT32 EnlightenedVmEntry : 1;     /* bit 5 */
        UINT32 Reserved : 26;
    } Flags;
    WHV_NESTED_ENLIGHTENMENTS_CONTROL NestedEnlightenmentsControl;
    UINT64 Pdpt[4];                        /* PAE page directory pointers */
    UINT64 VmxonRegionGpa;
    UINT64 VmcsGpa;
    UINT64 CurrentEnlightenedVmcs;
    struct {                               /* of the virtual-APIC page */
        UINT32 Tpr;
        UINT32 Ppr;
        UINT32 Isr[8];
        UINT32 Irr[8];
        UINT32 IcrLow;
        UINT32 IcrHigh;
    } VirtualApicRegs;
    UINT8 Reserved[3944];
    UINT8 VmcsBytes[4096];
} WHV_X64_VMX_NESTED_STATE;
C_ASSERT(sizeof(WHV_X64_VMX_NESTED_STATE) == 8192);

/* A segment as AMD's VMCB stores it. Not aligned. */
#pragma pack(push, 1)
typedef struct WHV_SVM_VMCB_SELECTOR {
    UINT16 Selector;
    UINT16 Attrib;
    UINT32 Limit;
    UINT64 Base;
} WHV_SVM_VMCB_SELECTOR;
#pragma pack(pop)
C_ASSERT(sizeof(WHV_SVM_VMCB_SELECTOR) == 16);

/* What a nested AMD hypervisor returns to when its guest exits. */
typedef struct WHV_SVM_NESTED_HOST_STATE {
    UINT64 Rip;
    UINT64 Rsp;
    UINT64 Rflags;
    UINT64 Rax;
    WHV_SVM_VMCB_SELECTOR Es;
    WHV_SVM_VMCB_SELECTOR Cs;
    WHV_SVM_VMCB_SELECTOR Ss;
    WHV_SVM_VMCB_SELECTOR Ds;
    WHV_SVM_VMCB_SELECTOR Gdtr;
    WHV_SVM_VMCB_SELECTOR Idtr;
    UINT64 Efer;
    UINT64 Cr0;
    UINT64 Cr3;
    UINT64 Cr4;
    UINT64 VirtualTpr;
    UINT64 Reserved[6];
} WHV_SVM_NESTED_HOST_STATE;
C_ASSERT(sizeof(WHV_SVM_NESTED_HOST_STATE) == 216);

/* Nested virtualization on an AMD processor. Aligned to a page. */
typedef struct DECLSPEC_ALIGN(4096) WHV_X64_SVM_NESTED_STATE {
    WHV_NESTED_STATE_TYPE Vendor;          /* WHvNestedStateTypeSvm */
    struct {
        UINT32 GuestMode : 1;              /* bit 0: the guest's guest runs */
        UINT32 VmEntryPending : 1;         /* bit 1 */
        UINT32 HostSaveGpaValid : 1;       /* bit 2: HostSaveGpa counts */
        UINT32 CurrentVmcbValid : 1;       /* bit 3: VmcbGpa and VmcbBytes count */
        UINT32 Reserved : 28;
    } Flags;
    WHV_NESTED_ENLIGHTENMENTS_CONTROL NestedEnlightenmentsControl;
    UINT64 HostSaveGpa;                    /* VM_HSAVE_PA */
    UINT64 VmControlMsr;                   /* VM_CR */
    UINT64 VirtualTscRatioMsr;
    UINT64 VmcbGpa;
    WHV_SVM_NESTED_HOST_STATE HostState;
    UINT8 Reserved[3832];
    UINT8 VmcbBytes[4096];
} WHV_X64_SVM_NESTED_STATE;
C_ASSERT(sizeof(WHV_X64_SVM_NESTED_STATE) == 8192);

typedef union WHV_X64_NESTED_STATE {
    WHV_X64_VMX_NESTED_STATE Vmx;
    WHV_X64_SVM_NESTED_STATE Svm;
} WHV_X64_NESTED_STATE;
C_ASSERT(sizeof(WHV_X64_NESTED_STATE) == 8192);

/* ========================================================================================== */
/* Synthetic interrupt controller                                                             */
/* ========================================================================================== */

/* The most bytes of one message. */
#define WHV_SYNIC_MESSAGE_SIZE 256

/* Which event flag of which processor. Passed by value. */
typedef struct WHV_SYNIC_EVENT_PARAMETERS {
    UINT32  VpIndex;
    UINT8   TargetSint;                    /* source, 0 to 15 */
    WHV_VTL TargetVtl;                     /* 0 */
    UINT16  FlagNumber;                    /* 0 to 2047 */
} WHV_SYNIC_EVENT_PARAMETERS;
C_ASSERT(sizeof(WHV_SYNIC_EVENT_PARAMETERS) == 8);

/* ========================================================================================== */
/* Device assignment                                                                          */
/* ========================================================================================== */

typedef enum WHV_ALLOCATE_VPCI_RESOURCE_FLAGS {
    WHvAllocateVpciResourceFlagNone           = 0x00000000,
    WHvAllocateVpciResourceFlagAllowDirectP2P = 0x00000001 /* devices may address each other */
} WHV_ALLOCATE_VPCI_RESOURCE_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_ALLOCATE_VPCI_RESOURCE_FLAGS)

#define WHV_MAX_DEVICE_ID_SIZE_IN_CHARS 200

/* A virtual function of a network or other adapter. */
typedef struct WHV_SRIOV_RESOURCE_DESCRIPTOR {
    WCHAR  PnpInstanceId[WHV_MAX_DEVICE_ID_SIZE_IN_CHARS]; /* of the adapter, 0-terminated */
    LUID   VirtualFunctionId;
    UINT16 VirtualFunctionIndex;
    UINT16 Reserved;
} WHV_SRIOV_RESOURCE_DESCRIPTOR;
C_ASSERT(sizeof(WHV_SRIOV_RESOURCE_DESCRIPTOR) == 412);

typedef enum WHV_VPCI_DEVICE_NOTIFICATION_TYPE {
    WHvVpciDeviceNotificationUndefined       = 0,
    WHvVpciDeviceNotificationMmioRemapping   = 1, /* ask for the MMIO mappings again */
    WHvVpciDeviceNotificationSurpriseRemoval = 2
} WHV_VPCI_DEVICE_NOTIFICATION_TYPE;

typedef struct WHV_VPCI_DEVICE_NOTIFICATION {
    WHV_VPCI_DEVICE_NOTIFICATION_TYPE NotificationType;
    UINT32 Reserved1;
    union {
        UINT64 Reserved2;
    };
} WHV_VPCI_DEVICE_NOTIFICATION;
C_ASSERT(sizeof(WHV_VPCI_DEVICE_NOTIFICATION) == 16);

typedef enum WHV_CREATE_VPCI_DEVICE_FLAGS {
    WHvCreateVpciDeviceFlagNone                 = 0x00000000,
    WHvCreateVpciDeviceFlagPhysicallyBacked     = 0x00000001,
    WHvCreateVpciDeviceFlagUseLogicalInterrupts = 0x00000002
} WHV_CREATE_VPCI_DEVICE_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_CREATE_VPCI_DEVICE_FLAGS)

typedef enum WHV_VPCI_DEVICE_PROPERTY_CODE {
    WHvVpciDevicePropertyCodeUndefined   = 0,
    WHvVpciDevicePropertyCodeHardwareIDs = 1, /* WHV_VPCI_HARDWARE_IDS */
    WHvVpciDevicePropertyCodeProbedBARs  = 2  /* WHV_VPCI_PROBED_BARS */
} WHV_VPCI_DEVICE_PROPERTY_CODE;

/* Identification of a PCI function, as in its configuration space. */
typedef struct WHV_VPCI_HARDWARE_IDS {
    UINT16 VendorID;
    UINT16 DeviceID;
    UINT8  RevisionID;
    UINT8  ProgIf;
    UINT8  SubClass;
    UINT8  BaseClass;
    UINT16 SubVendorID;
    UINT16 SubSystemID;
} WHV_VPCI_HARDWARE_IDS;
C_ASSERT(sizeof(WHV_VPCI_HARDWARE_IDS) == 12);

#define WHV_VPCI_TYPE0_BAR_COUNT 6

/* What each base address register reads after all ones were written to it. */
typedef struct WHV_VPCI_PROBED_BARS {
    UINT32 Value[WHV_VPCI_TYPE0_BAR_COUNT];
} WHV_VPCI_PROBED_BARS;
C_ASSERT(sizeof(WHV_VPCI_PROBED_BARS) == 24);

typedef enum WHV_VPCI_MMIO_RANGE_FLAGS {
    WHvVpciMmioRangeFlagReadAccess  = 0x00000001,
    WHvVpciMmioRangeFlagWriteAccess = 0x00000002
} WHV_VPCI_MMIO_RANGE_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_VPCI_MMIO_RANGE_FLAGS)

/* Configuration space, or the memory behind a base address register. */
typedef enum WHV_VPCI_DEVICE_REGISTER_SPACE {
    WHvVpciConfigSpace = -1,
    WHvVpciBar0        = 0,
    WHvVpciBar1        = 1,
    WHvVpciBar2        = 2,
    WHvVpciBar3        = 3,
    WHvVpciBar4        = 4,
    WHvVpciBar5        = 5
} WHV_VPCI_DEVICE_REGISTER_SPACE;

/* A part of a device's memory that this process can reach at VirtualAddress. */
typedef struct WHV_VPCI_MMIO_MAPPING {
    WHV_VPCI_DEVICE_REGISTER_SPACE Location;
    WHV_VPCI_MMIO_RANGE_FLAGS Flags;
    UINT64 SizeInBytes;
    UINT64 OffsetInBytes;                  /* in Location */
    PVOID  VirtualAddress;
} WHV_VPCI_MMIO_MAPPING;
C_ASSERT(sizeof(WHV_VPCI_MMIO_MAPPING) == 32);

/* One register of a device. */
typedef struct WHV_VPCI_DEVICE_REGISTER {
    WHV_VPCI_DEVICE_REGISTER_SPACE Location;
    UINT32 SizeInBytes;
    UINT64 OffsetInBytes;                  /* in Location */
} WHV_VPCI_DEVICE_REGISTER;
C_ASSERT(sizeof(WHV_VPCI_DEVICE_REGISTER) == 16);

typedef enum WHV_VPCI_INTERRUPT_TARGET_FLAGS {
    WHvVpciInterruptTargetFlagNone      = 0x00000000,
    WHvVpciInterruptTargetFlagMulticast = 0x00000001 /* to all Processors, not to one of them */
} WHV_VPCI_INTERRUPT_TARGET_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_VPCI_INTERRUPT_TARGET_FLAGS)

/* Where a device interrupt goes. Processors has ProcessorCount entries. */
typedef struct WHV_VPCI_INTERRUPT_TARGET {
    UINT32 Vector;
    WHV_VPCI_INTERRUPT_TARGET_FLAGS Flags;
    UINT32 ProcessorCount;
    UINT32 Processors[1];                  /* processor indices */
} WHV_VPCI_INTERRUPT_TARGET;
C_ASSERT(sizeof(WHV_VPCI_INTERRUPT_TARGET) == 16);

/* ========================================================================================== */
/* Triggers, processor properties, notification ports                                         */
/* ========================================================================================== */

/* What happens when a trigger's event is signalled. */
typedef enum WHV_TRIGGER_TYPE {
    WHvTriggerTypeInterrupt       = 0,
    WHvTriggerTypeSynicEvent      = 1,
    WHvTriggerTypeDeviceInterrupt = 2
} WHV_TRIGGER_TYPE;

typedef struct WHV_TRIGGER_PARAMETERS {
    WHV_TRIGGER_TYPE TriggerType;
    UINT32 Reserved;
    union {                                /* by TriggerType */
        WHV_INTERRUPT_CONTROL      Interrupt;
        WHV_SYNIC_EVENT_PARAMETERS SynicEvent;
        struct {
            UINT64 LogicalDeviceId;
            UINT64 MsiAddress;
            UINT32 MsiData;
            UINT32 Reserved;
        } DeviceInterrupt;
    };
} WHV_TRIGGER_PARAMETERS;
C_ASSERT(sizeof(WHV_TRIGGER_PARAMETERS) == 32);

typedef VOID *WHV_TRIGGER_HANDLE;

typedef enum WHV_VIRTUAL_PROCESSOR_PROPERTY_CODE {
    WHvVirtualProcessorPropertyCodeNumaNode = 0
} WHV_VIRTUAL_PROCESSOR_PROPERTY_CODE;

/* A property that a processor is created with. */
typedef struct WHV_VIRTUAL_PROCESSOR_PROPERTY {
    WHV_VIRTUAL_PROCESSOR_PROPERTY_CODE PropertyCode;
    UINT32 Reserved;
    union {
        UINT16 NumaNode;                   /* node of the host whose processors run it */
        UINT64 Padding;
    };
} WHV_VIRTUAL_PROCESSOR_PROPERTY;
C_ASSERT(sizeof(WHV_VIRTUAL_PROCESSOR_PROPERTY) == 16);

typedef enum WHV_NOTIFICATION_PORT_TYPE {
    WHvNotificationPortTypeEvent    = 2,   /* the guest signals an event by hypercall */
    WHvNotificationPortTypeDoorbell = 4    /* the guest writes to an address */
} WHV_NOTIFICATION_PORT_TYPE;

typedef struct WHV_NOTIFICATION_PORT_PARAMETERS {
    WHV_NOTIFICATION_PORT_TYPE NotificationPortType;
    UINT16  Reserved;
    UINT8   Reserved1;
    WHV_VTL ConnectionVtl;                 /* 0 */
    union {                                /* by NotificationPortType */
        WHV_DOORBELL_MATCH_DATA Doorbell;
        struct {
            UINT32 ConnectionId;
        } Event;
    };
} WHV_NOTIFICATION_PORT_PARAMETERS;
C_ASSERT(sizeof(WHV_NOTIFICATION_PORT_PARAMETERS) == 32);

typedef enum WHV_NOTIFICATION_PORT_PROPERTY_CODE {
    WHvNotificationPortPropertyPreferredTargetVp       = 1, /* a processor index or WHV_ANY_VP */
    WHvNotificationPortPropertyPreferredTargetDuration = 5  /* how long it is preferred, 100 ns */
} WHV_NOTIFICATION_PORT_PROPERTY_CODE;

typedef UINT64 WHV_NOTIFICATION_PORT_PROPERTY;

/* A preferred target for ever. */
#define WHV_NOTIFICATION_PORT_PREFERRED_DURATION_MAX (0xFFFFFFFFFFFFFFFFull)

typedef VOID *WHV_NOTIFICATION_PORT_HANDLE;

/* clang-format on */

#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

#ifdef __cplusplus
}
#endif

#endif
