/* A kept index of any segments, its hash and checksum set right: loaded it is sound, or refused. */
#include "fuzz_image.h"
#include "obd_bytes.h"
#include "obd_crc.h"
#include "obd_sidecar.h"

#define HEADER_BYTES 64u
#define LAYERS	     3u

static struct obd_sidecar sidecar;

static void set_right(uint8_t *file, size_t size)
{
	const size_t step = 256u << 10;
	struct obd_identity hash;

	obd_identity_init(&hash, &sidecar.key);
	for (size_t at = HEADER_BYTES; at < size; at += step)
		obd_identity_add(&hash, file + at, size - at < step ? size - at : step);
	obd_put_le64(file + 32, hash.value);
	obd_put_le32(file + 60, obd_crc32c_raw(0, file, 60));
}

/* What every reader relies on. */
static void check(const struct obd_index *index, const struct obd_layer *layers)
{
	uint64_t reached = 0;

	for (size_t i = 0; i < index->segment_cnt; i++) {
		struct obd_segment segment = index->segments[i];
		uint64_t length = obd_segment_length(segment);

		if (obd_segment_offset(segment) < reached || !length ||
		    obd_segment_tag(segment) >= LAYERS)
			abort();
		if (!obd_segment_zeroed(segment) &&
		    obd_segment_moffset(segment) + length >
			    layers[obd_segment_tag(segment)].index_offset_bytes / 512)
			abort();
		reached = obd_segment_end(segment);
		if (obd_index_find(index, reached - 1) != i)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct obd_layer layers[LAYERS] = {
		{.index_offset_bytes = 1u << 20},
		{.index_offset_bytes = 1u << 30},
		{.index_offset_bytes = 4096},
	};
	struct obd_errinfo info;
	struct obd_index index;
	uint8_t *file = malloc(size + 1);
	int fd;
	int rc;

	if (!file)
		return 0;
	memcpy(file, data, size);
	if (size >= HEADER_BYTES)
		set_right(file, size);
	fd = fuzz_file(file, size, sidecar.path);
	rc = obd_sidecar_load(&sidecar, layers, LAYERS, &info, &index);
	if (rc == 0) {
		check(&index, layers);
		obd_index_deinit(&index);
	} else if (info.code != rc || !info.what[0]) {
		abort();
	}
	close(fd);
	free(file);
	return 0;
}
