#include "endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Splits path and opens its directory. */
static int open_directory(struct obd_endpoint *endpoint, const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	char directory[4096];
	int bytes;

	if (!*name || strlen(name) > 64)
		return -EINVAL;
	bytes = snprintf(directory, sizeof(directory), "%.*s", (int)(slash ? slash - path + 1 : 1),
			 slash ? path : ".");
	if (bytes < 0 || (size_t)bytes >= sizeof(directory))
		return -ENAMETOOLONG;
	snprintf(endpoint->name, sizeof(endpoint->name), "%s", name);
	snprintf(endpoint->lock_name, sizeof(endpoint->lock_name), "%s.lock", name);
	endpoint->directory_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return endpoint->directory_fd < 0 ? -errno : 0;
}

/* Whether the locked file is still the one that has the name: its last owner removes it. */
static bool is_current(const struct obd_endpoint *endpoint)
{
	struct stat named, locked;

	return fstatat(endpoint->directory_fd, endpoint->lock_name, &named, AT_SYMLINK_NOFOLLOW) ==
		       0 &&
	       fstat(endpoint->lock_fd, &locked) == 0 && named.st_ino == locked.st_ino &&
	       named.st_dev == locked.st_dev;
}

static int take_lock(struct obd_endpoint *endpoint)
{
	for (;;) {
		endpoint->lock_fd = openat(endpoint->directory_fd, endpoint->lock_name,
					   O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (endpoint->lock_fd < 0)
			return -errno;
		if (flock(endpoint->lock_fd, LOCK_EX | LOCK_NB) < 0) {
			int rc = errno == EWOULDBLOCK ? -EBUSY : -errno;

			close(endpoint->lock_fd);
			endpoint->lock_fd = -1;
			return rc;
		}
		if (is_current(endpoint))
			return 0;
		close(endpoint->lock_fd);
	}
}

static int start_listening(struct obd_endpoint *endpoint)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s",
		     endpoint->directory_fd, endpoint->name) >= (int)sizeof(address.sun_path))
		return -ENAMETOOLONG;
	if (unlinkat(endpoint->directory_fd, endpoint->name, 0) < 0 && errno != ENOENT)
		return -errno;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* fchmod before bind: the file is created with the mode of the socket's inode */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    fchmodat(endpoint->directory_fd, endpoint->name, 0600, 0) < 0 || listen(fd, 32) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	endpoint->listen_fd = fd;
	return 0;
}

int obd_endpoint_init(struct obd_endpoint *endpoint, const char *path)
{
	int rc;

	*endpoint = (struct obd_endpoint){.directory_fd = -1, .lock_fd = -1, .listen_fd = -1};
	rc = open_directory(endpoint, path);
	if (rc == 0)
		rc = take_lock(endpoint);
	if (rc == 0)
		rc = start_listening(endpoint);
	return rc;
}

void obd_endpoint_deinit(struct obd_endpoint *endpoint)
{
	if (endpoint->listen_fd >= 0) {
		unlinkat(endpoint->directory_fd, endpoint->name, 0);
		close(endpoint->listen_fd);
	}
	if (endpoint->lock_fd >= 0) {
		unlinkat(endpoint->directory_fd, endpoint->lock_name, 0);
		close(endpoint->lock_fd);
	}
	if (endpoint->directory_fd >= 0)
		close(endpoint->directory_fd);
	*endpoint = (struct obd_endpoint){.directory_fd = -1, .lock_fd = -1, .listen_fd = -1};
}
