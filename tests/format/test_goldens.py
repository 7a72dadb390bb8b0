"""Small images of the reference that live in the repository."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from obdsup.errors import ConfigError
from obdsup.format import lsmt_header, lsmt_index, zfile_header
from obdsup.format.image import Image
from obdsup.format.layer import open_layer
from obdsup.format.layer_writer import LayerWriter
from obdsup.format.units import SECTOR_BYTES
from obdsup.format.zfile_header import Algorithm
from obdsup.format.zfile_writer import ZFileWriter
from tests.format.disk_model import GOLDEN, config_file, substituted

DIGESTS: dict[str, str] = json.loads((GOLDEN / "digests.json").read_text())


@pytest.mark.parametrize("name", ["config.m.json", "config.m2.upper.json"])
def test_stack_reads_to_its_digest(name: str, tmp_path: Path) -> None:
    with Image.open(substituted(GOLDEN / name, tmp_path, "@GOLDEN@", GOLDEN)) as image:
        assert image.sha256() == DIGESTS[name]


def test_all_forms_of_one_layer_are_equal(tmp_path: Path) -> None:
    contents = []
    for form in ("raw", "lz4", "zstd", "tar"):
        with Image.of_layer(str(GOLDEN / f"m0.{form}.obd")) as image:
            contents.append([(at, data) for at, data in image.stack.chunks()])
    pair = (GOLDEN / "m0.data", GOLDEN / "m0.idx")
    with Image.open(config_file(tmp_path, [], pair)) as image:
        for at, data in contents[0]:
            assert image.read(at, len(data)) == data
        assert image.sha256() == DIGESTS["m0"]
    assert contents[0]
    assert all(content == contents[0] for content in contents)


def test_headers_encode_to_the_bytes_of_the_reference() -> None:
    raw = (GOLDEN / "m0.raw.obd").read_bytes()
    for at in (0, len(raw) - 4096):
        area = raw[at : at + 4096]
        assert lsmt_header.encode(lsmt_header.decode(area, "m0", at)) == area
    compressed = (GOLDEN / "m0.lz4.obd").read_bytes()
    for at in (0, len(compressed) - 512):
        area = compressed[at : at + 512]
        assert zfile_header.encode(zfile_header.decode(area, "m0", at)) == area


def test_index_encodes_to_the_bytes_of_the_reference() -> None:
    raw = (GOLDEN / "m0.raw.obd").read_bytes()
    opened = open_layer(str(GOLDEN / "m0.raw.obd"))
    begin = opened.layer.header.index_offset_bytes
    assert lsmt_index.encode(opened.layer.segments, padded_to=256) == raw[begin:-4096]
    opened.close()


def test_read_beyond_the_end_is_refused() -> None:
    with Image.of_layer(str(GOLDEN / "m0.raw.obd")) as image:
        with pytest.raises(ConfigError, match="inside 1073741824"):
            image.read(image.size_bytes - SECTOR_BYTES, 2 * SECTOR_BYTES)
        with pytest.raises(ConfigError, match="multiple of 512"):
            image.read(1, SECTOR_BYTES)


@pytest.mark.parametrize("form", ["raw", "zstd"])
def test_writers_make_the_very_bytes_of_the_reference(form: str) -> None:
    opened = open_layer(str(GOLDEN / "m0.raw.obd"))
    header, file = opened.layer.header, io.BytesIO()
    zfile = ZFileWriter(file, Algorithm.ZSTD, 4096) if form == "zstd" else None
    writer = LayerWriter(zfile or file, header.virtual_size_bytes, uuid=header.uuid)
    for segment in opened.layer.segments:
        if segment.is_zeroed:
            writer.add_zeros(segment.offset, segment.length)
        else:
            data = opened.layer.read_payload(segment.moffset, segment.length)
            writer.add_data(segment.offset, data)
    writer.finish()
    if zfile:
        zfile.finish()
    opened.close()
    assert file.getvalue() == (GOLDEN / f"m0.{form}.obd").read_bytes()
