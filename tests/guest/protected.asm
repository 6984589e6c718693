; 32-bit protected mode: segments and their faults, call gates, rings, the I/O bitmap, virtual-8086 mode, tasks, 32-bit and
; PAE paging.
%include "payload.inc"

KCODE   equ 0x08
KDATA   equ 0x10
UCODE   equ 0x18 | 3
UDATA   equ 0x20 | 3
CODE16  equ 0x28
DATA16  equ 0x30
NOTPRES equ 0x38
RODATA  equ 0x40
DOWN    equ 0x48                ; expand-down, limit 0xffff: valid 0x10000 .. 0xffffffff
SMALL   equ 0x50                ; data, limit 0xfff
XONLY   equ 0x58                ; execute-only code
CONFORM equ 0x60                ; conforming code, DPL 0
TSS     equ 0x68
TSS2    equ 0x70                ; a second task, 32 bits
TSS16   equ 0x78                ; a third one, 16 bits
TGATE   equ 0x80                ; task gate to TSS2, DPL 3
CGATE   equ 0x88                ; call gate to kernel code, DPL 3, 2 parameters
CGATE16 equ 0x90                ; 16-bit call gate
LDT     equ 0x98
TSS3    equ 0xa0                ; for the task gate of interrupt 0x90
NPGATE  equ 0xa8

STACK   equ 0x70000
STACK0  equ 0x60000             ; SS0:ESP0
USTACK  equ 0x50000
IDT     equ 0x30000
PD      equ 0x100000
PT      equ 0x101000
PDPT    equ 0x102000

        bits    16
        org     0x8000
entry:  cli
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7000
        lgdt    [gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword KCODE:main

        bits    32

%macro RESUME_AT 1
        mov     dword [resume], %1
        mov     [resume_esp], esp
        mov     dword [f_vector], -1
%endmacro

%macro EXPECT_FAULT 3+
        RESUME_AT %%after
%%at:   %3
%assign check_number check_number + 1
        END_WITH check_number
%%after:
        CHECK_EQ dword [f_vector], %1
        CHECK_EQ dword [f_error], %2
        CHECK_EQ dword [f_eip], %%at
%endmacro

%macro RUN_USER 1
        RESUME_AT %%after
        push    UDATA
        push    USTACK
        push    0x202
        push    UCODE
        push    %1
        iret
%%after:
%endmacro

%macro EXPECT_USER 3
        RUN_USER %3
        CHECK_EQ dword [f_vector], %1
        CHECK_EQ dword [f_error], %2
        CHECK_EQ dword [f_eip], %3
        CHECK_EQ word [f_cs], UCODE
%endmacro

; RUN_V86 address: virtual-8086 code at 0:address, stack 0:0x6000, flags in EAX
%macro RUN_V86 1
        RESUME_AT %%after
        push    0x0444                  ; GS
        push    0x0333                  ; FS
        push    0x0222                  ; DS
        push    0x0111                  ; ES
        push    0                       ; SS
        push    0x6000
        push    eax
        push    0
        push    %1
        iret
%%after:
%endmacro

main:   mov     ax, KDATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, STACK
        mov     edi, IDT
        mov     eax, stubs
        mov     ecx, 256
.gate:  mov     [edi], ax
        mov     word [edi + 2], KCODE
        mov     word [edi + 4], 0x8e00
        mov     edx, eax
        shr     edx, 16
        mov     [edi + 6], dx
        add     edi, 8
        add     eax, 16
        loop    .gate
        mov     byte [IDT + 0x80 * 8 + 5], 0xee
        mov     byte [IDT + 0x81 * 8 + 5], 0xee
        lidt    [idtr]
        mov     ax, TSS
        ltr     ax
        CHECK_EQ byte [gdt + TSS + 5], 0x8b

        ; ---- segments ----
        mov     ax, NOTPRES
        EXPECT_FAULT 11, NOTPRES, mov es, ax
        EXPECT_FAULT 12, NOTPRES, mov ss, ax
        xor     eax, eax
        EXPECT_FAULT 13, 0, mov ss, ax
        mov     es, ax
        EXPECT_FAULT 13, 0, mov al, [es:0]
        mov     ax, RODATA
        EXPECT_FAULT 13, RODATA, mov ss, ax
        mov     es, ax
        mov     al, [es:0]
        EXPECT_FAULT 13, 0, mov [es:0], al
        mov     ax, XONLY
        EXPECT_FAULT 13, XONLY, mov es, ax
        EXPECT_FAULT 13, 0, mov [cs:0x7000], al         ; code is not writable
        mov     al, [cs:0x7000]                         ; but readable
        mov     ax, KCODE
        mov     es, ax
        mov     al, [es:0x7000]
        mov     ax, 0x2000
        EXPECT_FAULT 13, 0x2000, mov fs, ax             ; beyond the table
        mov     ax, 0x04
        EXPECT_FAULT 13, 0x04, mov fs, ax               ; no LDT
        mov     ax, LDT
        lldt    ax
        mov     ax, 0x04
        mov     fs, ax
        mov     byte [fs:3], 0x77
        CHECK_EQ byte [0x45003], 0x77
        EXPECT_FAULT 13, 0, mov byte [fs:0x100], 0
        lldt    [zero]
        mov     ax, SMALL
        mov     es, ax
        mov     al, [es:0xfff]
        EXPECT_FAULT 13, 0, mov al, [es:0x1000]
        EXPECT_FAULT 13, 0, mov eax, [es:0xffd]
        EXPECT_FAULT 13, 0, mov eax, [es:-1]
        mov     ax, DOWN
        mov     es, ax
        mov     al, [es:0x10000]
        EXPECT_FAULT 13, 0, mov al, [es:0xffff]
        mov     ax, SMALL
        mov     ss, ax
        mov     esp, 0x800
        EXPECT_FAULT 12, 0, mov al, [ebp + 0x7fffffff]
        mov     ax, SMALL
        mov     ss, ax
        mov     esp, 0x800
        EXPECT_FAULT 12, 0, mov eax, [esp + 0x7fe]
        ; a 16-bit stack: SP wraps, the upper half of ESP stays
        mov     ax, DATA16
        mov     ss, ax
        mov     esp, 0x12340000
        push    eax
        CHECK_EQ esp, 0x1234fffc
        pop     eax
        CHECK_EQ esp, 0x12340000
        mov     ax, KDATA
        mov     ss, ax
        mov     esp, STACK
        mov     es, ax

        ; LAR, LSL, VERR, VERW, ARPL
        mov     eax, CGATE
        lar     ebx, eax
        CHECK   z
        CHECK_EQ ebx, 0x0000ec00
        lsl     ebx, eax
        CHECK   nz
        mov     eax, SMALL
        lsl     ebx, eax
        CHECK   z
        CHECK_EQ ebx, 0xfff
        mov     eax, XONLY
        verr    ax
        CHECK   nz
        mov     ax, 0x10
        mov     bx, 0x23
        arpl    ax, bx
        CHECK   z
        CHECK_EQ ax, 0x13
        arpl    ax, bx
        CHECK   nz

        ; ---- far transfers at privilege 0 ----
        call    CONFORM:.conforming
        jmp     .back
.conforming:
        mov     ax, cs
        CHECK_EQ ax, CONFORM
        retf
.back:  CHECK_EQ esp, STACK
        call    CODE16:.sixteen
        CHECK_EQ esp, STACK
        jmp     .after16
        bits    16
.sixteen:
        mov     eax, 0x12345678                 ; 66 b8
        o32 retf
        bits    32
.after16:
        CHECK_EQ eax, 0x12345678
        EXPECT_FAULT 13, KDATA, jmp KDATA:0
        EXPECT_FAULT 13, KCODE, jmp KCODE | 3:0         ; RPL above CPL
        EXPECT_FAULT 13, 0, jmp 0:0
        EXPECT_FAULT 13, UCODE & ~3, jmp (UCODE & ~3):0
        EXPECT_FAULT 11, NPGATE, call NPGATE:0
        EXPECT_FAULT 13, 0, jmp KCODE:0xf0000000        ; beyond the limit
        push    1
        push    2
        call    CGATE:0
        CHECK_EQ esp, STACK - 8                 ; the same level: nothing is copied; the gate's RETF releases nothing
        add     esp, 8

        ; ---- privilege 3 ----
        RUN_USER user_exit
        CHECK_EQ dword [f_vector], 0x81
        CHECK_EQ word [f_cs], UCODE
        CHECK_EQ word [f_ss], UDATA
        CHECK_EQ dword [f_esp], USTACK
        CHECK_EQ dword [f_handler_esp], STACK0 - 7 * 4
        CHECK_EQ word [f_ds], 0                 ; the kernel's selector was dropped
        EXPECT_USER 13, 0, user_cli
        EXPECT_USER 13, 0, user_hlt
        EXPECT_USER 13, 0x21 * 8 + 2, user_int21
        EXPECT_USER 13, 0, user_in
        and     byte [io_map + (0xe9 >> 3)], ~(1 << (0xe9 & 7))
        RUN_USER user_in
        CHECK_EQ dword [f_vector], 0x81
        EXPECT_USER 13, 0, user_in16
        mov     ebp, KDATA
        EXPECT_USER 13, KDATA, user_ds
        EXPECT_USER 13, KCODE, user_jump
        ; with IOPL 3 the program may
        RESUME_AT .iopl
        push    UDATA
        push    USTACK
        push    0x3202
        push    UCODE
        push    user_iopl
        iret
.iopl:  CHECK_EQ dword [f_vector], 0x81
        test    dword [f_eflags], 0x200
        CHECK   z
        ; through a call gate: two parameters are copied, RET releases them on both stacks
        RUN_USER user_gate
        CHECK_EQ dword [f_vector], 0x81
        CHECK_EQ ebx, STACK0 - 6 * 4
        CHECK_EQ ecx, 0x1111
        CHECK_EQ edx, 0x2222
        CHECK_EQ edi, UCODE
        CHECK_EQ dword [f_esp], USTACK
        RUN_USER user_gate16
        CHECK_EQ dword [f_vector], 0x81
        CHECK_EQ ebx, STACK0 - 4 * 2
        CHECK_EQ dword [f_esp], USTACK & 0xffff         ; only SP went through the 16-bit frame
        EXPECT_USER 11, NPGATE, user_npgate
        ; RETF outward
        RESUME_AT .retf
        push    UDATA
        push    USTACK
        push    0xdead
        push    0xbeef
        push    UCODE
        push    user_exit
        retf    8
.retf:  CHECK_EQ dword [f_vector], 0x81
        CHECK_EQ dword [f_esp], USTACK + 8
        ; ---- virtual-8086 mode ----
        mov     eax, 0x20202                    ; VM, IF, IOPL 0
        RUN_V86 v86_int
        CHECK_EQ dword [f_vector], 13
        CHECK_EQ dword [f_error], 0
        CHECK_EQ dword [f_eip], v86_int
        test    dword [f_eflags], 0x20000
        CHECK   nz
        CHECK_EQ word [f_ds], 0                 ; null in the handler
        CHECK_EQ dword [f_v86 + 0], 0x111       ; ES DS FS GS on the stack
        CHECK_EQ dword [f_v86 + 4], 0x222
        CHECK_EQ dword [f_v86 + 8], 0x333
        CHECK_EQ dword [f_v86 + 12], 0x444
        CHECK_EQ dword [f_esp], 0x6000
        mov     eax, 0x20202
        RUN_V86 v86_cli
        CHECK_EQ dword [f_vector], 13
        mov     eax, 0x20202
        RUN_V86 v86_pushf
        CHECK_EQ dword [f_vector], 13
        mov     eax, 0x20202
        RUN_V86 v86_lldt
        CHECK_EQ dword [f_vector], 6
        mov     eax, 0x20202
        RUN_V86 v86_in                          ; the bitmap counts, not IOPL
        CHECK_EQ dword [f_vector], 13
        CHECK_EQ dword [f_eip], v86_in_at
        mov     eax, 0x23202                    ; IOPL 3
        RUN_V86 v86_work
        CHECK_EQ dword [f_vector], 0x80
        CHECK_EQ dword [f_eip], v86_done
        CHECK_EQ byte [0x2220 + 5], 0x99
        CHECK_EQ byte [0x1110 + 6], 0x98
        CHECK_EQ bx, 0x3202 & ~0x200            ; PUSHF after CLI
        mov     eax, 0x23202
        RUN_V86 v86_int                         ; INT 0x21: its gate's DPL is 0
        CHECK_EQ dword [f_vector], 13
        CHECK_EQ dword [f_error], 0x21 * 8 + 2

        ; ---- tasks ----
        mov     dword [tss2 + 32], task2
        mov     ebp, 0x1234abcd
        jmp     TSS2:0
.from2: CHECK_EQ dword [tss + 60], 0x1234abcd           ; EBP was saved in the TSS
        CHECK_EQ ebp, 0x1234abcd
        CHECK_EQ dword [seen], TSS2
        CHECK_EQ dword [seen2], 0x5a5a5a5a
        str     ax
        CHECK_EQ ax, TSS
        CHECK_EQ byte [gdt + TSS + 5], 0x8b
        CHECK_EQ byte [gdt + TSS2 + 5], 0x89
        mov     eax, cr0
        test    al, 8                           ; TS
        CHECK   nz
        clts
        ; CALL nests: link, NT, both busy; IRET comes back
        mov     dword [tss2 + 32], task2_nested
        call    TSS2:0
        CHECK_EQ dword [seen], 0x4000           ; NT in the task
        CHECK_EQ word [tss2], TSS
        CHECK_EQ dword [seen2], 0x8b8b
        CHECK_EQ byte [gdt + TSS2 + 5], 0x89
        pushfd
        pop     eax
        test    ah, 0x40
        CHECK   z
        EXPECT_FAULT 13, TSS, jmp TSS:0         ; busy
        ; through a task gate, by CALL and by an interrupt
        mov     dword [tss2 + 32], task2_nested
        call    TGATE:0
        CHECK_EQ dword [seen], 0x4000
        mov     dword [tss2 + 32], task2_nested
        mov     dword [seen], 0
        mov     dword [IDT + 0x90 * 8], TSS2 << 16
        mov     dword [IDT + 0x90 * 8 + 4], 0x8500
        int     0x90
        CHECK_EQ dword [seen], 0x4000
        ; a 16-bit TSS
        mov     word [tss16 + 14], task16
        call    TSS16:0
        CHECK_EQ dword [seen], TSS16
        CHECK_EQ word [tss16 + 18 + 3 * 2], 0x7777      ; BX was saved on the way back
        ; a stack fault through a task gate gets its error code on the task's stack
        mov     dword [IDT + 12 * 8], TSS3 << 16
        mov     dword [IDT + 12 * 8 + 4], 0x8500
        mov     ax, SMALL
        mov     ss, ax
        mov     esp, 0x1004
        mov     dword [seen], -1
.push:  push    eax
.pushed:
        mov     ax, KDATA
        mov     ss, ax
        mov     esp, STACK
        CHECK_EQ dword [seen], 0
        CHECK_EQ dword [seen2], .push

        ; ---- 32-bit paging ----
        mov     ax, ds
        mov     es, ax
        mov     edi, PD
        mov     ecx, 1024
        xor     eax, eax
        rep stosd
        mov     dword [PD], 0x87                ; 4 MiB, user
        mov     dword [PD + 4], PT | 7
        mov     dword [PD + 8], 0x83 | (1 << 21)        ; reserved bit 21
        mov     dword [PD + 12], 0x83 | (1 << 13)       ; PSE-36: 4 GiB, nothing there
        mov     edi, PT
        mov     ecx, 1024
        xor     eax, eax
        rep stosd
        mov     dword [PT + 4], 0x201007
        mov     dword [PT + 8], 0x202001
        mov     dword [0x201000], 0xcafe1234
        mov     eax, cr4
        or      al, 0x10                        ; PSE
        mov     cr4, eax
        mov     eax, PD
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        CHECK_EQ dword [0x401000], 0xcafe1234
        EXPECT_FAULT 14, 0, mov al, [0x400fff]
        CHECK_EQ dword [f_cr2], 0x400fff
        mov     byte [0x402000], 1              ; read-only, but WP is clear
        mov     al, [PT + 8]
        and     al, 0x60
        CHECK_EQ al, 0x60
        mov     eax, cr0
        or      eax, 0x10000
        mov     cr0, eax
        EXPECT_FAULT 14, 3, mov byte [0x402000], 1
        EXPECT_FAULT 14, 9, mov al, [0x800000]
        mov     al, [0xc00000]                  ; 4 GiB: reads as ones
        CHECK_EQ al, 0xff
        EXPECT_USER 14, 5, user_read
        ; without CR4.PSE bit 7 is ignored
        mov     eax, cr0
        and     eax, 0x7fffffff
        mov     cr0, eax

        ; ---- PAE ----
        mov     ax, ds
        mov     es, ax
        mov     edi, PDPT
        mov     ecx, 3 * 1024
        xor     eax, eax
        rep stosd
        mov     dword [PDPT], (PDPT + 0x1000) | 1
        mov     dword [PDPT + 0x1000], 0x87             ; 2 MiB
        mov     dword [PDPT + 0x1008], (PDPT + 0x2000) | 7
        mov     dword [PDPT + 0x2000], 0x201007
        mov     dword [PDPT + 0x2008], 0x201007
        mov     dword [PDPT + 0x200c], 0x80000000       ; XD
        mov     dword [PDPT + 0x2010], 0x201007
        mov     dword [PDPT + 0x2014], 0x100            ; bit 40: reserved with 40 physical address bits
        mov     eax, cr4
        or      al, 0x20
        mov     cr4, eax
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 0x800
        wrmsr
        mov     eax, PDPT
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        CHECK_EQ dword [0x200000], 0xcafe1234
        CHECK_EQ dword [0x201000], 0xcafe1234
        EXPECT_FAULT 14, 9, mov al, [0x202000]
        EXPECT_FAULT 14, 0, mov al, [0x203000]
        EXPECT_FAULT 14, 0, mov al, [0x40000000]
        RUN_USER user_nx
        CHECK_EQ dword [f_vector], 14
        CHECK_EQ dword [f_error], 0x15
        CHECK_EQ dword [f_eip], 0x201000
        ; the entries are cached: a change counts when CR3 is written
        mov     dword [PDPT + 8], (PDPT + 0x1000) | 1
        EXPECT_FAULT 14, 0, mov al, [0x40000000]
        mov     eax, cr3
        mov     cr3, eax
        mov     al, [0x40000000]
        ; reserved bits: #GP when CR3 is written
        mov     dword [PDPT + 16], 3
        EXPECT_FAULT 13, 0, mov cr3, eax
        mov     dword [PDPT + 16], 0
        mov     ebx, cr4
        and     bl, ~0x20
        mov     eax, cr0
        and     eax, 0x7fffffff
        mov     cr0, eax
        mov     cr4, ebx

        ; ---- back to real mode ----
        jmp     CODE16:.real16
        bits    16
.real16:
        mov     ax, DATA16
        mov     ds, ax
        mov     ss, ax
        mov     es, ax
        mov     eax, cr0
        and     al, ~1
        mov     cr0, eax
        jmp     0:.real
.real:  xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7000
        mov     byte [0x7100], 0x42
        CHECK_EQ byte [0x7100], 0x42
        END_WITH 0
        bits    32

; ---- tasks ----
task2:  str     eax
        mov     [seen], eax
        mov     [seen2], edi
        mov     eax, cr0
        clts
        jmp     TSS:0

task2_nested:
        pushfd
        pop     eax
        and     eax, 0x4000
        mov     [seen], eax
        mov     al, [gdt + TSS + 5]
        mov     ah, [gdt + TSS2 + 5]
        movzx   eax, ax
        mov     [seen2], eax
        clts
        iret
        jmp     task2_nested

task3:  pop     dword [seen]                    ; the error code
        mov     eax, [tss + 32]
        mov     [seen2], eax
        mov     dword [tss + 32], main.pushed
        clts
        iret

        bits    16
task16: mov     bx, 0x7777
        str     ax
        movzx   eax, ax
        mov     [dword seen], eax
        clts
        iret
        bits    32

; ---- privilege 3 ----
user_exit:      int 0x81
user_cli:       cli
user_hlt:       hlt
user_int21:     int 0x21
user_in:        in al, 0xe9
                int 0x81
user_in16:      in ax, 0xe9
                int 0x81
user_spin:      jmp user_spin
user_ds:        mov ds, ebp
user_jump:      jmp KCODE:0
user_iopl:      cli
                in al, 0xe8
                int 0x81
user_gate:      push 0x2222
                push 0x1111
                call CGATE | 3:0
                int 0x81
gate_target:    mov ebx, esp
                mov edi, [esp + 4]
                mov ecx, [esp + 8]
                mov edx, [esp + 12]
                test byte [esp + 4], 3
                jz .same
                retf 8
.same:          retf
user_gate16:    call CGATE16 | 3:0
                int 0x81
gate16_target:  mov ebx, esp
                o16 retf
user_npgate:    call NPGATE | 3:0
user_nx:        mov eax, 0x201000
                jmp eax
user_read:      mov al, [ss:0x402000]

; ---- virtual-8086 mode ----
        bits    16
v86_int:        int 0x21
v86_cli:        cli
v86_pushf:      pushf
v86_lldt:       lldt ax
v86_in:         in al, 0xe9                     ; allowed
v86_in_at:      in al, 0xe8
v86_work:       mov byte [5], 0x99
                mov byte [es:6], 0x98
                cli
                pushf
                pop bx
                sti
                push word 0x3202
                push word 0
                push word v86_back
                iret
v86_back:       int 0x80
v86_done:
        bits    32

; ---- handlers ----
        align   16
stubs:
%assign vector 0
%rep 256
        align   16
%if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
        push    strict dword vector
%else
        push    0
        push    strict dword vector
%endif
        jmp     near handler
%assign vector vector + 1
%endrep

handler:
        push    eax
        push    ds
        mov     ax, KDATA
        mov     ds, ax
        mov     eax, [esp]
        mov     [f_ds], eax
        mov     eax, [esp + 8]
        mov     [f_vector], eax
        mov     eax, [esp + 12]
        mov     [f_error], eax
        mov     eax, [esp + 16]
        mov     [f_eip], eax
        mov     eax, [esp + 20]
        mov     [f_cs], eax
        mov     eax, [esp + 24]
        mov     [f_eflags], eax
        test    eax, 0x20000
        jnz     .v86
        test    byte [f_cs], 3
        jz      .inner
.v86:   mov     eax, [esp + 28]
        mov     [f_esp], eax
        mov     eax, [esp + 32]
        mov     [f_ss], eax
        test    dword [f_eflags], 0x20000
        jz      .inner
        mov     eax, [esp + 36]
        mov     [f_v86], eax
        mov     eax, [esp + 40]
        mov     [f_v86 + 4], eax
        mov     eax, [esp + 44]
        mov     [f_v86 + 8], eax
        mov     eax, [esp + 48]
        mov     [f_v86 + 12], eax
.inner: mov     eax, cr2
        mov     [f_cr2], eax
        lea     eax, [esp + 8]
        mov     [f_handler_esp], eax
        pop     eax
        pop     eax
        push    KDATA
        pop     ss
        mov     esp, [resume_esp]
        jmp     [resume]

        align   16
%define HERE(x) ((x) - $$ + 0x8000)
gdt:    dq      0
        DESCRIPTOR 0, 0xff, 0x9a, 0xc0                  ; KCODE: 1 MiB
        DESCRIPTOR 0, 0xfffff, 0x92, 0xc0               ; KDATA
        DESCRIPTOR 0, 0xfffff, 0xfa, 0xc0               ; UCODE
        DESCRIPTOR 0, 0xfffff, 0xf2, 0xc0               ; UDATA
        DESCRIPTOR 0, 0xffff, 0x9a, 0                   ; CODE16
        DESCRIPTOR 0, 0xffff, 0x92, 0                   ; DATA16
        DESCRIPTOR 0, 0xfffff, 0x12, 0xc0               ; NOTPRES
        DESCRIPTOR 0, 0xfffff, 0x90, 0xc0               ; RODATA
        DESCRIPTOR 0, 0xf, 0x96, 0xc0                   ; DOWN
        DESCRIPTOR 0x40000, 0xfff, 0x92, 0x40           ; SMALL
        DESCRIPTOR 0, 0xfffff, 0x98, 0xc0               ; XONLY
        DESCRIPTOR 0, 0xff, 0x9e, 0xc0                  ; CONFORM
        DESCRIPTOR HERE(tss), 0x67 + 0x22, 0x89, 0      ; TSS
        DESCRIPTOR HERE(tss2), 0x67, 0x89, 0            ; TSS2
        DESCRIPTOR HERE(tss16), 0x2b, 0x81, 0           ; TSS16
        dw      0, TSS2, 0xe500, 0                      ; TGATE
        dw      gate_target, KCODE, 0xec02, 0           ; CGATE
        dw      gate16_target, KCODE, 0xe400, 0         ; CGATE16
        DESCRIPTOR HERE(ldt), 7, 0x82, 0                ; LDT
        DESCRIPTOR HERE(tss3), 0x67, 0x89, 0            ; TSS3
        dw      gate_target, KCODE, 0x6c00, 0           ; NPGATE
gdt_end:
gdtr:   dw      gdt_end - gdt - 1
        dd      gdt
idtr:   dw      256 * 8 - 1
        dd      IDT
ldt:    DESCRIPTOR 0x45000, 0xff, 0x92, 0x40

        align   16
tss:    dd      0
        dd      STACK0, KDATA
        times 22 dd 0
        dw      0, 104
io_map: times 32 db 0xff
        db      0xff, 0xff
        align   16
%macro TSS_IMAGE 2              ; entry, stack
        dd      0
        dd      STACK0, KDATA, 0, 0, 0, 0
        dd      PD              ; CR3, not used without paging
        dd      %1, 2
        dd      0, 0, 0, 0, %2, 0, 0, 0x5a5a5a5a
        dd      KDATA, KCODE, KDATA, KDATA, 0, 0
        dd      0
        dw      0, 104
%endmacro
tss2:   TSS_IMAGE task2, 0x58000
tss3:   TSS_IMAGE task3, 0x57000
tss16:  dw      0
        dw      0x5000, KDATA, 0, 0, 0, 0
        dw      task16, 2
        dw      0, 0, 0, 0, 0x5600, 0, 0, 0
        dw      KDATA, CODE16, KDATA, KDATA
        dw      0

zero:           dd 0
seen:           dd 0
seen2:          dd 0
resume:         dd 0
resume_esp:     dd 0
f_vector:       dd 0
f_error:        dd 0
f_eip:          dd 0
f_cs:           dd 0
f_eflags:       dd 0
f_esp:          dd 0
f_ss:           dd 0
f_ds:           dd 0
f_cr2:          dd 0
f_handler_esp:  dd 0
f_v86:          dd 0, 0, 0, 0
