#!/bin/busybox sh
# PID 1 of the initramfs: mounts the host's root read-only over 9p with a tmpfs on top, the result
# folder read-write, and goes on with boot.sh from the result folder.
bb=/bin/busybox
fail() { echo "guest: init failed: $1"; $bb echo b > /proc/sysrq-trigger; }
$bb mount -t proc proc /proc
$bb mount -t devtmpfs devtmpfs /dev
while read -r module; do $bb insmod "/lib/$module" || fail "insmod $module"; done < /lib/order
share="trans=virtio,version=9p2000.L,msize=131072"
$bb mount -t 9p -o "$share,cache=loose,ro" root /lower || fail "root share"
$bb mount -t tmpfs -o size=60% upper /upper
$bb mkdir /upper/data /upper/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /new || fail overlay
$bb mkdir -p /new/result /new/proc /new/sys /new/dev
$bb mount -t 9p -o "$share,cache=none,rw" result /new/result || fail "result share"
$bb mount --move /proc /new/proc
$bb mount --move /dev /new/dev
exec $bb switch_root /new /bin/sh /result/boot.sh
fail switch_root
