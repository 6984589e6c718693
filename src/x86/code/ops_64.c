/* The fast operations for 64-bit code. */
#define OPS_64    1
#define OPS_TABLE ops_64
#include "x86/code/ops_template.h"

#include "x86/code/ops_table.h"
