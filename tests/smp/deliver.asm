; Interrupts whose handler's segment lies across a cache line in the descriptor table, where its accessed bit has to be set, while
; the other processors hold the bus by locked accesses across lines of their own: each interrupt arrives once.
%include "smp.inc"

TABLE   equ DATA + 0x20000 + 26         ; the entry at 20h begins six bytes before a line's end
STOP    equ DATA
SPLIT   equ DATA + 0x40 + 62

main:   test    r15d, r15d
        jnz     .lock
        mov     rax, 0x00af9b000000ffff
        mov     [TABLE + 0x08], rax
        mov     [TABLE + 0x18], rax
        mov     rax, 0x00cf93000000ffff
        mov     [TABLE + 0x10], rax
        mov     rax, 0x00af9a000000ffff ; not accessed
        mov     [TABLE + 0x20], rax
        lgdt    [table]
        HANDLER 0x40, on_interrupt
        mov     word [IDT + 0x40 * 16 + 2], 0x20
        mov     r12, r13
        xor     r11d, r11d
        sti
.next:  mov     byte [TABLE + 0x25], 0x9a
        mov     eax, 0x40 | I_ASSERT | I_SELF
        xor     edx, edx
        call    send
        nop
        nop
        dec     r12
        jnz     .next
        cli
        mov     dword [STOP], 1
        CHECK_EQ r11, r13
        movzx   eax, byte [TABLE + 0x25]
        CHECK_EQ al, 0x9b
        ret
.lock:  lock inc dword [SPLIT]
        cmp     dword [STOP], 1
        jne     .lock
        ret

on_interrupt:
        inc     r11
        jmp     eoi

        align   8
table:  dw      0x27
        dq      TABLE
