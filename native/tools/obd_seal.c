#include "obd_seal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "obd_bytes.h"
#include "obd_content.h"
#include "obd_lsmt.h"
#include "obd_upper.h"

#define FLAGS_AT	28u
#define INDEX_OFFSET_AT 32u
#define INDEX_SIZE_AT	40u

#define SEALED_FLAGS (OBD_LSMT_FLAG_DATA | OBD_LSMT_FLAG_SEALED)

struct sealing {
	struct obd_upper *upper;
	struct obd_file data; /* an open of our own, for writing */
	struct obd_segment *segments;
	size_t segment_cnt;
	uint8_t header[OBD_LSMT_SPACE_BYTES];
};

/* Whether the file ends in the trailer that a seal of this very pair has left. */
static int refuse_sealed(struct sealing *sealing, struct obd_errinfo *info)
{
	struct obd_file *data = &sealing->data;
	uint8_t area[OBD_LSMT_SPACE_BYTES];
	struct obd_lsmt_ht own;
	struct obd_lsmt_ht tail;
	uint64_t at;
	int rc = obd_file_read_buffer(data, 0, sealing->header, sizeof(area), 0, info);

	if (!rc)
		rc = obd_lsmt_decode_ht(sealing->header, 0, 0, data->path, 0, info, &own);
	if (rc || data->size_bytes < 2 * sizeof(area))
		return rc;
	at = data->size_bytes - sizeof(area);
	rc = obd_file_read_buffer(data, at, area, sizeof(area), 0, info);
	if (rc)
		return rc;
	if (!obd_lsmt_decode_ht(area, SEALED_FLAGS | OBD_LSMT_FLAG_HEADER, SEALED_FLAGS, data->path,
				at, NULL, &tail) &&
	    !strcmp(own.uuid, tail.uuid))
		return obd_fail(info, OBD_E_INVAL, data->path, "sealed already");
	return 0;
}

static int collect(struct sealing *sealing, struct obd_errinfo *info)
{
	struct obd_upper *upper = sealing->upper;
	size_t cap = obd_upper_collect(upper, 0, OBD_LSMT_MAX_VIRTUAL_SECTORS, NULL, 0);

	sealing->segments = malloc((cap + 1) * sizeof(*sealing->segments));
	if (!sealing->segments)
		return obd_fail(info, OBD_E_NOMEM, NULL, "index of the layer");
	/* we hold the writer's lock: it can not have grown */
	sealing->segment_cnt =
		obd_upper_collect(upper, 0, OBD_LSMT_MAX_VIRTUAL_SECTORS, sealing->segments, cap);
	return 0;
}

static int sync_data(const struct obd_file *data, struct obd_errinfo *info)
{
	if (fsync(data->fd) < 0)
		return obd_fail_errno(info, OBD_E_IO, errno, data->path, "sync");
	return 0;
}

/* Steps 2 and 3. */
static int append_index(struct sealing *sealing, struct obd_errinfo *info,
			struct obd_sealed_in_place *ret)
{
	struct obd_output output = {sealing->data.fd, sealing->data.path, 0};
	uint64_t index_at = (sealing->data.size_bytes + 511) & ~511ull;
	size_t index_bytes = (sealing->segment_cnt * OBD_LSMT_ENTRY_BYTES + 511) & ~(size_t)511;
	uint8_t *index = calloc(1, index_bytes + 1);
	uint64_t mapped = 0;
	int rc;

	if (!index)
		return obd_fail(info, OBD_E_NOMEM, NULL, "index of the layer");
	for (size_t i = 0; i < sealing->segment_cnt; i++) {
		struct obd_segment segment = sealing->segments[i];

		obd_lsmt_encode_entry(segment, index + i * OBD_LSMT_ENTRY_BYTES);
		mapped += obd_segment_zeroed(segment) ? 0 : obd_segment_length(segment);
	}
	rc = obd_output_write(&output, index_at, index, index_bytes, info);
	free(index);
	if (!rc)
		rc = sync_data(&sealing->data, info);
	if (rc)
		return rc;
	obd_put_le32(sealing->header + FLAGS_AT, SEALED_FLAGS);
	obd_put_le64(sealing->header + INDEX_OFFSET_AT, index_at);
	obd_put_le64(sealing->header + INDEX_SIZE_AT, sealing->segment_cnt);
	rc = obd_output_write(&output, index_at + index_bytes, sealing->header,
			      sizeof(sealing->header), info);
	if (!rc)
		rc = sync_data(&sealing->data, info);
	if (rc)
		return rc;
	ret->file_bytes = index_at + index_bytes + sizeof(sealing->header);
	ret->virtual_size_bytes = obd_upper_virtual_size_bytes(sealing->upper);
	ret->segment_cnt = sealing->segment_cnt;
	/* a sparse layer is written in place: what it does not map are holes */
	ret->garbage_bytes = obd_upper_is_sparse(sealing->upper)
				     ? 0
				     : index_at - OBD_LSMT_SPACE_BYTES - mapped * 512;
	return 0;
}

/* As the writer: nobody appends meanwhile. */
static int seal_locked(struct sealing *sealing, const char *data_path, struct obd_errinfo *info,
		       struct obd_sealed_in_place *ret)
{
	int rc = obd_upper_flush(sealing->upper, info);

	if (!rc)
		rc = obd_file_open(data_path, O_RDWR, info, &sealing->data);
	if (rc)
		return rc;
	rc = refuse_sealed(sealing, info);
	if (!rc)
		rc = collect(sealing, info);
	if (!rc)
		rc = append_index(sealing, info, ret);
	free(sealing->segments);
	obd_file_close(&sealing->data);
	return rc;
}

int obd_seal(const char *data_path, const char *index_path, struct obd_errinfo *info,
	     struct obd_sealed_in_place *ret)
{
	struct sealing sealing = {0};
	uint64_t reserved = 0;
	int rc = obd_upper_create(data_path, index_path, 0, info, &sealing.upper);

	if (rc)
		return rc;
	rc = obd_upper_start_writing(sealing.upper, &reserved, info);
	if (!rc) {
		rc = seal_locked(&sealing, data_path, info, ret);
		obd_upper_stop_writing(sealing.upper);
		/* takes INDEX.pending away; without that it is only a file too many */
		(void)obd_upper_settle(sealing.upper, NULL);
	}
	obd_upper_destroy(sealing.upper);
	return rc;
}
