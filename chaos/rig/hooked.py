"""The installation once more, with test hooks: named points and planted faults in its native part.

``build/hooked/obdsup`` is a folder of links to the package's files, with a native module of its own
(native/src compiled with -DOBD_TEST_HOOKS). Whoever starts Python with this folder's parent on its
path runs exactly the same Python, and the same C but for the hooks. The package itself is not
touched.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from chaos.rig.problem import REPO, run

__all__ = ["FOLDER", "build"]

FOLDER = REPO / "build" / "hooked"
_NATIVE = REPO / "native"
_ARCHIVE = "build/hooked-module/libhooked.a"  # below native/
_MODULE = "_native.abi3.so"
_LEFT_OUT = {"__pycache__", "_bin"}  # obdsup-ringd is found by where the files really are


def build() -> Path:
    """Brings the build up to date and returns the folder for PYTHONPATH.

    Quick when nothing changed. Safe while others build or run it: one at a time, and a module that
    is in use is replaced, never written to.

    Raises:
        RigError: it does not compile.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _link_package()
        _compile()
    return FOLDER


def _link_package() -> None:
    """A link per file, relative, so that the checkout may lie elsewhere for others."""
    wanted = {path.relative_to(REPO) for path in _files(REPO / "obdsup")}
    for link in list(_files(FOLDER / "obdsup")):
        if link.is_symlink() and link.relative_to(FOLDER) not in wanted:
            link.unlink()
    for relative in wanted:
        link = FOLDER / relative
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(REPO / relative, link.parent))


def _files(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        found += [Path(place, name) for name in names if not name.endswith(".so")]
    return found


def _compile() -> None:
    make = ["make", "-s", "-j2", "-C", str(_NATIVE), f"OUT={Path(_ARCHIVE).parent}", _ARCHIVE]
    run(make, what="compile native/src with test hooks")
    archive, module = _NATIVE / _ARCHIVE, FOLDER / "obdsup" / _MODULE
    sources = [archive, *_NATIVE.glob("obd*.*")]
    if module.exists() and module.stat().st_mtime > max(s.stat().st_mtime for s in sources):
        return
    command = [sys.executable, str(_NATIVE / "obd_build.py"), str(archive), str(module)]
    run(command, what="link the native module with test hooks", cwd=REPO)
