/*
 * Two readers of libarchive, one behind the other: the first takes compression off, the second
 * takes the tar apart. So the uncompressed stream passes through our hands: to digest it, and to
 * read it on behind the end of the tar.
 */
#include "obd_tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define CHUNK_BYTES (1u << 20)

struct obd_tar {
	int fd;
	char *path;
	struct obd_progress *progress;
	struct archive *plain; /* the stream without compression; NULL: it is gzip */
	struct archive *tar;
	struct archive_entry *entry;
	EVP_MD_CTX *digest; /* NULL: not wanted */
	uint8_t *chunk;
	size_t peeked; /* bytes of the chunk that were read to see what it is */
	z_stream gzip;
	uint8_t *inflated;
	bool is_in_member;
	bool is_at_end;
	const char *damage; /* of the gzip stream */
	int read_errno;
};

static int fail(struct obd_tar *tar, struct archive *archive, const char *what,
		struct obd_errinfo *info)
{
	const char *text = archive ? archive_error_string(archive) : tar->damage;

	if (obd_progress_is_cancelled(tar->progress))
		return obd_fail(info, OBD_E_CANCELLED, tar->path, "cancelled");
	if (tar->read_errno)
		return obd_fail_errno(info, OBD_E_IO, tar->read_errno, tar->path, "read");
	if (archive && archive_errno(archive) == ENOMEM)
		return obd_fail(info, OBD_E_NOMEM, tar->path, what);
	return obd_fail(info, OBD_E_FORMAT, tar->path, text ? text : what);
}

/* ---- the file ---- */

/* The file's next bytes into the chunk: how many, 0 at its end, -1 and read_errno. */
static ssize_t read_some(struct obd_tar *tar, size_t behind)
{
	ssize_t got;

	do {
		got = read(tar->fd, tar->chunk + behind, CHUNK_BYTES - behind);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		tar->read_errno = errno;
	else
		obd_progress_add(tar->progress, (uint64_t)got);
	return got;
}

/* The next bytes of the file, in the chunk; the first time those that were peeked at. */
static ssize_t next_chunk(struct obd_tar *tar)
{
	ssize_t got = (ssize_t)tar->peeked;

	if (obd_progress_is_cancelled(tar->progress))
		return -1;
	tar->peeked = 0;
	return got ? got : read_some(tar, 0);
}

static la_ssize_t read_file(struct archive *archive, void *context, const void **ret)
{
	struct obd_tar *tar = context;
	ssize_t got = next_chunk(tar);

	if (got < 0)
		archive_set_error(archive, EIO, "read");
	*ret = tar->chunk;
	return got;
}

/* ---- without compression ---- */

/*
 * Inflates until there is something; members follow each other, and zeros behind the last are
 * padding.
 */
static la_ssize_t next_inflated(struct obd_tar *tar, const void **ret)
{
	z_stream *gzip = &tar->gzip;

	gzip->next_out = tar->inflated;
	gzip->avail_out = CHUNK_BYTES;
	while (gzip->avail_out == CHUNK_BYTES) {
		int rc;

		if (!gzip->avail_in) {
			ssize_t got = next_chunk(tar);

			if (got < 0)
				return -1;
			if (!got) {
				tar->damage = "the gzip stream is cut off";
				return tar->is_in_member ? -1 : 0;
			}
			gzip->next_in = tar->chunk;
			gzip->avail_in = (uInt)got;
		}
		if (!tar->is_in_member) {
			while (gzip->avail_in && !*gzip->next_in) {
				gzip->next_in++;
				gzip->avail_in--;
			}
			if (!gzip->avail_in)
				continue;
			inflateReset(gzip);
			tar->is_in_member = true;
		}
		rc = inflate(gzip, Z_NO_FLUSH);
		if (rc == Z_STREAM_END)
			tar->is_in_member = false;
		else if (rc != Z_OK && rc != Z_BUF_ERROR) {
			tar->damage = gzip->msg ? gzip->msg : "the gzip stream is damaged";
			return -1;
		}
	}
	*ret = tar->inflated;
	return (la_ssize_t)(CHUNK_BYTES - gzip->avail_out);
}

static la_ssize_t next_block(struct obd_tar *tar, const void **ret)
{
	size_t length = 0;
	la_int64_t offset;
	int rc;

	if (!tar->plain)
		return next_inflated(tar, ret);
	do {
		rc = archive_read_data_block(tar->plain, ret, &length, &offset);
	} while (rc == ARCHIVE_OK && !length);
	if (rc == ARCHIVE_EOF)
		return 0;
	return rc == ARCHIVE_OK ? (la_ssize_t)length : -1;
}

/* The next bytes of the plain stream; 0 at its end. */
static la_ssize_t next_plain(struct obd_tar *tar, const void **ret)
{
	la_ssize_t got = tar->is_at_end ? 0 : next_block(tar, ret);

	if (!got)
		tar->is_at_end = true;
	if (got > 0 && tar->digest)
		EVP_DigestUpdate(tar->digest, *ret, (size_t)got);
	return got;
}

static la_ssize_t read_plain(struct archive *archive, void *context, const void **ret)
{
	struct obd_tar *tar = context;
	la_ssize_t got = next_plain(tar, ret);

	if (got < 0)
		archive_set_error(archive, EIO, "%s",
				  tar->plain ? archive_error_string(tar->plain) : tar->damage);
	return got;
}

/* Reads the stream's first bytes; true if they are gzip's. */
static int peek(struct obd_tar *tar, struct obd_errinfo *info, bool *ret)
{
	while (tar->peeked < 2) {
		ssize_t got = read_some(tar, tar->peeked);

		if (got < 0)
			return obd_fail_errno(info, OBD_E_IO, tar->read_errno, tar->path, "read");
		if (!got)
			return obd_fail(info, OBD_E_FORMAT, tar->path,
					"nothing: not even a tar's end");
		tar->peeked += (size_t)got;
	}
	*ret = tar->chunk[0] == 0x1f && tar->chunk[1] == 0x8b;
	return 0;
}

static int open_gzip(struct obd_tar *tar, struct obd_errinfo *info)
{
	archive_read_free(tar->plain);
	tar->plain = NULL;
	tar->inflated = malloc(CHUNK_BYTES);
	if (!tar->inflated || inflateInit2(&tar->gzip, 15 + 16) != Z_OK)
		return obd_fail(info, OBD_E_NOMEM, tar->path, "gzip");
	return 0;
}

static int open_plain(struct obd_tar *tar, struct obd_errinfo *info)
{
	struct archive_entry *entry;
	bool is_gzip = false;
	int rc = peek(tar, info, &is_gzip);

	if (rc)
		return rc;
	if (is_gzip)
		return open_gzip(tar, info);
	archive_read_support_filter_zstd(tar->plain);
	archive_read_support_format_raw(tar->plain);
	rc = archive_read_open(tar->plain, tar, NULL, read_file, NULL);
	if (rc == ARCHIVE_OK)
		rc = archive_read_next_header(tar->plain, &entry);
	return rc == ARCHIVE_OK ? 0 : fail(tar, tar->plain, "read", info);
}

int obd_tar_create(int fd, const char *path, bool with_digest, struct obd_progress *progress,
		   struct obd_errinfo *info, struct obd_tar **ret)
{
	struct obd_tar *tar = calloc(1, sizeof(*tar));
	struct stat status;
	int rc = 0;

	if (!tar)
		return obd_fail(info, OBD_E_NOMEM, path, "tar");
	tar->fd = fd;
	tar->progress = progress;
	tar->path = strdup(path);
	tar->chunk = malloc(CHUNK_BYTES);
	tar->plain = archive_read_new();
	tar->tar = archive_read_new();
	tar->digest = with_digest ? EVP_MD_CTX_new() : NULL;
	if (!tar->path || !tar->chunk || !tar->plain || !tar->tar || (with_digest && !tar->digest))
		rc = obd_fail(info, OBD_E_NOMEM, path, "tar");
	if (!rc && tar->digest && EVP_DigestInit_ex(tar->digest, EVP_sha256(), NULL) != 1)
		rc = obd_fail(info, OBD_E_UNSUPPORTED, path, "SHA-256");
	if (!rc && fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
		obd_progress_total(progress, (uint64_t)status.st_size);
	if (!rc)
		rc = open_plain(tar, info);
	if (!rc) {
		archive_read_support_format_tar(tar->tar);
		if (archive_read_open(tar->tar, tar, NULL, read_plain, NULL) != ARCHIVE_OK)
			rc = fail(tar, tar->tar, "not a tar", info);
	}
	if (rc) {
		obd_tar_destroy(tar);
		return rc;
	}
	*ret = tar;
	return 0;
}

void obd_tar_destroy(struct obd_tar *tar)
{
	if (!tar)
		return;
	archive_read_free(tar->tar);
	archive_read_free(tar->plain);
	if (tar->inflated)
		inflateEnd(&tar->gzip);
	free(tar->inflated);
	EVP_MD_CTX_free(tar->digest);
	free(tar->chunk);
	free(tar->path);
	free(tar);
}

/* ---- entries ---- */

static int take_entry(struct obd_tar *tar, struct obd_errinfo *info, struct obd_tar_entry *ret)
{
	struct archive_entry *entry = tar->entry;
	const char *hard = archive_entry_hardlink(entry);

	*ret = (struct obd_tar_entry){
		.offset = (uint64_t)archive_read_header_position(tar->tar),
		.name = archive_entry_pathname(entry),
		.link = hard ? hard : archive_entry_symlink(entry),
		.is_hard_link = hard != NULL,
		.mode = archive_entry_mode(entry),
		.uid = archive_entry_uid(entry),
		.gid = archive_entry_gid(entry),
		.size_bytes = archive_entry_size(entry),
		.mtime_s = archive_entry_mtime(entry),
		.mtime_ns = (uint32_t)archive_entry_mtime_nsec(entry),
		.device_major = (uint32_t)archive_entry_rdevmajor(entry),
		.device_minor = (uint32_t)archive_entry_rdevminor(entry),
		.extent_cnt = (uint32_t)archive_entry_sparse_reset(entry),
	};
	archive_entry_xattr_reset(entry);
	if (!ret->name)
		return obd_fail(info, OBD_E_FORMAT, tar->path, "entry without a name");
	if (S_ISLNK(ret->mode) && !hard && !ret->link)
		return obd_fail(info, OBD_E_FORMAT, tar->path, "symlink without a target");
	return 1;
}

int obd_tar_next(struct obd_tar *tar, struct obd_errinfo *info, struct obd_tar_entry *ret)
{
	int rc = archive_read_next_header(tar->tar, &tar->entry);

	*ret = (struct obd_tar_entry){.offset = (uint64_t)archive_read_header_position(tar->tar)};
	if (rc == ARCHIVE_EOF)
		return 0;
	if (rc != ARCHIVE_OK) /* also a warning: something would be other than it says */
		return fail(tar, tar->tar, "not a tar", info);
	return take_entry(tar, info, ret);
}

int obd_tar_data(struct obd_tar *tar, struct obd_errinfo *info, const void **ret,
		 size_t *ret_length, uint64_t *ret_offset)
{
	la_int64_t offset = 0;
	int rc = archive_read_data_block(tar->tar, ret, ret_length, &offset);

	*ret_offset = (uint64_t)offset;
	if (rc == ARCHIVE_EOF)
		return 0;
	return rc == ARCHIVE_OK ? 1 : fail(tar, tar->tar, "data", info);
}

bool obd_tar_extent(struct obd_tar *tar, int64_t *ret_offset, int64_t *ret_length)
{
	la_int64_t offset;
	la_int64_t length;

	if (archive_entry_sparse_next(tar->entry, &offset, &length) != ARCHIVE_OK)
		return false;
	*ret_offset = offset;
	*ret_length = length;
	return true;
}

bool obd_tar_xattr(struct obd_tar *tar, const char **ret_name, const void **ret_value,
		   size_t *ret_length)
{
	return archive_entry_xattr_next(tar->entry, ret_name, ret_value, ret_length) == ARCHIVE_OK;
}

int obd_tar_finish(struct obd_tar *tar, struct obd_errinfo *info)
{
	const void *bytes;
	la_ssize_t got;

	do {
		got = next_plain(tar, &bytes);
	} while (got > 0);
	return got < 0 ? fail(tar, tar->plain, "read", info) : 0;
}

void obd_tar_digest(struct obd_tar *tar, uint8_t ret[OBD_TAR_DIGEST_BYTES])
{
	unsigned int length = OBD_TAR_DIGEST_BYTES;

	EVP_DigestFinal_ex(tar->digest, ret, &length);
}
