; Real mode: the interrupt table, far transfers, flags, the interrupt shadow, HLT, single step, wrapping stacks.
%include "payload.inc"
        bits    16
        org     0x8000
start:
        cli
        mov     word [0x21 * 4], int21
        mov     word [0x21 * 4 + 2], 0
        ; INT n pushes FLAGS, CS, IP and clears IF and TF
        mov     sp, 0x7000
        sti
        stc
        int     0x21
after_int:
        CHECK_EQ sp, 0x7000
        pushf
        pop     ax
        test    ah, 2
        CHECK   nz
        cli

        ; far CALL and RET, direct and through memory, with bytes released
        push    word 0x1234
        push    word 0x5678
        call    0x0800:(far_proc - 0x8000)
        CHECK_EQ sp, 0x7000
        CHECK_EQ bx, 0x0800
        call    far [far_pointer]
        CHECK_EQ bx, 0x0800
        CHECK_EQ sp, 0x7004
        sub     sp, 4

        ; a 32-bit far return takes 8 bytes
        push    dword 0
        push    dword (.wide - 0)
        o32 retf
.wide:  CHECK_EQ sp, 0x7000
        mov     ax, cs
        CHECK_EQ ax, 0

        ; segment loads: base is the selector times 16, LDS, LES, LSS, LFS, LGS
        lds     si, [pointer]
        mov     ax, ds
        CHECK_EQ ax, 0x0900
        CHECK_EQ si, 0x0010
        mov     byte [si], 0x5a
        xor     ax, ax
        mov     ds, ax
        CHECK_EQ byte [0x9010], 0x5a
        lgs     edi, [pointer32]
        mov     ax, gs
        CHECK_EQ ax, 0x0900
        CHECK_EQ edi, 0x00010020
        lss     sp, [stack_pointer]
        CHECK_EQ sp, 0x0100
        push    ax
        pop     ax
        lss     sp, [old_stack]

        ; divide error: RIP at the instruction
        mov     word [0], divide_error
        mov     word [2], 0
        mov     dword [seen], 0
        xor     cx, cx
        mov     ax, 1
        cwd
divide:  div     cx
after_divide:
        CHECK_EQ word [seen], divide
        CHECK_EQ sp, 0x7000

        ; INTO and INT3: RIP behind them
        mov     word [4 * 4], trap
        mov     word [4 * 4 + 2], 0
        mov     word [3 * 4], trap
        mov     word [3 * 4 + 2], 0
        mov     al, 0x7f
        add     al, 1
        into
after_into:
        CHECK_EQ word [seen], after_into
        xor     al, al
        mov     word [seen], 0
        into
        CHECK_EQ word [seen], 0
        int3
after_int3:
        CHECK_EQ word [seen], after_int3

        ; UD2, BOUND
        mov     word [6 * 4], invalid
        mov     word [6 * 4 + 2], 0
undefined:
        ud2
        CHECK_EQ word [seen], undefined

        ; an interrupt waits for IF, and for the instruction after STI
        mov     word [0x30 * 4], external
        mov     word [0x30 * 4 + 2], 0
        mov     word [seen], 0
        mov     al, 0x30
        out     0x80, al
        nop
        CHECK_EQ word [seen], 0
        mov     bx, 1
        sti
        inc     bx
after_shadow:
        nop
        cli
        CHECK_EQ word [seen], after_shadow
        CHECK_EQ word [seen_bx], 2

        ; the shadow of MOV SS follows that of STI
        mov     word [seen], 0
        mov     cx, ss
        mov     al, 0x30
        out     0x80, al
        sti
        mov     ss, cx
        nop
after_ss:
        nop
        cli
        CHECK_EQ word [seen], after_ss

        ; STI; CLI: nothing is delivered in between
        mov     word [seen], 0
        mov     al, 0x30
        out     0x80, al
        sti
        cli
        nop
        CHECK_EQ word [seen], 0
        in      eax, 0x80
        CHECK_EQ eax, 1
        ; HLT wakes up; STI; HLT does not miss it
        sti
        hlt
after_halt:
        cli
        CHECK_EQ word [seen], after_halt

        ; single step: a trap after each instruction, TF clear in the handler
        mov     word [1 * 4], step
        mov     word [1 * 4 + 2], 0
        mov     word [steps], 0
        pushf
        pop     ax
        or      ax, 0x100
        push    ax
        popf
        nop
        nop
        push    ax
        and     word [esp], 0xfeff
        popf
stepped:
        nop
        CHECK_EQ word [steps], 5
        mov     eax, dr6
        test    ax, 0x4000
        CHECK   nz

        ; REP MOVSB under TF traps after each iteration
        mov     word [steps], 0
        mov     si, 0x9000
        mov     di, 0x9100
        mov     cx, 3
        cld
        pushf
        or      word [esp], 0x100
        popf
        rep movsb
        nop
        pushf
        and     word [esp], 0xfeff
        popf
        cmp     word [steps], 7
        CHECK   e

        ; PUSH at SP = 0 wraps, PUSHA is in order
        mov     ax, 0x1000
        mov     ss, ax
        mov     sp, 0
        push    word 0xabcd
        CHECK_EQ sp, 0xfffe
        CHECK_EQ word [ss:0xfffe], 0xabcd
        pop     ax
        CHECK_EQ sp, 0
        ; an interrupt at SP = 4: the frame wraps around the segment
        mov     sp, 4
        int     0x21
        CHECK_EQ sp, 4
        xor     ax, ax
        mov     ss, ax
        mov     sp, 0x7000

        ; SMSW, LMSW cannot clear PE; CR0 reads; CPUID
        smsw    ax
        test    al, 1
        CHECK   z
        mov     eax, cr0
        test    eax, 0x10
        CHECK   nz
        mov     eax, 0x40000000
        cpuid
        CHECK_EQ ebx, 'Open'

        ; ARPL, LLDT, VERR do not exist here
        mov     word [seen], 0
no_lldt:
        lldt    ax
        CHECK_EQ word [seen], no_lldt

        ; SGDT, SIDT
        lidt    [table]
        sidt    [store]
        CHECK_EQ word [store], 0x3ff
        CHECK_EQ dword [store + 2], 0
        lgdt    [table2]
        sgdt    [store]
        CHECK_EQ dword [store + 2], 0x00345678

        ; MSRs: TSC moves, APIC base, unknown ones raise #GP (through the table, no error code)
        mov     word [13 * 4], protection
        mov     word [13 * 4 + 2], 0
        mov     ecx, 0x12345
unknown_msr:
        rdmsr
        CHECK_EQ word [seen], unknown_msr
        CHECK_EQ sp, 0x7000
        ; a limit of 64K holds in real mode
        mov     esi, 0x10000
beyond: mov     al, [esi]
        CHECK_EQ word [seen], beyond
        mov     si, 0xffff
cross:  mov     ax, [si]
        CHECK_EQ word [seen], cross

        ; IRET with a 32-bit operand
        pushfd
        push    dword 0
        push    dword .iretd
        o32 iret
.iretd: CHECK_EQ sp, 0x7000
        END_WITH 0

; ---- handlers ----
int21:  push    bp
        mov     bp, sp
        pushf
        pop     ax
        test    ah, 3                   ; IF and TF are clear
        CHECK   z
        cmp     word [bp + 4], 0
        CHECK   e
        pop     bp
        iret

far_proc:
        mov     bx, cs
        retf    4

divide_error:
        push    bp
        mov     bp, sp
        push    word [bp + 2]
        pop     word [seen]
        mov     word [bp + 2], after_divide
        pop     bp
        iret

trap:   push    bp
        mov     bp, sp
        push    word [bp + 2]
        pop     word [seen]
        pop     bp
        iret

; faults of two-byte instructions... the handler skips by a table of lengths
invalid:
        push    bp
        mov     bp, sp
        push    word [bp + 2]
        pop     word [seen]
        cmp     word [bp + 2], no_lldt
        je      .lldt
        add     word [bp + 2], 2
        pop     bp
        iret
.lldt:  add     word [bp + 2], 3
        pop     bp
        iret

protection:
        push    bp
        push    ax
        mov     bp, sp
        mov     ax, [bp + 4]
        mov     [seen], ax
        add     word [bp + 4], 2
        cmp     ax, beyond
        jne     .done
        inc     word [bp + 4]           ; 67 8a 06
.done:  pop     ax
        pop     bp
        iret

external:
        push    bp
        mov     bp, sp
        push    word [bp + 2]
        pop     word [seen]
        mov     [seen_bx], bx
        pop     bp
        iret

step:   inc     word [steps]
        iret

far_pointer:    dw far_proc - 0x8000, 0x0800
pointer:        dw 0x0010, 0x0900
pointer32:      dd 0x00010020
                dw 0x0900
stack_pointer:  dw 0x0100, 0x2000
old_stack:      dw 0x7000, 0
table:          dw 0x3ff
                dd 0
table2:         dw 0x17
                dd 0x12345678
store:          times 10 db 0
seen:           dd 0
seen_bx:        dw 0
steps:          dw 0
