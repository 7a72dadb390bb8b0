/*
 * A bitmap that hands out the lowest free number, as the kernel does for command ids and data
 * blocks: what was freed last is used again at once.
 */
#ifndef OBD_RINGD_BITMAP_H
#define OBD_RINGD_BITMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

struct obd_bitmap {
	uint64_t *words; /* a set bit is in use */
	uint32_t bit_cnt;
	uint32_t free_cnt;
	uint32_t first_word; /* every word before this one is full */
};

/* Returns 0 or -1 (out of memory). All bits are free. */
static inline int obd_bitmap_init(struct obd_bitmap *map, uint32_t bit_cnt)
{
	map->words = calloc((bit_cnt + 63u) / 64u, sizeof(*map->words));
	map->bit_cnt = bit_cnt;
	map->free_cnt = bit_cnt;
	map->first_word = 0;
	return map->words ? 0 : -1;
}

static inline void obd_bitmap_deinit(struct obd_bitmap *map)
{
	free(map->words);
	map->words = NULL;
}

/* Takes the lowest free bit. Precondition: free_cnt > 0. */
static inline uint32_t obd_bitmap_take(struct obd_bitmap *map)
{
	uint32_t word = map->first_word;
	uint32_t bit;

	while (map->words[word] == UINT64_MAX)
		word++;
	map->first_word = word;
	bit = (uint32_t)__builtin_ctzll(~map->words[word]);
	map->words[word] |= UINT64_C(1) << bit;
	map->free_cnt--;
	return word * 64u + bit;
}

static inline void obd_bitmap_put(struct obd_bitmap *map, uint32_t bit)
{
	map->words[bit / 64u] &= ~(UINT64_C(1) << (bit % 64u));
	map->free_cnt++;
	if (bit / 64u < map->first_word)
		map->first_word = bit / 64u;
}

#endif
