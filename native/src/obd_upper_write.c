/* Writes and discards of a writable layer: an extent, its data, its records, in ticket order. */
#include "obd_upper_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_crash.h"
#include "obd_planted.h"

#define WRITE_MAX_RECORDS 64u /* one write: 512 MiB; the kernel sends 512 KiB at most */
#define SLOTS		  64u
#define INDEX_AHEAD_BYTES 65536u /* of the index file, set aside before records need it */

/* With `commit` held, as pass_turn: until every extent reserved before `ticket` is committed. */
void obd_upper_wait_turn(struct obd_upper *upper, uint64_t ticket)
{
	while (upper->turn != ticket)
		pthread_cond_wait(&upper->turn_came[ticket % OBD_UPPER_TURNS], &upper->commit);
}

static void pass_turn(struct obd_upper *upper)
{
	upper->turn++;
	pthread_cond_broadcast(&upper->turn_came[upper->turn % OBD_UPPER_TURNS]);
}

/* Splits a range into records; moffset advances with the data, or stays for zeroed ones. */
static void encode_records(uint64_t lba, uint64_t sector_cnt, uint64_t moffset, bool zeroed,
			   uint8_t tag, uint8_t *out)
{
	while (sector_cnt) {
		uint64_t length =
			sector_cnt < OBD_SEGMENT_MAX_SECTORS ? sector_cnt : OBD_SEGMENT_MAX_SECTORS;

		obd_lsmt_encode_entry(obd_segment_make(lba, length, moffset, zeroed, tag), out);
		out += OBD_LSMT_ENTRY_BYTES;
		lba += length;
		sector_cnt -= length;
		if (!zeroed)
			moffset += length;
	}
}

/* The index file must have room for what is pending: a flush has nobody to tell "disk full". */
static bool set_index_aside(struct obd_upper *upper, size_t bytes)
{
	uint64_t end = upper->index_end + bytes;

	if (end <= upper->index_ahead)
		return true;
	if (obd_upper_set_aside(upper->index.fd, upper->index_ahead,
				end - upper->index_ahead + INDEX_AHEAD_BYTES))
		upper->index_ahead = end + INDEX_AHEAD_BYTES;
	else if (obd_upper_set_aside(upper->index.fd, upper->index_ahead, end - upper->index_ahead))
		upper->index_ahead = end;
	return end <= upper->index_ahead;
}

/*
 * With `commit` held: appends the records to what is pending. Without a pending file (there was no
 * space to make one) the index file has to take them at once, and so their data is synced first.
 */
static int append_records(struct obd_upper *upper, const uint8_t *records, size_t bytes,
			  struct obd_errinfo *info)
{
	bool is_pending = upper->pending.file.fd >= 0;
	struct obd_file *file = is_pending ? &upper->pending.file : &upper->index;
	int err;

	/* several records must not stop half-way for lack of space, where a follower could see some
	 * of them; where the file system can not set aside, the cut below has to do */
	if (!set_index_aside(upper, bytes) ||
	    (bytes > OBD_LSMT_ENTRY_BYTES &&
	     !obd_upper_set_aside(file->fd, upper->index_end, bytes)))
		return obd_upper_fail_at(file, "append index records", OBD_E_NOSPACE, errno,
					 upper->index_end, info);
	if (!is_pending && fdatasync(upper->data.fd) < 0)
		return obd_upper_fail_at(&upper->data, "sync", OBD_E_IO, errno, upper->index_end,
					 info);
	OBD_CRASH_POINT("upper.record");
	err = obd_upper_write_all(file->fd, records, bytes, upper->index_end);
	if (err) {
		/* what reached the file is not acknowledged: take it back. Should even that fail,
		 * the next record overwrites it, for index_end did not move */
		int ignored = ftruncate(file->fd, (off_t)upper->index_end);

		(void)ignored;
		return obd_upper_fail_at(file, "append index record", obd_upper_code_of_write(err),
					 err, upper->index_end, info);
	}
	return 0;
}

/* With `commit` held: appends the records to the file, then makes them visible. */
static int commit_records(struct obd_upper *upper, const uint8_t *records, size_t cnt,
			  struct obd_errinfo *info)
{
	size_t bytes = cnt * OBD_LSMT_ENTRY_BYTES;
	int rc;

	pthread_rwlock_wrlock(&upper->map_lock);
	rc = obd_map_reserve(&upper->map, cnt);
	pthread_rwlock_unlock(&upper->map_lock);
	if (rc)
		return obd_fail(info, OBD_E_NOMEM, upper->index.path, "in-memory index");
	rc = append_records(upper, records, bytes, info);
	if (rc)
		return rc;
	OBD_CRASH_POINT("upper.visible");
	pthread_rwlock_wrlock(&upper->map_lock);
	for (size_t i = 0; i < cnt; i++)
		obd_map_insert(&upper->map,
			       obd_lsmt_decode_entry(records + i * OBD_LSMT_ENTRY_BYTES));
	upper->index_end += bytes;
	memcpy(upper->last_record, records + bytes - sizeof(upper->last_record),
	       sizeof(upper->last_record));
	pthread_rwlock_unlock(&upper->map_lock);
	return 0;
}

/* Sets aside length bytes of the data file and a place in the order of commits. */
static int reserve_extent(struct obd_upper *upper, uint64_t length, struct obd_errinfo *info,
			  uint64_t *ret_at, uint64_t *ret_ticket)
{
	int rc = 0;

	pthread_mutex_lock(&upper->commit);
	if (!upper->is_writing) {
		rc = obd_fail(info, OBD_E_READONLY, upper->index.path, "not the writer");
	} else if (upper->data_end + length > (uint64_t)INT64_MAX) {
		rc = obd_fail(info, OBD_E_NOSPACE, upper->data.path, "data file too large");
	} else {
		*ret_at = upper->data_end;
		*ret_ticket = upper->next_ticket++;
		upper->data_end += length;
		/* pairs with the acquire of a successor's start_writing: the extent is known to be
		 * ours before a byte of it is written */
		OBD_CRASH_POINT("upper.reserve");
		if (*upper->reserved < upper->data_end)
			obd_store_release(upper->reserved, upper->data_end);
	}
	pthread_mutex_unlock(&upper->commit);
	return rc;
}

static int write_data(struct obd_upper *upper, uint64_t at, uint64_t length,
		      const struct iovec *iov, uint32_t iov_cnt, struct obd_errinfo *info)
{
	struct iovec slot[SLOTS];
	struct obd_cursor cursor;

	obd_cursor_init(&cursor, iov, iov_cnt);
	while (length) {
		uint32_t cnt;
		ssize_t put;

		obd_cursor_slice(&cursor, length, slot, SLOTS, &cnt);
		put = pwritev(upper->data.fd, slot, (int)cnt, (off_t)at);
		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0) {
			int err = put ? errno : EIO;

			return obd_upper_fail_at(&upper->data, "append data",
						 obd_upper_code_of_write(err), err, at, info);
		}
		obd_cursor_skip(&cursor, (uint64_t)put);
		at += (uint64_t)put;
		length -= (uint64_t)put;
	}
	return 0;
}

int obd_upper_write(struct obd_upper *upper, uint64_t lba, uint32_t sector_cnt,
		    const struct iovec *iov, uint32_t iov_cnt, uint32_t flags,
		    struct obd_errinfo *info)
{
	uint8_t records[WRITE_MAX_RECORDS * OBD_LSMT_ENTRY_BYTES];
	size_t cnt = (sector_cnt + OBD_SEGMENT_MAX_SECTORS - 1ull) / OBD_SEGMENT_MAX_SECTORS;
	uint64_t length = (uint64_t)sector_cnt * 512;
	uint64_t at = 0;
	uint64_t ticket = 0;
	int flight = -1;
	int rc;

	if (upper->is_sparse)
		return obd_upper_sparse_write(upper, lba, sector_cnt, iov, iov_cnt, flags, info);
	if (cnt > WRITE_MAX_RECORDS)
		return obd_fail_value(info, OBD_E_INVAL, upper->data.path, "sectors of one write",
				      lba, WRITE_MAX_RECORDS * OBD_SEGMENT_MAX_SECTORS, sector_cnt);
	rc = reserve_extent(upper, length, info, &at, &ticket);
	if (rc)
		return rc;
	OBD_CRASH_POINT("upper.data");
	if (OBD_CHEAT(late_landing))
		flight = obd_planted_take_off(upper->data.path, at, length, iov, iov_cnt);
	if (sector_cnt > 1 && OBD_CHEAT_NOW(torn_write))
		length = sector_cnt / 2 * 512ull;
	rc = write_data(upper, at, length, iov, iov_cnt, info);
	length = (uint64_t)sector_cnt * 512;
	if (OBD_CHEAT(late_landing))
		obd_planted_landed(flight);
	OBD_CRASH_POINT("upper.written");
	encode_records(lba, sector_cnt, at / 512, false, upper->tag, records);

	pthread_mutex_lock(&upper->commit);
	obd_upper_wait_turn(upper, ticket);
	if (!rc)
		rc = commit_records(upper, records, cnt, info);
	OBD_CRASH_POINT("upper.committed");
	if (!rc)
		upper->committed_sectors = (at + length) / 512;
	else if (upper->data_end == at + length)
		upper->data_end = at; /* the last extent, and nothing of it counts */
	pass_turn(upper);
	pthread_mutex_unlock(&upper->commit);

	if (!rc && (flags & OBD_WRITE_FUA))
		rc = obd_upper_flush(upper, info);
	return rc;
}

int obd_upper_discard(struct obd_upper *upper, uint64_t lba, uint64_t sector_cnt,
		      struct obd_errinfo *info)
{
	uint64_t cnt = (sector_cnt + OBD_SEGMENT_MAX_SECTORS - 1) / OBD_SEGMENT_MAX_SECTORS;
	uint8_t *records;
	int rc;

	if (upper->is_sparse)
		return obd_upper_sparse_discard(upper, lba, sector_cnt, info);
	records = malloc((size_t)cnt * OBD_LSMT_ENTRY_BYTES);
	if (!records)
		return obd_fail(info, OBD_E_NOMEM, upper->index.path, "discard records");
	pthread_mutex_lock(&upper->commit);
	if (!upper->is_writing) {
		rc = obd_fail(info, OBD_E_READONLY, upper->index.path, "not the writer");
	} else {
		/* a place the data file surely has, and that keeps moffsets ascending */
		encode_records(lba, sector_cnt, upper->committed_sectors, true, upper->tag,
			       records);
		rc = commit_records(upper, records, (size_t)cnt, info);
	}
	pthread_mutex_unlock(&upper->commit);
	free(records);
	return rc;
}
