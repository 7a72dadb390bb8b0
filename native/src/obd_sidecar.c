#include "obd_sidecar.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_bytes.h"
#include "obd_crc.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "segments are kept as they are in memory");

#define HEADER_BYTES  64u
#define VERSION	      1u
#define CHUNK_BYTES   (256u << 10) /* fits the second level cache: read, then hashed from there */
#define KEY_NAME      "key"
#define AT_VERSION    8u
#define AT_LAYERS     12u
#define AT_IDENTITY   16u
#define AT_SEGMENTS   24u
#define AT_DATA_HASH  32u
#define AT_HEADER_CRC 60u

static const uint8_t magic[8] = "OBDSIDE";

/* ---- key ---- */

/* The key of this cache, made by whoever comes first. A short file is one that is being written. */
static int load_key(const char *dir, struct obd_errinfo *info, struct obd_identity_key *ret)
{
	char path[512];
	char temporary[540];
	struct obd_file file;
	int fd;
	int rc;

	if (snprintf(path, sizeof(path), "%s/" KEY_NAME, dir) >= (int)sizeof(path))
		return obd_fail_errno(info, OBD_E_IO, ENAMETOOLONG, dir, "index cache");
	if (access(path, F_OK) != 0) {
		snprintf(temporary, sizeof(temporary), "%s.%d", path, (int)gettid());
		fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0)
			return obd_fail_errno(info, OBD_E_IO, errno, temporary, "index cache key");
		rc = getrandom(ret, sizeof(*ret), 0) == (ssize_t)sizeof(*ret) &&
				     write(fd, ret, sizeof(*ret)) == (ssize_t)sizeof(*ret) &&
				     fdatasync(fd) == 0
			     ? 0
			     : obd_fail_errno(info, OBD_E_IO, errno, temporary, "index cache key");
		close(fd);
		/* link, not rename: the first one stays */
		if (!rc && link(temporary, path) && errno != EEXIST)
			rc = obd_fail_errno(info, OBD_E_IO, errno, path, "index cache key");
		unlink(temporary);
		if (rc)
			return rc;
	}
	rc = obd_file_open(path, O_RDONLY, info, &file);
	if (rc)
		return rc;
	rc = file.size_bytes == sizeof(*ret)
		     ? obd_file_read_buffer(&file, 0, ret, sizeof(*ret), 0, info)
		     : obd_fail_value(info, OBD_E_FORMAT, path, "index cache key", 0, sizeof(*ret),
				      file.size_bytes);
	obd_file_close(&file);
	return rc;
}

/* ---- identity ---- */

static int add_layer(struct obd_identity *identity, struct obd_layer *layer, uint8_t *chunk,
		     struct obd_errinfo *info)
{
	uint64_t facts[] = {
		layer->size_bytes,	   layer->virtual_size_bytes,
		layer->index_offset_bytes, layer->index_entries,
		layer->zfile != NULL,	   layer->warp ? layer->warp->size_bytes + 1 : 0,
	};
	struct obd_file *file = &layer->file;
	uint64_t at = layer->index_offset_bytes;
	uint64_t end = at + layer->index_entries * OBD_LSMT_ENTRY_BYTES;

	obd_identity_add(identity, facts, sizeof(facts));
	if (layer->zfile)
		obd_zfile_stored_range(layer->zfile, at, end, &at, &end);
	while (at < end) {
		size_t now = end - at < CHUNK_BYTES ? (size_t)(end - at) : CHUNK_BYTES;
		int rc = obd_file_read_buffer(file, at, chunk, now, 0, info);

		if (rc)
			return rc;
		obd_identity_add(identity, chunk, now);
		at += now;
	}
	return 0;
}

int obd_sidecar_find(const char *dir, struct obd_layer *layers, uint32_t layer_cnt,
		     struct obd_errinfo *info, struct obd_sidecar *ret)
{
	struct obd_identity identity;
	uint64_t entries = 0;
	uint8_t *chunk;
	int rc;

	for (uint32_t i = 0; i < layer_cnt; i++)
		entries += layers[i].index_entries;
	if (entries < OBD_SIDECAR_MIN_SEGMENTS)
		return obd_fail_value(info, OBD_E_RANGE, dir, "entries of the stack", 0,
				      OBD_SIDECAR_MIN_SEGMENTS, entries);
	rc = load_key(dir, info, &ret->key);
	if (rc)
		return rc;
	chunk = malloc(CHUNK_BYTES);
	if (!chunk)
		return obd_fail(info, OBD_E_NOMEM, dir, "index cache");
	obd_identity_init(&identity, &ret->key);
	for (uint32_t i = 0; i < layer_cnt && !rc; i++)
		rc = add_layer(&identity, &layers[i], chunk, info);
	free(chunk);
	if (rc)
		return rc;
	ret->identity = identity.value;
	if (snprintf(ret->path, sizeof(ret->path), "%s/%016llx.%u.index", dir,
		     (unsigned long long)identity.value, layer_cnt) >= (int)sizeof(ret->path))
		return obd_fail_errno(info, OBD_E_IO, ENAMETOOLONG, dir, "index cache");
	return 0;
}

/* ---- file ---- */

static void encode_header(const struct obd_sidecar *sidecar, uint32_t layer_cnt, uint64_t segments,
			  uint64_t hash, uint8_t *header)
{
	memset(header, 0, HEADER_BYTES);
	memcpy(header, magic, sizeof(magic));
	obd_put_le32(header + AT_VERSION, VERSION);
	obd_put_le32(header + AT_LAYERS, layer_cnt);
	obd_put_le64(header + AT_IDENTITY, sidecar->identity);
	obd_put_le64(header + AT_SEGMENTS, segments);
	obd_put_le64(header + AT_DATA_HASH, hash);
	obd_put_le32(header + AT_HEADER_CRC, obd_crc32c_raw(0, header, AT_HEADER_CRC));
}

/* The header must be exactly what we would write of so many segments. */
static int check_header(const struct obd_sidecar *sidecar, uint32_t layer_cnt,
			const struct obd_file *file, const uint8_t *header,
			struct obd_errinfo *info)
{
	uint64_t segments = (file->size_bytes - HEADER_BYTES) / OBD_LSMT_ENTRY_BYTES;
	uint8_t expected[HEADER_BYTES];

	encode_header(sidecar, layer_cnt, segments, obd_le64(header + AT_DATA_HASH), expected);
	if (memcmp(header, expected, HEADER_BYTES) != 0 ||
	    segments * OBD_LSMT_ENTRY_BYTES + HEADER_BYTES != file->size_bytes)
		return obd_fail_value(info, OBD_E_FORMAT, file->path, "index cache header", 0,
				      segments, obd_le64(header + AT_SEGMENTS));
	return 0;
}

/* Where the payload of each layer, or of its target, ends; 0 for what there is not. */
struct bounds {
	uint64_t payload_end[256];
	uint64_t target_end[256];
};

static void find_bounds(const struct obd_layer *layers, uint32_t layer_cnt, struct bounds *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (uint32_t i = 0; i < layer_cnt; i++) {
		ret->payload_end[i] = layers[i].index_offset_bytes / 512;
		if (layers[i].warp)
			ret->target_end[i] = OBD_WARP_SECTOR + layers[i].warp->size_bytes / 512;
	}
}

/* In order, and inside of their layers: a wrong one would be an error of every read, for ever. */
static bool is_sound(const struct obd_segment *segments, size_t cnt, uint64_t *reached,
		     const struct bounds *bounds)
{
	uint64_t min_offset = *reached;
	bool is_good = true;

	for (size_t i = 0; i < cnt; i++) {
		uint64_t offset = obd_segment_offset(segments[i]);
		uint64_t length = obd_segment_length(segments[i]);
		uint64_t moffset = obd_segment_moffset(segments[i]);
		uint32_t tag = obd_segment_tag(segments[i]);
		bool is_remote = moffset >= OBD_WARP_SECTOR;
		uint64_t end = is_remote ? bounds->target_end[tag] : bounds->payload_end[tag];
		uint64_t used = obd_segment_zeroed(segments[i]) ? 0 : length;

		is_good &= (offset >= min_offset) & (length != 0) &
			   (offset != OBD_SEGMENT_OFFSET_MASK) &
			   (moffset >= OBD_LSMT_FIRST_SECTOR) & (moffset + used <= end);
		min_offset = offset + length;
	}
	*reached = min_offset;
	return is_good;
}

static int read_segments(struct obd_file *file, const struct obd_sidecar *sidecar,
			 uint64_t expected_hash, const struct bounds *bounds,
			 struct obd_errinfo *info, struct obd_index *index)
{
	const size_t step = CHUNK_BYTES / sizeof(struct obd_segment);
	struct obd_identity hash;
	uint64_t reached = 0;

	obd_identity_init(&hash, &sidecar->key);
	for (size_t i = 0; i < index->segment_cnt; i += step) {
		size_t left = index->segment_cnt - i;
		size_t now = left < step ? left : step;
		struct obd_segment *at = index->segments + i;
		int rc = obd_file_read_buffer(file, HEADER_BYTES + i * sizeof(*at), at,
					      now * sizeof(*at), 0, info);

		if (rc)
			return rc;
		obd_identity_add(&hash, at, now * sizeof(*at));
		if (!is_sound(at, now, &reached, bounds))
			return obd_fail_value(info, OBD_E_FORMAT, file->path, "index cache segment",
					      HEADER_BYTES + i * sizeof(*at), 0, 0);
	}
	if (hash.value != expected_hash)
		return obd_fail_value(info, OBD_E_CHECKSUM, file->path, "index cache hash",
				      AT_DATA_HASH, expected_hash, hash.value);
	return 0;
}

static uint64_t hash_segments(const struct obd_sidecar *sidecar, const struct obd_index *index)
{
	const size_t step = CHUNK_BYTES / sizeof(struct obd_segment);
	struct obd_identity hash;

	obd_identity_init(&hash, &sidecar->key);
	for (size_t i = 0; i < index->segment_cnt; i += step) {
		size_t left = index->segment_cnt - i;

		obd_identity_add(&hash, index->segments + i,
				 (left < step ? left : step) * sizeof(*index->segments));
	}
	return hash.value;
}

int obd_sidecar_load(const struct obd_sidecar *sidecar, const struct obd_layer *layers,
		     uint32_t layer_cnt, struct obd_errinfo *info, struct obd_index *index)
{
	uint8_t header[HEADER_BYTES];
	struct bounds bounds;
	struct obd_file file;
	int rc;

	memset(index, 0, sizeof(*index));
	rc = obd_file_open(sidecar->path, O_RDONLY, info, &file);
	if (rc)
		return rc;
	if (file.size_bytes < HEADER_BYTES)
		rc = obd_fail_value(info, OBD_E_SHORT, file.path, "index cache header", 0,
				    HEADER_BYTES, file.size_bytes);
	if (!rc)
		rc = obd_file_read_buffer(&file, 0, header, sizeof(header), 0, info);
	if (!rc)
		rc = check_header(sidecar, layer_cnt, &file, header, info);
	if (!rc && obd_index_reserve(index, obd_le64(header + AT_SEGMENTS)))
		rc = obd_fail(info, OBD_E_NOMEM, file.path, "merged index");
	find_bounds(layers, layer_cnt, &bounds);
	if (!rc)
		rc = read_segments(&file, sidecar, obd_le64(header + AT_DATA_HASH), &bounds, info,
				   index);
	if (!rc && obd_index_build(index))
		rc = obd_fail(info, OBD_E_NOMEM, file.path, "merged index");
	if (rc)
		obd_index_deinit(index);
	obd_file_close(&file);
	return rc;
}

static int put(int fd, const char *path, const void *data, size_t length, uint64_t at,
	       struct obd_errinfo *info)
{
	const uint8_t *from = data;

	while (length) {
		ssize_t done = pwrite(fd, from, length, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return obd_fail_errno(info, errno == ENOSPC ? OBD_E_NOSPACE : OBD_E_IO,
					      errno, path, "write index cache");
		from += done;
		at += (uint64_t)done;
		length -= (size_t)done;
	}
	return 0;
}

static int put_all(int fd, const char *path, const struct obd_sidecar *sidecar, uint32_t layer_cnt,
		   const struct obd_index *index, struct obd_errinfo *info)
{
	size_t bytes = index->segment_cnt * sizeof(*index->segments);
	uint8_t header[HEADER_BYTES];
	int rc;

	rc = put(fd, path, index->segments, bytes, HEADER_BYTES, info);
	encode_header(sidecar, layer_cnt, index->segment_cnt, hash_segments(sidecar, index),
		      header);
	if (!rc)
		rc = put(fd, path, header, sizeof(header), 0, info);
	return rc;
}

int obd_sidecar_save(const struct obd_sidecar *sidecar, uint32_t layer_cnt,
		     const struct obd_index *index, struct obd_errinfo *info)
{
	char temporary[sizeof(sidecar->path) + 16];
	int fd;
	int rc;

	snprintf(temporary, sizeof(temporary), "%s.%d", sidecar->path, (int)gettid());
	/* one of a process that was killed half-way, whose number we have got */
	unlink(temporary);
	fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return obd_fail_errno(info, OBD_E_IO, errno, temporary, "create index cache");
	rc = put_all(fd, temporary, sidecar, layer_cnt, index, info);
	close(fd);
	/* not synced: a file that a power cut tore has another checksum */
	if (!rc && rename(temporary, sidecar->path))
		rc = obd_fail_errno(info, OBD_E_IO, errno, sidecar->path, "rename index cache");
	if (rc)
		unlink(temporary);
	return rc;
}
