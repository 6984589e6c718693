; Memory ordering: outcomes that the x86 model (total store order; SDM 3A 8.2) forbids never occur. Each test works through
; SLOTS pairs of locations per round, so that the processors meet somewhere; what each saw is compared afterwards.
; Processors beyond those of a test (and all of them between tests) make noise elsewhere.
%include "smp.inc"

SLOTS   equ 128
X       equ DATA                        ; SLOTS locations, 128 bytes apart; y is 64 bytes behind x
Y       equ 64
SEEN    equ DATA + 0x100000             ; per processor 0x10000: SLOTS pairs of qwords
WIDE    equ DATA + 0x200000

; TEST processors, check: the macros P0 .. P3 are its programs: rsi is x (y at rsi + Y), rdi where what was seen goes.
; check is a routine: rsi as above, r8 .. r11 what the processors saw (rdi of each).
%macro TEST 3
        cmp     r14d, %1
        jb      %%skip
        mov     r12, r13
%%round:
        call    clear
        call    barrier
        lea     rsi, [X]
        mov     eax, r15d
        shl     eax, 16
        lea     rdi, [rax + SEEN]
        mov     ecx, SLOTS
        cmp     r15d, %1
        jae     %%noise
        call    delay
        cmp     r15d, 1
        je      %%p1
        cmp     r15d, 2
        je      %%p2
        cmp     r15d, 3
        je      %%p3
%%p0:   %2_P0
        add     rsi, 128
        add     rdi, 16
        dec     ecx
        jnz     %%p0
        jmp     %%done
%%p1:   %2_P1
        add     rsi, 128
        add     rdi, 16
        dec     ecx
        jnz     %%p1
        jmp     %%done
%%p2:   %2_P2
        add     rsi, 128
        add     rdi, 16
        dec     ecx
        jnz     %%p2
        jmp     %%done
%%p3:   %2_P3
        add     rsi, 128
        add     rdi, 16
        dec     ecx
        jnz     %%p3
        jmp     %%done
%%noise:
        lock inc qword [gs:A_SCRATCH]
        dec     ecx
        jnz     %%noise
%%done: call    barrier
        test    r15d, r15d
        jnz     %%checked
        lea     rsi, [X]
        lea     r8, [SEEN]
        mov     ecx, SLOTS
%%check:
        %3
        add     rsi, 128
        add     r8, 16
        dec     ecx
        jnz     %%check
%%checked:
        dec     r12
        jnz     %%round
%%skip: call    barrier
%endmacro

%macro NOTHING 0
%endmacro

%define SEEN1   r8 + 0x10000
%define SEEN2   r8 + 0x20000
%define SEEN3   r8 + 0x30000

; Two values that must not come together.
%macro NOT_BOTH 4
        cmp     qword [%1], %2
        jne     %%fine
        cmp     qword [%3], %4
        CHECK   ne
%%fine:
%endmacro

; ---- store buffering: with something in between that drains the buffer ----

%macro SB_P0 0
        mov     qword [rsi], 1
        FENCE
        mov     rax, [rsi + Y]
        mov     [rdi], rax
%endmacro
%macro SB_P1 0
        mov     qword [rsi + Y], 1
        FENCE
        mov     rax, [rsi]
        mov     [rdi], rax
%endmacro
%macro SB_CPUID_P0 0
        mov     qword [rsi], 1
        push    rcx
        xor     eax, eax
        cpuid
        pop     rcx
        mov     rax, [rsi + Y]
        mov     [rdi], rax
%endmacro
%macro SB_CPUID_P1 0
        mov     qword [rsi + Y], 1
        push    rcx
        xor     eax, eax
        cpuid
        pop     rcx
        mov     rax, [rsi]
        mov     [rdi], rax
%endmacro
; The store itself locked
%macro SB_STORE_P0 0
        mov     eax, 1
        xchg    [rsi], rax
        mov     rax, [rsi + Y]
        mov     [rdi], rax
%endmacro
%macro SB_STORE_P1 0
        mov     eax, 1
        xchg    [rsi + Y], rax
        mov     rax, [rsi]
        mov     [rdi], rax
%endmacro
%macro SB_CHECK 0
        NOT_BOTH r8, 0, SEEN1, 0
%endmacro
; Without any: both may see 0; each sees its own store at once.
%macro SB_PLAIN_P0 0
        mov     qword [rsi], 1
        mov     rax, [rsi + Y]
        mov     [rdi], rax
        mov     rax, [rsi]
        mov     [rdi + 8], rax
%endmacro
%macro SB_PLAIN_P1 0
        mov     qword [rsi + Y], 1
        mov     rax, [rsi]
        mov     [rdi], rax
        mov     rax, [rsi + Y]
        mov     [rdi + 8], rax
%endmacro
%macro SB_PLAIN_CHECK 0
        CHECK_EQ qword [r8 + 8], 1
        CHECK_EQ qword [SEEN1 + 8], 1
        mov     rax, [r8]
        or      rax, [SEEN1]
        cmp     rax, 1
        sbb     rax, rax
        sub     [relaxed], rax          ; how often: for the curious
%endmacro

; ---- message passing ----

%macro MP_P0 0
        mov     qword [rsi], 1
        mov     qword [rsi + Y], 1
%endmacro
%macro MP_P1 0
        mov     rax, [rsi + Y]
        mov     rdx, [rsi]
        mov     [rdi], rax
        mov     [rdi + 8], rdx
%endmacro
%macro MP_CHECK 0
        NOT_BOTH SEEN1, 1, SEEN1 + 8, 0
%endmacro
; with other kinds of stores and loads
%macro MP_MIXED_P0 0
        movq    xmm0, [one]
        movq    [rsi], xmm0
        push    qword [one]
        pop     qword [rsi + Y]
%endmacro
%macro MP_MIXED_P1 0
        movups  xmm0, [rsi + Y]
        movups  xmm1, [rsi]
        movq    [rdi], xmm0
        movq    [rdi + 8], xmm1
%endmacro
; a string of data, then a flag: all of it is there
%macro MP_STRING_P0 0
        push    rcx
        push    rdi
        mov     rdi, rsi
        mov     ecx, 8
        mov     eax, 1
        rep stosq
        pop     rdi
        pop     rcx
        mov     qword [rsi + Y], 1
%endmacro
%macro MP_STRING_P1 0
        mov     rax, [rsi + Y]
        mov     rdx, [rsi + 56]
        and     rdx, [rsi]
        and     rdx, [rsi + 24]
        mov     [rdi], rax
        mov     [rdi + 8], rdx
%endmacro

; ---- load buffering ----

%macro LB_P0 0
        mov     rax, [rsi]
        mov     qword [rsi + Y], 1
        mov     [rdi], rax
%endmacro
%macro LB_P1 0
        mov     rax, [rsi + Y]
        mov     qword [rsi], 1
        mov     [rdi], rax
%endmacro
%macro LB_CHECK 0
        NOT_BOTH r8, 1, SEEN1, 1
%endmacro

; ---- two stores each (2+2W) ----

%macro WW_P0 0
        mov     qword [rsi], 1
        mov     qword [rsi + Y], 2
%endmacro
%macro WW_P1 0
        mov     qword [rsi + Y], 1
        mov     qword [rsi], 2
%endmacro
%macro WW_CHECK 0
        NOT_BOTH rsi, 1, rsi + Y, 1
%endmacro

; ---- R: a store order and a read behind a fence ----

%macro R_P0 0
        mov     qword [rsi], 1
        mov     qword [rsi + Y], 1
%endmacro
%macro R_P1 0
        mov     qword [rsi + Y], 2
        mfence
        mov     rax, [rsi]
        mov     [rdi], rax
%endmacro
%macro R_CHECK 0
        NOT_BOTH rsi + Y, 2, SEEN1, 0
%endmacro

; ---- S: a read, then a store ----

%macro S_P0 0
        mov     qword [rsi], 2
        mov     qword [rsi + Y], 1
%endmacro
%macro S_P1 0
        mov     rax, [rsi + Y]
        mov     qword [rsi], 1
        mov     [rdi], rax
%endmacro
%macro S_CHECK 0
        NOT_BOTH SEEN1, 1, rsi, 2
%endmacro

; ---- write to read causality (three processors) ----

%macro WRC_P0 0
        mov     qword [rsi], 1
%endmacro
%macro WRC_P1 0
        mov     rax, [rsi]
        mov     [rsi + Y], rax
%endmacro
%macro WRC_P2 0
        mov     rax, [rsi + Y]
        mov     rdx, [rsi]
        mov     [rdi], rax
        mov     [rdi + 8], rdx
%endmacro
%macro WRC_CHECK 0
        NOT_BOTH SEEN2, 1, SEEN2 + 8, 0
%endmacro

; ---- independent reads of independent writes (four) ----

%macro IRIW_P0 0
        mov     qword [rsi], 1
%endmacro
%macro IRIW_P1 0
        mov     qword [rsi + Y], 1
%endmacro
%macro IRIW_P2 0
        mov     rax, [rsi]
        mov     rdx, [rsi + Y]
        mov     [rdi], rax
        mov     [rdi + 8], rdx
%endmacro
%macro IRIW_P3 0
        mov     rax, [rsi + Y]
        mov     rdx, [rsi]
        mov     [rdi], rax
        mov     [rdi + 8], rdx
%endmacro
%macro IRIW_CHECK 0
        mov     rax, [SEEN2]
        shl     rax, 1
        or      rax, [SEEN2 + 8]
        shl     rax, 1
        or      rax, [SEEN3]
        shl     rax, 1
        or      rax, [SEEN3 + 8]
        cmp     rax, 1010b
        CHECK   ne
%endmacro

%macro NO_PROGRAM 1-*
%rep %0
%macro %1 0
%endmacro
%rotate 1
%endrep
%endmacro
        NO_PROGRAM SB_P2, SB_P3, SB_CPUID_P2, SB_CPUID_P3, SB_STORE_P2, SB_STORE_P3, SB_PLAIN_P2, SB_PLAIN_P3
        NO_PROGRAM MP_P2, MP_P3, MP_MIXED_P2, MP_MIXED_P3, MP_STRING_P2, MP_STRING_P3, LB_P2, LB_P3, WW_P2, WW_P3
        NO_PROGRAM R_P2, R_P3, S_P2, S_P3, WRC_P3

main:
%define FENCE   mfence
        TEST    2, SB, SB_CHECK
%define FENCE   lock add qword [rsp - 8], 0
        TEST    2, SB, SB_CHECK
%define FENCE   xchg [rsp - 8], rax
        TEST    2, SB, SB_CHECK
%define FENCE   lock cmpxchg [rsp - 8], rax
        TEST    2, SB, SB_CHECK
        TEST    2, SB_CPUID, SB_CHECK
        TEST    2, SB_STORE, SB_CHECK
        TEST    2, SB_PLAIN, SB_PLAIN_CHECK
        TEST    2, MP, MP_CHECK
        TEST    2, MP_MIXED, MP_CHECK
        TEST    2, MP_STRING, MP_CHECK
        TEST    2, LB, LB_CHECK
        TEST    2, WW, WW_CHECK
        TEST    2, R, R_CHECK
        TEST    2, S, S_CHECK
        TEST    3, WRC, WRC_CHECK
        TEST    4, IRIW, IRIW_CHECK
        call    tearing
        ret

; All locations 0, by processor 0.
clear:
        test    r15d, r15d
        jnz     .not_me
        lea     rdi, [X]
        xor     eax, eax
        mov     ecx, SLOTS * 128 / 8
        rep stosq
.not_me:
        ret

; Somewhat random.
delay:
        push    rcx
        rdtsc
        and     eax, 63
        lea     ecx, [eax + 1]
.spin:  dec     ecx
        jnz     .spin
        pop     rcx
        ret

; ---- no access is torn (SDM 3A 8.1.1): even processors store all zeros or all ones, odd ones look ----

%macro TORN 4                   ; register to load, its zero/one store register, address, mask check
        mov     r12, r13
        shl     r12, 4
        test    r15d, 1
        jnz     %%look
%%store:
        xor     eax, eax
        mov     [%3], %1
        not     rax
        mov     [%3], %1
        dec     r12
        jnz     %%store
        jmp     %%done
%%look: xor     eax, eax
        mov     %1, [%3]
        %2      rax, %1
        inc     rax                     ; -1 or 0 becomes 0 or 1
        cmp     rax, 1
        CHECK   be
        dec     r12
        jnz     %%look
%%done: call    barrier
        mov     qword [WIDE], 0
        mov     qword [WIDE + 8], 0
        call    barrier
%endmacro
%macro SAME 2
%endmacro

tearing:
        TORN    ax, movsx, WIDE, 0
        TORN    eax, movsxd, WIDE, 0
        TORN    rax, SAME, WIDE, 0
        TORN    ax, movsx, WIDE + 5, 0          ; anywhere within a cache line
        TORN    eax, movsxd, WIDE + 13, 0
        TORN    rax, SAME, WIDE + 3, 0
        ; 16 aligned bytes, on processors with AVX
        mov     r12, r13
        shl     r12, 4
        pcmpeqd xmm1, xmm1
        pxor    xmm0, xmm0
        test    r15d, 1
        jnz     .look
.store: movaps  [WIDE], xmm1
        movaps  [WIDE], xmm0
        dec     r12
        jnz     .store
        jmp     .done
.look:  movaps  xmm0, [WIDE]
        movq    rax, xmm0
        psrldq  xmm0, 8
        movq    rdx, xmm0
        CHECK_EQ rax, rdx
        inc     rax
        cmp     rax, 1
        CHECK   be
        dec     r12
        jnz     .look
.done:  call    barrier
        ret

one:    dq      1
relaxed: dq     0
