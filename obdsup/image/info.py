"""What files are: an image's layers one by one, or any single file, sound or damaged."""

from __future__ import annotations

import itertools
import os
from typing import Any

from obdsup.errors import ConfigError, FormatError, ObdError
from obdsup.format import config, lsmt_header, zfile_header
from obdsup.format.blob import FileBlob
from obdsup.format.config import ImageConfig, Lower
from obdsup.format.image import Image
from obdsup.format.layer import LayerFile, open_content, open_layer
from obdsup.format.lsmt_header import AREA_BYTES, NULL_UUID, LsmtFlags, LsmtHeader
from obdsup.format.lsmt_index import Segment
from obdsup.format.sparse_upper import SparseUpper
from obdsup.format.units import SECTOR_BYTES
from obdsup.format.upper import Upper, open_upper

__all__ = ["chain_breaks", "describe_file", "describe_image", "kind_of", "top_uuid"]

Facts = dict[str, object]

_GZIP_INDEX_MAGIC = b"ddgzidx\0"
_TAR_MAGIC = slice(257, 262)


def kind_of(path: str) -> str:
    """By content: config, layer (sealed, maybe wrapped), data, sparse, index, gzip-index, other.

    Raises:
        ConfigError: it can not be opened.
    """
    blob = FileBlob(path)
    try:
        head = blob.read_at(0, min(blob.size, AREA_BYTES))
    finally:
        blob.close()
    if lsmt_header.has_magic(head) and len(head) == AREA_BYTES:
        return _kind_of_lsmt(path, int.from_bytes(head[28:32], "little"))
    if zfile_header.has_magic(head) or head[_TAR_MAGIC] == b"ustar":
        return "layer"
    if head[: len(_GZIP_INDEX_MAGIC)] == _GZIP_INDEX_MAGIC:
        return "gzip-index"
    return "config" if path.endswith(".json") or head.lstrip()[:1] == b"{" else "other"


def _kind_of_lsmt(path: str, flags: int) -> str:
    if not flags & LsmtFlags.DATA:
        return "index"
    if flags & LsmtFlags.SPARSE:
        return "sparse"
    if flags & LsmtFlags.SEALED or _has_trailer(path):
        return "layer"
    return "data"


def _has_trailer(path: str) -> bool:
    """A layer that was sealed in place has a header that does not say so."""
    blob = FileBlob(path)
    try:
        if blob.size < 2 * AREA_BYTES:
            return False
        return lsmt_header.has_magic(blob.read_at(blob.size - AREA_BYTES, AREA_BYTES))
    finally:
        blob.close()


def _header_facts(header: LsmtHeader) -> Facts:
    return {
        "virtual_size_bytes": header.virtual_size_bytes,
        "uuid": header.uuid,
        "parent_uuid": header.parent_uuid,
        "user_tag": header.user_tag,
    }


def _mapped(segments: list[Segment], *, is_zeroed: bool) -> int:
    return sum(s.length for s in segments if s.is_zeroed == is_zeroed) * SECTOR_BYTES


def _layer_facts(lower: LayerFile, named: Lower) -> Facts:
    zfile = lower.zfile.header if lower.zfile is not None else None
    segments = lower.layer.segments
    facts: Facts = {
        "file": lower.layer.path,
        "file_bytes": lower.file_bytes,
        "compression": zfile.algorithm.name.lower() if zfile else "none",
        "block_bytes": zfile.block_bytes if zfile else None,
        "has_block_crc": zfile.is_verified if zfile else False,
        "tar_base_bytes": lower.tar_base_bytes,
        **_header_facts(lower.layer.header),
        "segments": len(segments),
        "data_bytes": _mapped(segments, is_zeroed=False),
        "zeroed_bytes": _mapped(segments, is_zeroed=True),
    }
    if named.target:
        facts |= {"target": named.target, "gzip_index": named.gzip_index}
    return facts


def _upper_facts(data: str, index: str, upper: Upper | SparseUpper) -> Facts:
    segments = list(upper.map)
    return {
        "data": data,
        "index": index,
        "mode": "sparse" if isinstance(upper, SparseUpper) else "append",
        "data_file_bytes": os.path.getsize(data),
        "allocated_bytes": os.stat(data).st_blocks * 512,
        **_header_facts(upper.header),
        "records": upper.record_cnt,
        "segments": len(segments),
        "data_bytes": _mapped(segments, is_zeroed=False),
        "zeroed_bytes": _mapped(segments, is_zeroed=True),
        "torn_tail_bytes": upper.torn_bytes,
    }


def _error(facts: Facts, error: ObdError) -> Facts:
    return facts | {"error": str(error)}


def _describe_lower(named: Lower) -> Facts:
    try:
        lower = open_layer(named.path, named.target, named.gzip_index)
    except ObdError as error:
        return _error({"file": named.path}, error)
    try:
        return _layer_facts(lower, named)
    finally:
        lower.close()


def _describe_upper(data: str, index: str) -> Facts:
    try:
        upper = open_upper(data, index)
    except ObdError as error:
        return _error({"data": data, "index": index}, error)
    try:
        return _upper_facts(data, index, upper)
    finally:
        upper.close()


def chain_breaks(lowers: list[Facts], upper: Facts | None) -> list[str]:
    """Layers whose parent uuid is another one than that of the layer below; unset ones say nothing.

    Snapshotters do not set them, and no reader asks for them: a warning, not an error.
    """
    breaks = []
    layers = [*lowers, *([upper] if upper else [])]
    for position, (below, layer) in enumerate(itertools.pairwise(layers), 1):
        parent, uuid = layer.get("parent_uuid", NULL_UUID), below.get("uuid", NULL_UUID)
        if NULL_UUID not in (parent, uuid) and parent != uuid:
            name = layer.get("file") or layer.get("data")
            breaks.append(
                f"layer {position} ({name}) is made for a parent {parent}, below it is {uuid}"
            )
    return breaks


def describe_image(image: ImageConfig) -> Facts:
    """Its layers one by one: one that is damaged has ``error`` instead of what could not be read.

    ``problems`` are why it can not be served, ``warnings`` do not stand in its way.
    """
    lowers = [_describe_lower(lower) for lower in image.lowers]
    upper = _describe_upper(*image.upper) if image.upper is not None else None
    problems = [str(one["error"]) for one in [*lowers, upper or {}] if "error" in one]
    facts: Facts = {"virtual_size_bytes": None, "mapped_bytes": None}
    if not problems:
        try:
            with Image(image) as opened:
                facts["virtual_size_bytes"] = opened.size_bytes
                mapped = sum(segment.length for segment in opened.segments())
                facts["mapped_bytes"] = mapped * SECTOR_BYTES
        except ObdError as error:
            problems.append(str(error))
    return {
        **facts,
        "lowers": lowers,
        "upper": upper,
        "warnings": chain_breaks(lowers, upper),
        "problems": problems,
    }


def describe_file(path: str, kind: str) -> Facts:
    """A file that is no image by itself: half of a pair, a gzip index, another ZFile."""
    facts: Facts = {"file": path, "kind": kind, "file_bytes": os.path.getsize(path)}
    try:
        return facts | _single(path, kind)
    except ObdError as error:
        return _error(facts, error) | {"problems": [str(error)]}


def _single(path: str, kind: str) -> Facts:
    blob = FileBlob(path)
    try:
        if kind in ("data", "sparse", "index"):
            header = lsmt_header.decode(blob.read_at(0, AREA_BYTES), path, 0)
            facts = _header_facts(header)
            if kind == "index":
                facts["records"] = (blob.size - AREA_BYTES) // 16
            facts["hint"] = "give DATA and INDEX for what the pair holds"
            return facts
        if kind == "gzip-index":
            from obdsup.format.gzip_index import GzipIndex

            counts = [int.from_bytes(blob.read_at(at, 8), "little") for at in (25, 33)]
            index = GzipIndex(FileBlob(path), counts[1])
            return {
                "entries": counts[0],
                "gzip_bytes": counts[1],
                "content_bytes": index.plain_bytes,
                "span_bytes": index.span_bytes,
            }
        if kind == "other":
            raise FormatError(
                path, 0, "an image config, layer, writable layer or ZFile", "none of them"
            )
        content, base, zfile = open_content(blob)
        if zfile is None:
            raise FormatError(path, base, "a layer or a ZFile", "a tar of something else")
        return {
            "compression": zfile.header.algorithm.name.lower(),
            "block_bytes": zfile.header.block_bytes,
            "has_block_crc": zfile.header.is_verified,
            "tar_base_bytes": base,
            "content_bytes": content.size,
            "blocks": len(zfile.table),
        }
    finally:
        blob.close()


def top_uuid(image: ImageConfig) -> str:
    """The uuid of the topmost layer.

    Raises:
        ConfigError, FormatError: it can not be opened.
    """
    facts: dict[str, Any] = (
        _describe_upper(*image.upper)
        if image.upper is not None
        else _describe_lower(image.lowers[-1])
    )
    if "error" in facts:
        raise ConfigError(str(facts["error"]))
    return str(facts["uuid"])


def holds_layer(path: str) -> bool:
    """Whether a wrapped file has an LSMT layer inside; damage counts as one."""
    try:
        blob = FileBlob(path)
        try:
            content, _, _ = open_content(blob)
            head = content.read_at(0, min(content.size, AREA_BYTES))
        finally:
            blob.close()
    except FormatError:
        return True
    return lsmt_header.has_magic(head)


def load(path: str, index: str = "") -> ImageConfig:
    """The image of a config, of a layer file alone, or of a writable pair alone."""
    if index:
        return ImageConfig(path, (), (os.path.abspath(path), os.path.abspath(index)))
    if kind_of(path) == "config":
        return config.load(path)
    return ImageConfig(path, (Lower(path),), None)
