"""Ring provider ``load``: obdsup-ringd generates commands and checks every sector it reads.

For tests and figures: no root, no mount, no block device. Options of the generator are read from
``NAME.options`` or else ``load.options`` in the rings directory (as on a command line); its report
is written to ``NAME.json`` there.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection
from pathlib import Path

from obdsup.errors import ProviderError
from obdsup.supervisor.provider.base import (
    DeviceGeometry,
    FoundRing,
    Probe,
    ProviderIds,
    RingHandle,
)
from obdsup.supervisor.provider.fuse import check_geometry
from obdsup.supervisor.provider.kernel_files import KernelRoots, wait_for
from obdsup.supervisor.provider.ringd import RINGD_PATH, Ringd
from obdsup.supervisor.provider.ringd_memory import living_ringds, remembered

__all__ = ["LoadProvider"]

_FINISH_S = 300.0  # reading everything back


class LoadProvider:
    """See ``base.RingProvider``.

    Args:
        directory: where sockets, options, reports and logs are; made when missing.
        binary: the obdsup-ringd program.
    """

    name = "load"

    def __init__(self, directory: Path, binary: Path = RINGD_PATH) -> None:
        self._directory = directory
        self._binary = binary

    def probe(self) -> Probe:
        if not os.access(self._binary, os.X_OK):
            return Probe(False, f"{self._binary} is missing: run make setup")
        return Probe(True, "a load generator, not a block device")

    def create(self, geometry: DeviceGeometry) -> ProviderIds:
        check_geometry(geometry)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        ids: ProviderIds = {
            "provider": self.name,
            "socket": str(self._directory / f"{geometry.name}.sock"),
            "report": str(self._directory / f"{geometry.name}.json"),
        }
        options = ["--name", geometry.name, "--size", str(geometry.size_bytes), "--linger"]
        options += ["--json", str(ids["report"])]
        if geometry.is_read_only:
            options += ["--read-percent", "100", "--discard-percent", "0", "--flush-percent", "0"]
        options += self._options(geometry.name)
        log = self._directory / f"{geometry.name}.log"
        _ringd(ids).start(self._binary, "load", options, log, remembered(geometry))
        return ids

    def found(self, known: Collection[str]) -> list[FoundRing]:
        return [
            FoundRing(
                self.name,
                {
                    "provider": self.name, "socket": str(one.ringd.socket_path),
                    "report": one.options["json"],
                },
                one.geometry, None, one.made_at, is_ours=True,
            )
            for one in living_ringds(self._directory, self.name, known, KernelRoots())
        ]  # fmt: skip

    def exists(self, ids: ProviderIds) -> bool:
        return _ringd(ids).is_alive()

    def open_ring(self, ids: ProviderIds) -> RingHandle:
        return _ringd(ids).open_ring()

    def resume_ring(self, ids: ProviderIds) -> None:
        """Nothing: a reset is one command to ringd."""

    def publish(self, ids: ProviderIds) -> str:
        """There is no block device: the path is empty."""
        return ""

    def retract(self, ids: ProviderIds) -> None:
        """Ends the load: everything is read back and the report written. Fine when it is over."""
        ringd = _ringd(ids)
        if not ringd.is_alive():
            return
        ringd.finish()
        if wait_for(lambda: ringd.stat().values.get("phase") == "done" or None, _FINISH_S) is None:
            raise ProviderError("the load did not end", hint="is a worker serving?")

    def reset_ring(self, ids: ProviderIds) -> None:
        _ringd(ids).reset()

    def destroy(self, ids: ProviderIds) -> None:
        _ringd(ids).stop(is_forced=True)

    def _options(self, name: str) -> list[str]:
        for file in (f"{name}.options", "load.options"):
            try:
                return shlex.split((self._directory / file).read_text())
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise ProviderError(f"{self._directory / file}: {error}") from error
        return []


def _ringd(ids: ProviderIds) -> Ringd:
    return Ringd(Path(str(ids["socket"])))
