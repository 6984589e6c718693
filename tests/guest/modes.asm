; From mode to mode and back: real mode, with big segments, with PE set and CS still as it was; 16- and 32-bit protected mode
; without paging, with 32-bit and PAE paging; 16- and 32-bit compatibility mode, 64-bit mode, entered and left in every order that there
; is (SDM 3A figure 2-3, 9.8.5, 9.9). An interrupt in each of them.
%include "payload.inc"

CODE16  equ 0x08
CODE32  equ 0x10
CODE64  equ 0x18
DATA16  equ 0x20
DATA32  equ 0x28
TSS     equ 0x30
IDT32   equ 0x30000
IDT64   equ 0x31000
OLD_PD  equ 0x100000
PAE_PDPT equ 0x101000           ; four entries for PAE paging, the PDPT of 4-level paging
PD      equ 0x102000
PML4    equ 0x103000
STACK   equ 0x70000
PG      equ 0x80000000

; INTERRUPTED n: INT 0x40, whose handler of mode n counts
%macro INTERRUPTED 1
        mov     dword [seen], 0
        int     0x40
        CHECK_EQ dword [seen], %1
%endmacro

%macro CR0_SET 1
        mov     eax, cr0
        or      eax, %1
        mov     cr0, eax
%endmacro
%macro CR0_CLEAR 1
        mov     eax, cr0
        and     eax, ~(%1)
        mov     cr0, eax
%endmacro
%macro CR4_SET 1
        mov     eax, cr4
        or      eax, %1
        mov     cr4, eax
%endmacro
%macro CR4_CLEAR 1
        mov     eax, cr4
        and     eax, ~(%1)
        mov     cr4, eax
%endmacro
; EFER bits to set, to clear; LMA must be as said
%macro EFER 2
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, %1
        and     eax, ~(%2)
        wrmsr
%endmacro
%macro LMA_IS 1
        mov     ecx, 0xc0000080
        rdmsr
        shr     eax, 10
        and     eax, 1
        CHECK_EQ eax, %1
%endmacro

        bits    16
        org     0x8000
entry:  cli
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7000
        mov     word [0x40 * 4], handler_real
        mov     word [0x40 * 4 + 2], 0
        lgdt    [gdtr]
        INTERRUPTED 1

        ; ---- PE set, but CS still real mode's: 16-bit code at the same place; and back without a jump ----
        CR0_SET 1
        mov     bx, cs
        CHECK_EQ bx, 0
        ; ---- big segments in real mode: the limit stays when PE goes ----
        mov     bx, DATA32
        mov     ds, bx
        mov     es, bx
        CR0_CLEAR 1
        mov     dword [dword 0x110000], 0x12345678
        xor     ax, ax
        mov     ds, ax                          ; another base, the same limit
        CHECK_EQ dword [dword 0x110000], 0x12345678
        mov     ax, 0x1000
        mov     es, ax
        CHECK_EQ dword [es:dword 0x100000], 0x12345678
        INTERRUPTED 1
        CR0_SET 1
        mov     bx, DATA16
        mov     es, bx
        mov     ds, bx
        CR0_CLEAR 1
        xor     ax, ax
        mov     ds, ax
        mov     es, ax

        ; ---- 16-bit protected mode ----
        call    fill_tables
        lidt    [idtr32]
        CR0_SET 1
        jmp     CODE16:.protected16
.protected16:
        mov     ax, DATA16
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        INTERRUPTED 2
        ; with 32-bit paging, and with PAE paging by the same code
        CR4_SET 0x10
        mov     eax, OLD_PD
        mov     cr3, eax
        CR0_SET PG
        INTERRUPTED 2
        CR0_CLEAR PG
        INTERRUPTED 2
        CR4_CLEAR 0x10
        CR4_SET 0x20
        mov     eax, PAE_PDPT
        mov     cr3, eax
        CR0_SET PG
        LMA_IS  0
        INTERRUPTED 2
        CR0_CLEAR PG

        ; ---- from there to 16-bit compatibility mode, and back ----
        mov     eax, PML4
        mov     cr3, eax
        EFER    0x100, 0
        LMA_IS  0
        call    pdpt_for_long
        CR0_SET PG
        LMA_IS  1
        lidt    [idtr64]
        INTERRUPTED 3
        ; to 64-bit mode and back by far transfers
        jmp     dword CODE64:.in64
        bits    64
.in64:  mov     rsp, STACK
        mov     rax, 0x123456789abcdef0
        push    rax
        pop     rbx
        CHECK_EQ rax, rbx
        CHECK_EQ rsp, STACK
        INTERRUPTED 3
        push    CODE16
        push    .again16
        o64 retf
        bits    16
.again16:
        mov     ax, DATA16
        mov     ss, ax
        mov     sp, 0x7000
        INTERRUPTED 3
        CR0_CLEAR PG                            ; 16-bit protected mode again
        LMA_IS  0
        lidt    [idtr32]
        INTERRUPTED 2
        ; ---- 32-bit protected mode, compatibility mode, 64-bit mode ----
        jmp     dword CODE32:.protected32
        bits    32
.protected32:
        mov     ax, DATA32
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, STACK
        INTERRUPTED 2
        CR0_SET PG                              ; LME is still set
        LMA_IS  1
        lidt    [idtr64]
        INTERRUPTED 3
        jmp     CODE64:.second64
        bits    64
.second64:
        INTERRUPTED 3
        ; IRETQ to 32-bit and 16-bit code, and a call from 32-bit code that 64-bit code returns to
        push    DATA32
        push    STACK
        push    2
        push    CODE32
        push    .compat32
        iretq
        bits    32
.compat32:
        CHECK_EQ esp, STACK
        call    CODE64:far64
        CHECK_EQ esp, STACK
        CHECK_EQ ebx, 0x64646464
        jmp     CODE16:.compat16
        bits    16
.compat16:
        INTERRUPTED 3
        jmp     dword CODE32:.compat32b
        bits    32
.compat32b:
        CR0_CLEAR PG
        LMA_IS  0
        lidt    [idtr32]
        EFER    0, 0x100
        INTERRUPTED 2
        ; ---- PAE paging and 32-bit paging in 32-bit code, one straight into the other ----
        call    pdpt_for_pae
        mov     eax, PAE_PDPT
        mov     cr3, eax
        CR0_SET PG
        LMA_IS  0
        INTERRUPTED 2
        CR0_CLEAR PG
        CR4_CLEAR 0x20
        CR4_SET 0x10
        mov     eax, OLD_PD
        mov     cr3, eax
        CR0_SET PG
        INTERRUPTED 2
        ; virtual-8086 mode and back, with paging
        mov     ax, TSS
        ltr     ax
        push    0
        push    0
        push    0
        push    0
        push    0
        push    0x6000
        push    0x23002                         ; VM, IOPL 3
        push    0
        push    virtual
        mov     dword [back], .from_virtual
        iret
.from_virtual:
        mov     ax, DATA32
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, STACK
        CHECK_EQ dword [seen], 0x8086
        CR0_CLEAR PG

        ; ---- and to real mode ----
        jmp     CODE16:.leave
        bits    16
.leave: mov     ax, DATA16
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        CR0_CLEAR 1
        jmp     0:.real
.real:  xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7000
        lidt    [idtr16]
        INTERRUPTED 1
        END_WITH 0

; ---- tables ----
        bits    16
; By 32-bit addresses beyond 64 KiB: with big segments once more.
fill_tables:
        CR0_SET 1
        mov     bx, DATA32
        mov     es, bx
        CR0_CLEAR 1
        ; gates
        mov     edi, IDT32 + 0x40 * 8
        mov     eax, handler32
        mov     [es:edi], ax
        mov     word [es:edi + 2], CODE32
        mov     word [es:edi + 4], 0xee00
        mov     word [es:edi + 6], 0
        mov     edi, IDT32 + 0x41 * 8
        mov     eax, from_virtual
        mov     [es:edi], ax
        mov     word [es:edi + 2], CODE32
        mov     word [es:edi + 4], 0xee00
        mov     word [es:edi + 6], 0
        mov     edi, IDT64 + 0x40 * 16
        mov     eax, handler64
        mov     [es:edi], ax
        mov     word [es:edi + 2], CODE64
        mov     word [es:edi + 4], 0xee00
        mov     word [es:edi + 6], 0
        mov     dword [es:edi + 8], 0
        mov     dword [es:edi + 12], 0
        ; page tables: the low 4 MiB one to one
        mov     dword [es:dword OLD_PD], 0x87
        mov     dword [es:dword PAE_PDPT], PD | 1
        mov     dword [es:dword PAE_PDPT + 4], 0
        mov     dword [es:dword PD], 0x87
        mov     dword [es:dword PD + 4], 0
        mov     dword [es:dword PD + 8], 0x200087
        mov     dword [es:dword PD + 12], 0
        mov     dword [es:dword PML4], PAE_PDPT | 7
        mov     dword [es:dword PML4 + 4], 0
        CR0_SET 1
        mov     bx, DATA16
        mov     es, bx
        CR0_CLEAR 1
        xor     ax, ax
        mov     es, ax
        ret

; The same page serves both: bits 1 and 2 are reserved in PAE's entries. In 16-bit protected mode without paging, then in 32-bit.
pdpt_for_long:
        mov     bx, DATA32
        mov     es, bx
        mov     byte [es:dword PAE_PDPT], 7
        mov     bx, DATA16
        mov     es, bx
        ret
        bits    32
pdpt_for_pae:
        mov     byte [PAE_PDPT], 1
        ret

; ---- handlers ----
        bits    16
handler_real:
        mov     dword [seen], 1
        iret
        bits    32
handler32:
        mov     dword [seen], 2
        iret
from_virtual:
        mov     ax, DATA32
        mov     ds, ax
        mov     dword [seen], 0
        movzx   eax, word [esp + 20]        ; ES of virtual-8086 mode
        CHECK_EQ eax, 0x8086
        mov     [seen], eax
        jmp     [back]
        bits    64
handler64:
        mov     dword [seen], 3
        iretq
far64:  mov     rbx, 0x6464646464646464
        o32 retf
        bits    16
virtual:
        mov     ax, 0x8086
        mov     es, ax
        int     0x41

        align   8
gdt:    dq      0
        DESCRIPTOR 0, 0xffff, 0x9a, 0
        DESCRIPTOR 0, 0xfffff, 0x9a, 0xc0
        DESCRIPTOR 0, 0, 0x9a, 0x20
        DESCRIPTOR 0, 0xffff, 0x92, 0
        DESCRIPTOR 0, 0xfffff, 0x92, 0xc0
        DESCRIPTOR (tss - $$ + 0x8000), 0x67, 0x89, 0
gdt_end:
gdtr:   dw      gdt_end - gdt - 1
        dd      gdt
idtr16: dw      0x3ff
        dd      0
idtr32: dw      0x7ff
        dd      IDT32
idtr64: dw      0xfff
        dq      IDT64
tss:    dd      0, 0x60000, DATA32
        times 23 dd 0
seen:   dd      0
back:   dd      0
