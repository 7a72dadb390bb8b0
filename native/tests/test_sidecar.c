/*
 * The kept index of a stack: opened from it the image reads the same; a damaged, torn or foreign
 * one is as if there were none, and is replaced by the next save.
 */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_identity.h"
#include "obd_image.h"
#include "obd_sidecar.h"
#include "support_image_files.h"

#define SECTORS 40000u
#define LAYERS	3u

static uint8_t disk[SECTORS * 512];
static uint8_t got[SECTORS * 512];
static char dir[64];
static char cache[80];
static char paths[LAYERS][80];

/* Every second sector, so that there are enough segments; each layer covers a part of the others.
 */
static void make_layer(uint32_t l, uint32_t form, uint64_t *state)
{
	const struct image_zfile_options options = {
		.block_size = 4096, .algo = (uint8_t)form, .verify = true, .has_digest = true};
	struct obd_segment *segments = calloc(SECTORS, sizeof(*segments));
	struct image_bytes layer;
	size_t cnt = 0;

	REQUIRE(segments);
	for (uint64_t lba = l * 3000; lba < SECTORS - 8; lba += 2 + image_random(state) % 5)
		segments[cnt++] = obd_segment_make(lba, 1 + image_random(state) % 2, 0,
						   image_random(state) % 9 == 0, 0);
	for (size_t i = 0; i < cnt; i++)
		if (!obd_segment_zeroed(segments[i]))
			image_fill(disk + obd_segment_offset(segments[i]) * 512,
				   obd_segment_length(segments[i]) * 512, state);
	layer = image_layer_make(disk, SECTORS, segments, cnt);
	if (form) {
		struct image_bytes packed = image_zfile_make(layer.at, layer.length, &options);

		free(layer.at);
		layer = packed;
	}
	image_file_write(paths[l], layer.at, layer.length);
	free(layer.at);
	free(segments);
}

static struct obd_image *open_stack(uint32_t first, uint32_t cnt, const char *sidecar_dir)
{
	const char *list[LAYERS] = {paths[0], paths[1], paths[2]};
	struct obd_image_spec spec = {
		.lower_paths = list + first, .lower_cnt = cnt, .sidecar_dir = sidecar_dir};
	struct obd_errinfo info;
	struct obd_image *image;

	if (obd_image_create(&spec, &info, &image)) {
		fprintf(stderr, "%s %s\n", info.what, info.path);
		exit(1);
	}
	return image;
}

static void read_all(struct obd_image *image, uint8_t *to)
{
	struct iovec iov = {.iov_base = to, .iov_len = sizeof(disk)};

	REQUIRE(obd_image_read(image, 0, SECTORS, &iov, 1, 0, NULL) == 0);
}

/* Reads right, whatever is in the cache. */
static void check(uint32_t first, uint32_t cnt, bool is_saved)
{
	struct obd_image *plain = open_stack(first, cnt, NULL);
	struct obd_image *image = open_stack(first, cnt, cache);
	struct obd_image_stat expected;
	struct obd_image_stat stat;

	read_all(plain, disk);
	read_all(image, got);
	REQUIRE(memcmp(got, disk, sizeof(disk)) == 0);
	obd_image_stat(plain, &expected);
	obd_image_stat(image, &stat);
	REQUIRE(stat.lower_segments == expected.lower_segments);
	/* 17.07 bytes of 16, and jump tables 4.125 of 4 */
	REQUIRE(stat.index_memory_bytes < stat.lower_segments * 16 * 12 / 10 + 40000);
	if (is_saved) {
		REQUIRE(obd_image_save_index(image, NULL) == 0);
		REQUIRE(obd_image_save_index(image, NULL) == 0);
	}
	obd_image_destroy(plain);
	obd_image_destroy(image);
}

/* The one kept index, or "" when there is none; others than the key are counted. */
static uint32_t kept(char path[400])
{
	DIR *folder = opendir(cache);
	struct dirent *entry;
	uint32_t cnt = 0;

	REQUIRE(folder);
	path[0] = 0;
	while ((entry = readdir(folder))) {
		if (entry->d_name[0] == '.' || strcmp(entry->d_name, "key") == 0)
			continue;
		REQUIRE(strlen(entry->d_name) > 6 &&
			strcmp(entry->d_name + strlen(entry->d_name) - 6, ".index") == 0);
		snprintf(path, 400, "%s/%s", cache, entry->d_name);
		cnt++;
	}
	closedir(folder);
	return cnt;
}

/* Whether the kept file was used: the image has nothing to save then. */
static bool is_used(uint32_t first, uint32_t cnt, const char *path)
{
	struct obd_image *image = open_stack(first, cnt, cache);
	struct stat before;
	struct stat after;

	REQUIRE(stat(path, &before) == 0);
	REQUIRE(obd_image_save_index(image, NULL) == 0);
	REQUIRE(stat(path, &after) == 0);
	obd_image_destroy(image);
	return before.st_ino == after.st_ino;
}

static void damaged_files_are_replaced(void)
{
	struct image_bytes good;
	uint64_t state = 5;
	char path[400];

	REQUIRE(kept(path) == 1);
	good = image_file_read(path);
	REQUIRE(is_used(0, LAYERS, path));
	for (int i = 0; i < 100; i++) {
		size_t at = i < 64 ? (size_t)i : image_random(&state) % good.length;

		good.at[at] ^= (uint8_t)(1u << i % 8);
		image_file_write(path, good.at, good.length);
		if (i % 16 == 0)
			check(0, LAYERS, false);
		REQUIRE(!is_used(0, LAYERS, path));
		good.at[at] ^= (uint8_t)(1u << i % 8);
		REQUIRE(is_used(0, LAYERS, path)); /* is good again: it was replaced */
	}
	for (size_t length = 0; length < good.length; length += good.length / 9) {
		image_file_write(path, good.at, length);
		REQUIRE(!is_used(0, LAYERS, path));
	}
	REQUIRE(kept(path) == 1);
	free(good.at);
}

/* The same hashes, other segments: what a bug of a writer would leave. */
static void unsound_segments_are_refused(void)
{
	struct obd_layer layers[LAYERS];
	struct obd_sidecar sidecar;
	struct obd_errinfo info;
	struct obd_index index;
	struct obd_index loaded;

	for (uint32_t i = 0; i < LAYERS; i++)
		REQUIRE(obd_layer_open(&layers[i], paths[i], NULL, NULL, &info) == 0);
	REQUIRE(obd_sidecar_find(cache, layers, LAYERS, &info, &sidecar) == 0);
	REQUIRE(obd_sidecar_load(&sidecar, layers, LAYERS, &info, &index) == 0);
	for (int form = 0; form < 6; form++) {
		struct obd_segment was = index.segments[100];
		struct obd_segment *segment = &index.segments[100];
		uint64_t offset = obd_segment_offset(was);

		*segment = form == 0   ? obd_segment_make(offset, 1, 7, false, 0)
			   : form == 1 ? obd_segment_make(offset, 1, 1ull << 40, false, 0)
			   : form == 2 ? obd_segment_make(offset, 1, 8, false, LAYERS)
			   : form == 3 ? obd_segment_make(0, 1, 8, false, 0)
			   : form == 4 ? obd_segment_make(offset, 0, 8, false, 0)
				       : obd_segment_make(offset, 1, OBD_WARP_SECTOR, false, 0);
		REQUIRE(obd_sidecar_save(&sidecar, LAYERS, &index, &info) == 0);
		REQUIRE(obd_sidecar_load(&sidecar, layers, LAYERS, &info, &loaded) == OBD_E_FORMAT);
		*segment = was;
	}
	REQUIRE(obd_sidecar_save(&sidecar, LAYERS, &index, &info) == 0);
	REQUIRE(obd_sidecar_load(&sidecar, layers, LAYERS, &info, &loaded) == 0);
	REQUIRE(loaded.segment_cnt == index.segment_cnt);
	REQUIRE(memcmp(loaded.segments, index.segments, index.segment_cnt * 16) == 0);
	obd_index_deinit(&loaded);
	obd_index_deinit(&index);
	for (uint32_t i = 0; i < LAYERS; i++)
		obd_layer_deinit(&layers[i]);
}

/* A changed layer, fewer layers, another order of them: each has a name of its own. */
static void other_stacks_have_other_names(uint64_t *state)
{
	char path[400];

	check(0, 2, true);
	REQUIRE(kept(path) == 2);
	check(1, 2, true);
	REQUIRE(kept(path) == 3);
	make_layer(1, 0, state);
	check(0, LAYERS, true);
	REQUIRE(kept(path) == 4);
}

static void a_cache_that_can_not_be_used_is_none(void)
{
	char key[100];
	char path[400];

	snprintf(key, sizeof(key), "%s/key", cache);
	image_file_write(key, disk, 10);
	check(0, LAYERS, true);
	REQUIRE(unlink(key) == 0);
	check(0, LAYERS, true); /* a new key: the old names are found no more */
	REQUIRE(kept(path) == 5);
	strcat(cache, "/none");
	check(0, LAYERS, true);
	*strrchr(cache, '/') = 0;
}

static void identity_tells_apart(void)
{
	static struct obd_identity_key key;
	uint8_t bytes[3000] = {0};
	uint64_t state = 1;
	uint64_t seen[3100];
	size_t cnt = 0;

	for (size_t i = 0; i < sizeof(key) / 8; i++)
		((uint64_t *)&key)[i] = image_random(&state);
	for (size_t i = 0; i < 3000; i++) {
		struct obd_identity identity;

		obd_identity_init(&identity, &key);
		bytes[i] ^= 1;
		obd_identity_add(&identity, bytes, sizeof(bytes));
		bytes[i] ^= 1;
		seen[cnt++] = identity.value;
	}
	for (size_t length = 0; length < 100; length++) { /* zeros of every length */
		struct obd_identity identity;

		obd_identity_init(&identity, &key);
		obd_identity_add(&identity, bytes, length);
		seen[cnt++] = identity.value;
	}
	for (size_t i = 0; i < cnt; i++)
		for (size_t j = 0; j < i; j++)
			REQUIRE(seen[i] != seen[j]);
}

int main(void)
{
	uint64_t state = 3;

	identity_tells_apart();
	image_dir_make(dir);
	snprintf(cache, sizeof(cache), "%s/cache", dir);
	REQUIRE(mkdir(cache, 0700) == 0);
	for (uint32_t l = 0; l < LAYERS; l++) {
		snprintf(paths[l], sizeof(paths[l]), "%s/layer%u", dir, l);
		make_layer(l, l, &state);
	}
	check(0, LAYERS, true);
	check(0, LAYERS, true);
	damaged_files_are_replaced();
	unsound_segments_are_refused();
	other_stacks_have_other_names(&state);
	a_cache_that_can_not_be_used_is_none();
	image_dir_remove(cache);
	image_dir_remove(dir);
	return 0;
}
