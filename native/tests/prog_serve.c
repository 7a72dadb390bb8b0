/*
 * Serves one ring of an obdsup-ringd, for tests of what happens when the server dies or cheats.
 *
 *	prog_serve       --ringd SOCKET --journal FILE --disk-bytes N [--disk FILE] [...]
 *	prog_serve_image --ringd SOCKET --journal FILE [--lower FILE ...] [--upper DATA INDEX] [...]
 *
 *	--mode fresh|recover      fresh
 *	--generation G            1; each server of a ring needs a greater one
 *	--disk FILE               where the disk of --disk-bytes lives on (default: JOURNAL.disk)
 *	--crash-at POINT:COUNT    SIGKILL to itself when POINT is reached the COUNT-th time
 *	--cheat NAME              skip-record | reuse-id | publish-twice
 *	--io-threads N            of the engine
 *
 * Prints "serving recovered=N already_done=N dropped=N attach_ns=N", then serves until SIGTERM,
 * detaches, prints "detached" and exits 0. Exit 1: error on stderr; 3: the ring was given up.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "obd_crash.h"
#include "obd_engine.h"
#include "obd_image.h"
#ifndef SERVES_REAL_IMAGE
#include "fake_image.h"
#endif

#define DETACH_MS 10000
#define CHECK_S	  1

struct arguments {
	const char *ringd;
	const char *journal;
	const char *disk;
	uint64_t disk_bytes;
	const char *lowers[OBD_MAX_LOWERS];
	uint32_t lower_cnt;
	const char *upper_data;
	const char *upper_index;
	uint32_t mode;
	uint64_t generation;
	uint32_t io_threads;
};

static char crash_point[64];
static unsigned long crash_count;

static void fail(const char *what)
{
	fprintf(stderr, "prog_serve: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void fail_info(const struct obd_errinfo *info)
{
	fprintf(stderr, "prog_serve: %s: %s %s expected=%llu got=%llu errno=%d\n",
		obd_err_name(info->code), info->path, info->what,
		(unsigned long long)info->expected, (unsigned long long)info->got, info->sys_errno);
	exit(1);
}

static void usage(void)
{
	fprintf(stderr, "usage: prog_serve --ringd SOCKET --journal FILE "
			"(--disk-bytes N [--disk FILE] | --lower FILE.. --upper DATA INDEX) "
			"[--mode fresh|recover] [--generation G] [--crash-at POINT:COUNT] "
			"[--cheat skip-record|reuse-id|publish-twice] [--io-threads N]\n");
	exit(2);
}

/* ---- faults ---- */

static void maybe_crash(const char *point)
{
	/* One store per point, so that threads may count together. */
	if (strcmp(point, crash_point) == 0 &&
	    __atomic_sub_fetch(&crash_count, 1, __ATOMIC_SEQ_CST) == 0)
		kill(getpid(), SIGKILL);
}

static void set_crash(const char *text)
{
	const char *colon = strchr(text, ':');
	size_t length = colon ? (size_t)(colon - text) : strlen(text);

	if (length >= sizeof(crash_point))
		usage();
	memcpy(crash_point, text, length);
	crash_count = colon ? strtoul(colon + 1, NULL, 10) : 1;
	if (!crash_count)
		usage();
	obd_crash_hook = maybe_crash;
}

static void set_cheat(const char *name)
{
	if (strcmp(name, "skip-record") == 0)
		obd_cheats.skip_record = true;
	else if (strcmp(name, "reuse-id") == 0)
		obd_cheats.reuse_id = true;
	else if (strcmp(name, "publish-twice") == 0)
		obd_cheats.publish_twice = true;
	else
		usage();
}

/* ---- arguments ---- */

static uint32_t mode_named(const char *name)
{
	if (strcmp(name, "fresh") == 0)
		return OBD_ATTACH_FRESH;
	if (strcmp(name, "recover") != 0)
		usage();
	return OBD_ATTACH_RECOVER;
}

static void parse(int argc, char **argv, struct arguments *ret)
{
	static const struct option options[] = {
		{"ringd", required_argument, NULL, 'r'},
		{"journal", required_argument, NULL, 'j'},
		{"disk-bytes", required_argument, NULL, 'b'},
		{"disk", required_argument, NULL, 'd'},
		{"lower", required_argument, NULL, 'l'},
		{"upper", required_argument, NULL, 'u'},
		{"mode", required_argument, NULL, 'm'},
		{"generation", required_argument, NULL, 'g'},
		{"crash-at", required_argument, NULL, 'c'},
		{"cheat", required_argument, NULL, 'x'},
		{"io-threads", required_argument, NULL, 't'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int option;

	*ret = (struct arguments){.mode = OBD_ATTACH_FRESH, .generation = 1};
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'r':
			ret->ringd = optarg;
			break;
		case 'j':
			ret->journal = optarg;
			break;
		case 'b':
			ret->disk_bytes = strtoull(optarg, NULL, 0);
			break;
		case 'd':
			ret->disk = optarg;
			break;
		case 'l':
			if (ret->lower_cnt == OBD_MAX_LOWERS)
				usage();
			ret->lowers[ret->lower_cnt++] = optarg;
			break;
		case 'u':
			if (optind >= argc)
				usage();
			ret->upper_data = optarg;
			ret->upper_index = argv[optind++];
			break;
		case 'm':
			ret->mode = mode_named(optarg);
			break;
		case 'g':
			ret->generation = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			set_crash(optarg);
			break;
		case 'x':
			set_cheat(optarg);
			break;
		case 't':
			ret->io_threads = (uint32_t)strtoul(optarg, NULL, 0);
			break;
		default:
			usage();
		}
	}
	if (!ret->ringd || !ret->journal || optind != argc)
		usage();
}

static struct obd_image *open_image(const struct arguments *arguments)
{
#ifdef SERVES_REAL_IMAGE
	struct obd_image_spec spec = {
		.lower_paths = arguments->lowers,
		.lower_cnt = arguments->lower_cnt,
		.upper_data = arguments->upper_data,
		.upper_index = arguments->upper_index,
	};
	struct obd_image *image = NULL;
	struct obd_errinfo info;

	if (obd_image_create(&spec, &info, &image))
		fail_info(&info);
	return image;
#else
	char path[4096];
	struct fake_image_options options = {.bytes = arguments->disk_bytes, .path = path};

	if (!arguments->disk_bytes)
		usage();
	if (arguments->disk)
		snprintf(path, sizeof(path), "%s", arguments->disk);
	else
		snprintf(path, sizeof(path), "%s.disk", arguments->journal);
	return fake_image_create(&options);
#endif
}

/* ---- the ring ---- */

static void get_ring(const char *path, struct obd_ring_fds *ret)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char text[256], control[CMSG_SPACE(3 * sizeof(int))];
	struct iovec iov = {text, sizeof(text) - 1};
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), fds[3];
	struct cmsghdr *header;
	unsigned long long map_bytes;
	ssize_t got;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
		fail(path);
	if (send(fd, "fds", 3, 0) != 3)
		fail("send to ringd");
	got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	if (got < 0)
		fail("answer of ringd");
	text[got] = 0;
	header = CMSG_FIRSTHDR(&message);
	if (sscanf(text, "ok map_bytes=%llu", &map_bytes) != 1 || !header ||
	    header->cmsg_len != CMSG_LEN(sizeof(fds))) {
		fprintf(stderr, "prog_serve: ringd answered: %s\n", text);
		exit(1);
	}
	memcpy(fds, CMSG_DATA(header), sizeof(fds));
	close(fd);
	*ret = (struct obd_ring_fds){.mem_fd = fds[0],
				     .wait_fd = fds[1],
				     .kick_fd = fds[2],
				     .event_bytes = 8,
				     .map_bytes = map_bytes};
}

static void *run(void *engine)
{
	if (obd_engine_run(engine))
		fail("engine");
	return NULL;
}

/* Returns at SIGTERM or SIGINT, exits when the device was given up. */
static void serve(struct obd_engine *engine, uint32_t device_id, const sigset_t *stops)
{
	struct timespec check = {.tv_sec = CHECK_S};
	struct obd_device_stat stat;

	while (sigtimedwait(stops, NULL, &check) < 0) {
		if (obd_engine_stat(engine, device_id, &stat) == 0 && !stat.failed)
			continue;
		fprintf(stderr, "prog_serve: gave up: %s\n", obd_err_name(stat.failed));
		exit(3);
	}
}

int main(int argc, char **argv)
{
	struct obd_engine_options options = {0};
	struct obd_attach_result result;
	struct arguments arguments;
	struct obd_attach_spec spec = {.name = "prog_serve", .boot_id = {1}, .device_uuid = {2}};
	struct obd_errinfo info;
	struct obd_engine *engine;
	pthread_t thread;
	sigset_t stops;

	parse(argc, argv, &arguments);
	sigemptyset(&stops);
	sigaddset(&stops, SIGTERM);
	sigaddset(&stops, SIGINT);
	pthread_sigmask(SIG_BLOCK, &stops, NULL);
	spec.journal_fd = open(arguments.journal, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (spec.journal_fd < 0)
		fail(arguments.journal);
	spec.generation = arguments.generation;
	spec.mode = arguments.mode;
	spec.image = open_image(&arguments);
	get_ring(arguments.ringd, &spec.ring);
	options.io_threads_max = arguments.io_threads;
	if (obd_engine_create(&options, &info, &engine))
		fail_info(&info);
	if (pthread_create(&thread, NULL, run, engine))
		fail("thread");
	if (obd_engine_attach(engine, &spec, &info, &result))
		fail_info(&info);
	printf("serving recovered=%u already_done=%u dropped=%u attach_ns=%llu\n", result.recovered,
	       result.already_done, result.dropped, (unsigned long long)result.attach_ns);
	fflush(stdout);
	serve(engine, result.device_id, &stops);
	if (obd_engine_detach(engine, result.device_id, DETACH_MS, &info))
		fail_info(&info);
	puts("detached");
	obd_engine_stop(engine);
	pthread_join(thread, NULL);
	obd_engine_destroy(engine);
	obd_image_destroy(spec.image);
	return 0;
}
