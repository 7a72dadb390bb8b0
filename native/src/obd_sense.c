#include "obd_sense.h"

#include <string.h>

#include "obd_bigendian.h"

#define MEDIUM(asc, ascq)                                                                          \
	{                                                                                          \
		OBD_STATUS_CHECK_CONDITION,                                                        \
		{                                                                                  \
			OBD_KEY_MEDIUM_ERROR, asc, ascq                                            \
		}                                                                                  \
	}
#define HARDWARE(asc, ascq)                                                                        \
	{                                                                                          \
		OBD_STATUS_CHECK_CONDITION,                                                        \
		{                                                                                  \
			OBD_KEY_HARDWARE_ERROR, asc, ascq                                          \
		}                                                                                  \
	}
#define ILLEGAL(asc, ascq)                                                                         \
	{                                                                                          \
		OBD_STATUS_CHECK_CONDITION,                                                        \
		{                                                                                  \
			OBD_KEY_ILLEGAL_REQUEST, asc, ascq                                         \
		}                                                                                  \
	}
#define PROTECT(asc, ascq)                                                                         \
	{                                                                                          \
		OBD_STATUS_CHECK_CONDITION,                                                        \
		{                                                                                  \
			OBD_KEY_DATA_PROTECT, asc, ascq                                            \
		}                                                                                  \
	}
#define BUSY                                                                                       \
	{                                                                                          \
		OBD_STATUS_BUSY,                                                                   \
		{                                                                                  \
			0, 0, 0                                                                    \
		}                                                                                  \
	}

#define UNRECOVERED_READ MEDIUM(0x11, 0x00)
#define WRITE_ERROR	 MEDIUM(0x0c, 0x00)
#define INTERNAL_FAILURE HARDWARE(0x44, 0x00)

struct answer {
	uint8_t status;
	struct obd_sense sense;
};

/* By -err, then direction. What no command can end with is an internal failure. */
static const struct answer answers[][2] = {
	[-OBD_OK] = {{OBD_STATUS_GOOD, {0, 0, 0}}, {OBD_STATUS_GOOD, {0, 0, 0}}},
	[-OBD_E_IO] = {UNRECOVERED_READ, WRITE_ERROR},
	[-OBD_E_NOMEM] = {BUSY, BUSY}, /* sent again by the initiator */
	[-OBD_E_FORMAT] = {UNRECOVERED_READ, WRITE_ERROR},
	[-OBD_E_CHECKSUM] = {UNRECOVERED_READ, WRITE_ERROR},
	[-OBD_E_RANGE] = {ILLEGAL(0x21, 0x00), ILLEGAL(0x21, 0x00)},
	[-OBD_E_READONLY] = {PROTECT(0x27, 0x00), PROTECT(0x27, 0x00)},
	[-OBD_E_NOSPACE] = {PROTECT(0x27, 0x07), PROTECT(0x27, 0x07)},
	[-OBD_E_AGAIN] = {BUSY, BUSY},
	[-OBD_E_UNSUPPORTED] = {UNRECOVERED_READ, WRITE_ERROR},
	[-OBD_E_LOCKED] = {INTERNAL_FAILURE, INTERNAL_FAILURE},
	[-OBD_E_STALE] = {INTERNAL_FAILURE, INTERNAL_FAILURE},
	[-OBD_E_RING] = {INTERNAL_FAILURE, INTERNAL_FAILURE},
	[-OBD_E_JOURNAL] = {INTERNAL_FAILURE, INTERNAL_FAILURE},
	[-OBD_E_INVAL] = {INTERNAL_FAILURE, INTERNAL_FAILURE},
	[-OBD_E_TIMEOUT] = {UNRECOVERED_READ, WRITE_ERROR},
	[-OBD_E_SHORT] = {UNRECOVERED_READ, WRITE_ERROR},
	[-OBD_E_RESET] = {INTERNAL_FAILURE, INTERNAL_FAILURE},
};

void obd_sense_encode(struct obd_sense sense, uint8_t ret[OBD_SENSE_BYTES])
{
	memset(ret, 0, OBD_SENSE_BYTES);
	ret[0] = 0x70;
	ret[2] = sense.key;
	ret[7] = OBD_SENSE_BYTES - 8;
	ret[12] = sense.asc;
	ret[13] = sense.ascq;
}

void obd_respond_good(struct obd_response *ret)
{
	memset(ret, 0, sizeof(*ret));
}

void obd_respond_sense(struct obd_response *ret, struct obd_sense sense)
{
	memset(ret, 0, sizeof(*ret));
	ret->status = OBD_STATUS_CHECK_CONDITION;
	ret->sense_bytes = OBD_SENSE_BYTES;
	obd_sense_encode(sense, ret->sense);
}

void obd_respond_poisoned(struct obd_response *ret, bool has_lba, uint64_t lba)
{
	obd_respond_sense(ret, OBD_SENSE_UNRECOVERED_READ);
	if (!has_lba || lba > UINT32_MAX) /* the field has 32 bits */
		return;
	ret->sense[0] |= 0x80; /* VALID */
	obd_put_be32(ret->sense + 3, (uint32_t)lba);
}

void obd_respond_error(struct obd_response *ret, int err, enum obd_direction direction)
{
	static const struct answer unknown = INTERNAL_FAILURE;
	const struct answer *answer = &unknown;

	if (err <= 0 && (uint32_t)-err < sizeof(answers) / sizeof(answers[0]))
		answer = &answers[-err][direction];
	memset(ret, 0, sizeof(*ret));
	if (answer->status == OBD_STATUS_CHECK_CONDITION)
		obd_respond_sense(ret, answer->sense);
	ret->status = answer->status;
}
