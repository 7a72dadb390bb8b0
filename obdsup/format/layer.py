"""Opens a layer file through its wrappings: tar, then ZFile, then LSMT."""

from __future__ import annotations

from dataclasses import dataclass

from obdsup.format.blob import Blob, FileBlob
from obdsup.format.sealed import SealedLayer
from obdsup.format.tar_wrapper import unwrap
from obdsup.format.warp import WarpLayer, open_target
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


def wrap_layer(blob: Blob, target: Blob | None = None) -> LayerFile:
    """Opens the sealed layer in ``blob``, which it takes over, also when it fails.

    Args:
        target: what a turboOCI layer points into; taken over as well.

    Raises:
        FormatError: a wrapping or the layer is not what the format says.
    """
    try:
        content, base, zfile = open_content(blob)
        layer = SealedLayer(content) if target is None else WarpLayer(content, target)
        return LayerFile(layer, blob.size, base, zfile)
    except BaseException:
        blob.close()
        if target is not None:
            target.close()
        raise


def open_layer(path: str, target: str = "", gzip_index: str = "") -> LayerFile:
    """Opens the sealed layer file ``path``, with the target of a turboOCI layer.

    Raises:
        ConfigError: it is missing or not a file.
        FormatError: as of ``wrap_layer`` and ``warp.open_target``.
    """
    return wrap_layer(FileBlob(path), open_target(target, gzip_index) if target else None)
