/* Handles of other processes, as WHvMapGpaRange2 takes them. Any thread. */
#ifndef OWHP_CORE_PROCESSES_H
#define OWHP_CORE_PROCESSES_H

#include "os/process.h"

/* A handle for the process, whose reference it takes over. STATUS_NO_MEMORY (the reference is given back) */
must_check enum status process_handle_open(struct process *process, uint64_t *handle);

/* The process with a reference for the caller. STATUS_BAD_HANDLE */
must_check enum status process_handle_get(uint64_t handle, struct process **process);

/* STATUS_BAD_HANDLE */
must_check enum status process_handle_close(uint64_t handle);

#endif
