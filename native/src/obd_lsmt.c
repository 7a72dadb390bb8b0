#include "obd_lsmt.h"

#include <string.h>

#include "obd_bytes.h"

static const uint8_t magic[24] = {
	'L',  'S',  'M',  'T',	0x00, 0x01, 0x02, 0x00, 0x65, 0x7e, 0x63, 0xd2,
	0x94, 0x44, 0x08, 0x4c, 0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a,
};

#define FLAGS_AT	28u
#define INDEX_OFFSET_AT 32u
#define INDEX_SIZE_AT	40u
#define VIRTUAL_SIZE_AT 48u
#define UUID_AT		56u

bool obd_lsmt_has_magic(const uint8_t *area)
{
	return memcmp(area, magic, sizeof(magic)) == 0;
}

int obd_lsmt_decode_ht(const uint8_t *area, uint32_t mask, uint32_t flags, const char *path,
		       uint64_t at_bytes, struct obd_errinfo *info, struct obd_lsmt_ht *ret)
{
	if (!obd_lsmt_has_magic(area))
		return obd_fail_value(info, OBD_E_FORMAT, path, "lsmt magic", at_bytes,
				      obd_le64(magic), obd_le64(area));
	ret->flags = obd_le32(area + FLAGS_AT);
	if ((ret->flags & mask) != flags)
		return obd_fail_value(info, OBD_E_FORMAT, path, "lsmt flags", at_bytes + FLAGS_AT,
				      flags, ret->flags & mask);
	ret->index_offset_bytes = obd_le64(area + INDEX_OFFSET_AT);
	ret->index_entries = obd_le64(area + INDEX_SIZE_AT);
	ret->virtual_size_bytes = obd_le64(area + VIRTUAL_SIZE_AT);
	if (ret->virtual_size_bytes / 512 > OBD_LSMT_MAX_VIRTUAL_SECTORS)
		return obd_fail_value(info, OBD_E_FORMAT, path, "lsmt virtual size",
				      at_bytes + VIRTUAL_SIZE_AT,
				      OBD_LSMT_MAX_VIRTUAL_SECTORS * 512, ret->virtual_size_bytes);
	memcpy(ret->uuid, area + UUID_AT, sizeof(ret->uuid));
	ret->uuid[sizeof(ret->uuid) - 1] = 0;
	return 0;
}

struct obd_segment obd_lsmt_decode_entry(const uint8_t *at)
{
	return (struct obd_segment){.low = obd_le64(at), .high = obd_le64(at + 8)};
}

void obd_lsmt_encode_entry(struct obd_segment segment, uint8_t *at)
{
	obd_put_le64(at, segment.low);
	obd_put_le64(at + 8, segment.high);
}
