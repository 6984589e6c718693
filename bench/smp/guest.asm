; Work for one processor, in memory of its own. Starts in 64-bit mode, privilege 0, interrupts off:
;   rsi rounds, rbx its area (2 MiB), rdi the kernel's entry; SYSCALL goes to the entry below, #UD to its handler.
; Ends with OUT to port F4.
        bits    64
        org     0x1000
start:  lea     rsp, [rbx + 0x1ff000]
        call    rdi
        mov     al, 0
        out     0xf4, al
        hlt

        align   64
        ; entries of the kernels, in the order of main.c's table
entries: dq     alu, memory, strings, calls, locked, system, tables, faults, patches

; registers only
alu:    mov     rax, rsi
        xor     edx, edx
.next:  lea     rdx, [rdx + rax * 4 + 7]
        xor     rdx, rax
        ror     rdx, 13
        add     rax, rdx
        imul    rdx, rax
        dec     rsi
        jnz     .next
        ret

; loads and stores all over 1 MiB
memory: xor     eax, eax
.next:  imul    eax, eax, 1664525
        add     eax, 1013904223
        mov     edx, eax
        shr     edx, 12
        and     edx, 0xffff8
        mov     rcx, [rbx + rdx]
        add     rcx, rax
        mov     [rbx + rdx], rcx
        dec     rsi
        jnz     .next
        ret

; REP MOVSB and STOSQ of 4 KiB
strings:
        mov     r8, rsi
.next:  mov     rsi, rbx
        lea     rdi, [rbx + 0x10000]
        mov     ecx, 4096
        rep movsb
        lea     rdi, [rbx + 0x20000]
        mov     ecx, 512
        rep stosq
        dec     r8
        jnz     .next
        ret

calls:  call    .leaf
        dec     rsi
        jnz     calls
        ret
.leaf:  push    rbx
        pop     rbx
        ret

; locked instructions on memory that nobody shares
locked: lock inc qword [rbx]
        mov     eax, 1
        lock xadd [rbx + 64], rax
        xchg    [rbx + 128], rax
        dec     rsi
        jnz     locked
        ret

; SYSCALL (the way back is a jump: privilege stays)
system: syscall
        dec     rsi
        jnz     system
        ret
syscall_entry:
        jmp     rcx

; CR3 and 8 pages behind it
tables: mov     rax, cr3
        mov     cr3, rax
%assign i 0
%rep 8
        mov     rax, [rbx + i * 4096]
%assign i i + 1
%endrep
        dec     rsi
        jnz     tables
        ret

; #UD and back
faults: ud2
        dec     rsi
        jnz     faults
        ret
        align   16
ud_handler:
        add     qword [rsp], 2
        iretq

; an instruction changed and run
patches:
        mov     rax, 0x90c300000000b8
        lea     rdi, [rbx + 0x30000]
        mov     [rdi], rax
.next:  mov     [rdi + 1], esi
        call    rdi
        dec     rsi
        jnz     .next
        ret

        times 0x800 - ($ - $$) db 0xcc
        dq      syscall_entry, ud_handler
