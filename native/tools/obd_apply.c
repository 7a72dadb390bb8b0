/* Entry after entry: what each one means for the file system. */
#include "obd_apply.h"

#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "obd_apply_internal.h"

#define WHITEOUT      ".wh."
#define WHITEOUT_META ".wh..wh."
#define OPAQUE	      ".wh..wh..opq"

int obd_apply_refuse(struct obd_apply_run *run, int code, const char *what, const char *detail)
{
	if (detail)
		snprintf(run->result->detail, sizeof(run->result->detail), "%s", detail);
	return obd_fail(run->info, code, NULL, what);
}

/* ---- whiteouts ---- */

static int apply_whiteout(struct obd_apply_run *run, const struct obd_apply_place *place)
{
	struct obd_ext4_name *name;

	if (!strcmp(place->name, OPAQUE))
		return obd_apply_remove_lower(run, place->dir_ino);
	if (!strncmp(place->name, WHITEOUT_META, strlen(WHITEOUT_META)))
		return 0; /* what AUFS keeps for itself */
	if (place->length == strlen(WHITEOUT))
		return obd_apply_refuse(run, OBD_E_FORMAT, "a whiteout without a name", NULL);
	name = obd_ext4_dir_find(place->dir, place->name + strlen(WHITEOUT),
				 place->length - strlen(WHITEOUT));
	if (!name)
		return 0;
	if (name->is_new) /* this tar's own; but of a directory the rest goes */
		return name->type == EXT2_FT_DIR ? obd_apply_remove_lower(run, name->ino) : 0;
	run->result->removed++;
	return obd_apply_remove(run, place, name);
}

/* ---- hard links ---- */

static int find_target(struct obd_apply_run *run, const char *link, ext2_ino_t *ret, uint8_t *type)
{
	struct obd_ext4_name *name = NULL;
	struct obd_apply_place place;
	char *path;
	int rc = obd_apply_clean(run, link, &path);

	if (rc)
		return rc;
	rc = *path ? obd_apply_walk(run, path, false, &place) : OBD_APPLY_NOT_FOUND;
	if (!rc)
		name = obd_ext4_dir_find(place.dir, place.name, place.length);
	if (rc >= 0 && !name)
		rc = obd_apply_refuse(run, OBD_E_FORMAT, "a hard link to what is not there", link);
	else if (!rc && name->type == EXT2_FT_DIR)
		rc = obd_apply_refuse(run, OBD_E_FORMAT, "a hard link to a directory", link);
	free(path);
	if (rc)
		return rc;
	*ret = name->ino;
	*type = name->type;
	return 0;
}

static int apply_hard_link(struct obd_apply_run *run, const struct obd_apply_place *place,
			   const struct obd_tar_entry *entry)
{
	struct obd_ext4_name *old;
	ext2_ino_t target;
	uint8_t type;
	int rc = find_target(run, entry->link, &target, &type);

	if (rc)
		return rc;
	old = obd_ext4_dir_find(place->dir, place->name, place->length);
	if (old && old->ino == target) {
		old->is_new = 1;
		return obd_apply_set_attributes(run, target, entry, false);
	}
	if (old)
		rc = obd_apply_remove(run, place, old);
	/* it may have been the target's directory */
	if (!rc && old)
		rc = find_target(run, entry->link, &target, &type);
	return rc ? rc : obd_apply_link(run, place, target, type, entry);
}

/* ---- entries ---- */

static int apply_other(struct obd_apply_run *run, const struct obd_apply_place *place,
		       const struct obd_tar_entry *entry)
{
	struct obd_ext4_name *old = obd_ext4_dir_find(place->dir, place->name, place->length);
	int rc;

	if (old && old->type == EXT2_FT_DIR && LINUX_S_ISDIR(entry->mode)) {
		old->is_new = 1;
		return obd_apply_set_attributes(run, old->ino, entry, true);
	}
	rc = old ? obd_apply_remove(run, place, old) : 0;
	return rc ? rc : obd_apply_make(run, place, entry);
}

static int apply_at(struct obd_apply_run *run, const char *path, const struct obd_tar_entry *entry)
{
	const char *slash = strrchr(path, '/');
	bool is_whiteout = !strncmp(slash ? slash + 1 : path, WHITEOUT, strlen(WHITEOUT));
	struct obd_apply_place place;
	int rc;

	if (!*path) {
		if (entry->is_hard_link || !LINUX_S_ISDIR(entry->mode))
			return obd_apply_refuse(run, OBD_E_FORMAT,
						"the root of the image must be a directory", NULL);
		return obd_apply_set_attributes(run, EXT2_ROOT_INO, entry, true);
	}
	rc = obd_apply_walk(run, path, !is_whiteout, &place);
	if (rc == OBD_APPLY_NOT_FOUND)
		return 0; /* a whiteout where there is nothing */
	if (rc)
		return rc;
	if (is_whiteout)
		return apply_whiteout(run, &place);
	return entry->is_hard_link ? apply_hard_link(run, &place, entry)
				   : apply_other(run, &place, entry);
}

static int apply_entry(struct obd_apply_run *run, const struct obd_tar_entry *entry)
{
	char *path;
	int rc;

	if (obd_progress_is_cancelled(run->progress))
		return obd_fail(run->info, OBD_E_CANCELLED, NULL, "cancelled");
	rc = obd_apply_clean(run, entry->name, &path);
	if (rc)
		return rc;
	rc = apply_at(run, path, entry);
	free(path);
	return rc;
}

static int apply_entries(struct obd_apply_run *run)
{
	struct obd_apply_result *result = run->result;
	struct obd_tar_entry entry;
	int rc;

	do {
		rc = obd_tar_next(run->tar, run->info, &entry);
		result->entry_offset = entry.offset;
		snprintf(result->entry, sizeof(result->entry), "%s", entry.name ? entry.name : "");
		if (rc <= 0)
			return rc;
		rc = apply_entry(run, &entry);
		result->entries++;
	} while (!rc);
	return rc;
}

/* ---- the whole ---- */

static int apply_tar(struct obd_apply_run *run, const struct obd_apply_options *options)
{
	int rc = apply_entries(run);

	if (!rc)
		rc = obd_tar_finish(run->tar, run->info);
	if (!rc && options->digest) {
		obd_tar_digest(run->tar, run->result->digest);
		if (options->has_expected &&
		    memcmp(run->result->digest, options->expected, sizeof(options->expected)) != 0)
			rc = obd_fail(run->info, OBD_E_CHECKSUM, NULL,
				      "sha256 of the uncompressed tar is another one");
	}
	if (!rc)
		rc = obd_ext4_commit(run->ext4, run->info);
	return rc;
}

static int apply_to(struct obd_image *image, int data_fd, const struct obd_apply_options *options,
		    struct obd_progress *progress, struct obd_errinfo *info,
		    struct obd_apply_result *result)
{
	struct obd_apply_run run = {.progress = progress, .info = info, .result = result};
	int rc = options->mkfs ? obd_ext4_mkfs(image, info, &run.ext4)
			       : obd_ext4_open(image, true, info, &run.ext4);

	if (!rc)
		rc = obd_tar_create(options->tar_fd, options->tar_path, options->digest, progress,
				    info, &run.tar);
	if (!rc) {
		obd_ext4_io_write_behind(run.ext4->io, data_fd);
		rc = apply_tar(&run, options);
	}
	obd_tar_destroy(run.tar);
	obd_ext4_close(run.ext4);
	return rc;
}

int obd_apply(const struct obd_image_spec *spec, const struct obd_apply_options *options,
	      struct obd_progress *progress, struct obd_errinfo *info, struct obd_apply_result *ret)
{
	/* libarchive converts names to the locale's character set: to what they are in */
	locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
	locale_t before = utf8 ? uselocale(utf8) : (locale_t)0;
	struct obd_image *image;
	int rc;

	memset(ret, 0, sizeof(*ret));
	rc = obd_image_create(spec, info, &image);
	if (!rc) {
		/* without it the data goes to the disk in the end, all at once */
		int data_fd = spec->upper_data ? open(spec->upper_data, O_RDONLY | O_CLOEXEC) : -1;

		rc = apply_to(image, data_fd, options, progress, info, ret);
		if (data_fd >= 0)
			close(data_fd);
		obd_image_destroy(image);
	}
	if (utf8) {
		uselocale(before);
		freelocale(utf8);
	}
	return rc;
}

int obd_apply_mkfs(const struct obd_image_spec *spec, struct obd_errinfo *info)
{
	struct obd_ext4 *ext4 = NULL;
	struct obd_image *image;
	int rc = obd_image_create(spec, info, &image);

	if (rc)
		return rc;
	rc = obd_ext4_mkfs(image, info, &ext4);
	if (!rc)
		rc = obd_ext4_commit(ext4, info);
	obd_ext4_close(ext4);
	obd_image_destroy(image);
	return rc;
}
