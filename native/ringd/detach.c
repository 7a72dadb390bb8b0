#include "detach.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "log.h"

static int ready_fd = -1; /* write end of the pipe to the waiting parent */

static void wait_for_child(int fd)
{
	char byte;
	ssize_t bytes;

	do
		bytes = read(fd, &byte, 1);
	while (bytes < 0 && errno == EINTR);
	_exit(bytes == 1 ? 0 : 1);
}

void obd_detach_start(void)
{
	int pipe_fd[2];
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t pid;

	if (pipe2(pipe_fd, O_CLOEXEC) < 0 || null_fd < 0 || (pid = fork()) < 0) {
		obd_log("can not detach: %s", strerror(errno));
		exit(1);
	}
	if (pid > 0) {
		close(pipe_fd[1]);
		wait_for_child(pipe_fd[0]);
	}
	close(pipe_fd[0]);
	ready_fd = pipe_fd[1];
	setsid();
	dup2(null_fd, STDIN_FILENO);
	dup2(null_fd, STDOUT_FILENO);
	close(null_fd);
}

void obd_detach_ready(const char *log_path)
{
	int fd = -1;

	if (log_path || ready_fd >= 0)
		fd = open(log_path ? log_path : "/dev/null",
			  O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0) {
		dup2(fd, STDERR_FILENO);
		close(fd);
	} else if (log_path) {
		obd_log("log %s: %s", log_path, strerror(errno));
	}
	if (ready_fd < 0)
		return;
	if (write(ready_fd, "r", 1) < 0)
		obd_log("the starter is gone");
	close(ready_fd);
	ready_fd = -1;
}

void obd_detach_harden(void)
{
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
#ifdef PR_SET_IO_FLUSHER
	/* Memory reclaim must not wait for I/O that only we can complete. */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0 && errno != EPERM && errno != EINVAL)
		obd_log("PR_SET_IO_FLUSHER: %s", strerror(errno));
#endif
}
