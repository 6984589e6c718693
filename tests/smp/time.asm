; Time: the time stamp never goes back, on one processor or from one to another; WRMSR and IA32_TSC_ADJUST move it as documented
; (SDM 3B 17.17.3), for the processor that writes only.
%include "smp.inc"

LOCK_AT equ DATA
LAST    equ DATA + 64

main:   call    monotone
        call    adjust
        ret

monotone:
        call    barrier
        mov     r12, r13
.next:  ; one's own
        rdtsc
        shl     rdx, 32
        lea     rbx, [rdx + rax]
        rdtscp
        shl     rdx, 32
        lea     r8, [rdx + rax]
        cmp     r8, rbx
        CHECK   ae
        ; everybody's: what is read under the lock is never below what was read under it before
.lock:  mov     eax, 1
        xchg    [LOCK_AT], eax
        test    eax, eax
        jz      .locked
        pause
        jmp     .lock
.locked:
        lfence
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        cmp     rax, [LAST]
        CHECK   ae
        mov     [LAST], rax
        mov     dword [LOCK_AT], 0
.lock2: mov     eax, 1
        xchg    [LOCK_AT], eax
        test    eax, eax
        jz      .locked2
        pause
        jmp     .lock2
.locked2:
        rdtscp
        shl     rdx, 32
        or      rax, rdx
        cmp     rax, [LAST]
        CHECK   ae
        mov     [LAST], rax
        mov     dword [LOCK_AT], 0
        ; by message: who sees the stamp of another reads a later one
        mov     rbx, [LAST]
        rdtscp
        shl     rdx, 32
        or      rax, rdx
        cmp     rax, rbx
        CHECK   ae
        dec     r12
        jnz     .next
        call    barrier
        ret

; Far ahead by WRMSR, which moves IA32_TSC_ADJUST by as much; back by the adjustment.
adjust: call    barrier
        mov     ecx, 0x3b
        rdmsr
        CHECK_EQ eax, 0
        CHECK_EQ edx, 0
        rdtsc
        shl     rdx, 32
        lea     rbx, [rdx + rax]
        mov     r8, 1 << 50
        add     r8, rbx
        mov     rax, r8
        mov     rdx, r8
        shr     rdx, 32
        mov     ecx, 0x10
        wrmsr
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        cmp     rax, r8
        CHECK   ae
        mov     ecx, 0x3b
        rdmsr
        shl     rdx, 32
        or      rax, rdx                ; the distance, less the time that passed before WRMSR
        mov     rdx, 1 << 50
        cmp     rax, rdx
        CHECK   be
        mov     rdx, 1 << 49
        cmp     rax, rdx
        CHECK   a
        ; the others' time has not moved
        call    barrier
        mov     ecx, 0x3b
        xor     eax, eax
        xor     edx, edx
        wrmsr
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        cmp     rax, rbx
        CHECK   ae
        cmp     rax, r8
        CHECK   b
        ; an adjustment alone
        xor     eax, eax
        mov     edx, 1 << 20            ; 2^52
        wrmsr
        rdtsc
        shr     edx, 20
        CHECK_EQ edx, 1
        xor     eax, eax
        xor     edx, edx
        mov     ecx, 0x3b
        wrmsr
        rdtsc
        shr     edx, 20
        CHECK_EQ edx, 0
        call    barrier
        ret
