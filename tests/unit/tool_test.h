/* What the tests of the command's devices and loaders share: a machine without processors, files that go away. */
#ifndef OPENWHP_TESTS_TOOL_TEST_H
#define OPENWHP_TESTS_TOOL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bytes.h"
#include "problem.h"

/* A file with these bytes; the caller unlinks it. The name is in a static buffer. */
static inline const char *temporary_file(const void *bytes, size_t size)
{
    static char name[64];
    strcpy(name, "/tmp/openwhp-tool-test-XXXXXX");
    int file = mkstemp(name);
    assert_true(file >= 0);
    assert_int_equal(write(file, bytes, size), (ssize_t)size);
    close(file);
    return name;
}

/* The last step failed and said so in one line that holds this text. */
static inline void expect_problem(int result, const char *text)
{
    assert_int_equal(result, -1);
    if (strstr(problem_text(), text) == NULL)
        fail_msg("problem \"%s\" does not say \"%s\"", problem_text(), text);
    assert_null(strchr(problem_text(), '\n'));
    problem_clear();
}

#endif
