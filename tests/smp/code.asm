; Code that changes: a processor's own, ahead of it on the same line and behind it; another processor's, by the protocol of
; SDM 3A 8.1.3 and by single aligned stores; and through other addresses of the same page.
%include "smp.inc"

CODE    equ PAGES + 0x10000             ; a page per processor, from here
SHARED  equ PAGES + 0x80000             ; a page for all
ALIAS   equ PAGES + 0x81000             ; the same page by another address
SEQ     equ DATA                        ; what has been published
ACKS    equ DATA + 64                   ; how many have seen it
STOP    equ DATA + 128

main:
        test    r15d, r15d
        jnz     .mapped
        mov     qword [PT + (ALIAS - PAGES) / 4096 * 8], SHARED | 3
.mapped:
        call    barrier
        mov     rax, cr3
        mov     cr3, rax
        call    own
        call    barrier
        cmp     r14d, 1
        je      .done
        call    protocol
        call    free_running
        call    alias
        call    straight
.done:  ret

; ---- one's own ----

; Copies rcx bytes from rsi to this processor's page; rbx = there.
copy:   mov     ebx, r15d
        shl     ebx, 12
        add     rbx, CODE
        mov     rdi, rbx
        rep movsb
        ret

own:    lea     rsi, [.ahead]
        mov     ecx, .ahead_end - .ahead
        call    copy
        mov     r12, r13
.round: mov     eax, r12d
        call    rbx                     ; the argument goes into an instruction just ahead; it comes back, negated by another
        CHECK_EQ ecx, r12d
        mov     edx, r12d
        not     edx
        CHECK_EQ eax, edx
        dec     r12
        jnz     .round
        ; a loop whose body counts differently each time round
        lea     rsi, [.behind]
        mov     ecx, .behind_end - .behind
        call    copy
        mov     r12, r13
.again: call    rbx
        CHECK_EQ eax, 0 + 1 + 2 + 3 + 4 + 5 + 6 + 7
        dec     r12
        jnz     .again
        ; the string instruction that overwrites what follows it
        lea     rsi, [.string]
        mov     ecx, .string_end - .string
        call    copy
        mov     r12, r13
.more:  mov     eax, r12d
        and     eax, 0x7f
        call    rbx
        mov     edx, r12d
        and     edx, 0x7f
        imul    edx, edx, 0x01010101
        CHECK_EQ eax, edx
        dec     r12
        jnz     .more
        ret

.ahead: mov     [rel .ahead_value + 1], eax
.ahead_value:
        mov     ecx, 0
        mov     eax, ecx
        mov     byte [rel .ahead_operation + 1], 0xd0   ; NOT EAX
        mov     byte [rel .ahead_operation], 0xf7
.ahead_operation:
        nop
        nop
        mov     word [rel .ahead_operation], 0x9090
        ret
.ahead_end:

.behind:
        xor     eax, eax
        mov     ecx, 8
        mov     byte [rel .behind_add + 2], 0
.behind_loop:
        nop
.behind_add:
        add     eax, 0
        inc     byte [rel .behind_add + 2]
        dec     ecx
        jnz     .behind_loop
        ret
.behind_end:

.string:
        lea     rdi, [rel .string_value + 1]
        mov     ecx, 4
        rep stosb
.string_value:
        mov     eax, 0
        ret
.string_end:

; ---- another's: store, publish; the others see what is published, serialize, run ----

; SHARED is "mov eax, n; ret" with n at SHARED + 1, so that it is not aligned.
fresh:  call    barrier
        test    r15d, r15d
        jnz     .wait
        mov     qword [SEQ], 0
        mov     qword [ACKS], 0
        mov     qword [STOP], 0
        mov     byte [SHARED], 0xb8
        mov     dword [SHARED + 1], 0
        mov     byte [SHARED + 5], 0xc3
.wait:  call    barrier
        ret

; Processor 0 publishes rounds 1 .. r13, with rbx where it stores; waits for all others each time.
publish:
        mov     r12d, 1
.next:  mov     [rbx], r12d
        mov     [SEQ], r12
        mov     rax, r14
        dec     rax
        imul    rax, r12
.acks:  pause
        cmp     [ACKS], rax
        jne     .acks
        inc     r12
        cmp     r12, r13
        jbe     .next
        ret

; The others: each publication is run once, and is what was published.
follow: mov     r12d, 1
.wait:  pause
        cmp     [SEQ], r12
        jne     .wait
        xor     eax, eax
        cpuid
        mov     eax, SHARED
        call    rax
        CHECK_EQ eax, r12d
        lock inc qword [ACKS]
        inc     r12
        cmp     r12, r13
        jbe     .wait
        ret

protocol:
        call    fresh
        test    r15d, r15d
        jnz     follow
        mov     rbx, SHARED + 1
        jmp     publish

alias:  call    fresh
        test    r15d, r15d
        jnz     follow
        mov     rbx, ALIAS + 1
        jmp     publish

; The same with nothing between the serializing instruction and the changed one: no branch, not another block.
straight:
        call    fresh
        test    r15d, r15d
        jnz     .follow
        lea     rbx, [.changed + 1]
        call    publish
        call    barrier
        ret
.follow:
        mov     r12d, 1
.wait:  pause
        cmp     [SEQ], r12
        jne     .wait
        xor     eax, eax
        cpuid
.changed:
        mov     eax, 0
        CHECK_EQ eax, r12d
        lock inc qword [ACKS]
        inc     r12
        cmp     r12, r13
        jbe     .wait
        call    barrier
        ret

; Processor 0 changes eight aligned bytes at once as often as it can and asks nobody; what the others run is always one whole
; version, never an older one than before; and after the last has been published, that one. Between versions the instructions
; differ: "mov eax, n; ret", and "mov ecx, n; xchg eax, ecx; ret".
free_running:
        call    fresh
        test    r15d, r15d
        jnz     .others
        mov     r12, r13
        shl     r12, 3
        mov     ecx, 1
.next:  mov     rax, 0x9090c300000000b8
        test    cl, 1
        jz      .even
        mov     rax, 0x90c39100000000b9
.even:  mov     rdx, rcx
        shl     rdx, 8
        or      rax, rdx
        mov     [SHARED], rax
        mov     [SEQ], rcx
        inc     ecx
        cmp     rcx, r12
        jbe     .next
        mov     qword [STOP], 1
        call    barrier
        ret
.others:
        xor     r12d, r12d              ; what was seen last
        xor     r11d, r11d
.run:   mov     r10, [SEQ]
        mov     eax, SHARED
        call    rax
        cmp     eax, r12d               ; never back
        CHECK   ae
        mov     r12d, eax
        cmp     qword [STOP], 0
        je      .run
        xor     eax, eax
        cpuid
        mov     eax, SHARED
        call    rax
        mov     rdx, r13
        shl     rdx, 3
        CHECK_EQ eax, edx
        call    barrier
        ret
