/* The log of ringd: lines on stderr, which --log makes a file. Never per command. */
#ifndef OBD_RINGD_LOG_H
#define OBD_RINGD_LOG_H

#include <stdarg.h>

__attribute__((format(printf, 1, 2))) void obd_log(const char *format, ...);

#endif
