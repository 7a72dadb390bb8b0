#include "scsi.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

static void put_be16(uint8_t *at, uint16_t value)
{
	value = htobe16(value);
	memcpy(at, &value, sizeof(value));
}

static void put_be32(uint8_t *at, uint32_t value)
{
	value = htobe32(value);
	memcpy(at, &value, sizeof(value));
}

static void put_be64(uint8_t *at, uint64_t value)
{
	value = htobe64(value);
	memcpy(at, &value, sizeof(value));
}

static uint32_t cdb16(uint8_t *cdb, uint8_t opcode, uint64_t lba, uint32_t sector_cnt)
{
	memset(cdb, 0, OBD_CDB_BYTES);
	cdb[0] = opcode;
	put_be64(cdb + 2, lba);
	put_be32(cdb + 10, sector_cnt);
	return OBD_CDB_BYTES;
}

uint32_t obd_cdb_read(uint8_t *cdb, uint64_t lba, uint32_t sector_cnt)
{
	return cdb16(cdb, 0x88, lba, sector_cnt);
}

uint32_t obd_cdb_write(uint8_t *cdb, uint64_t lba, uint32_t sector_cnt, bool is_fua)
{
	uint32_t bytes = cdb16(cdb, 0x8a, lba, sector_cnt);

	if (is_fua)
		cdb[1] = 0x08;
	return bytes;
}

uint32_t obd_cdb_synchronize_cache(uint8_t *cdb)
{
	return cdb16(cdb, 0x91, 0, 0);
}

uint32_t obd_cdb_write_same(uint8_t *cdb, uint64_t lba, uint32_t sector_cnt)
{
	return cdb16(cdb, 0x93, lba, sector_cnt);
}

uint32_t obd_cdb_unmap(uint8_t *cdb, uint8_t *list, uint64_t lba, uint32_t sector_cnt)
{
	memset(cdb, 0, OBD_CDB_BYTES);
	cdb[0] = 0x42;
	put_be16(cdb + 7, OBD_UNMAP_LIST_BYTES);
	memset(list, 0, OBD_UNMAP_LIST_BYTES);
	put_be16(list, OBD_UNMAP_LIST_BYTES - 2);
	put_be16(list + 2, OBD_UNMAP_LIST_BYTES - 8);
	put_be64(list + 8, lba);
	put_be32(list + 16, sector_cnt);
	return 10;
}

struct obd_sense obd_sense_parse(const uint8_t *sense, uint32_t sense_bytes)
{
	struct obd_sense ret = {0, 0, 0};
	uint8_t code = sense_bytes ? sense[0] & 0x7f : 0;

	if ((code == 0x70 || code == 0x71) && sense_bytes >= 14)
		ret = (struct obd_sense){sense[2] & 0x0f, sense[12], sense[13]};
	else if ((code == 0x72 || code == 0x73) && sense_bytes >= 4)
		ret = (struct obd_sense){sense[1] & 0x0f, sense[2], sense[3]};
	return ret;
}

bool obd_scsi_is_retried(uint8_t status, struct obd_sense sense)
{
	if (status == OBD_STATUS_BUSY || status == OBD_STATUS_TASK_SET_FULL)
		return true;
	return status == OBD_STATUS_CHECK_CONDITION &&
	       (sense.key == OBD_SENSE_ATTENTION || sense.key == OBD_SENSE_ABORTED);
}

int obd_scsi_errno(uint8_t status, struct obd_sense sense)
{
	if (status == OBD_STATUS_GOOD)
		return 0;
	if (status != OBD_STATUS_CHECK_CONDITION)
		return EIO;
	switch (sense.key) {
	case OBD_SENSE_NONE:
		return EIO; /* CHECK CONDITION without a reason */
	case OBD_SENSE_RECOVERED:
		return 0;
	case OBD_SENSE_PROTECT:
		/* 27/07: space allocation failed write protect */
		return sense.asc == 0x27 && sense.ascq == 0x07 ? ENOSPC : EROFS;
	case OBD_SENSE_ILLEGAL:
		if (sense.asc == 0x20) /* opcode not offered */
			return EOPNOTSUPP;
		return sense.asc == 0x21 ? EIO : EINVAL; /* 21: LBA out of range */
	default:
		return EIO;
	}
}
