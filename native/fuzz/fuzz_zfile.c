/* A ZFile (or a tar with one) of any content: header, trailer, jump table, blocks. */
#include "fuzz_image.h"

#include <fcntl.h>

#include "obd_tarwrap.h"
#include "obd_zfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t buffer[1 << 18];
	struct obd_zfile *zfile;
	struct obd_file file;
	struct obd_errinfo info;
	char path[64];
	int fd = fuzz_file(data, size, path);

	if (obd_file_open(path, O_RDONLY, &info, &file))
		abort();
	if (obd_tarwrap_enter(&file, &info) == 0 && obd_zfile_create(&file, &info, &zfile) == 0) {
		uint64_t bytes = obd_zfile_size_bytes(zfile);

		if (obd_zfile_memory_bytes(zfile) > 4096 + size * 2)
			abort(); /* more than the file's own table justifies */
		for (uint64_t at = 0; at < bytes && at < 4 * sizeof(buffer);
		     at += sizeof(buffer) - 77) {
			uint64_t left = bytes - at;
			uint64_t length = left < sizeof(buffer) ? left : sizeof(buffer);
			struct iovec iov[2] = {
				{.iov_base = buffer, .iov_len = length / 3},
				{.iov_base = buffer + length / 3, .iov_len = length - length / 3}};
			struct obd_cursor cursor;

			obd_cursor_init(&cursor, iov, 2);
			(void)obd_zfile_read(zfile, at, length, &cursor, 0, &info);
		}
		obd_zfile_destroy(zfile);
	}
	obd_file_close(&file);
	close(fd);
	return 0;
}
