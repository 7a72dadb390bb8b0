"""Makes one sealed layer: of a writable one (commit), a sealed one (compact), a stack (merge)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from obdsup.errors import AlreadyServed, ConfigError
from obdsup.format import lsmt_header, tar_writer
from obdsup.format.blob import Blob, FileBlob
from obdsup.format.lsmt_header import NULL_UUID, parse_uuid
from obdsup.format.sink import atomic_output
from obdsup.image import long_call
from obdsup.image.long_call import Report
from obdsup.image.native import check, ffi, lib, new_info
from obdsup.image.zfile import ZFileOptions, wrap_in_tar

__all__ = ["Committed", "LayerOptions", "Sources", "layer_facts", "result_of", "write_layer"]

_MAX_USER_TAG_BYTES = 256


@dataclass(frozen=True)
class Sources:
    """What a layer is made of: sealed layers, bottom to top, and a writable pair above them.

    ``targets`` is empty or has, for each lower, the target of a turboOCI layer and the target's
    gzip index, "" where there is none.
    """

    lowers: tuple[str, ...] = ()
    upper: tuple[str, str] | None = None
    targets: tuple[tuple[str, str], ...] = ()

    @property
    def paths(self) -> list[str]:
        """All files."""
        targets = [path for pair in self.targets for path in pair if path]
        return [*self.lowers, *(self.upper or ()), *targets]


@dataclass(frozen=True)
class LayerOptions:
    """What the new layer says of itself, and how it is stored.

    Attributes:
        zfile: None for a layer that is not compressed.
        uuid: "" for none.
        parent_uuid: None for that of the bottom source.
        keeps_tags: the index says which source each extent is of, 0 being the top one.
        in_tar: wrapped as the only member of a tar.
    """

    zfile: ZFileOptions | None = None
    uuid: str = ""
    parent_uuid: str | None = None
    user_tag: str = ""
    keeps_tags: bool = False
    in_tar: bool = False


@dataclass(frozen=True)
class Committed:
    """The layer that was written; ``layer_bytes`` is its length before compression."""

    file_bytes: int
    layer_bytes: int
    virtual_size_bytes: int
    segment_cnt: int
    data_bytes: int
    zeroed_bytes: int
    longest_block_bytes: int
    uuid: str
    parent_uuid: str


def write_layer(
    sources: Sources,
    target: str,
    options: LayerOptions,
    *,
    may_replace: bool = False,
    report: Report | None = None,
) -> Committed:
    """Writes what the topmost of the sources show as one sealed layer ``target``.

    Sources are not changed. A pair that is being appended to is taken as it is at one moment.
    ``target`` appears whole or not at all.

    Raises:
        AlreadyServed: a sparse layer is being written to: that is in place, no moment can be had.
        ConfigError: a source is missing, ``target`` exists, an option is out of range.
        FormatError: a source is damaged.
        NativeError: the storage failed; more extents than a layer may have.
    """
    _refuse_source(target, sources)
    uuid, parent, tag = _facts(sources, options)
    options = replace(options, uuid=uuid, parent_uuid=parent)
    keep: list[Any] = []  # what the structure points to
    spec = _spec(sources, options, tag, keep)
    done, info = ffi.new("struct obd_committed *"), new_info()
    base = tar_writer.BASE_BYTES if options.in_tar else 0
    with atomic_output(target, may_replace=may_replace) as file:
        code = long_call.run(
            lambda progress: int(
                lib.obd_commit(spec, file.fileno(), os.fsencode(target), base, progress, info, done)
            ),
            report,
        )
        if code == lib.OBD_E_LOCKED and sources.upper is not None:
            raise AlreadyServed(
                f"{sources.upper[0]}: somebody writes to this sparse layer, in place",
                hint="remove its device first",
                path=sources.upper[0],
            )
        check("write the layer", code, info)
        if options.in_tar:
            wrap_in_tar(file.fileno(), int(done.file_bytes))
    return result_of(target, done, options)


def result_of(target: str, done: Any, options: LayerOptions) -> Committed:
    """What a ``struct obd_committed`` and the options that led to it say."""
    return Committed(
        file_bytes=os.path.getsize(target),
        layer_bytes=int(done.layer_bytes),
        virtual_size_bytes=int(done.virtual_size_bytes),
        segment_cnt=int(done.segment_cnt),
        data_bytes=int(done.data_bytes),
        zeroed_bytes=int(done.zeroed_bytes),
        longest_block_bytes=int(done.longest_bytes),
        uuid=options.uuid,
        parent_uuid=options.parent_uuid or NULL_UUID,
    )


def layer_facts(options: LayerOptions, keep: list[Any]) -> Any:
    """A ``struct obd_commit_spec`` without sources; ``keep`` must live as long as it is used."""
    uuid = parse_uuid(options.uuid) if options.uuid else NULL_UUID
    parent = parse_uuid(options.parent_uuid) if options.parent_uuid else NULL_UUID
    options = replace(options, uuid=uuid, parent_uuid=parent)
    return _spec(Sources(), options, _user_tag(options), keep)


def _refuse_source(target: str, sources: Sources) -> None:
    """An output may never replace a file it is made from."""
    if not sources.paths:
        raise ConfigError("layer: expected at least one layer to make it of, found none")
    for path in sources.paths:
        if os.path.exists(target) and os.path.exists(path) and os.path.samefile(target, path):
            raise ConfigError(f"{target}: is an input of this command too")


def _user_tag(options: LayerOptions) -> bytes:
    tag = options.user_tag.encode()
    if len(tag) > _MAX_USER_TAG_BYTES or b"\x00" in tag:
        raise ConfigError(
            f"user tag: expected at most {_MAX_USER_TAG_BYTES} bytes, found {len(tag)}"
        )
    return tag


def _facts(sources: Sources, options: LayerOptions) -> tuple[str, str, bytes]:
    tag = _user_tag(options)
    uuid = parse_uuid(options.uuid) if options.uuid else NULL_UUID
    if options.parent_uuid is None:
        return uuid, _parent_of_bottom(sources), tag
    return uuid, parse_uuid(options.parent_uuid) if options.parent_uuid else NULL_UUID, tag


def _parent_of_bottom(sources: Sources) -> str:
    path = sources.paths[0]
    blob = FileBlob(path)
    try:
        content: Blob = blob
        if sources.lowers:
            # with the codecs, which take a while to load
            from obdsup.format.layer import open_content

            content = open_content(blob)[0]
        area = content.read_at(0, min(content.size, lsmt_header.AREA_BYTES))
        return lsmt_header.decode(area, path, 0).parent_uuid
    finally:
        blob.close()


def _spec(sources: Sources, options: LayerOptions, tag: bytes, keep: list[Any]) -> Any:
    def text(value: bytes) -> Any:
        keep.append(ffi.new("char[]", value))
        return keep[-1]

    def texts(paths: Iterable[str]) -> Any:
        keep.append(
            ffi.new("char *[]", [text(os.fsencode(path)) if path else ffi.NULL for path in paths])
        )
        return keep[-1]

    spec = ffi.new("struct obd_commit_spec *")
    spec.lower_paths = texts(sources.lowers)
    spec.lower_cnt = len(sources.lowers)
    if sources.targets:
        spec.target_paths = texts(target for target, _ in sources.targets)
        spec.gzip_index_paths = texts(index for _, index in sources.targets)
    spec.keeps_tags = options.keeps_tags
    if sources.upper is not None:
        spec.upper_data, spec.upper_index = (text(os.fsencode(path)) for path in sources.upper)
    spec.uuid = text(options.uuid.encode())
    spec.parent_uuid = text((options.parent_uuid or NULL_UUID).encode())
    spec.user_tag = text(tag)
    if options.zfile is not None:
        options.zfile.fill(spec.zfile)
    return spec
