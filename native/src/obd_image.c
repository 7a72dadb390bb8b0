#include "obd_image.h"

#include <stdlib.h>

#include "obd_crash.h"
#include "obd_index.h"
#include "obd_layer.h"
#include "obd_planted.h"
#include "obd_scratch.h"
#include "obd_sidecar.h"
#include "obd_upper.h"

#define WRONG_SECTORS 8 /* of the planted fault wrong_lba */

struct obd_image {
	struct obd_upper *upper; /* NULL: read-only */
	struct obd_index lowers;
	uint64_t sectors;
	uint64_t virtual_size_bytes;
	uint64_t jump_table_bytes;
	struct obd_sidecar *unsaved; /* where the merged index is to be kept, or NULL */
	uint32_t layer_cnt;
	struct obd_layer layers[]; /* bottom to top; a segment's tag is the position */
};

static const char *path_or_null(const char *const *paths, uint32_t i)
{
	return paths ? paths[i] : NULL;
}

/* Every index, then all of them merged. */
static int merge_lowers(struct obd_image *image, struct obd_errinfo *info)
{
	struct obd_segment_list *lists = calloc(image->layer_cnt + 1u, sizeof(*lists));
	int rc = lists ? 0 : obd_fail(info, OBD_E_NOMEM, NULL, "image");

	for (uint32_t i = 0; i < image->layer_cnt && !rc; i++)
		rc = obd_layer_load_index(&image->layers[i], (uint8_t)i, info);
	for (uint32_t i = 0; i < image->layer_cnt && !rc; i++) {
		lists[i].segments = image->layers[i].segments;
		lists[i].cnt = image->layers[i].segment_cnt;
		image->layers[i].segments = NULL;
	}
	if (!rc && obd_index_init(&image->lowers, lists, image->layer_cnt))
		rc = obd_fail(info, OBD_E_NOMEM, NULL, "merged index");
	free(lists);
	return rc;
}

/* The merged index as it was kept; false: there is none that is good. */
static bool load_sidecar(struct obd_image *image, const char *dir)
{
	struct obd_sidecar *sidecar = calloc(1, sizeof(*sidecar));
	bool is_loaded;

	if (!sidecar)
		return false;
	if (obd_sidecar_find(dir, image->layers, image->layer_cnt, NULL, sidecar)) {
		free(sidecar);
		return false;
	}
	is_loaded =
		!obd_sidecar_load(sidecar, image->layers, image->layer_cnt, NULL, &image->lowers);
	if (is_loaded)
		free(sidecar);
	else
		image->unsaved = sidecar;
	return is_loaded;
}

static int open_lowers(struct obd_image *image, const struct obd_image_spec *spec,
		       struct obd_errinfo *info)
{
	for (uint32_t i = 0; i < spec->lower_cnt; i++) {
		struct obd_layer *layer = &image->layers[i];
		int rc;

		OBD_CRASH_POINT("image.lower");
		rc = obd_layer_open(layer, spec->lower_paths[i],
				    path_or_null(spec->target_paths, i),
				    path_or_null(spec->gzip_index_paths, i), info);
		if (rc)
			return rc;
		image->layer_cnt++;
		if (layer->virtual_size_bytes)
			image->virtual_size_bytes = layer->virtual_size_bytes;
		if (layer->zfile)
			image->jump_table_bytes += obd_zfile_memory_bytes(layer->zfile);
		if (layer->warp && layer->warp->gzip)
			image->jump_table_bytes += obd_gzip_memory_bytes(layer->warp->gzip);
	}
	if (spec->sidecar_dir && load_sidecar(image, spec->sidecar_dir))
		return 0;
	return merge_lowers(image, info);
}

bool obd_image_is_index_new(const struct obd_image *image)
{
	return image->unsaved;
}

int obd_image_save_index(struct obd_image *image, struct obd_errinfo *info)
{
	int rc = 0;

	if (image->unsaved)
		rc = obd_sidecar_save(image->unsaved, image->layer_cnt, &image->lowers, info);
	free(image->unsaved);
	image->unsaved = NULL;
	return rc;
}

static int read_below(void *arg, uint64_t lba, uint32_t sector_cnt, const struct iovec *iov,
		      struct obd_errinfo *info);

static int check_spec(const struct obd_image_spec *spec, struct obd_errinfo *info)
{
	bool has_upper = spec->upper_data && spec->upper_index;

	if (!spec->upper_data != !spec->upper_index)
		return obd_fail(info, OBD_E_INVAL, NULL, "upper needs both data and index");
	if (spec->lower_cnt > OBD_MAX_LOWERS)
		return obd_fail_value(info, OBD_E_INVAL, NULL, "number of lowers", 0,
				      OBD_MAX_LOWERS, spec->lower_cnt);
	if (!spec->lower_cnt && !has_upper)
		return obd_fail(info, OBD_E_INVAL, NULL, "image without layers");
	return 0;
}

int obd_image_create(const struct obd_image_spec *spec, struct obd_errinfo *info,
		     struct obd_image **ret)
{
	struct obd_image *image;
	int rc = check_spec(spec, info);

	if (rc)
		return rc;
	OBD_CRASH_POINT("image.open");
	image = calloc(1, sizeof(*image) + spec->lower_cnt * sizeof(image->layers[0]));
	if (!image)
		return obd_fail(info, OBD_E_NOMEM, NULL, "image");
	rc = open_lowers(image, spec, info);
	if (!rc && spec->upper_data) {
		OBD_CRASH_POINT("image.upper");
		rc = obd_upper_create(spec->upper_data, spec->upper_index, (uint8_t)spec->lower_cnt,
				      info, &image->upper);
		if (!rc && obd_upper_virtual_size_bytes(image->upper))
			image->virtual_size_bytes = obd_upper_virtual_size_bytes(image->upper);
		if (!rc && spec->lower_cnt)
			obd_upper_set_below(image->upper, read_below, image);
	}
	if (rc) {
		obd_image_destroy(image);
		return rc;
	}
	image->sectors = image->virtual_size_bytes / OBD_SECTOR_BYTES;
	if (OBD_CHEAT(two_devices_mixed))
		obd_planted_add_image(image);
	OBD_CRASH_POINT("image.opened");
	*ret = image;
	return 0;
}

void obd_image_destroy(struct obd_image *image)
{
	if (!image)
		return;
	if (OBD_CHEAT(two_devices_mixed))
		obd_planted_remove_image(image);
	obd_upper_destroy(image->upper);
	free(image->unsaved);
	obd_index_deinit(&image->lowers);
	for (uint32_t i = 0; i < image->layer_cnt; i++)
		obd_layer_deinit(&image->layers[i]);
	free(image);
}

uint64_t obd_image_virtual_size_bytes(const struct obd_image *image)
{
	return image->virtual_size_bytes;
}

bool obd_image_has_upper(const struct obd_image *image)
{
	return image->upper != NULL;
}

static int check_range(const struct obd_image *image, uint64_t lba, uint64_t sector_cnt,
		       struct obd_errinfo *info)
{
	if (lba > image->sectors || sector_cnt > image->sectors - lba)
		return obd_fail_value(info, OBD_E_RANGE, NULL, "sectors beyond the end",
				      lba * OBD_SECTOR_BYTES, image->sectors, lba + sector_cnt);
	return 0;
}

static int check_buffers(uint32_t sector_cnt, const struct iovec *iov, uint32_t iov_cnt,
			 struct obd_errinfo *info)
{
	uint64_t bytes = obd_iov_bytes(iov, iov_cnt);

	if (bytes != (uint64_t)sector_cnt * OBD_SECTOR_BYTES)
		return obd_fail_value(info, OBD_E_INVAL, NULL, "length of iovecs", 0,
				      (uint64_t)sector_cnt * OBD_SECTOR_BYTES, bytes);
	return 0;
}

/* Sectors [begin, end) of the merged lowers. */
static int read_lowers(struct obd_image *image, uint64_t begin, uint64_t end,
		       struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info)
{
	const struct obd_index *index = &image->lowers;

	for (size_t i = obd_index_find(index, begin); begin < end; i++) {
		struct obd_segment segment;
		uint64_t from = end;
		int rc;

		if (i < index->segment_cnt && obd_segment_offset(index->segments[i]) < end) {
			segment = obd_segment_clip(index->segments[i], begin, end);
			from = obd_segment_offset(segment);
		}
		if (from > begin)
			obd_cursor_put_zeros(cursor, (from - begin) * OBD_SECTOR_BYTES);
		if (from == end)
			return 0;
		begin = obd_segment_end(segment);
		if (obd_segment_zeroed(segment)) {
			obd_cursor_put_zeros(cursor, (begin - from) * OBD_SECTOR_BYTES);
			continue;
		}
		rc = obd_layer_read(&image->layers[obd_segment_tag(segment)],
				    obd_segment_moffset(segment) * OBD_SECTOR_BYTES,
				    (begin - from) * OBD_SECTOR_BYTES, cursor, flags, info);
		if (rc)
			return rc;
	}
	return 0;
}

static int read_below(void *arg, uint64_t lba, uint32_t sector_cnt, const struct iovec *iov,
		      struct obd_errinfo *info)
{
	struct obd_cursor cursor;

	obd_cursor_init(&cursor, iov, 1);
	return read_lowers(arg, lba, lba + sector_cnt, &cursor, 0, info);
}

/* All mappings of the upper in the range, copied at one moment into the thread's scratch. */
static int collect_upper(struct obd_image *image, uint64_t begin, uint64_t end,
			 struct obd_errinfo *info, struct obd_segment **ret, size_t *ret_cnt)
{
	struct obd_scratch *scratch = obd_scratch_get();

	if (!scratch)
		return obd_fail(info, OBD_E_NOMEM, NULL, "thread scratch");
	for (;;) {
		size_t cnt = obd_upper_collect(image->upper, begin, end, scratch->segments,
					       scratch->segment_cap);

		if (cnt <= scratch->segment_cap) {
			*ret = scratch->segments;
			*ret_cnt = cnt;
			return 0;
		}
		if (obd_scratch_grow_segments(scratch, cnt * 2))
			return obd_fail(info, OBD_E_NOMEM, NULL, "thread scratch");
	}
}

int obd_image_read(struct obd_image *image, uint64_t lba, uint32_t sector_cnt,
		   const struct iovec *iov, uint32_t iov_cnt, uint32_t flags,
		   struct obd_errinfo *info)
{
	uint64_t end = lba + sector_cnt;
	struct obd_segment *segments = NULL;
	struct obd_cursor cursor;
	size_t cnt = 0;
	int rc = check_range(image, lba, sector_cnt, info);

	if (!rc)
		rc = check_buffers(sector_cnt, iov, iov_cnt, info);
	if (OBD_CHEAT_NOW(two_devices_mixed))
		image = obd_planted_other_image(image);
	if (!rc && image->upper && !OBD_CHEAT_NOW(stale_read))
		rc = collect_upper(image, lba, end, info, &segments, &cnt);
	obd_cursor_init(&cursor, iov, iov_cnt);
	for (size_t i = 0; i < cnt && !rc; i++) {
		uint64_t from = obd_segment_offset(segments[i]);
		uint64_t length = obd_segment_length(segments[i]);

		if (from > lba)
			rc = read_lowers(image, lba, from, &cursor, flags, info);
		if (rc)
			break;
		if (obd_segment_zeroed(segments[i]))
			obd_cursor_put_zeros(&cursor, length * OBD_SECTOR_BYTES);
		else
			rc = obd_upper_read(image->upper, obd_segment_moffset(segments[i]), length,
					    &cursor, flags, info);
		lba = from + length;
	}
	if (!rc && lba < end)
		rc = read_lowers(image, lba, end, &cursor, flags, info);
	return rc;
}

bool obd_image_may_hold_data(struct obd_image *image, uint64_t lba, uint32_t sector_cnt)
{
	const struct obd_index *index = &image->lowers;
	uint64_t end = lba + sector_cnt;
	struct obd_segment segments[64];
	size_t cnt = 0;

	if (image->upper)
		cnt = obd_upper_collect(image->upper, lba, end, segments, 64);
	if (cnt > 64)
		return true;
	for (size_t i = 0; i < cnt; i++)
		if (!obd_segment_zeroed(segments[i]))
			return true;
	if (cnt == 1 && obd_segment_length(segments[0]) == sector_cnt)
		return false; /* zeros over whatever is below */
	for (size_t i = obd_index_find(index, lba); i < index->segment_cnt; i++) {
		if (obd_segment_offset(index->segments[i]) >= end)
			return false;
		if (!obd_segment_zeroed(index->segments[i]))
			return true;
	}
	return false;
}

static int need_upper(const struct obd_image *image, struct obd_errinfo *info)
{
	return image->upper ? 0 : obd_fail(info, OBD_E_READONLY, NULL, "image without upper");
}

int obd_image_start_writing(struct obd_image *image, uint64_t *reserved, struct obd_errinfo *info)
{
	int rc = need_upper(image, info);

	return rc ? rc : obd_upper_start_writing(image->upper, reserved, info);
}

void obd_image_stop_writing(struct obd_image *image)
{
	if (image->upper)
		obd_upper_stop_writing(image->upper);
}

int obd_image_follow(struct obd_image *image, struct obd_errinfo *info)
{
	return image->upper ? obd_upper_follow(image->upper, info) : 0;
}

int obd_image_write(struct obd_image *image, uint64_t lba, uint32_t sector_cnt,
		    const struct iovec *iov, uint32_t iov_cnt, uint32_t flags,
		    struct obd_errinfo *info)
{
	int rc = need_upper(image, info);

	if (!rc)
		rc = check_range(image, lba, sector_cnt, info);
	if (!rc)
		rc = check_buffers(sector_cnt, iov, iov_cnt, info);
	if (rc || !sector_cnt || OBD_CHEAT_NOW(drop_write))
		return rc;
	if (OBD_CHEAT_NOW(wrong_lba) && lba + sector_cnt + WRONG_SECTORS <= image->sectors)
		lba += WRONG_SECTORS;
	return obd_upper_write(image->upper, lba, sector_cnt, iov, iov_cnt, flags, info);
}

int obd_image_discard(struct obd_image *image, uint64_t lba, uint64_t sector_cnt,
		      struct obd_errinfo *info)
{
	int rc = need_upper(image, info);

	if (!rc)
		rc = check_range(image, lba, sector_cnt, info);
	if (rc || !sector_cnt)
		return rc;
	return obd_upper_discard(image->upper, lba, sector_cnt, info);
}

int obd_image_flush(struct obd_image *image, struct obd_errinfo *info)
{
	return image->upper ? obd_upper_flush(image->upper, info) : 0;
}

int obd_image_settle(struct obd_image *image, struct obd_errinfo *info)
{
	return image->upper ? obd_upper_settle(image->upper, info) : 0;
}

void obd_image_stat(const struct obd_image *image, struct obd_image_stat *ret)
{
	*ret = (struct obd_image_stat){
		.lower_segments = image->lowers.segment_cnt,
		.index_memory_bytes =
			obd_index_memory_bytes(&image->lowers) + image->jump_table_bytes,
	};
	if (image->upper)
		obd_upper_stat(image->upper, ret);
}
