#include "obd_err.h"

#include <stdio.h>
#include <string.h>

static void copy_tail(char *dst, size_t size, const char *src)
{
	size_t length = src ? strlen(src) : 0;

	if (length >= size) /* the end of a path says more than its start */
		src += length - (size - 1);
	snprintf(dst, size, "%s", src ? src : "");
}

int obd_fail_value(struct obd_errinfo *info, int code, const char *path, const char *what,
		   uint64_t offset_bytes, uint64_t expected, uint64_t got)
{
	if (!info)
		return code;
	memset(info, 0, sizeof(*info));
	info->code = code;
	info->offset_bytes = offset_bytes;
	info->expected = expected;
	info->got = got;
	snprintf(info->what, sizeof(info->what), "%s", what ? what : "");
	copy_tail(info->path, sizeof(info->path), path);
	return code;
}

int obd_fail_errno(struct obd_errinfo *info, int code, int sys_errno, const char *path,
		   const char *what)
{
	obd_fail_value(info, code, path, what, 0, 0, 0);
	if (info)
		info->sys_errno = sys_errno;
	return code;
}

int obd_fail(struct obd_errinfo *info, int code, const char *path, const char *what)
{
	return obd_fail_value(info, code, path, what, 0, 0, 0);
}

const char *obd_err_name(int code)
{
	static const char *const names[] = {
		"OBD_OK",	  "OBD_E_IO",	       "OBD_E_NOMEM",	  "OBD_E_FORMAT",
		"OBD_E_CHECKSUM", "OBD_E_RANGE",       "OBD_E_READONLY",  "OBD_E_NOSPACE",
		"OBD_E_AGAIN",	  "OBD_E_UNSUPPORTED", "OBD_E_LOCKED",	  "OBD_E_STALE",
		"OBD_E_RING",	  "OBD_E_JOURNAL",     "OBD_E_INVAL",	  "OBD_E_TIMEOUT",
		"OBD_E_SHORT",	  "OBD_E_RESET",       "OBD_E_CANCELLED",
	};

	if (code > 0 || -code >= (int)(sizeof(names) / sizeof(names[0])))
		return "OBD_E_UNKNOWN";
	return names[-code];
}
