/* CDBs to operations, errors to sense, and a hostile ring. */
#include <string.h>
#include <sys/uio.h>

#include "fake_kernel.h"
#include "obd_command.h"
#include "obd_flight.h"
#include "obd_scsi.h"
#include "support_image_files.h"

#define SECTORS 1000u

static const struct obd_unit writable = {.sectors = SECTORS, .is_writable = true, .uuid = {0xab}};
static const struct obd_unit read_only = {.sectors = SECTORS, .uuid = {0xab}};

static struct obd_scsi_op decode(const struct obd_unit *unit, const char *bytes, uint32_t length)
{
	struct obd_scsi_op op;

	obd_scsi_decode(unit, (const uint8_t *)bytes, length, &op);
	return op;
}

#define DECODE(unit, literal) decode(unit, literal, sizeof(literal) - 1)

static bool refuses(struct obd_scsi_op op, uint8_t key, uint8_t asc)
{
	return op.kind == OBD_SCSI_REFUSE && op.sense.key == key && op.sense.asc == asc &&
	       !op.sense.ascq;
}

static void test_transfers(void)
{
	struct obd_scsi_op op = DECODE(&writable, "\x08\x00\x01\x02\x00\x00"); /* READ(6), 256 */

	REQUIRE(op.kind == OBD_SCSI_READ && op.lba == 0x102 && op.sectors == 256);
	op = DECODE(&writable, "\x2a\x08\x00\x00\x01\x02\x00\x00\x03\x00");
	REQUIRE(op.kind == OBD_SCSI_WRITE && op.lba == 0x102 && op.sectors == 3 && op.is_fua);
	op = DECODE(&writable, "\xa8\x00\x00\x00\x00\x05\x00\x00\x00\x07\x00\x00");
	REQUIRE(op.kind == OBD_SCSI_READ && op.lba == 5 && op.sectors == 7 && !op.is_fua);
	op = DECODE(&writable, "\x8a\x00\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x02\x00\x00");
	REQUIRE(op.kind == OBD_SCSI_WRITE && op.lba == 9 && op.sectors == 2);
	op = DECODE(&writable,
		    "\x28\x00\x00\x00\x03\xe8\x00\x00\x00\x00"); /* nothing, at the end */
	REQUIRE(op.kind == OBD_SCSI_NOTHING);
	REQUIRE(refuses(DECODE(&writable, "\x28\x00\x00\x00\x03\xe8\x00\x00\x01\x00"), 5, 0x21));
	REQUIRE(refuses(DECODE(&writable, "\x28\x00\xff\xff\xff\xff\x00\xff\xff\x00"), 5, 0x21));
	REQUIRE(refuses(DECODE(&writable, "\x88\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
					  "\xff\x00\x00"),
			5, 0x21));
	REQUIRE(refuses(DECODE(&read_only, "\x2a\x00\x00\x00\x00\x01\x00\x00\x01\x00"), 7, 0x27));
	REQUIRE(refuses(DECODE(&writable, "\x28\x20\x00\x00\x00\x01\x00\x00\x01\x00"), 5, 0x24));
	REQUIRE(refuses(DECODE(&writable, "\x28\x00\x00\x00\x00\x01\x00\x00\x01"), 5, 0x20));
	REQUIRE(refuses(decode(&writable, "", 0), 5, 0x20));
}

static void test_other_commands(void)
{
	struct obd_scsi_op op = DECODE(
		&writable, "\x93\x08\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x08\x00\x00");

	REQUIRE(op.kind == OBD_SCSI_WRITE_SAME && op.lba == 16 && op.sectors == 8);
	REQUIRE(refuses(DECODE(&writable, "\x41\x00\x00\x00\x00\x10\x00\x00\x00\x00"), 5, 0x24));
	REQUIRE(refuses(DECODE(&read_only, "\x41\x00\x00\x00\x00\x10\x00\x00\x01\x00"), 7, 0x27));
	REQUIRE(DECODE(&writable, "\x35\x00\x00\x00\x00\x00\x00\x00\x00\x00").kind ==
		OBD_SCSI_FLUSH);
	REQUIRE(DECODE(&read_only, "\x35\x00\x00\x00\x00\x00\x00\x00\x00\x00").kind ==
		OBD_SCSI_NOTHING);
	REQUIRE(DECODE(&read_only, "\x00\x00\x00\x00\x00\x00").kind == OBD_SCSI_NOTHING);
	REQUIRE(DECODE(&read_only, "\x1b\x00\x00\x00\x01\x00").kind == OBD_SCSI_NOTHING);
	REQUIRE(DECODE(&writable, "\x42\x00\x00\x00\x00\x00\x00\x00\x00\x00").kind ==
		OBD_SCSI_NOTHING);
	REQUIRE(refuses(DECODE(&writable, "\x9e\x11\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
					  "\x20\x00\x00"),
			5, 0x24));
	REQUIRE(refuses(DECODE(&writable, "\x89\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
					  "\x01\x00\x00"),
			5, 0x20)); /* COMPARE AND WRITE */
}

/* No byte sequence does anything but decode, and what is accepted lies inside the disk. */
static void test_random_cdbs(void)
{
	uint64_t seed = 7;
	uint8_t cdb[OBD_JOURNAL_MAX_CDB], data[OBD_ANSWER_MAX_BYTES];
	struct obd_sense sense;
	struct obd_scsi_op op;

	for (uint32_t round = 0; round < 300000; round++) {
		uint32_t length = (uint32_t)(image_random(&seed) % (sizeof(cdb) + 1));

		for (uint32_t i = 0; i < sizeof(cdb); i++)
			cdb[i] = image_random(&seed) & 1 ? (uint8_t)image_random(&seed) : 0;
		cdb[0] = (uint8_t)round;
		obd_scsi_decode(round & 256 ? &writable : &read_only, cdb, length, &op);
		switch (op.kind) {
		case OBD_SCSI_ANSWER:
			REQUIRE(obd_answer(&writable, cdb, data, &sense) <= sizeof(data));
			break;
		case OBD_SCSI_WRITE:
		case OBD_SCSI_WRITE_SAME:
			REQUIRE(round & 256);
			/* fallthrough */
		case OBD_SCSI_READ:
			REQUIRE(op.sectors && op.lba < SECTORS && op.sectors <= SECTORS - op.lba);
			break;
		default:
			break;
		}
	}
}

static void test_unmap_lists(void)
{
	struct obd_range ranges[OBD_MAX_UNMAP_DESCRIPTORS];
	struct obd_sense sense;
	uint8_t list[8 + 16 * (OBD_MAX_UNMAP_DESCRIPTORS + 1)] = {0};

	list[3] = 16;
	list[15] = 5;
	list[19] = 3;
	REQUIRE(obd_unmap_parse(&writable, list, 24, ranges, &sense) == 1);
	REQUIRE(ranges[0].lba == 5 && ranges[0].sectors == 3);
	REQUIRE(obd_unmap_parse(&writable, list, 7, ranges, &sense) == -1 && sense.asc == 0x1a);
	REQUIRE(obd_unmap_parse(&writable, list, 23, ranges, &sense) == -1 && sense.asc == 0x1a);
	list[8] = 0xff; /* LBA */
	REQUIRE(obd_unmap_parse(&writable, list, 24, ranges, &sense) == -1 && sense.asc == 0x21);
	list[16] = 0xff; /* count */
	REQUIRE(obd_unmap_parse(&writable, list, 24, ranges, &sense) == -1 && sense.asc == 0x26);
	list[2] = (uint8_t)((sizeof(list) - 8) >> 8);
	list[3] = (uint8_t)(sizeof(list) - 8);
	REQUIRE(obd_unmap_parse(&writable, list, sizeof(list), ranges, &sense) == -1);
	REQUIRE(sense.asc == 0x26);
}

static void test_answers(void)
{
	uint8_t data[OBD_ANSWER_MAX_BYTES];
	struct obd_sense sense = OBD_SENSE_NONE;

	REQUIRE(obd_answer(&writable, (const uint8_t *)"\x12\x00\x00\x00\xff\x00", data, &sense) ==
		36);
	REQUIRE(data[0] == 0 && data[4] == 31 && !memcmp(data + 8, "OBDSUP  ", 8));
	REQUIRE(obd_answer(&writable, (const uint8_t *)"\x12\x01\xb0\x00\xff\x00", data, &sense) ==
		64);
	REQUIRE(data[1] == 0xb0 && data[23] == 0 && data[21] == 0x20 && data[27] == 32);
	REQUIRE(obd_answer(&writable, (const uint8_t *)"\x12\x01\xb2\x00\xff\x00", data, &sense) ==
		8);
	REQUIRE((data[5] & 0xc4) == 0xc4 && data[6] == 2);
	REQUIRE(obd_answer(&read_only, (const uint8_t *)"\x12\x01\xb2\x00\xff\x00", data, &sense) ==
		8);
	REQUIRE(data[5] == 0);
	REQUIRE(obd_answer(&writable, (const uint8_t *)"\x12\x01\x83\x00\xff\x00", data, &sense) ==
		60);
	REQUIRE(data[8] >> 4 == 3 && data[3] == 56);
	REQUIRE(!obd_answer(&writable, (const uint8_t *)"\x12\x01\x99\x00\xff\x00", data, &sense));
	REQUIRE(sense.key == 5 && sense.asc == 0x24);
	REQUIRE(obd_answer(&writable, (const uint8_t *)"\x25\0\0\0\0\0\0\0\0", data, &sense) == 8);
	REQUIRE(!memcmp(data, "\x00\x00\x03\xe7\x00\x00\x02\x00", 8));
	REQUIRE(obd_answer(&writable, (const uint8_t *)"\x9e\x10", data, &sense) == 32);
	REQUIRE(!memcmp(data + 4, "\x00\x00\x03\xe7\x00\x00\x02\x00", 8) && data[14] == 0xc0);
	REQUIRE(obd_answer(&writable, (const uint8_t *)"\x1a\x00\x08\x00\xff\x00", data, &sense) ==
		24);
	REQUIRE(data[0] == 23 && data[2] == 0x10 && data[4] == 8 && (data[6] & 4));
	REQUIRE(obd_answer(&read_only, (const uint8_t *)"\x5a\x00\x3f\x00\x00\x00", data, &sense) ==
		28);
	REQUIRE(data[1] == 26 && (data[3] & 0x80) && !(data[10] & 4));
	REQUIRE(!obd_answer(&writable, (const uint8_t *)"\x1a\x00\xc8\x00\xff\x00", data, &sense));
	REQUIRE(sense.asc == 0x39);
}

static void test_every_error_has_an_answer(void)
{
	struct obd_response response;

	for (int err = OBD_E_SHORT; err <= 0; err++)
		for (int direction = OBD_READING; direction <= OBD_WRITING; direction++) {
			obd_respond_error(&response, err, direction);
			REQUIRE((response.status == OBD_STATUS_GOOD) == !err);
			if (response.status == OBD_STATUS_CHECK_CONDITION)
				REQUIRE(response.sense[0] == 0x70 && response.sense[2] &&
					response.sense[12] && response.sense_bytes == 18);
			else
				REQUIRE(!err || response.status == OBD_STATUS_BUSY);
		}
	obd_respond_error(&response, OBD_E_CHECKSUM, OBD_READING);
	REQUIRE(response.sense[2] == 3 && response.sense[12] == 0x11);
	obd_respond_error(&response, OBD_E_IO, OBD_WRITING);
	REQUIRE(response.sense[2] == 3 && response.sense[12] == 0x0c);
	obd_respond_error(&response, OBD_E_NOSPACE, OBD_WRITING);
	REQUIRE(response.sense[2] == 7 && response.sense[12] == 0x27 && response.sense[13] == 7);
	obd_respond_error(&response, -1000, OBD_READING);
	REQUIRE(response.sense[2] == 4);
	obd_respond_error(&response, 5, OBD_READING);
	REQUIRE(response.sense[2] == 4);
}

/* Random bytes in mailbox, entries and positions: refused or parsed, never followed outside. */
static void test_hostile_rings(void)
{
	static struct fake_kernel kernel;
	struct obd_journal_slot slot;
	struct obd_entry entry;
	struct obd_ring ring;
	uint64_t seed = 3;
	uint32_t parsed = 0, refused = 0;

	fake_kernel_init(&kernel, 4096, 4, 0);
	for (uint32_t round = 0; round < 200000; round++) {
		uint32_t offset = (uint32_t)(image_random(&seed) % 512) * 8;
		uint8_t *at = kernel.map + 128 + offset;
		uint8_t cdb[10] = {0x28};

		fake_kernel_reset(&kernel, offset);
		REQUIRE(fake_kernel_queue(&kernel, 0, cdb, sizeof(cdb), NULL, 8192, true));
		if (fake_kernel_head(&kernel) < offset)
			continue;
		for (uint32_t flips = (uint32_t)(image_random(&seed) % 6); flips--;) {
			uint8_t *byte = at + image_random(&seed) % 140;

			if (byte < kernel.map + kernel.map_bytes)
				*byte = (uint8_t)image_random(&seed);
		}
		REQUIRE(!obd_ring_init_memory(&ring, kernel.map, kernel.map_bytes, "test", NULL));
		if (obd_ring_entry(&ring, offset, fake_kernel_head(&kernel) - offset, &entry) ||
		    (entry.kind == OBD_ENTRY_COMMAND &&
		     obd_ring_request(&ring, offset, &entry, &slot))) {
			refused++;
			continue;
		}
		parsed++;
		if (entry.kind != OBD_ENTRY_COMMAND)
			continue;
		REQUIRE(slot.iov_cnt <= OBD_JOURNAL_MAX_IOV);
		for (uint32_t i = 0; i < slot.iov_cnt; i++) {
			REQUIRE(slot.iov[i].offset_bytes >= ring.data_off);
			REQUIRE((uint64_t)slot.iov[i].offset_bytes + slot.iov[i].length_bytes <=
				ring.map_bytes);
		}
	}
	REQUIRE(parsed > 1000 && refused > 1000);
	for (uint32_t round = 0; round < 20000; round++) {
		fake_kernel_reset(&kernel, 0);
		for (uint32_t flips = 1 + (uint32_t)(image_random(&seed) % 3); flips--;)
			kernel.map[image_random(&seed) % 72] = (uint8_t)image_random(&seed);
		if (obd_ring_init_memory(&ring, kernel.map, kernel.map_bytes, "test", NULL))
			continue;
		REQUIRE(ring.data_off <= ring.map_bytes && ring.cmdr_off >= 72);
	}
	fake_kernel_deinit(&kernel);
}

int main(void)
{
	test_transfers();
	test_other_commands();
	test_random_cdbs();
	test_unmap_lists();
	test_answers();
	test_every_error_has_an_answer();
	test_hostile_rings();
	return 0;
}
