#include "obd_zfile_write.h"

#include <errno.h>
#include <lz4.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "obd_bytes.h"
#include "obd_crc.h"

#define AREA_BYTES     512u
#define ZSTD_LEVEL     3 /* what the reference runs at */
#define BLOCK_SEED     100007u
#define CRC_BYTES      4u
#define BATCH_BYTES    (256u << 10) /* a multiple of every block size */
#define MIN_BLOCK      4096u
#define MAX_BLOCK      65536u
#define MAX_BLOCKS     (BATCH_BYTES / MIN_BLOCK)
#define PUSH_BYTES     (4ull << 20)
#define CANCEL_POLL_MS 100
#define FLAG_HEADER    1u
#define FLAG_DATA      2u
#define FLAG_SEALED    4u
#define FLAG_OVER      8u
#define FLAG_DIGEST    16u

/* No encoder needs more for a batch of blocks: lz4 adds 1/255 and 16, zstd less than 1/256 + 64. */
#define PACKED_BYTES (BATCH_BYTES + BATCH_BYTES / 128 + MAX_BLOCKS * (128 + CRC_BYTES))

struct batch {
	ZSTD_CCtx *zstd; /* made at first use */
	uint32_t plain_bytes;
	uint32_t packed_bytes;
	uint32_t block_cnt;
	uint8_t stored[MAX_BLOCKS * 4]; /* the jump table's entries */
	uint8_t plain[BATCH_BYTES];
	uint8_t packed[PACKED_BYTES];
};

struct writer {
	const struct obd_content *content; /* NULL: from in_fd */
	const struct obd_output *output;
	const struct obd_zfile_options *options;
	struct obd_progress *progress;
	int in_fd;
	const char *in_path;
	bool is_at_end; /* nothing more to read */

	uint8_t *table;
	size_t table_cap;
	uint64_t block_cnt;
	uint64_t content_bytes;
	uint64_t longest_bytes;
	uint64_t end; /* of what is written */
	uint64_t pushed;
};

static void encode_area(const struct writer *writer, uint64_t flags, bool has_index, uint32_t crc,
			uint8_t *area)
{
	static const uint8_t magic[24] = "ZFile\0\1\0tuji.yyf@Alibaba";

	memset(area, 0, AREA_BYTES);
	memcpy(area, magic, sizeof(magic));
	obd_put_le32(area + 24, 96);
	obd_put_le64(area + 32, flags);
	if (has_index) {
		obd_put_le64(area + 40, writer->end);
		obd_put_le64(area + 48, writer->block_cnt);
		obd_put_le64(area + 56, writer->content_bytes);
		obd_put_le32(area + 64, crc);
	}
	obd_put_le32(area + 72, writer->options->block_bytes);
	area[76] = (uint8_t)writer->options->algorithm;
	area[88] = writer->options->has_crc != 0;
	obd_put_le32(area + 28, obd_crc32c_raw(0, area, AREA_BYTES));
}

/* Until there is something to read: whoever feeds a pipe may take its time, or never come. */
static int wait_for_input(const struct writer *writer, struct obd_errinfo *info)
{
	struct pollfd input = {.fd = writer->in_fd, .events = POLLIN};

	while (!obd_progress_is_cancelled(writer->progress)) {
		int ready = poll(&input, 1, CANCEL_POLL_MS);

		if (ready > 0)
			return 0;
		if (ready < 0 && errno != EINTR)
			return obd_fail_errno(info, OBD_E_IO, errno, writer->in_path, "poll");
	}
	return obd_fail(info, OBD_E_CANCELLED, writer->in_path, "cancelled");
}

/* Fills a batch from the pipe; only the last may be short. */
static int take_batch(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info)
{
	struct writer *writer = ctx;
	struct batch *batch = slot;

	(void)job;
	batch->plain_bytes = 0;
	while (!writer->is_at_end && batch->plain_bytes < BATCH_BYTES) {
		int rc = wait_for_input(writer, info);
		ssize_t got;

		if (rc)
			return rc;
		got = read(writer->in_fd, batch->plain + batch->plain_bytes,
			   BATCH_BYTES - batch->plain_bytes);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return obd_fail_errno(info, OBD_E_IO, errno, writer->in_path, "read");
		writer->is_at_end = got == 0;
		batch->plain_bytes += (uint32_t)got;
	}
	return batch->plain_bytes ? 0 : OBD_PIPELINE_END;
}

static int read_batch(struct writer *writer, uint64_t job, struct batch *batch,
		      struct obd_errinfo *info)
{
	uint64_t at = job * BATCH_BYTES;
	uint64_t left = writer->content->size_bytes - at;

	batch->plain_bytes = left < BATCH_BYTES ? (uint32_t)left : BATCH_BYTES;
	return writer->content->read(writer->content->ctx, at, batch->plain, batch->plain_bytes,
				     info);
}

/* The length of the block's stored form, without CRC; 0 when it failed. */
static size_t pack(struct batch *batch, uint32_t algorithm, const uint8_t *plain, size_t length,
		   uint8_t *to, size_t room)
{
	size_t packed;

	if (algorithm == OBD_ALGORITHM_LZ4) {
		int got = LZ4_compress_default((const char *)plain, (char *)to, (int)length,
					       (int)room);

		return got > 0 ? (size_t)got : 0;
	}
	packed = ZSTD_compressCCtx(batch->zstd, to, room, plain, length, ZSTD_LEVEL);
	return ZSTD_isError(packed) ? 0 : packed;
}

static int make_batch(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info)
{
	struct writer *writer = ctx;
	const struct obd_zfile_options *options = writer->options;
	struct batch *batch = slot;
	int rc = writer->content ? read_batch(writer, job, batch, info) : 0;

	if (rc)
		return rc;
	if (options->algorithm == OBD_ALGORITHM_ZSTD && !batch->zstd) {
		batch->zstd = ZSTD_createCCtx();
		if (!batch->zstd)
			return obd_fail(info, OBD_E_NOMEM, writer->output->path, "zstd context");
	}
	batch->packed_bytes = 0;
	batch->block_cnt = 0;
	for (uint32_t at = 0; at < batch->plain_bytes; at += options->block_bytes) {
		uint32_t left = batch->plain_bytes - at;
		uint32_t length = left < options->block_bytes ? left : options->block_bytes;
		uint8_t *to = batch->packed + batch->packed_bytes;
		size_t stored = pack(batch, options->algorithm, batch->plain + at, length, to,
				     PACKED_BYTES - batch->packed_bytes - CRC_BYTES);

		if (!stored)
			return obd_fail(info, OBD_E_NOMEM, writer->output->path, "compression");
		if (options->has_crc) {
			obd_put_le32(to + stored, obd_crc32c_raw(BLOCK_SEED, to, stored));
			stored += CRC_BYTES;
		}
		obd_put_le32(batch->stored + (size_t)batch->block_cnt++ * 4, (uint32_t)stored);
		batch->packed_bytes += (uint32_t)stored;
	}
	return 0;
}

static int grow_table(struct writer *writer, uint64_t block_cnt)
{
	size_t cap = writer->table_cap ? writer->table_cap : 4096;
	uint8_t *grown;

	if (block_cnt * 4 <= writer->table_cap)
		return 0;
	while (cap < block_cnt * 4)
		cap *= 2;
	grown = realloc(writer->table, cap);
	if (!grown)
		return OBD_E_NOMEM;
	writer->table = grown;
	writer->table_cap = cap;
	return 0;
}

static int put_batch(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info)
{
	struct writer *writer = ctx;
	struct batch *batch = slot;
	int rc = grow_table(writer, writer->block_cnt + batch->block_cnt);

	(void)job;
	if (rc)
		return obd_fail(info, rc, writer->output->path, "jump table");
	rc = obd_output_write(writer->output, writer->end, batch->packed, batch->packed_bytes,
			      info);
	if (rc)
		return rc;
	memcpy(writer->table + writer->block_cnt * 4, batch->stored, (size_t)batch->block_cnt * 4);
	for (uint32_t i = 0; i < batch->block_cnt; i++) {
		uint32_t stored = obd_le32(batch->stored + (size_t)i * 4);

		if (stored > writer->longest_bytes)
			writer->longest_bytes = stored;
	}
	writer->block_cnt += batch->block_cnt;
	writer->content_bytes += batch->plain_bytes;
	writer->end += batch->packed_bytes;
	if (writer->end - writer->pushed >= PUSH_BYTES) {
		obd_output_push(writer->output, writer->pushed, writer->end);
		writer->pushed = writer->end;
	}
	obd_progress_add(writer->progress, batch->plain_bytes);
	return 0;
}

static void drop_batch(void *slot)
{
	ZSTD_freeCCtx(((struct batch *)slot)->zstd);
}

/* The table, the trailer and, if wished, the header once more; the table's CRC is in both. */
static int write_end(struct writer *writer, struct obd_errinfo *info)
{
	size_t table_bytes = (size_t)writer->block_cnt * 4;
	uint32_t crc = obd_crc32c_raw(0, writer->table, table_bytes);
	uint8_t area[AREA_BYTES];
	int rc = obd_output_write(writer->output, writer->end, writer->table, table_bytes, info);

	if (rc)
		return rc;
	encode_area(writer, FLAG_DATA | FLAG_SEALED | FLAG_DIGEST, true, crc, area);
	rc = obd_output_write(writer->output, writer->end + table_bytes, area, sizeof(area), info);
	if (rc || !writer->options->overwrites_header)
		return rc;
	encode_area(writer, FLAG_HEADER | FLAG_DATA | FLAG_OVER | FLAG_DIGEST, true, crc, area);
	return obd_output_write(writer->output, 0, area, sizeof(area), info);
}

static int check_options(const struct obd_zfile_options *options, const char *path,
			 struct obd_errinfo *info)
{
	uint32_t block = options->block_bytes;

	if (options->algorithm != OBD_ALGORITHM_LZ4 && options->algorithm != OBD_ALGORITHM_ZSTD)
		return obd_fail_value(info, OBD_E_INVAL, path, "algorithm", 0, OBD_ALGORITHM_LZ4,
				      options->algorithm);
	if (block < MIN_BLOCK || block > MAX_BLOCK || block & (block - 1))
		return obd_fail_value(info, OBD_E_INVAL, path, "block size", 0, MIN_BLOCK, block);
	return 0;
}

static int write_zfile(struct writer *writer, uint64_t job_cnt, struct obd_errinfo *info,
		       struct obd_zfile_written *ret)
{
	struct obd_pipeline pipeline = {
		.ctx = writer,
		.slot_bytes = sizeof(struct batch),
		.job_cnt = job_cnt,
		.take = writer->content ? NULL : take_batch,
		.make = make_batch,
		.put = put_batch,
		.drop = drop_batch,
	};
	uint8_t area[AREA_BYTES];
	int rc = check_options(writer->options, writer->output->path, info);

	if (rc)
		return rc;
	writer->end = AREA_BYTES;
	encode_area(writer, FLAG_HEADER | FLAG_DATA | FLAG_DIGEST, false, 0, area);
	rc = obd_output_write(writer->output, 0, area, sizeof(area), info);
	if (!rc && grow_table(writer, 1))
		rc = obd_fail(info, OBD_E_NOMEM, writer->output->path, "jump table");
	if (!rc)
		rc = obd_pipeline_run(&pipeline, obd_thread_cnt(writer->options->thread_cnt),
				      writer->progress, info);
	if (!rc)
		rc = write_end(writer, info);
	if (!rc)
		*ret = (struct obd_zfile_written){
			.content_bytes = writer->content_bytes,
			.file_bytes = writer->end + writer->block_cnt * 4 + AREA_BYTES,
			.block_cnt = writer->block_cnt,
			.longest_bytes = writer->longest_bytes,
		};
	free(writer->table);
	return rc;
}

int obd_zfile_write(const struct obd_content *content, const struct obd_output *output,
		    const struct obd_zfile_options *options, struct obd_progress *progress,
		    struct obd_errinfo *info, struct obd_zfile_written *ret)
{
	struct writer writer = {
		.content = content,
		.output = output,
		.options = options,
		.progress = progress,
	};
	uint64_t batches = content->size_bytes / BATCH_BYTES;

	return write_zfile(&writer, batches + (content->size_bytes % BATCH_BYTES != 0), info, ret);
}

/* A regular file is read in pieces, by whoever compresses them. */
struct regular {
	int fd;
	const char *path;
	uint64_t base_bytes;
};

static int read_regular(void *ctx, uint64_t offset_bytes, uint8_t *to, size_t length,
			struct obd_errinfo *info)
{
	const struct regular *regular = ctx;
	uint64_t at = regular->base_bytes + offset_bytes;

	while (length) {
		ssize_t got = pread(regular->fd, to, length, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return obd_fail_errno(info, OBD_E_IO, errno, regular->path, "read");
		if (!got)
			return obd_fail_value(info, OBD_E_SHORT, regular->path,
					      "the file became shorter", at, at + length, at);
		to += got;
		at += (uint64_t)got;
		length -= (size_t)got;
	}
	return 0;
}

int obd_zfile_write_fd(int in_fd, const char *in_path, int out_fd, const char *out_path,
		       uint64_t base_bytes, const struct obd_zfile_options *options,
		       struct obd_progress *progress, struct obd_errinfo *info,
		       struct obd_zfile_written *ret)
{
	struct obd_output output = {out_fd, out_path, base_bytes};
	struct writer writer = {
		.output = &output,
		.options = options,
		.progress = progress,
		.in_fd = in_fd,
		.in_path = in_path,
	};
	struct regular regular = {.fd = in_fd, .path = in_path};
	struct obd_content content = {.ctx = &regular, .read = read_regular};
	struct stat st;
	off_t at;

	if (fstat(in_fd, &st) < 0)
		return obd_fail_errno(info, OBD_E_IO, errno, in_path, "stat");
	at = S_ISREG(st.st_mode) ? lseek(in_fd, 0, SEEK_CUR) : -1;
	if (at < 0)
		return write_zfile(&writer, UINT64_MAX, info, ret);
	regular.base_bytes = (uint64_t)at;
	content.size_bytes = st.st_size > at ? (uint64_t)(st.st_size - at) : 0;
	obd_progress_total(progress, content.size_bytes);
	return obd_zfile_write(&content, &output, options, progress, info, ret);
}
