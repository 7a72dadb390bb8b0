"""Debian packages as material: downloaded and unpacked into a tree, never installed on the host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from chaos.rig.problem import RigError, run

__all__ = ["candidate_versions", "download", "fetch", "library_dependencies", "unpack"]


def candidate_versions(packages: Sequence[str]) -> list[str]:
    """The versions apt would deliver now, in this order; "" for one that apt does not know."""
    try:
        shown = run(["apt-cache", "show", "--no-all-versions", *packages], what="ask apt")
    except RigError:
        return [""] * len(packages)
    found = dict(re.findall(r"^Package: (\S+)\n(?:.*\n)*?Version: (\S+)", shown, re.MULTILINE))
    return [found.get(package, "") for package in packages]


def library_dependencies(control: str) -> list[str]:
    """The libraries and sibling packages one Depends field names, first alternative of each.

    Only what a program needs to be loaded is followed (``lib*`` and ``redis-*``): not users,
    services, debconf and the like, which belong to an installed system.
    """
    names = []
    for clause in control.replace("\n", " ").split(","):
        found = re.match(r"\s*([a-z0-9][a-z0-9+.-]+)", clause.split("|")[0])
        if found and found.group(1).startswith(("lib", "redis-")):
            names.append(found.group(1))
    return names


def fetch(packages: Sequence[str], folder: Path) -> list[Path]:
    """Downloads packages and, transitively, the libraries they depend on; returns the files.

    Raises:
        RigError: a package can not be downloaded.
    """
    known: dict[str, Path] = {}
    wanted = list(packages)
    while wanted:
        known.update(zip(wanted, download(wanted, folder), strict=True))
        needed = {dependency for name in wanted for dependency in _depends(known[name])}
        wanted = sorted(needed - known.keys())
    return list(known.values())


def download(packages: Sequence[str], folder: Path) -> list[Path]:
    """Downloads these packages alone; returns the files in the same order.

    Raises:
        RigError: a package can not be downloaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _download(packages, folder)
    found = {path.name.split("_")[0]: path for path in folder.glob("*.deb")}
    absent = [name for name in packages if name not in found]
    if absent:
        raise RigError(f"apt-get download did not deliver {', '.join(absent)}")
    return [found[name] for name in packages]


def unpack(debs: Sequence[Path], tree: Path) -> None:
    """Unpacks the files of packages into a tree; nothing of them is run."""
    tree.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        run(["dpkg-deb", "-x", deb, tree], what=f"unpack {deb.name}")


def _depends(deb: Path) -> list[str]:
    fields = run(["dpkg-deb", "-f", deb, "Depends", "Pre-Depends"], what=f"read {deb.name}")
    return library_dependencies(re.sub(r"^(Pre-)?Depends:", ",", fields, flags=re.MULTILINE))


def _download(packages: Sequence[str], folder: Path) -> None:
    # As the user _apt apt could not write here; the sandbox user is set for this command only.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
    try:
        run(command, what="download packages", cwd=folder)
    except RigError:  # no or outdated package lists
        run(["apt-get", "-q", "update"], what="refresh the package lists")
        run(command, what="download packages", cwd=folder)
