"""Random lives of an image: written, discarded, committed, stacked, sealed, merged, taken over.

Both implementations write (the C core and the readable one, in turns), and at the end of each step
both read the whole disk, which must be what a list of sectors says.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from obdsup.format import config
from obdsup.format.image import Image
from obdsup.format.sparse_writer import SparseWriter
from obdsup.format.upper_writer import UpperWriter, create_upper
from obdsup.format.zfile_header import Algorithm
from obdsup.image.commit import LayerOptions, Sources, write_layer
from obdsup.image.native import check, ffi, lib, new_info
from obdsup.image.seal import seal
from obdsup.image.spec import image_spec
from obdsup.image.verify import verify_image
from obdsup.image.zfile import ZFileOptions
from tests.format.disk_model import SECTOR, sector

SECTORS = 77  # the last block is not whole
MEMORY = "/dev/shm"

changes = st.lists(
    st.tuples(
        st.booleans(),  # a discard
        st.integers(0, SECTORS - 1),
        st.integers(1, SECTORS),
        st.integers(1, 60000),
    ),
    max_size=6,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("native"), changes),
        st.tuples(st.just("oracle"), changes),
        st.tuples(st.just("commit"), st.sampled_from([None, Algorithm.LZ4, Algorithm.ZSTD])),
        st.tuples(st.just("seal"), st.none()),
        st.tuples(st.just("merge"), st.sampled_from([None, Algorithm.LZ4])),
    ),
    min_size=1,
    max_size=8,
)


class Native:
    """The image as the C core opens it."""

    def __init__(self, image: config.ImageConfig) -> None:
        keep: list[Any] = []
        opened, self._info = ffi.new("struct obd_image **"), new_info()
        code = lib.obd_image_create(image_spec(image, keep), self._info, opened)
        check("open", int(code), self._info)
        self._image = opened[0]
        self._reserved = ffi.new("uint64_t *")

    def _iov(self, buffer: Any) -> Any:
        iov = ffi.new("struct iovec *")
        iov.iov_base, iov.iov_len = buffer, len(buffer)
        return iov

    def read(self) -> bytes:
        buffer = ffi.new("uint8_t[]", SECTORS * SECTOR)
        iov = self._iov(buffer)
        code = lib.obd_image_read(self._image, 0, SECTORS, iov, 1, 0, self._info)
        check("read", int(code), self._info)
        return bytes(ffi.buffer(buffer))

    def start_writing(self) -> None:
        code = lib.obd_image_start_writing(self._image, self._reserved, self._info)
        check("start writing", int(code), self._info)

    def write(self, offset: int, data: bytes) -> None:
        iov = self._iov(buffer := ffi.new("uint8_t[]", data))
        iov.iov_len = len(data)
        assert len(buffer) >= len(data)
        count = len(data) // SECTOR
        code = lib.obd_image_write(self._image, offset, count, iov, 1, 0, self._info)
        check("write", int(code), self._info)

    def discard(self, offset: int, length: int) -> None:
        check("discard", int(lib.obd_image_discard(self._image, offset, length, self._info)),
              self._info)  # fmt: skip

    def close(self) -> None:
        check("flush", int(lib.obd_image_flush(self._image, self._info)), self._info)
        lib.obd_image_destroy(self._image)


class Life:
    """Sealed layers, a writable one on top, and what the disk must be."""

    def __init__(self, folder: Path, *, is_sparse: bool) -> None:
        self.folder = folder
        self.is_sparse = is_sparse
        self.model = [0] * SECTORS
        self.lowers: list[str] = []
        self.files = 0
        self.pair = self.new_upper()

    def new_path(self) -> str:
        self.files += 1
        return str(self.folder / f"file{self.files}")

    def new_upper(self) -> tuple[str, str]:
        self.pair = self.new_path(), self.new_path()
        create_upper(*self.pair, SECTORS * SECTOR, is_sparse=self.is_sparse)
        return self.pair

    def image(self) -> config.ImageConfig:
        body = {
            "lowers": [{"file": path} for path in self.lowers],
            "upper": dict(zip(("data", "index"), self.pair, strict=True)),
        }
        path = self.folder / "config.v1.json"
        path.write_text(json.dumps(body))
        return config.load(str(path))

    def change(self, target: Any, wanted: list[tuple[bool, int, int, int]]) -> None:
        for is_discard, begin, length, value in wanted:
            length = min(length, SECTORS - begin)
            values = [0] * length if is_discard else [value + i for i in range(length)]
            if is_discard:
                target.discard(begin, length)
            else:
                target.write(begin, b"".join(map(sector, values)))
            self.model[begin : begin + length] = values

    def native(self, wanted: Any) -> None:
        target = Native(self.image())
        target.start_writing()
        self.change(target, wanted)
        target.close()

    def oracle(self, wanted: Any) -> None:
        with Image(self.image()) as image:
            target: Any
            if self.is_sparse:
                below = self.below(image) if self.lowers else None
                target = SparseWriter(*self.pair, below)
            else:
                target = UpperWriter(*self.pair, tag=len(self.lowers))
            self.change(target, wanted)
            target.close()

    def below(self, image: Image) -> Callable[[int, int], bytes]:
        """What the lowers alone hold, before the change."""
        lowers = tuple(config.Lower(path) for path in self.lowers)
        with Image(config.ImageConfig(image.path, lowers, None)) as alone:
            disk = alone.read(0, SECTORS * SECTOR)
        return lambda at, length: disk[at : at + length]

    def commit(self, algorithm: Algorithm | None) -> None:
        zfile = ZFileOptions(algorithm) if algorithm is not None else None
        self.lowers.append(self.new_path())
        write_layer(Sources(upper=self.pair), self.lowers[-1], LayerOptions(zfile=zfile))
        self.new_upper()

    def seal(self, _: None) -> None:
        if self.is_sparse:  # is not sealed in place: its data has holes
            self.commit(None)
            return
        seal(*self.pair)
        self.lowers.append(self.pair[0])
        self.new_upper()

    def merge(self, algorithm: Algorithm | None) -> None:
        zfile = ZFileOptions(algorithm) if algorithm is not None else None
        merged = self.new_path()
        sources = Sources(lowers=tuple(self.lowers), upper=self.pair)
        write_layer(sources, merged, LayerOptions(zfile=zfile, keeps_tags=True))
        self.lowers = [merged]
        self.new_upper()

    def check(self) -> None:
        expected = b"".join(map(sector, self.model))
        native = Native(self.image())
        assert native.read() == expected
        lib.obd_image_destroy(native._image)
        with Image(self.image()) as image:
            assert image.read(0, SECTORS * SECTOR) == expected


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, st.booleans())
def test_both_implementations_are_the_model(wanted: list[tuple[str, Any]], is_sparse: bool) -> None:
    in_memory = MEMORY if os.path.isdir(MEMORY) else None
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        life = Life(Path(folder), is_sparse=is_sparse)
        for name, argument in wanted:
            getattr(life, name)(argument)
            life.check()
        assert verify_image(life.image()).damage_cnt == 0
