/*
 * faultfs SOURCE MOUNT SOCKET: one folder seen through a file system that can be told to be slow,
 * silent or broken. For chaos runs: sealed layers lie in SOURCE, workers open them below MOUNT.
 *
 * Read-only and flat as far as names of rules go. Nothing is cached by the kernel (direct I/O):
 * each read of a worker is a read here. Ends when it is unmounted.
 */
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control.h"
#include "rules.h"

static int source_fd = -1;
static const char *socket_path;

/* FUSE's paths start with a slash; ours are relative to the source folder. */
static const char *below(const char *path)
{
	return path[1] ? path + 1 : ".";
}

static const char *name_of(const char *path)
{
	return strrchr(path, '/') + 1;
}

static int get_attributes(const char *path, struct stat *ret, struct fuse_file_info *file)
{
	(void)file;
	return fstatat(source_fd, below(path), ret, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int read_folder(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
		       struct fuse_file_info *file, enum fuse_readdir_flags flags)
{
	int fd = openat(source_fd, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *folder = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	(void)offset;
	(void)file;
	(void)flags;
	if (!folder)
		return -errno;
	while ((entry = readdir(folder)))
		fill(buffer, entry->d_name, NULL, 0, 0);
	closedir(folder);
	return 0;
}

static int open_file(const char *path, struct fuse_file_info *file)
{
	int fd;

	if ((file->flags & O_ACCMODE) != O_RDONLY)
		return -EROFS;
	fd = openat(source_fd, below(path), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	file->fh = (uint64_t)fd;
	file->direct_io = 1;
	return 0;
}

static int read_file(const char *path, char *buffer, size_t size, off_t offset,
		     struct fuse_file_info *file)
{
	int err = faultfs_rules_apply(name_of(path), offset, size);
	ssize_t bytes;

	if (err)
		return err;
	bytes = pread((int)file->fh, buffer, size, offset);
	return bytes < 0 ? -errno : (int)bytes;
}

static int release_file(const char *path, struct fuse_file_info *file)
{
	(void)path;
	return close((int)file->fh);
}

/* Here, not in main(): a thread that is started before the mount would not see its end. */
static void *init(struct fuse_conn_info *connection, struct fuse_config *config)
{
	int err = faultfs_control_start(socket_path);

	(void)connection;
	config->attr_timeout = 0;
	config->entry_timeout = 0;
	if (err) {
		fprintf(stderr, "faultfs: control socket %s: %s\n", socket_path, strerror(-err));
		exit(1);
	}
	return NULL;
}

static const struct fuse_operations operations = {
	.init = init,
	.getattr = get_attributes,
	.readdir = read_folder,
	.open = open_file,
	.read = read_file,
	.release = release_file,
};

int main(int argc, char **argv)
{
	char *arguments[] = {argv[0], argc > 2 ? argv[2] : NULL, "-f", "-o", "allow_other",
			     "-o",    "max_threads=64"};

	if (argc != 4) {
		fprintf(stderr, "usage: faultfs SOURCE MOUNT SOCKET\n");
		return 2;
	}
	source_fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (source_fd < 0) {
		fprintf(stderr, "faultfs: folder %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	socket_path = argv[3];
	return fuse_main((int)(sizeof(arguments) / sizeof(*arguments)), arguments, &operations,
			 NULL);
}
