/*
 * check(): our own mistake, on in every build. Never reached by anything a caller or a guest
 * controls; those get a status or a guest exception.
 */
#ifndef OWHP_UTIL_CHECK_H
#define OWHP_UTIL_CHECK_H

_Noreturn void check_failed(const char *condition, const char *file, int line);

#define check(condition)                                                                           \
    ((condition) ? (void)0 : check_failed(#condition, __FILE__, __LINE__))

#endif
