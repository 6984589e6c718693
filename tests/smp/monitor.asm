; MONITOR and MWAIT: processors that wait for a line are woken by every kind of store of another one to it. Each store is at once
; taken back by one of the same kind: who looks only at the line's bytes never sees a difference, and sleeps for ever. The writer
; stores when all have armed; MWAIT may also end by itself, then they look for the writer's word.
%include "smp.inc"

LINE    equ DATA + 0x400        ; watched; 64 bytes of ones
BESIDE  equ LINE + 64           ; the same page, not watched
GO      equ DATA + 0x1000       ; the round whose stores are done
ARMED   equ DATA + 0x1100       ; by processor, 64 bytes each: the round it has armed for
DONE    equ DATA + 0x2100       ; how many have been woken, all in all
ONES    equ DATA + 0xc00
KINDS   equ (stores.end - stores) / 8

main:   mov     eax, 1
        xor     ecx, ecx
        cpuid
        bt      ecx, 3
        CHECK   c
        mov     eax, 5
        cpuid
        CHECK_EQ eax, 64
        CHECK_EQ ebx, 64
        CHECK_EQ ecx, 3
        test    r15d, r15d
        jnz     .ready
        mov     rdi, DATA
        mov     rax, -1
        mov     ecx, 0x1000 / 8
        rep stosq
.ready: call    barrier
        xor     r12d, r12d              ; the round
.round: inc     r12
        test    r15d, r15d
        jz      .write
        call    await
        jmp     .next
.write: call    write
.next:  mov     rax, r13
        imul    rax, KINDS
        cmp     r12, rax
        jb      .round
        call    barrier
        call    alone
        call    barrier
        ret

; Processor 0: when all are armed, one kind of store and back.
write:  mov     ecx, 1
.armed: cmp     ecx, r14d
        je      .store
        mov     eax, ecx
        shl     eax, 6
.not_yet:
        pause
        cmp     [rax + ARMED], r12
        jb      .not_yet
        inc     ecx
        jmp     .armed
.store: mov     [BESIDE], r12           ; wakes nobody, though it may
        mov     rax, r12
        xor     edx, edx
        mov     ecx, KINDS
        div     rcx
        call    [stores + rdx * 8]
        mov     [GO], r12
        lea     rbx, [r14 - 1]
        imul    rbx, r12
.woken: pause
        cmp     [DONE], rbx
        jb      .woken
        CHECK_EQ qword [LINE], -1
        CHECK_EQ qword [LINE + 56], -1
        ret

; The others.
await:  mov     ebx, r15d
        shl     ebx, 6
        mov     rax, LINE + 8
        xor     ecx, ecx
        xor     edx, edx
        monitor
        mov     [rbx + ARMED], r12
        cmp     [GO], r12
        jae     .over
        mwait
.over:  pause
        cmp     [GO], r12
        jb      .over
        lock inc qword [DONE]
        ret

        align   8
stores: dq      .byte, .word, .dword, .qword, .xchg, .add, .cas, .cas16, .movs, .stos, .push, .sse, .sse_half, .mmx, .x87, .nti
        dq      .fxsave, .enter, .set, .bts, .far
.end:

.byte:  mov     byte [LINE + 3], 0
        mov     byte [LINE + 3], -1
        ret
.word:  mov     word [LINE + 62], 0
        mov     word [LINE + 62], -1
        ret
.dword: mov     dword [LINE], 0
        mov     dword [LINE], -1
        ret
.qword: mov     qword [LINE + 56], 0
        mov     qword [LINE + 56], -1
        ret
.xchg:  xor     eax, eax
        xchg    [LINE + 16], eax
        xchg    [LINE + 16], eax
        ret
.add:   lock add dword [LINE + 20], 1
        lock sub dword [LINE + 20], 1
        ret
.cas:   mov     rax, -1
        xor     ecx, ecx
        lock cmpxchg [LINE + 24], rcx
        xor     eax, eax
        mov     rcx, -1
        lock cmpxchg [LINE + 24], rcx
        ret
.cas16: mov     rax, -1
        mov     rdx, -1
        xor     ebx, ebx
        xor     ecx, ecx
        lock cmpxchg16b [LINE + 32]
        xor     eax, eax
        xor     edx, edx
        mov     rbx, -1
        mov     rcx, -1
        lock cmpxchg16b [LINE + 32]
        ret
.movs:  mov     rsi, zeros
        mov     rdi, LINE - 16
        mov     ecx, 24
        rep movsb
        mov     rsi, ONES
        mov     rdi, LINE - 16
        mov     ecx, 24
        rep movsb
        ret
.stos:  xor     eax, eax
        mov     rdi, LINE + 60
        stosd
        mov     rdi, LINE + 60
        dec     eax
        stosd
        ret
.push:  mov     rax, rsp
        mov     rsp, LINE + 16
        push    0
        mov     rsp, LINE + 16
        push    -1
        mov     rsp, rax
        ret
.sse:   pxor    xmm0, xmm0
        pcmpeqd xmm1, xmm1
        movdqa  [LINE + 48], xmm0
        movdqa  [LINE + 48], xmm1
        ret
.sse_half:
        pxor    xmm0, xmm0
        pcmpeqd xmm1, xmm1
        movlps  [LINE + 8], xmm0
        movlps  [LINE + 8], xmm1
        ret
.mmx:   pxor    mm0, mm0
        pcmpeqd mm1, mm1
        movq    [LINE + 8], mm0
        movq    [LINE + 8], mm1
        emms
        ret
.x87:   fldz
        fstp    dword [LINE + 8]
        mov     dword [LINE + 8], -1
        ret
.nti:   xor     eax, eax
        movnti  [LINE + 4], eax
        dec     eax
        movnti  [LINE + 4], eax
        ret
.fxsave:
        fxsave  [LINE - 128]            ; ST(6) to XMM1
        mov     rdi, LINE - 128
        mov     rax, -1
        mov     ecx, 512 / 8
        rep stosq
        ret
.enter: mov     rax, rsp
        mov     rdx, rbp
        mov     rsp, LINE + 24
        xor     ebp, ebp
        enter   0, 0
        mov     rsp, LINE + 24
        mov     rbp, -1
        enter   0, 0
        mov     rsp, rax
        mov     rbp, rdx
        ret
.set:   stc
        setc    [LINE + 40]
        mov     byte [LINE + 40], -1
        ret
.bts:   btr     dword [LINE + 44], 7
        bts     dword [LINE + 44], 7
        ret
.far:   sub     rsp, 16
        sgdt    [LINE + 50]
        mov     qword [LINE + 50], -1
        mov     word [LINE + 58], -1
        add     rsp, 16
        ret
        align   16
zeros:  times 64 db 0

; What else ends MWAIT: an interrupt (also one that IF holds back, if ECX says so); and it does not wait when nothing is armed.
alone:  HANDLER 0x41, on_interrupt
        call    barrier
        mov     ebx, r15d
        shl     ebx, 6
        mov     qword [rbx + ARMED], 0
        ; IF = 1
        call    arm
        call    send_self
        xor     eax, eax
        xor     ecx, ecx
        sti
        mwait
        cli
        CHECK_EQ qword [rbx + ARMED], 1
        ; IF = 0 and ECX = 1
        call    arm
        call    send_self
        mov     ecx, 1
        mwait
        CHECK_EQ qword [rbx + ARMED], 1
        sti
        nop
        cli
        CHECK_EQ qword [rbx + ARMED], 2
        ; what is no memory is not armed
        mov     rax, APIC
        xor     ecx, ecx
        monitor
        mwait
        ret

arm:    mov     eax, r15d
        shl     eax, 6
        add     rax, ARMED + 32
        xor     ecx, ecx
        xor     edx, edx
        monitor
        ret

send_self:
        mov     eax, I_SELF | I_ASSERT | 0x41
        xor     edx, edx
        jmp     send

on_interrupt:
        mov     ebx, r15d
        shl     ebx, 6
        inc     qword [rbx + ARMED]
        jmp     eoi

