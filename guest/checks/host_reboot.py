"""A real reboot of the host, in two boots of the guest that share a result folder; by hand:

    python -m guest run --result DIR -- python -m guest.checks.host_reboot before
    python -m guest run --result DIR -- python -m guest.checks.host_reboot after

``before`` leaves state and images in the result folder, as a disk would keep them, and the machine
is reset with its devices online. ``after`` finds another boot_id and no device in the kernel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from guest.checks.guest_supervisor import GuestSupervisor, eventually
from guest.checks.report import run_checks

ROOT = Path("/tmp/reboot")
KEPT = Path(os.environ.get("GUEST_RESULT", "/result")) / "kept"
SIZE_BYTES = 64 << 20
DATA = b"what was synced before the reset".ljust(4096, b".")
PATIENCE_S = 180.0


def check_before(_folder: Path) -> None:
    """Two devices with data, one of them marked; what is on disk is kept, no device is ended."""
    shutil.rmtree(KEPT, ignore_errors=True)
    ROOT.mkdir()
    supervisor = GuestSupervisor(ROOT, "--provider", "tcmu")
    supervisor.start()
    for name, is_marked in (("marked", True), ("other", False)):
        code, row = supervisor.command(
            "device", "create", name, "--image", str(_blank(supervisor, name)), "--writable",
            *(["--restore"] if is_marked else []),
        )  # fmt: skip
        assert code == 0, row
        fd = os.open(row["block_device"], os.O_RDWR)
        os.pwrite(fd, DATA, 1 << 20)
        os.fsync(fd)
        os.close(fd)
    supervisor.kill()  # nobody writes to the state while it is copied
    KEPT.mkdir()
    for part in ("state", "images"):
        shutil.copytree(ROOT / part, KEPT / part)


def check_after(_folder: Path) -> None:
    """The marked device is there again with its data, the other one is reported."""
    shutil.copytree(KEPT, ROOT)
    supervisor = GuestSupervisor(ROOT, "--provider", "tcmu")
    supervisor.start()
    eventually(
        lambda: "marked" in supervisor.names() and supervisor.show("marked")["phase"] == "online",
        PATIENCE_S, "the marked device is online again",
    )  # fmt: skip
    assert supervisor.names() == ["marked"]
    eventually(lambda: supervisor.events("device.restored"), PATIENCE_S, "the event says so")
    assert [row["device"] for row in supervisor.events("device.void")] == ["other"]
    fd = os.open(supervisor.show("marked")["block_device"], os.O_RDONLY)
    assert os.pread(fd, len(DATA), 1 << 20) == DATA
    os.close(fd)
    assert supervisor.command("device", "remove", "marked")[0] == 0


def _blank(supervisor: GuestSupervisor, name: str) -> Path:
    folder = ROOT / "images"
    folder.mkdir(exist_ok=True)
    data, index = str(folder / f"{name}.data"), str(folder / f"{name}.index")
    code, _ = supervisor.command("image", "new-upper", "--size", str(SIZE_BYTES), data, index)
    assert code == 0
    config = folder / f"{name}.json"
    config.write_text(
        f'{{"repoBlobUrl": "", "lowers": [], "upper": {{"data": "{data}", "index": "{index}"}}}}'
    )
    return config


if __name__ == "__main__":
    subprocess.run(["modprobe", "-a", "target_core_user", "tcm_loop", "sd_mod"], check=True)
    raise SystemExit(run_checks({"before": check_before, "after": check_after}, sys.argv[1:]))
