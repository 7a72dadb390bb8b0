#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

bool obd_report_is_good(const struct obd_report *r)
{
	return r->is_complete && !r->is_broken &&
	       r->errors + r->lost + r->stale + r->misplaced + r->corrupt + r->unfinished == 0;
}

static const char *json_bool(bool value)
{
	return value ? "true" : "false";
}

/* The name in JSON: what would need an escape becomes '?'. */
static void plain_name(const char *name, char *ret, size_t space)
{
	size_t i;

	for (i = 0; name[i] && i + 1 < space; i++) {
		char c = name[i];

		ret[i] = c < ' ' || c > '~' || c == '"' || c == '\\' ? '?' : c;
	}
	ret[i] = 0;
}

size_t obd_report_format(const struct obd_report *r, const char *name, uint64_t seed,
			 const struct obd_kring_stat *ring, const struct obd_gap_summary *gaps,
			 char *text, size_t space)
{
	uint64_t elapsed_us = r->elapsed_ns / 1000 ? r->elapsed_ns / 1000 : 1;
	char plain[80];
	int bytes;

	plain_name(name, plain, sizeof(plain));
	bytes = snprintf(
		text, space,
		"{\"name\": \"%s\", \"seed\": %lu, \"good\": %s, \"complete\": %s, "
		"\"commands\": %lu, \"reads\": %lu, \"writes\": %lu, \"discards\": %lu, "
		"\"flushes\": %lu, \"sectors_checked\": %lu, \"read_back\": %lu, "
		"\"errors\": %lu, \"lost\": %lu, \"stale\": %lu, \"misplaced\": %lu, "
		"\"corrupt\": %lu, \"unfinished\": %lu, \"broken\": %s, "
		"\"resets\": %lu, \"resent\": %lu, \"pads\": %lu, \"waits\": %lu, "
		"\"elapsed_ns\": %lu, \"iops\": %lu, "
		"\"gaps\": {\"count\": %lu, \"p50_ns\": %lu, \"p99_ns\": %lu, \"max_ns\": %lu}}\n",
		plain, seed, json_bool(obd_report_is_good(r)), json_bool(r->is_complete),
		ring->commands, r->reads, r->writes, r->discards, r->flushes, r->sectors_checked,
		r->read_back, r->errors, r->lost, r->stale, r->misplaced, r->corrupt, r->unfinished,
		json_bool(r->is_broken), ring->resets, ring->resent, ring->pads, ring->waits,
		r->elapsed_ns, r->generated * 1000000 / elapsed_us, gaps->cnt, gaps->p50_ns,
		gaps->p99_ns, gaps->max_ns);
	return bytes < 0 || (size_t)bytes >= space ? 0 : (size_t)bytes;
}

int obd_report_save(const char *path, const char *text, size_t bytes)
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
