; 32-bit protected mode: segments and their faults, call gates, rings, the I/O bitmap, virtual-8086 mode, tasks, 32-bit and
; PAE paging.
%include "payload.inc"

%include "protected.inc"

checks:
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
        mov     dword [tss + 32], checks.pushed
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
