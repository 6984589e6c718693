/* Code that the client changes between two runs, by its own pointer: every byte of it counts, wherever in its page it ends. */
#include "guest.h"

#include <string.h>

enum { PAGE_END = 0x3000, MOST_NOPS = 17, MOST_LEFT = 9 };
enum { NOP = 0x90, INC_BX = 0x43, MOV_AL = 0xb0, HLT = 0xf4 };

static void run_from(struct guest *g, UINT64 start)
{
    guest_set(g, WHvX64RegisterRip, start);
    guest_set(g, WHvX64RegisterRbx, 0);
    guest_set(g, WHvX64RegisterRax, 0);
    run_to(g, WHvRunVpExitReasonX64Halt);
}

/* nop ..; mov al, value; hlt: changed in each NOP, and back; in the value. */
static void change_each_byte(struct guest *g, UINT64 start, unsigned nops)
{
    UINT8 *code = g->ram + start;

    memset(code, NOP, nops);
    memcpy(code + nops, (const UINT8[]){MOV_AL, 1, HLT}, 3);
    for (unsigned i = 0; i < nops; i++) {
        code[i] = INC_BX;
        run_from(g, start);
        assert_int_equal(guest_get(g, WHvX64RegisterRbx), 1);
        code[i] = NOP;
        run_from(g, start);
        assert_int_equal(guest_get(g, WHvX64RegisterRbx), 0);
    }
    for (unsigned value = 1; value < 4; value++) {
        code[nops + 1] = (UINT8)value;
        run_from(g, start);
        assert_int_equal(guest_get(g, WHvX64RegisterRax), value);
    }
    code[nops + 2] = INC_BX;
    code[nops + 3] = HLT;
    run_from(g, start);
    assert_int_equal(guest_get(g, WHvX64RegisterRbx), 1);
}

/* `left` bytes of the page are behind the HLT; below 0: the block goes on in the next page. */
static void changed_in_every_byte(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    for (unsigned nops = 0; nops <= MOST_NOPS; nops++)
        for (int left = -5; left <= MOST_LEFT; left++)
            change_each_byte(&g, (UINT64)(PAGE_END - left - (int)nops - 3), nops);
    guest_end(&g);
}

/* What stands behind the code in its page is not code. */
static void changed_behind_it(void **state)
{
    struct guest g;

    (void)state;
    guest_begin(&g, NULL);
    guest_code(&g, MOV_AL, 7, HLT);
    for (unsigned i = 3; i < 24; i++) {
        g.ram[CODE + i] ^= 0xff;
        run_from(&g, CODE);
        assert_int_equal(guest_get(&g, WHvX64RegisterRax), 7);
    }
    guest_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE("CODE-1", "SDM 3A 9.1.3, H: memory changed by the client", changed_in_every_byte),
        CASE("CODE-2", "H", changed_behind_it),
    };
    return cmocka_run_group_tests_name("guest code", tests, NULL, NULL);
}
