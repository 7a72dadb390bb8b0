/*
 * A writable pair of any content: opened, written to, opened again, which must give what was
 * written. Input: length of the index file (u16, little-endian), index file, data file.
 */
#include "fuzz_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t marks[3 * OBD_SECTOR_BYTES];
	static uint8_t back[sizeof(marks)];
	struct iovec iov = {.iov_base = marks, .iov_len = sizeof(marks)};
	struct iovec again = {.iov_base = back, .iov_len = sizeof(back)};
	char data_path[64];
	char index_path[64];
	struct obd_image_spec spec = {.upper_data = data_path, .upper_index = index_path};
	struct obd_errinfo info;
	struct obd_image *image;
	uint64_t reserved = 0;
	size_t index_length;
	int index_fd;
	int data_fd;

	if (size < 2)
		return 0;
	index_length = (size_t)data[0] | (size_t)data[1] << 8;
	index_length = index_length < size - 2 ? index_length : size - 2;
	index_fd = fuzz_file(data + 2, index_length, index_path);
	data_fd = fuzz_file(data + 2 + index_length, size - 2 - index_length, data_path);
	memset(marks, 0x5a, sizeof(marks));
	if (obd_image_create(&spec, &info, &image) == 0) {
		fuzz_read(image);
		if (obd_image_start_writing(image, &reserved, &info))
			abort(); /* what opens can be written to */
		if (obd_image_virtual_size_bytes(image) >= sizeof(marks)) {
			if (obd_image_write(image, 0, 3, &iov, 1, 0, &info))
				abort();
			if (obd_image_discard(image, 1, 1, &info))
				abort();
			obd_image_destroy(image);
			memset(marks + OBD_SECTOR_BYTES, 0, OBD_SECTOR_BYTES);
			if (obd_image_create(&spec, &info, &image))
				abort();
			if (obd_image_read(image, 0, 3, &again, 1, 0, &info) ||
			    memcmp(marks, back, sizeof(marks)) != 0)
				abort();
		}
		obd_image_destroy(image);
	}
	close(index_fd);
	close(data_fd);
	return 0;
}
