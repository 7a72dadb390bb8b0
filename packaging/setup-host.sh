#!/usr/bin/env bash
# Installs what the build, the demo and the tests need on Debian 12, once, quietly: one line per slow
# step, the log in .setup/apt.log. Runs as root; does nothing when everything is there.
set -eu
cd "$(dirname "$0")/.."
mkdir -p .setup

PACKAGES=(
  build-essential pkg-config python3-dev python3-venv libfuse3-dev liblz4-dev libzstd-dev  # build
  libext2fs-dev libarchive-dev libssl-dev zlib1g-dev erofs-utils                           # image tools
  fuse3 e2fsprogs util-linux kmod cpio xz-utils iproute2 procps psmisc                     # devices, guest
  runc busybox-static qemu-system-x86 fio sqlite3 systemd                                  # containers, guest, load
  clang clang-format libclang-rt-14-dev spin valgrind                                      # checks, fuzzing, model
  dmsetup xfsprogs                                                                         # power loss
)

missing=()
for package in "${PACKAGES[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
  echo "setup: these packages are missing and installing them needs root: ${missing[*]}" >&2
  exit 1
fi
echo "setup: installing ${#missing[@]} Debian packages (${missing[*]})"
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"; } \
  >.setup/apt.log 2>&1; then
  echo "setup: apt-get failed, the end of .setup/apt.log:" >&2
  tail -20 .setup/apt.log >&2
  exit 1
fi
