#include "obd_upper.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_bytes.h"
#include "obd_crash.h"
#include "obd_map.h"
#include "obd_pending.h"
#include "obd_planted.h"

#define CHUNK_RECORDS	  4096u
#define WRITE_MAX_RECORDS 64u /* one write: 512 MiB; the kernel sends 512 KiB at most */
#define SLOTS		  64u
#define TURNS		  64u	 /* so many writers wait without waking each other */
#define INDEX_AHEAD_BYTES 65536u /* of the index file, set aside before records need it */
#define DISK_SECTOR_BYTES 512u	 /* what a disk writes as a whole */

struct obd_upper {
	struct obd_file data;
	struct obd_file index;
	struct obd_pending pending; /* records behind the end of the index file */
	bool is_read_only;	    /* the files could not be opened for writing */
	uint8_t tag;
	uint64_t virtual_size_bytes;

	pthread_rwlock_t map_lock;
	struct obd_map map;

	pthread_mutex_t commit;
	pthread_cond_t turn_came[TURNS]; /* by ticket: a commit wakes the next writer, not all */
	uint64_t index_end;		 /* end of the records in the map, as an index offset */
	uint64_t index_begun;		 /* end of the whole records in the index file, last seen */
	uint64_t index_ahead;		 /* so far the index file has its blocks */
	uint8_t last_record[OBD_LSMT_ENTRY_BYTES]; /* in front of index_end, as it was read */
	uint64_t hole;		    /* offset of the first hole seen in the index, or 0 */
	uint64_t data_end;	    /* where the next extent begins */
	uint64_t committed_sectors; /* end of the furthest extent a record names */
	uint64_t next_ticket;	    /* extents are reserved ... */
	uint64_t turn;		    /* ... and committed in this order */
	uint64_t *reserved;	    /* borrowed while writing */
	bool is_writing;
	uint64_t torn_bytes_cut;

	pthread_mutex_t flush;	/* one flush at a time: an error is reported once per file */
	uint64_t flushes_begun; /* written with `flush` held */
	bool flush_failed;	/* the last one; with `flush` held */
	int sync_errno;		/* of the first failed sync, for ever; with `flush` held */
	uint64_t indexed;	/* end of what is in the index file; with `flush` held */
};

static int fail_at(const struct obd_file *file, const char *what, int code, int err, uint64_t at,
		   struct obd_errinfo *info)
{
	obd_fail_errno(info, code, err, file->path, what);
	if (info)
		info->offset_bytes = at;
	return code;
}

static int code_of_write(int err)
{
	return err == ENOSPC || err == EDQUOT ? OBD_E_NOSPACE : OBD_E_IO;
}

/* ---- open ---- */

static int open_pair(struct obd_upper *upper, const char *data_path, const char *index_path,
		     struct obd_errinfo *info)
{
	struct obd_errinfo first = {0};
	int rc = obd_file_open(data_path, O_RDWR, &first, &upper->data);

	if (!rc)
		rc = obd_file_open(index_path, O_RDWR, &first, &upper->index);
	if (rc && (first.sys_errno == EACCES || first.sys_errno == EROFS)) {
		/* good enough to follow */
		obd_file_close(&upper->data);
		upper->is_read_only = true;
		rc = obd_file_open(data_path, O_RDONLY, &first, &upper->data);
		if (!rc)
			rc = obd_file_open(index_path, O_RDONLY, &first, &upper->index);
	}
	if (rc && info)
		*info = first;
	return rc;
}

static int read_headers(struct obd_upper *upper, struct obd_errinfo *info)
{
	const uint32_t kind = OBD_LSMT_FLAG_HEADER | OBD_LSMT_FLAG_DATA;
	uint8_t area[OBD_LSMT_SPACE_BYTES];
	struct obd_lsmt_ht data;
	struct obd_lsmt_ht index;
	int rc = obd_file_read_buffer(&upper->data, 0, area, sizeof(area), 0, info);

	if (!rc)
		rc = obd_lsmt_decode_ht(area, kind, kind, upper->data.path, 0, info, &data);
	if (rc)
		return rc;
	if (data.flags & OBD_LSMT_FLAG_SPARSE)
		return obd_fail_value(info, OBD_E_UNSUPPORTED, upper->data.path,
				      "lsmt sparse writable layer", 28, 0, data.flags);
	rc = obd_file_read_buffer(&upper->index, 0, area, sizeof(area), 0, info);
	if (!rc)
		rc = obd_lsmt_decode_ht(area, kind | OBD_LSMT_FLAG_SEALED, OBD_LSMT_FLAG_HEADER,
					upper->index.path, 0, info, &index);
	if (rc)
		return rc;
	if (index.index_offset_bytes != OBD_LSMT_SPACE_BYTES)
		return obd_fail_value(info, OBD_E_FORMAT, upper->index.path, "lsmt index offset",
				      32, OBD_LSMT_SPACE_BYTES, index.index_offset_bytes);
	if (strncasecmp(data.uuid, index.uuid, sizeof(data.uuid)) != 0)
		return obd_fail_value(info, OBD_E_FORMAT, upper->index.path,
				      "uuid of index and data differ", 56, 0, 0);
	if (data.virtual_size_bytes != index.virtual_size_bytes)
		return obd_fail_value(info, OBD_E_FORMAT, upper->index.path,
				      "virtual size of index and data differ", 48,
				      data.virtual_size_bytes, index.virtual_size_bytes);
	upper->virtual_size_bytes = data.virtual_size_bytes;
	return obd_pending_init(&upper->pending, upper->index.path, index.uuid, info);
}

static int init_locks(struct obd_upper *upper)
{
	pthread_rwlockattr_t attr;
	int rc;

	if (pthread_mutex_init(&upper->commit, NULL) || pthread_mutex_init(&upper->flush, NULL) ||
	    pthread_rwlockattr_init(&attr))
		return OBD_E_NOMEM;
	for (uint32_t i = 0; i < TURNS; i++)
		pthread_cond_init(&upper->turn_came[i], NULL);
	/* a stream of readers must not starve the writer */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	rc = pthread_rwlock_init(&upper->map_lock, &attr) ? OBD_E_NOMEM : 0;
	pthread_rwlockattr_destroy(&attr);
	return rc;
}

int obd_upper_create(const char *data_path, const char *index_path, uint8_t tag,
		     struct obd_errinfo *info, struct obd_upper **ret)
{
	struct obd_upper *upper = calloc(1, sizeof(*upper));
	int rc;

	if (!upper)
		return obd_fail(info, OBD_E_NOMEM, data_path, "writable layer");
	upper->data.fd = upper->index.fd = upper->pending.file.fd = -1;
	upper->tag = tag;
	upper->index_end = OBD_LSMT_SPACE_BYTES;
	upper->committed_sectors = OBD_LSMT_FIRST_SECTOR;
	if (init_locks(upper) || obd_map_init(&upper->map)) {
		free(upper);
		return obd_fail(info, OBD_E_NOMEM, data_path, "writable layer");
	}
	rc = open_pair(upper, data_path, index_path, info);
	if (!rc)
		rc = read_headers(upper, info);
	if (!rc)
		rc = obd_upper_follow(upper, info);
	if (rc) {
		obd_upper_destroy(upper);
		return rc;
	}
	*ret = upper;
	return 0;
}

void obd_upper_destroy(struct obd_upper *upper)
{
	if (!upper)
		return;
	obd_file_close(&upper->data);
	obd_file_close(&upper->index); /* drops the writer's lock */
	obd_pending_deinit(&upper->pending);
	obd_map_deinit(&upper->map);
	pthread_rwlock_destroy(&upper->map_lock);
	pthread_mutex_destroy(&upper->commit);
	pthread_mutex_destroy(&upper->flush);
	for (uint32_t i = 0; i < TURNS; i++)
		pthread_cond_destroy(&upper->turn_came[i]);
	free(upper);
}

uint64_t obd_upper_virtual_size_bytes(const struct obd_upper *upper)
{
	return upper->virtual_size_bytes;
}

/* ---- read ---- */

size_t obd_upper_collect(struct obd_upper *upper, uint64_t begin, uint64_t end,
			 struct obd_segment *out, size_t cap)
{
	size_t cnt;

	pthread_rwlock_rdlock(&upper->map_lock);
	cnt = obd_map_collect(&upper->map, begin, end, out, cap);
	pthread_rwlock_unlock(&upper->map_lock);
	return cnt;
}

int obd_upper_read(struct obd_upper *upper, uint64_t moffset, uint64_t length,
		   struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info)
{
	return obd_file_read(&upper->data, moffset * 512, length * 512, cursor, flags, info);
}

/* ---- follow: apply the records from index_end on ---- */

enum record_kind {
	RECORD_GOOD,
	RECORD_PADDING,
	RECORD_BAD,	   /* can not be a record at all */
	RECORD_BEYOND_END, /* names data the data file does not hold */
};

static enum record_kind judge(struct obd_segment record, uint64_t data_sectors)
{
	uint64_t moffset = obd_segment_moffset(record);
	uint64_t length = obd_segment_zeroed(record) ? 0 : obd_segment_length(record);

	if (obd_lsmt_is_padding(record))
		return RECORD_PADDING;
	if (!obd_segment_length(record) || moffset < OBD_LSMT_FIRST_SECTOR)
		return RECORD_BAD;
	if (moffset + length > data_sectors)
		return RECORD_BEYOND_END;
	return RECORD_GOOD;
}

static int size_of(struct obd_file *file, struct obd_errinfo *info, uint64_t *ret)
{
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return obd_fail_errno(info, OBD_E_IO, errno, file->path, "stat");
	*ret = (uint64_t)st.st_size;
	return 0;
}

/*
 * Reads whole records at `at`, at most CHUNK_RECORDS, none beyond `end`: from the index file as far
 * as it goes, then from the pending ones.
 */
static int read_records(struct obd_upper *upper, uint64_t at, uint64_t end, uint8_t *chunk,
			struct obd_errinfo *info, uint32_t *ret_cnt)
{
	bool is_indexed = at < upper->index_begun;
	uint64_t left;

	if (is_indexed && end > upper->index_begun)
		end = upper->index_begun;
	left = (end - at) / OBD_LSMT_ENTRY_BYTES;
	*ret_cnt = left < CHUNK_RECORDS ? (uint32_t)left : CHUNK_RECORDS;
	return obd_file_read_buffer(is_indexed ? &upper->index : &upper->pending.file, at, chunk,
				    (size_t)*ret_cnt * OBD_LSMT_ENTRY_BYTES, 0, info);
}

static bool is_hole(const uint8_t *record)
{
	static const uint8_t zeros[OBD_LSMT_ENTRY_BYTES];

	return memcmp(record, zeros, sizeof(zeros)) == 0;
}

/*
 * A record at `at` can not be applied. If nothing good follows, that is a lost tail, which
 * start_writing cuts: *ret_resume is 0. If a good one does, it is damage, except for a hole: zeros
 * up to the end of a sector are records that were appended behind the last sync of the index file
 * and did not reach the disk, where later ones did. *ret_resume is then where these begin.
 */
static int check_tail(struct obd_upper *upper, uint64_t at, uint64_t end, uint64_t data_sectors,
		      uint8_t *chunk, struct obd_errinfo *info, uint64_t *ret_resume)
{
	const uint64_t first = at;
	bool all_zeros = true;

	*ret_resume = 0;
	while (end - at >= OBD_LSMT_ENTRY_BYTES) {
		uint32_t cnt;
		int rc = read_records(upper, at, end, chunk, info, &cnt);

		if (rc)
			return rc;
		for (uint32_t i = 0; i < cnt; i++, at += OBD_LSMT_ENTRY_BYTES) {
			const uint8_t *raw = chunk + (size_t)i * OBD_LSMT_ENTRY_BYTES;

			enum record_kind kind = judge(obd_lsmt_decode_entry(raw), data_sectors);

			if (kind == RECORD_PADDING)
				continue;
			if (kind != RECORD_GOOD) {
				all_zeros = all_zeros && is_hole(raw);
				continue;
			}
			if (all_zeros && at % DISK_SECTOR_BYTES == 0) {
				*ret_resume = at;
				return 0;
			}
			return obd_fail_value(info, OBD_E_FORMAT, upper->index.path,
					      "index record beyond the data file, with good ones "
					      "after it",
					      first, data_sectors, at);
		}
	}
	return 0;
}

/* Applies cnt records; *ret_bad is the number of the first that can not be, cnt if all can. */
static int apply_records(struct obd_upper *upper, const uint8_t *chunk, uint32_t cnt,
			 uint64_t data_sectors, uint32_t *ret_bad)
{
	int rc = 0;
	uint32_t i;

	pthread_rwlock_wrlock(&upper->map_lock);
	for (i = 0; i < cnt; i++, upper->index_end += OBD_LSMT_ENTRY_BYTES) {
		struct obd_segment record =
			obd_lsmt_decode_entry(chunk + (size_t)i * OBD_LSMT_ENTRY_BYTES);
		enum record_kind kind = judge(record, data_sectors);
		uint64_t end;

		if (kind == RECORD_PADDING)
			continue;
		if (kind != RECORD_GOOD)
			break;
		rc = obd_map_reserve(&upper->map, 1);
		if (rc)
			break;
		obd_map_insert(&upper->map, record);
		end = obd_segment_moffset(record) +
		      (obd_segment_zeroed(record) ? 0 : obd_segment_length(record));
		if (end > upper->committed_sectors)
			upper->committed_sectors = end;
	}
	pthread_rwlock_unlock(&upper->map_lock);
	if (i)
		memcpy(upper->last_record, chunk + (size_t)(i - 1) * OBD_LSMT_ENTRY_BYTES,
		       sizeof(upper->last_record));
	*ret_bad = i;
	return rc;
}

/* The records we had applied are not those of the files any more: start over. */
static void forget_records(struct obd_upper *upper)
{
	pthread_rwlock_wrlock(&upper->map_lock);
	obd_map_clear(&upper->map);
	upper->index_end = OBD_LSMT_SPACE_BYTES;
	upper->committed_sectors = OBD_LSMT_FIRST_SECTOR;
	upper->hole = 0;
	pthread_rwlock_unlock(&upper->map_lock);
}

/* Notes how far the index file goes; *ret_end is where the records end, pending ones included. */
static int find_end(struct obd_upper *upper, struct obd_errinfo *info, uint64_t *ret_end)
{
	uint64_t index_bytes;
	uint64_t pending_end;
	int rc = size_of(&upper->index, info, &index_bytes);

	if (rc)
		return rc;
	if (index_bytes < OBD_LSMT_SPACE_BYTES)
		return obd_fail_value(info, OBD_E_SHORT, upper->index.path, "index file", 0,
				      OBD_LSMT_SPACE_BYTES, index_bytes);
	upper->index_begun = index_bytes / OBD_LSMT_ENTRY_BYTES * OBD_LSMT_ENTRY_BYTES;
	rc = obd_pending_end(&upper->pending, &upper->index, upper->index_begun, info,
			     &pending_end);
	if (!rc)
		*ret_end = pending_end ? pending_end : upper->index_begun;
	return rc;
}

/*
 * Starts over if the record in front of ours is another one now: a writer took back records (a
 * failed append), or somebody else wrote to the index file instead of what was pending.
 */
static int check_last_record(struct obd_upper *upper, uint64_t end, struct obd_errinfo *info)
{
	uint8_t record[OBD_LSMT_ENTRY_BYTES];
	uint32_t cnt;
	uint64_t at = upper->index_end - sizeof(record);
	int rc;

	if (upper->index_end == OBD_LSMT_SPACE_BYTES)
		return 0;
	if (end < upper->index_end) {
		forget_records(upper);
		return 0;
	}
	rc = read_records(upper, at, at + sizeof(record), record, info, &cnt);
	if (!rc && memcmp(record, upper->last_record, sizeof(record)) != 0)
		forget_records(upper);
	return rc;
}

/* With `commit` held: applies everything in [index_end, end). */
static int apply_until(struct obd_upper *upper, uint64_t end, uint8_t *chunk,
		       struct obd_errinfo *info)
{
	while (end - upper->index_end >= OBD_LSMT_ENTRY_BYTES) {
		uint64_t data_bytes;
		uint64_t resume;
		uint32_t cnt;
		uint32_t bad;
		int rc = read_records(upper, upper->index_end, end, chunk, info, &cnt);

		/* after the records: their data was written before them */
		if (!rc)
			rc = size_of(&upper->data, info, &data_bytes);
		if (rc)
			return rc;
		if (apply_records(upper, chunk, cnt, data_bytes / 512, &bad))
			return obd_fail(info, OBD_E_NOMEM, upper->index.path, "in-memory index");
		if (bad == cnt)
			continue;
		if (upper->index_end >= upper->index_begun)
			return 0; /* what is pending does not fit the data file: not its own */
		rc = check_tail(upper, upper->index_end, end, data_bytes / 512, chunk, info,
				&resume);
		if (rc || !resume)
			return rc;
		if (!upper->hole)
			upper->hole = upper->index_end;
		upper->index_end = resume;
		memset(upper->last_record, 0, sizeof(upper->last_record));
	}
	return 0;
}

/* With `commit` held. A follower looks only if there is more; who will write looks twice. */
static int follow_locked(struct obd_upper *upper, bool will_write, struct obd_errinfo *info)
{
	uint8_t *chunk;
	uint64_t end = 0;
	int rc = find_end(upper, info, &end);

	if (!rc && (will_write || end != upper->index_end))
		rc = check_last_record(upper, end, info);
	if (rc || end == upper->index_end)
		return rc;
	chunk = malloc((size_t)CHUNK_RECORDS * OBD_LSMT_ENTRY_BYTES);
	if (!chunk)
		return obd_fail(info, OBD_E_NOMEM, upper->index.path, "index records");
	rc = apply_until(upper, end, chunk, info);
	free(chunk);
	return rc;
}

int obd_upper_follow(struct obd_upper *upper, struct obd_errinfo *info)
{
	int rc = 0;

	pthread_mutex_lock(&upper->commit);
	if (!upper->is_writing) /* the writer knows all there is */
		rc = follow_locked(upper, false, info);
	pthread_mutex_unlock(&upper->commit);
	return rc;
}

/* ---- the writer's role ---- */

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
		if (!is_hole(record))
			continue;
		obd_lsmt_encode_entry(padding, record);
		if (pwrite(upper->index.fd, record, sizeof(record), (off_t)at) !=
		    (ssize_t)sizeof(record))
			return fail_at(&upper->index, "fill a hole", OBD_E_IO, errno, at, info);
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
	int rc = size_of(&upper->index, info, &index_bytes);

	if (rc)
		return rc;
	if (kept > upper->index_begun)
		kept = upper->index_begun;
	if (index_bytes > kept) {
		OBD_CRASH_POINT("upper.cut");
		if (ftruncate(upper->index.fd, (off_t)kept) < 0)
			return fail_at(&upper->index, "cut torn tail", OBD_E_IO, errno, kept, info);
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
	int rc = follow_locked(upper, true, info);

	if (!rc)
		rc = size_of(&upper->data, info, &data_bytes);
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

/* With `commit` held, as pass_turn: until every extent reserved before `ticket` is committed. */
static void wait_turn(struct obd_upper *upper, uint64_t ticket)
{
	while (upper->turn != ticket)
		pthread_cond_wait(&upper->turn_came[ticket % TURNS], &upper->commit);
}

static void pass_turn(struct obd_upper *upper)
{
	upper->turn++;
	pthread_cond_broadcast(&upper->turn_came[upper->turn % TURNS]);
}

void obd_upper_stop_writing(struct obd_upper *upper)
{
	/* a flush under way must not append to the index file when another may be the writer */
	pthread_mutex_lock(&upper->flush);
	pthread_mutex_lock(&upper->commit);
	if (upper->is_writing) {
		upper->is_writing = false; /* no new extents; wait for those under way */
		wait_turn(upper, upper->next_ticket);
		upper->reserved = NULL;
		set_lock(upper, F_UNLCK);
	}
	pthread_mutex_unlock(&upper->commit);
	pthread_mutex_unlock(&upper->flush);
}

/* ---- write ---- */

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

/* pwrite of everything; the errno of the failure, 0 if all was written. */
static int write_all(int fd, const uint8_t *from, size_t length, uint64_t at)
{
	while (length) {
		ssize_t put = pwrite(fd, from, length, (off_t)at);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put ? errno : EIO;
		from += put;
		at += (uint64_t)put;
		length -= (size_t)put;
	}
	return 0;
}

/* Sets blocks aside; false if there is no space. Where that can not be done, true. */
static bool set_aside(int fd, uint64_t at, uint64_t length)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)length) == 0 ||
	       code_of_write(errno) != OBD_E_NOSPACE;
}

/* The index file must have room for what is pending: a flush has nobody to tell "disk full". */
static bool set_index_aside(struct obd_upper *upper, size_t bytes)
{
	uint64_t end = upper->index_end + bytes;

	if (end <= upper->index_ahead)
		return true;
	if (set_aside(upper->index.fd, upper->index_ahead,
		      end - upper->index_ahead + INDEX_AHEAD_BYTES))
		upper->index_ahead = end + INDEX_AHEAD_BYTES;
	else if (set_aside(upper->index.fd, upper->index_ahead, end - upper->index_ahead))
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
	    (bytes > OBD_LSMT_ENTRY_BYTES && !set_aside(file->fd, upper->index_end, bytes)))
		return fail_at(file, "append index records", OBD_E_NOSPACE, errno, upper->index_end,
			       info);
	if (!is_pending && fdatasync(upper->data.fd) < 0)
		return fail_at(&upper->data, "sync", OBD_E_IO, errno, upper->index_end, info);
	OBD_CRASH_POINT("upper.record");
	err = write_all(file->fd, records, bytes, upper->index_end);
	if (err) {
		/* what reached the file is not acknowledged: take it back. Should even that fail,
		 * the next record overwrites it, for index_end did not move */
		int ignored = ftruncate(file->fd, (off_t)upper->index_end);

		(void)ignored;
		return fail_at(file, "append index record", code_of_write(err), err,
			       upper->index_end, info);
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

			return fail_at(&upper->data, "append data", code_of_write(err), err, at,
				       info);
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
	wait_turn(upper, ticket);
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
	uint8_t *records = malloc((size_t)cnt * OBD_LSMT_ENTRY_BYTES);
	int rc;

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
	chunk = malloc((size_t)CHUNK_RECORDS * OBD_LSMT_ENTRY_BYTES);
	if (!chunk)
		return obd_fail(info, OBD_E_NOMEM, upper->index.path, "index records");
	while (!rc && upper->indexed < end) {
		size_t bytes = (size_t)CHUNK_RECORDS * OBD_LSMT_ENTRY_BYTES;
		int err;

		if (bytes > end - upper->indexed)
			bytes = (size_t)(end - upper->indexed);
		rc = obd_file_read_buffer(&upper->pending.file, upper->indexed, chunk, bytes, 0,
					  info);
		if (rc)
			break;
		OBD_CRASH_POINT("flush.record");
		/* a failure leaves some of them there: pending all the same, and written again */
		err = write_all(upper->index.fd, chunk, bytes, upper->indexed);
		if (err)
			rc = fail_at(&upper->index, "append index records", code_of_write(err), err,
				     upper->indexed, info);
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
	if (!rc)
		rc = obd_pending_remove(&upper->pending, info);
	obd_upper_stop_writing(upper);
	return rc;
}

void obd_upper_stat(struct obd_upper *upper, struct obd_image_stat *ret)
{
	struct stat st;

	pthread_mutex_lock(&upper->commit);
	pthread_rwlock_rdlock(&upper->map_lock);
	ret->upper_segments = upper->map.segment_cnt;
	ret->upper_records = (upper->index_end - OBD_LSMT_SPACE_BYTES) / OBD_LSMT_ENTRY_BYTES;
	ret->index_memory_bytes += obd_map_memory_bytes(&upper->map);
	pthread_rwlock_unlock(&upper->map_lock);
	ret->upper_data_bytes = fstat(upper->data.fd, &st) < 0 ? 0 : (uint64_t)st.st_size;
	ret->torn_bytes_cut = upper->torn_bytes_cut;
	pthread_mutex_unlock(&upper->commit);
}
