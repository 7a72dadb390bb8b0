#include "obd_tarwrap.h"

#include <stdbool.h>
#include <string.h>

#define TAR_BLOCK      512u
#define SIZE_AT	       124u
#define SIZE_LENGTH    12u
#define CHECKSUM_AT    148u
#define CHECKSUM_END   156u
#define TYPE_AT	       156u
#define MAGIC_AT       257u
#define PAX_BASE_BYTES 1536u

static bool parse_octal(const uint8_t *at, size_t length, uint64_t *ret)
{
	uint64_t value = 0;
	size_t i = 0;

	while (i < length && at[i] == ' ')
		i++;
	for (; i < length && at[i] >= '0' && at[i] <= '7'; i++)
		value = value << 3 | (uint64_t)(at[i] - '0'); /* 12 digits: 36 bits at most */
	for (; i < length; i++)
		if (at[i] != 0 && at[i] != ' ')
			return false;
	*ret = value;
	return true;
}

static bool is_tar_header(const uint8_t *block)
{
	uint64_t stored;
	uint64_t sum = 0;

	if (memcmp(block + MAGIC_AT,
		   "ustar\0"
		   "00",
		   8) != 0)
		return false;
	if (!parse_octal(block + CHECKSUM_AT, CHECKSUM_END - CHECKSUM_AT, &stored))
		return false;
	for (uint32_t i = 0; i < TAR_BLOCK; i++)
		sum += i >= CHECKSUM_AT && i < CHECKSUM_END ? ' ' : block[i];
	return sum == stored;
}

/* Looks for "<length> size=<decimal>\n" among the pax records. */
static bool parse_pax_size(const uint8_t *at, size_t length, uint64_t *ret)
{
	size_t pos = 0;

	while (pos < length && at[pos] >= '0' && at[pos] <= '9') {
		size_t record = 0;
		size_t i = pos;
		uint64_t size = 0;

		for (; i < length && at[i] >= '0' && at[i] <= '9'; i++) {
			record = record * 10 + (size_t)(at[i] - '0');
			if (record > length)
				return false;
		}
		if (i >= length || at[i] != ' ' || record <= i + 1 - pos || record > length - pos)
			return false;
		if (pos + record - i > 6 && memcmp(at + i, " size=", 6) == 0) {
			for (i += 6; i < pos + record && at[i] >= '0' && at[i] <= '9'; i++)
				if (__builtin_mul_overflow(size, 10, &size) ||
				    __builtin_add_overflow(size, (uint64_t)(at[i] - '0'), &size))
					return false;
			if (i != pos + record - 1 || at[i] != '\n')
				return false;
			*ret = size;
			return true;
		}
		pos += record;
	}
	return false;
}

int obd_tarwrap_enter(struct obd_file *file, struct obd_errinfo *info)
{
	uint8_t head[PAX_BASE_BYTES];
	uint64_t base = TAR_BLOCK;
	uint64_t size = 0;
	bool known;
	int rc;

	if (file->size_bytes < TAR_BLOCK)
		return 0;
	rc = obd_file_read_buffer(file, 0, head, TAR_BLOCK, 0, info);
	if (rc)
		return rc;
	if (!is_tar_header(head))
		return 0;
	known = parse_octal(head + SIZE_AT, SIZE_LENGTH, &size);
	if (head[TYPE_AT] == 'x') {
		uint64_t record_bytes = size;

		base = PAX_BASE_BYTES;
		if (file->size_bytes < base)
			return obd_fail_value(info, OBD_E_SHORT, file->path, "tar pax header", 0,
					      base, file->size_bytes);
		rc = obd_file_read_buffer(file, 0, head, sizeof(head), 0, info);
		if (rc)
			return rc;
		if (!known || record_bytes > TAR_BLOCK)
			return obd_fail_value(info, OBD_E_FORMAT, file->path, "tar pax size",
					      SIZE_AT, TAR_BLOCK, record_bytes);
		if (!is_tar_header(head + 2 * TAR_BLOCK))
			return obd_fail_value(info, OBD_E_FORMAT, file->path,
					      "tar header after pax", 2 * TAR_BLOCK, 0, 0);
		if (!parse_pax_size(head + TAR_BLOCK, (size_t)record_bytes, &size))
			known = parse_octal(head + 2 * TAR_BLOCK + SIZE_AT, SIZE_LENGTH, &size);
	}
	if (!known)
		return obd_fail_value(info, OBD_E_FORMAT, file->path, "tar size field", SIZE_AT, 0,
				      0);
	if (size > file->size_bytes - base)
		return obd_fail_value(info, OBD_E_SHORT, file->path, "tar payload", base, size,
				      file->size_bytes - base);
	file->base_bytes += base;
	file->size_bytes = size;
	return 0;
}
