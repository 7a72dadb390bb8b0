/*
 * Opening a stack of a million segments: merged from its layers, and from its kept index.
 *
 *	sidecar [ROUNDS]	raw and lz4 layers in a memory file system, the thread's own time
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "obd_image.h"
#include "support_image_files.h"

#define LAYERS	 4u
#define SEGMENTS 250000u /* of a layer */
#define SECTORS	 (LAYERS * SEGMENTS * 2ull)

static double thread_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Layer l has every fourth sector pair: none covers another, all million stay. */
static void make_layers(const char *dir, bool is_zfile, char paths[LAYERS][96])
{
	const struct image_zfile_options options = {.block_size = 4096,
						    .algo = 1,
						    .verify = true,
						    .is_overwritten = true,
						    .has_digest = true};
	uint8_t *disk = calloc(SECTORS, 512);
	struct obd_segment *segments = calloc(SEGMENTS, sizeof(*segments));

	REQUIRE(disk && segments);
	for (uint32_t l = 0; l < LAYERS; l++) {
		struct image_bytes layer;

		for (size_t i = 0; i < SEGMENTS; i++)
			segments[i] = obd_segment_make((i * LAYERS + l) * 2, 1, 0, false, 0);
		layer = image_layer_make(disk, SECTORS, segments, SEGMENTS);
		if (is_zfile) {
			struct image_bytes packed =
				image_zfile_make(layer.at, layer.length, &options);

			free(layer.at);
			layer = packed;
		}
		snprintf(paths[l], sizeof(paths[l]), "%s/layer%u", dir, l);
		image_file_write(paths[l], layer.at, layer.length);
		free(layer.at);
	}
	free(disk);
	free(segments);
}

static double open_ms(const struct obd_image_spec *spec, bool is_kept)
{
	struct obd_errinfo info;
	struct obd_image *image;
	struct obd_image_stat stat;
	double begin = thread_seconds();
	double took;

	if (obd_image_create(spec, &info, &image)) {
		fprintf(stderr, "%s %s\n", info.what, info.path);
		exit(1);
	}
	took = (thread_seconds() - begin) * 1e3;
	if (is_kept && obd_image_save_index(image, &info)) {
		fprintf(stderr, "%s %s\n", info.what, info.path);
		exit(1);
	}
	obd_image_stat(image, &stat);
	REQUIRE(stat.lower_segments == LAYERS * SEGMENTS);
	obd_image_destroy(image);
	return took;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 10;

	for (int is_zfile = 0; is_zfile < 2; is_zfile++) {
		char paths[LAYERS][96];
		const char *list[LAYERS] = {paths[0], paths[1], paths[2], paths[3]};
		struct obd_image_spec spec = {.lower_paths = list, .lower_cnt = LAYERS};
		double merged = 1e9;
		double kept = 1e9;
		char dir[64];

		image_dir_make(dir);
		make_layers(dir, is_zfile, paths);
		for (int i = 0; i < rounds; i++) {
			double now;

			spec.sidecar_dir = NULL;
			now = open_ms(&spec, false);
			merged = now < merged ? now : merged;
			spec.sidecar_dir = dir;
			now = open_ms(&spec, true);
			kept = i && now < kept ? now : kept;
		}
		printf("%s  10^6 segments of %u layers: merged %.1f ms, from the kept index %.1f "
		       "ms\n",
		       is_zfile ? "lz4" : "raw", LAYERS, merged, kept);
		image_dir_remove(dir);
	}
	return 0;
}
