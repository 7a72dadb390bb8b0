#define FUSE_USE_VERSION 314
#include "fuse_front.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/falloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "control.h"
#include "detach.h"
#include "kring.h"
#include "log.h"
#include "obd_barrier.h"
#include "request.h"
#include "scsi.h"

#define INO_ROOT	  FUSE_ROOT_ID
#define INO_DISK	  2u
#define FILE_NAME	  "disk"
#define ATTRIBUTES_FOR_S  86400.0
#define BACKGROUND_MAX	  64u
#define UNMAP_SECTORS_MAX (UINT32_C(1) << 22) /* 2 GiB */
#define ZERO_SECTORS_MAX  UINT32_C(65535)

struct front {
	const struct obd_options *options;
	struct obd_kring *ring;
	struct obd_request_pool pool;
	struct fuse_session *session;
	struct obd_request *current; /* what the reader is receiving into; NULL: it was taken */
	pthread_t completer;
	int stop_fd;	    /* eventfd: look at must_stop */
	uint32_t must_stop; /* release by control thread or signal; acquire by the reader */
	uint32_t is_ended;  /* release by the reader; acquire by the completer */
	uint32_t open_cnt;  /* relaxed */
};

static struct front *interrupted; /* for the signal handler */

/* Takes the request that was just received over from the reader. */
static struct obd_request *begin(struct front *front, fuse_req_t req, enum obd_request_kind kind)
{
	struct obd_request *request = front->current;

	front->current = NULL;
	request->req = req;
	request->kind = kind;
	request->error = 0;
	request->left = 0;
	request->skip_bytes = 0;
	request->size_bytes = 0;
	request->range_cnt = 0;
	return request;
}

static void submit(struct front *front, struct obd_request *request, uint32_t cmd_cnt)
{
	request->left = cmd_cnt;
	for (uint32_t i = 0; i < cmd_cnt; i++) {
		request->cmd[i].owner = request;
		obd_kring_submit(front->ring, &request->cmd[i]);
	}
	obd_kring_notify(front->ring);
}

/* Splits a read or write of whole sectors into commands. */
static void submit_data(struct front *front, struct obd_request *request, uint64_t lba,
			uint32_t bytes)
{
	bool is_read = request->kind == OBD_REQUEST_READ;
	uint32_t cmd_cnt = 0;

	for (uint32_t at = 0; at < bytes; at += OBD_KRING_CMD_MAX) {
		struct obd_kring_cmd *cmd = &request->cmd[cmd_cnt++];
		uint32_t part = bytes - at < OBD_KRING_CMD_MAX ? bytes - at : OBD_KRING_CMD_MAX;
		uint32_t sector_cnt = part / OBD_SECTOR_BYTES;

		cmd->data = request->data + at;
		cmd->data_bytes = part;
		cmd->dir = is_read ? OBD_KRING_FROM_DEVICE : OBD_KRING_TO_DEVICE;
		cmd->cdb_bytes = is_read ? obd_cdb_read(cmd->cdb, lba, sector_cnt)
					 : obd_cdb_write(cmd->cdb, lba, sector_cnt, false);
		lba += sector_cnt;
	}
	submit(front, request, cmd_cnt);
}

/* Sends the next part of a discard or zero range. */
static void submit_range(struct front *front, struct obd_request *request)
{
	struct obd_kring_cmd *cmd = &request->cmd[0];
	bool is_zero = request->kind == OBD_REQUEST_ZERO;
	uint32_t limit = is_zero ? ZERO_SECTORS_MAX : UNMAP_SECTORS_MAX;
	uint32_t cnt = request->range_cnt < limit ? (uint32_t)request->range_cnt : limit;

	cmd->data = request->buffer;
	cmd->dir = OBD_KRING_TO_DEVICE;
	if (is_zero) {
		memset(request->buffer, 0, OBD_SECTOR_BYTES);
		cmd->data_bytes = OBD_SECTOR_BYTES;
		cmd->cdb_bytes = obd_cdb_write_same(cmd->cdb, request->range_lba, cnt);
	} else {
		cmd->data_bytes = OBD_UNMAP_LIST_BYTES;
		cmd->cdb_bytes = obd_cdb_unmap(cmd->cdb, request->buffer, request->range_lba, cnt);
	}
	request->range_lba += cnt;
	request->range_cnt -= cnt;
	submit(front, request, 1);
}

static void reply(struct obd_request *request)
{
	if (request->error)
		fuse_reply_err(request->req, request->error);
	else if (request->kind == OBD_REQUEST_READ)
		fuse_reply_buf(request->req, (const char *)request->data + request->skip_bytes,
			       request->size_bytes);
	else if (request->kind == OBD_REQUEST_WRITE)
		fuse_reply_write(request->req, request->size_bytes);
	else
		fuse_reply_err(request->req, 0);
}

static void complete(struct front *front, struct obd_kring_cmd *cmd)
{
	struct obd_request *request = cmd->owner;
	struct obd_sense sense = obd_sense_parse(cmd->sense, sizeof(cmd->sense));
	int error = cmd->is_failed ? EIO : obd_scsi_errno(cmd->status, sense);

	if (error == 0 && cmd->dir == OBD_KRING_FROM_DEVICE && cmd->read_bytes < cmd->data_bytes)
		error = EIO;
	if (error && !request->error)
		request->error = error;
	if (--request->left > 0)
		return;
	if (request->range_cnt > 0 && !request->error) {
		submit_range(front, request);
		return;
	}
	reply(request);
	obd_request_put(&front->pool, request);
}

static void *run_completer(void *argument)
{
	struct front *front = argument;

	while (!obd_load_acquire(&front->is_ended)) {
		struct obd_kring_cmd *cmd;

		if (!obd_kring_wait(front->ring, -1))
			continue;
		cmd = obd_kring_reap(front->ring);
		obd_kring_notify(front->ring); /* commands that had waited for room */
		while (cmd) {
			struct obd_kring_cmd *next = cmd->next;

			complete(front, cmd);
			cmd = next;
		}
	}
	return NULL;
}

static struct stat attributes(const struct front *front, fuse_ino_t ino)
{
	struct stat st = {.st_ino = ino, .st_nlink = 1, .st_blksize = 4096};

	if (ino == INO_ROOT) {
		st.st_mode = S_IFDIR | 0700;
		st.st_nlink = 2;
	} else {
		st.st_mode = S_IFREG | (front->options->is_read_only ? 0400 : 0600);
		st.st_size = (off_t)front->options->size_bytes;
		st.st_blocks = st.st_size / 512;
	}
	return st;
}

static void op_init(void *userdata, struct fuse_conn_info *connection)
{
	(void)userdata;
	connection->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
					FUSE_CAP_SPLICE_MOVE | FUSE_CAP_AUTO_INVAL_DATA);
	connection->max_read = OBD_REQUEST_DATA_MAX;
	connection->max_write = OBD_REQUEST_DATA_MAX;
	connection->max_background = BACKGROUND_MAX;
	connection->congestion_threshold = BACKGROUND_MAX;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct front *front = fuse_req_userdata(req);
	struct fuse_entry_param entry = {.ino = INO_DISK,
					 .attr = attributes(front, INO_DISK),
					 .attr_timeout = ATTRIBUTES_FOR_S,
					 .entry_timeout = ATTRIBUTES_FOR_S};

	if (parent != INO_ROOT || strcmp(name, FILE_NAME) != 0)
		fuse_reply_err(req, ENOENT);
	else
		fuse_reply_entry(req, &entry);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	struct stat st = attributes(fuse_req_userdata(req), ino);

	(void)file;
	fuse_reply_attr(req, &st, ATTRIBUTES_FOR_S);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		       struct fuse_file_info *file)
{
	static const char *const names[] = {".", "..", FILE_NAME};
	struct front *front = fuse_req_userdata(req);
	char entries[256];
	size_t bytes = 0;

	(void)file;
	if (ino != INO_ROOT) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	if (size > sizeof(entries))
		size = sizeof(entries);
	for (uint32_t i = offset < 0 ? 0 : (uint32_t)offset; i < 3; i++) {
		struct stat st = attributes(front, i == 2 ? INO_DISK : INO_ROOT);
		size_t needed =
			fuse_add_direntry(req, entries + bytes, size - bytes, names[i], &st, i + 1);

		if (needed > size - bytes)
			break;
		bytes += needed;
	}
	fuse_reply_buf(req, entries, bytes);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	struct front *front = fuse_req_userdata(req);

	if (ino != INO_DISK) {
		fuse_reply_err(req, EISDIR);
		return;
	}
	if (front->options->is_read_only && (file->flags & O_ACCMODE) != O_RDONLY) {
		fuse_reply_err(req, EROFS);
		return;
	}
	file->direct_io = 1;
	obd_add_relaxed(&front->open_cnt, 1u);
	if (fuse_reply_open(req, file) < 0) /* the opener is gone: no release will come */
		obd_add_relaxed(&front->open_cnt, UINT32_MAX);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *file)
{
	struct front *front = fuse_req_userdata(req);

	(void)ino;
	(void)file;
	obd_add_relaxed(&front->open_cnt, UINT32_MAX);
	fuse_reply_err(req, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		    struct fuse_file_info *file)
{
	struct front *front = fuse_req_userdata(req);
	uint64_t end = front->options->size_bytes;
	uint64_t at = (uint64_t)offset;
	struct obd_request *request;
	uint64_t first, last;

	(void)ino;
	(void)file;
	if (offset < 0 || size > OBD_REQUEST_DATA_MAX) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (at >= end || size == 0) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	if (size > end - at)
		size = (size_t)(end - at);
	request = begin(front, req, OBD_REQUEST_READ);
	first = at / OBD_SECTOR_BYTES;
	last = (at + size + OBD_SECTOR_BYTES - 1) / OBD_SECTOR_BYTES;
	request->data = request->buffer;
	request->skip_bytes = (uint32_t)(at - first * OBD_SECTOR_BYTES);
	request->size_bytes = (uint32_t)size;
	submit_data(front, request, first, (uint32_t)(last - first) * OBD_SECTOR_BYTES);
}

/* Whether a range can be changed: 0 or an errno. */
static int check_change(const struct front *front, uint64_t at, uint64_t size)
{
	uint64_t end = front->options->size_bytes;

	if (front->options->is_read_only)
		return EROFS;
	if (at % OBD_SECTOR_BYTES || size % OBD_SECTOR_BYTES || size == 0)
		return EINVAL; /* the file is a disk: whole sectors only */
	return at > end || size > end - at ? ENOSPC : 0;
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
		     struct fuse_file_info *file)
{
	struct front *front = fuse_req_userdata(req);
	int error = offset < 0 || size > OBD_REQUEST_DATA_MAX
			    ? EINVAL
			    : check_change(front, (uint64_t)offset, size);
	struct obd_request *request;

	(void)ino;
	(void)file;
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	request = begin(front, req, OBD_REQUEST_WRITE);
	/* data lies in request->buffer: it was received there */
	request->data = request->buffer + ((const uint8_t *)data - request->buffer);
	request->size_bytes = (uint32_t)size;
	submit_data(front, request, (uint64_t)offset / OBD_SECTOR_BYTES, (uint32_t)size);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int is_data_only, struct fuse_file_info *file)
{
	struct front *front = fuse_req_userdata(req);
	struct obd_request *request;

	(void)ino;
	(void)is_data_only;
	(void)file;
	if (front->options->is_read_only) {
		fuse_reply_err(req, 0);
		return;
	}
	request = begin(front, req, OBD_REQUEST_FLUSH);
	request->cmd[0].dir = OBD_KRING_NO_DATA;
	request->cmd[0].data_bytes = 0;
	request->cmd[0].cdb_bytes = obd_cdb_synchronize_cache(request->cmd[0].cdb);
	submit(front, request, 1);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			 struct fuse_file_info *file)
{
	struct front *front = fuse_req_userdata(req);
	bool is_punch = mode & FALLOC_FL_PUNCH_HOLE;
	bool is_zero = mode & FALLOC_FL_ZERO_RANGE;
	struct obd_request *request;
	int error;

	(void)ino;
	(void)file;
	if (is_punch == is_zero || offset < 0 || length < 0)
		error = EOPNOTSUPP;
	else
		error = check_change(front, (uint64_t)offset, (uint64_t)length);
	if (error) {
		fuse_reply_err(req, error);
		return;
	}
	request = begin(front, req, is_punch ? OBD_REQUEST_DISCARD : OBD_REQUEST_ZERO);
	request->range_lba = (uint64_t)offset / OBD_SECTOR_BYTES;
	request->range_cnt = (uint64_t)length / OBD_SECTOR_BYTES;
	submit_range(front, request);
}

static const struct fuse_lowlevel_ops operations = {
	.init = op_init,
	.lookup = op_lookup,
	.getattr = op_getattr,
	.readdir = op_readdir,
	.open = op_open,
	.release = op_release,
	.read = op_read,
	.write = op_write,
	.fsync = op_fsync,
	.fallocate = op_fallocate,
};

/* Receives and handles one request; false: the file system was unmounted. */
static bool receive(struct front *front)
{
	struct fuse_buf buffer = {.size = OBD_REQUEST_BUFFER_MAX};
	int bytes;

	if (!front->current)
		front->current = obd_request_take(&front->pool);
	if (!front->current) {
		obd_log("out of memory for requests");
		return false;
	}
	buffer.mem = front->current->buffer;
	bytes = fuse_session_receive_buf(front->session, &buffer);
	if (bytes == -EINTR || bytes == -EAGAIN)
		return true;
	if (bytes <= 0) {
		if (bytes < 0)
			obd_log("reading requests: %s", strerror(-bytes));
		return false;
	}
	fuse_session_process_buf(front->session, &buffer);
	return !fuse_session_exited(front->session);
}

static void serve(struct front *front)
{
	struct pollfd poll_fd[2] = {
		{.fd = fuse_session_fd(front->session), .events = POLLIN},
		{.fd = front->stop_fd, .events = POLLIN},
	};

	while (!obd_load_acquire(&front->must_stop)) {
		if (poll(poll_fd, 2, -1) < 0)
			continue;
		if (poll_fd[0].revents && !receive(front))
			return;
	}
}

static void nudge(struct front *front)
{
	uint64_t one = 1;

	obd_store_release(&front->must_stop, 1u);
	if (write(front->stop_fd, &one, sizeof(one)) < 0)
		return; /* full: it is readable, which is all that is wanted */
}

static void finish_hook(void *context)
{
	(void)context; /* there is nothing to finish */
}

static const char *stop_hook(void *context, bool is_forced)
{
	struct front *front = context;

	if (!is_forced && obd_load_relaxed(&front->open_cnt) > 0)
		return "the disk file is open (a loop device is attached)";
	nudge(front);
	return NULL;
}

static size_t stat_hook(void *context, char *at, size_t space)
{
	struct front *front = context;

	return (size_t)snprintf(at, space, " front=fuse open=%u",
				obd_load_relaxed(&front->open_cnt));
}

static void on_signal(int signal_number)
{
	(void)signal_number;
	if (obd_load_relaxed(&interrupted->open_cnt) == 0)
		nudge(interrupted);
}

static void catch_signals(struct front *front)
{
	struct sigaction action = {.sa_handler = on_signal};

	interrupted = front;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
}

/* The session, mounted; 0 or -1 (logged). */
static int mount_session(struct front *front)
{
	char mount_options[160];
	char *argv[] = {"obdsup-ringd", "-o", mount_options, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	int fd;

	snprintf(mount_options, sizeof(mount_options),
		 "fsname=obdsup,subtype=ringd,max_read=%u,default_permissions%s",
		 OBD_REQUEST_DATA_MAX, front->options->is_read_only ? ",ro" : "");
	front->session = fuse_session_new(&args, &operations, sizeof(operations), front);
	fuse_opt_free_args(&args);
	if (!front->session) {
		obd_log("fuse: no session");
		return -1;
	}
	if (fuse_session_mount(front->session, front->options->mount) < 0) {
		obd_log("fuse: can not mount at %s", front->options->mount);
		fuse_session_destroy(front->session);
		front->session = NULL;
		return -1;
	}
	fd = fuse_session_fd(front->session);
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
		obd_log("fuse: O_NONBLOCK: %s", strerror(errno));
	return 0;
}

/* Starts everything; what was started is undone by shut_down. */
static int start(struct front *front, struct obd_control **control)
{
	const struct obd_options *o = front->options;
	struct obd_kring_options ring = {o->data_area_bytes, o->is_checking};
	struct obd_control_hooks hooks = {front, finish_hook, stop_hook, stat_hook};
	int rc = obd_kring_create(&ring, &front->ring);

	if (rc) {
		obd_log("ring: %s", strerror(-rc));
		return rc;
	}
	front->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* The lock comes with the socket: nothing is mounted when another ringd has it. */
	rc = obd_control_create(o->socket, front->ring, &hooks, control);
	if (rc)
		return rc;
	if (mount_session(front) < 0)
		return -EIO;
	rc = pthread_create(&front->completer, NULL, run_completer, front);
	if (rc)
		obd_log("thread: %s", strerror(rc));
	return rc;
}

static void shut_down(struct front *front, struct obd_control *control, bool has_completer)
{
	obd_store_release(&front->is_ended, 1u); /* pairs with run_completer */
	if (has_completer) {
		obd_kring_wake(front->ring);
		pthread_join(front->completer, NULL);
	}
	if (front->session) {
		fuse_session_unmount(front->session);
		fuse_session_destroy(front->session);
	}
	obd_control_destroy(control);
	if (front->current)
		obd_request_put(&front->pool, front->current);
	obd_request_pool_deinit(&front->pool);
	obd_kring_destroy(front->ring);
	close(front->stop_fd);
}

int obd_fuse_run(const struct obd_options *options)
{
	static struct front front;
	struct obd_control *control = NULL;
	int rc;

	front.options = options;
	front.stop_fd = -1;
	obd_request_pool_init(&front.pool);
	rc = start(&front, &control);
	if (rc == 0) {
		catch_signals(&front);
		obd_detach_ready(options->log);
		obd_log("%s: serving %s/" FILE_NAME, options->name, options->mount);
		serve(&front);
		obd_log("%s: ending", options->name);
	}
	shut_down(&front, control, rc == 0);
	return rc ? 2 : 0;
}
