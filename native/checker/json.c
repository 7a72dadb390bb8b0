#include "json.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

void obd_json_string(const char *text, FILE *file)
{
	fputc('"', file);
	for (; *text; text++)
		fputc(*text < ' ' || *text > '~' || *text == '"' || *text == '\\' ? '?' : *text,
		      file);
	fputc('"', file);
}

const char *obd_json_bool(bool value)
{
	return value ? "true" : "false";
}

int obd_json_save(const char *path, const char *text, size_t bytes)
{
	char temporary[4096];
	int fd, rc = 0;

	if (snprintf(temporary, sizeof(temporary), "%s.%d.tmp", path, (int)getpid()) >=
	    (int)sizeof(temporary))
		return -ENAMETOOLONG;
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	if (write(fd, text, bytes) != (ssize_t)bytes)
		rc = -EIO;
	if (close(fd) < 0 && rc == 0)
		rc = -errno;
	if (rc == 0 && rename(temporary, path) < 0)
		rc = -errno;
	if (rc)
		unlink(temporary);
	return rc;
}
