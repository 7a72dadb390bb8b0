/* A sealed layer of any content, twice in one stack. */
#include "fuzz_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[64];
	int fd = fuzz_file(data, size, path);
	const char *paths[] = {path, path};
	struct obd_image_spec spec = {.lower_paths = paths, .lower_cnt = 2};
	struct obd_errinfo info;
	struct obd_image *image;

	if (obd_image_create(&spec, &info, &image) == 0) {
		fuzz_read(image);
		obd_image_destroy(image);
	}
	close(fd);
	return 0;
}
