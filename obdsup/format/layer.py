"""Opens a layer file through its wrappings: tar, then ZFile, then LSMT."""

from __future__ import annotations

from dataclasses import dataclass

from obdsup.format.blob import Blob, FileBlob
from obdsup.format.sealed import SealedLayer
from obdsup.format.tar_wrapper import unwrap
from obdsup.format.zfile import ZFile, is_zfile

__all__ = ["LayerFile", "open_content", "open_layer", "wrap_layer"]


@dataclass(frozen=True)
class LayerFile:
    """A sealed layer and what its file is wrapped in. ``close`` closes all of it."""

    layer: SealedLayer
    file_bytes: int
    tar_base_bytes: int  # 0: not in a tar
    zfile: ZFile | None

    def close(self) -> None:
        """Closes the file."""
        self.layer.close()


def open_content(blob: Blob) -> tuple[Blob, int, ZFile | None]:
    """(content, tar base, ZFile or None): what is inside of the wrappings of ``blob``."""
    content, base = unwrap(blob)
    if not is_zfile(content):
        return content, base, None
    zfile = ZFile(content)
    return zfile, base, zfile


def wrap_layer(blob: Blob) -> LayerFile:
    """Opens the sealed layer in ``blob``, which it takes over, also when it fails.

    Raises:
        FormatError: a wrapping or the layer is not what the format says.
    """
    try:
        content, base, zfile = open_content(blob)
        return LayerFile(SealedLayer(content), blob.size, base, zfile)
    except BaseException:
        blob.close()
        raise


def open_layer(path: str) -> LayerFile:
    """Opens the sealed layer file ``path``.

    Raises:
        ConfigError: it is missing or not a file.
        FormatError: as of ``wrap_layer``.
    """
    return wrap_layer(FileBlob(path))
