/* The fast operations for 16- and 32-bit code. */
#define OPS_64    0
#define OPS_TABLE ops_legacy
#include "x86/code/ops_template.h"

#include "x86/code/ops_table.h"
