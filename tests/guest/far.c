#include "far.h"

#include "util/compiler.h"

const char *const far_names[TRANSFERS] = {"JMP", "CALL", "RETF", "IRET"};
struct machine machine;
static uint16_t code_at[3][TRANSFERS]; /* by operand size: 2, 4, 8 */

unsigned far_operand_size(enum machine_mode mode)
{
    return mode == MACHINE_LONG ? 8 : machine_mode_size(mode);
}

uint16_t far_good_code(enum machine_mode mode, unsigned level)
{
    return (uint16_t)((machine_mode_is_long(mode) ? MACHINE_CODE64(level) : MACHINE_CODE32(level)) | level);
}

/* FF /5 and /3 with an absolute address, CB, CF; in 64-bit code with REX.W. */
static void add_code(void)
{
    for (unsigned i = 0; i < TRANSFERS; i++) {
        const bool near_end = i >= RETF;
        const uint8_t reg = i == JMP ? 5 : 3, end = i == RETF ? 0xcb : 0xcf;
        const uint8_t wide[] = {
            0x48, near_end ? end : 0xff, (uint8_t)(reg << 3 | 4), 0x25, MACHINE_DATA & 0xff, MACHINE_DATA >> 8, 0, 0};
        const uint8_t narrow[] = {0xff, (uint8_t)(reg << 3 | 5), MACHINE_DATA & 0xff, MACHINE_DATA >> 8, 0, 0};
        const uint8_t old[] = {0xff, (uint8_t)(reg << 3 | 6), MACHINE_DATA & 0xff, MACHINE_DATA >> 8};
        code_at[0][i] = near_end ? machine_add_code(&machine, &end, 1) : machine_add_code(&machine, old, sizeof(old));
        code_at[1][i] =
            near_end ? machine_add_code(&machine, &end, 1) : machine_add_code(&machine, narrow, sizeof(narrow));
        code_at[2][i] = machine_add_code(&machine, wide, near_end ? 2 : sizeof(wide));
    }
}

unsigned far_code_length(enum machine_mode mode)
{
    return mode == MACHINE_LONG ? 8 : machine_mode_size(mode) == 4 ? 6 : 4;
}

int far_set_up(void **unused)
{
    (void)unused;
    if (!machine_create(&machine))
        return -1;
    add_code();
    return 0;
}

int far_tear_down(void **unused)
{
    (void)unused;
    machine_destroy(&machine);
    return 0;
}

uint16_t far_code(enum machine_mode mode, enum transfer transfer)
{
    return code_at[far_operand_size(mode) >> 2][transfer];
}

void far_set_pointer(enum machine_mode mode, uint16_t selector)
{
    const unsigned size = far_operand_size(mode);

    machine_put(&machine, MACHINE_DATA, OFFSET, size);
    machine_put(&machine, MACHINE_DATA + size, selector, 2);
}

/* What RETF and IRET find on the stack, all words of the operand's size. */
void far_set_frame(enum machine_mode mode, enum transfer transfer, uint16_t cs, uint16_t ss)
{
    const unsigned size = far_operand_size(mode);
    const uint64_t words[] = {OFFSET, cs, RFLAGS_ONE, MACHINE_INNER, ss};
    uint32_t at = MACHINE_STACK;

    for (unsigned i = 0; i < array_size(words); i++)
        if (i != 2 || transfer == IRET) {
            machine_put(&machine, at, words[i], size);
            at += size;
        }
}
