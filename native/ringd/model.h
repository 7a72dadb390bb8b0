/*
 * What each sector of a device may legally hold: the load generator's memory.
 *
 * Every write and discard of a sector has a sequence number that grows; the generator never has
 * two of them in flight for one sector. A sector a write put there carries a stamp: run, device,
 * LBA, sequence, and 480 bytes that follow from these, so that any bit is checked. A read may see
 * the value that was acknowledged when it was sent, or any later one. A sector that this run never
 * wrote must keep its content: the first read remembers its checksum.
 *
 * Memory: 16 bytes per sector.
 */
#ifndef OBD_RINGD_MODEL_H
#define OBD_RINGD_MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum obd_verdict {
	OBD_SECTOR_GOOD,
	OBD_SECTOR_OLD,	      /* older than what was acknowledged before the read was sent */
	OBD_SECTOR_MISPLACED, /* data of another LBA or another device */
	OBD_SECTOR_CORRUPT,   /* nothing that was ever written */
};

struct obd_model;

/* Returns NULL when out of memory. device tells devices of one run apart. */
struct obd_model *obd_model_create(uint64_t run, uint64_t device, uint64_t sector_cnt);
void obd_model_destroy(struct obd_model *model);

/* Whether a write or discard of any sector in the range is in flight. */
bool obd_model_is_busy(const struct obd_model *model, uint64_t lba, uint32_t sector_cnt);

/* A write is sent: returns its sequence number and fills data (sector_cnt * 512 bytes). */
uint32_t obd_model_start_write(struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			       uint8_t *data);
uint32_t obd_model_start_discard(struct obd_model *model, uint64_t lba, uint32_t sector_cnt);
/* It came back; when not acknowledged, both the old and the new content are legal. */
void obd_model_end_write(struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			 bool is_acknowledged);

/* A read is sent: notes in acked[sector_cnt] what it must at least see. */
void obd_model_start_read(const struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			  uint32_t *acked);
/* One sector that was read. */
enum obd_verdict obd_model_check(struct obd_model *model, uint64_t lba, uint32_t acked,
				 const uint8_t *sector);

#endif
