#include "obd_commit.h"

#include <fcntl.h>
#include <stdlib.h>

#include "obd_image.h"
#include "obd_index.h"
#include "obd_layer.h"
#include "obd_sealed_write.h"
#include "obd_upper.h"

/* What is read from. A segment's tag is the place of its layer: bottom 0, the pair last. */
struct sources {
	struct obd_upper *upper; /* NULL: none */
	uint64_t reserved;	 /* of a sparse one, whose writer we are */
	struct obd_index merged;
	uint64_t virtual_size_bytes;
	uint32_t layer_cnt;
	struct obd_layer layers[OBD_MAX_LOWERS];
};

static int read_source(void *ctx, uint8_t source, uint64_t moffset, uint64_t length, uint8_t *to,
		       struct obd_errinfo *info)
{
	struct sources *sources = ctx;
	struct iovec iov = {.iov_base = to, .iov_len = (size_t)length * 512};
	struct obd_cursor cursor;

	obd_cursor_init(&cursor, &iov, 1);
	if (source < sources->layer_cnt)
		return obd_layer_read(&sources->layers[source], moffset * 512, length * 512,
				      &cursor, 0, info);
	return obd_upper_read(sources->upper, moffset, length, &cursor, 0, info);
}

/* All that a pair maps, at one moment. */
static int collect_upper(struct obd_upper *upper, uint8_t tag, struct obd_errinfo *info,
			 struct obd_segment_list *ret)
{
	size_t cap = 4096;

	for (;;) {
		struct obd_segment *segments = malloc(cap * sizeof(*segments));
		size_t cnt;

		if (!segments)
			return obd_fail(info, OBD_E_NOMEM, NULL, "index of the writable layer");
		cnt = obd_upper_collect(upper, 0, OBD_LSMT_MAX_VIRTUAL_SECTORS, segments, cap);
		if (cnt <= cap) {
			/* records carry the tag that their writer gave them */
			for (size_t i = 0; i < cnt; i++)
				segments[i] =
					obd_segment_make(obd_segment_offset(segments[i]),
							 obd_segment_length(segments[i]),
							 obd_segment_moffset(segments[i]),
							 obd_segment_zeroed(segments[i]), tag);
			*ret = (struct obd_segment_list){segments, cnt};
			return 0;
		}
		free(segments);
		cap = cnt + cnt / 8;
	}
}

static void note_size(struct sources *sources, uint64_t virtual_size_bytes)
{
	if (virtual_size_bytes)
		sources->virtual_size_bytes = virtual_size_bytes;
}

static int open_layers(struct sources *sources, const struct obd_commit_spec *spec,
		       struct obd_segment_list *lists, struct obd_errinfo *info)
{
	for (uint32_t i = 0; i < spec->lower_cnt; i++) {
		struct obd_layer *layer = &sources->layers[i];
		const char *target = spec->target_paths ? spec->target_paths[i] : NULL;
		const char *gzip = spec->gzip_index_paths ? spec->gzip_index_paths[i] : NULL;
		int rc = obd_layer_init_warp(layer, spec->lower_paths[i], target, gzip, (uint8_t)i,
					     info);

		if (rc)
			return rc;
		sources->layer_cnt++;
		(void)posix_fadvise(layer->file.fd, 0, 0, POSIX_FADV_SEQUENTIAL);
		note_size(sources, layer->virtual_size_bytes);
		lists[i] = (struct obd_segment_list){layer->segments, layer->segment_cnt};
		layer->segments = NULL;
	}
	if (!spec->upper_data)
		return 0;
	int rc = obd_upper_create(spec->upper_data, spec->upper_index, (uint8_t)spec->lower_cnt,
				  info, &sources->upper);

	if (rc)
		return rc;
	if (obd_upper_is_sparse(sources->upper)) {
		rc = obd_upper_start_writing(sources->upper, &sources->reserved, info);
		/* files we may only read are not written to here */
		if (rc && rc != OBD_E_READONLY)
			return rc;
	}
	note_size(sources, obd_upper_virtual_size_bytes(sources->upper));
	return collect_upper(sources->upper, (uint8_t)spec->lower_cnt, info,
			     &lists[spec->lower_cnt]);
}

static int open_sources(struct sources *sources, const struct obd_commit_spec *spec,
			struct obd_errinfo *info)
{
	uint32_t cnt = spec->lower_cnt + (spec->upper_data != NULL);
	struct obd_segment_list *lists = NULL;
	int rc;

	if (!spec->upper_data != !spec->upper_index || spec->lower_cnt > OBD_MAX_LOWERS || !cnt)
		return obd_fail_value(info, OBD_E_INVAL, NULL, "number of layers", 0,
				      OBD_MAX_LOWERS, spec->lower_cnt);
	lists = calloc(cnt, sizeof(*lists));
	rc = lists ? open_layers(sources, spec, lists, info)
		   : obd_fail(info, OBD_E_NOMEM, NULL, "layers");
	if (!rc) {
		rc = obd_index_init(&sources->merged, lists, cnt);
		if (rc)
			obd_fail(info, rc, NULL, "merged index");
	} else {
		for (uint32_t i = 0; lists && i < cnt; i++)
			free(lists[i].segments);
	}
	free(lists);
	return rc;
}

static void close_sources(struct sources *sources)
{
	obd_index_deinit(&sources->merged);
	if (sources->upper)
		obd_upper_stop_writing(sources->upper);
	obd_upper_destroy(sources->upper);
	for (uint32_t i = 0; i < sources->layer_cnt; i++)
		obd_layer_deinit(&sources->layers[i]);
	free(sources);
}

int obd_commit_store(struct obd_sealed *sealed, const struct obd_output *output,
		     const struct obd_zfile_options *zfile, struct obd_progress *progress,
		     struct obd_errinfo *info, struct obd_committed *ret)
{
	struct obd_zfile_written written = {0};
	int rc;

	obd_progress_total(progress, sealed->content.size_bytes);
	if (zfile->algorithm == OBD_ALGORITHM_NONE) {
		written.file_bytes = sealed->content.size_bytes;
		rc = obd_content_copy(&sealed->content, output, obd_thread_cnt(zfile->thread_cnt),
				      progress, info);
	} else {
		rc = obd_zfile_write(&sealed->content, output, zfile, progress, info, &written);
	}
	if (rc)
		return rc;
	ret->file_bytes = written.file_bytes;
	ret->longest_bytes = written.longest_bytes;
	ret->layer_bytes = sealed->content.size_bytes;
	ret->segment_cnt = sealed->segment_cnt;
	ret->data_bytes = sealed->payload_sectors * 512;
	ret->zeroed_bytes = sealed->zeroed_sectors * 512;
	return 0;
}

/* The tag that the index gets for each layer: 0 is the top one. */
static void number_from_top(uint32_t layer_cnt, uint8_t *tags)
{
	for (uint32_t i = 0; i < layer_cnt; i++)
		tags[i] = (uint8_t)(layer_cnt - 1 - i);
}

int obd_commit(const struct obd_commit_spec *spec, int out_fd, const char *out_path,
	       uint64_t base_bytes, struct obd_progress *progress, struct obd_errinfo *info,
	       struct obd_committed *ret)
{
	struct obd_output output = {out_fd, out_path, base_bytes};
	struct sources *sources = calloc(1, sizeof(*sources));
	struct obd_sealed_source source = {sources, read_source};
	struct obd_committed done = {0};
	uint8_t tags[256] = {0};
	struct obd_lsmt_facts facts = {
		.uuid = spec->uuid,
		.parent_uuid = spec->parent_uuid,
		.user_tag = spec->user_tag,
	};
	struct obd_sealed sealed;
	int rc;

	if (!sources)
		return obd_fail(info, OBD_E_NOMEM, NULL, "layers");
	rc = open_sources(sources, spec, info);
	if (!rc) {
		facts.virtual_size_bytes = spec->virtual_size_bytes ? spec->virtual_size_bytes
								    : sources->virtual_size_bytes;
		if (spec->keeps_tags)
			number_from_top(spec->lower_cnt + (spec->upper_data != NULL), tags);
		rc = obd_sealed_init(&sealed, &facts, sources->merged.segments,
				     sources->merged.segment_cnt, tags, &source, info);
	}
	if (!rc) {
		rc = obd_commit_store(&sealed, &output, &spec->zfile, progress, info, &done);
		obd_sealed_deinit(&sealed);
	}
	if (!rc) {
		done.virtual_size_bytes = facts.virtual_size_bytes;
		*ret = done;
	}
	close_sources(sources);
	return rc;
}
