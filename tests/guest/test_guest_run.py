"""The harness itself: exit codes, streams, time limits, and that nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.guest_vm import KERNEL, REPO

pytestmark = pytest.mark.kernel


def _guest(result: Path, *words: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    if not (REPO / "build" / "guest" / KERNEL / "ready").is_file():
        pytest.skip(f"guest kernel {KERNEL} is not prepared (make kernel)")
    command = [sys.executable, "-m", "guest", "run", "--kernel", KERNEL, "--result", str(result)]
    done = subprocess.run(
        [*command, *words], cwd=REPO, capture_output=True, env={**os.environ, **(env or {})}
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def _commands_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "qemu-system" in line and text in line:
            found.append(line)
    return found


SCRIPT = r"""
printf 'a\tb\r\n%s\n' "$DEMO_WORD"; echo to-stderr >&2
ip addr show lo | grep -q 127.0.0.1/8 || exit 90
findmnt -n -o FSTYPE /tmp /run /dev/shm | grep -qv tmpfs && exit 91
[ "$(findmnt -n -o FSTYPE /sys/fs/cgroup)" = cgroup2 ] || exit 92
mkdir -p out/guest-test && echo from-the-guest > out/guest-test/file || exit 93
mkdir -p /tmp/c/rootfs/bin && cp /bin/busybox /tmp/c/rootfs/bin/
cd /tmp/c && runc spec || exit 94
say='"/bin/busybox", "echo", "from-the-container"'
sed -i "s/\"terminal\": true/\"terminal\": false/; s#\"sh\"#$say#" config.json
runc run test || exit 95
exit 7
"""


def test_command_runs_with_output_environment_containers_and_its_own_exit_code(
    tmp_path: Path,
) -> None:
    copied = REPO / "out" / "guest-test" / "file"
    copied.unlink(missing_ok=True)
    status, output, errors = _guest(
        tmp_path / "result", "--timeout", "300", "--copy-back", str(copied),
        "--", "sh", "-c", SCRIPT, env={"DEMO_WORD": "it's $HOME"},
    )  # fmt: skip
    assert status == 7, output + errors
    assert output.startswith("a\tb\r\nit's $HOME\nto-stderr\n"), repr(output)
    assert "from-the-container" in output
    assert copied.read_text() == "from-the-guest\n"
    copied.unlink()
    copied.parent.rmdir()
    assert "Linux version" in (tmp_path / "result" / "dmesg").read_text()


def test_guest_that_takes_too_long_is_ended_and_is_a_failure(tmp_path: Path) -> None:
    result = tmp_path / "result"
    status, _, errors = _guest(result, "--timeout", "4", "--", "sleep", "3600")
    assert status == 125
    assert "did not finish within 4 s" in errors
    assert _commands_with(str(result)) == []


def test_guest_that_crashes_is_a_failure_with_its_console(tmp_path: Path) -> None:
    result = tmp_path / "result"
    crash = "echo c > /proc/sysrq-trigger"
    status, _, errors = _guest(result, "--timeout", "120", "--", "sh", "-c", crash)
    assert status == 125
    assert "guest crashed" in errors
    assert "sysrq triggered crash" in errors
    assert _commands_with(str(result)) == []
