"""A second release beside the one under test: the same package under another version number.

``build/releases/NAME`` looks like an environment that a release was installed into: ``bin/python``
finds the package that lies beside it. The package is a folder of links to the files of the one
under test (the installed one, or the build with test hooks), with a version of its own.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import sys
from pathlib import Path

from chaos.rig.problem import REPO

__all__ = ["build_release"]

_FOLDER = REPO / "build" / "releases"
_LEFT_OUT = {"__pycache__"}


def build_release(name: str, version: str, package: Path = REPO / "obdsup") -> Path:
    """Brings ``build/releases/NAME`` up to date and returns its path; quick, safe beside others.

    Args:
        name: of the folder.
        version: what the release says it is.
        package: what it is made of.
    """
    folder = _FOLDER / name
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _link(package, folder / "obdsup")
        text = f'"""obdsup {version}, for tests of upgrades."""\n\n__version__ = "{version}"\n'
        _put(folder / "obdsup" / "__init__.py", text, 0o644)
        command = f"PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(folder))} exec {shlex.quote(sys.executable)}"
        _put(folder / "bin" / "python", f'#!/bin/sh\n{command} "$@"\n', 0o755)
    return folder


def _link(package: Path, folder: Path) -> None:
    wanted: dict[Path, Path] = {}
    for place, folders, names in os.walk(package):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        for path in (Path(place, name) for name in names):
            wanted[path.relative_to(package)] = path
    wanted.pop(Path("__init__.py"), None)
    for place, _, names in os.walk(folder):
        for link in (Path(place, name) for name in names):
            if link.is_symlink() and link.relative_to(folder) not in wanted:
                link.unlink()
    for relative, path in wanted.items():
        link = folder / relative
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(path, link.parent))


def _put(path: Path, text: str, mode: int) -> None:
    """Replaced in one step: a process may be starting from it."""
    if path.is_file() and not path.is_symlink() and path.read_text() == text:
        return
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)
