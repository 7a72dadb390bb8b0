#include "obd_ring.h"

#include <errno.h>
#include <linux/target_core_user.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "obd_barrier.h"
#include "obd_crash.h"

#define UFLAG_MARK    0x80 /* none of TCMU_UFLAG_* */
#define REQUEST_BYTES offsetof(struct tcmu_cmd_entry, req.iov)

_Static_assert(offsetof(struct tcmu_mailbox, cmd_head) == 12, "cmd_head");
_Static_assert(offsetof(struct tcmu_mailbox, cmd_tail) == 64, "cmd_tail");
_Static_assert(sizeof(struct tcmu_cmd_entry_hdr) == 8, "entry header");
_Static_assert(sizeof(struct tcmu_cmd_entry) == 112, "entry with response");
_Static_assert(REQUEST_BYTES == 48, "request");
_Static_assert(offsetof(struct tcmu_cmd_entry, req.cdb_off) == 24, "cdb_off");
_Static_assert(TCMU_OP_ALIGN_SIZE == OBD_RING_ALIGN_BYTES, "alignment");
_Static_assert(sizeof(struct iovec) == 16, "iovec of a 64-bit kernel");

static uint32_t *cmd_head(const struct obd_ring *ring)
{
	return (uint32_t *)(void *)(ring->map + offsetof(struct tcmu_mailbox, cmd_head));
}

static uint32_t *cmd_tail(const struct obd_ring *ring)
{
	return (uint32_t *)(void *)(ring->map + offsetof(struct tcmu_mailbox, cmd_tail));
}

int obd_ring_init_memory(struct obd_ring *ring, void *map, uint64_t map_bytes, const char *name,
			 struct obd_errinfo *info)
{
	struct tcmu_mailbox mailbox;
	struct obd_ring checked = {.map = map, .map_bytes = map_bytes};
	uint32_t position;

	if (map_bytes < 4096 || map_bytes > UINT32_MAX)
		return obd_fail_value(info, OBD_E_RING, name, "ring map_bytes", 0, 4096, map_bytes);
	memcpy(&mailbox, map, sizeof(mailbox));
	if (mailbox.version != TCMU_MAILBOX_VERSION)
		return obd_fail_value(info, OBD_E_RING, name, "mailbox version", 0,
				      TCMU_MAILBOX_VERSION, mailbox.version);
	if (!(mailbox.flags & TCMU_MAILBOX_FLAG_CAP_OOOC))
		return obd_fail_value(info, OBD_E_RING, name, "mailbox flags: out of order", 2,
				      TCMU_MAILBOX_FLAG_CAP_OOOC, mailbox.flags);
	if (mailbox.cmdr_off < sizeof(mailbox) || mailbox.cmdr_off % 8 ||
	    mailbox.cmdr_off >= map_bytes)
		return obd_fail_value(info, OBD_E_RING, name, "mailbox cmdr_off", 4,
				      sizeof(mailbox), mailbox.cmdr_off);
	if (mailbox.cmdr_size < sizeof(struct tcmu_cmd_entry) || mailbox.cmdr_size % 8 ||
	    mailbox.cmdr_size > map_bytes - mailbox.cmdr_off)
		return obd_fail_value(info, OBD_E_RING, name, "mailbox cmdr_size", 8,
				      map_bytes - mailbox.cmdr_off, mailbox.cmdr_size);
	checked.cmdr_off = mailbox.cmdr_off;
	checked.cmdr_bytes = mailbox.cmdr_size;
	checked.data_off = (uint64_t)mailbox.cmdr_off + mailbox.cmdr_size;
	checked.has_read_len = mailbox.flags & TCMU_MAILBOX_FLAG_CAP_READ_LEN;
	if (obd_ring_head(&checked, &position))
		return obd_fail(info, OBD_E_RING, name, "mailbox cmd_head outside the ring");
	if (obd_ring_tail(&checked, &position))
		return obd_fail(info, OBD_E_RING, name, "mailbox cmd_tail outside the ring");
	*ring = checked;
	return 0;
}

int obd_ring_init(struct obd_ring *ring, int fd, uint64_t map_bytes, const char *name,
		  struct obd_errinfo *info)
{
	struct stat st;
	void *map;
	int rc;

	if (fstat(fd, &st))
		return obd_fail_errno(info, OBD_E_RING, errno, name, "fstat of the ring");
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size < map_bytes)
		return obd_fail_value(info, OBD_E_RING, name, "ring file size", 0, map_bytes,
				      (uint64_t)st.st_size);
	if (map_bytes < 4096 || map_bytes > UINT32_MAX)
		return obd_fail_value(info, OBD_E_RING, name, "ring map_bytes", 0, 4096, map_bytes);
	map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return obd_fail_errno(info, OBD_E_RING, errno, name, "mmap of the ring");
	rc = obd_ring_init_memory(ring, map, map_bytes, name, info);
	if (rc)
		munmap(map, map_bytes);
	return rc;
}

void obd_ring_deinit(struct obd_ring *ring)
{
	if (ring->map)
		munmap(ring->map, ring->map_bytes);
	ring->map = NULL;
}

static int position(const struct obd_ring *ring, uint32_t value, uint32_t *ret)
{
	if (value >= ring->cmdr_bytes || value % TCMU_OP_ALIGN_SIZE)
		return OBD_E_RING;
	*ret = value;
	return 0;
}

int obd_ring_head(const struct obd_ring *ring, uint32_t *ret)
{
	return position(ring, obd_load_acquire(cmd_head(ring)), ret);
}

int obd_ring_tail(const struct obd_ring *ring, uint32_t *ret)
{
	return position(ring, obd_load_acquire(cmd_tail(ring)), ret);
}

bool obd_ring_move_tail(struct obd_ring *ring, uint32_t from, uint32_t to)
{
	return obd_replace_release(cmd_tail(ring), from, to);
}

static uint8_t *first_uflags(const struct obd_ring *ring)
{
	return ring->map + ring->cmdr_off + offsetof(struct tcmu_cmd_entry_hdr, uflags);
}

void obd_ring_mark_first(struct obd_ring *ring)
{
	OBD_CRASH_POINT("ring.mark");
	obd_store_relaxed(first_uflags(ring), UFLAG_MARK);
}

bool obd_ring_is_first_marked(const struct obd_ring *ring)
{
	return obd_load_relaxed(first_uflags(ring)) & UFLAG_MARK;
}

int obd_ring_entry(const struct obd_ring *ring, uint32_t offset, uint32_t available_bytes,
		   struct obd_entry *ret)
{
	struct tcmu_cmd_entry_hdr header;
	uint32_t length, room = ring->cmdr_bytes - offset;

	if (available_bytes < sizeof(header) || room < sizeof(header))
		return OBD_E_RING;
	memcpy(&header, ring->map + ring->cmdr_off + offset, sizeof(header));
	length = tcmu_hdr_get_len(header.len_op);
	if (length < sizeof(header) || length > available_bytes || length > room)
		return OBD_E_RING;
	switch (header.len_op & TCMU_OP_MASK) {
	case TCMU_OP_PAD:
	case TCMU_OP_TMR:
		ret->kind = OBD_ENTRY_SKIP;
		ret->is_known = true;
		break;
	default:
		if (length < sizeof(struct tcmu_cmd_entry))
			return OBD_E_RING; /* no room for a response */
		ret->kind = OBD_ENTRY_COMMAND;
		ret->is_known = (header.len_op & TCMU_OP_MASK) == TCMU_OP_CMD;
	}
	ret->cmd_id = header.cmd_id;
	ret->next = length == room ? 0 : offset + length;
	return 0;
}

/* Length by the group code of the opcode (SPC-4 4.2.5); what we do not know is cut to `room`. */
static uint32_t cdb_length(uint8_t opcode, uint32_t room)
{
	static const uint8_t by_group[8] = {6, 10, 10, OBD_JOURNAL_MAX_CDB, 16, 12, 0, 0};
	uint32_t length = by_group[opcode >> 5];

	if (!length || opcode >> 5 == 3)
		return room < OBD_JOURNAL_MAX_CDB ? room : OBD_JOURNAL_MAX_CDB;
	return length;
}

static int copy_iov(const struct obd_ring *ring, const uint8_t *at, struct obd_journal_iov *ret)
{
	struct iovec iov;
	uint64_t base;

	memcpy(&iov, at, sizeof(iov));
	base = (uint64_t)(uintptr_t)iov.iov_base;
	if (base < ring->data_off || base > ring->map_bytes || iov.iov_len > ring->map_bytes - base)
		return OBD_E_RING;
	ret->offset_bytes = (uint32_t)base;
	ret->length_bytes = (uint32_t)iov.iov_len;
	return 0;
}

int obd_ring_request(const struct obd_ring *ring, uint32_t offset, const struct obd_entry *entry,
		     struct obd_journal_slot *slot)
{
	const uint8_t *at = ring->map + ring->cmdr_off + offset;
	uint32_t length = obd_ring_distance(ring, offset, entry->next);
	uint64_t cdb_at, iov_cnt;
	struct {
		uint32_t iov_cnt, iov_bidi_cnt, iov_dif_cnt, unused;
		uint64_t cdb_off;
	} request;
	int rc;

	slot->ring_offset = offset;
	slot->cmd_id = entry->cmd_id;
	slot->iov_cnt = 0;
	slot->old_starts = slot->deaths = 0;
	memset(slot->cdb, 0, sizeof(slot->cdb));
	if (!entry->is_known) {
		slot->cdb_bytes = OBD_SLOT_UNKNOWN_OP;
		return 0;
	}
	memcpy(&request, at + sizeof(struct tcmu_cmd_entry_hdr), sizeof(request));
	iov_cnt = (uint64_t)request.iov_cnt + request.iov_bidi_cnt + request.iov_dif_cnt;
	cdb_at = request.cdb_off - ring->cmdr_off - offset; /* wraps to huge when it lies before */
	if (iov_cnt > (length - REQUEST_BYTES) / sizeof(struct iovec) || cdb_at < REQUEST_BYTES ||
	    cdb_at >= length)
		return OBD_E_RING;
	slot->cdb_bytes = (uint16_t)cdb_length(at[cdb_at], length - (uint32_t)cdb_at);
	if (slot->cdb_bytes > length - cdb_at)
		return OBD_E_RING;
	memcpy(slot->cdb, at + cdb_at, slot->cdb_bytes);
	if (request.iov_cnt > OBD_JOURNAL_MAX_IOV || request.iov_bidi_cnt) {
		slot->cdb_bytes = 0;
		return 0;
	}
	for (uint32_t i = 0; i < request.iov_cnt; i++) {
		rc = copy_iov(ring, at + REQUEST_BYTES + i * sizeof(struct iovec), &slot->iov[i]);
		if (rc)
			return rc;
	}
	slot->iov_cnt = request.iov_cnt;
	return 0;
}

void obd_ring_respond(struct obd_ring *ring, uint32_t offset, uint16_t cmd_id,
		      const struct obd_response *response)
{
	struct tcmu_cmd_entry *entry = (void *)(ring->map + ring->cmdr_off + offset);
	uint8_t uflags = 0;

	if (response->is_unknown_op)
		uflags |= TCMU_UFLAG_UNKNOWN_OP;
	if (response->has_read_len && ring->has_read_len)
		uflags |= TCMU_UFLAG_READ_LEN;
	OBD_CRASH_POINT("publish.cmd_id");
	entry->hdr.cmd_id = cmd_id;
	OBD_CRASH_POINT("publish.response");
	entry->hdr.uflags = uflags;
	memset(&entry->rsp, 0, sizeof(entry->rsp));
	entry->rsp.scsi_status = response->status;
	entry->rsp.read_len = response->read_len;
	memcpy(entry->rsp.sense_buffer, response->sense, response->sense_bytes);
}
