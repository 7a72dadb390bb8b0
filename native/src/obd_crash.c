#include "obd_crash.h"

#ifdef OBD_TEST_HOOKS
struct obd_cheats obd_cheats;
void (*obd_crash_hook)(const char *point);
#else
typedef int obd_crash_is_empty; /* ISO C forbids an empty translation unit */
#endif
