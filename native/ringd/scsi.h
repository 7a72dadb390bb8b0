/*
 * The SCSI commands a disk driver sends, and what it makes of the answers.
 * Source: SBC-4 (READ/WRITE/SYNCHRONIZE CACHE/WRITE SAME (16), UNMAP), SPC-5 (sense data).
 */
#ifndef OBD_RINGD_SCSI_H
#define OBD_RINGD_SCSI_H

#include <stdbool.h>
#include <stdint.h>

#define OBD_SECTOR_BYTES     512u
#define OBD_CDB_BYTES	     16u
#define OBD_UNMAP_LIST_BYTES 24u /* header and one descriptor */

#define OBD_STATUS_GOOD		   0x00u
#define OBD_STATUS_CHECK_CONDITION 0x02u
#define OBD_STATUS_BUSY		   0x08u
#define OBD_STATUS_TASK_SET_FULL   0x28u

enum obd_sense_key {
	OBD_SENSE_NONE = 0x0,
	OBD_SENSE_RECOVERED = 0x1,
	OBD_SENSE_NOT_READY = 0x2,
	OBD_SENSE_MEDIUM = 0x3,
	OBD_SENSE_HARDWARE = 0x4,
	OBD_SENSE_ILLEGAL = 0x5,
	OBD_SENSE_ATTENTION = 0x6,
	OBD_SENSE_PROTECT = 0x7,
	OBD_SENSE_ABORTED = 0xb,
};

struct obd_sense {
	uint8_t key;
	uint8_t asc;
	uint8_t ascq;
};

/* Each fills cdb[OBD_CDB_BYTES] and returns the length of the CDB in bytes. */
uint32_t obd_cdb_read(uint8_t *cdb, uint64_t lba, uint32_t sector_cnt);
uint32_t obd_cdb_write(uint8_t *cdb, uint64_t lba, uint32_t sector_cnt, bool is_fua);
uint32_t obd_cdb_synchronize_cache(uint8_t *cdb);
uint32_t obd_cdb_write_same(uint8_t *cdb, uint64_t lba, uint32_t sector_cnt);
/* Also fills list[OBD_UNMAP_LIST_BYTES], the data to send. */
uint32_t obd_cdb_unmap(uint8_t *cdb, uint8_t *list, uint64_t lba, uint32_t sector_cnt);

/* Reads fixed and descriptor sense data; anything else is all zeros. */
struct obd_sense obd_sense_parse(const uint8_t *sense, uint32_t sense_bytes);

/* Whether the disk driver would send the command again by itself. */
bool obd_scsi_is_retried(uint8_t status, struct obd_sense sense);

/* What the answer means to a caller of read() or write(): 0 or a positive errno. */
int obd_scsi_errno(uint8_t status, struct obd_sense sense);

#endif
