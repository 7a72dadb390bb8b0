/* What the parts of applying share: names (_path.c), removing (_remove.c), making (_make.c). */
#ifndef OBD_APPLY_INTERNAL_H
#define OBD_APPLY_INTERNAL_H

#include "obd_apply.h"
#include "obd_ext4.h"
#include "obd_ext4_dirs.h"
#include "obd_tar.h"

#define OBD_APPLY_NOT_FOUND 1 /* of look-ups; not an error by itself */

struct obd_apply_run {
	struct obd_ext4 *ext4;
	struct obd_tar *tar;
	struct obd_progress *progress;
	struct obd_errinfo *info;
	struct obd_apply_result *result;
};

/* A place for a name; `name` points into the path it was found with. length 0: the directory
 * itself, which is the root. */
struct obd_apply_place {
	ext2_ino_t dir_ino;
	struct obd_ext4_dir *dir;
	const char *name;
	size_t length;
};

/* A failure that is about the present entry. */
int obd_apply_refuse(struct obd_apply_run *run, int code, const char *what, const char *detail);

/* ---- path ---- */

/*
 * A name without what means nothing: slashes around and between, "."; "" is the root. Refuses ".."
 * and what is too long. *ret is the caller's to free.
 */
int obd_apply_clean(struct obd_apply_run *run, const char *path, char **ret);
/* A directory, which must be in `parent`: in a damaged file system it can be in two. */
int obd_apply_get_dir(struct obd_apply_run *run, ext2_ino_t ino, ext2_ino_t parent,
		      struct obd_ext4_dir **ret);
/* Path is a clean one. Walks to the last name's directory; makes what is missing, or says
 * OBD_APPLY_NOT_FOUND. */
int obd_apply_walk(struct obd_apply_run *run, const char *path, bool will_create,
		   struct obd_apply_place *ret);

/* ---- remove ---- */

int obd_apply_remove(struct obd_apply_run *run, const struct obd_apply_place *place,
		     struct obd_ext4_name *name);
/* Everything in a directory that this tar did not bring. */
int obd_apply_remove_lower(struct obd_apply_run *run, ext2_ino_t dir_ino);

/* ---- make ---- */

/* An empty directory of root's, 0755, of 1970. */
int obd_apply_make_parent(struct obd_apply_run *run, const struct obd_apply_place *place,
			  ext2_ino_t *ret);
/* The inode of an entry that is no hard link, under its name, with its data. */
int obd_apply_make(struct obd_apply_run *run, const struct obd_apply_place *place,
		   const struct obd_tar_entry *entry);
int obd_apply_link(struct obd_apply_run *run, const struct obd_apply_place *place,
		   ext2_ino_t target, uint8_t type, const struct obd_tar_entry *entry);
/* Owner, mode, times; and extended attributes, when `with_xattrs`, instead of the old ones. */
int obd_apply_set_attributes(struct obd_apply_run *run, ext2_ino_t ino,
			     const struct obd_tar_entry *entry, bool with_xattrs);

#endif
