#include "obd_process.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAP_BIT(cap) (UINT64_C(1) << (cap))
#define CAP_WORDS    _LINUX_CAPABILITY_U32S_3

/* Images lie where others put them, and belong to whoever made them. */
static const uint64_t kept_caps =
	CAP_BIT(CAP_DAC_OVERRIDE) | CAP_BIT(CAP_DAC_READ_SEARCH) | CAP_BIT(CAP_FOWNER);

int obd_process_set_io_flusher(void)
{
#ifdef PR_SET_IO_FLUSHER
	return prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0 ? 0 : -errno;
#else
	return -ENOSYS;
#endif
}

static int drop_bounding_set(void)
{
	for (unsigned long cap = 0; cap < 64; cap++) {
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) != 1 || (kept_caps & CAP_BIT(cap)))
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			return -errno;
	}
	return 0;
}

static int drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[CAP_WORDS];

	if (syscall(SYS_capget, &header, data))
		return -errno;
	for (unsigned int i = 0; i < CAP_WORDS; i++) {
		uint32_t kept = (uint32_t)(kept_caps >> (32 * i)) & data[i].permitted;

		data[i].permitted = data[i].effective = kept;
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &header, data) ? -errno : 0;
}

int obd_process_drop_privileges(void)
{
	int first = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
	/* The bounding set first: dropping from it needs a capability. */
	int bounding = drop_bounding_set();
	int own = drop_capabilities();

	if (first == 0)
		first = bounding;
	return first ? first : own;
}

#if defined(__x86_64__)
#define OBD_AUDIT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OBD_AUDIT_ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef OBD_AUDIT_ARCH

/* Numbers from 424 on are the same on all architectures, and newer than some headers. */
#define NR_io_uring_setup 425
#define NR_open_tree	  428
#define NR_move_mount	  429
#define NR_fsopen	  430
#define NR_fsconfig	  431
#define NR_fsmount	  432
#define NR_pidfd_getfd	  438
#define NR_mount_setattr  442

/* clang-format off */
#define DENY(number) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(number), 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

static const struct sock_filter filter[] = {
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OBD_AUDIT_ARCH, 1, 0),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#ifdef __x86_64__
	BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000U, 0, 1), /* x32: other numbers */
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	DENY(SYS_iopl), DENY(SYS_ioperm), DENY(SYS_modify_ldt),
#endif
	DENY(SYS_execve), DENY(SYS_execveat),
	DENY(SYS_ptrace), DENY(SYS_process_vm_readv), DENY(SYS_process_vm_writev),
	DENY(NR_pidfd_getfd), DENY(SYS_perf_event_open), DENY(SYS_userfaultfd), DENY(SYS_bpf),
	DENY(NR_io_uring_setup), DENY(SYS_open_by_handle_at),
	DENY(SYS_mount), DENY(SYS_umount2), DENY(SYS_pivot_root), DENY(SYS_chroot),
	DENY(NR_open_tree), DENY(NR_move_mount), DENY(NR_fsopen), DENY(NR_fsconfig),
	DENY(NR_fsmount), DENY(NR_mount_setattr),
	DENY(SYS_unshare), DENY(SYS_setns),
	DENY(SYS_init_module), DENY(SYS_finit_module), DENY(SYS_delete_module),
	DENY(SYS_kexec_load), DENY(SYS_reboot), DENY(SYS_swapon), DENY(SYS_swapoff),
	DENY(SYS_acct), DENY(SYS_quotactl), DENY(SYS_syslog),
	DENY(SYS_settimeofday), DENY(SYS_clock_settime), DENY(SYS_clock_adjtime), DENY(SYS_adjtimex),
	DENY(SYS_sethostname), DENY(SYS_setdomainname),
	DENY(SYS_add_key), DENY(SYS_request_key), DENY(SYS_keyctl), DENY(SYS_personality),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};
/* clang-format on */

int obd_process_filter_calls(void)
{
	struct sock_fprog program = {
		.len = sizeof(filter) / sizeof(filter[0]),
		.filter = (struct sock_filter *)(uintptr_t)filter,
	};

	/* Without SPEC_ALLOW kernels before 5.16 slow the whole process down. */
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program))
		return -errno;
	return 0;
}

#else

int obd_process_filter_calls(void)
{
	return -ENOSYS;
}

#endif
