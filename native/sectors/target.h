/* The block device or file under test. All functions may be called from any thread. */
#ifndef OBD_SECTORS_TARGET_H
#define OBD_SECTORS_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#define OBD_TARGET_SECTOR_BYTES 512u
#define OBD_TARGET_ALIGN_BYTES	4096u /* of buffers */

struct obd_target {
	int fd;
	bool is_block;
	bool is_direct;
	uint64_t size_bytes;
	uint64_t offset_bytes; /* added to every position */
	uint32_t unit_sectors; /* positions and lengths are multiples of it */
};

/* Opens it with O_DIRECT unless is_buffered; a block device that is written exclusively, so that
 * one that is mounted is refused. Returns 0 or a negative errno, with a sentence in problem[256].
 */
int obd_target_open(struct obd_target *target, const char *path, bool is_read_only,
		    bool is_buffered, char *problem);
void obd_target_close(struct obd_target *target);

/* Return 0 or a negative errno; -ENODATA: fewer bytes than asked for. at_bytes without offset. */
int obd_target_read(const struct obd_target *target, uint64_t at_bytes, uint32_t bytes,
		    uint8_t *data);
int obd_target_write(const struct obd_target *target, uint64_t at_bytes, uint32_t bytes,
		     const uint8_t *data, bool is_fua);
/* Sectors read as zeros afterwards. */
int obd_target_discard(const struct obd_target *target, uint64_t at_bytes, uint64_t bytes);
int obd_target_flush(const struct obd_target *target);
/* What the page cache holds of it goes: the next read asks the device. */
int obd_target_drop_cache(const struct obd_target *target);

#endif
