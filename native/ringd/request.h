/*
 * One request of the FUSE front end and the pool it comes from.
 *
 * A request owns the buffer it was received into; a write's data stays there until the last of its
 * commands came back, because a ring reset sends them again.
 */
#ifndef OBD_RINGD_REQUEST_H
#define OBD_RINGD_REQUEST_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdint.h>

#include "kring.h"

#define OBD_REQUEST_DATA_MAX   (1u << 20)
#define OBD_REQUEST_BUFFER_MAX (OBD_REQUEST_DATA_MAX + 65536u)
#define OBD_REQUEST_CMD_MAX    3u   /* 1 MiB, unaligned, in commands of 512 KiB */
#define OBD_REQUEST_CNT_MAX    192u /* at once; memory is touched only when used */

enum obd_request_kind {
	OBD_REQUEST_READ,
	OBD_REQUEST_WRITE,
	OBD_REQUEST_FLUSH,
	OBD_REQUEST_DISCARD,
	OBD_REQUEST_ZERO,
};

struct obd_request {
	struct obd_request *next_free;
	fuse_req_t req;
	enum obd_request_kind kind;
	int error;	     /* first errno of its commands */
	uint32_t left;	     /* commands that did not come back */
	uint32_t skip_bytes; /* read: start of what was asked for in data */
	uint32_t size_bytes; /* read, write: what to reply */
	uint64_t range_lba;  /* discard, zero: what is not sent yet */
	uint64_t range_cnt;
	uint8_t *data;
	struct obd_kring_cmd cmd[OBD_REQUEST_CMD_MAX];
	uint8_t *buffer; /* OBD_REQUEST_BUFFER_MAX */
};

struct obd_request_pool {
	pthread_mutex_t lock;
	pthread_cond_t freed;
	struct obd_request *free;
	uint32_t cnt;
};

void obd_request_pool_init(struct obd_request_pool *pool);
void obd_request_pool_deinit(struct obd_request_pool *pool); /* frees what is not in use */
/* Waits when all are in use. NULL: out of memory and none in use. */
struct obd_request *obd_request_take(struct obd_request_pool *pool);
void obd_request_put(struct obd_request_pool *pool, struct obd_request *request);

#endif
