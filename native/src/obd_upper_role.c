/* The writer's role of a writable layer: taken with the lock of the index file, and given back. */
#include "obd_upper_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "obd_crash.h"

/* An OFD lock: belongs to this open of the file, so it ends with the process or with destroy. */
static int set_lock(struct obd_upper *upper, short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET};
	int rc;

	if (OBD_CHEAT(no_lock))
		return 0;
	do {
		rc = fcntl(upper->index.fd, F_OFD_SETLK, &lock);
	} while (rc < 0 && errno == EINTR);
	return rc < 0 ? errno : 0;
}

/* Records that a power cut left out become padding, which the reference reads over, too. */
static int fill_holes(struct obd_upper *upper, struct obd_errinfo *info)
{
	const struct obd_segment padding = {.low = OBD_SEGMENT_OFFSET_MASK};
	uint8_t record[OBD_LSMT_ENTRY_BYTES];

	for (uint64_t at = upper->hole; at && at < upper->index_begun; at += sizeof(record)) {
		int rc = obd_file_read_buffer(&upper->index, at, record, sizeof(record), 0, info);

		if (rc)
			return rc;
		if (!obd_upper_is_hole(record))
			continue;
		obd_lsmt_encode_entry(padding, record);
		if (pwrite(upper->index.fd, record, sizeof(record), (off_t)at) !=
		    (ssize_t)sizeof(record))
			return obd_upper_fail_at(&upper->index, "fill a hole", OBD_E_IO, errno, at,
						 info);
		upper->torn_bytes_cut += sizeof(record);
	}
	upper->hole = 0;
	return 0;
}

/*
 * Half a record, or records whose data a power cut took: never acknowledged as durable, and later
 * records must not be framed by them.
 */
static int cut_tail(struct obd_upper *upper, struct obd_errinfo *info)
{
	uint64_t index_bytes;
	uint64_t kept = upper->index_end;
	int rc = obd_upper_size_of(&upper->index, info, &index_bytes);

	if (rc)
		return rc;
	if (kept > upper->index_begun)
		kept = upper->index_begun;
	if (index_bytes > kept) {
		OBD_CRASH_POINT("upper.cut");
		if (ftruncate(upper->index.fd, (off_t)kept) < 0)
			return obd_upper_fail_at(&upper->index, "cut torn tail", OBD_E_IO, errno,
						 kept, info);
		upper->torn_bytes_cut += index_bytes - kept;
	}
	upper->indexed = upper->index_ahead = kept;
	return 0;
}

/* Without a place for pending records each write waits for a sync: see commit_records. */
static void begin_pending(struct obd_upper *upper)
{
	const uint8_t *last = upper->index_end > OBD_LSMT_SPACE_BYTES ? upper->last_record : NULL;

	OBD_CRASH_POINT("upper.pending");
	(void)obd_pending_begin(&upper->pending, upper->index_end, last, NULL);
}

static int become_writer(struct obd_upper *upper, uint64_t *reserved, struct obd_errinfo *info)
{
	uint64_t data_bytes;
	int rc;

	if (upper->is_sparse) {
		rc = obd_upper_sparse_begin(upper, info);
		upper->is_writing = !rc;
		return rc;
	}
	rc = obd_upper_follow_locked(upper, true, info);

	if (!rc)
		rc = obd_upper_size_of(&upper->data, info, &data_bytes);
	if (!rc)
		rc = fill_holes(upper, info);
	if (!rc)
		rc = cut_tail(upper, info);
	if (rc)
		return rc;
	upper->data_end = data_bytes;
	if (*reserved > upper->data_end && !OBD_CHEAT(no_high_water_mark))
		upper->data_end = *reserved;
	if (upper->data_end > (uint64_t)INT64_MAX - 511)
		return obd_fail_value(info, OBD_E_INVAL, upper->data.path, "append position", 0,
				      INT64_MAX, upper->data_end);
	upper->data_end = (upper->data_end + 511) & ~511ull;
	begin_pending(upper);
	upper->reserved = reserved;
	upper->is_writing = true;
	return 0;
}

int obd_upper_start_writing(struct obd_upper *upper, uint64_t *reserved, struct obd_errinfo *info)
{
	int err;
	int rc;

	if (upper->is_read_only)
		return obd_fail(info, OBD_E_READONLY, upper->index.path, "not writable for us");
	pthread_mutex_lock(&upper->commit);
	if (upper->is_writing) {
		rc = obd_fail(info, OBD_E_INVAL, upper->index.path, "already the writer");
		goto out;
	}
	OBD_CRASH_POINT("upper.lock");
	err = set_lock(upper, F_WRLCK);
	if (err) {
		rc = obd_fail_errno(info, err == EAGAIN || err == EACCES ? OBD_E_LOCKED : OBD_E_IO,
				    err, upper->index.path, "writer's lock");
		goto out;
	}
	OBD_CRASH_POINT("upper.follow");
	rc = become_writer(upper, reserved, info);
	OBD_CRASH_POINT("upper.writing");
	if (rc)
		set_lock(upper, F_UNLCK);
out:
	pthread_mutex_unlock(&upper->commit);
	return rc;
}

void obd_upper_stop_writing(struct obd_upper *upper)
{
	/* a flush under way must not append to the index file when another may be the writer */
	pthread_mutex_lock(&upper->flush);
	pthread_mutex_lock(&upper->commit);
	if (upper->is_writing) {
		upper->is_writing = false; /* no new extents; wait for those under way */
		obd_upper_wait_turn(upper, upper->next_ticket);
		upper->reserved = NULL;
		set_lock(upper, F_UNLCK);
	}
	pthread_mutex_unlock(&upper->commit);
	pthread_mutex_unlock(&upper->flush);
}
