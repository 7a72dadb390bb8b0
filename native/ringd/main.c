/* obdsup-ringd: plays the kernel's part of a TCMU ring. */
#include "detach.h"
#include "fuse_front.h"
#include "load.h"
#include "options.h"

int main(int argc, char **argv)
{
	struct obd_options options;

	if (obd_options_parse(argc, argv, &options) < 0)
		return 2;
	if (options.is_detached)
		obd_detach_start();
	obd_detach_harden();
	return options.is_fuse ? obd_fuse_run(&options) : obd_load_run(&options);
}
