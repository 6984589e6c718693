/* What the guest of machine_memory.c executes: bytes and their assembly (numbers in hex). */
#ifndef MACHINE_MEMORY_GUEST_H
#define MACHINE_MEMORY_GUEST_H

#include <windows.h>

/* clang-format off */

static const UINT8 rom_code[] = {                           /* at F000:FFA0                     */
    0, 0, 0, 0, 0, 0, 0, 0,                                 /* A0 gdt:   null                   */
    0xFF, 0xFF, 0, 0, 0, 0x9B, 0xCF, 0,                     /* A8        08: flat code, 32 bits */
    0xFF, 0xFF, 0, 0, 0, 0x93, 0xCF, 0,                     /* B0        10: flat data          */
    0x17, 0, 0xA0, 0xFF, 0x0F, 0, 0, 0,                     /* B8 gdtr:  limit 17, base FFFA0   */
    0x2E, 0x66, 0x0F, 0x01, 0x16, 0xB8, 0xFF,               /* C0 start: o32 lgdt [cs:gdtr]     */
    0x0F, 0x20, 0xC0,                                       /* C7        mov eax, cr0           */
    0x0C, 0x01,                                             /* CA        or al, 1               */
    0x0F, 0x22, 0xC0,                                       /* CC        mov cr0, eax           */
    0x66, 0xEA, 0, 0, 0x10, 0, 8, 0,                        /* CF        jmp dword 8:100000     */
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,               /* D7                               */
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0xEA, 0xC0, 0xFF, 0x00, 0xF0,                           /* F0 reset: jmp F000:start         */
};
static const UINT8 image[] = {                              /* at 100000                        */
    0x66, 0xB8, 0x10, 0, 0x8E, 0xD8,                        /* mov ax, 10; mov ds, ax           */
    0xC7, 0x05, 0, 0xF0, 0x09, 0, 0x0D, 0x0C, 0x0B, 0x0A,   /* mov dword [9F000], A0B0C0D       */
    0xFF, 0x05, 0xFC, 0xFF, 0x1F, 0,                        /* inc dword [1FFFFC]               */
    0xC6, 0x05, 0, 0x80, 0x0B, 0, 'W',                      /* mov byte [B8000], 'W'            */
    0xA1, 0xF0, 0xFF, 0x0F, 0, 0xA3, 0x04, 0xF0, 0x09, 0,   /* mov eax, [FFFF0]; [9F004], eax   */
    0xC6, 0x05, 0, 0, 0x0F, 0, 0,                           /* mov byte [F0000], 0              */
    0xC7, 0x05, 0, 0, 0xC0, 0xFE, 1, 0, 0, 0,               /* mov dword [FEC00000], 1          */
    0xA1, 0x10, 0, 0xC0, 0xFE, 0xA3, 0x08, 0xF0, 0x09, 0,   /* mov eax, [FEC00010]; [9F008], eax */
    0xA1, 0x30, 0, 0xE0, 0xFE, 0xA3, 0x0C, 0xF0, 0x09, 0,   /* mov eax, [FEE00030]; [9F00C], eax */
    0x0B, 0x05, 0, 0, 0, 0x08, 0xA3, 0x10, 0xF0, 0x09, 0,   /* or eax, [8000000]; [9F010], eax  */
    0xB0, 'K', 0xE6, 0xE9, 0xF4,                            /* mov al, 'K'; out E9, al; hlt     */
};

/* clang-format on */

#endif
