#include "obd_inflight.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_crash.h"
#include "obd_crc.h"

#define MAX_SLOTS 65536u /* cmd_id has 16 bits: more can not be in flight */

/* In place of the magic while a journal is formatted anew: generation, high-water mark and counters
 * of the device are good, nothing else is. */
#define FORMATTING "OBDJFMT"

#define HEADER_AT(field, offset)                                                                   \
	_Static_assert(offsetof(struct obd_journal_header, field) == (offset), #field)
HEADER_AT(layout_version, 8);
HEADER_AT(header_bytes, 12);
HEADER_AT(boot_id, 16);
HEADER_AT(device_uuid, 32);
HEADER_AT(slot_cnt, 48);
HEADER_AT(slot_bytes, 52);
HEADER_AT(max_iov, 56);
HEADER_AT(cmdr_off, 60);
HEADER_AT(cmdr_size, 64);
HEADER_AT(map_bytes, 72);
HEADER_AT(crc32c, 124);
HEADER_AT(generation, 128);
HEADER_AT(next, 136);
HEADER_AT(append_reserved, 144);
HEADER_AT(pub_valid, 192);
HEADER_AT(pub_slot, 196);
HEADER_AT(pub_tail_before, 200);
HEADER_AT(pub_tail_after, 204);
HEADER_AT(counters, 256);
HEADER_AT(threads, 2048);
_Static_assert(sizeof(struct obd_journal_header) <= OBD_JOURNAL_HEADER_BYTES, "header");
_Static_assert(offsetof(struct obd_journal_slot, sequence) == 4, "slot");
_Static_assert(offsetof(struct obd_journal_slot, ring_offset) == 8, "slot");
_Static_assert(offsetof(struct obd_journal_slot, cmd_id) == 12, "slot");
_Static_assert(offsetof(struct obd_journal_slot, cdb_bytes) == 14, "slot");
_Static_assert(offsetof(struct obd_journal_slot, iov_cnt) == 16, "slot");
_Static_assert(offsetof(struct obd_journal_slot, old_starts) == 20, "slot");
_Static_assert(offsetof(struct obd_journal_slot, deaths) == 22, "slot");
_Static_assert(offsetof(struct obd_journal_slot, cdb) == 24, "slot");
_Static_assert(offsetof(struct obd_journal_slot, picked_up_ns) == 56, "slot");
_Static_assert(offsetof(struct obd_journal_slot, iov) == 64, "slot");
_Static_assert(sizeof(struct obd_journal_slot) == 64 + 8 * OBD_JOURNAL_MAX_IOV, "slot");

static uint32_t header_crc(const struct obd_journal_header *header)
{
	return ~obd_crc32c_raw(~0u, header, offsetof(struct obd_journal_header, crc32c));
}

static uint64_t journal_bytes(uint32_t slot_cnt)
{
	return OBD_JOURNAL_HEADER_BYTES + (uint64_t)slot_cnt * sizeof(struct obd_journal_slot);
}

int obd_journal_lock(struct obd_journal *journal, int fd, const char *name,
		     struct obd_errinfo *info)
{
	char path[64];
	int own;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	OBD_CRASH_POINT("attach.lock");
	own = open(path, O_RDWR | O_CLOEXEC);
	if (own < 0)
		return obd_fail_errno(info, OBD_E_JOURNAL, errno, name, "reopening the journal");
	if (!OBD_CHEAT(no_lock) && flock(own, LOCK_EX | LOCK_NB)) {
		int sys_errno = errno;

		close(own);
		if (sys_errno == EWOULDBLOCK)
			return obd_fail(info, OBD_E_LOCKED, name, "another process serves it");
		return obd_fail_errno(info, OBD_E_IO, sys_errno, name, "flock of the journal");
	}
	memset(journal, 0, sizeof(*journal));
	journal->lock_fd = own;
	return 0;
}

static int map_journal(struct obd_journal *journal, uint64_t bytes, const char *name,
		       struct obd_errinfo *info)
{
	void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, journal->lock_fd, 0);

	if (map == MAP_FAILED)
		return obd_fail_errno(info, OBD_E_IO, errno, name, "mmap of the journal");
	journal->header = map;
	journal->slots = (void *)((uint8_t *)map + OBD_JOURNAL_HEADER_BYTES);
	journal->map_bytes = bytes;
	return 0;
}

static int wrong(struct obd_errinfo *info, const char *name, const char *what, uint64_t offset,
		 uint64_t expected, uint64_t got)
{
	return obd_fail_value(info, OBD_E_JOURNAL, name, what, offset, expected, got);
}

/* What a reader must know before it may believe any other byte. */
static int check_layout(const struct obd_journal_header *h, uint64_t file_bytes, const char *name,
			struct obd_errinfo *info)
{
	uint32_t crc;

	if (memcmp(h->magic, OBD_JOURNAL_MAGIC, sizeof(h->magic)))
		return obd_fail(info, OBD_E_JOURNAL, name, "journal magic");
	if (h->layout_version != OBD_JOURNAL_VERSION)
		return wrong(info, name, "journal layout_version", 8, OBD_JOURNAL_VERSION,
			     h->layout_version);
	crc = header_crc(h);
	if (crc != h->crc32c)
		return wrong(info, name, "journal crc32c", 124, crc, h->crc32c);
	if (h->header_bytes != OBD_JOURNAL_HEADER_BYTES)
		return wrong(info, name, "journal header_bytes", 12, OBD_JOURNAL_HEADER_BYTES,
			     h->header_bytes);
	if (h->slot_bytes != sizeof(struct obd_journal_slot) || h->max_iov != OBD_JOURNAL_MAX_IOV)
		return wrong(info, name, "journal slot_bytes", 52, sizeof(struct obd_journal_slot),
			     h->slot_bytes);
	if (!h->slot_cnt || h->slot_cnt > MAX_SLOTS)
		return wrong(info, name, "journal slot_cnt", 48, MAX_SLOTS, h->slot_cnt);
	/* Outside the crc: believed, no later generation could follow, nor be kept by SQLite. */
	if (obd_load_acquire(&h->generation) > OBD_JOURNAL_GENERATION_MAX)
		return wrong(info, name, "journal generation", 128, OBD_JOURNAL_GENERATION_MAX,
			     h->generation);
	if (journal_bytes(h->slot_cnt) > file_bytes)
		return wrong(info, name, "journal file size", 0, journal_bytes(h->slot_cnt),
			     file_bytes);
	return 0;
}

static bool is_same_device(const struct obd_journal_header *h,
			   const struct obd_journal_identity *identity)
{
	return !memcmp(h->device_uuid, identity->device_uuid, sizeof(h->device_uuid)) &&
	       !memcmp(h->boot_id, identity->boot_id, sizeof(h->boot_id));
}

static uint64_t magic_word(const char magic[8])
{
	uint64_t word;

	memcpy(&word, magic, sizeof(word));
	return word;
}

static int check_identity(const struct obd_journal_header *h,
			  const struct obd_journal_identity *identity, const char *name,
			  struct obd_errinfo *info)
{
	const struct obd_ring *ring = identity->ring;

	if (memcmp(h->boot_id, identity->boot_id, sizeof(h->boot_id)))
		return obd_fail(info, OBD_E_JOURNAL, name, "journal boot_id: the host rebooted");
	if (memcmp(h->device_uuid, identity->device_uuid, sizeof(h->device_uuid)))
		return obd_fail(info, OBD_E_JOURNAL, name, "journal device_uuid: another device");
	if (h->cmdr_off != ring->cmdr_off)
		return wrong(info, name, "journal cmdr_off", 60, ring->cmdr_off, h->cmdr_off);
	if (h->cmdr_size != ring->cmdr_bytes)
		return wrong(info, name, "journal cmdr_size", 64, ring->cmdr_bytes, h->cmdr_size);
	if (h->map_bytes != ring->map_bytes)
		return wrong(info, name, "journal map_bytes", 72, ring->map_bytes, h->map_bytes);
	return 0;
}

static int check_generation(const struct obd_journal_header *h, uint64_t generation,
			    const char *name, struct obd_errinfo *info)
{
	uint64_t stored = obd_load_acquire(&h->generation);

	if (generation <= stored)
		return obd_fail_value(info, OBD_E_STALE, name, "journal generation", 128,
				      stored + 1, generation);
	return 0;
}

static int file_bytes(int fd, const char *name, struct obd_errinfo *info, uint64_t *ret)
{
	struct stat st;

	if (fstat(fd, &st))
		return obd_fail_errno(info, OBD_E_IO, errno, name, "fstat of the journal");
	*ret = (uint64_t)st.st_size;
	return 0;
}

int obd_journal_open(struct obd_journal *journal, const struct obd_journal_identity *identity,
		     const char *name, struct obd_errinfo *info)
{
	struct obd_journal_header *h;
	uint64_t bytes = 0;
	int rc = file_bytes(journal->lock_fd, name, info, &bytes);

	if (rc)
		return rc;
	if (bytes < OBD_JOURNAL_HEADER_BYTES || bytes > journal_bytes(MAX_SLOTS))
		return wrong(info, name, "journal file size", 0, OBD_JOURNAL_HEADER_BYTES, bytes);
	rc = map_journal(journal, bytes, name, info);
	if (rc)
		return rc;
	h = journal->header;
	rc = check_layout(h, bytes, name, info);
	if (!rc)
		rc = check_identity(h, identity, name, info);
	if (!rc)
		rc = check_generation(h, identity->generation, name, info);
	journal->slot_cnt = h->slot_cnt;
	return rc;
}

int obd_journal_prepare(struct obd_journal *journal, const struct obd_journal_identity *identity,
			const char *name, struct obd_errinfo *info)
{
	uint32_t slot_cnt = identity->slot_cnt ? identity->slot_cnt : OBD_JOURNAL_DEFAULT_SLOTS;
	uint64_t bytes = 0, wanted = journal_bytes(slot_cnt);
	struct obd_journal_header *h;
	int rc;

	/* All of it now: a store into a hole of a full tmpfs would be SIGBUS later. */
	rc = posix_fallocate(journal->lock_fd, 0, (off_t)wanted);
	if (rc)
		return obd_fail_errno(info, rc == ENOSPC ? OBD_E_NOSPACE : OBD_E_IO, rc, name,
				      "allocating the journal");
	rc = file_bytes(journal->lock_fd, name, info, &bytes);
	if (!rc)
		rc = map_journal(journal, wanted, name, info);
	if (rc)
		return rc;
	h = journal->header;
	journal->slot_cnt = slot_cnt;
	if ((!check_layout(h, bytes, name, NULL) ||
	     magic_word(h->magic) == magic_word(FORMATTING)) &&
	    is_same_device(h, identity))
		return check_generation(h, identity->generation, name, info);
	/* What follows is no journal of anybody. */
	obd_store_release((uint64_t *)(void *)h->magic, 0);
	memset(&h->counters, 0, sizeof(h->counters));
	h->generation = 0;
	h->append_reserved = 0;
	return 0;
}

void obd_journal_format(struct obd_journal *journal, const struct obd_journal_identity *identity,
			uint32_t next)
{
	struct obd_journal_header *h = journal->header;
	const struct obd_ring *ring = identity->ring;
	struct obd_journal_header copy;
	uint64_t magic = magic_word(OBD_JOURNAL_MAGIC), had_magic = magic_word(h->magic);

	obd_store_release((uint64_t *)(void *)h->magic, had_magic ? magic_word(FORMATTING) : 0);
	OBD_CRASH_POINT("format.unmarked");
	obd_fence_stores(); /* nobody may believe the magic from here on */
	h->layout_version = OBD_JOURNAL_VERSION;
	h->header_bytes = OBD_JOURNAL_HEADER_BYTES;
	memcpy(h->boot_id, identity->boot_id, sizeof(h->boot_id));
	memcpy(h->device_uuid, identity->device_uuid, sizeof(h->device_uuid));
	h->slot_cnt = journal->slot_cnt;
	h->slot_bytes = sizeof(struct obd_journal_slot);
	h->max_iov = OBD_JOURNAL_MAX_IOV;
	h->cmdr_off = ring->cmdr_off;
	h->cmdr_size = ring->cmdr_bytes;
	h->zero0 = 0;
	h->map_bytes = ring->map_bytes;
	memset(h->zero1, 0, sizeof(h->zero1));
	for (uint32_t i = 0; i < journal->slot_cnt; i++)
		journal->slots[i].state = OBD_SLOT_FREE;
	h->pub_valid = 0;
	h->next = obd_next(1, next);
	h->counters.in_flight = 0;
	h->counters.recovered_last = 0;
	if (had_magic == magic)
		h->counters.resets++;
	OBD_CRASH_POINT("format.filled");
	copy = *h;
	memcpy(copy.magic, OBD_JOURNAL_MAGIC, sizeof(copy.magic));
	h->crc32c = header_crc(&copy);
	OBD_CRASH_POINT("format.magic");
	obd_store_release((uint64_t *)(void *)h->magic, magic);
}

void obd_journal_own(struct obd_journal *journal, uint64_t generation)
{
	struct obd_journal_counters *counters = obd_journal_counters(journal);

	OBD_CRASH_GENERATION(generation);
	OBD_CRASH_POINT("attach.generation");
	journal->generation = generation;
	obd_store_release(&journal->header->generation, generation);
	obd_store_relaxed(&counters->first_publish_ns, 0);
	obd_store_relaxed(&counters->attached_ns, 0);
	obd_store_relaxed(&counters->owner_generation, generation);
	obd_store_relaxed(&counters->owner_pid, (uint64_t)getpid());
}

void obd_journal_close(struct obd_journal *journal)
{
	if (journal->header)
		munmap(journal->header, journal->map_bytes);
	if (journal->lock_fd >= 0)
		close(journal->lock_fd);
	journal->header = NULL;
	journal->lock_fd = -1;
}
