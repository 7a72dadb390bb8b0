#include "support_crash_met.h"

#include "support_image_files.h"

#define FIRST_SIZE (1u << 16)

static struct crash_met *find(struct crash_met *entries, uint64_t size, struct crash_key key)
{
	uint64_t at = key.low & (size - 1);

	while (entries[at].is_used &&
	       (entries[at].key.low != key.low || entries[at].key.high != key.high))
		at = (at + 1) & (size - 1);
	return &entries[at];
}

struct crash_met *crash_met_find(const struct crash_met_table *table, struct crash_key key)
{
	return find(table->entries, table->size, key);
}

static void grow(struct crash_met_table *table)
{
	uint64_t size = 2 * table->size;
	struct crash_met *entries = calloc(size, sizeof(*entries));

	REQUIRE(entries);
	for (uint64_t i = 0; i < table->size; i++)
		if (table->entries[i].is_used)
			*find(entries, size, table->entries[i].key) = table->entries[i];
	free(table->entries);
	table->entries = entries;
	table->size = size;
}

void crash_met_add(struct crash_met_table *table, struct crash_met *entry, struct crash_key key)
{
	*entry = (struct crash_met){.key = key, .is_used = true};
	if (++table->used > table->size / 2)
		grow(table);
}

void crash_met_clear(struct crash_met_table *table)
{
	free(table->entries);
	*table = (struct crash_met_table){.size = FIRST_SIZE};
	table->entries = calloc(table->size, sizeof(*table->entries));
	REQUIRE(table->entries);
}
