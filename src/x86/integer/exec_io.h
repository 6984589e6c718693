/* Port input and output, common to IN, OUT, INS, OUTS. */
#ifndef OWHP_X86_EXEC_IO_H
#define OWHP_X86_EXEC_IO_H

#include "x86/exec.h"

/*
 * Pass the access to the port. A port without an opinion has no device there: reads give ones. False: an exit
 * was recorded or a fault raised; the instruction has not happened.
 */
must_check bool io_transfer(struct cpu *cpu, const struct port_io *io);

#endif
