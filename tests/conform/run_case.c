/* Apart from the rest: <signal.h> and the processor's headers name the same registers. */
#include "conform.h"

#include <signal.h>

#include "os/guarded.h"

void run_case(void **state)
{
    static struct sigaction guard[2];
    static bool saved;
    void (*function)(void **) = (void (*)(void **))*state;

    if (saved) {
        sigaction(SIGSEGV, &guard[0], NULL);
        sigaction(SIGBUS, &guard[1], NULL);
    } else if ((saved = guarded_init())) {
        sigaction(SIGSEGV, NULL, &guard[0]);
        sigaction(SIGBUS, NULL, &guard[1]);
    }
    function(state);
}
