#include "obd_cursor.h"

#include <string.h>

uint64_t obd_iov_bytes(const struct iovec *iov, uint32_t iov_cnt)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < iov_cnt; i++)
		if (__builtin_add_overflow(sum, (uint64_t)iov[i].iov_len, &sum))
			return UINT64_MAX;
	return sum;
}

static void settle(struct obd_cursor *cursor)
{
	while (cursor->iov_cnt && cursor->done == cursor->iov->iov_len) {
		cursor->iov++;
		cursor->iov_cnt--;
		cursor->done = 0;
	}
}

void *obd_cursor_contiguous(struct obd_cursor *cursor, size_t length)
{
	settle(cursor);
	if (!cursor->iov_cnt || cursor->iov->iov_len - cursor->done < length)
		return NULL;
	return (uint8_t *)cursor->iov->iov_base + cursor->done;
}

/* The next piece of contiguous memory, at most `length` bytes; moves past it. */
static uint8_t *take(struct obd_cursor *cursor, uint64_t length, size_t *ret_length)
{
	uint8_t *at;
	size_t room;

	settle(cursor);
	if (!cursor->iov_cnt)
		return NULL;
	room = cursor->iov->iov_len - cursor->done;
	at = (uint8_t *)cursor->iov->iov_base + cursor->done;
	*ret_length = room < length ? room : (size_t)length;
	cursor->done += *ret_length;
	return at;
}

void obd_cursor_skip(struct obd_cursor *cursor, uint64_t length)
{
	size_t piece;

	while (length && take(cursor, length, &piece))
		length -= piece;
}

void obd_cursor_put(struct obd_cursor *cursor, const void *data, size_t length)
{
	const uint8_t *from = data;
	uint8_t *to;
	size_t piece;

	while (length && (to = take(cursor, length, &piece))) {
		memcpy(to, from, piece);
		from += piece;
		length -= piece;
	}
}

void obd_cursor_put_zeros(struct obd_cursor *cursor, uint64_t length)
{
	uint8_t *to;
	size_t piece;

	while (length && (to = take(cursor, length, &piece))) {
		memset(to, 0, piece);
		length -= piece;
	}
}

size_t obd_cursor_slice(const struct obd_cursor *cursor, uint64_t length, struct iovec *slot,
			uint32_t slots, uint32_t *ret_cnt)
{
	struct obd_cursor at = *cursor;
	size_t sum = 0;
	size_t piece;
	uint8_t *to;

	*ret_cnt = 0;
	while (length && *ret_cnt < slots && (to = take(&at, length, &piece))) {
		slot[*ret_cnt].iov_base = to;
		slot[*ret_cnt].iov_len = piece;
		(*ret_cnt)++;
		sum += piece;
		length -= piece;
	}
	return sum;
}
