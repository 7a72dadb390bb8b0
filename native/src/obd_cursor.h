/*
 * A position in a caller's iovecs: data is put there in order, exactly as many bytes as they hold.
 * The caller guarantees that it never asks for more than obd_cursor_left().
 */
#ifndef OBD_CURSOR_H
#define OBD_CURSOR_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct obd_cursor {
	const struct iovec *iov; /* the current one; borrowed */
	uint32_t iov_cnt;	 /* from the current one on */
	size_t done;		 /* bytes of the current one already filled */
};

static inline void obd_cursor_init(struct obd_cursor *cursor, const struct iovec *iov,
				   uint32_t iov_cnt)
{
	cursor->iov = iov;
	cursor->iov_cnt = iov_cnt;
	cursor->done = 0;
}

/* Sum of the iovecs' lengths, saturating. */
uint64_t obd_iov_bytes(const struct iovec *iov, uint32_t iov_cnt);

/* Where the next `length` bytes go if that is one piece of memory, else NULL. Does not move. */
void *obd_cursor_contiguous(struct obd_cursor *cursor, size_t length);

void obd_cursor_skip(struct obd_cursor *cursor, uint64_t length);
void obd_cursor_put(struct obd_cursor *cursor, const void *data, size_t length);
void obd_cursor_put_zeros(struct obd_cursor *cursor, uint64_t length);

/*
 * The next bytes as iovecs, at most `length` bytes and `slots` entries; *ret_cnt entries are used.
 * Returns the bytes they cover. Does not move.
 */
size_t obd_cursor_slice(const struct obd_cursor *cursor, uint64_t length, struct iovec *slot,
			uint32_t slots, uint32_t *ret_cnt);

#endif
