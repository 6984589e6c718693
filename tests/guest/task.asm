; Hardware tasks: what is checked and against which task, the trap bit, breakpoints, NT and links, faults through task gates,
; the double fault.
%include "payload.inc"

NPTSS   equ 0xb0                ; not present
STUNTED   equ 0xb8                ; limit 0x66
PRIVATE equ 0xc0                ; TSS2 again, DPL 0
TGATENP equ 0xc8                ; task gate, not present
TGATEBAD equ 0xd0               ; task gate to data
%macro MORE_DESCRIPTORS 0
        DESCRIPTOR HERE(tss3), 0x67, 0x09, 0
        DESCRIPTOR HERE(tss3), 0x66, 0x89, 0
        DESCRIPTOR HERE(tss2), 0x67, 0x89, 0
        dw      0, TSS2, 0x6500, 0
        dw      0, KDATA, 0xe500, 0
%endmacro
%include "protected.inc"

; EXPECT_IN_TASK vector, error: the switch happens, and its first fault is the new task's. Back by JMP.
%macro EXPECT_IN_TASK 2
        mov     dword [tss2 + 32], task2
        mov     eax, [gate10]
        mov     [IDT + 10 * 8], eax
        mov     eax, [gate10 + 4]
        mov     [IDT + 10 * 8 + 4], eax
        RESUME_AT %%fault
        jmp     TSS2:0
        jmp     near %%back
%%fault:
        CHECK_EQ dword [f_vector], %1
        CHECK_EQ dword [f_error], %2
        CHECK_EQ dword [f_eip], task2
        str     ax
        CHECK_EQ ax, TSS2
        mov     byte [gdt + TSS + 5], 0x89
        jmp     TSS:0
%%back: str     ax
        CHECK_EQ ax, TSS
        CHECK_EQ esp, STACK
        mov     byte [gdt + TSS2 + 5], 0x89
%endmacro

; IRET with NT: #TS with this error code
%macro EXPECT_NESTED 1
        RESUME_AT %%after
        call    iret_nested
%%after:
        CHECK_EQ dword [f_vector], 10
        CHECK_EQ dword [f_error], %1
        CHECK_EQ dword [f_eip], iret_nested.at
%endmacro

; The same when the task has no stack yet: #TS needs a task of its own.
%macro EXPECT_TS 1
        mov     dword [tss2 + 32], task2
        mov     dword [IDT + 10 * 8], TSS3 << 16
        mov     dword [IDT + 10 * 8 + 4], 0x8500
        mov     dword [tss3 + 32], task_ts
        mov     dword [tss3 + 56], 0x57000              ; ESP
        mov     dword [seen], -1
        jmp     TSS2:0
        CHECK_EQ dword [seen], %1
        CHECK_EQ dword [seen2], TSS2
        CHECK_EQ dword [tss2 + 32], task2
%endmacro

%macro WITH 3+                  ; offset in TSS2, value, check
        push    dword [tss2 + %1]
        pop     dword [kept]
        mov     dword [tss2 + %1], %2
        %3
        push    dword [kept]
        pop     dword [tss2 + %1]
%endmacro

checks:
        mov     eax, [IDT + 10 * 8]
        mov     [gate10], eax
        mov     eax, [IDT + 10 * 8 + 4]
        mov     [gate10 + 4], eax
        ; ---- against the old task: nothing has happened ----
        EXPECT_FAULT 11, NPTSS, jmp NPTSS:0
        EXPECT_FAULT 11, NPTSS, call NPTSS:0
        EXPECT_FAULT 10, STUNTED, jmp STUNTED:0
        EXPECT_FAULT 13, TSS, jmp TSS:0                 ; busy
        EXPECT_FAULT 13, TSS, call TSS:0
        EXPECT_FAULT 11, TGATENP, call TGATENP:0
        EXPECT_FAULT 13, KDATA, jmp TGATEBAD:0
        EXPECT_USER 13, PRIVATE, user_private
        EXPECT_USER 13, TSS, user_busy                  ; through the gate's eyes: DPL 0
        CHECK_EQ byte [gdt + TSS + 5], 0x8b
        CHECK_EQ byte [gdt + TSS2 + 5], 0x89
        ; IRET: the link
        mov     word [tss], 0
        EXPECT_NESTED 0
        mov     word [tss], TSS2                        ; available
        EXPECT_NESTED TSS2
        mov     word [tss], KDATA
        EXPECT_NESTED KDATA
        mov     word [tss], 0x1000
        EXPECT_NESTED 0x1000
        mov     word [tss], TSS2 | 4
        EXPECT_NESTED TSS2 | 4
        push    2
        popfd

        ; ---- in the new task ----
        WITH 76, KDATA, EXPECT_TS KDATA                ; CS
        WITH 76, 0, EXPECT_TS 0
        WITH 80, RODATA, EXPECT_TS RODATA              ; SS
        WITH 80, 0, EXPECT_TS 0
        WITH 80, UDATA, EXPECT_TS UDATA & ~3
        WITH 84, 0x1000, EXPECT_IN_TASK 10, 0x1000              ; DS
        WITH 84, NOTPRES, EXPECT_IN_TASK 11, NOTPRES
        WITH 88, XONLY, EXPECT_IN_TASK 10, XONLY                ; FS
        WITH 96, KDATA, EXPECT_TS KDATA                ; LDT
        WITH 96, 0x1000, EXPECT_TS 0x1000

        ; ---- the trap bit: before the task's first instruction ----
        mov     eax, 0xffff0ff0
        mov     dr6, eax
        or      byte [tss2 + 100], 1
        EXPECT_IN_TASK 1, 0
        mov     eax, dr6
        CHECK_EQ eax, 0xffff8ff0
        and     byte [tss2 + 100], ~1
        ; local breakpoints end with the task, global ones stay
        mov     eax, 0x400 | 1 | 8 | 0x0f0f0000
        mov     ebx, unused
        mov     dr0, ebx
        mov     dr1, ebx
        mov     dr7, eax
        mov     dword [tss2 + 32], task_back
        jmp     TSS2:0
        mov     eax, dr7
        CHECK_EQ eax, 0x400 | 8 | 0x0f0f0000
        mov     eax, 0x400
        mov     dr7, eax
        ; an instruction breakpoint on the first instruction of the task
        mov     eax, 0x402
        mov     ebx, task2
        mov     dr0, ebx
        mov     dr7, eax
        EXPECT_IN_TASK 1, 0
        mov     eax, 0x400
        mov     dr7, eax

        ; ---- faults through a task gate ----
        ; the old task is saved at the instruction, RF set; its task stays busy, the new one nests
        mov     dword [IDT + 6 * 8], TSS3 << 16
        mov     dword [IDT + 6 * 8 + 4], 0x8500
        mov     dword [tss3 + 32], task_ud
        mov     dword [seen], 0
        stc
.ud:    ud2
.behind:
        CHECK_EQ dword [seen], .ud
        mov     eax, [seen2]
        and     eax, 0x10001
        CHECK_EQ eax, 0x10001
        CHECK_EQ dword [seen3], 0x4000 | TSS
        ; INT n: RF clear, EIP behind it; a second time the task is busy no more
        mov     dword [IDT + 0x90 * 8], TSS3 << 16
        mov     dword [IDT + 0x90 * 8 + 4], 0x8500
        mov     dword [tss3 + 32], task_int
        int     0x90
.after_int:
        CHECK_EQ dword [seen], .after_int
        test    dword [seen2], 0x10000
        CHECK   z
        mov     dword [tss3 + 32], task_int
        int     0x90
        ; a gate to a task that is busy: #GP with the task's selector; not present: #NP
        mov     byte [gdt + TSS3 + 5], 0x8b
        EXPECT_FAULT 13, TSS3, int 0x90
        mov     byte [gdt + TSS3 + 5], 0x09
        EXPECT_FAULT 11, TSS3, int 0x90
        mov     byte [gdt + TSS3 + 5], 0x89
        mov     byte [IDT + 0x90 * 8 + 5], 0x05
        EXPECT_FAULT 11, 0x90 * 8 + 2, int 0x90

        ; ---- the double fault gets a task of its own, an error code of 0 on its stack ----
        mov     dword [IDT + 8 * 8], TSS3 << 16
        mov     dword [IDT + 8 * 8 + 4], 0x8500
        mov     dword [tss3 + 32], task_double
        mov     byte [IDT + 13 * 8 + 5], 0x0e           ; #GP, whose gate is not present: #NP, #DF
        mov     dword [seen], -1
        xor     eax, eax
        mov     es, ax
.double:mov     al, [es:0]
.double_behind:
        CHECK_EQ dword [seen], 0
        CHECK_EQ dword [seen2], .double
        CHECK_EQ esp, STACK
        ; the stack is bad: a page fault's and a stack fault's frame cannot be pushed there, a task gate needs none
        mov     byte [IDT + 13 * 8 + 5], 0x8e
        mov     dword [tss3 + 32], task_double
        mov     dword [seen], -1
        mov     ax, SMALL
        mov     ss, ax
        mov     esp, 0x2000
        mov     dword [resume], .stack_behind
.stack: push    eax
.stack_behind:
        mov     ax, KDATA
        mov     ss, ax
        mov     esp, STACK
        CHECK_EQ dword [seen], 0
        CHECK_EQ dword [seen2], .stack
        END_WITH 0

iret_nested:
        pushfd
        or      dword [esp], 0x4000
        popfd
        add     esp, 4                                  ; (the return address)
.at:    iret

gate10:         dq 0
kept:           dd 0
seen3:          dd 0
unused:         dd 0

task2:          nop
                nop
task_back:      jmp TSS:0
                jmp task_back
task_ud:        mov eax, [tss + 32]
                mov [seen], eax
                mov eax, [tss + 36]
                mov [seen2], eax
                pushfd
                pop eax
                and eax, 0x4000
                or ax, [tss3]
                mov [seen3], eax
                add dword [tss + 32], 2                 ; over UD2
                clts
                iret
task_ts:        pop dword [seen]
                movzx eax, word [tss3]
                mov [seen2], eax
                mov byte [gdt + TSS2 + 5], 0x89
                clts
                jmp TSS:0
task_int:       mov eax, [tss + 32]
                mov [seen], eax
                mov eax, [tss + 36]
                mov [seen2], eax
                clts
                iret
task_double:    pop dword [seen]
                mov eax, [tss + 32]
                mov [seen2], eax
                cmp eax, checks.stack
                mov eax, checks.double_behind
                jne .there
                mov eax, checks.stack_behind
.there:         mov [tss + 32], eax
                clts
                iret
                jmp task_double

user_private:   jmp PRIVATE:0
user_busy:      jmp TSS:0

gate_target:
gate16_target:
task3:
task16:         ud2
