"""``obdsup doctor``: what this host offers and lacks, in plain words. Changes nothing."""

from __future__ import annotations

import os
import resource
import shutil
import sys

from obdsup.cli.output import print_json
from obdsup.errors import ObdError, ProviderError
from obdsup.state.control import SOCKET_NAME, ControlClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

__all__ = ["Finding", "Host", "add_parser", "examine"]

ANSWER_TIMEOUT_S = 5.0
# What supervisor/fd_limit.py reckons with, and what a few hundred devices of some layers need.
FDS_PER_DEVICE, FDS_SPARE, OPEN_FILES_WANTED = 8, 64, 4096


class Finding:
    """One line: what was looked at, whether it is there, what was found, why it matters, next."""

    __slots__ = ("found", "is_ok", "name", "step", "why")

    def __init__(self, name: str, is_ok: bool, found: str, why: str, step: str = "") -> None:
        self.name, self.is_ok, self.found, self.why, self.step = name, is_ok, found, why, step

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "ok": self.is_ok, "found": self.found, "why": self.why,
                "next": "" if self.is_ok else self.step}  # fmt: skip


class Host:
    """The files a host is judged by, below ``root`` (tests give another one)."""

    def __init__(self, root: str = "/") -> None:
        self.root = root
        self.release = os.uname().release

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, *(part.lstrip("/") for part in parts))

    def has(self, path: str) -> bool:
        return os.path.exists(self.path(path))

    def read(self, path: str) -> str:
        try:
            with open(self.path(path), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def module(self, name: str) -> str:
        """``loaded``, ``available``, or "" when the kernel has no such module."""
        if self.has(f"/sys/module/{name}"):
            return "loaded"
        base = f"/lib/modules/{self.release}"
        listed = self.read(f"{base}/modules.dep") + self.read(f"{base}/modules.builtin")
        return "available" if f"/{name}.ko" in listed.replace("-", "_") else ""

    def open_error(self, path: str) -> str:
        """Why a device file can not be opened; "" when it can."""
        try:
            os.close(os.open(self.path(path), os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return error.strerror or str(error)
        return ""


def examine(host: Host, run_dir: str, state_dir: str) -> list[Finding]:
    """Looks at everything, in the order an operator would."""
    return [
        _python(),
        _kernel(host),
        _root(),
        _open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        *_tcmu(host),
        *_fuse(host),
        _native("the engine", "_native.abi3.so"),
        _native("obdsup-ringd", os.path.join("_bin", "obdsup-ringd")),
        _runc(),
        _writable("run directory", run_dir, "--run-dir"),
        _writable("state directory", state_dir, "--state-dir"),
        _supervisor(run_dir),
    ]


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    is_ok = sys.version_info >= (3, 11)
    return Finding("python", is_ok, found, "obdsup needs Python 3.11 or newer", "install it")


def _kernel(host: Host) -> Finding:
    return Finding("kernel", True, host.release, "what is offered depends on its modules")


def _root() -> Finding:
    uid = os.geteuid()
    why = "block devices, configfs and mounts are root's; `image` commands need no root"
    return Finding("root", uid == 0, f"uid {uid}", why, "run as root (sudo)")


def _open_files(limit: int) -> Finding:
    """The hard limit: supervisor and workers raise theirs to it."""
    found = f"{limit}: room for about {max(limit - FDS_SPARE, 0) // FDS_PER_DEVICE} devices"
    why = "supervisor and standbys hold some files of every device open"
    step = "raise it: LimitNOFILE= in the unit, ulimit -Hn, or /etc/security/limits.conf"
    return Finding("open files", limit >= OPEN_FILES_WANTED, found, why, step)


def _tcmu(host: Host) -> list[Finding]:
    why = "provider tcmu: the kernel's own block device, the best choice"
    findings = []
    for name in ("target_core_user", "tcm_loop"):
        state = host.module(name)
        step = f"use a kernel with {name} (Debian's linux-image-amd64), or provider fuse"
        found = state or f"not in kernel {host.release}"
        findings.append(Finding(f"module {name}", bool(state), found, why, step))
    mounted = " /sys/kernel/config configfs " in host.read("/proc/mounts")
    found = "mounted" if mounted else "not mounted"
    step = "mount -t configfs none /sys/kernel/config"
    findings.append(Finding("configfs", mounted, found, "provider tcmu is set up through it", step))
    return findings


def _fuse(host: Host) -> list[Finding]:
    findings = []
    for path, why, step in (
        ("/dev/fuse", "provider fuse: works on kernels without TCMU", "modprobe fuse"),
        ("/dev/loop-control", "provider fuse: makes its file a block device", "modprobe loop"),
    ):
        error = host.open_error(path)
        findings.append(Finding(path, not error, error or "opens", why, step))
    return findings


def _native(name: str, file: str) -> Finding:
    import obdsup

    path = os.path.join(os.path.dirname(os.path.abspath(obdsup.__file__)), file)
    found = path if os.path.exists(path) else f"{path} is not there"
    why = "compiled part: nothing is served without it"
    return Finding(name, os.path.exists(path), found, why, "make setup (or pip install -e .)")


def _runc() -> Finding:
    path = shutil.which("runc")
    why = "only the demo and container tests need it"
    return Finding("runc", path is not None, path or "not in PATH", why, "apt-get install runc")


def _writable(name: str, directory: str, option: str) -> Finding:
    place = directory
    while not os.path.exists(place):
        place = os.path.dirname(place)
    is_ok = os.access(place, os.W_OK)
    found = directory if place == directory else f"{directory} (will be made)"
    why = "sockets and journals" if name.startswith("run") else "the record of all devices"
    step = f"give another one with {option}, or run as root"
    return Finding(name, is_ok, found if is_ok else f"{place} is not writable", why, step)


def _supervisor(run_dir: str) -> Finding:
    why = "device commands ask it; it takes over dead workers"
    step = "obdsup supervisor (or: systemctl start obdsup)"
    try:
        answer = ControlClient(os.path.join(run_dir, SOCKET_NAME), ANSWER_TIMEOUT_S).call("status")
    except ObdError as error:
        return Finding("supervisor", False, error.what, why, step)
    pid = answer.get("pid", answer.get("supervisor_pid")) if isinstance(answer, dict) else None
    return Finding("supervisor", True, f"answers, pid {pid}" if pid else "answers", why)


def _providers(findings: list[Finding]) -> list[str]:
    ok = {finding.name for finding in findings if finding.is_ok}
    needs = {
        "tcmu": {"root", "module target_core_user", "module tcm_loop"},
        "fuse": {"root", "/dev/fuse", "/dev/loop-control", "obdsup-ringd"},
    }
    return [name for name, wanted in needs.items() if wanted <= ok]


def doctor(args: argparse.Namespace) -> int:
    """``doctor``: 0 when a device could be made here, else ProviderError's code."""
    findings = examine(Host(), args.run_dir, args.state_dir)
    providers = _providers(findings)
    if args.json:
        print_json({"findings": [f.to_json() for f in findings], "providers": providers})
        return 0 if providers else ProviderError.exit_code
    width = max(len(finding.name) for finding in findings)
    indent = " " * (len("missing  ") + width + 2)
    for finding in findings:
        word = "ok     " if finding.is_ok else "missing"
        print(f"{word}  {finding.name.ljust(width)}  {finding.found}")
        if not finding.is_ok:
            print(f"{indent}{finding.why}")
            print(f"{indent}next: {finding.step}")
    if providers:
        print(f"\nBlock devices can be made here through: {', '.join(providers)}.")
        return 0
    print("\nNo block device can be made here; provider load (no block device) and images work.")
    return ProviderError.exit_code


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds ``doctor``."""
    parser = commands.add_parser(
        "doctor", parents=[common], help="what this host offers and lacks, in plain words"
    )
    parser.set_defaults(run=doctor)
