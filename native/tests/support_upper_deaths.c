#include "support_upper_deaths.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "obd_crash.h"
#include "obd_image.h"
#include "support_image_files.h"

#define DIED  42
#define WRONG 43

struct deaths *deaths;

static uint32_t death_at;
static enum death_kind death_kind;

void deaths_init(void)
{
	deaths = mmap(NULL, sizeof(*deaths), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	REQUIRE(deaths != MAP_FAILED);
}

void deaths_wrong(const char *what, uint64_t lba)
{
	snprintf(deaths->what, sizeof(deaths->what), "%s, sector %llu", what,
		 (unsigned long long)lba);
	_exit(WRONG);
}

static bool is_death(void)
{
	return __atomic_add_fetch(&deaths->calls, 1, __ATOMIC_RELAXED) == death_at;
}

static void at_point(const char *point)
{
	(void)point;
	if (is_death())
		_exit(DIED);
}

bool deaths_run(void (*body)(void *context), void *context, uint32_t at, enum death_kind kind)
{
	int status;
	pid_t pid;

	fflush(stdout);
	fflush(stderr);
	deaths->calls = 0;
	pid = fork();
	REQUIRE(pid >= 0);
	if (!pid) {
		death_at = at;
		death_kind = kind;
		obd_crash_hook = at_point;
		body(context);
		_exit(0);
	}
	REQUIRE(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	REQUIRE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == DIED ||
		WEXITSTATUS(status) == WRONG);
	return WEXITSTATUS(status) != DIED;
}

void deaths_land(const char *data_path)
{
	int fd;

	if (!deaths->has_late)
		return;
	deaths->has_late = false;
	fd = open(data_path, O_WRONLY | O_CLOEXEC);
	REQUIRE(fd >= 0);
	REQUIRE(lseek(fd, (off_t)deaths->late_at, SEEK_SET) >= 0);
	REQUIRE(write(fd, deaths->late, deaths->late_bytes) == (ssize_t)deaths->late_bytes);
	close(fd);
}

/* ---- the wrapped calls ---- */

#define WRAPPED(type, name, ...)                                                                   \
	type __real_##name(__VA_ARGS__);                                                           \
	type __wrap_##name(__VA_ARGS__)

WRAPPED(ssize_t, pwrite, int fd, const void *from, size_t bytes, off_t at);
WRAPPED(ssize_t, pwritev, int fd, const struct iovec *iov, int cnt, off_t at);
WRAPPED(int, ftruncate, int fd, off_t bytes);
WRAPPED(int, fallocate, int fd, int mode, off_t at, off_t bytes);
WRAPPED(int, fdatasync, int fd);
WRAPPED(int, fsync, int fd);
WRAPPED(int, unlink, const char *path);

static void keep_late(const uint8_t *from, size_t bytes, off_t at)
{
	REQUIRE(bytes <= sizeof(deaths->late));
	memcpy(deaths->late, from, bytes);
	deaths->late_at = (uint64_t)at;
	deaths->late_bytes = (uint32_t)bytes;
	deaths->has_late = deaths->had_late = true;
}

static void die_writing(int fd, const uint8_t *from, size_t bytes, off_t at, bool is_data)
{
	size_t now = 0;

	if (death_kind == DEATH_FIRST_BYTE)
		now = 1;
	else if (death_kind == DEATH_HALF || death_kind == DEATH_LATE_REST)
		now = bytes / 2;
	else if (death_kind == DEATH_LAST_BYTE)
		now = bytes - 1;
	else if (death_kind == DEATH_PAGES && bytes >= 8192)
		now = bytes / 2 / 4096 * 4096 - (size_t)at % 4096;
	if (now)
		(void)!__real_pwrite(fd, from, now, at);
	if (is_data && (death_kind == DEATH_LATE || death_kind == DEATH_LATE_REST))
		keep_late(from + now, bytes - now, at + (off_t)now);
	_exit(DIED);
}

ssize_t __wrap_pwrite(int fd, const void *from, size_t bytes, off_t at)
{
	if (is_death())
		die_writing(fd, from, bytes, at, false);
	return __real_pwrite(fd, from, bytes, at);
}

/* Data alone is written this way. */
ssize_t __wrap_pwritev(int fd, const struct iovec *iov, int cnt, off_t at)
{
	static uint8_t all[sizeof(deaths->late)];
	size_t bytes = 0;

	if (!is_death())
		return __real_pwritev(fd, iov, cnt, at);
	for (int i = 0; i < cnt; i++) {
		REQUIRE(bytes + iov[i].iov_len <= sizeof(all));
		memcpy(all + bytes, iov[i].iov_base, iov[i].iov_len);
		bytes += iov[i].iov_len;
	}
	die_writing(fd, all, bytes, at, true);
	return -1;
}

int __wrap_ftruncate(int fd, off_t bytes)
{
	if (is_death())
		_exit(DIED);
	return __real_ftruncate(fd, bytes);
}

int __wrap_fallocate(int fd, int mode, off_t at, off_t bytes)
{
	if (is_death())
		_exit(DIED);
	return __real_fallocate(fd, mode, at, bytes);
}

int __wrap_fdatasync(int fd)
{
	(void)fd;
	if (is_death())
		_exit(DIED);
	return 0; /* the page cache outlives a process; the disk is another test's */
}

int __wrap_fsync(int fd)
{
	return __wrap_fdatasync(fd);
}

int __wrap_unlink(const char *path)
{
	if (is_death())
		_exit(DIED);
	return __real_unlink(path);
}

void deaths_operate(struct obd_image *image, const struct operation *operation, uint8_t value)
{
	static uint8_t bytes[DEATHS_MOST_SECTORS * 512];
	struct iovec iov = {bytes, operation->cnt * 512u};
	uint32_t flags = operation->kind == WRITE_FUA ? OBD_WRITE_FUA : 0;
	int rc;

	memset(bytes, value, sizeof(bytes));
	if (operation->kind == FLUSH)
		rc = obd_image_flush(image, NULL);
	else if (operation->kind == DISCARD)
		rc = obd_image_discard(image, operation->lba, operation->cnt, NULL);
	else
		rc = obd_image_write(image, operation->lba, operation->cnt, &iov, 1, flags, NULL);
	if (rc)
		deaths_wrong("an operation failed", operation->lba);
}
