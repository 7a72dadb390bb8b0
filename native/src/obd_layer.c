#include "obd_layer.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "obd_tarwrap.h"

#define CHUNK_ENTRIES 4096u
#define MAX_ENTRIES   (128ull * 1000 * 1000)

static int read_inner(struct obd_layer *layer, uint64_t at, void *buffer, size_t length,
		      struct obd_errinfo *info)
{
	struct iovec iov = {.iov_base = buffer, .iov_len = length};
	struct obd_cursor cursor;

	obd_cursor_init(&cursor, &iov, 1);
	return obd_layer_read(layer, at, length, &cursor, 0, info);
}

static int open_inner(struct obd_layer *layer, struct obd_errinfo *info)
{
	bool compressed;
	int rc = obd_tarwrap_enter(&layer->file, info);

	if (rc)
		return rc;
	rc = obd_zfile_detect(&layer->file, info, &compressed);
	if (rc)
		return rc;
	layer->size_bytes = layer->file.size_bytes;
	if (compressed) {
		rc = obd_zfile_create(&layer->file, info, &layer->zfile);
		if (rc)
			return rc;
		layer->size_bytes = obd_zfile_size_bytes(layer->zfile);
	}
	return 0;
}

static int read_hts(struct obd_layer *layer, struct obd_errinfo *info)
{
	const uint32_t kind = OBD_LSMT_FLAG_HEADER | OBD_LSMT_FLAG_DATA;
	uint8_t area[OBD_LSMT_SPACE_BYTES];
	const char *path = layer->file.path;
	struct obd_lsmt_ht header;
	struct obd_lsmt_ht trailer;
	uint64_t at;
	uint64_t room;
	int rc;

	if (layer->size_bytes < 2 * OBD_LSMT_SPACE_BYTES)
		return obd_fail_value(info, OBD_E_SHORT, path, "lsmt layer", 0,
				      2 * OBD_LSMT_SPACE_BYTES, layer->size_bytes);
	rc = read_inner(layer, 0, area, sizeof(area), info);
	if (!rc)
		rc = obd_lsmt_decode_ht(area, kind, kind, path, 0, info, &header);
	if (rc)
		return rc;
	at = layer->size_bytes - OBD_LSMT_SPACE_BYTES;
	rc = read_inner(layer, at, area, sizeof(area), info);
	if (!rc)
		rc = obd_lsmt_decode_ht(area, kind | OBD_LSMT_FLAG_SEALED,
					OBD_LSMT_FLAG_DATA | OBD_LSMT_FLAG_SEALED, path, at, info,
					&trailer);
	if (rc)
		return rc;
	if (trailer.index_entries > MAX_ENTRIES)
		return obd_fail_value(info, OBD_E_FORMAT, path, "lsmt index size", at + 40,
				      MAX_ENTRIES, trailer.index_entries);
	if (trailer.index_offset_bytes < OBD_LSMT_SPACE_BYTES || trailer.index_offset_bytes > at)
		return obd_fail_value(info, OBD_E_FORMAT, path, "lsmt index offset", at + 32, at,
				      trailer.index_offset_bytes);
	room = at - trailer.index_offset_bytes;
	/* Writers put the trailer behind the index, at the next sector at most: a gap means that
	 * one of the two fields is wrong, and entries would be missing without a word. */
	if (trailer.index_offset_bytes % 512 ||
	    room >= trailer.index_entries * OBD_LSMT_ENTRY_BYTES + OBD_LSMT_SPACE_BYTES)
		return obd_fail_value(info, OBD_E_FORMAT, path,
				      "lsmt index that does not end at the trailer", at + 32, at,
				      trailer.index_offset_bytes +
					      trailer.index_entries * OBD_LSMT_ENTRY_BYTES);
	if (trailer.index_entries * OBD_LSMT_ENTRY_BYTES > room)
		return obd_fail_value(info, OBD_E_FORMAT, path, "lsmt index beyond trailer",
				      at + 40, room / OBD_LSMT_ENTRY_BYTES, trailer.index_entries);
	layer->virtual_size_bytes = trailer.virtual_size_bytes;
	layer->index_offset_bytes = trailer.index_offset_bytes;
	layer->index_entries = trailer.index_entries;
	return 0;
}

static bool is_of_target(const struct obd_layer *layer, struct obd_segment entry)
{
	return layer->warp && obd_segment_tag(entry) == OBD_WARP_TARGET;
}

/* Checks one entry against its predecessor's end and the payload's bounds. */
static int check_entry(const struct obd_layer *layer, struct obd_segment entry, uint64_t at,
		       uint64_t min_offset, uint64_t payload_end, struct obd_errinfo *info)
{
	uint64_t moffset = obd_segment_moffset(entry);
	uint64_t length = obd_segment_zeroed(entry) ? 0 : obd_segment_length(entry);
	uint64_t first = OBD_LSMT_FIRST_SECTOR;

	if (!obd_segment_length(entry))
		return obd_fail_value(info, OBD_E_FORMAT, layer->file.path,
				      "lsmt index entry length", at, 1, 0);
	if (obd_segment_offset(entry) < min_offset)
		return obd_fail_value(info, OBD_E_FORMAT, layer->file.path,
				      "lsmt index not sorted or overlapping", at, min_offset,
				      obd_segment_offset(entry));
	if (layer->warp && obd_segment_tag(entry) > OBD_WARP_TARGET)
		return obd_fail_value(info, OBD_E_FORMAT, layer->file.path, "warp index entry tag",
				      at + 15, OBD_WARP_TARGET, obd_segment_tag(entry));
	if (is_of_target(layer, entry)) {
		first = 0;
		payload_end = layer->warp->size_bytes / 512;
	}
	if (moffset < first || moffset + length > payload_end)
		return obd_fail_value(info, OBD_E_FORMAT, layer->file.path,
				      "lsmt index entry beyond payload", at, payload_end,
				      moffset + length);
	return 0;
}

static int append_entry(struct obd_layer *layer, size_t *cap, struct obd_segment entry)
{
	if (layer->segment_cnt == *cap) {
		size_t grown_cap = *cap ? *cap * 2 : 256;
		struct obd_segment *grown =
			realloc(layer->segments, grown_cap * sizeof(*layer->segments));

		if (!grown)
			return OBD_E_NOMEM;
		layer->segments = grown;
		*cap = grown_cap;
	}
	layer->segments[layer->segment_cnt++] = entry;
	return 0;
}

static int load_index(struct obd_layer *layer, uint8_t tag, uint8_t *chunk,
		      struct obd_errinfo *info)
{
	uint64_t payload_end = layer->index_offset_bytes / 512;
	uint64_t min_offset = 0;
	uint64_t done = 0;
	size_t cap = 0;

	while (done < layer->index_entries) {
		uint64_t left = layer->index_entries - done;
		uint32_t cnt = left < CHUNK_ENTRIES ? (uint32_t)left : CHUNK_ENTRIES;
		uint64_t at = layer->index_offset_bytes + done * OBD_LSMT_ENTRY_BYTES;
		int rc = read_inner(layer, at, chunk, (size_t)cnt * OBD_LSMT_ENTRY_BYTES, info);

		for (uint32_t i = 0; i < cnt && !rc; i++, at += OBD_LSMT_ENTRY_BYTES) {
			struct obd_segment entry =
				obd_lsmt_decode_entry(chunk + (size_t)i * OBD_LSMT_ENTRY_BYTES);

			if (obd_lsmt_is_padding(entry))
				continue;
			rc = check_entry(layer, entry, at, min_offset, payload_end, info);
			if (rc)
				break;
			min_offset = obd_segment_end(entry);
			entry = obd_segment_make(
				obd_segment_offset(entry), obd_segment_length(entry),
				obd_segment_moffset(entry) +
					(is_of_target(layer, entry) ? OBD_WARP_SECTOR : 0),
				obd_segment_zeroed(entry), tag);
			if (append_entry(layer, &cap, entry))
				rc = obd_fail(info, OBD_E_NOMEM, layer->file.path, "lsmt index");
		}
		if (rc)
			return rc;
		done += cnt;
	}
	return 0;
}

int obd_layer_open(struct obd_layer *layer, const char *path, const char *target,
		   const char *gzip_index, struct obd_errinfo *info)
{
	int rc;

	memset(layer, 0, sizeof(*layer));
	rc = obd_file_open(path, O_RDONLY, info, &layer->file);
	if (rc)
		return rc;
	if (target)
		rc = obd_warp_create(target, gzip_index, info, &layer->warp);
	if (!rc)
		rc = open_inner(layer, info);
	if (!rc)
		rc = read_hts(layer, info);
	if (rc)
		obd_layer_deinit(layer);
	return rc;
}

int obd_layer_load_index(struct obd_layer *layer, uint8_t tag, struct obd_errinfo *info)
{
	uint8_t *chunk = malloc((size_t)CHUNK_ENTRIES * OBD_LSMT_ENTRY_BYTES);
	int rc = chunk ? load_index(layer, tag, chunk, info)
		       : obd_fail(info, OBD_E_NOMEM, layer->file.path, "lsmt index");

	free(chunk);
	return rc;
}

int obd_layer_init_warp(struct obd_layer *layer, const char *path, const char *target,
			const char *gzip_index, uint8_t tag, struct obd_errinfo *info)
{
	int rc = obd_layer_open(layer, path, target, gzip_index, info);

	if (rc)
		return rc;
	rc = obd_layer_load_index(layer, tag, info);
	if (rc)
		obd_layer_deinit(layer);
	return rc;
}

int obd_layer_init(struct obd_layer *layer, const char *path, uint8_t tag, struct obd_errinfo *info)
{
	return obd_layer_init_warp(layer, path, NULL, NULL, tag, info);
}

void obd_layer_deinit(struct obd_layer *layer)
{
	obd_warp_destroy(layer->warp);
	obd_zfile_destroy(layer->zfile);
	free(layer->segments);
	obd_file_close(&layer->file);
	layer->warp = NULL;
	layer->zfile = NULL;
	layer->segments = NULL;
}
