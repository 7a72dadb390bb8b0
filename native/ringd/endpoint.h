/* A listening socket at a path of any length, owned through a lock file beside it. */
#ifndef OBD_RINGD_ENDPOINT_H
#define OBD_RINGD_ENDPOINT_H

struct obd_endpoint {
	int directory_fd;
	int lock_fd;
	int listen_fd; /* non-blocking SOCK_SEQPACKET */
	char name[108];
	char lock_name[120];
};

/* Returns 0 or a negative errno (-EBUSY: the lock is held). Deinit in either case. */
int obd_endpoint_init(struct obd_endpoint *endpoint, const char *path);
/* Removes the socket and the lock file if they are ours. */
void obd_endpoint_deinit(struct obd_endpoint *endpoint);

#endif
