"""What the images hold: redis for the demo and campaigns, git and a compiler for builds."""

from __future__ import annotations

from chaos.rig.image import Recipe

__all__ = ["GIT", "REDIS"]

REDIS_CONF = """\
# Every acknowledged write is on the device: that is what the demo checks.
port 0
unixsocket /run/redis.sock
unixsocketperm 700
dir /data
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
save ""
daemonize no
pidfile ""
"""

REDIS = Recipe(
    name="redis",
    revision="1",
    packages=("redis-server", "redis-tools"),
    with_libraries=True,
    kept=("lib", "lib64", "usr/lib", "usr/bin/redis-*"),
    dropped=(
        "lib/systemd",
        "usr/lib/systemd",
        "usr/lib/tmpfiles.d",
        "usr/lib/sysusers.d",
        "usr/lib/*/gconv",
        "usr/bin/redis-benchmark",
        "usr/bin/redis-sentinel",
    ),
    files={"etc/redis.conf": REDIS_CONF},
    folders=("data",),
    proof="usr/bin/redis-check-rdb",
    probe="usr/lib/*/libcrypto.so.*",
)

GIT_CONFIG = """\
[user]
name = build
email = build@localhost
[core]
fsync = all
fsyncMethod = fsync
[gc]
auto = 0
[init]
defaultBranch = main
[safe]
directory = *
"""

# git's own libraries without those of its network helpers; tcc, because gcc would be 100 MB.
GIT = Recipe(
    name="git",
    revision="2",
    packages=("git", "libc6", "libpcre2-8-0", "zlib1g", "make", "tcc", "libc6-dev"),
    with_libraries=False,
    kept=(
        "lib",
        "lib64",
        "usr/lib/*-linux-gnu",
        "usr/bin/git",
        "usr/bin/make",
        "usr/bin/tcc",
        "usr/include",
        "usr/share/git-core/templates/info",
    ),
    dropped=(
        "lib/systemd",
        "usr/lib/*/gconv",
        "usr/lib/*/lib[!c]*.a",
        "usr/lib/*/libc.a",
        "usr/lib/*/audit",
        "usr/lib/*/perl",
    ),
    files={"etc/gitconfig": GIT_CONFIG},
    folders=("srv", "orders"),
    proof="usr/bin/git",
    probe="usr/bin/git",
)
