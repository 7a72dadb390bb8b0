/*
 * The record of zeroes of a sparse layer, any content behind a good header: read, added to, read
 * again, which must hold what was added.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "obd_zeroes.h"

#define BEGIN 800u
#define END   900u

static void write_file(const char *path, const uint8_t *head, const uint8_t *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, head, OBD_ZEROES_HEADER_BYTES) != OBD_ZEROES_HEADER_BYTES ||
	    write(fd, data, size) != (ssize_t)size)
		abort();
	close(fd);
}

/* Whether the set has all of [BEGIN, END). */
static int holds(struct obd_zeroes *zeroes)
{
	struct obd_segment part[END - BEGIN];
	size_t cnt = obd_map_collect(&zeroes->set, BEGIN, END, part, END - BEGIN);
	uint64_t sectors = 0;

	for (size_t i = 0; i < cnt; i++)
		sectors += obd_segment_length(part[i]);
	return sectors == END - BEGIN;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char path[64];
	struct obd_zeroes zeroes = {.fd = -1};
	struct obd_zeroes again = {.fd = -1};
	char named[80];

	if (!path[0])
		snprintf(path, sizeof(path), "/dev/shm/fuzz_zeroes.%d", (int)getpid());
	snprintf(named, sizeof(named), "%s%s", path, OBD_ZEROES_SUFFIX);
	if (obd_zeroes_init(&zeroes, path, "fuzz", NULL) ||
	    obd_zeroes_init(&again, path, "fuzz", NULL))
		abort();
	write_file(named, zeroes.header, data, size);
	if (obd_zeroes_load(&zeroes, NULL) == 0) {
		if (obd_zeroes_add(&zeroes, BEGIN, END, false, NULL) || !holds(&zeroes))
			abort();
		if (obd_zeroes_load(&again, NULL) || !holds(&again))
			abort();
	}
	obd_zeroes_deinit(&zeroes);
	obd_zeroes_deinit(&again);
	unlink(named);
	return 0;
}
