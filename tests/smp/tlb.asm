; Page tables that change under running processors: shootdowns by interrupt, a page made read-only and writable again, accessed
; and dirty bits set by many walks while software changes the same entry.
%include "smp.inc"

V_SHOOT equ 0x60
PAGE_V  equ PAGES + 0x10000             ; changes
PTE_V   equ PT + (PAGE_V - PAGES) / 4096 * 8
PAGE_A  equ 0x900000
PAGE_B  equ 0xa00000
GEN     equ DATA
ACKS    equ DATA + 64
STOP    equ DATA + 128
SHOTS   equ DATA + 192
OWN     equ DATA + 0x1000               ; 64 bytes per processor

main:   test    r15d, r15d
        jnz     .handlers_are_there
        HANDLER V_SHOOT, on_shoot
        HANDLER 14, on_page_fault
.handlers_are_there:
        call    barrier
        sti
        cmp     r14d, 1
        je      .alone
        call    remap
        call    protect
.alone: call    accessed_dirty
        call    not_present
        ret

on_shoot:
        invlpg  [PAGE_V]
        lock inc dword [ACKS]
        jmp     eoi

; A store to the read-only page: wait until it may be written again. (Interrupts stay off: the shooter waits for our answer,
; so answer what comes.)
on_page_fault:
        test    al, 2
        CHECK   nz
        lock inc dword [SHOTS]
        sti
.wait:  pause
        test    dword [PTE_V], 2
        jz      .wait
        cli
        invlpg  [PAGE_V]
        ret

; By processor 0: all others have dropped PAGE_V when this returns.
shoot:  mov     dword [ACKS], 0
        invlpg  [PAGE_V]
        mov     eax, V_SHOOT | I_ASSERT | I_OTHERS
        call    send
        lea     edx, [r14d - 1]
.wait:  pause
        cmp     [ACKS], edx
        jne     .wait
        ret

; The page moves between two frames; what is read there is never older than what was announced before.
remap:  call    barrier
        test    r15d, r15d
        jnz     .readers
        mov     qword [STOP], 0
        mov     qword [GEN], 0
        mov     qword [PAGE_A], 0
        mov     qword [PTE_V], PAGE_A | 3
        call    shoot
        call    barrier
        mov     r12d, 1
.next:  mov     ebx, PAGE_A
        test    r12d, 1
        jz      .even
        mov     ebx, PAGE_B
.even:  mov     [rbx], r12
        or      ebx, 3
        mov     [PTE_V], rbx
        call    shoot
        mov     [GEN], r12
        inc     r12
        cmp     r12, r13
        jbe     .next
        mov     qword [STOP], 1
        call    barrier
        ret
.readers:
        call    barrier
.read:  mov     rax, [GEN]
        mov     rdx, [PAGE_V]
        cmp     rdx, rax
        CHECK   ae
        cmp     qword [STOP], 0
        je      .read
        call    barrier
        ret

; Once the page is read-only for everybody nobody stores there, and no store is lost.
protect:
        call    barrier
        test    r15d, r15d
        jnz     .writers
        mov     qword [STOP], 0
        mov     qword [PAGE_A], 0
        mov     qword [PTE_V], PAGE_A | 3
        call    shoot
        call    barrier
        mov     r12, r13
.next:  lock and qword [PTE_V], ~2
        call    shoot
        mov     rbx, [PAGE_A]
        mov     ecx, 200
.look:  pause
        cmp     [PAGE_A], rbx
        CHECK   e
        dec     ecx
        jnz     .look
        lock or qword [PTE_V], 2
        dec     r12
        jnz     .next
        mov     qword [STOP], 1
        call    barrier
        ; all that the writers counted is there
        xor     eax, eax
        mov     ecx, 1
.sum:   mov     edx, ecx
        shl     edx, 6
        add     rax, [OWN + rdx]
        inc     ecx
        cmp     ecx, r14d
        jb      .sum
        CHECK_EQ [PAGE_A], rax
        call    barrier
        ret
.writers:
        mov     ebx, r15d
        shl     ebx, 6
        mov     qword [OWN + rbx], 0
        call    barrier
.write: lock inc qword [PAGE_V]
        inc     qword [OWN + rbx]
        cmp     qword [STOP], 0
        je      .write
        call    barrier
        call    barrier
        ret

; Each processor (of the first eight) owns one bit of the entry that software may use, and flips it; all make the processor set
; accessed and dirty meanwhile, and clear them now and then. A flip that is lost is a walk that stored without a lock.
accessed_dirty:
        call    barrier
        test    r15d, r15d
        jnz     .ready
        mov     qword [PTE_V], PAGE_A | 3
.ready: call    barrier
        invlpg  [PAGE_V]
        cmp     r15d, 10
        jae     .done
        mov     ebx, r15d               ; bits 9-11, then 52-58
        add     ebx, 9
        cmp     ebx, 12
        jb      .low
        add     ebx, 40
.low:   mov     r12, r13
.next:  lock btc [PTE_V], rbx
        CHECK   nc
        invlpg  [PAGE_V]
        mov     byte [PAGE_V + 64], 1
        lock btc [PTE_V], rbx
        CHECK   c
        test    r12d, 3
        jnz     .keep
        lock and qword [PTE_V], ~0x60
        jmp     .flushed
.keep:  test    r12d, 1
        jnz     .flushed
        lock btr qword [PTE_V], 6
.flushed:
        invlpg  [PAGE_V]
        mov     al, [PAGE_V + 128]
        dec     r12
        jnz     .next
.done:  call    barrier
        invlpg  [PAGE_V]
        mov     byte [PAGE_V + 64], 1
        call    barrier
        mov     rax, [PTE_V]
        mov     rdx, PAGE_A | 0x63
        CHECK_EQ rax, rdx
        call    barrier
        ret

; An entry that is taken out stays out: nobody's walk writes its accessed bit into it afterwards.
not_present:
        call    barrier
        test    r15d, r15d
        jnz     .readers
        HANDLER 14, on_absent
        mov     qword [STOP], 0
        call    barrier
        mov     r12, r13
.next:  mov     qword [PTE_V], PAGE_A | 3
        mov     ecx, 50
.while: pause
        dec     ecx
        jnz     .while
        xor     eax, eax
        xchg    [PTE_V], rax
        mov     ecx, 50
.look:  cmp     qword [PTE_V], 0
        CHECK   e
        dec     ecx
        jnz     .look
        dec     r12
        jnz     .next
        mov     qword [PTE_V], PAGE_A | 3
        mov     qword [STOP], 1
        call    barrier
        ret
.readers:
        call    barrier
.read:  invlpg  [PAGE_V]
        mov     byte [PAGE_V + 8], 1
        cmp     qword [STOP], 0
        je      .read
        call    barrier
        ret

on_absent:
        pause
        ret                             ; once more
