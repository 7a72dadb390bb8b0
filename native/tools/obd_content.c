#include "obd_content.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define COPY_BYTES (1u << 20)

int obd_output_write(const struct obd_output *output, uint64_t at_bytes, const void *from,
		     size_t length, struct obd_errinfo *info)
{
	const uint8_t *next = from;
	uint64_t at = output->base_bytes + at_bytes;

	while (length) {
		ssize_t put = pwrite(output->fd, next, length, (off_t)at);
		int err = put < 0 ? errno : EIO;

		if (put < 0 && err == EINTR)
			continue;
		if (put <= 0) {
			int code = err == ENOSPC || err == EDQUOT || err == EFBIG ? OBD_E_NOSPACE
										  : OBD_E_IO;

			obd_fail_errno(info, code, err, output->path, "write");
			if (info)
				info->offset_bytes = at;
			return code;
		}
		next += put;
		at += (uint64_t)put;
		length -= (size_t)put;
	}
	return 0;
}

void obd_output_push(const struct obd_output *output, uint64_t from_bytes, uint64_t to_bytes)
{
	(void)sync_file_range(output->fd, (off_t)(output->base_bytes + from_bytes),
			      (off_t)(to_bytes - from_bytes), SYNC_FILE_RANGE_WRITE);
}

struct copy {
	const struct obd_content *content;
	const struct obd_output *output;
	struct obd_progress *progress;
};

/* Where each piece belongs is known: no step needs an order. */
static int copy_piece(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info)
{
	struct copy *copy = ctx;
	uint64_t at = job * COPY_BYTES;
	uint64_t left = copy->content->size_bytes - at;
	size_t length = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
	int rc = copy->content->read(copy->content->ctx, at, slot, length, info);

	if (!rc)
		rc = obd_output_write(copy->output, at, slot, length, info);
	if (rc)
		return rc;
	obd_output_push(copy->output, at, at + length);
	obd_progress_add(copy->progress, length);
	return 0;
}

int obd_content_copy(const struct obd_content *content, const struct obd_output *output,
		     uint32_t thread_cnt, struct obd_progress *progress, struct obd_errinfo *info)
{
	struct copy copy = {content, output, progress};
	struct obd_pipeline pipeline = {
		.ctx = &copy,
		.slot_bytes = COPY_BYTES,
		.job_cnt =
			content->size_bytes / COPY_BYTES + (content->size_bytes % COPY_BYTES != 0),
		.make = copy_piece,
	};

	return obd_pipeline_run(&pipeline, thread_cnt, progress, info);
}
