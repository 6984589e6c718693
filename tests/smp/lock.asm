; Option not 0: aligned operands only, and no ADC and SBB.
;
; Every instruction that can be locked, contended by all processors: no update is lost and no value is seen twice. First on
; aligned operands, then across a cache line, then across two pages that are not neighbours in memory; odd processors go
; through other addresses of the same memory.
%include "smp.inc"

ALIAS   equ 0x20000                     ; from one view of the two pages to the other
SPLIT   equ PAGES + 0x10000             ; first of two pages, with other frames behind them
FRAME1  equ 0xa00000
FRAME2  equ 0x900000
TICKETS equ 0xb00000                    ; a byte each

; BEGIN_CASE initial value; the operand is at rbx
%macro BEGIN_CASE 1
        call    barrier
        test    r15d, r15d
        jnz     %%ready
        mov     rax, %1
        mov     [rbx], rax
%%ready:
        call    barrier
        mov     r12, r13
%endmacro

; END_CASE size register, its expectation in rdx is computed by the code before
%macro END_CASE 3                       ; register to load with, register to compare, code that leaves the expectation in rdx
        call    barrier
        %3
        mov     %1, [rbx]
        CHECK_EQ %1, %2
%endmacro

%macro TIMES_ALL 0                      ; rdx = processors * rounds
        mov     rdx, r14
        imul    rdx, r13
%endmacro
%macro MINUS_ALL 0
        TIMES_ALL
        neg     rdx
%endmacro
%macro THRICE_ALL 0
        TIMES_ALL
        imul    rdx, rdx, 3
%endmacro
%macro ZERO 0
        xor     edx, edx
%endmacro

; COUNT size name, rax part, rcx part, rdx part
%macro COUNT 4
        BEGIN_CASE 0
%%inc:  lock inc %1 [rbx]
        dec     r12
        jnz     %%inc
        END_CASE %2, %4, TIMES_ALL

        BEGIN_CASE 0
%%dec:  lock dec %1 [rbx]
        dec     r12
        jnz     %%dec
        END_CASE %2, %4, MINUS_ALL

        BEGIN_CASE 0
        mov     ecx, 3
%%add:  lock add [rbx], %3
        dec     r12
        jnz     %%add
        END_CASE %2, %4, THRICE_ALL

        BEGIN_CASE 0
%%sub:  lock sub %1 [rbx], 1
        dec     r12
        jnz     %%sub
        END_CASE %2, %4, MINUS_ALL

        cmp     qword [P_OPTION], 0
        jne     %%no_carry
        BEGIN_CASE 0
        mov     ecx, 2
%%adc:  stc
        lock adc [rbx], %3
        dec     r12
        jnz     %%adc
        END_CASE %2, %4, THRICE_ALL

        BEGIN_CASE 0
%%sbb:  stc
        lock sbb %1 [rbx], 0
        dec     r12
        jnz     %%sbb
        END_CASE %2, %4, MINUS_ALL
%%no_carry:

        BEGIN_CASE 0x35                 ; twice each: an even number in all
%%not:  lock not %1 [rbx]
        lock not %1 [rbx]
        dec     r12
        jnz     %%not
        END_CASE %2, %4, {mov edx, 0x35}

        BEGIN_CASE 0x35
%%neg:  lock neg %1 [rbx]
        lock neg %1 [rbx]
        dec     r12
        jnz     %%neg
        END_CASE %2, %4, {mov edx, 0x35}

        BEGIN_CASE 0
%%xadd: mov     ecx, 1
        lock xadd [rbx], %3
        dec     r12
        jnz     %%xadd
        END_CASE %2, %4, TIMES_ALL

        BEGIN_CASE 0
%%cas:  mov     %2, [rbx]
%%again:
        mov     ecx, eax
        inc     ecx
%ifidn %1, qword
        lea     rcx, [rax + 1]
%endif
        lock cmpxchg [rbx], %3
        jne     %%again
        dec     r12
        jnz     %%cas
        END_CASE %2, %4, TIMES_ALL

        ; A lock by XCHG (which needs no prefix) around a count that is not locked.
        mov     qword [counter], 0
        BEGIN_CASE 0
%%lock: mov     ecx, 1
%%taken:
        pause
        xchg    [rbx], %3
        test    %3, %3
        jnz     %%taken
        inc     qword [counter]
        mov     %1 [rbx], 0
        dec     r12
        jnz     %%lock
        call    barrier
        TIMES_ALL
        CHECK_EQ [counter], rdx

        ; Each its own bit, eight of them: OR finds it clear and sets it, AND finds it set and clears it, XOR twice.
        BEGIN_CASE 0
        mov     ecx, r15d
        and     ecx, 7
        mov     eax, 1
        shl     eax, cl
        mov     ecx, eax
        mov     r8d, eax                ; the bit
        mov     r9, rcx
        not     r9                      ; its complement
        cmp     r15d, 8
        jae     %%bits_done
%%or:   mov     rcx, r8
        lock or [rbx], %3
        mov     %2, [rbx]
        test    al, r8b
        CHECK   nz
        mov     rcx, r9
        lock and [rbx], %3
        mov     %2, [rbx]
        test    al, r8b
        CHECK   z
        mov     rcx, r8
        lock xor [rbx], %3
        mov     %2, [rbx]
        test    al, r8b
        CHECK   nz
        lock xor [rbx], %3
        dec     r12
        jnz     %%or
%%bits_done:
        END_CASE %2, %4, ZERO
%endmacro

; BITS rax part, rcx part, width
%macro BITS_OF 3
        BEGIN_CASE 0
        mov     ecx, r15d
        and     ecx, %3 - 1
        cmp     r15d, %3
        jae     %%done
%%bts:  lock bts [rbx], %2
        CHECK   nc
        lock btc [rbx], %2
        CHECK   c
        lock btc [rbx], %2
        CHECK   nc
        lock btr [rbx], %2
        CHECK   c
        dec     r12
        jnz     %%bts
%%done: call    barrier
        xor     edx, edx
        mov     %1, [rbx]
        CHECK_EQ %1, 0
%endmacro

; Two halves that change together.
%macro CMPXCHG8B_CASE 0
        BEGIN_CASE 0
%%next: mov     eax, [rbx]
        mov     edx, [rbx + 4]
%%again:
        lea     ecx, [edx - 1]
        mov     r10, rbx
        lea     ebx, [eax + 1]
        lock cmpxchg8b [r10]
        mov     rbx, r10
        jne     %%again
        lea     ecx, [eax + edx]        ; what was there: n and -n
        CHECK_EQ ecx, 0
        dec     r12
        jnz     %%next
        call    barrier
        TIMES_ALL
        CHECK_EQ [rbx], edx
        neg     edx
        CHECK_EQ [rbx + 4], edx
%endmacro

main:
        test    r15d, r15d
        jnz     .mapped
%assign view 0
%rep 2
        mov     qword [PT + (SPLIT + view * ALIAS - PAGES) / 4096 * 8], FRAME1 | 3
        mov     qword [PT + (SPLIT + view * ALIAS + 4096 - PAGES) / 4096 * 8], FRAME2 | 3
%assign view view + 1
%endrep
.mapped:
        call    barrier
        mov     rax, cr3
        mov     cr3, rax
        ; the operand: aligned, across a line, across a page
        mov     rbx, DATA
        call    all
        cmp     qword [P_OPTION], 0
        jne     .aligned
        mov     rbx, DATA + 63
        call    all
        mov     rbx, SPLIT + 0xfff
        test    r15d, 1
        jz      .even
        add     rbx, ALIAS
.even:  call    all
        call    bystander
.aligned:
        call    wide
        call    tickets
        ret

all:
        COUNT   byte, al, cl, dl
        COUNT   word, ax, cx, dx
        COUNT   dword, eax, ecx, edx
        COUNT   qword, rax, rcx, rdx
        BITS_OF ax, cx, 16
        BITS_OF eax, ecx, 32
        BITS_OF rax, rcx, 64
        CMPXCHG8B_CASE
        ret

; 16 bytes, which have to be aligned: n and not n.
wide:
        mov     rbx, DATA
        BEGIN_CASE 0
        test    r15d, r15d
        jnz     .start
        mov     qword [rbx + 8], -1
.start: call    barrier
.next:  mov     rax, [rbx]
        mov     rdx, [rbx + 8]
.again: mov     rcx, rax
        inc     rcx
        mov     r10, rbx
        mov     rbx, rcx
        not     rcx
        lock cmpxchg16b [r10]
        mov     rbx, r10
        jne     .again
        not     rdx
        CHECK_EQ rax, rdx
        dec     r12
        jnz     .next
        call    barrier
        TIMES_ALL
        CHECK_EQ [rbx], rdx
        not     rdx
        CHECK_EQ [rbx + 8], rdx
        ; misaligned is a fault
        test    r15d, r15d
        jnz     .not_me
        EXPECT_FAULT 13, 0, lock cmpxchg16b [DATA + 8]
.not_me:
        call    barrier
        ret

; XADD gives each number once, and stores of single bytes next to each other do not disturb each other.
tickets:
        mov     rbx, DATA
        BEGIN_CASE 0
.next:  mov     eax, 1
        lock xadd [rbx], rax
        inc     byte [TICKETS + rax]
        dec     r12
        jnz     .next
        call    barrier
        test    r15d, r15d
        jnz     .not_me
        TIMES_ALL
        lea     rdi, [TICKETS]
.check: CHECK_EQ byte [rdi], 1
        mov     byte [rdi], 0
        inc     rdi
        dec     rdx
        jnz     .check
        CHECK_EQ byte [rdi], 0
.not_me:
        call    barrier
        ret

; Plain increments of a byte by its only owner, while the others lock the quadword around it across the page: they write
; the byte back as it was.
bystander:
        mov     rbx, SPLIT + 0xffc
        BEGIN_CASE 0
        cmp     r14d, 1
        je      .last
        test    r15d, r15d
        jnz     .others
.own:   inc     byte [rbx + 5]
        dec     r12
        jnz     .own
        jmp     .last
.others:
        lock or qword [rbx], 0
        dec     r12
        jnz     .others
.last:  call    barrier
        cmp     r14d, 1
        je      .done
        CHECK_EQ byte [rbx + 5], r13b
.done:  ret

        align   64
counter: dq     0
