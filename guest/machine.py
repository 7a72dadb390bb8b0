"""Boots the guest, runs one command in it, streams its output and returns its status."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from guest.kernel import Kernel
from guest.problem import GuestError, GuestLockup

__all__ = ["Outcome", "Request", "run"]

_HERE = Path(__file__).resolve().parent
_CMDLINE = (
    "console=ttyS0 quiet panic=-1 oops=panic mitigations=off random.trust_cpu=on tsc=reliable"
    " no_timer_check"  # the check fails on a busy host: "IO-APIC + timer doesn't work"
    # a CPU that spins for two minutes ends the guest instead of its time limit; not sooner: on a
    # busy host a virtual CPU may get no time for half a minute
    " softlockup_panic=1 watchdog_thresh=60"
)
_LOCKUP = "soft lockup"
_CONSOLE_END_LINES = 60


@dataclass(frozen=True, slots=True)
class Request:
    """What to run in the guest, and how long and with how much it may run."""

    command: list[str]
    cwd: Path
    timeout_s: float = 600.0
    memory: str = "2G"
    cpus: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    copy_back: tuple[Path, ...] = ()  # absolute paths, the same in guest and host
    init: str = "command"  # or "systemd": that is PID 1, and the command one of its units


@dataclass(frozen=True, slots=True)
class Outcome:
    """The command's exit status and the kernel log of the guest."""

    status: int
    dmesg: str


def _write_orders(request: Request, kernel: Kernel, result: Path) -> None:
    for name in ("status", "status.new", "dmesg", "console.log"):
        (result / name).unlink(missing_ok=True)
    shutil.rmtree(result / "back", ignore_errors=True)
    for script in ("boot.sh", "systemd.sh", "ending.sh"):
        shutil.copy2(_HERE / script, result / script)
    (result / "init").write_text(f"{request.init}\n")
    (result / "cwd.path").write_text(f"{request.cwd}\n")
    (result / "modules.path").write_text(f"{kernel.modules.resolve()}\n")
    (result / "back.paths").write_text("".join(f"{path}\n" for path in request.copy_back))
    exports = "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in request.environment.items()
    )
    command = " ".join(shlex.quote(word) for word in request.command)
    cwd = shlex.quote(str(request.cwd))
    (result / "command.sh").write_text(f"cd {cwd} || exit 126\n{exports}exec {command}\n")


def _qemu_command(request: Request, kernel: Kernel, result: Path) -> list[str]:
    def share(path: Path, tag: str, options: str) -> list[str]:
        if "," in str(path):
            raise GuestError(f"{path}: QEMU shares no folder with a comma in its path")
        return ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,{options}"]

    return [
        # If we are killed, so is the guest.
        "setpriv", "--pdeathsig", "KILL",
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
        "-smp", str(request.cpus), "-m", request.memory,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-serial", f"file:{result / 'console.log'}", "-serial", "stdio",
        "-device", "virtio-rng-pci",
        *share(Path("/"), "root", "readonly=on,multidevs=remap"),
        *share(result, "result", "multidevs=remap"),
        "-kernel", str(kernel.vmlinux), "-initrd", str(kernel.initramfs), "-append", _CMDLINE,
    ]  # fmt: skip


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU as a child that is gone when the block is left, however it is left."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise GuestError(f"{command[0]}: {error.strerror} (run packaging/setup-host.sh)") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def _stream(process: subprocess.Popen[bytes], sink: BinaryIO, timeout_s: float) -> bool:
    """Copies the command's output as it comes; False when the time ran out first."""
    assert process.stdout is not None
    source = process.stdout.fileno()
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        if not select.select([source], [], [], left_s)[0]:
            return False
        data = os.read(source, 65536)
        if not data:
            return True
        sink.write(data)
        sink.flush()


def _console_end(result: Path) -> str:
    try:
        lines = (result / "console.log").read_text(errors="replace").splitlines()
    except OSError:
        return "(no console log)"
    return "\n".join(lines[-_CONSOLE_END_LINES:])


def run(
    request: Request, kernel: Kernel, result: Path | None = None, sink: BinaryIO | None = None
) -> Outcome:
    """Runs one command in a fresh guest and leaves no process behind.

    Args:
        request: the command and its bounds.
        kernel: from ``guest.kernel.prepare``.
        result: folder shared with the guest as /result (environment GUEST_RESULT); receives
            ``status``, ``dmesg`` and ``console.log``. A temporary folder when None.
        sink: receives the command's stdout and stderr while it runs; our stdout when None.

    Raises:
        GuestError: the guest did not boot, crashed or ran out of time: there is no status. The
            message holds the end of the console log. GuestLockup: its CPUs span for two minutes.
    """
    with contextlib.ExitStack() as stack:
        if result is None:
            result = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="guest-")))
        result = result.resolve()
        result.mkdir(parents=True, exist_ok=True)
        _write_orders(request, kernel, result)
        process = stack.enter_context(_started(_qemu_command(request, kernel, result)))
        is_done = _stream(process, sink or sys.stdout.buffer, request.timeout_s)
        if is_done:
            process.wait(timeout=60)
        status = result / "status"
        if not status.is_file():
            why = "crashed" if is_done else f"did not finish within {request.timeout_s:.0f} s"
            end = _console_end(result)
            kind = GuestLockup if is_done and _LOCKUP in end else GuestError
            raise kind(f"the guest {why}; end of its console:\n{end}")
        for path in request.copy_back:
            _bring_back(result / "back" / path.relative_to("/"), path)
        return Outcome(int(status.read_text()), (result / "dmesg").read_text(errors="replace"))


def _bring_back(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
