#!/bin/sh
# The end of the guest, after the command: what is to be copied back, the kernel log, the status.
# $1 is the command's exit status.
while read -r path; do
  if [ -e "$path" ]; then
    mkdir -p "/result/back$(dirname "$path")"
    cp -a "$path" "/result/back$path"
  fi
done </result/back.paths
dmesg >/result/dmesg
stty -F /dev/ttyS1 sane # waits until the last byte is out
echo "$1" >/result/status.new
mv /result/status.new /result/status
# Not a power-off: with a dead disk its SYNCHRONIZE CACHE would hang. With -no-reboot QEMU exits.
echo b >/proc/sysrq-trigger
sleep 60
