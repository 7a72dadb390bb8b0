#include "obd_resize.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "obd_disk.h"
#include "obd_ext4_io.h"

#define MAX_RANGES	   (1u << 24)
#define PIECE_BYTES	   (1u << 20)
#define SUPERBLOCK_SECTORS 8u /* the unit of the cache that holds it (obd_ext4_io) */

int obd_resize_export(const struct obd_image_spec *image, int out_fd, const char *out_path,
		      struct obd_progress *progress, struct obd_errinfo *info)
{
	return obd_disk_export(image, out_fd, out_path, 0, 0, progress, info);
}

struct store {
	struct obd_image *image;
	struct obd_ext4_io *io;
	const char *raw_path;
	int raw_fd;
	uint8_t *piece;
};

static int read_raw(struct store *store, uint64_t offset, size_t length, struct obd_errinfo *info)
{
	size_t done = 0;

	while (done < length) {
		ssize_t got = pread(store->raw_fd, store->piece + done, length - done,
				    (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return obd_fail_errno(info, OBD_E_IO, errno, store->raw_path, "read");
		if (!got) /* beyond its end */
			break;
		done += (size_t)got;
	}
	memset(store->piece + done, 0, length - done);
	return 0;
}

static int store_data(struct store *store, uint64_t offset, uint64_t end, struct obd_errinfo *info)
{
	int rc = 0;

	while (offset < end && !rc) {
		size_t length = end - offset < PIECE_BYTES ? (size_t)(end - offset) : PIECE_BYTES;

		rc = read_raw(store, offset, length, info);
		if (!rc)
			rc = obd_ext4_io_put(store->io, offset, store->piece, length, info);
		offset += length;
	}
	return rc;
}

static int store_range(struct store *store, const struct obd_disk_range *range,
		       struct obd_errinfo *info)
{
	uint64_t begin = range->begin > SUPERBLOCK_SECTORS ? range->begin : SUPERBLOCK_SECTORS;

	if (begin >= range->end)
		return 0;
	if (range->is_zeroed)
		return obd_image_discard(store->image, begin, range->end - begin, info);
	return store_data(store, begin * 512, range->end * 512, info);
}

static int store_ranges(struct store *store, const struct obd_disk_ranges *ranges,
			struct obd_progress *progress, struct obd_errinfo *info)
{
	int rc = obd_ext4_io_flush(store->io, false, info); /* from here on "not valid" */

	for (size_t i = 0; i < ranges->cnt && !rc; i++) {
		if (obd_progress_is_cancelled(progress))
			rc = obd_fail(info, OBD_E_CANCELLED, NULL, "cancelled");
		else
			rc = store_range(store, &ranges->at[i], info);
	}
	if (!rc)
		rc = read_raw(store, 0, SUPERBLOCK_SECTORS * 512ul, info);
	if (!rc)
		rc = obd_ext4_io_write(store->io, 0, store->piece, SUPERBLOCK_SECTORS * 512ul,
				       info);
	return rc ? rc : obd_ext4_io_flush(store->io, true, info);
}

static int store_into(struct store *store, const struct obd_disk_ranges *ranges,
		      struct obd_progress *progress, struct obd_errinfo *info)
{
	uint64_t reserved = 0;
	int rc = obd_image_start_writing(store->image, &reserved, info);

	if (rc)
		return rc;
	rc = obd_ext4_io_create(store->image, info, &store->io);
	if (!rc)
		rc = store_ranges(store, ranges, progress, info);
	obd_ext4_io_destroy(store->io);
	obd_image_stop_writing(store->image);
	return rc ? rc : obd_image_settle(store->image, info);
}

int obd_resize_store(const struct obd_image_spec *image, const char *raw_path,
		     struct obd_progress *progress, struct obd_errinfo *info,
		     struct obd_resize_result *ret)
{
	const struct obd_disk_spec left = {.raw_path = raw_path};
	const struct obd_disk_spec right = {.image = image};
	struct store store = {.raw_path = raw_path};
	struct obd_disk_ranges ranges;
	int rc = obd_disk_compare(&left, &right, MAX_RANGES, 0, progress, info, &ranges);

	if (rc)
		return rc;
	*ret = (struct obd_resize_result){ranges.range_cnt, ranges.differing_bytes};
	store.piece = malloc(PIECE_BYTES);
	store.raw_fd = open(raw_path, O_RDONLY | O_CLOEXEC);
	if (!store.piece)
		rc = obd_fail(info, OBD_E_NOMEM, raw_path, "copy");
	else if (store.raw_fd < 0)
		rc = obd_fail_errno(info, OBD_E_IO, errno, raw_path, "open");
	else if (ranges.cnt < ranges.range_cnt)
		rc = obd_fail_value(info, OBD_E_UNSUPPORTED, raw_path, "ranges that changed", 0,
				    ranges.cnt, ranges.range_cnt);
	if (!rc && ranges.cnt)
		rc = obd_image_create(image, info, &store.image);
	if (!rc && ranges.cnt)
		rc = store_into(&store, &ranges, progress, info);
	obd_image_destroy(store.image);
	if (store.raw_fd >= 0)
		close(store.raw_fd);
	free(store.piece);
	obd_disk_ranges_deinit(&ranges);
	return rc;
}
