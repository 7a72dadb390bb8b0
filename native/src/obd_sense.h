/*
 * SCSI status and sense data of an answer, and the one table from our errors to them.
 *
 * Source: SPC-4 4.5.3 (fixed format sense data), 4.5.6 (sense keys); SAM-5 5.3 (status).
 */
#ifndef OBD_SENSE_H
#define OBD_SENSE_H

#include <stdint.h>

#include "obd_err.h"
#include "obd_ring.h"

enum {
	OBD_STATUS_GOOD = 0x00,
	OBD_STATUS_CHECK_CONDITION = 0x02,
	OBD_STATUS_BUSY = 0x08,
};

enum {
	OBD_KEY_NO_SENSE = 0x0,
	OBD_KEY_MEDIUM_ERROR = 0x3,
	OBD_KEY_HARDWARE_ERROR = 0x4,
	OBD_KEY_ILLEGAL_REQUEST = 0x5,
	OBD_KEY_DATA_PROTECT = 0x7,
};

struct obd_sense {
	uint8_t key;
	uint8_t asc;
	uint8_t ascq;
};

#define OBD_SENSE_NONE		    ((struct obd_sense){0, 0, 0})
#define OBD_SENSE_INVALID_OPCODE    ((struct obd_sense){OBD_KEY_ILLEGAL_REQUEST, 0x20, 0x00})
#define OBD_SENSE_INVALID_FIELD	    ((struct obd_sense){OBD_KEY_ILLEGAL_REQUEST, 0x24, 0x00})
#define OBD_SENSE_INVALID_PARAMETER ((struct obd_sense){OBD_KEY_ILLEGAL_REQUEST, 0x26, 0x00})
#define OBD_SENSE_PARAMETER_LENGTH  ((struct obd_sense){OBD_KEY_ILLEGAL_REQUEST, 0x1a, 0x00})
#define OBD_SENSE_NOT_SAVED	    ((struct obd_sense){OBD_KEY_ILLEGAL_REQUEST, 0x39, 0x00})
#define OBD_SENSE_LBA_OUT_OF_RANGE  ((struct obd_sense){OBD_KEY_ILLEGAL_REQUEST, 0x21, 0x00})
#define OBD_SENSE_UNRECOVERED_READ  ((struct obd_sense){OBD_KEY_MEDIUM_ERROR, 0x11, 0x00})
#define OBD_SENSE_WRITE_PROTECTED   ((struct obd_sense){OBD_KEY_DATA_PROTECT, 0x27, 0x00})

/* What the command was doing when it failed. */
enum obd_direction { OBD_READING, OBD_WRITING };

void obd_respond_good(struct obd_response *ret);
void obd_respond_sense(struct obd_response *ret, struct obd_sense sense);
/* Total over enum obd_err; a number that is none of it is HARDWARE ERROR. */
void obd_respond_error(struct obd_response *ret, int err, enum obd_direction direction);

/*
 * A command that is not executed for what it did to workers. Unrecovered read error also for what
 * writes: sd sends a command again after other medium errors, and that is what must not happen.
 * The range, if it names one, begins at lba: then it is in the information field (SPC-4 4.5.3).
 */
void obd_respond_poisoned(struct obd_response *ret, bool has_lba, uint64_t lba);

/* Fixed format sense data (18 bytes) into ret. */
#define OBD_SENSE_BYTES 18u
void obd_sense_encode(struct obd_sense sense, uint8_t ret[OBD_SENSE_BYTES]);

#endif
