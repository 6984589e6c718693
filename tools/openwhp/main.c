/*
 * openwhp: boots guests through nothing but the Windows Hypervisor Platform API of the installed headers.
 *
 *   main      verbs, exit status          machine    partition, processors, threads
 *   options   the command line            devices    what is on the buses; one file per device
 *   boot*     Linux, multiboot, ROM, flat guest_*    memory, its map, accesses that exit
 *   run_loop  exits                       report     what it did
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "info.h"
#include "machine.h"
#include "options.h"
#include "problem.h"
#include "report.h"

static const char usage_text[] =
    "usage: openwhp run OPTIONS    boots a guest\n"
    "       openwhp info           engines and capabilities\n"
    "       openwhp help\n"
    "\n"
    "what to boot (one of them)\n"
    "  --kernel FILE              Linux bzImage or multiboot image\n"
    "  --bios FILE                firmware, at the top of 4 GiB\n"
    "  --flat FILE@GPA[:ENTRY]    bytes as they are\n"
    "with a kernel\n"
    "  --initrd FILE[ ARGS][,FILE ...]   initial RAM disk, or multiboot modules\n"
    "  --append TEXT              command line\n"
    "machine\n"
    "  --engine soft|kvm|auto     what executes the guest\n"
    "  --memory SIZE              with K, M or G; 256M\n"
    "  --cpus N                   1\n"
    "  --disk FILE                raw image, as a virtio disk\n"
    "  --serial stdio|file:PATH|none     first serial port; stdio\n"
    "  --debugcon stdio|file:PATH        debug console, ports E9 and 402\n"
    "  --timeout SECONDS          stops the machine; exit status 124\n"
    "  --no-reboot                a reset ends the machine\n"
    "  --report map,exits,dirty[,json]   what the machine did, at its end\n"
    "\n"
    "On a terminal, Ctrl-A x quits and Ctrl-A h helps.\n";

static void complain(const char *text) { fprintf(stderr, "openwhp: %s\n", text); }

/* Says why the machine has ended where that is not what the guest wanted. */
static void explain_end(const struct machine *machine)
{
    switch (atomic_load(&machine->power.reason)) {
    case STOP_GUEST_CRASH:
    case STOP_FAILURE:
        complain(machine->power.text);
        break;
    case STOP_TIMEOUT:
        complain("the guest did not end in time; see --timeout");
        break;
    default:
        break;
    }
}

/* Runs one machine from power-on to its end; true when the guest asked for a reset and gets it. */
static bool run_once(const struct options *options, uint64_t deadline, bool is_first, int *status)
{
    struct machine *machine = malloc(sizeof *machine);
    bool again = false;
    *status = EXIT_PROBLEM;
    if (machine == NULL) {
        complain("not enough memory for the machine; end other programs");
        return false;
    }
    if (machine_create(machine, options, is_first) != 0 || machine_run(machine, deadline) != 0) {
        complain(problem_text());
    } else {
        again = atomic_load(&machine->power.reason) == STOP_RESET && options->reboot;
        *status = power_exit_status(&machine->power);
        explain_end(machine);
        if (!again) {
            report_write(machine, stdout);
            fflush(stdout);
        }
    }
    machine_destroy(machine);
    free(machine);
    return again;
}

static int run(int count, char **arguments)
{
    struct options options;
    int status = EXIT_PROBLEM;
    console_catch_signals();
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away must not take the terminal's settings with it */
    if (options_parse(&options, count, arguments) != 0) {
        complain(problem_text());
    } else {
        /* The time limit is one for all: a guest that resets itself again and again ends as well. */
        uint64_t deadline = options.timeout != 0 ? timers_host_clock() + options.timeout : 0;
        bool again = run_once(&options, deadline, true, &status);
        while (again)
            again = run_once(&options, deadline, false, &status);
    }
    options_release(&options);
    return status;
}

/* A descriptor from 0 to 2 that is closed would be the next file's: the guest's console would go into its disk. */
static bool open_standard_files(void)
{
    for (int file = STDIN_FILENO; file <= STDERR_FILENO; file++)
        if (fcntl(file, F_GETFD) < 0 && open("/dev/null", O_RDWR) != file)
            return false;
    return true;
}

static bool asks_for_help(const char *word)
{
    return strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

int main(int count, char **arguments)
{
    if (!open_standard_files())
        return EXIT_PROBLEM;
    const char *verb = count > 1 ? arguments[1] : "";
    if (asks_for_help(verb) || (count == 3 && asks_for_help(arguments[2]))) {
        fputs(usage_text, stdout);
        return EXIT_SUCCESS;
    }
    if (strcmp(verb, "run") == 0)
        return run(count - 2, arguments + 2);
    if (strcmp(verb, "info") == 0 && count == 2)
        return info_write(stdout);
    fprintf(stderr, "openwhp: %s%s%s; give run, info or help\n",
            verb[0] != '\0' ? "cannot do \"" : "nothing to do", verb, verb[0] != '\0' ? "\"" : "");
    return EXIT_PROBLEM;
}
