/* Flushes of a writable layer: data first, then what is pending gets into the index file. */
#include "obd_upper_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_crash.h"

/*
 * Why a failed sync is remembered: the kernel reports a write-back error once and then calls the
 * pages clean, so the next fdatasync would succeed although the data is gone. Only a reopen, which
 * reads what is really there, may start over.
 */
static int sync_file(struct obd_upper *upper, struct obd_file *file, struct obd_errinfo *info)
{
	if (OBD_CHEAT(sync_nothing))
		return 0;
	if (!upper->sync_errno && fdatasync(file->fd) < 0)
		upper->sync_errno = errno;
	if (upper->sync_errno)
		return obd_fail_errno(info, OBD_E_IO, upper->sync_errno, file->path, "sync");
	return 0;
}

/* With `flush` held, and the data of these records synced: [indexed, end) gets into the index. */
static int index_pending(struct obd_upper *upper, uint64_t end, struct obd_errinfo *info)
{
	uint8_t *chunk;
	int rc = 0;

	if (upper->pending.file.fd < 0 || upper->indexed >= end)
		return 0;
	chunk = malloc((size_t)OBD_UPPER_CHUNK_RECORDS * OBD_LSMT_ENTRY_BYTES);
	if (!chunk)
		return obd_fail(info, OBD_E_NOMEM, upper->index.path, "index records");
	while (!rc && upper->indexed < end) {
		size_t bytes = (size_t)OBD_UPPER_CHUNK_RECORDS * OBD_LSMT_ENTRY_BYTES;
		int err;

		if (bytes > end - upper->indexed)
			bytes = (size_t)(end - upper->indexed);
		rc = obd_file_read_buffer(&upper->pending.file, upper->indexed, chunk, bytes, 0,
					  info);
		if (rc)
			break;
		OBD_CRASH_POINT("flush.record");
		/* a failure leaves some of them there: pending all the same, and written again */
		err = obd_upper_write_all(upper->index.fd, chunk, bytes, upper->indexed);
		if (err)
			rc = obd_upper_fail_at(&upper->index, "append index records",
					       obd_upper_code_of_write(err), err, upper->indexed,
					       info);
		else
			upper->indexed += bytes;
	}
	free(chunk);
	return rc;
}

/* With `flush` held. */
static int flush_locked(struct obd_upper *upper, struct obd_errinfo *info)
{
	uint64_t end;
	bool is_writing;
	int rc = 0;

	pthread_mutex_lock(&upper->commit);
	is_writing = upper->is_writing;
	end = upper->index_end; /* the data of all before it is written */
	pthread_mutex_unlock(&upper->commit);
	OBD_CRASH_POINT("flush.data");
	if (!OBD_CHEAT(sync_index_alone))
		rc = sync_file(upper, &upper->data, info);
	OBD_CRASH_POINT("flush.records");
	if (!rc && is_writing)
		rc = index_pending(upper, end, info);
	OBD_CRASH_POINT("flush.index");
	if (!rc)
		rc = sync_file(upper, &upper->index, info);
	OBD_CRASH_POINT("flush.done");
	return rc;
}

int obd_upper_flush(struct obd_upper *upper, struct obd_errinfo *info)
{
	/* pairs with the release below: a flush that begins later sees all we wrote */
	uint64_t begun_before = obd_load_acquire(&upper->flushes_begun);
	int rc = 0;

	pthread_mutex_lock(&upper->flush);
	/* one that began after we came, and is over: it did our work, unless it failed */
	if (upper->flushes_begun == begun_before || upper->flush_failed) {
		obd_store_release(&upper->flushes_begun, upper->flushes_begun + 1);
		rc = flush_locked(upper, info);
		upper->flush_failed = rc != 0;
	}
	pthread_mutex_unlock(&upper->flush);
	return rc;
}

int obd_upper_settle(struct obd_upper *upper, struct obd_errinfo *info)
{
	uint64_t reserved = 0;
	int rc = obd_upper_start_writing(upper, &reserved, info);

	if (rc)
		return rc;
	rc = obd_upper_flush(upper, info);
	if (!rc && !upper->is_sparse)
		rc = obd_pending_remove(&upper->pending, info);
	obd_upper_stop_writing(upper);
	return rc;
}
