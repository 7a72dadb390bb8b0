#!/bin/sh
# Replaces boot.sh as PID 1 by systemd, with the command as a unit of it. Nothing of the host's is
# started but journald and what sets the kernel up: emulated, each unit costs a second.
units=/run/systemd/system
mkdir -p $units
for wants in /lib/systemd/system/*.wants /etc/systemd/system/*.wants; do
  for unit in "$wants"/*; do
    name=$(basename "$unit")
    case $name in
      "*" | systemd-journald* | systemd-sysctl.service | systemd-modules-load.service) ;;
      *) [ -e "/etc/systemd/system/$name" ] || ln -sf /dev/null "$units/$name" ;;
    esac
  done
done
mkdir -p /etc/systemd/system-generators
for generator in /lib/systemd/system-generators/*; do
  ln -sf /dev/null "/etc/systemd/system-generators/$(basename "$generator")"
done
cat >$units/guest.target <<UNIT
[Unit]
Description=The guest's command
Requires=basic.target guest-command.service
After=basic.target
UNIT
cat >$units/guest-command.service <<UNIT
[Unit]
Description=The command that the guest was started for
After=basic.target

[Service]
ExecStart=/bin/sh -c '/bin/sh /result/command.sh >/dev/ttyS1 2>&1; exec /bin/sh /result/ending.sh \$\$?'
EnvironmentFile=/run/guest.environment
Delegate=yes
UNIT
printf 'PATH=%s\nHOME=%s\nLANG=%s\n' "$PATH" "$HOME" "$LANG" >/run/guest.environment
exec /lib/systemd/systemd --unit=guest.target --show-status=no
