"""Each bit of each header flipped: an error that names a file, or the right disk, in C and Python.

One may be stricter than the other: the header of a sealed layer, for example, repeats what its
trailer says, and the C core does not look at it twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obdsup.errors import FormatError, NativeError, ObdError
from obdsup.format import config, zeroes
from obdsup.format.config import ImageConfig
from obdsup.format.image import Image
from obdsup.format.sparse_writer import SparseWriter
from obdsup.format.upper_writer import UpperWriter, create_upper
from obdsup.format.zfile_header import Algorithm
from obdsup.image.commit import LayerOptions, Sources, write_layer
from obdsup.image.native import check, ffi, lib, new_info
from obdsup.image.spec import file_paths, image_spec
from obdsup.image.zfile import ZFileOptions

SECTOR = 512
SECTORS = 64
SIZE = SECTORS * SECTOR
LSMT_FIELDS = 392  # bytes of an LSMT header that have a meaning, and two
ZFILE_FIELDS = 96


def native_disk(image: ImageConfig) -> bytes | ObdError:
    keep: list[Any] = []
    info, opened = new_info(), ffi.new("struct obd_image **")
    try:
        check("open", int(lib.obd_image_create(image_spec(image, keep), info, opened)), info)
    except ObdError as error:
        return error
    try:
        size = int(lib.obd_image_virtual_size_bytes(opened[0]))
        buffer = ffi.new("uint8_t[]", min(size, SIZE))
        iov = ffi.new("struct iovec *")
        iov.iov_base, iov.iov_len = buffer, len(buffer)
        code = lib.obd_image_read(opened[0], 0, len(buffer) // SECTOR, iov, 1, 0, info)
        check("read", int(code), info)
        return bytes(ffi.buffer(buffer))
    except ObdError as error:
        return error
    finally:
        lib.obd_image_destroy(opened[0])


def python_disk(image: ImageConfig) -> bytes | ObdError:
    try:
        with Image(image) as opened:
            return opened.read(0, min(opened.size_bytes, SIZE))
    except ObdError as error:
        return error


@contextlib.contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        old = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([old[0] ^ 1 << bit % 8]))
        file.flush()
        yield
        file.seek(bit // 8)
        file.write(old)


def compare(image: ImageConfig, path: Path, begin: int, end: int) -> tuple[int, int]:
    """Flips every bit of bytes [begin, end); (refused, read right), both readers together."""
    right = python_disk(image)
    assert right == native_disk(image)
    assert isinstance(right, bytes)
    refused = harmless = 0
    for bit in range(begin * 8, end * 8):
        with flipped(path, bit):
            c, python = native_disk(image), python_disk(image)
        for name, found in (("C", c), ("Python", python)):
            place = f"{name}: {path.name} byte {bit // 8} bit {bit % 8}: {found!r:.200}"
            if isinstance(found, ObdError):
                assert isinstance(found, FormatError | NativeError), place
                assert any(one in str(found) for one in file_paths(image)), place
                refused += 1
            else:
                # of a sealed layer's virtual size there is one copy: longer or shorter, not other
                length = min(len(found), len(right))
                assert found[:length] == right[:length], place
                harmless += 1
    return refused, harmless


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    names = str(tmp_path / "data"), str(tmp_path / "index")
    create_upper(*names, SIZE)
    writer = UpperWriter(*names)
    for position in range(0, 60, 6):
        writer.write(position, bytes([position + 1]) * SECTOR * 5)
    writer.discard(20, 9)
    writer.close()
    return names


@pytest.mark.parametrize("algorithm", [None, Algorithm.LZ4, Algorithm.ZSTD])
@pytest.mark.parametrize("in_tar", [False, True])
def test_sealed_layers(
    tmp_path: Path, pair: tuple[str, str], algorithm: Algorithm | None, in_tar: bool
) -> None:
    path = tmp_path / "layer.obd"
    zfile = ZFileOptions(algorithm, overwrites_header=True) if algorithm else None
    write_layer(Sources(upper=pair), str(path), LayerOptions(zfile=zfile, in_tar=in_tar))
    image = ImageConfig(str(path), (config.Lower(str(path)),), None)
    base, end = (1536, path.stat().st_size) if in_tar else (0, path.stat().st_size)
    fields = ZFILE_FIELDS if algorithm else LSMT_FIELDS
    if in_tar:
        refused, _ = compare(image, path, 1024, 1024 + 300)
        assert refused
        return
    refused, harmless = compare(image, path, base, base + fields)
    assert refused > 2 * 24 * 8  # the magics at least
    trailer = end - (512 if algorithm else 4096)
    refused, harmless = compare(image, path, trailer, trailer + fields)
    assert refused + harmless == 2 * fields * 8


def test_writable_pairs(pair: tuple[str, str]) -> None:
    image = ImageConfig(pair[0], (), pair)
    for name in pair:
        refused, harmless = compare(image, Path(name), 0, LSMT_FIELDS)
        assert refused > 2 * 24 * 8
        assert harmless


def test_sparse_layers(tmp_path: Path) -> None:
    pair = str(tmp_path / "data"), str(tmp_path / "index")
    create_upper(*pair, SIZE, is_sparse=True)
    writer = SparseWriter(*pair)
    writer.write(3, b"\x07" * SECTOR * 30)
    writer.discard(8, 16)
    writer.discard(40, 8)
    writer.close()
    image = ImageConfig(pair[0], (), pair)
    refused, harmless = compare(image, Path(pair[0]), 0, LSMT_FIELDS)
    assert refused > 2 * 24 * 8
    record = Path(pair[0] + zeroes.SUFFIX)
    refused, harmless = compare(image, record, 0, record.stat().st_size)
    assert refused
    assert harmless
