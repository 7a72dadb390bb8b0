/* Names of a tar to places in the image. */
#include <stdlib.h>
#include <string.h>

#include "obd_apply_internal.h"

#define MAX_PATH_BYTES 65536u
#define MAX_SYMLINKS   40u

static size_t component(const char *path)
{
	return strcspn(path, "/");
}

int obd_apply_clean(struct obd_apply_run *run, const char *path, char **ret)
{
	size_t length = strnlen(path, MAX_PATH_BYTES);
	char *clean;
	char *to;

	if (length == MAX_PATH_BYTES)
		return obd_apply_refuse(run, OBD_E_FORMAT, "name of 64 KiB and more", NULL);
	clean = malloc(length + 1);
	if (!clean)
		return obd_fail(run->info, OBD_E_NOMEM, NULL, "path");
	to = clean;
	for (const char *at = path + strspn(path, "/"); *at; at += strspn(at, "/")) {
		const char *what = NULL;

		length = component(at);
		if (length == 2 && !memcmp(at, "..", 2))
			what = "a name with \"..\" could lead out of the image";
		else if (length > EXT2_NAME_LEN)
			what = "a part of the name is longer than 255 bytes";
		if (what) {
			free(clean);
			return obd_apply_refuse(run, OBD_E_FORMAT, what, path);
		}
		if (length != 1 || *at != '.') {
			if (to != clean)
				*to++ = '/';
			memcpy(to, at, length);
			to += length;
		}
		at += length;
	}
	*to = 0;
	*ret = clean;
	return 0;
}

int obd_apply_get_dir(struct obd_apply_run *run, ext2_ino_t ino, ext2_ino_t parent,
		      struct obd_ext4_dir **ret)
{
	int rc = obd_ext4_dirs_get(run->ext4->dirs, ino, run->info, ret);

	if (!rc && obd_ext4_dir_parent(*ret) != parent)
		rc = obd_fail_value(run->info, OBD_E_FORMAT, NULL,
				    "parent of a directory (run e2fsck); its inode", ino, parent,
				    obd_ext4_dir_parent(*ret));
	return rc;
}

/* The walk's state: what is left of the path, links replaced by their targets. */
struct walk {
	char *owned; /* the rest after a symlink; NULL: still the path itself */
	const char *rest;
	ext2_ino_t ino;
	struct obd_ext4_dir *dir;
	uint32_t links;
};

static int enter(struct obd_apply_run *run, struct walk *walk, ext2_ino_t ino)
{
	int rc = obd_ext4_dirs_get(run->ext4->dirs, ino, run->info, &walk->dir);

	walk->ino = ino;
	return rc;
}

static int follow(struct obd_apply_run *run, struct walk *walk, ext2_ino_t link)
{
	char *target;
	char *rest;
	size_t length;
	int rc;

	if (++walk->links > MAX_SYMLINKS)
		return obd_apply_refuse(run, OBD_E_FORMAT, "more than 40 symlinks on the way",
					NULL);
	rc = obd_ext4_read_link(run->ext4, link, run->info, &target, &length);
	if (rc)
		return rc;
	rest = malloc(length + strlen(walk->rest) + 2);
	if (!rest) {
		free(target);
		return obd_fail(run->info, OBD_E_NOMEM, NULL, "path");
	}
	memcpy(rest, target, length);
	rest[length] = '/';
	strcpy(rest + length + 1, walk->rest);
	free(walk->owned);
	walk->owned = rest;
	walk->rest = rest;
	rc = *target == '/' ? enter(run, walk, EXT2_ROOT_INO) : 0;
	free(target);
	return rc;
}

/* One directory further down, or up. */
static int step(struct obd_apply_run *run, struct walk *walk, const char *name, size_t length,
		bool will_create)
{
	struct obd_ext4_name *found;
	ext2_ino_t ino;
	int rc;

	if (length == 1 && *name == '.')
		return 0;
	if (length == 2 && !memcmp(name, "..", 2)) {
		ino = walk->ino == EXT2_ROOT_INO ? walk->ino : obd_ext4_dir_parent(walk->dir);
		return enter(run, walk, ino);
	}
	if (length > EXT2_NAME_LEN) /* of a symlink's target */
		return will_create ? obd_apply_refuse(run, OBD_E_FORMAT,
						      "a symlink on the way names what can not be",
						      NULL)
				   : OBD_APPLY_NOT_FOUND;
	found = obd_ext4_dir_find(walk->dir, name, length);
	if (!found && !will_create)
		return OBD_APPLY_NOT_FOUND;
	if (!found) {
		const struct obd_apply_place place = {walk->ino, walk->dir, name, length};

		rc = obd_apply_make_parent(run, &place, &ino);
		return rc ? rc : enter(run, walk, ino);
	}
	if (found->type == EXT2_FT_SYMLINK)
		return follow(run, walk, found->ino);
	if (found->type != EXT2_FT_DIR)
		return will_create
			       ? obd_apply_refuse(run, OBD_E_FORMAT,
						  "lies below something that is no directory", NULL)
			       : OBD_APPLY_NOT_FOUND;
	if (will_create)
		found->is_new = 1; /* an opaque whiteout above it must not take it away */
	ino = found->ino;
	rc = obd_apply_get_dir(run, ino, walk->ino, &walk->dir);
	walk->ino = ino;
	return rc;
}

int obd_apply_walk(struct obd_apply_run *run, const char *path, bool will_create,
		   struct obd_apply_place *ret)
{
	const char *slash = strrchr(path, '/');
	const char *last = slash ? slash + 1 : path;
	struct walk walk = {.rest = path};
	int rc = enter(run, &walk, EXT2_ROOT_INO);

	while (!rc) {
		size_t length;

		walk.rest += strspn(walk.rest, "/");
		length = component(walk.rest);
		if (!walk.rest[length])
			break; /* the last one, and that is never of a link's target */
		walk.rest += length;
		rc = step(run, &walk, walk.rest - length, length, will_create);
	}
	if (!rc)
		*ret = (struct obd_apply_place){walk.ino, walk.dir, last, strlen(last)};
	free(walk.owned);
	return rc;
}
