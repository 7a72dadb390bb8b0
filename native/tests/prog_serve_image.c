/* prog_serve on a real image instead of a disk in memory. */
#define SERVES_REAL_IMAGE 1
#include "prog_serve.c"
