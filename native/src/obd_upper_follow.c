/* Following a writable layer: applies the records from index_end on. */
#include "obd_upper_internal.h"

#include <stdlib.h>
#include <string.h>

#define DISK_SECTOR_BYTES 512u /* what a disk writes as a whole */

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

/*
 * Reads whole records at `at`, at most OBD_UPPER_CHUNK_RECORDS, none beyond `end`: from the index
 * file as far as it goes, then from the pending ones.
 */
static int read_records(struct obd_upper *upper, uint64_t at, uint64_t end, uint8_t *chunk,
			struct obd_errinfo *info, uint32_t *ret_cnt)
{
	bool is_indexed = at < upper->index_begun;
	uint64_t left;

	if (is_indexed && end > upper->index_begun)
		end = upper->index_begun;
	left = (end - at) / OBD_LSMT_ENTRY_BYTES;
	*ret_cnt = left < OBD_UPPER_CHUNK_RECORDS ? (uint32_t)left : OBD_UPPER_CHUNK_RECORDS;
	return obd_file_read_buffer(is_indexed ? &upper->index : &upper->pending.file, at, chunk,
				    (size_t)*ret_cnt * OBD_LSMT_ENTRY_BYTES, 0, info);
}

bool obd_upper_is_hole(const uint8_t *record)
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
				all_zeros = all_zeros && obd_upper_is_hole(raw);
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
	int rc = obd_upper_size_of(&upper->index, info, &index_bytes);

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
			rc = obd_upper_size_of(&upper->data, info, &data_bytes);
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

int obd_upper_follow_locked(struct obd_upper *upper, bool will_write, struct obd_errinfo *info)
{
	uint8_t *chunk;
	uint64_t end = 0;
	int rc;

	if (upper->is_sparse)
		return obd_upper_sparse_follow(upper, info);
	rc = find_end(upper, info, &end);
	if (!rc && (will_write || end != upper->index_end))
		rc = check_last_record(upper, end, info);
	if (rc || end == upper->index_end)
		return rc;
	chunk = malloc((size_t)OBD_UPPER_CHUNK_RECORDS * OBD_LSMT_ENTRY_BYTES);
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
		rc = obd_upper_follow_locked(upper, false, info);
	pthread_mutex_unlock(&upper->commit);
	return rc;
}
