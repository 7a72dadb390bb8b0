#include "obd_command.h"

#include <string.h>
#include <sys/uio.h>

#define FILL_BYTES (64u << 10) /* a pattern is written in pieces of this size */

/* The buffers of a command, in the data area. */
struct buffers {
	struct iovec iov[OBD_JOURNAL_MAX_IOV];
	uint32_t iov_cnt;
	uint64_t bytes;
};

static void map_buffers(const struct obd_command_site *site, struct buffers *ret)
{
	const struct obd_journal_slot *slot = site->slot;

	ret->iov_cnt = slot->iov_cnt;
	ret->bytes = 0;
	for (uint32_t i = 0; i < slot->iov_cnt; i++) {
		ret->iov[i].iov_base = site->ring->map + slot->iov[i].offset_bytes;
		ret->iov[i].iov_len = slot->iov[i].length_bytes;
		ret->bytes += slot->iov[i].length_bytes;
	}
}

/* Cuts the buffers to `bytes`; false if there is less, or not in whole sectors. */
static bool cut_buffers(struct buffers *buffers, uint64_t bytes)
{
	uint32_t i;

	if (buffers->bytes < bytes)
		return false;
	for (i = 0; bytes && i < buffers->iov_cnt; i++) {
		if (buffers->iov[i].iov_len > bytes)
			buffers->iov[i].iov_len = bytes;
		if (buffers->iov[i].iov_len % OBD_SECTOR_BYTES)
			return false;
		bytes -= buffers->iov[i].iov_len;
	}
	buffers->iov_cnt = i;
	return true;
}

/* Writes data into the buffers and zeros behind it. */
static void scatter(const struct buffers *buffers, const uint8_t *data, uint32_t bytes)
{
	for (uint32_t i = 0; i < buffers->iov_cnt; i++) {
		uint8_t *base = buffers->iov[i].iov_base;
		size_t length = buffers->iov[i].iov_len;
		size_t part = length < bytes ? length : bytes;

		memcpy(base, data, part);
		memset(base + part, 0, length - part);
		data += part;
		bytes -= (uint32_t)part;
	}
}

static void gather(const struct buffers *buffers, uint8_t *data, uint32_t bytes)
{
	for (uint32_t i = 0; bytes && i < buffers->iov_cnt; i++) {
		size_t length = buffers->iov[i].iov_len;
		size_t part = length < bytes ? length : bytes;

		memcpy(data, buffers->iov[i].iov_base, part);
		data += part;
		bytes -= (uint32_t)part;
	}
}

static void run_answer(const struct obd_command_site *site, const struct obd_scsi_op *op,
		       const struct buffers *buffers, struct obd_response *ret)
{
	uint8_t data[OBD_ANSWER_MAX_BYTES];
	struct obd_sense sense = OBD_SENSE_NONE;
	uint32_t bytes = obd_answer(site->unit, site->slot->cdb, data, &sense);

	if (!bytes)
		return obd_respond_sense(ret, sense);
	if (bytes > op->allocation_bytes)
		bytes = op->allocation_bytes;
	if (bytes > buffers->bytes)
		bytes = (uint32_t)buffers->bytes;
	scatter(buffers, data, bytes);
	obd_respond_good(ret);
	ret->has_read_len = true;
	ret->read_len = bytes;
}

static int run_read(const struct obd_command_site *site, const struct obd_scsi_op *op,
		    uint32_t flags, struct buffers *buffers, struct obd_response *ret)
{
	uint64_t offered = buffers->bytes, bytes = (uint64_t)op->sectors * OBD_SECTOR_BYTES;
	int rc;

	if (!cut_buffers(buffers, bytes)) {
		obd_respond_sense(ret, OBD_SENSE_INVALID_FIELD);
		return 0;
	}
	rc = obd_image_read(site->image, op->lba, op->sectors, buffers->iov, buffers->iov_cnt,
			    flags, NULL);
	if (rc == OBD_E_AGAIN && (flags & OBD_READ_NOWAIT))
		return rc;
	obd_respond_error(ret, rc, OBD_READING);
	if (!rc && offered > bytes) {
		ret->has_read_len = true;
		ret->read_len = (uint32_t)bytes;
	}
	return 0;
}

static void run_write(const struct obd_command_site *site, const struct obd_scsi_op *op,
		      struct buffers *buffers, struct obd_response *ret)
{
	if (!cut_buffers(buffers, (uint64_t)op->sectors * OBD_SECTOR_BYTES))
		return obd_respond_sense(ret, OBD_SENSE_INVALID_FIELD);
	obd_respond_error(ret,
			  obd_image_write(site->image, op->lba, op->sectors, buffers->iov,
					  buffers->iov_cnt, op->is_fua ? OBD_WRITE_FUA : 0, NULL),
			  OBD_WRITING);
}

static int write_pattern(const struct obd_command_site *site, const struct obd_scsi_op *op,
			 const uint8_t *sector)
{
	uint8_t fill[FILL_BYTES];
	uint32_t left = op->sectors;
	uint64_t lba = op->lba;

	for (uint32_t at = 0; at < sizeof(fill); at += OBD_SECTOR_BYTES)
		memcpy(fill + at, sector, OBD_SECTOR_BYTES);
	while (left) {
		uint32_t part =
			left < FILL_BYTES / OBD_SECTOR_BYTES ? left : FILL_BYTES / OBD_SECTOR_BYTES;
		struct iovec iov = {fill, (size_t)part * OBD_SECTOR_BYTES};
		int rc = obd_image_write(site->image, lba, part, &iov, 1, 0, NULL);

		if (rc)
			return rc;
		lba += part;
		left -= part;
	}
	return 0;
}

static void run_write_same(const struct obd_command_site *site, const struct obd_scsi_op *op,
			   const struct buffers *buffers, struct obd_response *ret)
{
	static const uint8_t zeros[OBD_SECTOR_BYTES];
	uint8_t sector[OBD_SECTOR_BYTES] = {0};
	int rc;

	if (!op->is_without_data) {
		if (buffers->bytes < OBD_SECTOR_BYTES)
			return obd_respond_sense(ret, OBD_SENSE_INVALID_FIELD);
		gather(buffers, sector, OBD_SECTOR_BYTES);
	}
	/* LBPRZ: an unmapped sector reads as zeros, so that only a zero pattern may unmap. */
	if (!memcmp(sector, zeros, OBD_SECTOR_BYTES))
		rc = obd_image_discard(site->image, op->lba, op->sectors, NULL);
	else
		rc = write_pattern(site, op, sector);
	obd_respond_error(ret, rc, OBD_WRITING);
}

static void run_unmap(const struct obd_command_site *site, const struct obd_scsi_op *op,
		      const struct buffers *buffers, struct obd_response *ret)
{
	uint8_t list[OBD_UNMAP_HEADER_BYTES +
		     (OBD_MAX_UNMAP_DESCRIPTORS + 1) * OBD_UNMAP_DESCRIPTOR_BYTES];
	struct obd_range ranges[OBD_MAX_UNMAP_DESCRIPTORS];
	struct obd_sense sense = OBD_SENSE_PARAMETER_LENGTH;
	uint32_t bytes = op->parameter_bytes;
	int cnt, rc = 0;

	if (buffers->bytes < bytes)
		return obd_respond_sense(ret, sense);
	if (bytes > sizeof(list))
		return obd_respond_sense(ret, OBD_SENSE_INVALID_PARAMETER);
	gather(buffers, list, bytes);
	cnt = obd_unmap_parse(site->unit, list, bytes, ranges, &sense);
	if (cnt < 0)
		return obd_respond_sense(ret, sense);
	for (int i = 0; i < cnt && !rc; i++)
		if (ranges[i].sectors)
			rc = obd_image_discard(site->image, ranges[i].lba, ranges[i].sectors, NULL);
	obd_respond_error(ret, rc, OBD_WRITING);
}

void obd_command_decode(const struct obd_command_site *site, struct obd_scsi_op *ret)
{
	const struct obd_journal_slot *slot = site->slot;

	if (slot->cdb_bytes == OBD_SLOT_UNKNOWN_OP) {
		*ret = (struct obd_scsi_op){.kind = OBD_SCSI_REFUSE,
					    .sense = OBD_SENSE_INVALID_OPCODE};
		return;
	}
	obd_scsi_decode(site->unit, slot->cdb, slot->cdb_bytes, ret);
}

int obd_command_run(const struct obd_command_site *site, const struct obd_scsi_op *op,
		    uint32_t flags, struct obd_response *ret)
{
	struct buffers buffers;

	map_buffers(site, &buffers);
	switch (op->kind) {
	case OBD_SCSI_NOTHING:
		obd_respond_good(ret);
		break;
	case OBD_SCSI_REFUSE:
		obd_respond_sense(ret, op->sense);
		ret->is_unknown_op = site->slot->cdb_bytes == OBD_SLOT_UNKNOWN_OP;
		break;
	case OBD_SCSI_ANSWER:
		run_answer(site, op, &buffers, ret);
		break;
	case OBD_SCSI_READ:
		return run_read(site, op, flags, &buffers, ret);
	case OBD_SCSI_WRITE:
		run_write(site, op, &buffers, ret);
		break;
	case OBD_SCSI_WRITE_SAME:
		run_write_same(site, op, &buffers, ret);
		break;
	case OBD_SCSI_UNMAP:
		run_unmap(site, op, &buffers, ret);
		break;
	case OBD_SCSI_FLUSH:
		obd_respond_error(ret, obd_image_flush(site->image, NULL), OBD_WRITING);
		break;
	}
	return 0;
}
