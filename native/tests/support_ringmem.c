/* A file of its own: fcntl.h and linux/target_core_user.h each define struct iovec. */
#include "../ringd/ringmem.c"
