"""The ring providers by name, and the choice of ``auto``: tcmu, then fuse."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from obdsup.errors import ConfigError, ProviderError
from obdsup.supervisor.provider.base import FoundRing, RingProvider

__all__ = ["ProviderChoice", "Providers"]

_MODULES = {
    "tcmu": ("obdsup.supervisor.provider.tcmu", "TcmuProvider"),
    "fuse": ("obdsup.supervisor.provider.fuse", "FuseProvider"),
    "load": ("obdsup.supervisor.provider.load", "LoadProvider"),
    "tcmu-foreign": ("obdsup.supervisor.provider.tcmu_foreign", "ForeignTcmuProvider"),
}
AUTO_ORDER = ("tcmu", "fuse")
FINDERS = ("tcmu", "fuse", "load")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """Which provider new devices get by default and why, in plain words."""

    name: str
    reason: str


class Providers:
    """Makes providers when they are first asked for: an absent one costs and breaks nothing."""

    def __init__(
        self, rings_dir: Path, makers: dict[str, Callable[[Path], RingProvider]] | None = None
    ) -> None:
        self._rings_dir = rings_dir
        self._makers = makers or {}
        self._made: dict[str, RingProvider] = {}

    def get(self, name: str) -> RingProvider:
        """The provider of that name.

        Raises:
            ConfigError: there is none of that name.
            ProviderError: this installation lacks it.
        """
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def found(self, known: Collection[str]) -> list[FoundRing]:
        """Rings of ours, of whatever provider, that are not of devices whose names are known."""
        rings = []
        for name in self._makers or FINDERS:
            try:
                rings += self.get(name).found(known)
            except ProviderError as error:
                log.warning("provider.failed provider=%s reason=%s", name, error)
        return rings

    def prepare_host(self) -> None:
        """Loads what the kernel needs for TCMU devices, whoever makes them.

        Raises:
            ProviderError: it can not be had here.
        """
        from obdsup.supervisor.provider.tcmu import TcmuProvider

        provider = self.get("tcmu")
        assert isinstance(provider, TcmuProvider)
        provider.prepare_host()

    def choose(self, wanted: str) -> ProviderChoice:
        """Resolves ``auto``; a name is taken as it is, with what its probe says.

        Raises:
            ProviderError: ``auto`` and none works here.
        """
        if wanted != "auto":
            return ProviderChoice(wanted, f"asked for; {self._reason(wanted)[1]}")
        refusals: list[str] = []
        for name in AUTO_ORDER:
            is_available, reason = self._reason(name)
            if is_available:
                why = "; ".join([*refusals, f"{name}: {reason}"])
                return ProviderChoice(name, why)
            refusals.append(f"no {name}: {reason}")
        raise ProviderError(
            f"no ring provider works on this host: {'; '.join(refusals)}",
            hint="see `obdsup doctor`",
        )

    def _reason(self, name: str) -> tuple[bool, str]:
        try:
            probe = self.get(name).probe()
        except ProviderError as error:
            return False, str(error)
        return probe.is_available, probe.reason

    def _make(self, name: str) -> RingProvider:
        if name in self._makers:
            return self._makers[name](self._rings_dir)
        if name not in _MODULES:
            raise ConfigError(f"provider {name!r} is unknown", hint="one of auto, tcmu, fuse, load")
        module_name, class_name = _MODULES[name]
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise ProviderError(f"provider {name} is not part of this installation") from error
        made: RingProvider = getattr(module, class_name)(self._rings_dir)
        return made
