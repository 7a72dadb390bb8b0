#include "owner.h"

#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "obd_journal.h"

#define READ_EVERY_NS UINT64_C(1000000)
#define OPEN_EVERY_NS UINT64_C(100000000)
#define COUNTERS_AT   256

void obd_owner_init(struct obd_owner *owner, const char *path)
{
	*owner = (struct obd_owner){.path = path, .fd = -1};
}

void obd_owner_deinit(struct obd_owner *owner)
{
	if (owner->fd >= 0)
		close(owner->fd);
	owner->fd = -1;
}

static void reopen(struct obd_owner *owner)
{
	obd_owner_deinit(owner);
	owner->fd = open(owner->path, O_RDONLY | O_CLOEXEC);
}

/* pread, not a mapping: a file that is cut off meanwhile would be SIGBUS. */
static uint32_t read_generation(int fd)
{
	char magic[sizeof(OBD_JOURNAL_MAGIC)];
	struct obd_journal_counters counters;

	if (fd < 0 || pread(fd, magic, sizeof(magic), 0) != (ssize_t)sizeof(magic) ||
	    memcmp(magic, OBD_JOURNAL_MAGIC, sizeof(magic)) != 0 ||
	    pread(fd, &counters, sizeof(counters), COUNTERS_AT) != (ssize_t)sizeof(counters))
		return 0;
	return (uint32_t)counters.owner_generation;
}

uint32_t obd_owner_generation(struct obd_owner *owner, uint64_t now_ns)
{
	if (!owner->path || (owner->read_ns && now_ns - owner->read_ns < READ_EVERY_NS))
		return owner->generation;
	if (owner->opened_ns == 0 || now_ns - owner->opened_ns >= OPEN_EVERY_NS) {
		reopen(owner);
		owner->opened_ns = now_ns;
	}
	owner->read_ns = now_ns;
	owner->generation = read_generation(owner->fd);
	return owner->generation;
}
