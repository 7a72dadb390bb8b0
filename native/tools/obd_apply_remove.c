/* Names taken away, with all below them. */
#include <stdlib.h>
#include <string.h>

#include "obd_apply_internal.h"

/* Directories still to be emptied: how deep they are nested is up to whoever made the image. */
struct pending {
	ext2_ino_t *inos;
	size_t cnt;
	size_t room;
};

static int push(struct pending *pending, ext2_ino_t ino)
{
	if (pending->cnt == pending->room) {
		size_t room = pending->room ? pending->room * 2 : 16;
		ext2_ino_t *more = realloc(pending->inos, room * sizeof(*more));

		if (!more)
			return OBD_E_NOMEM;
		pending->inos = more;
		pending->room = room;
	}
	pending->inos[pending->cnt++] = ino;
	return 0;
}

/* One name less for a file; the last one's inode is freed at the end. */
static int unlink_file(struct obd_apply_run *run, ext2_ino_t ino)
{
	struct ext2_inode_large inode;
	int rc;

	if (ino < EXT2_FIRST_INODE(run->ext4->fs->super))
		return obd_fail_value(run->info, OBD_E_FORMAT, NULL, "inode of a name (run e2fsck)",
				      0, EXT2_FIRST_INODE(run->ext4->fs->super), ino);
	rc = obd_ext4_read_inode(run->ext4, ino, &inode, run->info);
	if (rc)
		return rc;
	if (!inode.i_links_count || LINUX_S_ISDIR(inode.i_mode))
		return obd_fail_value(run->info, OBD_E_FORMAT, NULL,
				      "link count of an inode (run e2fsck)", ino, 1,
				      inode.i_links_count);
	inode.i_links_count--;
	rc = obd_ext4_write_inode(run->ext4, ino, &inode, run->info);
	if (!rc && !inode.i_links_count)
		rc = obd_ext4_free_later(run->ext4, ino, run->info);
	return rc;
}

/* Files at once, directories onto `pending`. */
static int remove_one(struct obd_apply_run *run, struct obd_ext4_dir *dir, ext2_ino_t dir_ino,
		      struct obd_ext4_name *name, struct pending *pending)
{
	ext2_ino_t ino = name->ino;
	bool is_dir = name->type == EXT2_FT_DIR;
	struct obd_ext4_dir *child;
	int rc;

	obd_ext4_dir_remove(dir, name);
	if (!is_dir)
		return unlink_file(run, ino);
	rc = obd_apply_get_dir(run, ino, dir_ino, &child);
	if (!rc && push(pending, ino))
		rc = obd_fail(run->info, OBD_E_NOMEM, NULL, "directories to remove");
	return rc;
}

static int empty_pending(struct obd_apply_run *run, struct pending *pending)
{
	int rc = 0;

	while (pending->cnt && !rc) {
		ext2_ino_t ino = pending->inos[--pending->cnt];
		struct obd_ext4_name *names;
		struct obd_ext4_dir *dir;
		size_t cnt;

		rc = obd_ext4_dirs_get(run->ext4->dirs, ino, run->info, &dir);
		if (rc)
			break;
		names = obd_ext4_dir_names(dir, &cnt);
		for (size_t i = 0; i < cnt && !rc; i++)
			if (names[i].ino)
				rc = remove_one(run, dir, ino, &names[i], pending);
		if (!rc)
			rc = obd_ext4_free_later(run->ext4, ino, run->info);
		obd_ext4_dirs_forget(run->ext4->dirs, ino);
	}
	return rc;
}

int obd_apply_remove(struct obd_apply_run *run, const struct obd_apply_place *place,
		     struct obd_ext4_name *name)
{
	struct pending pending = {0};
	int rc = remove_one(run, place->dir, place->dir_ino, name, &pending);

	if (!rc)
		rc = empty_pending(run, &pending);
	free(pending.inos);
	return rc;
}

int obd_apply_remove_lower(struct obd_apply_run *run, ext2_ino_t dir_ino)
{
	struct pending kept = {0}; /* directories that this tar has entries in */
	struct pending gone = {0};
	int rc = push(&kept, dir_ino) ? obd_fail(run->info, OBD_E_NOMEM, NULL, "directories") : 0;

	while (kept.cnt && !rc) {
		ext2_ino_t ino = kept.inos[--kept.cnt];
		struct obd_ext4_name *names;
		struct obd_ext4_dir *dir;
		size_t cnt;

		rc = obd_ext4_dirs_get(run->ext4->dirs, ino, run->info, &dir);
		if (rc)
			break;
		names = obd_ext4_dir_names(dir, &cnt);
		for (size_t i = 0; i < cnt && !rc; i++) {
			struct obd_ext4_dir *child;

			/* e2fsck's, and of no layer */
			if (!names[i].ino ||
			    (ino == EXT2_ROOT_INO && names[i].length == 10 &&
			     !memcmp(obd_ext4_dir_text(dir, &names[i]), "lost+found", 10)))
				continue;
			if (!names[i].is_new) {
				run->result->removed++;
				rc = remove_one(run, dir, ino, &names[i], &gone);
			} else if (names[i].type == EXT2_FT_DIR) {
				rc = obd_apply_get_dir(run, names[i].ino, ino, &child);
				if (!rc && push(&kept, names[i].ino))
					rc = obd_fail(run->info, OBD_E_NOMEM, NULL, "directories");
			}
		}
	}
	if (!rc)
		rc = empty_pending(run, &gone);
	free(kept.inos);
	free(gone.inos);
	return rc;
}
