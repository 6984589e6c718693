/*
 * The whole memory API against an array of pages: own memory and another process's, snapshots too. A string of bytes is a program:
 * which calls are made, with which arguments, good and bad. Each answer is compared with the model's. A difference ends the
 * program (abort), with the calls that led there on standard error if OWHP_MODEL_TRACE is set.
 */
#ifndef OWHP_TESTS_MEMORY_MODEL_H
#define OWHP_TESTS_MEMORY_MODEL_H

#include <stddef.h>
#include <stdint.h>

/* Returns the number of calls made. */
unsigned memory_model_run(const uint8_t *program, size_t size);

#endif
