/*
 * prog_index SEGMENTS LOOKUPS one|batch: random lookups, the best way this processor has. Under
 * valgrind the instructions of look_up() are what a test counts; the answer is the number of
 * lookups that came out right.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "obd_index.h"

__attribute__((noinline)) void look_up(const struct obd_index *index, const uint64_t *lbas,
				       size_t cnt, size_t *found, int is_batch);

void look_up(const struct obd_index *index, const uint64_t *lbas, size_t cnt, size_t *found,
	     int is_batch)
{
	if (is_batch)
		obd_index_find_batch(index, lbas, cnt, found);
	else
		for (size_t i = 0; i < cnt; i++)
			found[i] = obd_index_find(index, lbas[i]);
}

int main(int argc, char **argv)
{
	size_t segments = argc > 3 ? strtoull(argv[1], NULL, 10) : 0;
	size_t cnt = argc > 3 ? strtoull(argv[2], NULL, 10) : 0;
	uint64_t *lbas = calloc(cnt + 1, sizeof(*lbas));
	size_t *found = calloc(cnt + 1, sizeof(*found));
	struct obd_index index;
	uint64_t state = 1;
	size_t right = 0;

	if (!segments || !lbas || !found || obd_index_reserve(&index, segments))
		return 1;
	for (size_t i = 0; i < segments; i++)
		index.segments[i] = obd_segment_make(i * 16, 16, 8, false, 0);
	if (obd_index_build(&index))
		return 1;
	for (size_t i = 0; i < cnt; i++) {
		state = state * 6364136223846793005ull + 1442695040888963407ull;
		lbas[i] = (state >> 20) % (segments * 16);
	}
	look_up(&index, lbas, cnt, found, strcmp(argv[3], "batch") == 0);
	for (size_t i = 0; i < cnt; i++)
		right += found[i] == lbas[i] / 16;
	printf("%zu of %zu by path %d\n", right, cnt, (int)index.path);
	obd_index_deinit(&index);
	free(lbas);
	free(found);
	return 0;
}
