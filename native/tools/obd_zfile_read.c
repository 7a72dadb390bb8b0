#include "obd_zfile_read.h"

#include <fcntl.h>
#include <stdlib.h>

#include "obd_content.h"
#include "obd_tarwrap.h"
#include "obd_zfile.h"

#define PIECE_BYTES	 (256u << 10)
#define DAMAGES_OF_PIECE (PIECE_BYTES / 512u) /* the smallest block a reader takes */

struct opened {
	struct obd_file file;
	struct obd_zfile *zfile;
};

static int open_zfile(const char *path, struct obd_errinfo *info, struct opened *ret)
{
	int rc = obd_file_open(path, O_RDONLY, info, &ret->file);

	if (rc)
		return rc;
	(void)posix_fadvise(ret->file.fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	rc = obd_tarwrap_enter(&ret->file, info);
	if (!rc)
		rc = obd_zfile_create(&ret->file, info, &ret->zfile);
	if (rc)
		obd_file_close(&ret->file);
	return rc;
}

static void close_zfile(struct opened *opened)
{
	obd_zfile_destroy(opened->zfile);
	obd_file_close(&opened->file);
}

static int read_plain(void *ctx, uint64_t offset_bytes, uint8_t *to, size_t length,
		      struct obd_errinfo *info)
{
	struct iovec iov = {.iov_base = to, .iov_len = length};
	struct obd_cursor cursor;

	obd_cursor_init(&cursor, &iov, 1);
	return obd_zfile_read(ctx, offset_bytes, length, &cursor, 0, info);
}

int obd_zfile_extract(const char *path, int out_fd, const char *out_path, uint32_t thread_cnt,
		      struct obd_progress *progress, struct obd_errinfo *info, uint64_t *ret_bytes)
{
	struct obd_output output = {out_fd, out_path, 0};
	struct obd_content content = {.read = read_plain};
	struct opened opened;
	int rc = open_zfile(path, info, &opened);

	if (rc)
		return rc;
	content.ctx = opened.zfile;
	content.size_bytes = obd_zfile_size_bytes(opened.zfile);
	obd_progress_total(progress, content.size_bytes);
	rc = obd_content_copy(&content, &output, obd_thread_cnt(thread_cnt), progress, info);
	if (!rc)
		*ret_bytes = content.size_bytes;
	close_zfile(&opened);
	return rc;
}

struct check {
	struct obd_zfile *zfile;
	struct obd_progress *progress;
	struct obd_zfile_damage *damages;
	uint32_t cap;
	struct obd_zfile_checked *checked;
};

struct piece {
	uint32_t damage_cnt;
	struct obd_zfile_damage damages[DAMAGES_OF_PIECE];
	uint8_t plain[PIECE_BYTES];
};

static bool is_damage(int rc)
{
	return rc == OBD_E_CHECKSUM || rc == OBD_E_FORMAT || rc == OBD_E_SHORT;
}

/* A piece that does not read as a whole is read again block by block, to tell which. */
static int check_piece(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info)
{
	struct check *check = ctx;
	struct piece *piece = slot;
	uint32_t block_bytes = obd_zfile_block_bytes(check->zfile);
	uint64_t begin = job * PIECE_BYTES;
	uint64_t end = obd_zfile_size_bytes(check->zfile);
	int rc;

	end = end - begin < PIECE_BYTES ? end : begin + PIECE_BYTES;
	piece->damage_cnt = 0;
	rc = read_plain(check->zfile, begin, piece->plain, (size_t)(end - begin), info);
	for (uint64_t at = begin; is_damage(rc) && at < end; at += block_bytes) {
		struct obd_zfile_damage *damage = &piece->damages[piece->damage_cnt];
		uint64_t length = end - at < block_bytes ? end - at : block_bytes;
		int block_rc =
			read_plain(check->zfile, at, piece->plain, (size_t)length, &damage->info);

		if (!block_rc)
			continue;
		if (!is_damage(block_rc)) {
			*info = damage->info;
			return block_rc;
		}
		damage->content_offset_bytes = at;
		piece->damage_cnt++;
	}
	obd_progress_add(check->progress, end - begin);
	return is_damage(rc) ? 0 : rc;
}

static int put_piece(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info)
{
	struct check *check = ctx;
	struct piece *piece = slot;

	(void)job;
	(void)info;
	for (uint32_t i = 0; i < piece->damage_cnt; i++, check->checked->damage_cnt++) {
		if (check->checked->damage_cnt < check->cap)
			check->damages[check->checked->damage_cnt] = piece->damages[i];
	}
	return 0;
}

int obd_zfile_check(const char *path, uint32_t thread_cnt, struct obd_progress *progress,
		    struct obd_errinfo *info, struct obd_zfile_damage *damages, uint32_t cap,
		    struct obd_zfile_checked *ret)
{
	struct obd_zfile_checked checked = {0};
	struct check check = {
		.progress = progress,
		.damages = damages,
		.cap = cap,
		.checked = &checked,
	};
	struct obd_pipeline pipeline = {
		.ctx = &check,
		.slot_bytes = sizeof(struct piece),
		.make = check_piece,
		.put = put_piece,
	};
	struct opened opened;
	uint32_t block_bytes;
	int rc = open_zfile(path, info, &opened);

	if (rc)
		return rc;
	check.zfile = opened.zfile;
	block_bytes = obd_zfile_block_bytes(opened.zfile);
	checked.content_bytes = obd_zfile_size_bytes(opened.zfile);
	checked.block_cnt =
		checked.content_bytes / block_bytes + (checked.content_bytes % block_bytes != 0);
	pipeline.job_cnt =
		checked.content_bytes / PIECE_BYTES + (checked.content_bytes % PIECE_BYTES != 0);
	obd_progress_total(progress, checked.content_bytes);
	rc = obd_pipeline_run(&pipeline, obd_thread_cnt(thread_cnt), progress, info);
	if (!rc)
		*ret = checked;
	close_zfile(&opened);
	return rc;
}
