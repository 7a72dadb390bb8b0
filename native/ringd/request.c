#include "request.h"

#include <stdlib.h>
#include <sys/mman.h>

void obd_request_pool_init(struct obd_request_pool *pool)
{
	*pool = (struct obd_request_pool){0};
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->freed, NULL);
}

static void destroy(struct obd_request *request)
{
	munmap(request->buffer, OBD_REQUEST_BUFFER_MAX);
	free(request);
}

void obd_request_pool_deinit(struct obd_request_pool *pool)
{
	while (pool->free) {
		struct obd_request *request = pool->free;

		pool->free = request->next_free;
		destroy(request);
	}
	pthread_cond_destroy(&pool->freed);
	pthread_mutex_destroy(&pool->lock);
}

static struct obd_request *create(void)
{
	struct obd_request *request = calloc(1, sizeof(*request));
	void *buffer;

	if (!request)
		return NULL;
	buffer = mmap(NULL, OBD_REQUEST_BUFFER_MAX, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED) {
		free(request);
		return NULL;
	}
	request->buffer = buffer;
	return request;
}

struct obd_request *obd_request_take(struct obd_request_pool *pool)
{
	struct obd_request *request = NULL;

	pthread_mutex_lock(&pool->lock);
	if (!pool->free && pool->cnt < OBD_REQUEST_CNT_MAX) {
		request = create();
		pool->cnt += request != NULL;
	}
	while (!request && pool->cnt > 0) {
		request = pool->free;
		if (request)
			pool->free = request->next_free;
		else
			pthread_cond_wait(&pool->freed, &pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
	return request;
}

void obd_request_put(struct obd_request_pool *pool, struct obd_request *request)
{
	pthread_mutex_lock(&pool->lock);
	request->next_free = pool->free;
	pool->free = request;
	pthread_cond_signal(&pool->freed);
	pthread_mutex_unlock(&pool->lock);
}
