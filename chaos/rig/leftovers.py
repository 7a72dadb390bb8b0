"""What a killed installation leaves in the kernel: mounts and loop devices below one folder."""

from __future__ import annotations

import os
from pathlib import Path

from chaos.rig.problem import run

__all__ = ["take_away_below"]


def take_away_below(folder: Path) -> None:
    """Detaches loop devices over files below a folder, then unmounts all that is mounted there.

    Mounts are taken away lazily and the deepest first: whoever served them may be dead. Fine when
    there is nothing.

    Raises:
        RigError: a loop device or a mount was refused.
    """
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        if _is_below(_read(loop), folder):
            run(["losetup", "-d", f"/dev/{loop.parts[3]}"], what="detach a left loop device")
    for mounted in _mounts_below(folder):
        run(["umount", "--lazy", mounted], what=f"unmount what is left at {mounted}")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _is_below(path: str, folder: Path) -> bool:
    return path.startswith(f"{folder}{os.sep}")


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return sorted((p for p in points if _is_below(p, folder)), key=len, reverse=True)
