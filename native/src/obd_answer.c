/* The data a device says about itself: INQUIRY, VPD pages, capacity, mode pages, sense. */
#include <scsi/scsi.h>
#include <string.h>

#include "obd_bigendian.h"
#include "obd_scsi.h"

#define PAGE_CACHING 0x08
#define PAGE_ALL     0x3f
#define VENDOR	     "OBDSUP  "
#define PRODUCT	     "overlaybd       "
#define REVISION     "0001"

#define SECTORS_OF_4K 8u

static uint32_t standard_inquiry(uint8_t *ret)
{
	ret[2] = 0x06; /* SPC-4 */
	ret[3] = 0x02; /* response data format */
	ret[4] = 36 - 5;
	ret[7] = 0x02; /* CMDQUE */
	memcpy(ret + 8, VENDOR, 8);
	memcpy(ret + 16, PRODUCT, 16);
	memcpy(ret + 32, REVISION, 4);
	return 36;
}

static uint32_t supported_pages(uint8_t *page)
{
	static const uint8_t pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};

	memcpy(page + 4, pages, sizeof(pages));
	return sizeof(pages);
}

static void put_hex(uint8_t *at, const uint8_t *bytes, uint32_t cnt)
{
	static const char digits[] = "0123456789abcdef";

	for (uint32_t i = 0; i < cnt; i++) {
		at[2 * i] = (uint8_t)digits[bytes[i] >> 4];
		at[2 * i + 1] = (uint8_t)digits[bytes[i] & 15];
	}
}

static uint32_t serial_number(const struct obd_unit *unit, uint8_t *page)
{
	put_hex(page + 4, unit->uuid, sizeof(unit->uuid));
	return 2 * sizeof(unit->uuid);
}

/* A locally assigned NAA identifier from the uuid, and vendor plus uuid as text. */
static uint32_t identification(const struct obd_unit *unit, uint8_t *page)
{
	uint8_t *naa = page + 4, *text = page + 4 + 12;

	naa[0] = 0x01; /* binary */
	naa[1] = 0x03; /* NAA, of the logical unit */
	naa[3] = 8;
	memcpy(naa + 4, unit->uuid, 8);
	naa[4] = (uint8_t)(0x30 | (naa[4] & 0x0f));
	text[0] = 0x02; /* ASCII */
	text[1] = 0x01; /* T10 vendor identification */
	text[3] = 8 + 2 * sizeof(unit->uuid);
	memcpy(text + 4, VENDOR, 8);
	put_hex(text + 12, unit->uuid, sizeof(unit->uuid));
	return 12 + 4 + text[3];
}

static uint32_t block_limits(const struct obd_unit *unit, uint8_t *page)
{
	page[4] = 0x01; /* WSNZ */
	obd_put_be16(page + 6, SECTORS_OF_4K);
	obd_put_be32(page + 8, OBD_JOURNAL_MAX_IOV * SECTORS_OF_4K);
	if (unit->is_writable) {
		obd_put_be32(page + 20, OBD_MAX_UNMAP_SECTORS);
		obd_put_be32(page + 24, OBD_MAX_UNMAP_DESCRIPTORS);
		obd_put_be32(page + 28, SECTORS_OF_4K);
		obd_put_be32(page + 32, 0x80000000u); /* UGAVALID, alignment 0 */
		obd_put_be64(page + 36, OBD_MAX_WRITE_SAME_SECTORS);
	}
	return 0x3c;
}

static uint32_t characteristics(uint8_t *page)
{
	obd_put_be16(page + 4, 1); /* does not rotate */
	return 0x3c;
}

static uint32_t provisioning(const struct obd_unit *unit, uint8_t *page)
{
	if (unit->is_writable) {
		page[5] = 0x80 | 0x40 | 0x20 | 0x04; /* LBPU, LBPWS, LBPWS10, LBPRZ */
		page[6] = 0x02;			     /* thin */
	}
	return 4;
}

static uint32_t inquiry(const struct obd_unit *unit, const uint8_t *cdb, uint8_t *ret,
			struct obd_sense *sense)
{
	uint32_t bytes;

	if (!(cdb[1] & 1)) {
		if (!cdb[2])
			return standard_inquiry(ret);
		*sense = OBD_SENSE_INVALID_FIELD;
		return 0;
	}
	switch (cdb[2]) {
	case 0x00:
		bytes = supported_pages(ret);
		break;
	case 0x80:
		bytes = serial_number(unit, ret);
		break;
	case 0x83:
		bytes = identification(unit, ret);
		break;
	case 0xb0:
		bytes = block_limits(unit, ret);
		break;
	case 0xb1:
		bytes = characteristics(ret);
		break;
	case 0xb2:
		bytes = provisioning(unit, ret);
		break;
	default:
		*sense = OBD_SENSE_INVALID_FIELD;
		return 0;
	}
	ret[1] = cdb[2];
	obd_put_be16(ret + 2, (uint16_t)bytes);
	return 4 + bytes;
}

static uint32_t capacity_10(const struct obd_unit *unit, uint8_t *ret)
{
	uint64_t last = unit->sectors - 1;

	obd_put_be32(ret, last > UINT32_MAX ? UINT32_MAX : (uint32_t)last);
	obd_put_be32(ret + 4, OBD_SECTOR_BYTES);
	return 8;
}

static uint32_t capacity_16(const struct obd_unit *unit, uint8_t *ret)
{
	obd_put_be64(ret, unit->sectors - 1);
	obd_put_be32(ret + 8, OBD_SECTOR_BYTES);
	if (unit->is_writable)
		ret[14] = 0x80 | 0x40; /* LBPME, LBPRZ */
	return 32;
}

/* header_bytes: 4 for MODE SENSE(6), 8 for (10). */
static uint32_t mode_sense(const struct obd_unit *unit, const uint8_t *cdb, uint32_t header_bytes,
			   uint8_t *ret, struct obd_sense *sense)
{
	uint8_t page = cdb[2] & 0x3f, control = cdb[2] >> 6, *at = ret + header_bytes;
	uint8_t parameter = unit->is_writable ? 0x10 : 0x90; /* DPOFUA, WP */
	uint32_t bytes = header_bytes + 20;

	*sense = control == 3 ? OBD_SENSE_NOT_SAVED : OBD_SENSE_INVALID_FIELD;
	if (control == 3 || (page != PAGE_CACHING && page != PAGE_ALL) ||
	    (cdb[3] && cdb[3] != 0xff))
		return 0;
	at[0] = PAGE_CACHING;
	at[1] = 18;
	if (control != 1 && unit->is_writable) /* 1: what could be changed: nothing */
		at[2] = 0x04;		       /* WCE */
	if (header_bytes == 4) {
		ret[0] = (uint8_t)(bytes - 1);
		ret[2] = parameter;
	} else {
		obd_put_be16(ret, (uint16_t)(bytes - 2));
		ret[3] = parameter;
	}
	return bytes;
}

uint32_t obd_answer(const struct obd_unit *unit, const uint8_t *cdb,
		    uint8_t ret[OBD_ANSWER_MAX_BYTES], struct obd_sense *sense)
{
	memset(ret, 0, OBD_ANSWER_MAX_BYTES);
	switch (cdb[0]) {
	case INQUIRY:
		return inquiry(unit, cdb, ret, sense);
	case MODE_SENSE:
		return mode_sense(unit, cdb, 4, ret, sense);
	case MODE_SENSE_10:
		return mode_sense(unit, cdb, 8, ret, sense);
	case READ_CAPACITY:
		return capacity_10(unit, ret);
	case REQUEST_SENSE: /* autosense delivered whatever there was */
		obd_sense_encode(OBD_SENSE_NONE, ret);
		return OBD_SENSE_BYTES;
	default:
		return capacity_16(unit, ret);
	}
}
