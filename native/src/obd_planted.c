#include "obd_planted.h"

#ifdef OBD_TEST_HOOKS

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_crash.h"

#define IMAGES_MAX     16u
#define FLIGHTS_MAX    64u
#define FLIGHT_BYTES   (64u << 10)
#define LANDS_AFTER_MS 150u

/* ---- writes of our own ---- */

struct late_write {
	struct obd_image *image;
	uint64_t lba;
	uint32_t sectors;
	uint32_t delay_ms;
	uint8_t data[];
};

void obd_planted_sleep_ms(uint32_t ms)
{
	struct timespec left = {ms / 1000, (long)(ms % 1000) * 1000000};

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static void *write_it(void *argument)
{
	struct late_write *late = argument;
	struct iovec iov = {late->data, (size_t)late->sectors * OBD_SECTOR_BYTES};

	obd_planted_sleep_ms(late->delay_ms);
	(void)!obd_image_write(late->image, late->lba, late->sectors, &iov, 1, 0, NULL);
	free(late);
	return NULL;
}

static void copy_out(const struct obd_command_site *site, uint8_t *to, size_t bytes)
{
	const struct obd_journal_slot *slot = site->slot;

	for (uint32_t i = 0; i < slot->iov_cnt && bytes; i++) {
		size_t part = slot->iov[i].length_bytes < bytes ? slot->iov[i].length_bytes : bytes;

		memcpy(to, site->ring->map + slot->iov[i].offset_bytes, part);
		to += part;
		bytes -= part;
	}
}

void obd_planted_write_later(const struct obd_command_site *site, const struct obd_scsi_op *op,
			     uint32_t delay_ms)
{
	size_t bytes = (size_t)op->sectors * OBD_SECTOR_BYTES;
	struct late_write *late = malloc(sizeof(*late) + bytes);
	pthread_t thread;

	if (!late)
		return;
	*late = (struct late_write){site->image, op->lba, op->sectors, delay_ms};
	copy_out(site, late->data, bytes);
	if (pthread_create(&thread, NULL, write_it, late))
		free(late);
	else
		pthread_detach(thread);
}

/* ---- images ---- */

static pthread_mutex_t images_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct obd_image *images[IMAGES_MAX];

void obd_planted_add_image(struct obd_image *image)
{
	pthread_mutex_lock(&images_mutex);
	for (uint32_t i = 0; i < IMAGES_MAX; i++) {
		if (images[i])
			continue;
		images[i] = image;
		break;
	}
	pthread_mutex_unlock(&images_mutex);
}

void obd_planted_remove_image(struct obd_image *image)
{
	pthread_mutex_lock(&images_mutex);
	for (uint32_t i = 0; i < IMAGES_MAX; i++)
		if (images[i] == image)
			images[i] = NULL;
	pthread_mutex_unlock(&images_mutex);
}

struct obd_image *obd_planted_other_image(struct obd_image *image)
{
	struct obd_image *other = image;

	pthread_mutex_lock(&images_mutex);
	for (uint32_t i = 0; i < IMAGES_MAX; i++)
		if (images[i] && images[i] != image)
			other = images[i];
	pthread_mutex_unlock(&images_mutex);
	return other;
}

/* ---- data that lands late ---- */

struct flight { /* one write that is under way */
	uint32_t state;
	uint32_t length;
	uint64_t at;
	char path[256];
	uint8_t data[FLIGHT_BYTES];
};
enum { FLIGHT_FREE, FLIGHT_TAKEN, FLIGHT_UNDER_WAY };

static struct flight *flights; /* shared with the lander */

static void land(const struct flight *flight)
{
	int fd = open(flight->path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	(void)!pwrite(fd, flight->data, flight->length, (off_t)flight->at);
	close(fd);
}

static void lander(pid_t worker)
{
	close_range(3, ~0u, 0);
	while (getppid() == worker)
		obd_planted_sleep_ms(1);
	obd_planted_sleep_ms(LANDS_AFTER_MS);
	for (uint32_t i = 0; i < FLIGHTS_MAX; i++)
		if (obd_load_acquire(&flights[i].state) == FLIGHT_UNDER_WAY)
			land(&flights[i]);
	_exit(0);
}

void obd_planted_start_lander(void)
{
	pid_t worker = getpid();
	void *map = mmap(NULL, FLIGHTS_MAX * sizeof(*flights), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		abort();
	flights = map;
	if (!fork())
		lander(worker);
}

static struct flight *free_flight(void)
{
	for (uint32_t i = 0; i < FLIGHTS_MAX; i++) {
		uint32_t expected = FLIGHT_FREE;

		if (__atomic_compare_exchange_n(&flights[i].state, &expected, FLIGHT_TAKEN, false,
						__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return &flights[i];
	}
	return NULL;
}

int obd_planted_take_off(const char *path, uint64_t at, uint64_t length, const struct iovec *iov,
			 uint32_t iov_cnt)
{
	struct flight *flight;
	uint32_t done = 0;

	if (length > FLIGHT_BYTES || strlen(path) >= sizeof(flight->path))
		return -1;
	flight = free_flight();
	if (!flight)
		return -1;
	for (uint32_t i = 0; i < iov_cnt && done < length; i++) {
		size_t part = iov[i].iov_len < length - done ? iov[i].iov_len : length - done;

		memcpy(flight->data + done, iov[i].iov_base, part);
		done += (uint32_t)part;
	}
	strcpy(flight->path, path);
	flight->at = at;
	flight->length = done;
	/* pairs with the lander, which looks when we are dead */
	obd_store_release(&flight->state, FLIGHT_UNDER_WAY);
	obd_planted_sleep_ms(2);
	return (int)(flight - flights);
}

void obd_planted_landed(int ticket)
{
	if (ticket >= 0)
		obd_store_release(&flights[ticket].state, FLIGHT_FREE);
}

#else
typedef int obd_planted_is_empty; /* ISO C forbids an empty translation unit */
#endif
