"""Which layers a merge takes: those of a config."""

from __future__ import annotations

from obdsup.errors import ConfigError
from obdsup.format import config
from obdsup.image.commit import Sources

__all__ = ["sources_of"]


def sources_of(path: str, *, with_upper: bool) -> Sources:
    """The layers of the config ``path``.

    Raises:
        ConfigError: the config is wrong, or has no layer that is to be merged.
    """
    files = config.load(path)
    sources = Sources(
        tuple(lower.path for lower in files.lowers),
        files.upper if with_upper else None,
        tuple((lower.target, lower.gzip_index) for lower in files.lowers),
    )
    if not sources.paths:
        raise ConfigError(
            f"{path}: expected layers to merge, found none",
            hint="obdsup image commit makes a layer of a writable one alone",
        )
    return sources
