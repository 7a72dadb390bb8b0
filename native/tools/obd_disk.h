/*
 * Whole disks, by several threads: an image or a raw file, exported, compared, made a layer of.
 *
 * What is a hole in both is not read. Beyond its end a disk is zeros.
 */
#ifndef OBD_DISK_H
#define OBD_DISK_H

#include <stddef.h>
#include <stdint.h>

#include "obd_commit.h"
#include "obd_image.h"
#include "obd_progress.h"

/* One of the two is set. */
struct obd_disk_spec {
	const struct obd_image_spec *image;
	const char *raw_path; /* a file or block device of whole sectors */
};

/*
 * Writes the image's disk to out_fd. is_stream: all of it, in order, to a pipe or socket; else
 * what is not zero, at its place, to a file that reads as zeros elsewhere.
 */
int obd_disk_export(const struct obd_image_spec *image, int out_fd, const char *out_path,
		    uint32_t is_stream, uint32_t thread_cnt, struct obd_progress *progress,
		    struct obd_errinfo *info);

struct obd_disk_range {
	uint64_t begin; /* sectors */
	uint64_t end;
	uint32_t is_zeroed; /* zeros on the left, something else on the right */
	uint32_t reserved;
};

struct obd_disk_ranges {
	struct obd_disk_range *at; /* in order, disjoint; free it with obd_disk_ranges_deinit */
	size_t cnt;
	uint64_t left_bytes; /* sizes of the disks */
	uint64_t right_bytes;
	uint64_t differing_bytes; /* also those of ranges beyond `cap` */
	uint64_t range_cnt;
};

/*
 * Where the left disk differs from the right one (NULL: zeros everywhere), sector by sector; of
 * the ranges the first `cap` are kept.
 */
int obd_disk_compare(const struct obd_disk_spec *left, const struct obd_disk_spec *right,
		     size_t cap, uint32_t thread_cnt, struct obd_progress *progress,
		     struct obd_errinfo *info, struct obd_disk_ranges *ret);
void obd_disk_ranges_deinit(struct obd_disk_ranges *ranges);

/*
 * Writes the sealed layer that makes the raw disk of the base (NULL: of nothing): what differs.
 * Of `facts` all but sources and virtual size count. As obd_commit else.
 */
int obd_disk_import(const char *raw_path, const struct obd_image_spec *base,
		    const struct obd_commit_spec *facts, int out_fd, const char *out_path,
		    uint64_t base_bytes, struct obd_progress *progress, struct obd_errinfo *info,
		    struct obd_committed *ret);

#endif
