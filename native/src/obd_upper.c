/* A writable layer: made, read, counted and taken apart; what else it does has its own files. */
#include "obd_upper_internal.h"

#include <stdlib.h>
#include <sys/stat.h>

static int init_locks(struct obd_upper *upper)
{
	pthread_rwlockattr_t attr;
	int rc;

	if (pthread_mutex_init(&upper->commit, NULL) || pthread_mutex_init(&upper->flush, NULL) ||
	    pthread_mutex_init(&upper->fill, NULL) || pthread_rwlockattr_init(&attr))
		return OBD_E_NOMEM;
	for (uint32_t i = 0; i < OBD_UPPER_TURNS; i++)
		pthread_cond_init(&upper->turn_came[i], NULL);
	/* a stream of readers must not starve the writer */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	rc = pthread_rwlock_init(&upper->map_lock, &attr) ||
			     pthread_rwlock_init(&upper->order, &attr)
		     ? OBD_E_NOMEM
		     : 0;
	pthread_rwlockattr_destroy(&attr);
	return rc;
}

int obd_upper_create(const char *data_path, const char *index_path, uint8_t tag,
		     struct obd_errinfo *info, struct obd_upper **ret)
{
	struct obd_upper *upper = calloc(1, sizeof(*upper));
	int rc;

	if (!upper)
		return obd_fail(info, OBD_E_NOMEM, data_path, "writable layer");
	upper->data.fd = upper->index.fd = upper->pending.file.fd = upper->zeroes.fd = -1;
	upper->tag = tag;
	upper->index_end = OBD_LSMT_SPACE_BYTES;
	upper->committed_sectors = OBD_LSMT_FIRST_SECTOR;
	if (init_locks(upper) || obd_map_init(&upper->map)) {
		free(upper);
		return obd_fail(info, OBD_E_NOMEM, data_path, "writable layer");
	}
	rc = obd_upper_open_pair(upper, data_path, index_path, info);
	if (!rc)
		rc = obd_upper_read_headers(upper, info);
	if (!rc)
		rc = obd_upper_follow(upper, info);
	if (rc) {
		obd_upper_destroy(upper);
		return rc;
	}
	*ret = upper;
	return 0;
}

void obd_upper_destroy(struct obd_upper *upper)
{
	if (!upper)
		return;
	obd_file_close(&upper->data);
	obd_file_close(&upper->index); /* drops the writer's lock */
	obd_pending_deinit(&upper->pending);
	obd_zeroes_deinit(&upper->zeroes);
	obd_map_deinit(&upper->map);
	pthread_rwlock_destroy(&upper->map_lock);
	pthread_rwlock_destroy(&upper->order);
	pthread_mutex_destroy(&upper->fill);
	pthread_mutex_destroy(&upper->commit);
	pthread_mutex_destroy(&upper->flush);
	for (uint32_t i = 0; i < OBD_UPPER_TURNS; i++)
		pthread_cond_destroy(&upper->turn_came[i]);
	free(upper);
}

void obd_upper_set_below(struct obd_upper *upper, obd_upper_below_fn below, void *arg)
{
	upper->below = below;
	upper->below_arg = arg;
}

uint64_t obd_upper_virtual_size_bytes(const struct obd_upper *upper)
{
	return upper->virtual_size_bytes;
}

bool obd_upper_is_sparse(const struct obd_upper *upper)
{
	return upper->is_sparse;
}

size_t obd_upper_collect(struct obd_upper *upper, uint64_t begin, uint64_t end,
			 struct obd_segment *out, size_t cap)
{
	size_t cnt;

	pthread_rwlock_rdlock(&upper->map_lock);
	cnt = obd_map_collect(&upper->map, begin, end, out, cap);
	pthread_rwlock_unlock(&upper->map_lock);
	return cnt;
}

int obd_upper_read(struct obd_upper *upper, uint64_t moffset, uint64_t length,
		   struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info)
{
	return obd_file_read(&upper->data, moffset * 512, length * 512, cursor, flags, info);
}

void obd_upper_stat(struct obd_upper *upper, struct obd_image_stat *ret)
{
	struct stat st;

	pthread_mutex_lock(&upper->commit);
	pthread_rwlock_rdlock(&upper->map_lock);
	ret->upper_segments = upper->map.segment_cnt;
	ret->upper_records = (upper->index_end - OBD_LSMT_SPACE_BYTES) / OBD_LSMT_ENTRY_BYTES;
	ret->index_memory_bytes += obd_map_memory_bytes(&upper->map);
	pthread_rwlock_unlock(&upper->map_lock);
	if (fstat(upper->data.fd, &st) < 0)
		ret->upper_data_bytes = 0;
	else
		ret->upper_data_bytes =
			(uint64_t)(upper->is_sparse ? st.st_blocks * 512 : st.st_size);
	ret->torn_bytes_cut = upper->torn_bytes_cut;
	pthread_mutex_unlock(&upper->commit);
}
