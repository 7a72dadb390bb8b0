#include "ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stamp.h"

#define MAGIC	      UINT64_C(0x4744454c44424f) /* "OBDLEDG\0" */
#define VERSION	      1u
#define HEADER_BYTES  4096u
#define PROBLEM_BYTES 256u
#define TABLE_BYTES   (OBD_LEDGER_GENERATIONS * sizeof(struct obd_ledger_generation))
#define SECTORS_MAX   (UINT64_C(1) << 40)

_Static_assert(sizeof(struct obd_ledger_header) <= HEADER_BYTES, "the header fits its page");

static uint64_t bytes_for(uint64_t sector_cnt)
{
	return HEADER_BYTES + TABLE_BYTES + sector_cnt * sizeof(struct obd_ledger_sector);
}

static int fail(char *problem, int rc, const char *path, const char *what)
{
	snprintf(problem, PROBLEM_BYTES, "ledger %.120s: %s", path ? path : "in memory", what);
	return rc;
}

static int map(struct obd_ledger *ledger, const char *path, uint64_t bytes, int flags,
	       char *problem)
{
	uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, ledger->fd, 0);

	if (at == MAP_FAILED)
		return fail(problem, -errno, path, strerror(errno));
	ledger->map_bytes = bytes;
	ledger->header = (void *)at;
	ledger->generation = (void *)(at + HEADER_BYTES);
	ledger->sector = (void *)(at + HEADER_BYTES + TABLE_BYTES);
	return 0;
}

/* Maps an existing file of that size after a look at its header. */
static int map_existing(struct obd_ledger *ledger, const char *path, uint64_t bytes, int flags,
			char *problem)
{
	struct obd_ledger_header header;

	if (pread(ledger->fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
	    header.magic != MAGIC)
		return fail(problem, -EINVAL, path, "this is not a ledger");
	if (header.version != VERSION || header.header_bytes != HEADER_BYTES)
		return fail(problem, -EINVAL, path, "of a version this program does not know");
	if (header.sector_cnt > SECTORS_MAX || bytes != bytes_for(header.sector_cnt) ||
	    header.generation_cnt > OBD_LEDGER_GENERATIONS)
		return fail(problem, -EINVAL, path, "its size does not fit its header: cut off?");
	return map(ledger, path, bytes, flags, problem);
}

static int resume(struct obd_ledger *ledger, const char *path, uint64_t bytes,
		  const struct obd_ledger_identity *identity, char *problem)
{
	int rc = map_existing(ledger, path, bytes, MAP_SHARED, problem);
	const struct obd_ledger_header *header = ledger->header;

	if (rc)
		return rc;
	if (header->device != obd_stamp_hash(identity->name) ||
	    header->sector_cnt != identity->sector_cnt ||
	    header->offset_bytes != identity->offset_bytes)
		return fail(problem, -EINVAL, path,
			    "is of another device, offset or span: give the same --name, --offset "
			    "and --span, or another file");
	for (uint64_t i = 0; i < header->sector_cnt; i++)
		ledger->sector[i].issued &= ~OBD_LEDGER_IN_FLIGHT;
	ledger->is_resumed = true;
	return 0;
}

static int init(struct obd_ledger *ledger, const char *path,
		const struct obd_ledger_identity *identity, char *problem)
{
	uint64_t bytes = bytes_for(identity->sector_cnt);
	struct obd_ledger_header *header;
	int rc;

	if (ledger->fd >= 0 && ftruncate(ledger->fd, (off_t)bytes) < 0)
		return fail(problem, -errno, path, strerror(errno));
	rc = map(ledger, path, bytes,
		 ledger->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED,
		 problem);
	if (rc)
		return rc;
	header = ledger->header;
	header->version = VERSION;
	header->header_bytes = HEADER_BYTES;
	header->run = identity->run;
	header->device = obd_stamp_hash(identity->name);
	header->sector_cnt = identity->sector_cnt;
	header->offset_bytes = identity->offset_bytes;
	snprintf(header->name, sizeof(header->name), "%s", identity->name);
	/* last: a file whose maker was killed half way is no ledger */
	__atomic_store_n(&header->magic, MAGIC, __ATOMIC_RELEASE);
	return 0;
}

static int open_file(struct obd_ledger *ledger, const char *path,
		     const struct obd_ledger_identity *identity, char *problem)
{
	struct stat status;

	ledger->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (ledger->fd < 0)
		return fail(problem, -errno, path, strerror(errno));
	if (flock(ledger->fd, LOCK_EX | LOCK_NB) < 0)
		return fail(problem, -EBUSY, path, "another process is writing it");
	if (fstat(ledger->fd, &status) < 0)
		return fail(problem, -errno, path, strerror(errno));
	if (status.st_size == 0)
		return init(ledger, path, identity, problem);
	return resume(ledger, path, (uint64_t)status.st_size, identity, problem);
}

int obd_ledger_open(struct obd_ledger *ledger, const char *path,
		    const struct obd_ledger_identity *identity, char *problem)
{
	int rc;

	*ledger = (struct obd_ledger){.fd = -1};
	if (strlen(identity->name) >= OBD_LEDGER_NAME_BYTES)
		return fail(problem, -EINVAL, path, "the device's name is too long");
	rc = path ? open_file(ledger, path, identity, problem)
		  : init(ledger, path, identity, problem);
	if (rc)
		obd_ledger_close(ledger);
	return rc;
}

int obd_ledger_load(struct obd_ledger *ledger, const char *path, char *problem)
{
	struct stat status;
	int rc;

	*ledger = (struct obd_ledger){.fd = open(path, O_RDONLY | O_CLOEXEC)};
	if (ledger->fd < 0 || fstat(ledger->fd, &status) < 0)
		rc = fail(problem, -errno, path, strerror(errno));
	else
		rc = map_existing(ledger, path, (uint64_t)status.st_size,
				  MAP_PRIVATE | MAP_NORESERVE, problem);
	if (rc)
		obd_ledger_close(ledger);
	return rc;
}

void obd_ledger_close(struct obd_ledger *ledger)
{
	if (ledger->header)
		munmap(ledger->header, ledger->map_bytes);
	if (ledger->fd >= 0)
		close(ledger->fd);
	*ledger = (struct obd_ledger){.fd = -1};
}

void obd_ledger_note_generation(struct obd_ledger *ledger, uint32_t sequence, uint32_t generation)
{
	uint32_t cnt = ledger->header->generation_cnt;
	uint32_t last = cnt ? ledger->generation[cnt - 1].generation : 0;

	if (generation == last || cnt == OBD_LEDGER_GENERATIONS)
		return;
	if (cnt == OBD_LEDGER_GENERATIONS - 1)
		generation = 0; /* from here on it is not known */
	ledger->generation[cnt] = (struct obd_ledger_generation){sequence, generation};
	__atomic_store_n(&ledger->header->generation_cnt, cnt + 1, __ATOMIC_RELEASE);
}

uint32_t obd_ledger_generation_of(const struct obd_ledger *ledger, uint32_t sequence)
{
	uint32_t begin = 0, end = ledger->header->generation_cnt;

	while (begin < end) { /* the first one that began later */
		uint32_t middle = begin + (end - begin) / 2;

		if (ledger->generation[middle].sequence <= sequence)
			begin = middle + 1;
		else
			end = middle;
	}
	return begin ? ledger->generation[begin - 1].generation : 0;
}
