#include "obd_scsi.h"

#include <scsi/scsi.h>

#include "obd_bigendian.h"

/* Opcodes that <scsi/scsi.h> of glibc does not have. */
#define OP_READ_12	       0xa8
#define OP_WRITE_12	       0xaa
#define OP_READ_16	       0x88
#define OP_WRITE_16	       0x8a
#define OP_SYNC_CACHE_16       0x91
#define OP_WRITE_SAME_10       0x41
#define OP_WRITE_SAME_16       0x93
#define OP_UNMAP	       0x42
#define OP_SERVICE_ACTION_IN   0x9e
#define ACTION_READ_CAPACITY16 0x10

#define BIT_FUA	   0x08 /* byte 1 of READ and WRITE */
#define BIT_UNMAP  0x08 /* byte 1 of WRITE SAME */
#define BIT_ANCHOR 0x10
#define BIT_NDOB   0x01 /* byte 1 of WRITE SAME(16) */

static void refuse(struct obd_scsi_op *op, struct obd_sense sense)
{
	op->kind = OBD_SCSI_REFUSE;
	op->sense = sense;
}

/* LBA and count of a block command, by the size of its CDB. */
static void read_extent(const uint8_t *cdb, uint32_t cdb_bytes, struct obd_scsi_op *op)
{
	switch (cdb_bytes) {
	case 6:
		op->lba = obd_be32(cdb) & 0x1fffff;
		op->sectors = cdb[4] ? cdb[4] : 256;
		break;
	case 10:
		op->lba = obd_be32(cdb + 2);
		op->sectors = obd_be16(cdb + 7);
		break;
	case 12:
		op->lba = obd_be32(cdb + 2);
		op->sectors = obd_be32(cdb + 6);
		break;
	default:
		op->lba = obd_be64(cdb + 2);
		op->sectors = obd_be32(cdb + 10);
	}
}

static bool is_inside(const struct obd_unit *unit, uint64_t lba, uint64_t sectors)
{
	return lba <= unit->sectors && sectors <= unit->sectors - lba;
}

static void decode_transfer(const struct obd_unit *unit, const uint8_t *cdb, uint32_t cdb_bytes,
			    enum obd_scsi_kind kind, struct obd_scsi_op *op)
{
	read_extent(cdb, cdb_bytes, op);
	if (cdb_bytes > 6) {
		if (cdb[1] & 0xe0) /* protection information */
			return refuse(op, OBD_SENSE_INVALID_FIELD);
		op->is_fua = cdb[1] & BIT_FUA;
	}
	if (!is_inside(unit, op->lba, op->sectors))
		return refuse(op, OBD_SENSE_LBA_OUT_OF_RANGE);
	if (kind == OBD_SCSI_WRITE && !unit->is_writable)
		return refuse(op, OBD_SENSE_WRITE_PROTECTED);
	op->kind = op->sectors ? kind : OBD_SCSI_NOTHING;
}

static void decode_flush(const struct obd_unit *unit, const uint8_t *cdb, uint32_t cdb_bytes,
			 struct obd_scsi_op *op)
{
	read_extent(cdb, cdb_bytes, op);
	if (!is_inside(unit, op->lba, op->sectors))
		return refuse(op, OBD_SENSE_LBA_OUT_OF_RANGE);
	op->kind = unit->is_writable ? OBD_SCSI_FLUSH : OBD_SCSI_NOTHING;
}

static void decode_write_same(const struct obd_unit *unit, const uint8_t *cdb, uint32_t cdb_bytes,
			      struct obd_scsi_op *op)
{
	read_extent(cdb, cdb_bytes, op);
	if (cdb[1] & (0xe0 | BIT_ANCHOR))
		return refuse(op, OBD_SENSE_INVALID_FIELD);
	/* WSNZ: no count that means "to the end". */
	if (!op->sectors || op->sectors > OBD_MAX_WRITE_SAME_SECTORS)
		return refuse(op, OBD_SENSE_INVALID_FIELD);
	if (!is_inside(unit, op->lba, op->sectors))
		return refuse(op, OBD_SENSE_LBA_OUT_OF_RANGE);
	if (!unit->is_writable)
		return refuse(op, OBD_SENSE_WRITE_PROTECTED);
	op->is_without_data = cdb_bytes == 16 && (cdb[1] & BIT_NDOB);
	op->kind = OBD_SCSI_WRITE_SAME;
}

static void decode_unmap(const struct obd_unit *unit, const uint8_t *cdb, struct obd_scsi_op *op)
{
	if (cdb[1] & 0x01) /* ANCHOR */
		return refuse(op, OBD_SENSE_INVALID_FIELD);
	if (!unit->is_writable)
		return refuse(op, OBD_SENSE_WRITE_PROTECTED);
	op->parameter_bytes = obd_be16(cdb + 7);
	op->kind = op->parameter_bytes ? OBD_SCSI_UNMAP : OBD_SCSI_NOTHING;
}

static void decode_answer(const uint8_t *cdb, struct obd_scsi_op *op)
{
	op->kind = OBD_SCSI_ANSWER;
	switch (cdb[0]) {
	case INQUIRY:
		op->allocation_bytes = obd_be16(cdb + 3);
		break;
	case REQUEST_SENSE:
	case MODE_SENSE:
		op->allocation_bytes = cdb[4];
		break;
	case MODE_SENSE_10:
		op->allocation_bytes = obd_be16(cdb + 7);
		break;
	case READ_CAPACITY:
		op->allocation_bytes = 8;
		break;
	default: /* READ CAPACITY(16) */
		if ((cdb[1] & 0x1f) != ACTION_READ_CAPACITY16)
			return refuse(op, OBD_SENSE_INVALID_FIELD);
		op->allocation_bytes = obd_be32(cdb + 10);
	}
}

static uint32_t group_bytes(uint8_t opcode)
{
	static const uint8_t by_group[8] = {6, 10, 10, 0, 16, 12, 0, 0};

	return by_group[opcode >> 5];
}

void obd_scsi_decode(const struct obd_unit *unit, const uint8_t *cdb, uint32_t cdb_bytes,
		     struct obd_scsi_op *ret)
{
	*ret = (struct obd_scsi_op){.kind = OBD_SCSI_REFUSE, .sense = OBD_SENSE_INVALID_OPCODE};
	if (!cdb_bytes || !group_bytes(cdb[0]) || cdb_bytes < group_bytes(cdb[0]))
		return;
	cdb_bytes = group_bytes(cdb[0]);
	ret->opcode = cdb[0];
	switch (cdb[0]) {
	case READ_6:
	case READ_10:
	case OP_READ_12:
	case OP_READ_16:
		return decode_transfer(unit, cdb, cdb_bytes, OBD_SCSI_READ, ret);
	case WRITE_6:
	case WRITE_10:
	case OP_WRITE_12:
	case OP_WRITE_16:
		return decode_transfer(unit, cdb, cdb_bytes, OBD_SCSI_WRITE, ret);
	case SYNCHRONIZE_CACHE:
	case OP_SYNC_CACHE_16:
		return decode_flush(unit, cdb, cdb_bytes, ret);
	case OP_WRITE_SAME_10:
	case OP_WRITE_SAME_16:
		return decode_write_same(unit, cdb, cdb_bytes, ret);
	case OP_UNMAP:
		return decode_unmap(unit, cdb, ret);
	case INQUIRY:
	case REQUEST_SENSE:
	case MODE_SENSE:
	case MODE_SENSE_10:
	case READ_CAPACITY:
	case OP_SERVICE_ACTION_IN:
		return decode_answer(cdb, ret);
	case TEST_UNIT_READY:
	case START_STOP:
		ret->kind = OBD_SCSI_NOTHING;
		return;
	}
}

int obd_unmap_parse(const struct obd_unit *unit, const uint8_t *list, uint32_t list_bytes,
		    struct obd_range ret[OBD_MAX_UNMAP_DESCRIPTORS], struct obd_sense *sense)
{
	uint32_t bytes, cnt;

	*sense = OBD_SENSE_PARAMETER_LENGTH;
	if (list_bytes < OBD_UNMAP_HEADER_BYTES)
		return -1;
	bytes = obd_be16(list + 2);
	if (bytes > list_bytes - OBD_UNMAP_HEADER_BYTES)
		return -1;
	cnt = bytes / OBD_UNMAP_DESCRIPTOR_BYTES; /* a cut descriptor is ignored (SBC-4 5.32.2) */
	*sense = OBD_SENSE_INVALID_PARAMETER;
	if (cnt > OBD_MAX_UNMAP_DESCRIPTORS)
		return -1;
	for (uint32_t i = 0; i < cnt; i++) {
		const uint8_t *at = list + OBD_UNMAP_HEADER_BYTES + i * OBD_UNMAP_DESCRIPTOR_BYTES;

		ret[i].lba = obd_be64(at);
		ret[i].sectors = obd_be32(at + 8);
		if (ret[i].sectors > OBD_MAX_UNMAP_SECTORS)
			return -1;
		if (!is_inside(unit, ret[i].lba, ret[i].sectors)) {
			*sense = OBD_SENSE_LBA_OUT_OF_RANGE;
			return -1;
		}
	}
	return (int)cnt;
}
