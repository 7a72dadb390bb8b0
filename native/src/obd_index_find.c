/*
 * Lookups in the static tree. One body, compiled once per kind of processor: what differs is how
 * many keys of a node are not above the lba, and how many segments of a group end at or before it.
 */
#include "obd_index.h"

#include "obd_err.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define HAS_PATHS     1
#define TARGET_AVX2   __attribute__((target("avx2,popcnt")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512vl,avx512dq,avx2,popcnt")))
#else
#define HAS_PATHS 0
#endif

#define ALWAYS static inline __attribute__((always_inline))
#define BATCH  16u /* lookups under way at once: about what a core can have outstanding */

typedef uint32_t (*count_keys)(const void *node, uint64_t lba);
typedef uint32_t (*count_ends)(const struct obd_segment *group, uint64_t lba);

ALWAYS uint32_t keys_plain(const void *node, uint64_t lba)
{
	const uint32_t *keys = node;
	uint32_t cnt = 0;

	for (uint32_t i = 0; i < OBD_INDEX_FANOUT; i++)
		cnt += keys[i] <= (uint32_t)lba;
	return cnt;
}

ALWAYS uint32_t keys_wide(const void *node, uint64_t lba)
{
	const uint64_t *keys = node;
	uint32_t cnt = 0;

	for (uint32_t i = 0; i < OBD_INDEX_FANOUT; i++)
		cnt += keys[i] <= lba;
	return cnt;
}

ALWAYS uint32_t ends_plain(const struct obd_segment *group, uint64_t lba)
{
	uint32_t cnt = 0;

	for (uint32_t i = 0; i < OBD_INDEX_GROUP; i++)
		cnt += obd_segment_end(group[i]) <= lba;
	return cnt;
}

#if HAS_PATHS
TARGET_AVX2 ALWAYS uint32_t keys_avx2(const void *node, uint64_t lba)
{
	const __m256i *keys = node;
	__m256i sought = _mm256_set1_epi32((int32_t)lba);
	/* there is no unsigned comparison: key <= lba where the larger of the two is lba */
	__m256i low = _mm256_cmpeq_epi32(_mm256_max_epu32(_mm256_load_si256(keys), sought), sought);
	__m256i high =
		_mm256_cmpeq_epi32(_mm256_max_epu32(_mm256_load_si256(keys + 1), sought), sought);
	__m256i both = _mm256_packs_epi32(low, high);

	return (uint32_t)__builtin_popcount((uint32_t)_mm256_movemask_epi8(both)) / 2;
}

TARGET_AVX2 ALWAYS uint32_t ends_avx2(const struct obd_segment *group, uint64_t lba)
{
	const __m256i *at = (const __m256i *)group;
	__m256i low = _mm256_unpacklo_epi64(_mm256_load_si256(at), _mm256_load_si256(at + 1));
	__m256i offset = _mm256_and_si256(low, _mm256_set1_epi64x(OBD_SEGMENT_OFFSET_MASK));
	__m256i end = _mm256_add_epi64(offset, _mm256_srli_epi64(low, OBD_SEGMENT_LENGTH_SHIFT));
	__m256i beyond = _mm256_cmpgt_epi64(end, _mm256_set1_epi64x((int64_t)lba));

	return OBD_INDEX_GROUP - (uint32_t)__builtin_popcount(
					 (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(beyond)));
}

TARGET_AVX512 ALWAYS uint32_t keys_avx512(const void *node, uint64_t lba)
{
	__mmask16 below =
		_mm512_cmple_epu32_mask(_mm512_load_si512(node), _mm512_set1_epi32((int32_t)lba));

	return (uint32_t)__builtin_popcount(below);
}

TARGET_AVX512 ALWAYS uint32_t ends_avx512(const struct obd_segment *group, uint64_t lba)
{
	/* the words at odd places are `high`: compared like the others, and not counted */
	__m512i low = _mm512_load_si512(group);
	__m512i offset = _mm512_and_si512(low, _mm512_set1_epi64(OBD_SEGMENT_OFFSET_MASK));
	__m512i end = _mm512_add_epi64(offset, _mm512_srli_epi64(low, OBD_SEGMENT_LENGTH_SHIFT));
	__mmask8 over = _mm512_cmple_epu64_mask(end, _mm512_set1_epi64((int64_t)lba));

	return (uint32_t)__builtin_popcount(over & 0x55u);
}
#endif

/* lba < index->end, so that the answer exists and padding is never counted. */
ALWAYS size_t find_one(const struct obd_index *index, uint64_t lba, uint32_t node_bytes,
		       count_keys keys, count_ends ends)
{
	size_t node = 0;

	for (uint32_t level = index->levels; level-- > 0;)
		node = node * OBD_INDEX_FANOUT + keys(index->level[level] + node * node_bytes, lba);
	node *= OBD_INDEX_GROUP;
	return node + ends(index->segments + node, lba);
}

/* BATCH lookups, level by level; an lba at or beyond the end is looked up as 0, and replaced. */
ALWAYS void find_many(const struct obd_index *index, const uint64_t *lbas, uint32_t cnt,
		      size_t *ret, uint32_t node_bytes, count_keys keys, count_ends ends)
{
	uint64_t lba[BATCH];
	size_t node[BATCH];

	for (uint32_t i = 0; i < cnt; i++) {
		lba[i] = lbas[i] < index->end ? lbas[i] : 0;
		node[i] = 0;
	}
	for (uint32_t level = index->levels; level-- > 0;) {
		const uint8_t *at = index->level[level];
		const uint8_t *next =
			level ? index->level[level - 1] : (const uint8_t *)index->segments;
		size_t next_bytes =
			level ? node_bytes : OBD_INDEX_GROUP * sizeof(struct obd_segment);

		for (uint32_t i = 0; i < cnt; i++) {
			node[i] = node[i] * OBD_INDEX_FANOUT +
				  keys(at + node[i] * node_bytes, lba[i]);
			__builtin_prefetch(next + node[i] * next_bytes);
		}
	}
	for (uint32_t i = 0; i < cnt; i++) {
		size_t at = node[i] * OBD_INDEX_GROUP;

		at += ends(index->segments + at, lba[i]);
		ret[i] = lbas[i] < index->end ? at : index->segment_cnt;
	}
}

#define NARROW_BYTES (OBD_INDEX_FANOUT * (uint32_t)sizeof(uint32_t))
#define WIDE_BYTES   (OBD_INDEX_FANOUT * (uint32_t)sizeof(uint64_t))

#if HAS_PATHS
TARGET_AVX2 static size_t find_avx2(const struct obd_index *index, uint64_t lba)
{
	return find_one(index, lba, NARROW_BYTES, keys_avx2, ends_avx2);
}

TARGET_AVX2 static void many_avx2(const struct obd_index *index, const uint64_t *lbas, uint32_t cnt,
				  size_t *ret)
{
	find_many(index, lbas, cnt, ret, NARROW_BYTES, keys_avx2, ends_avx2);
}

TARGET_AVX512 static size_t find_avx512(const struct obd_index *index, uint64_t lba)
{
	return find_one(index, lba, NARROW_BYTES, keys_avx512, ends_avx512);
}

TARGET_AVX512 static void many_avx512(const struct obd_index *index, const uint64_t *lbas,
				      uint32_t cnt, size_t *ret)
{
	find_many(index, lbas, cnt, ret, NARROW_BYTES, keys_avx512, ends_avx512);
}
#endif

enum obd_index_path obd_index_best_path(void)
{
#if HAS_PATHS
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
	    __builtin_cpu_supports("avx512dq"))
		return OBD_INDEX_AVX512;
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt"))
		return OBD_INDEX_AVX2;
#endif
	return OBD_INDEX_PLAIN;
}

size_t obd_index_find(const struct obd_index *index, uint64_t lba)
{
	if (lba >= index->end)
		return index->segment_cnt;
	if (index->is_wide)
		return find_one(index, lba, WIDE_BYTES, keys_wide, ends_plain);
#if HAS_PATHS
	if (index->path == OBD_INDEX_AVX512)
		return find_avx512(index, lba);
	if (index->path == OBD_INDEX_AVX2)
		return find_avx2(index, lba);
#endif
	return find_one(index, lba, NARROW_BYTES, keys_plain, ends_plain);
}

static void find_some(const struct obd_index *index, const uint64_t *lbas, uint32_t cnt,
		      size_t *ret)
{
	if (index->is_wide)
		find_many(index, lbas, cnt, ret, WIDE_BYTES, keys_wide, ends_plain);
#if HAS_PATHS
	else if (index->path == OBD_INDEX_AVX512)
		many_avx512(index, lbas, cnt, ret);
	else if (index->path == OBD_INDEX_AVX2)
		many_avx2(index, lbas, cnt, ret);
#endif
	else
		find_many(index, lbas, cnt, ret, NARROW_BYTES, keys_plain, ends_plain);
}

void obd_index_find_batch(const struct obd_index *index, const uint64_t *lbas, size_t cnt,
			  size_t *ret)
{
	for (size_t i = 0; i < cnt; i += BATCH) {
		size_t left = cnt - i;

		if (index->segment_cnt)
			find_some(index, lbas + i, left < BATCH ? (uint32_t)left : BATCH, ret + i);
		else
			for (size_t j = i; j < cnt && j < i + BATCH; j++)
				ret[j] = 0;
	}
}
