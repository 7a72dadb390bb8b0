#!/bin/sh
# PID 1 of the guest: a machine with the host's programs, then the command, then its status and the
# kernel log in the result folder. Copied there by the harness, next to command.sh and modules.path.
exec </dev/null >/dev/ttyS0 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mkdir -p /dev/pts /dev/shm
mount -t sysfs sysfs /sys
mount -t devpts devpts /dev/pts
# the checkout stays in reach when the fresh /tmp or /run hides it
cwd=$(cat /result/cwd.path)
mkdir -p /.checkout
mount --bind "$cwd" /.checkout
mount -t tmpfs -o size=30% tmpfs /dev/shm
mount -t tmpfs -o size=75% tmpfs /tmp
mount -t tmpfs -o size=30% tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
chmod 1777 /tmp /dev/shm
[ -d "$cwd" ] || { mkdir -p "$cwd" && mount --bind /.checkout "$cwd"; }
mkdir -p /run/lock
mkdir -p /lib/modules
mount --bind "$(cat /result/modules.path)" /lib/modules
modprobe -q configfs
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
ip link set lo up
hostname guest
stty -F /dev/ttyS1 raw -echo
if [ "$(cat /result/init)" = systemd ]; then
  . /result/systemd.sh
fi
setsid /bin/sh /result/command.sh >/dev/ttyS1 2>&1
exec /bin/sh /result/ending.sh $?
