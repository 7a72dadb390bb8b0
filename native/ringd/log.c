#include "log.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

void obd_log(const char *format, ...)
{
	char line[512];
	struct timespec now;
	struct tm utc;
	va_list arguments;
	size_t at;
	int bytes;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	at = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &utc);
	at += (size_t)snprintf(line + at, sizeof(line) - at, ".%03ldZ ringd[%d] ",
			       now.tv_nsec / 1000000, (int)getpid());
	va_start(arguments, format);
	bytes = vsnprintf(line + at, sizeof(line) - at - 1, format, arguments);
	va_end(arguments);
	if (bytes < 0)
		return;
	at += (size_t)bytes < sizeof(line) - at - 1 ? (size_t)bytes : sizeof(line) - at - 2;
	line[at++] = '\n';
	if (write(STDERR_FILENO, line, at) < 0)
		return; /* nowhere to say it */
}
