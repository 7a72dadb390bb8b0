#include "control.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "endpoint.h"
#include "log.h"

#define CLIENTS_MAX 32u
#define REQUEST_MAX 256u

struct obd_control {
	struct obd_endpoint endpoint;
	struct obd_kring *ring;
	struct obd_control_hooks hooks;
	pthread_t thread;
	int end_fd; /* eventfd: the thread must end */
	int client[CLIENTS_MAX];
	uint32_t client_cnt;
	struct obd_gap gaps[OBD_GAP_LIST_MAX];
	char answer[OBD_CONTROL_ANSWER_MAX];
};

static size_t answer_stat(struct obd_control *control)
{
	struct obd_kring_stat s;
	char *at = control->answer;
	size_t space = sizeof(control->answer);
	size_t bytes;

	obd_kring_stat(control->ring, &s);
	bytes = (size_t)snprintf(
		at, space,
		"ok commands=%lu completed=%lu errors=%lu in_flight=%u waiting=%u resets=%lu "
		"resent=%lu pads=%lu waits=%lu cmd_head=%u cmd_tail=%u gaps=%lu longest_gap_ns=%lu "
		"open_gap_ns=%lu pid=%d",
		s.commands, s.completed, s.errors, s.in_flight, s.waiting, s.resets, s.resent,
		s.pads, s.waits, s.cmd_head, s.cmd_tail, s.gap_cnt, s.longest_gap_ns, s.open_gap_ns,
		(int)getpid());
	if (control->hooks.stat)
		bytes += control->hooks.stat(control->hooks.context, at + bytes, space - bytes);
	bytes += (size_t)snprintf(at + bytes, space - bytes, " broken=%d broken_reason=%s",
				  s.is_broken, s.broken_reason);
	return bytes;
}

static size_t answer_gaps(struct obd_control *control)
{
	uint32_t cnt = obd_kring_take_gaps(control->ring, control->gaps);
	size_t bytes = (size_t)snprintf(control->answer, sizeof(control->answer), "ok");

	for (uint32_t i = 0; i < cnt; i++)
		bytes += (size_t)snprintf(control->answer + bytes, sizeof(control->answer) - bytes,
					  "\n%lu %lu", control->gaps[i].start_ns,
					  control->gaps[i].end_ns);
	return bytes;
}

static void send_fds(struct obd_control *control, int client)
{
	union {
		char space[CMSG_SPACE(3 * sizeof(int))];
		struct cmsghdr align;
	} ancillary = {{0}};
	char text[64];
	int fd[3];
	struct iovec iov = {.iov_base = text};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = ancillary.space,
				 .msg_controllen = sizeof(ancillary.space)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	iov.iov_len = (size_t)snprintf(text, sizeof(text), "ok map_bytes=%lu",
				       obd_kring_fds(control->ring, fd));
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), fd, sizeof(fd));
	if (sendmsg(client, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		obd_log("control: fds not sent: %s", strerror(errno));
}

static size_t answer_text(struct obd_control *control, const char *text)
{
	return (size_t)snprintf(control->answer, sizeof(control->answer), "%s", text);
}

static size_t answer_stop(struct obd_control *control, bool is_forced)
{
	const char *refusal = control->hooks.stop(control->hooks.context, is_forced);

	if (!refusal)
		return answer_text(control, "ok");
	return (size_t)snprintf(control->answer, sizeof(control->answer), "err %s", refusal);
}

static void handle(struct obd_control *control, int client, const char *request)
{
	size_t bytes;

	if (strcmp(request, "fds") == 0) {
		send_fds(control, client);
		return;
	}
	if (strcmp(request, "stat") == 0) {
		bytes = answer_stat(control);
	} else if (strcmp(request, "gaps") == 0) {
		bytes = answer_gaps(control);
	} else if (strcmp(request, "reset") == 0) {
		obd_kring_reset(control->ring);
		bytes = answer_text(control, "ok");
	} else if (strcmp(request, "finish") == 0) {
		control->hooks.finish(control->hooks.context);
		bytes = answer_text(control, "ok");
	} else if (strcmp(request, "stop") == 0 || strcmp(request, "stop force") == 0) {
		bytes = answer_stop(control, request[4] != 0);
	} else {
		bytes = answer_text(control, "err unknown request: one of fds, stat, gaps, reset, "
					     "finish, stop, stop force");
	}
	/* A client that does not read loses its answer, it can not block the others. */
	if (send(client, control->answer, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		obd_log("control: answer to '%s' not sent: %s", request, strerror(errno));
}

static void accept_client(struct obd_control *control)
{
	struct ucred peer;
	socklen_t peer_bytes = sizeof(peer);
	int fd = accept4(control->endpoint.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_bytes) < 0 ||
	    (peer.uid != 0 && peer.uid != geteuid())) {
		obd_log("control: refused a peer that is neither root nor this user");
		close(fd);
	} else if (control->client_cnt == CLIENTS_MAX) {
		obd_log("control: refused connection %u", CLIENTS_MAX + 1);
		close(fd);
	} else {
		control->client[control->client_cnt++] = fd;
	}
}

/* Returns false when the client is gone. */
static bool read_request(struct obd_control *control, int client)
{
	char request[REQUEST_MAX + 1];
	ssize_t bytes = recv(client, request, REQUEST_MAX, MSG_DONTWAIT);

	if (bytes < 0)
		return errno == EAGAIN || errno == EINTR;
	if (bytes == 0)
		return false;
	while (bytes > 0 && (request[bytes - 1] == '\n' || request[bytes - 1] == ' '))
		bytes--;
	request[bytes] = 0;
	for (ssize_t i = 0; i < bytes; i++) /* it goes into the log */
		if (request[i] < ' ' || request[i] > '~')
			request[i] = '?';
	handle(control, client, request);
	return true;
}

static void *serve(void *argument)
{
	struct obd_control *control = argument;
	struct pollfd poll_fd[CLIENTS_MAX + 2];

	for (;;) {
		uint32_t cnt = control->client_cnt;

		poll_fd[0] = (struct pollfd){.fd = control->end_fd, .events = POLLIN};
		poll_fd[1] = (struct pollfd){.fd = control->endpoint.listen_fd, .events = POLLIN};
		for (uint32_t i = 0; i < cnt; i++)
			poll_fd[i + 2] =
				(struct pollfd){.fd = control->client[i], .events = POLLIN};
		if (poll(poll_fd, cnt + 2, -1) < 0)
			continue;
		if (poll_fd[0].revents)
			return NULL;
		for (uint32_t i = cnt; i-- > 0;) {
			if (!poll_fd[i + 2].revents || read_request(control, control->client[i]))
				continue;
			close(control->client[i]);
			control->client[i] = control->client[--control->client_cnt];
		}
		if (poll_fd[1].revents)
			accept_client(control);
	}
}

int obd_control_create(const char *path, struct obd_kring *ring,
		       const struct obd_control_hooks *hooks, struct obd_control **ret)
{
	struct obd_control *control = calloc(1, sizeof(*control));
	int rc;

	if (!control)
		return -ENOMEM;
	control->ring = ring;
	control->hooks = *hooks;
	control->end_fd = eventfd(0, EFD_CLOEXEC);
	rc = obd_endpoint_init(&control->endpoint, path);
	if (rc == 0 && control->end_fd >= 0)
		rc = -pthread_create(&control->thread, NULL, serve, control);
	else if (rc == 0)
		rc = -EMFILE;
	if (rc == 0) {
		*ret = control;
		return 0;
	}
	obd_log("control socket %s: %s", path,
		rc == -EBUSY ? "another ringd has it" : strerror(-rc));
	obd_endpoint_deinit(&control->endpoint);
	if (control->end_fd >= 0)
		close(control->end_fd);
	free(control);
	return rc;
}

void obd_control_destroy(struct obd_control *control)
{
	uint64_t one = 1;

	if (!control)
		return;
	if (write(control->end_fd, &one, sizeof(one)) < 0)
		obd_log("control: %s", strerror(errno));
	pthread_join(control->thread, NULL);
	for (uint32_t i = 0; i < control->client_cnt; i++)
		close(control->client[i]);
	obd_endpoint_deinit(&control->endpoint);
	close(control->end_fd);
	free(control);
}
