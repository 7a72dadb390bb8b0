"""Releases of obdsup installed side by side: copies of the package under another version.

Each is a virtual environment of its own: an interpreter that finds the copied package first, and
what the package needs where this one finds it. Made in well under a second, without any network.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import obdsup
from chaos.rig.problem import REPO, RigError

__all__ = ["make_release"]


def make_release(
    root: Path,
    version: str,
    patches: dict[str, tuple[str, str]] | None = None,
    package: Path = REPO / "obdsup",
) -> Path:
    """A release at ``root``.

    Args:
        root: made by this; short, with no link in it.
        version: what it says it is.
        patches: by file in the package: text that is there once, and what takes its place.
        package: what is copied: the installed one, or a build with test hooks.

    Raises:
        RigError: a text to patch is not there once.
    """
    site = root / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    copy = site / "obdsup"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "bin").mkdir()
    (root / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    (root / "pyvenv.cfg").write_text(
        f"home = {Path(sys.base_prefix) / 'bin'}\ninclude-system-site-packages = false\n"
    )
    (site / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    own = f'__version__ = "{obdsup.__version__}"'
    for name, (old, new) in {
        "__init__.py": (own, f'__version__ = "{version}"'),
        **(patches or {}),
    }.items():
        text = (copy / name).read_text()
        if text.count(old) != 1:
            raise RigError(f"{name} has {old!r} {text.count(old)} times")
        (copy / name).write_text(text.replace(old, new))
    return root
