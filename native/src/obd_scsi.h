/*
 * What a CDB asks for. Pure: no I/O, no state.
 *
 * Source: SBC-4 5 (READ, WRITE, SYNCHRONIZE CACHE, UNMAP, WRITE SAME, READ CAPACITY),
 * SPC-4 6 (INQUIRY, MODE SENSE, REQUEST SENSE, TEST UNIT READY).
 */
#ifndef OBD_SCSI_H
#define OBD_SCSI_H

#include <stdbool.h>
#include <stdint.h>

#include "obd_image.h"
#include "obd_sense.h"

/* Limits we report (VPD page B0h) and enforce. */
#define OBD_MAX_UNMAP_SECTORS	   0x200000u /* 1 GiB a descriptor */
#define OBD_MAX_UNMAP_DESCRIPTORS  32u
#define OBD_MAX_WRITE_SAME_SECTORS 0x10000u /* 32 MiB */
#define OBD_UNMAP_HEADER_BYTES	   8u
#define OBD_UNMAP_DESCRIPTOR_BYTES 16u
#define OBD_ANSWER_MAX_BYTES	   96u

/* The logical unit as the initiator sees it. */
struct obd_unit {
	uint64_t sectors;
	bool is_writable;
	uint8_t uuid[16];
};

enum obd_scsi_kind {
	OBD_SCSI_NOTHING,    /* GOOD without doing anything */
	OBD_SCSI_REFUSE,     /* CHECK CONDITION with .sense */
	OBD_SCSI_ANSWER,     /* data made by obd_answer() */
	OBD_SCSI_READ,	     /* .lba, .sectors */
	OBD_SCSI_WRITE,	     /* .lba, .sectors, .is_fua */
	OBD_SCSI_WRITE_SAME, /* .lba, .sectors, one sector of data unless .is_without_data */
	OBD_SCSI_UNMAP,	     /* .parameter_bytes of descriptors in the data */
	OBD_SCSI_FLUSH,
};

struct obd_scsi_op {
	enum obd_scsi_kind kind;
	struct obd_sense sense;
	bool is_fua;
	bool is_without_data;
	uint8_t opcode;
	uint32_t sectors;
	uint64_t lba;
	uint32_t parameter_bytes;  /* of the UNMAP parameter list */
	uint32_t allocation_bytes; /* the most an ANSWER may return */
};

/* Total: every byte sequence is an op, those we do not offer are OBD_SCSI_REFUSE. */
void obd_scsi_decode(const struct obd_unit *unit, const uint8_t *cdb, uint32_t cdb_bytes,
		     struct obd_scsi_op *ret);

/* The data of an OBD_SCSI_ANSWER; returns its length, at most OBD_ANSWER_MAX_BYTES, or 0 with
 * *sense set when a field of the CDB is not offered. */
uint32_t obd_answer(const struct obd_unit *unit, const uint8_t *cdb,
		    uint8_t ret[OBD_ANSWER_MAX_BYTES], struct obd_sense *sense);

/* One range of an UNMAP parameter list. */
struct obd_range {
	uint64_t lba;
	uint32_t sectors;
};

/*
 * Parses and checks a parameter list completely before anything is discarded. Returns the number
 * of ranges, or -1 with *sense set.
 */
int obd_unmap_parse(const struct obd_unit *unit, const uint8_t *list, uint32_t list_bytes,
		    struct obd_range ret[OBD_MAX_UNMAP_DESCRIPTORS], struct obd_sense *sense);

#endif
