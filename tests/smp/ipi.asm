; Interprocessor interrupts of every kind from everybody to everybody: each arrives once, at those who are meant.
%include "smp.inc"

V_FIXED     equ 0x40                    ; + number of the sender
V_ALL       equ 0xa0
V_WAKE      equ 0xb0
STORM       equ DATA                    ; 64 x 64 counters (dd): [receiver][sender]
GOT         equ DATA + 0x10000          ; per processor 64 bytes: dd
NMIS        equ DATA + 0x20000
WAKES       equ DATA + 0x30000
STARTS      equ DATA + 0x40000
TOTAL       equ DATA + 0x50000
TRAMPOLINE  equ 0x2000                  ; where SIPI starts in the last test

main:   test    r15d, r15d
        jnz     .handlers_are_there
%assign i 0
%rep 64
        HANDLER V_FIXED + i, on_fixed
%assign i i + 1
%endrep
        HANDLER V_ALL, on_all
        HANDLER V_WAKE, on_wake
        HANDLER 2, on_nmi
.handlers_are_there:
        call    barrier
        sti
        call    storm
        call    shorthands
        call    lowest
        call    nmis
        call    wake
        cli
        cmp     r14d, 1
        je      .done
        call    restart
.done:  ret

; ecx is the vector
on_fixed:
        mov     edx, r15d
        shl     edx, 6
        add     edx, ecx
        sub     edx, V_FIXED
        inc     dword [STORM + rdx * 4]
        jmp     eoi
on_all: mov     edx, r15d
        shl     edx, 6
        inc     dword [GOT + rdx]
        lock inc dword [TOTAL]
        jmp     eoi
on_nmi: mov     edx, r15d
        shl     edx, 6
        inc     dword [NMIS + rdx]
        lock inc dword [TOTAL]
        ret
on_wake:
        mov     edx, r15d
        shl     edx, 6
        inc     dword [WAKES + rdx]
        jmp     eoi

; Everybody to everybody (oneself too), one at a time for each pair; all pairs at once.
storm:  mov     r12, 1
.round: xor     r11d, r11d
.next:  lea     edx, [r15d + r11d]
        cmp     edx, r14d
        jb      .in_range
        sub     edx, r14d
.in_range:
        mov     eax, r15d
        add     eax, V_FIXED | I_ASSERT
        call    send
        shl     edx, 6
        add     edx, r15d
.wait:  pause
        mov     eax, [STORM + rdx * 4]
        cmp     eax, r12d
        jb      .wait
        CHECK_EQ eax, r12d
        inc     r11d
        cmp     r11d, r14d
        jb      .next
        inc     r12
        cmp     r12, r13
        jbe     .round
        call    barrier
        ; nothing came twice
        mov     edx, r15d
        shl     edx, 6
        xor     ecx, ecx
.check: lea     eax, [edx + ecx]
        CHECK_EQ dword [STORM + rax * 4], r13d
        inc     ecx
        cmp     ecx, r14d
        jb      .check
        call    barrier
        ret

; SHORTHAND: each processor in turn sends; how many come to it, how many in all
%macro WAIT_TOTAL 0
        push    rax
%%wait: pause
        mov     eax, [TOTAL]
        cmp     eax, r10d
        jb      %%wait
        CHECK_EQ eax, r10d
        pop     rax
%endmacro

shorthands:
        mov     r12, r13
.round: xor     r11d, r11d              ; whose turn
.turn:  call    barrier
        cmp     r15d, r11d
        jne     .others
        mov     r10d, [TOTAL]
        mov     eax, V_ALL | I_ASSERT | I_SELF
        call    send
        inc     r10d
        WAIT_TOTAL
        mov     eax, V_ALL | I_ASSERT | I_ALL
        call    send
        add     r10d, r14d
        WAIT_TOTAL
        mov     eax, V_ALL | I_ASSERT | I_OTHERS
        call    send
        lea     r10d, [r10d + r14d - 1]
        WAIT_TOTAL
        mov     edx, 0xff               ; the physical destination that is everybody
        cmp     dword [P_X2APIC], 0
        je      .broadcast
        mov     edx, -1
.broadcast:
        mov     eax, V_ALL | I_ASSERT
        call    send
        add     r10d, r14d
        WAIT_TOTAL
        mov     edx, 0xfe               ; nobody has this number
        mov     eax, V_ALL | I_ASSERT
        call    send
        mov     eax, 0x0f | I_ASSERT | I_ALL    ; a vector that is none
        call    send
        mov     eax, I_SMI | I_ASSERT | I_ALL   ; no effect here
        call    send
        mov     eax, I_INIT | 0x8000 | I_ALL    ; INIT level de-assert: nothing
        call    send
        cmp     dword [P_X2APIC], 0
        je      .no_self_ipi
        push    rcx
        mov     ecx, 0x83f
        mov     eax, V_ALL
        xor     edx, edx
        wrmsr
        pop     rcx
        inc     r10d
        WAIT_TOTAL
.no_self_ipi:
.others:
        call    barrier
        inc     r11d
        cmp     r11d, r14d
        jb      .turn
        dec     r12
        jnz     .round
        ; each has had the same: self, 4 times per turn of anybody less one of its own
        mov     edx, r15d
        shl     edx, 6
        mov     eax, r14d
        imul    eax, eax, 3             ; ALL, OTHERS, broadcast of each
        cmp     dword [P_X2APIC], 0
        je      .sum
        inc     eax                     ; SELF IPI
.sum:   imul    eax, r13d               ; the shorthand "self" makes up for OTHERS, which one does not get from oneself
        CHECK_EQ [GOT + rdx], eax
        call    barrier
        ret

; Lowest priority to everybody: one takes it. The one with the lower task priority, if there is one.
lowest: call    barrier
        test    r15d, r15d
        jnz     .others
        mov     r10d, [TOTAL]
        mov     r12, r13
        shl     r12, 2
.next:  mov     edx, 0xff
        cmp     dword [P_X2APIC], 0
        je      .send
        mov     edx, -1
.send:  mov     eax, V_ALL | I_LOWEST | I_ASSERT
        call    send
        inc     r10d
        WAIT_TOTAL
        dec     r12
        jnz     .next
.others:
        call    barrier
        ; all but the last raise their priority
        mov     edx, r15d
        shl     edx, 6
        mov     r9d, [GOT + rdx]
        lea     eax, [r14d - 1]
        cmp     r15d, eax
        je      .low
        mov     ecx, R_TPR
        mov     eax, 0x20
        call    apic_write
.low:   call    barrier
        test    r15d, r15d
        jnz     .others2
        mov     r12, r13
.next2: mov     edx, 0xff
        cmp     dword [P_X2APIC], 0
        je      .send2
        mov     edx, -1
.send2: mov     eax, V_ALL | I_LOWEST | I_ASSERT
        call    send
        inc     r10d
        WAIT_TOTAL
        dec     r12
        jnz     .next2
.others2:
        call    barrier
        mov     ecx, R_TPR
        xor     eax, eax
        call    apic_write
        mov     edx, r15d
        shl     edx, 6
        mov     r8d, [GOT + rdx]
        sub     r8d, r9d
        lea     eax, [r14d - 1]
        cmp     r15d, eax
        jne     .none
        sub     r8d, r13d
.none:  CHECK_EQ r8d, 0
        call    barrier
        ret

; NMIs, by physical destination, to the next one; with interrupts off they come as well.
nmis:   call    barrier
        cli
        lea     edx, [r15d + 1]
        cmp     edx, r14d
        jb      .in_range
        xor     edx, edx
.in_range:
        mov     r11d, edx
        shl     r11d, 6
        mov     r12d, 1
.next:  mov     eax, I_NMI | I_ASSERT
        call    send
.wait:  pause
        mov     eax, [NMIS + r11]
        cmp     eax, r12d
        jb      .wait
        CHECK_EQ eax, r12d
        inc     r12d
        cmp     r12d, r13d
        jbe     .next
        call    barrier
        mov     eax, r15d
        shl     eax, 6
        CHECK_EQ [NMIS + rax], r13d
        call    barrier
        ; all but oneself by shorthand
        test    r15d, r15d
        jnz     .done
        mov     r10d, [TOTAL]
        mov     eax, I_NMI | I_ASSERT | I_OTHERS
        call    send
        lea     r10d, [r10d + r14d - 1]
        WAIT_TOTAL
.done:  call    barrier
        sti
        ret

; Sleeping is interruptible at every moment: look, sleep, be woken; one wake-up each time, sent whenever.
wake:   call    barrier
        test    r15d, 1
        jnz     .sleeper
        lea     edx, [r15d + 1]
        cmp     edx, r14d
        jae     .done
        mov     r11d, edx
        shl     r11d, 6
        mov     r12d, 1
.next:  mov     eax, V_WAKE | I_ASSERT
        call    send
.acked: pause
        mov     eax, [WAKES + r11 + 4]
        cmp     eax, r12d
        jb      .acked
        inc     r12d
        cmp     r12d, r13d
        jbe     .next
        jmp     .done
.sleeper:
        mov     r11d, r15d
        shl     r11d, 6
        mov     r12d, 1
.sleep: cli
        cmp     [WAKES + r11], r12d
        jae     .awake
        sti
        hlt
        jmp     .sleep
.awake: sti
        CHECK_EQ [WAKES + r11], r12d
        mov     [WAKES + r11 + 4], r12d
        inc     r12d
        cmp     r12d, r13d
        jbe     .sleep
.done:  call    barrier
        ret

; INIT and SIPI: processor 0 starts all others again and again, at another place. The last to be woken sleep for good, so this
; is the last test; the barriers of those that wait in INIT are left out.
restart:
        call    barrier
        test    r15d, r15d
        jz      .sender
.sleep: cli
        hlt
        jmp     .sleep
.sender:
        lea     rsi, [.trampoline]
        mov     edi, TRAMPOLINE
        mov     ecx, .trampoline_end - .trampoline
        rep movsb
        mov     r12d, 1
.next:  mov     r11d, 1
.each:  mov     edx, r11d
        mov     eax, I_INIT | I_ASSERT
        call    send
        mov     eax, I_SIPI | I_ASSERT | TRAMPOLINE >> 12
        call    send
        call    send                    ; a second one is not heard
        inc     r11d
        cmp     r11d, r14d
        jb      .each
        mov     r11d, 1
.check: mov     eax, [0x3000 + r11 * 4]
        cmp     eax, r12d
        pause
        jb      .check
        CHECK_EQ eax, r12d
        inc     r11d
        cmp     r11d, r14d
        jb      .check
        inc     r12d
        cmp     r12d, r13d
        jbe     .next
        END_WITH 0

        bits    16
.trampoline:
        cli
        mov     ax, cs                  ; TRAMPOLINE / 16
        mov     ds, ax
        xor     cx, cx
        mov     es, cx
        mov     eax, 1
        cpuid
        shr     ebx, 24
        shl     bx, 2
        inc     dword [es:bx + 0x3000]
.stop:  hlt
        jmp     .stop
.trampoline_end:
        bits    64
