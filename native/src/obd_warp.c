#include "obd_warp.h"

#include <fcntl.h>
#include <stdlib.h>

static int open_gzip(struct obd_warp *warp, const char *index_path, struct obd_errinfo *info)
{
	bool is_gzip = false;
	int rc;

	warp->size_bytes = warp->file.size_bytes;
	if (index_path) {
		rc = obd_gzip_create(&warp->file, index_path, info, &warp->gzip);
		if (!rc)
			warp->size_bytes = obd_gzip_size_bytes(warp->gzip);
		return rc;
	}
	rc = obd_gzip_detect(&warp->file, info, &is_gzip);
	if (!rc && is_gzip)
		rc = obd_fail(info, OBD_E_INVAL, warp->file.path, "tar.gz without its gzip index");
	return rc;
}

int obd_warp_create(const char *path, const char *index_path, struct obd_errinfo *info,
		    struct obd_warp **ret)
{
	struct obd_warp *warp = calloc(1, sizeof(*warp));
	int rc;

	if (!warp)
		return obd_fail(info, OBD_E_NOMEM, path, "target");
	rc = obd_file_open(path, O_RDONLY, info, &warp->file);
	if (rc) {
		free(warp);
		return rc;
	}
	rc = open_gzip(warp, index_path, info);
	if (rc) {
		obd_warp_destroy(warp);
		return rc;
	}
	*ret = warp;
	return 0;
}

void obd_warp_destroy(struct obd_warp *warp)
{
	if (!warp)
		return;
	obd_gzip_destroy(warp->gzip);
	obd_file_close(&warp->file);
	free(warp);
}
