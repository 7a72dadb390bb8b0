/*
 * What each sector of a device may legally hold.
 *
 * Every write and discard of a sector has a sequence number that grows; the generator never has
 * two of them in flight for one sector. A sector a write put there carries a stamp (stamp.h). A
 * read may see the version that was acknowledged when it was sent, its floor, or any later one up
 * to the newest that was sent. A sector that was never written must keep its content: that of the
 * base file, or what the first read showed (its checksum is remembered). A discarded sector reads
 * as zeros. Sectors are taken to be written atomically.
 *
 * Known after a power cut: nothing but what was acknowledged before a flush was sent that
 * succeeded; each sector holds that version or any later one that was sent.
 *
 * Not for several threads at once, except obd_model_fill.
 */
#ifndef OBD_CHECKER_MODEL_H
#define OBD_CHECKER_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ledger.h"

enum obd_verdict {
	OBD_SECTOR_GOOD,
	OBD_SECTOR_OLD,	      /* older than its floor */
	OBD_SECTOR_MISPLACED, /* data of another LBA or another device */
	OBD_SECTOR_CORRUPT,   /* nothing that was ever written */
};

struct obd_model_options {
	struct obd_ledger *ledger;	/* borrowed */
	const struct obd_ledger *since; /* NULL, or an earlier copy: whose flushes count */
	const uint8_t *base;  /* NULL, or what sectors held before: base_bytes, borrowed */
	uint64_t base_bytes;  /* beyond it: zeros */
	bool is_poison_known; /* 0xdb in a whole sector is a block nobody filled in */
	bool is_durable_only; /* floors are what was flushed, not what was acknowledged */
};

struct obd_model;

struct obd_model *obd_model_create(const struct obd_model_options *options); /* NULL: no memory */
void obd_model_destroy(struct obd_model *model);			     /* NULL is fine */

/* Whether a write or discard of any sector in the range is in flight. */
bool obd_model_is_busy(const struct obd_model *model, uint64_t lba, uint32_t sector_cnt);

/* A write or discard is sent, while generation serves: returns its sequence number. */
uint32_t obd_model_start_write(struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			       uint32_t generation);
uint32_t obd_model_start_discard(struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
				 uint32_t generation);
/* The data of that write, sector_cnt * 512 bytes. From any thread. */
void obd_model_fill(const struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
		    uint32_t sequence, uint32_t generation, uint8_t *data);

enum obd_outcome {
	OBD_FAILED,	  /* both the old and the new content are legal */
	OBD_ACKNOWLEDGED, /* lasting once a flush succeeds that is sent later */
	OBD_DURABLE,	  /* acknowledged, and lasting by itself (FUA) */
};
void obd_model_end_write(struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			 enum obd_outcome outcome);

/* A flush is sent; a flush that succeeded, with what start_flush returned. */
uint64_t obd_model_start_flush(struct obd_model *model);
void obd_model_end_flush(struct obd_model *model, uint64_t started);
/* So much was written since the last flush was sent that one should be sent now. */
bool obd_model_wants_flush(const struct obd_model *model);

/* A read is sent: notes in floor[sector_cnt] what it must at least see. */
void obd_model_start_read(const struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			  uint32_t *floor);
/* One sector that was read. */
enum obd_verdict obd_model_check(struct obd_model *model, uint64_t lba, uint32_t floor,
				 const uint8_t *sector);
/* What was expected of that sector and what was found instead, in words. */
void obd_model_describe(const struct obd_model *model, uint64_t lba, uint32_t floor,
			const uint8_t *sector, char *text, size_t space);

#endif
