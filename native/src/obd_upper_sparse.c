/*
 * The writable layer in sparse mode: sector X of the disk is at byte 4096 + X * 512 of the data
 * file; where that has a hole, what is below shows, or zeros, if it was discarded (obd_zeroes.h).
 * The index file is empty and serves as the lock.
 *
 * The holes of a file are blocks of 4096 bytes, so a block has to be right as a whole as soon as it
 * is there: a write that covers a part of a hole brings the rest of the block with it, in the same
 * pwrite. Whether a block is a hole is decided with `fill` held by whoever may end that; a block
 * that has data never becomes "below" again.
 *
 * Writes are in place. A successor gets the lock when the last thread of its predecessor is gone,
 * so no write of it can land later; what was not answered is executed again before anything new, as
 * with appended writes, and that gives the same bytes at the same place.
 *
 * Source: overlaybd-formats 1.7.
 */
#include "obd_upper_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "obd_crash.h"
#include "obd_cursor.h"

#define BLOCK_SECTORS 8u
#define BLOCK_BYTES   4096u
#define SLOTS	      64u
#define ZERO_PIECES   16u /* of one pwritev of zeros */

static const uint8_t zero_block[BLOCK_BYTES];

static uint64_t place(uint64_t sector)
{
	return OBD_LSMT_SPACE_BYTES + sector * 512;
}

static uint64_t sectors_of(const struct obd_upper *upper)
{
	return upper->virtual_size_bytes / 512;
}

/* ---- what there is ---- */

static int insert(struct obd_map *map, uint64_t begin, uint64_t end, bool zeroed, uint8_t tag)
{
	while (begin < end) {
		uint64_t length = end - begin < OBD_SEGMENT_MAX_SECTORS ? end - begin
									: OBD_SEGMENT_MAX_SECTORS;

		if (obd_map_reserve(map, 1))
			return OBD_E_NOMEM;
		obd_map_insert(map, obd_segment_make(begin, length, begin + OBD_LSMT_FIRST_SECTOR,
						     zeroed, tag));
		begin += length;
	}
	return 0;
}

struct extent {
	uint64_t begin; /* sectors of the disk */
	uint64_t end;
};

/* The parts of the data file that are no holes. *ret is the caller's to free, also on failure. */
static int list_extents(struct obd_upper *upper, struct obd_errinfo *info, struct extent **ret,
			size_t *ret_cnt)
{
	uint64_t size = upper->data_end;
	uint64_t at = OBD_LSMT_SPACE_BYTES;
	size_t cap = 0;

	*ret = NULL;
	*ret_cnt = 0;
	while (at < size) {
		off_t begin = lseek(upper->data.fd, (off_t)at, SEEK_DATA);
		off_t end = begin < 0 ? begin : lseek(upper->data.fd, begin, SEEK_HOLE);

		if (begin < 0 && errno == ENXIO)
			return 0; /* nothing but a hole follows */
		if (end < 0)
			return obd_upper_fail_at(&upper->data, "look for holes", OBD_E_IO, errno,
						 at, info);
		if (*ret_cnt == cap) {
			size_t wanted = cap ? cap * 2 : 64;
			struct extent *more = reallocarray(*ret, wanted, sizeof(**ret));

			if (!more)
				return obd_fail(info, OBD_E_NOMEM, upper->data.path, "extents");
			*ret = more;
			cap = wanted;
		}
		at = (uint64_t)end < size ? (uint64_t)end : size;
		if ((uint64_t)begin < at)
			(*ret)[(*ret_cnt)++] = (struct extent){
				.begin = ((uint64_t)begin - OBD_LSMT_SPACE_BYTES) / 512,
				.end = (at - OBD_LSMT_SPACE_BYTES + 511) / 512,
			};
		at = (uint64_t)end;
	}
	return 0;
}

/* Zeroes first, data over them. */
static int fill_map(struct obd_upper *upper, const struct extent *extents, size_t cnt,
		    struct obd_map *map)
{
	struct obd_segment part[64];
	uint64_t at = 0;

	for (;;) {
		size_t found = obd_map_collect(&upper->zeroes.set, at, sectors_of(upper), part,
					       sizeof(part) / sizeof(*part));
		size_t taken = found < 64 ? found : 64;

		for (size_t i = 0; i < taken; i++) {
			at = obd_segment_end(part[i]);
			if (insert(map, obd_segment_offset(part[i]), at, true, upper->tag))
				return OBD_E_NOMEM;
		}
		if (taken == found)
			break;
	}
	for (size_t i = 0; i < cnt; i++)
		if (insert(map, extents[i].begin, extents[i].end, false, upper->tag))
			return OBD_E_NOMEM;
	return 0;
}

/* The end of what the data file holds of the disk, whole sectors; data_end is set to it. */
static int find_end(struct obd_upper *upper, struct obd_errinfo *info)
{
	uint64_t size;
	int rc = obd_upper_size_of(&upper->data, info, &size);

	if (rc)
		return rc;
	if (size > place(sectors_of(upper)))
		size = place(sectors_of(upper));
	upper->data_end = size & ~511ull;
	return 0;
}

int obd_upper_sparse_follow(struct obd_upper *upper, struct obd_errinfo *info)
{
	struct extent *extents = NULL;
	struct obd_map fresh = {0};
	struct obd_map old;
	size_t cnt = 0;
	int rc = find_end(upper, info);

	/* in this order: a hole is made behind its record, so what we take for a hole has one */
	if (!rc)
		rc = list_extents(upper, info, &extents, &cnt);
	if (!rc)
		rc = obd_zeroes_load(&upper->zeroes, info);
	if (!rc && (obd_map_init(&fresh) || fill_map(upper, extents, cnt, &fresh)))
		rc = obd_fail(info, OBD_E_NOMEM, upper->data.path, "in-memory index");
	free(extents);
	if (!rc) {
		pthread_rwlock_wrlock(&upper->map_lock);
		old = upper->map;
		upper->map = fresh;
		fresh = old;
		pthread_rwlock_unlock(&upper->map_lock);
	}
	if (fresh.root)
		obd_map_deinit(&fresh);
	return rc;
}

/* The writer's own: holes up to the end of the disk, so that no write has to extend the file. */
int obd_upper_sparse_begin(struct obd_upper *upper, struct obd_errinfo *info)
{
	uint64_t size;
	int rc = obd_upper_size_of(&upper->data, info, &size);

	OBD_CRASH_POINT("sparse.extend");
	if (!rc && size < place(sectors_of(upper)) &&
	    ftruncate(upper->data.fd, (off_t)place(sectors_of(upper))) < 0)
		rc = obd_upper_fail_at(&upper->data, "extend", obd_upper_code_of_write(errno),
				       errno, size, info);
	if (!rc)
		rc = obd_upper_sparse_follow(upper, info);
	if (upper->zeroes.fd >= 0) { /* of an earlier turn as the writer: its end may be old */
		close(upper->zeroes.fd);
		upper->zeroes.fd = -1;
	}
	return rc;
}

/* ---- writes ---- */

/* A turn between start_writing and stop_writing, which waits for it. */
static int enter(struct obd_upper *upper, struct obd_errinfo *info)
{
	int rc = 0;

	pthread_mutex_lock(&upper->commit);
	if (upper->is_writing)
		upper->next_ticket++;
	else
		rc = obd_fail(info, OBD_E_READONLY, upper->index.path, "not the writer");
	pthread_mutex_unlock(&upper->commit);
	return rc;
}

static void leave(struct obd_upper *upper)
{
	pthread_mutex_lock(&upper->commit);
	upper->turn++;
	/* only stop_writing waits, for the last of them */
	pthread_cond_broadcast(&upper->turn_came[upper->turn % OBD_UPPER_TURNS]);
	pthread_mutex_unlock(&upper->commit);
}

/* Whether the layer itself says what all of [begin, end) holds. */
static bool is_mapped(struct obd_upper *upper, uint64_t begin, uint64_t end)
{
	struct obd_segment part[64];

	while (begin < end) {
		size_t cnt = obd_upper_collect(upper, begin, end, part, 64);

		if (cnt > 64)
			cnt = 64;
		for (size_t i = 0; i < cnt; i++) {
			if (obd_segment_offset(part[i]) > begin)
				return false;
			begin = obd_segment_end(part[i]);
		}
		if (!cnt)
			return false;
	}
	return true;
}

/* Data into the map; what it holds already costs no segment more. */
static int note(struct obd_upper *upper, uint64_t begin, uint64_t end, bool zeroed,
		struct obd_errinfo *info)
{
	struct obd_segment first;
	int rc = 0;

	if (obd_upper_collect(upper, begin, end, &first, 1) == 1 &&
	    obd_segment_offset(first) == begin && obd_segment_end(first) == end &&
	    obd_segment_zeroed(first) == zeroed)
		return 0;
	pthread_rwlock_wrlock(&upper->map_lock);
	rc = insert(&upper->map, begin, end, zeroed, upper->tag);
	pthread_rwlock_unlock(&upper->map_lock);
	return rc ? obd_fail(info, OBD_E_NOMEM, upper->data.path, "in-memory index") : 0;
}

/* Bytes of the cursor to the data file. */
static int put(struct obd_upper *upper, uint64_t at, uint64_t length, struct obd_cursor *cursor,
	       struct obd_errinfo *info)
{
	while (length) {
		struct iovec slot[SLOTS];
		uint32_t cnt;
		ssize_t done;

		obd_cursor_slice(cursor, length, slot, SLOTS, &cnt);
		done = pwritev(upper->data.fd, slot, (int)cnt, (off_t)at);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0) {
			int err = done ? errno : EIO;

			return obd_upper_fail_at(&upper->data, "write data",
						 obd_upper_code_of_write(err), err, at, info);
		}
		obd_cursor_skip(cursor, (uint64_t)done);
		at += (uint64_t)done;
		length -= (uint64_t)done;
	}
	return 0;
}

/* Copies bytes out of the caller's buffers. */
static void take(struct obd_cursor *cursor, uint8_t *to, uint64_t length)
{
	while (length) {
		struct iovec slot;
		uint32_t cnt;
		size_t got = obd_cursor_slice(cursor, length, &slot, 1, &cnt);

		memcpy(to, slot.iov_base, got);
		obd_cursor_skip(cursor, got);
		to += got;
		length -= got;
	}
}

/*
 * With `fill` held: sectors [begin, end) of one block, from the cursor, and, if the block is a hole
 * that shows what is below, the rest of the block from there: in one pwrite of memory of our own,
 * so that no death leaves a part of the block.
 */
static int put_block(struct obd_upper *upper, uint64_t begin, uint64_t end,
		     struct obd_cursor *cursor, struct obd_errinfo *info)
{
	uint64_t first = begin / BLOCK_SECTORS * BLOCK_SECTORS;
	uint64_t last = first + BLOCK_SECTORS;
	uint8_t block[BLOCK_BYTES];
	struct iovec iov = {.iov_base = block};
	struct obd_cursor whole;
	int rc;

	if (last > sectors_of(upper))
		last = sectors_of(upper);
	if (is_mapped(upper, first, last)) {
		first = begin;
		last = end;
	}
	iov.iov_len = (size_t)(last - first) * 512;
	if (first != begin || last != end) {
		rc = upper->below(upper->below_arg, first, (uint32_t)(last - first), &iov, info);
		if (rc)
			return rc;
	}
	take(cursor, block + (begin - first) * 512, (end - begin) * 512);
	OBD_CRASH_POINT("sparse.block");
	obd_cursor_init(&whole, &iov, 1);
	rc = put(upper, place(first), iov.iov_len, &whole, info);
	return rc ? rc : note(upper, first, last, false, info);
}

/* With `fill` held: a first block, whole ones, a last block. */
static int put_over_hole(struct obd_upper *upper, uint64_t begin, uint64_t end,
			 struct obd_cursor *cursor, struct obd_errinfo *info)
{
	int rc = 0;

	while (!rc && begin < end) {
		uint64_t to = (begin / BLOCK_SECTORS + 1) * BLOCK_SECTORS;

		if (begin % BLOCK_SECTORS == 0 && end - begin >= BLOCK_SECTORS) {
			to = end / BLOCK_SECTORS * BLOCK_SECTORS;
			rc = put(upper, place(begin), (to - begin) * 512, cursor, info);
			if (!rc)
				rc = note(upper, begin, to, false, info);
		} else {
			to = to < end ? to : end;
			rc = put_block(upper, begin, to, cursor, info);
		}
		begin = to;
	}
	return rc;
}

/* With `order` held for reading, or, by a discard, for writing. */
static int put_range(struct obd_upper *upper, uint64_t begin, uint64_t end,
		     struct obd_cursor *cursor, struct obd_errinfo *info)
{
	int rc;

	OBD_CRASH_POINT("sparse.data");
	if (upper->below && !is_mapped(upper, begin, end)) {
		pthread_mutex_lock(&upper->fill);
		rc = put_over_hole(upper, begin, end, cursor, info);
		pthread_mutex_unlock(&upper->fill);
	} else {
		rc = put(upper, place(begin), (end - begin) * 512, cursor, info);
		if (!rc)
			rc = note(upper, begin, end, false, info);
	}
	OBD_CRASH_POINT("sparse.written");
	return rc;
}

int obd_upper_sparse_write(struct obd_upper *upper, uint64_t lba, uint32_t sector_cnt,
			   const struct iovec *iov, uint32_t iov_cnt, uint32_t flags,
			   struct obd_errinfo *info)
{
	struct obd_cursor cursor;
	int rc = enter(upper, info);

	if (rc)
		return rc;
	obd_cursor_init(&cursor, iov, iov_cnt);
	pthread_rwlock_rdlock(&upper->order);
	rc = put_range(upper, lba, lba + sector_cnt, &cursor, info);
	pthread_rwlock_unlock(&upper->order);
	leave(upper);
	if (!rc && (flags & OBD_WRITE_FUA))
		rc = obd_upper_flush(upper, info);
	return rc;
}

/* Zeros as data: parts of blocks, and file systems without holes. */
static int put_zeros(struct obd_upper *upper, uint64_t begin, uint64_t end,
		     struct obd_errinfo *info)
{
	int rc = 0;

	while (!rc && begin < end) {
		uint64_t left = (end - begin) * 512;
		struct iovec iov[ZERO_PIECES];
		struct obd_cursor cursor;
		uint32_t cnt = 0;
		uint64_t to = begin;

		for (; left && cnt < ZERO_PIECES; cnt++) {
			size_t length = left < BLOCK_BYTES ? (size_t)left : BLOCK_BYTES;

			iov[cnt] = (struct iovec){(void *)zero_block, length};
			left -= length;
			to += length / 512;
		}
		obd_cursor_init(&cursor, iov, cnt);
		rc = put_range(upper, begin, to, &cursor, info);
		begin = to;
	}
	return rc;
}

/* Whole blocks: the record first, synced if something is below, then the hole. */
static int punch(struct obd_upper *upper, uint64_t begin, uint64_t end, struct obd_errinfo *info)
{
	int rc = obd_zeroes_add(&upper->zeroes, begin, end, upper->below != NULL, info);

	if (rc)
		return rc;
	OBD_CRASH_POINT("sparse.punch");
	if (fallocate(upper->data.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)place(begin), (off_t)((end - begin) * 512)) < 0) {
		if (errno == EOPNOTSUPP)
			return put_zeros(upper, begin, end, info);
		return obd_upper_fail_at(&upper->data, "punch a hole",
					 obd_upper_code_of_write(errno), errno, place(begin), info);
	}
	OBD_CRASH_POINT("sparse.punched");
	return note(upper, begin, end, true, info);
}

int obd_upper_sparse_discard(struct obd_upper *upper, uint64_t lba, uint64_t sector_cnt,
			     struct obd_errinfo *info)
{
	uint64_t end = lba + sector_cnt;
	uint64_t first = (lba + BLOCK_SECTORS - 1) / BLOCK_SECTORS * BLOCK_SECTORS;
	/* a last block that the end of the disk cuts short is a whole one, too */
	uint64_t last = end == sectors_of(upper) ? end : end / BLOCK_SECTORS * BLOCK_SECTORS;
	int rc = enter(upper, info);

	if (rc)
		return rc;
	/* alone: a write between the hole and its note would be read as zeros until a reopen */
	pthread_rwlock_wrlock(&upper->order);
	if (first >= last) {
		rc = put_zeros(upper, lba, end, info);
	} else {
		rc = put_zeros(upper, lba, first, info);
		if (!rc)
			rc = punch(upper, first, last, info);
		if (!rc)
			rc = put_zeros(upper, last, end, info);
	}
	pthread_rwlock_unlock(&upper->order);
	leave(upper);
	return rc;
}
