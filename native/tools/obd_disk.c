#include "obd_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_content.h"
#include "obd_lsmt.h"
#include "obd_pipeline.h"
#include "obd_sealed_write.h"

#define PIECE_SECTORS 2048u
#define PIECE_BYTES   (PIECE_SECTORS * 512u)
#define PAGE_BYTES    4096u

/* ---- a disk ---- */

struct disk {
	struct obd_image *image; /* NULL: raw */
	const char *path;
	int fd;
	uint64_t size_bytes;
};

static int open_raw(const char *path, struct obd_errinfo *info, struct disk *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);

	if (size < 0 || size % 512) {
		int err = errno;

		if (fd >= 0)
			close(fd);
		if (size > 0)
			return obd_fail_value(info, OBD_E_FORMAT, path,
					      "size of a raw disk in whole sectors", 0,
					      (uint64_t)size / 512 * 512, (uint64_t)size);
		return obd_fail_errno(info, OBD_E_IO, err, path, "open");
	}
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	*ret = (struct disk){.path = path, .fd = fd, .size_bytes = (uint64_t)size};
	return 0;
}

static int open_disk(const struct obd_disk_spec *spec, struct obd_errinfo *info, struct disk *ret)
{
	int rc;

	*ret = (struct disk){.fd = -1};
	if (!spec)
		return 0;
	if (!spec->image)
		return open_raw(spec->raw_path, info, ret);
	rc = obd_image_create(spec->image, info, &ret->image);
	if (!rc)
		ret->size_bytes = obd_image_virtual_size_bytes(ret->image);
	return rc;
}

static void close_disk(struct disk *disk)
{
	obd_image_destroy(disk->image);
	if (disk->fd >= 0)
		close(disk->fd);
}

static int read_raw(const struct disk *disk, uint64_t at, uint8_t *to, size_t length,
		    struct obd_errinfo *info)
{
	while (length) {
		ssize_t got = pread(disk->fd, to, length, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			obd_fail_errno(info, OBD_E_IO, errno, disk->path, "read");
			if (info)
				info->offset_bytes = at;
			return OBD_E_IO;
		}
		if (!got)
			return obd_fail_value(info, OBD_E_SHORT, disk->path, "raw disk", at,
					      disk->size_bytes, at);
		to += got;
		at += (uint64_t)got;
		length -= (size_t)got;
	}
	return 0;
}

static bool may_hold_data(const struct disk *disk, uint64_t lba, uint32_t sector_cnt)
{
	off_t data;

	if (disk->image)
		return obd_image_may_hold_data(disk->image, lba, sector_cnt);
	data = lseek(disk->fd, (off_t)(lba * 512), SEEK_DATA);
	return data < 0 ? errno != ENXIO : (uint64_t)data < (lba + sector_cnt) * 512;
}

/* sector_cnt sectors from lba; those beyond the end are zeros. *ret_zeros: it was not looked at. */
static int read_disk(const struct disk *disk, uint64_t lba, uint32_t sector_cnt, uint8_t *to,
		     struct obd_errinfo *info, bool *ret_zeros)
{
	uint64_t end = disk->size_bytes / 512;
	uint32_t inside = sector_cnt;
	struct iovec iov;

	if (lba >= end)
		inside = 0;
	else if (end - lba < sector_cnt)
		inside = (uint32_t)(end - lba);
	*ret_zeros = !inside || !may_hold_data(disk, lba, inside);
	if (*ret_zeros)
		return 0;
	memset(to + (size_t)inside * 512, 0, (size_t)(sector_cnt - inside) * 512);
	if (!disk->image)
		return read_raw(disk, lba * 512, to, (size_t)inside * 512, info);
	iov = (struct iovec){.iov_base = to, .iov_len = (size_t)inside * 512};
	return obd_image_read(disk->image, lba, inside, &iov, 1, 0, info);
}

static bool is_zero(const uint8_t *at, size_t length)
{
	return !length || (!at[0] && memcmp(at, at + 1, length - 1) == 0);
}

/* ---- export ---- */

struct export
{
	struct disk disk;
	struct obd_output output;
	bool is_stream;
	struct obd_progress *progress;
};

struct export_piece {
	uint64_t lba;
	uint32_t sector_cnt;
	bool is_hole;
	uint8_t bytes[PIECE_BYTES];
};

static uint32_t sectors_of_piece(uint64_t job, uint64_t size_bytes)
{
	uint64_t left = size_bytes / 512 - job * PIECE_SECTORS;

	return left < PIECE_SECTORS ? (uint32_t)left : PIECE_SECTORS;
}

static int export_make(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info)
{
	struct export *export = ctx;
	struct export_piece *piece = slot;
	uint64_t at;
	int rc;

	piece->lba = job * PIECE_SECTORS;
	piece->sector_cnt = sectors_of_piece(job, export->disk.size_bytes);
	rc = read_disk(&export->disk, piece->lba, piece->sector_cnt, piece->bytes, info,
		       &piece->is_hole);
	if (rc || export->is_stream || piece->is_hole)
		return rc;
	/* runs of pages that hold something; any order */
	for (at = 0; !rc && at < piece->sector_cnt * 512ull;) {
		uint64_t end = at;
		uint64_t size = piece->sector_cnt * 512ull;

		while (end < size &&
		       !is_zero(piece->bytes + end,
				size - end < PAGE_BYTES ? (size_t)(size - end) : PAGE_BYTES))
			end = end + PAGE_BYTES < size ? end + PAGE_BYTES : size;
		if (end > at)
			rc = obd_output_write(&export->output, piece->lba * 512 + at,
					      piece->bytes + at, (size_t)(end - at), info);
		at = end > at ? end : at + PAGE_BYTES;
	}
	return rc;
}

static int put_stream(struct export *export, struct export_piece *piece, struct obd_errinfo *info)
{
	size_t left = piece->sector_cnt * 512u;
	const uint8_t *from = piece->bytes;

	if (piece->is_hole)
		memset(piece->bytes, 0, left);
	while (left) {
		ssize_t put = write(export->output.fd, from, left);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return obd_fail_errno(info, OBD_E_IO, errno, export->output.path, "write");
		from += put;
		left -= (size_t)put;
	}
	return 0;
}

static int export_put(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info)
{
	struct export *export = ctx;
	struct export_piece *piece = slot;

	(void)job;
	obd_progress_add(export->progress, piece->sector_cnt * 512ull);
	return export->is_stream ? put_stream(export, piece, info) : 0;
}

int obd_disk_export(const struct obd_image_spec *image, int out_fd, const char *out_path,
		    uint32_t is_stream, uint32_t thread_cnt, struct obd_progress *progress,
		    struct obd_errinfo *info)
{
	struct obd_disk_spec spec = {.image = image};
	struct export export = {
		.output = {out_fd, out_path, 0},
		.is_stream = is_stream,
		.progress = progress,
	};
	struct obd_pipeline pipeline = {
		.ctx = &export,
		.slot_bytes = sizeof(struct export_piece),
		.make = export_make,
		.put = export_put,
	};
	int rc = open_disk(&spec, info, &export.disk);

	if (!rc) {
		obd_progress_total(progress, export.disk.size_bytes);
		pipeline.job_cnt = (export.disk.size_bytes + PIECE_BYTES - 1) / PIECE_BYTES;
		rc = obd_pipeline_run(&pipeline, obd_thread_cnt(thread_cnt), progress, info);
	}
	close_disk(&export.disk);
	return rc;
}

/* ---- compare ---- */

struct compare {
	const struct disk *left;
	const struct disk *right;
	uint64_t size_bytes; /* so far it is looked at */
	size_t cap;
	size_t room;
	struct obd_progress *progress;
	struct obd_disk_ranges *ranges;
	struct obd_disk_range last; /* not in the list yet; empty: none */
};

struct run {
	uint16_t begin; /* in the piece */
	uint16_t end;
	bool is_zeroed;
};

struct compare_piece {
	uint32_t sector_cnt;
	uint32_t run_cnt;
	struct run runs[PIECE_SECTORS];
	uint8_t left[PIECE_BYTES];
	uint8_t right[PIECE_BYTES];
};

static void find_runs(struct compare_piece *piece)
{
	struct run run = {0};

	piece->run_cnt = 0;
	for (uint32_t i = 0; i < piece->sector_cnt; i++) {
		const uint8_t *left = piece->left + i * 512;
		bool is_zeroed;

		if (memcmp(left, piece->right + i * 512, 512) == 0)
			continue;
		is_zeroed = is_zero(left, 512);
		if (run.end != i || run.is_zeroed != is_zeroed || !run.end) {
			if (run.end)
				piece->runs[piece->run_cnt++] = run;
			run = (struct run){.begin = (uint16_t)i, .is_zeroed = is_zeroed};
		}
		run.end = (uint16_t)(i + 1);
	}
	if (run.end)
		piece->runs[piece->run_cnt++] = run;
}

static int compare_make(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info)
{
	struct compare *compare = ctx;
	struct compare_piece *piece = slot;
	uint64_t lba = job * PIECE_SECTORS;
	bool left_zeros, right_zeros;
	int rc;

	piece->run_cnt = 0;
	piece->sector_cnt = sectors_of_piece(job, compare->size_bytes);
	rc = read_disk(compare->left, lba, piece->sector_cnt, piece->left, info, &left_zeros);
	if (!rc)
		rc = read_disk(compare->right, lba, piece->sector_cnt, piece->right, info,
			       &right_zeros);
	if (rc || (left_zeros && right_zeros))
		return rc;
	if (left_zeros)
		memset(piece->left, 0, piece->sector_cnt * 512u);
	if (right_zeros)
		memset(piece->right, 0, piece->sector_cnt * 512u);
	if (memcmp(piece->left, piece->right, piece->sector_cnt * 512u) != 0)
		find_runs(piece);
	return 0;
}

/* The last range is complete. */
static int keep_last(struct compare *compare, struct obd_errinfo *info)
{
	struct obd_disk_ranges *ranges = compare->ranges;

	if (compare->last.begin == compare->last.end)
		return 0;
	ranges->range_cnt++;
	ranges->differing_bytes += (compare->last.end - compare->last.begin) * 512;
	if (ranges->cnt == compare->cap)
		return 0;
	if (ranges->cnt == compare->room) {
		size_t room = compare->room ? compare->room * 2 : 256;
		struct obd_disk_range *more = reallocarray(ranges->at, room, sizeof(*more));

		if (!more)
			return obd_fail(info, OBD_E_NOMEM, NULL, "list of differing ranges");
		ranges->at = more;
		compare->room = room;
	}
	ranges->at[ranges->cnt++] = compare->last;
	return 0;
}

static int compare_put(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info)
{
	struct compare *compare = ctx;
	struct compare_piece *piece = slot;
	uint64_t lba = job * PIECE_SECTORS;

	obd_progress_add(compare->progress, piece->sector_cnt * 512ull);
	for (uint32_t i = 0; i < piece->run_cnt; i++) {
		const struct run *run = &piece->runs[i];
		int rc;

		if (compare->last.end == lba + run->begin &&
		    compare->last.is_zeroed == run->is_zeroed) {
			compare->last.end = lba + run->end;
			continue;
		}
		rc = keep_last(compare, info);
		if (rc)
			return rc;
		compare->last = (struct obd_disk_range){.begin = lba + run->begin,
							.end = lba + run->end,
							.is_zeroed = run->is_zeroed};
	}
	return 0;
}

static int compare_disks(const struct disk *left, const struct disk *right, uint64_t size_bytes,
			 size_t cap, uint32_t thread_cnt, struct obd_progress *progress,
			 struct obd_errinfo *info, struct obd_disk_ranges *ret)
{
	struct compare compare = {
		.left = left,
		.right = right,
		.size_bytes = size_bytes,
		.cap = cap,
		.progress = progress,
		.ranges = ret,
	};
	struct obd_pipeline pipeline = {
		.ctx = &compare,
		.slot_bytes = sizeof(struct compare_piece),
		.job_cnt = (size_bytes + PIECE_BYTES - 1) / PIECE_BYTES,
		.make = compare_make,
		.put = compare_put,
	};
	int rc;

	*ret = (struct obd_disk_ranges){
		.left_bytes = left->size_bytes,
		.right_bytes = right->size_bytes,
	};
	rc = obd_pipeline_run(&pipeline, obd_thread_cnt(thread_cnt), progress, info);
	if (!rc)
		rc = keep_last(&compare, info);
	if (rc)
		obd_disk_ranges_deinit(ret);
	return rc;
}

int obd_disk_compare(const struct obd_disk_spec *left, const struct obd_disk_spec *right,
		     size_t cap, uint32_t thread_cnt, struct obd_progress *progress,
		     struct obd_errinfo *info, struct obd_disk_ranges *ret)
{
	struct disk disks[2] = {{.fd = -1}, {.fd = -1}};
	int rc = open_disk(left, info, &disks[0]);

	if (!rc)
		rc = open_disk(right, info, &disks[1]);
	if (!rc) {
		uint64_t size = disks[0].size_bytes > disks[1].size_bytes ? disks[0].size_bytes
									  : disks[1].size_bytes;

		obd_progress_total(progress, size);
		rc = compare_disks(&disks[0], &disks[1], size, cap, thread_cnt, progress, info,
				   ret);
	}
	close_disk(&disks[0]);
	close_disk(&disks[1]);
	return rc;
}

void obd_disk_ranges_deinit(struct obd_disk_ranges *ranges)
{
	free(ranges->at);
	ranges->at = NULL;
	ranges->cnt = 0;
}

/* ---- import ---- */

static int read_import(void *ctx, uint8_t source, uint64_t moffset, uint64_t length, uint8_t *to,
		       struct obd_errinfo *info)
{
	(void)source;
	return read_raw(ctx, moffset * 512, to, (size_t)length * 512, info);
}

/* Segments whose moffset is their place on the raw disk. */
static int segments_of(const struct obd_disk_ranges *ranges, struct obd_errinfo *info,
		       struct obd_segment **ret, size_t *ret_cnt)
{
	struct obd_segment *segments;
	size_t cnt = 0;

	for (size_t i = 0; i < ranges->cnt; i++)
		cnt += (size_t)((ranges->at[i].end - ranges->at[i].begin - 1) /
					OBD_SEGMENT_MAX_SECTORS +
				1);
	segments = calloc(cnt + 1, sizeof(*segments));
	if (!segments)
		return obd_fail(info, OBD_E_NOMEM, NULL, "index of the layer");
	cnt = 0;
	for (size_t i = 0; i < ranges->cnt; i++) {
		uint64_t begin = ranges->at[i].begin;

		while (begin < ranges->at[i].end) {
			uint64_t length = ranges->at[i].end - begin;

			if (length > OBD_SEGMENT_MAX_SECTORS)
				length = OBD_SEGMENT_MAX_SECTORS;
			segments[cnt++] =
				obd_segment_make(begin, length, begin, ranges->at[i].is_zeroed, 0);
			begin += length;
		}
	}
	*ret = segments;
	*ret_cnt = cnt;
	return 0;
}

static int write_import(struct disk *raw, const struct obd_disk_ranges *ranges,
			const struct obd_commit_spec *spec, const struct obd_output *output,
			struct obd_progress *progress, struct obd_errinfo *info,
			struct obd_committed *ret)
{
	struct obd_sealed_source source = {raw, read_import};
	struct obd_lsmt_facts facts = {
		.virtual_size_bytes = raw->size_bytes,
		.uuid = spec->uuid,
		.parent_uuid = spec->parent_uuid,
		.user_tag = spec->user_tag,
	};
	struct obd_segment *segments = NULL;
	struct obd_sealed sealed;
	size_t cnt = 0;
	int rc = segments_of(ranges, info, &segments, &cnt);

	if (rc)
		return rc;
	rc = obd_sealed_init(&sealed, &facts, segments, cnt, NULL, &source, info);
	free(segments);
	if (rc)
		return rc;
	rc = obd_commit_store(&sealed, output, &spec->zfile, progress, info, ret);
	ret->virtual_size_bytes = raw->size_bytes;
	obd_sealed_deinit(&sealed);
	return rc;
}

int obd_disk_import(const char *raw_path, const struct obd_image_spec *base,
		    const struct obd_commit_spec *facts, int out_fd, const char *out_path,
		    uint64_t base_bytes, struct obd_progress *progress, struct obd_errinfo *info,
		    struct obd_committed *ret)
{
	struct obd_output output = {out_fd, out_path, base_bytes};
	struct obd_disk_spec below_spec = {.image = base};
	struct disk raw, below = {.fd = -1};
	struct obd_disk_ranges ranges;
	int rc = open_raw(raw_path, info, &raw);

	if (rc)
		return rc;
	rc = open_disk(base ? &below_spec : NULL, info, &below);
	if (!rc) {
		/* read twice: once to compare, what differs once more to write it */
		obd_progress_total(progress, raw.size_bytes);
		rc = compare_disks(&raw, &below, raw.size_bytes, OBD_SEALED_MAX_ENTRIES + 1,
				   facts->zfile.thread_cnt, progress, info, &ranges);
	}
	if (!rc) {
		rc = write_import(&raw, &ranges, facts, &output, progress, info, ret);
		obd_disk_ranges_deinit(&ranges);
	}
	close_disk(&below);
	close_disk(&raw);
	return rc;
}
