"""Debian kernel packages by name, into a folder of our own; the host's apt and /boot stay as is.

A private set of apt lists holds the host's own Debian sources plus the backports suite of the same
mirror, pinned low. Proxies, credentials and keys are the host's.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guest.problem import GuestError, run_logged

__all__ = ["DebianSource", "KernelPackage", "PrivateApt", "read_sources"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DebianSource:
    """One line of a Debian source: a mirror, one of its suites, and the key it is signed by."""

    uri: str
    suite: str
    components: str
    signed_by: str

    def line(self) -> str:
        """The source in the one-line form of sources.list."""
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {option}{self.uri} {self.suite} {self.components}"


@dataclass(frozen=True, slots=True)
class KernelPackage:
    """A downloaded kernel: the version its modules are for, and the package file."""

    release: str
    deb: Path


def _from_deb822(text: str) -> list[DebianSource]:
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        fields: dict[str, str] = {}
        for line in lines:
            name, separator, value = line.partition(":")
            if separator and not line.startswith((" ", "\t")):
                fields[name.strip().lower()] = value.strip()
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        signed_by = fields.get("signed-by", "")
        found += [
            DebianSource(uri, suite, fields.get("components", "main"), signed_by)
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return found


def _from_lines(text: str) -> list[DebianSource]:
    found = []
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(\S.*)", line.strip())
        if match:
            options = dict(o.split("=", 1) for o in (match[1] or "").split() if "=" in o)
            signed_by = options.get("signed-by", "")
            found.append(DebianSource(match[2], match[3], match[4].strip(), signed_by))
    return found


def read_sources(apt_folder: Path, codename: str) -> list[DebianSource]:
    """The host's enabled sources of this Debian release, with the backports of the same mirror.

    Raises:
        GuestError: no source offers the suite ``codename``.
    """
    found: list[DebianSource] = []
    plain = apt_folder / "sources.list"
    if plain.is_file():
        found += _from_lines(plain.read_text())
    parts = apt_folder / "sources.list.d"
    for path in sorted(parts.glob("*")) if parts.is_dir() else []:
        if path.suffix == ".sources":
            found += _from_deb822(path.read_text())
        elif path.suffix == ".list":
            found += _from_lines(path.read_text())
    suites = {codename, f"{codename}-security", f"{codename}-updates"}
    ours = [source for source in found if source.suite in suites]
    main = next((source for source in ours if source.suite == codename), None)
    if main is None:
        raise GuestError(f"{apt_folder}: no source of suite {codename}: the guest needs Debian 12")
    backports = f"{codename}-backports"
    return [*ours, DebianSource(main.uri, backports, main.components, main.signed_by)]


class PrivateApt:
    """apt with lists, cache and sources under ``folder``; everything else is the host's."""

    def __init__(self, folder: Path, codename: str = "bookworm") -> None:
        self._folder = folder
        self._codename = codename
        self._log = folder / "apt.log"

    def _options(self) -> list[str]:
        folder = self._folder
        pairs = {
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": folder / "none",
            "Dir::Etc::preferences": folder / "preferences",
            "Dir::Etc::preferencesparts": folder / "none",
            "Dir::State::lists": folder / "lists",
            "Dir::Cache": folder / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        return [word for key, value in pairs.items() for word in ("-o", f"{key}={value}")]

    def update(self, say: Say) -> None:
        """Writes the sources and fetches the package lists."""
        for name in ("none", "lists/partial", "cache/archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        sources = read_sources(Path("/etc/apt"), self._codename)
        (self._folder / "sources.list").write_text("".join(f"{s.line()}\n" for s in sources))
        pin = f"Package: *\nPin: release n={self._codename}-backports\nPin-Priority: 1\n"
        (self._folder / "preferences").write_text(pin)
        say("guest: reading the package lists of the host's Debian mirror")
        run_logged(["apt-get", *self._options(), "-q", "update"], self._log)

    def download_kernel(self, folder: Path, say: Say, *, is_backport: bool) -> KernelPackage:
        """Downloads the current kernel of the release or its backports into ``folder``.

        Raises:
            GuestError: apt failed, or the suite offers no kernel.
        """
        release = self._kernel_release(is_backport)
        package = f"linux-image-{release}"
        say(f"guest: downloading {package}")
        for old in folder.glob("linux-image-*.deb"):
            old.unlink()
        command = ["apt-get", *self._options(), "-q", "download", package]
        run_logged(command, self._log, cwd=folder)
        debs = list(folder.glob("linux-image-*.deb"))
        if len(debs) != 1:
            raise GuestError(f"{folder}: expected one kernel package, found {len(debs)}")
        return KernelPackage(release, debs[0])

    def _kernel_release(self, is_backport: bool) -> str:
        """The kernel release the meta package stands for, such as 6.1.0-49-amd64."""
        command = ["apt-cache", *self._options(), "show", "linux-image-amd64"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for record in done.stdout.split("\n\n"):  # the newest version comes first
            version = re.search(r"^Version: (\S+)", record, re.MULTILINE)
            release = re.search(r"^Depends: .*\blinux-image-(\d\S*-amd64)", record, re.MULTILINE)
            if version and release and ("~bpo" in version[1]) == is_backport:
                return release[1]
        where = "backports" if is_backport else self._codename
        raise GuestError(f"no linux-image-amd64 in {where}: {done.stderr[-500:]}")
