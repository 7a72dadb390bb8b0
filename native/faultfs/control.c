#include "control.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "rules.h"

#define PACKET_MAX 512
#define OFF_MAX	   ((off_t)1 << 62)

static int parse(const char *request, struct faultfs_rule *ret)
{
	struct faultfs_rule rule = {.begin = 0, .end = OFF_MAX};
	long begin, end;
	int used = 0;

	if (sscanf(request, "delay %255s %u%n", rule.name, &rule.delay_ms, &used) == 2) {
		rule.kind = FAULTFS_DELAY;
	} else if (sscanf(request, "hold %255s%n", rule.name, &used) == 1) {
		rule.kind = FAULTFS_HOLD;
	} else if (sscanf(request, "fail %255s %ld %ld %d %u%n", rule.name, &begin, &end,
			  &rule.error, &rule.times_cnt, &used) == 5) {
		rule.kind = FAULTFS_FAIL;
		rule.begin = begin;
		rule.end = end;
		if (begin < 0 || end <= begin || rule.error <= 0)
			return -EINVAL;
	}
	if (used == 0 || request[used])
		return -EINVAL;
	*ret = rule;
	return 0;
}

static int answer_counts(char *at, size_t space)
{
	struct faultfs_counts counts;

	faultfs_rules_counts(&counts);
	return snprintf(at, space, "ok reads=%lu delayed=%lu failed=%lu held=%lu holding=%lu",
			counts.reads, counts.delayed, counts.failed, counts.held, counts.holding);
}

static int answer(const char *request, char *at, size_t space)
{
	struct faultfs_rule rule;
	int err;

	if (!strcmp(request, "count"))
		return answer_counts(at, space);
	if (!strcmp(request, "clear")) {
		faultfs_rules_clear();
		return snprintf(at, space, "ok");
	}
	err = parse(request, &rule);
	if (!err)
		err = faultfs_rules_add(&rule);
	if (err)
		return snprintf(at, space, "error: %s: %s", strerror(-err), request);
	return snprintf(at, space, "ok");
}

static void serve(int fd)
{
	char request[PACKET_MAX + 1];
	char text[2 * PACKET_MAX];

	for (;;) {
		ssize_t bytes = recv(fd, request, PACKET_MAX, 0);

		if (bytes <= 0)
			return;
		request[bytes] = 0;
		bytes = answer(request, text, sizeof(text));
		if (send(fd, text, (size_t)bytes, MSG_NOSIGNAL) < 0)
			return;
	}
}

static void *run(void *context)
{
	int listener = *(int *)context;

	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			continue;
		serve(fd);
		close(fd);
	}
	return NULL;
}

int faultfs_control_start(const char *path)
{
	static int listener;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	pthread_t thread;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) ||
	    listen(listener, 4))
		return -errno;
	return -pthread_create(&thread, NULL, run, &listener);
}
