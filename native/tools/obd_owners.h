/* Which files of an image's ext4 have blocks in some parts of its disk. */
#ifndef OBD_OWNERS_H
#define OBD_OWNERS_H

#include <stddef.h>
#include <stdint.h>

#include "obd_disk.h"
#include "obd_image.h"

struct obd_owner {
	uint32_t ino;
	uint32_t reserved;
	uint64_t bytes; /* of its blocks in the ranges; blocks of its extent tree count, too */
};

/*
 * `ranges` are in order and disjoint. *ret: in the order of inodes; free it with obd_owners_free.
 * OBD_E_FORMAT: no ext4, or one that is damaged where its inodes are.
 */
int obd_owners_find(const struct obd_image_spec *spec, const struct obd_disk_range *ranges,
		    size_t cnt, struct obd_errinfo *info, struct obd_owner **ret, size_t *ret_cnt);
void obd_owners_free(struct obd_owner *owners);

#endif
