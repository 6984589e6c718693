; Debug registers in 64-bit mode: breakpoints on instructions, data and ports, RF, single step, general detect, INT1, and in
; what order all that arrives (SDM 3B 17.2, 17.3; 3A table 6-2).
%include "payload.inc"
%include "long.inc"

DATA    equ PAGES + 0x8000      ; watched bytes
R_EXEC  equ 0
R_WRITE equ 1
R_IO    equ 2
R_ANY   equ 3

; WATCH n, address, condition, length in bytes: alone, globally enabled
%macro WATCH 4
%if %4 == 8
%assign length_code 2
%else
%assign length_code %4 - 1
%endif
        mov     rax, %2
        mov     dr%1, rax
        mov     eax, (2 << (%1 * 2)) | (%3 << (16 + %1 * 4)) | (length_code << (18 + %1 * 4)) | 0x400
        mov     dr7, rax
        mov     dword [d_count], 0
%endmacro

; ... and in addition
%macro WATCH_TOO 4
        mov     rax, %2
        mov     dr%1, rax
        mov     rax, dr7
        or      eax, (2 << (%1 * 2)) | (%3 << (16 + %1 * 4)) | ((%4 - 1) << (18 + %1 * 4))
        mov     dr7, rax
        mov     dword [d_count], 0
%endmacro

%macro UNWATCH 0
        mov     eax, 0x400
        mov     dr7, rax
%endmacro

; TRAPS bits, instruction: one debug trap right behind it
%macro TRAPS 2+
        mov     dword [d_count], 0
        %2
%%behind:
        nop
        CHECK_EQ dword [d_count], 1
        CHECK_EQ dword [d_dr6], 0xffff0ff0 | %1
        CHECK_EQ qword [d_rip], %%behind
        test    dword [d_flags], 0x10000
        CHECK   z
%endmacro

%macro NO_TRAP 1+
        mov     dword [d_count], 0
        %1
        nop
        CHECK_EQ dword [d_count], 0
%endmacro

; STRUCK index, bits, rip: what the handler noted as number index
%macro STRUCK 3
        CHECK_EQ dword [d_log + %1 * 16 + 8], 0xffff0ff0 | %2
        CHECK_EQ qword [d_log + %1 * 16], %3
%endmacro

%macro TF_ON 0
        pushfq
        or      dword [rsp], 0x100
        popfq
%endmacro
%macro TF_OFF 0
        pushfq
        and     dword [rsp], ~0x100
        popfq
%endmacro

; BTF and TF on, in this order
%macro STEP_BRANCHES 0
        mov     ecx, 0x1d9
        mov     eax, 2
        xor     edx, edx
        wrmsr
        mov     dword [d_count], 0
        TF_ON
%endmacro

main:   mov     rax, debug_handler
        mov     [idt + 16], ax
        shr     rax, 16
        mov     [idt + 16 + 6], ax
        mov     eax, 0xffff0ff0
        mov     dr6, rax

        ; ---- what the registers hold ----
        mov     eax, 0xffffffff & ~0xff & ~0x2000       ; nothing enabled
        mov     dr7, rax
        mov     rax, dr7
        CHECK_EQ eax, 0xffff0700
        UNWATCH
        mov     rax, dr7
        CHECK_EQ rax, 0x400
        xor     eax, eax
        mov     dr6, rax
        mov     rax, dr6
        CHECK_EQ eax, 0xffff0ff0
        mov     eax, 0xffffffff
        mov     dr6, rax
        mov     rax, dr6
        CHECK_EQ eax, 0xffffefff
        mov     eax, 0xffff0ff0
        mov     dr6, rax

        ; ---- instruction breakpoints: faults, with RF as it was ----
        mov     byte [d_resume], 1              ; the handler sets RF
        WATCH   0, .exec, R_EXEC, 1
        xor     ecx, ecx
.exec:  inc     ecx
        CHECK_EQ ecx, 1
        CHECK_EQ dword [d_count], 1
        CHECK_EQ dword [d_dr6], 0xffff0ff1
        CHECK_EQ qword [d_rip], .exec
        test    dword [d_flags], 0x10000
        CHECK   z
        ; each time, and where there is a loop as often as it goes round
        WATCH   1, .again, R_EXEC, 1
        mov     ecx, 5
.again: dec     ecx
        jnz     .again
        CHECK_EQ dword [d_count], 5
        CHECK_EQ dword [d_dr6], 0xffff0ff2
        ; an address within an instruction does not count
        WATCH   2, .inside + 1, R_EXEC, 1
.inside:mov     ecx, 7
        CHECK_EQ dword [d_count], 0
        ; before what the instruction raises by itself
        WATCH   3, .ud, R_EXEC, 1
        RESUME_AT .after_ud
.ud:    ud2
.after_ud:
        CHECK_EQ qword [f_vector], 6
        CHECK_EQ dword [d_count], 1
        CHECK_EQ qword [d_rip], .ud
        test    dword [f_flags], 0x10000        ; faults set RF
        CHECK   nz
        ; and before the fault of fetching it
        mov     rbx, 0x2000000
        mov     dr0, rbx
        mov     eax, 2 | 0x400
        mov     dr7, rax
        mov     dword [d_count], 0
        RESUME_AT .after_fetch
        jmp     rbx
.after_fetch:
        CHECK_EQ qword [f_vector], 14
        CHECK_EQ dword [d_count], 1
        CHECK_EQ [d_rip], rbx
        ; Ln enables as Gn does; both off: nothing
        WATCH   0, .local, R_EXEC, 1
        mov     eax, 1 | 0x400
        mov     dr7, rax
.local: nop
        CHECK_EQ dword [d_count], 1
        UNWATCH
        mov     dword [d_count], 0
        mov     rax, .off
        mov     dr0, rax
.off:   nop
        CHECK_EQ dword [d_count], 0

        ; ---- RF ----
        ; IRET sets it for one instruction; POPF does not set it
        WATCH   0, .resumed, R_EXEC, 1
        push    KDATA
        lea     rax, [rsp + 8]
        push    rax
        push    0x10002
        push    KCODE
        push    .resumed
        iretq
.resumed:
        nop
        CHECK_EQ dword [d_count], 0
        jmp     .resumed2
.resumed2:
        mov     ecx, 2
.loop:  call    .resumed_sub
        dec     ecx
        jnz     .loop
        jmp     .resumed_end
.resumed_sub:
        ret
.resumed_end:
        WATCH   0, .popped, R_EXEC, 1
        push    0x10002
        popfq
.popped:nop
        CHECK_EQ dword [d_count], 1
        ; software interrupts save it as 0
        RESUME_AT .int
        int     0x81
.int:   test    dword [f_flags], 0x10000
        CHECK   z
        ; RF is spent by the instruction after it, with breakpoints off, too
        UNWATCH
        push    KDATA
        lea     rax, [rsp + 8]
        push    rax
        push    0x10002
        push    KCODE
        push    .spent
        iretq
.spent: nop
        RESUME_AT .spent2
        int     0x81
.spent2:test    dword [f_flags], 0x10000
        CHECK   z
        mov     byte [d_resume], 0

        ; ---- data: writes ----
        mov     rbx, DATA
        WATCH   0, DATA, R_WRITE, 1
        TRAPS   1, mov byte [rbx], 5
        NO_TRAP mov byte [rbx + 1], 5
        NO_TRAP mov byte [rbx - 1], 5
        NO_TRAP mov al, [rbx]
        TRAPS   1, mov [rbx], rax
        TRAPS   1, mov [rbx - 7], rax
        NO_TRAP mov [rbx - 8], rax
        NO_TRAP mov [rbx + 1], rax
        TRAPS   1, inc byte [rbx]
        TRAPS   1, lock inc byte [rbx]
        TRAPS   1, xchg [rbx], al
        TRAPS   1, not dword [rbx - 3]
        TRAPS   1, movups [rbx - 15], xmm0
        TRAPS   1, movups [rbx], xmm0
        NO_TRAP movups xmm0, [rbx]
        NO_TRAP cmp byte [rbx], 0
        mov     al, 1
        mov     byte [rbx + 16], 9
        WATCH   2, DATA, R_WRITE, 2
        TRAPS   4, mov byte [rbx + 1], 1
        NO_TRAP mov byte [rbx + 2], 1
        WATCH   3, DATA, R_WRITE, 4
        TRAPS   8, mov byte [rbx + 3], 1
        NO_TRAP mov byte [rbx + 4], 1
        WATCH   1, DATA, R_WRITE, 8
        TRAPS   2, mov byte [rbx + 7], 1
        NO_TRAP mov byte [rbx + 8], 1
        ; the low bits of the address are those of the length
        WATCH   1, DATA + 7, R_WRITE, 8
        TRAPS   2, mov byte [rbx], 1
        NO_TRAP mov byte [rbx + 8], 1
        ; across pages
        WATCH   0, DATA + 0x1000, R_WRITE, 1
        TRAPS   1, mov [rbx + 0xffd], eax
        NO_TRAP mov [rbx + 0xffc], eax
        ; a comparison and exchange writes, whatever it finds
        WATCH   0, DATA, R_WRITE, 4
        mov     dword [rbx], 1
        mov     eax, 2
        TRAPS   1, lock cmpxchg [rbx], ecx
        ; the stack
        mov     rcx, rsp
        lea     rsp, [rbx + 8]
        TRAPS   1, push rax
        pop     rax
        mov     dword [d_count], 0
        call    .called
.called:
        mov     rsp, rcx
        CHECK_EQ dword [d_count], 1
        CHECK_EQ qword [d_rip], .called

        ; ---- data: reads and writes ----
        mov     rbx, DATA
        WATCH   0, DATA, R_ANY, 4
        TRAPS   1, mov al, [rbx + 3]
        TRAPS   1, mov [rbx + 3], al
        TRAPS   1, add eax, [rbx]
        TRAPS   1, movups xmm0, [rbx - 15]
        TRAPS   1, fld qword [rbx]
        TRAPS   1, fstp qword [rbx]
        NO_TRAP prefetcht0 [rbx]
        NO_TRAP lea rax, [rbx]
        NO_TRAP mov al, [rbx + 4]
        TRAPS   1, bt dword [rbx], 3
        ; code is not data
        WATCH   0, .code, R_ANY, 1
        NO_TRAP nop
.code:  nop
        CHECK_EQ dword [d_count], 0
        ; two at once, one of them not enabled
        WATCH   0, DATA, R_ANY, 4
        WATCH_TOO 1, DATA + 2, R_WRITE, 2
        mov     rax, rbx
        mov     dr2, rax
        mov     rax, dr7
        or      eax, 0x0f000000
        mov     dr7, rax
        TRAPS   3, mov [rbx + 2], cl
        TRAPS   1, mov cl, [rbx + 2]
        TRAPS   1, mov [rbx], cl
        ; descriptor tables are data that the processor reads by itself
        WATCH   0, gdt + RODATA, R_ANY, 4
        mov     cx, RODATA
        TRAPS   1, mov es, cx
        mov     cx, KDATA
        mov     es, cx
        ; and writes: the frame of an interrupt. The trap comes in front of the handler
        mov     rax, rsp
        and     rax, ~15
        sub     rax, 0x20                       ; CS
        mov     dr0, rax
        mov     eax, 0x000d0402
        mov     dr7, rax
        mov     dword [d_count], 0
        RESUME_AT .frame
        int     0x81
.frame: CHECK_EQ qword [f_vector], 0x81
        CHECK   e
        mov     eax, 0x400
        mov     dr7, rax
        cmp     dword [d_count], 1
        CHECK   ae
        CHECK_EQ qword [d_log], stubs + 0x81 * 16

        ; ---- an instruction that faults behind its first access: it is as if that had not been ----
        mov     rbx, DATA
        WATCH   0, DATA, R_ANY, 8
        mov     rsi, rbx
        mov     rdi, 0x2000000
        EXPECT_FAULT 14, 2, movsb
        CHECK_EQ dword [d_count], 0

        ; ---- REP: after the iteration, RF set in the frame but for the last one ----
        WATCH   0, DATA + 4, R_WRITE, 1
        mov     rsi, DATA + 0x100
        mov     rdi, DATA
        mov     ecx, 8
.rep:   rep movsb
        CHECK_EQ ecx, 0
        CHECK_EQ dword [d_count], 1
        CHECK_EQ dword [d_dr6], 0xffff0ff1
        CHECK_EQ qword [d_rip], .rep
        CHECK_EQ qword [d_rcx], 3
        test    dword [d_flags], 0x10000
        CHECK   nz
        mov     dword [d_count], 0
        mov     rdi, DATA
        mov     ecx, 5
        rep stosb
.rep_end:
        CHECK_EQ dword [d_count], 1
        CHECK_EQ qword [d_rip], .rep_end
        CHECK_EQ qword [d_rcx], 0
        test    dword [d_flags], 0x10000
        CHECK   z
        ; reads: of LODS, and CMPS with its flags
        WATCH   0, DATA + 2, R_ANY, 1
        mov     rsi, DATA
        mov     ecx, 4
        rep lodsb
        CHECK_EQ dword [d_count], 1
        CHECK_EQ qword [d_rcx], 1
        ; an instruction breakpoint on a REP strikes once, whatever interrupts the loop
        WATCH   0, DATA, R_WRITE, 8
        mov     byte [d_resume], 1
        mov     rax, .rep_exec
        mov     dr1, rax
        mov     rax, dr7
        or      eax, 8
        mov     dr7, rax
        mov     dword [d_count], 0
        mov     rdi, DATA
        mov     ecx, 3
.rep_exec:
        rep stosb
.rep_exec_end:
        nop
        mov     byte [d_resume], 0
        CHECK_EQ dword [d_count], 4
        STRUCK  0, 2, .rep_exec
        STRUCK  1, 1, .rep_exec
        STRUCK  2, 1, .rep_exec
        STRUCK  3, 1, .rep_exec_end

        ; ---- MOV SS, POP SS: debug exceptions wait for the next instruction ----
        mov     rbx, DATA
        mov     word [rbx], KDATA
        WATCH   0, DATA, R_ANY, 2
        mov     ss, [rbx]
        nop
.ss_behind:
        nop
        CHECK_EQ dword [d_count], 1
        CHECK_EQ qword [d_rip], .ss_behind
        CHECK_EQ dword [d_dr6], 0xffff0ff1
        ; an instruction breakpoint there does not strike
        UNWATCH
        mov     cx, KDATA
        WATCH   0, .ss_next, R_EXEC, 1
        mov     ss, cx
.ss_next:
        nop
        CHECK_EQ dword [d_count], 0
        ; INT3 comes first: the trap is that of its handler's first instruction
        WATCH   0, DATA, R_ANY, 2
        RESUME_AT .ss_int
        mov     ss, [rbx]
        int3
.ss_int:
        CHECK_EQ qword [f_vector], 3
        CHECK_EQ dword [d_count], 1
        CHECK_EQ qword [d_rip], stubs + 3 * 16
        ; and a fault, too
        WATCH   0, DATA, R_ANY, 2
        RESUME_AT .ss_fault
        mov     ss, [rbx]
        ud2
.ss_fault:
        CHECK_EQ qword [f_vector], 6
        CHECK_EQ dword [d_count], 1
        CHECK_EQ qword [d_rip], stubs + 6 * 16
        UNWATCH

        ; ---- single step ----
        ; together with a data breakpoint: one exception
        WATCH   0, DATA, R_ANY, 2
        TF_ON
        mov     dword [d_count], 0
        mov     al, [rbx]
.step_behind:
        mov     eax, [d_count]
        TF_OFF
        CHECK_EQ eax, 2
        STRUCK  0, 0x4000, .step_behind - 2
        STRUCK  1, 0x4001, .step_behind
        UNWATCH
        ; over MOV SS: one trap, behind the next instruction
        mov     cx, KDATA
        TF_ON
        mov     dword [d_count], 0
        mov     ss, cx
        nop
.step_ss:
        mov     eax, [d_count]
        TF_OFF
        CHECK_EQ eax, 2
        STRUCK  1, 0x4000, .step_ss
        ; STI holds back interrupts, not traps
        mov     al, 0x30
        TF_ON
        mov     dword [d_count], 0
        sti
.step_sti:
        nop
        mov     eax, [d_count]
        cli
        TF_OFF
        CHECK_EQ eax, 3
        STRUCK  1, 0x4000, .step_sti
        ; HLT: the trap wakes it up
        TF_ON
        mov     dword [d_count], 0
        hlt
.step_hlt:
        mov     eax, [d_count]
        TF_OFF
        CHECK_EQ eax, 2
        STRUCK  1, 0x4000, .step_hlt
        ; a trap before the breakpoint on the next instruction
        mov     byte [d_resume], 2              ; RF only for faults
        WATCH   0, .step_exec, R_EXEC, 1
        TF_ON
        mov     dword [d_count], 0
.step_exec:
        nop
.step_exec2:
        mov     eax, [d_count]
        TF_OFF
        mov     byte [d_resume], 0
        CHECK_EQ eax, 3
        STRUCK  0, 0x4000, .step_exec
        STRUCK  1, 1, .step_exec
        STRUCK  2, 0x4000, .step_exec2
        UNWATCH
        ; each iteration, RF set but for the last
        TF_ON
        mov     ecx, 2
        mov     rdi, DATA
        mov     dword [d_count], 0
.step_rep:
        rep stosb
.step_rep2:
        mov     eax, [d_count]
        TF_OFF
        CHECK_EQ eax, 3
        STRUCK  1, 0x4000, .step_rep
        STRUCK  2, 0x4000, .step_rep2
        test    dword [d_log + 1 * 16 + 12], 0x10000
        CHECK   nz
        test    dword [d_log + 2 * 16 + 12], 0x10000
        CHECK   z
        ; on branches (IA32_DEBUGCTL.BTF): behind taken ones only, and each #DB turns that off
        STEP_BRANCHES
        mov     ecx, 2
.btf:   nop
        dec     ecx
        test    ecx, ecx
        jz      .btf2                           ; not taken
        jmp     .btf3
.btf2:  nop
.btf3:  nop
.btf4:  mov     eax, [d_count]
        TF_OFF
        STRUCK  0, 0x4000, .btf3
        STRUCK  1, 0x4000, .btf4
        mov     ecx, 0x1d9
        rdmsr
        CHECK_EQ eax, 0
        ; what always branches does even to the next instruction; and what goes elsewhere by a condition
        STEP_BRANCHES
        jmp     .btf5
.btf5:  mov     eax, [d_count]
        TF_OFF
        STRUCK  0, 0x4000, .btf5
        STEP_BRANCHES
        xor     ecx, ecx
        jrcxz   .btf6
        ud2
.btf6:  mov     eax, [d_count]
        TF_OFF
        STRUCK  0, 0x4000, .btf6
        STEP_BRANCHES
        call    .btf7
        ud2
.btf7:  mov     eax, [d_count]
        TF_OFF
        pop     rcx
        STRUCK  0, 0x4000, .btf7
        ; a repeated string instruction is no branch, TF without BTF is as before, and so is BTF without TF
        mov     rdi, DATA
        STEP_BRANCHES
        mov     ecx, 3
        rep stosb
        mov     eax, [d_count]
        TF_OFF
        CHECK_EQ eax, 0
        STEP_BRANCHES
        TF_OFF
        mov     dword [d_count], 0
        jmp     .btf8
.btf8:  mov     ecx, 0x1d9
        rdmsr
        CHECK_EQ eax, 2
        CHECK_EQ dword [d_count], 0
        ; any other #DB turns it off as well; the bits that are not there stay 0
        int1
        rdmsr
        CHECK_EQ eax, 0
        mov     eax, -1
        xor     edx, edx
        wrmsr
        rdmsr
        CHECK_EQ eax, 2
        xor     eax, eax
        wrmsr
        ; an external interrupt after the trap
        mov     qword [resume], 0
        mov     qword [f_count], 0
        sti
        TF_ON
        mov     dword [d_count], 0
        mov     al, 0x33
        out     0x80, al
.step_out:
        nop
        cli
        TF_OFF
        CHECK_EQ qword [f_count], 1
        CHECK_EQ qword [f_vector], 0x33
        CHECK_EQ qword [f_rip], .step_out
        STRUCK  2, 0x4000, .step_out

        ; ---- ports ----
        WATCH   0, 0x42, R_IO, 1
        NO_TRAP out 0x42, al                    ; not without CR4.DE
        mov     rax, cr4
        or      al, 8
        mov     cr4, rax
        TRAPS   1, out 0x42, al
        TRAPS   1, in al, 0x42
        TRAPS   1, in ax, 0x41
        TRAPS   1, out 0x3f, eax
        NO_TRAP in al, 0x43
        NO_TRAP in ax, 0x40
        mov     rbx, 0x42
        NO_TRAP mov al, [rbx]                   ; memory at that address
        WATCH   1, 0x1236, R_IO, 4
        mov     dx, 0x1237
        TRAPS   2, in al, dx
        mov     dx, 0x1233
        NO_TRAP in al, dx
        mov     dx, 0x1236
        mov     rsi, DATA
        mov     ecx, 2
        mov     dword [d_count], 0
.outs:  rep outsb
.outs_end:
        nop
        CHECK_EQ dword [d_count], 2
        STRUCK  0, 2, .outs
        STRUCK  1, 2, .outs_end
        UNWATCH
        EXPECT_FAULT 6, 0, mov rax, dr5
        mov     rax, cr4
        and     al, ~8
        mov     cr4, rax
        mov     rax, dr5
        CHECK_EQ rax, 0x400

        ; ---- general detect: a fault, RF set, GD off in the handler ----
        mov     byte [d_skip], 3
        mov     eax, 0x2400
        mov     dr7, rax
        mov     dword [d_count], 0
.detect:mov     rax, dr1
        CHECK_EQ dword [d_count], 1
        CHECK_EQ dword [d_dr6], 0xffff2ff0
        CHECK_EQ qword [d_rip], .detect
        CHECK_EQ dword [d_dr7], 0x400
        test    dword [d_flags], 0x10000
        CHECK   nz
        mov     eax, 0x2400
        mov     dr7, rax
        mov     dword [d_count], 0
.detect2:
        mov     dr7, rax                        ; writes, and DR7 itself
        CHECK_EQ dword [d_count], 1
        CHECK_EQ qword [d_rip], .detect2
        mov     byte [d_skip], 0
        or      byte [PD], 4                    ; the program's pages: for everybody
        mov     rax, cr3
        mov     cr3, rax
        ; at privilege 3 it is #GP, GD or not
        EXPECT_USER 13, 0, user_dr

        ; ---- INT1: DR6 stays, GD goes, no privilege is asked for ----
        mov     eax, 0x2400
        mov     dr7, rax
        mov     dword [d_count], 0
        int1
.int1:  nop
        CHECK_EQ dword [d_count], 1
        CHECK_EQ dword [d_dr6], 0xffff0ff0
        CHECK_EQ qword [d_rip], .int1
        CHECK_EQ dword [d_dr7], 0x400
        mov     dword [d_count], 0
        RUN_USER user_int1
        CHECK_EQ qword [f_vector], 0x81
        CHECK_EQ dword [d_count], 1

        ; ---- at privilege 3 ----
        WATCH   0, USTACK - 8, R_WRITE, 8
        RUN_USER user_push
        CHECK_EQ qword [f_vector], 0x81
        CHECK_EQ dword [d_count], 1
        CHECK_EQ qword [d_rip], user_push.behind
        mov     byte [d_resume], 1
        WATCH   0, user_push, R_EXEC, 1
        RUN_USER user_push
        CHECK_EQ dword [d_count], 1
        CHECK_EQ qword [d_rip], user_push
        UNWATCH

        ; BS and BD stay until somebody clears them; B0 .. B3 are of the last exception
        mov     byte [d_keep], 1
        mov     eax, 0xffff6ff8
        mov     dr6, rax
        mov     rbx, DATA
        WATCH   0, DATA, R_WRITE, 8
        mov     [rbx], al
        nop
        CHECK_EQ dword [d_dr6], 0xffff6ff1
        UNWATCH
        END_WITH 0

gate_target:    ud2                             ; (of the call gate in the table)
user_dr:        mov     rax, dr0
user_int1:      int1
                int     0x81
user_push:      push    rax
.behind:        int     0x81

; Notes RIP, DR6, flags; clears DR6; sets RF when told to (1: always, 2: for a fault, told by DR6 without BS).
debug_handler:
        push    rax
        push    rbx
        mov     [d_rcx], rcx
        mov     rbx, [rsp + 16]
        mov     [d_rip], rbx
        mov     rax, [rsp + 32]
        mov     [d_flags], eax
        mov     rax, dr7
        mov     [d_dr7], eax
        mov     eax, [d_count]
        cmp     eax, 15
        ja      .full
        shl     eax, 4
        mov     [d_log + rax], rbx
        mov     rbx, [rsp + 32]
        mov     [d_log + rax + 12], ebx
        mov     rbx, dr6
        mov     [d_log + rax + 8], ebx
.full:  inc     dword [d_count]
        mov     rax, dr6
        mov     [d_dr6], eax
        cmp     byte [d_keep], 0
        jne     .kept
        mov     ebx, 0xffff0ff0
        mov     dr6, rbx
.kept:  cmp     byte [d_resume], 0
        je      .done
        cmp     byte [d_resume], 1
        je      .set
        test    ah, 0x40
        jnz     .done
.set:   or      dword [rsp + 32], 0x10000
.done:  movzx   eax, byte [d_skip]
        add     [rsp + 16], rax
        pop     rbx
        pop     rax
        iretq

        align   16
d_log:          times 16 dq 0, 0
d_rip:          dq 0
d_rcx:          dq 0
d_count:        dd 0
d_dr6:          dd 0
d_dr7:          dd 0
d_flags:        dd 0
d_resume:       db 0
d_skip:         db 0
d_keep:         db 0
