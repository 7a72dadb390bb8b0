#include "obd_scratch.h"

#include <pthread.h>
#include <stdlib.h>
#include <zstd.h>

#include "obd_err.h"

#define FIRST_SEGMENTS 128u

static __thread struct obd_scratch *mine;
static pthread_key_t key;
static int key_error;

static void scratch_destroy(void *arg)
{
	struct obd_scratch *scratch = arg;

	ZSTD_freeDCtx(scratch->zstd);
	free(scratch->segments);
	free(scratch);
	mine = NULL;
}

__attribute__((constructor)) static void make_key(void)
{
	key_error = pthread_key_create(&key, scratch_destroy);
}

/* The module may be unloaded (a Python extension): a thread that ends later must not call into it
 */
__attribute__((destructor)) static void drop_key(void)
{
	if (!key_error)
		pthread_key_delete(key);
}

static __attribute__((noinline)) struct obd_scratch *scratch_create(void)
{
	struct obd_scratch *scratch;

	if (key_error)
		return NULL;
	scratch = malloc(sizeof(*scratch)); /* the big buffers are touched only when used */
	if (!scratch)
		return NULL;
	scratch->plain_zfile_id = 0;
	scratch->plain_block = 0;
	scratch->zstd = NULL;
	scratch->segments = NULL;
	scratch->segment_cap = 0;
	if (obd_scratch_grow_segments(scratch, FIRST_SEGMENTS) ||
	    pthread_setspecific(key, scratch)) {
		free(scratch->segments);
		free(scratch);
		return NULL;
	}
	mine = scratch;
	return scratch;
}

struct obd_scratch *obd_scratch_get(void)
{
	return mine ? mine : scratch_create();
}

int obd_scratch_grow_segments(struct obd_scratch *scratch, size_t cnt)
{
	struct obd_segment *grown;

	if (cnt <= scratch->segment_cap)
		return 0;
	grown = malloc(cnt * sizeof(*grown));
	if (!grown)
		return OBD_E_NOMEM;
	free(scratch->segments);
	scratch->segments = grown;
	scratch->segment_cap = cnt;
	return 0;
}
