"""What the format tests share: small disks, layers made of them, and configs that name them."""

from __future__ import annotations

import io
import json
from pathlib import Path

from obdsup.format.blob import BytesBlob
from obdsup.format.layer import LayerFile, wrap_layer
from obdsup.format.layer_writer import LayerWriter
from obdsup.format.zfile_header import Algorithm
from obdsup.format.zfile_writer import ZFileWriter

SECTOR = 512
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "mini"


def sector(value: int) -> bytes:
    """A sector that is of ``value`` only; 0 is a sector of zeros."""
    return value.to_bytes(2, "little") * (SECTOR // 2)


def layer_bytes(
    extents: dict[int, bytes | int],
    size_sectors: int = 256,
    algorithm: Algorithm | None = None,
    block_bytes: int = 4096,
) -> bytes:
    """A sealed layer: {sector: data, or a number of zeroed sectors}."""
    file = io.BytesIO()
    zfile = ZFileWriter(file, algorithm, block_bytes) if algorithm else None
    writer = LayerWriter(zfile or file, size_sectors * SECTOR)
    for offset, content in sorted(extents.items()):
        if isinstance(content, int):
            writer.add_zeros(offset, content)
        else:
            writer.add_data(offset, content)
    writer.finish()
    if zfile:
        zfile.finish()
    return file.getvalue()


def layer_of(raw: bytes) -> LayerFile:
    """The layer in bytes."""
    return wrap_layer(BytesBlob(raw, "layer"))


def config_file(
    folder: Path, lowers: list[Path], upper: tuple[Path, Path] | None = None, name: str = "c.json"
) -> str:
    """Writes a config.v1.json and returns its path."""
    value: dict[str, object] = {"lowers": [{"file": str(lower)} for lower in lowers]}
    if upper is not None:
        value["upper"] = {"data": str(upper[0]), "index": str(upper[1])}
    path = folder / name
    path.write_text(json.dumps(value))
    return str(path)


def substituted(config: Path, folder: Path, mark: str, value: Path) -> str:
    """A copy of a config with ``mark`` replaced."""
    path = folder / config.name
    path.write_text(config.read_text().replace(mark, str(value)))
    return str(path)
