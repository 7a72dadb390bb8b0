"""The C core with types: images and the engine. The only module that touches ``obdsup._native``.

No logic here: arguments are converted, error records become exceptions. Ownership: an ``Image`` and
an ``Engine`` belong to who opened them, until ``close``; the engine borrows the image of a device
from ``attach`` until ``detach`` returned, and duplicates every fd it is given. Every call releases
the GIL; none calls back into Python.
"""

from __future__ import annotations

import os

from obdsup._native import ffi, lib
from obdsup.errors import (
    AlreadyServed,
    FormatError,
    NativeError,
    ObdError,
    RingError,
    StateError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECTOR_BYTES = 512

_FORMAT_CODES = (lib.OBD_E_FORMAT, lib.OBD_E_CHECKSUM, lib.OBD_E_SHORT)
_STATE_CODES = (lib.OBD_E_JOURNAL, lib.OBD_E_STALE)


def _check_layout() -> None:
    """Complete structs must be as large here as in the compiled headers."""
    for name, size in (
        ("struct obd_errinfo", 640),
        ("struct obd_attach_result", 928),
        ("struct obd_device_stat", 24),
        ("struct obd_image_stat", 48),
    ):
        if ffi.sizeof(name) != size:
            raise ImportError(f"{name} has {ffi.sizeof(name)} bytes, expected {size}")


_check_layout()


def code_name(code: int) -> str:
    """Name of an ``enum obd_err`` value, e.g. ``OBD_E_STALE``."""
    return str(ffi.string(lib.obd_err_name(code)).decode())


def _text(field: Any) -> str:
    return str(ffi.string(field).decode(errors="replace"))


def native_error(op: str, code: int, info: Any) -> ObdError:
    """The exception for a failed call: which class, see DESIGN.md."""
    path, what = _text(info.path), _text(info.what)
    offset, expected, got = int(info.offset_bytes), int(info.expected), int(info.got)
    name = code_name(code)
    if code in _FORMAT_CODES and path:
        return FormatError(path, offset, expected, got, field=what, code=name)
    place = f"{path}: " if path else ""
    reason = os.strerror(info.sys_errno) if info.sys_errno else f"expected {expected}, found {got}"
    message = f"{place}{op}: {what or name}"
    if info.sys_errno or expected or got:
        message += f": {reason}"
    fields: dict[str, Any] = {"op": op, "code": name, "path": path, "errno": info.sys_errno}
    if code == lib.OBD_E_LOCKED:
        return AlreadyServed(message, hint="another process serves it; see its owner", **fields)
    if code == lib.OBD_E_JOURNAL:
        return StateError(message, hint="reset the ring, then serve it fresh", **fields)
    if code == lib.OBD_E_STALE:
        return StateError(message, hint="a successor has the ring: let go of it", **fields)
    if code == lib.OBD_E_RING:
        return RingError(message, hint="reset the ring", **fields)
    return NativeError(message, **fields)


def set_io_flusher() -> int:
    """Asks for PR_SET_IO_FLUSHER; returns 0 or an errno (EPERM: no CAP_SYS_RESOURCE)."""
    return -int(lib.obd_process_set_io_flusher())


def drop_privileges() -> int:
    """Gives up privileges by exec and all capabilities but those that open files of any owner, for
    this thread and those it starts; returns 0 or the errno of the first step that failed."""
    return -int(lib.obd_process_drop_privileges())


def filter_calls() -> int:
    """Has the kernel refuse the system calls that no worker makes; returns 0 or an errno."""
    return -int(lib.obd_process_filter_calls())


def _path(name: bytes) -> Any:
    return ffi.new("char[]", name) if name else ffi.NULL


class Image:
    """An opened image; a follower until an engine serves it.

    Args:
        lowers: absolute paths of the sealed layers, bottom to top; of a turboOCI layer three, its
            own, its target's and that of the target's gzip index, which may be "", a line each.
        upper: data and index path of the writable layer, or None.
        cache_dir: where merged indexes are kept for the next open, "" for nowhere.

    Raises:
        FormatError: a layer is not what its format says.
        NativeError: a file can not be opened or read, or out of memory.
    """

    def __init__(
        self, lowers: list[str], upper: tuple[str, str] | None, cache_dir: str = ""
    ) -> None:
        spec = ffi.new("struct obd_image_spec *")
        files = [[*os.fsencode(lower).split(b"\n"), b"", b""][:3] for lower in lowers]
        columns = [[_path(name) for name in column] for column in zip(*files, strict=True)]
        arrays = [ffi.new("char *[]", column) for column in columns] or [ffi.NULL] * 3
        spec.lower_paths, spec.target_paths, spec.gzip_index_paths = arrays
        spec.lower_cnt = len(lowers)
        cache = _path(os.fsencode(cache_dir))
        spec.sidecar_dir = cache
        if upper is not None:
            data, index = (ffi.new("char[]", os.fsencode(path)) for path in upper)
            spec.upper_data, spec.upper_index = data, index
        info, ret = ffi.new("struct obd_errinfo *"), ffi.new("struct obd_image **")
        code = lib.obd_image_create(spec, info, ret)
        if code:
            raise native_error("open image", code, info)
        self._image = ffi.gc(ret[0], lib.obd_image_destroy)

    @property
    def handle(self) -> Any:
        """The C object, for the engine."""
        return self._image

    def close(self) -> None:
        """Closes the files. Nobody may be using the image. Fine to call again."""
        image, self._image = self._image, None
        if image is not None:
            ffi.release(image)

    @property
    def size_bytes(self) -> int:
        return int(lib.obd_image_virtual_size_bytes(self._image))

    @property
    def is_writable(self) -> bool:
        return bool(lib.obd_image_has_upper(self._image))

    def follow(self) -> None:
        """Picks up what the writer of the upper appended since. Not while it is being served."""
        info = ffi.new("struct obd_errinfo *")
        code = lib.obd_image_follow(self._image, info)
        if code:
            raise native_error("follow upper", code, info)

    @property
    def is_index_new(self) -> bool:
        """There is a cache, and the merged index was not in it."""
        return bool(lib.obd_image_is_index_new(self._image))

    def save_index(self) -> None:
        """Keeps the merged index, unless it is kept already or there is no cache.

        Raises:
            NativeError: it can not be written; the image is as it was, and it is not tried again.
        """
        info = ffi.new("struct obd_errinfo *")
        code = lib.obd_image_save_index(self._image, info)
        if code:
            raise native_error("keep index", code, info)

    def settle(self) -> None:
        """Makes the upper durable, and complete for any reader. Not while anybody serves it."""
        info = ffi.new("struct obd_errinfo *")
        code = lib.obd_image_settle(self._image, info)
        if code:
            raise native_error("settle upper", code, info)

    def read(self, lba: int, sector_cnt: int) -> bytes:
        """Reads whole sectors: for tools and tests; the engine does not come this way."""
        buffer = ffi.new("char[]", sector_cnt * SECTOR_BYTES)
        iov = ffi.new("struct iovec *", {"iov_base": buffer, "iov_len": len(buffer)})
        info = ffi.new("struct obd_errinfo *")
        code = lib.obd_image_read(self._image, lba, sector_cnt, iov, 1, 0, info)
        if code:
            raise native_error("read", code, info)
        return bytes(ffi.buffer(buffer))

    def stat(self) -> dict[str, int]:
        """What is in memory and on disk, see ``struct obd_image_stat``."""
        ret = ffi.new("struct obd_image_stat *")
        lib.obd_image_stat(self._image, ret)
        return {name: int(getattr(ret, name)) for name in _IMAGE_STAT_FIELDS}


_IMAGE_STAT_FIELDS = [name for name, _ in ffi.typeof("struct obd_image_stat").fields]


class Ring:
    """How a device is attached: fds borrowed for the call, identities, generation, mode.

    ``is_blamed``: the predecessor may have died of a command; ``poison_after``: of so many deaths
    a command is answered with a medium error, 0: never.
    """

    __slots__ = (
        "boot_id", "fds", "generation", "is_blamed", "journal_fd", "kind", "map_bytes", "mode",
        "poison_after", "uuid",
    )  # fmt: skip

    def __init__(
        self,
        *,
        kind: str,
        map_bytes: int,
        fds: list[int],
        journal_fd: int,
        boot_id: bytes,
        uuid: bytes,
        generation: int,
        mode: str,
        is_blamed: bool = False,
        poison_after: int = 0,
    ) -> None:
        self.is_blamed, self.poison_after = is_blamed, poison_after
        self.kind, self.map_bytes, self.fds, self.journal_fd = kind, map_bytes, fds, journal_fd
        self.boot_id, self.uuid, self.generation, self.mode = boot_id, uuid, generation, mode


class Poisoned:
    """A command that is answered with a medium error: workers died each time it was executed."""

    __slots__ = ("cdb", "deaths", "lba", "sectors")

    def __init__(self, row: Any) -> None:
        self.cdb = bytes(ffi.buffer(row.cdb, row.cdb_bytes))
        self.lba, self.sectors, self.deaths = int(row.lba), int(row.sectors), int(row.deaths)

    def to_json(self) -> dict[str, object]:
        """As in the answer to ``serve``."""
        cdb = self.cdb.hex()
        return {"cdb": cdb, "lba": self.lba, "sectors": self.sectors, "deaths": self.deaths}


class Engine:
    """Serves rings: ``run`` is one long call for a thread of its own, the rest is for any thread.

    Raises:
        NativeError: out of memory or fds.
    """

    def __init__(self) -> None:
        options = ffi.new("struct obd_engine_options *")
        info, ret = ffi.new("struct obd_errinfo *"), ffi.new("struct obd_engine **")
        code = lib.obd_engine_create(options, info, ret)
        if code:
            raise native_error("create engine", code, info)
        self._engine = ret[0]

    def run(self) -> int:
        """Serves until ``stop``; returns 0 or a negative ``enum obd_err``."""
        return int(lib.obd_engine_run(self._engine))

    def stop(self) -> None:
        """Makes ``run`` return."""
        lib.obd_engine_stop(self._engine)

    def close(self) -> None:
        """Frees the engine; only after ``run`` returned."""
        engine, self._engine = self._engine, ffi.NULL
        if engine != ffi.NULL:
            lib.obd_engine_destroy(engine)

    def attach(self, name: str, ring: Ring, image: Image) -> tuple[dict[str, int], list[Poisoned]]:
        """Takes a ring and serves it.

        Returns:
            The numbers of ``struct obd_attach_result``, and the first of the commands that are not
            executed any more.

        Raises:
            AlreadyServed: another process serves it; nothing was touched.
            StateError: journal not to be trusted, or generation too old; nothing was touched.
            RingError: not a usable ring.
            FormatError, NativeError: the writable layer could not be taken.
        """
        spec = ffi.new("struct obd_attach_spec *")
        spec_name = ffi.new("char[]", name.encode())
        spec.name = spec_name
        fds = ring.fds
        spec.ring.mem_fd = fds[0]
        spec.ring.wait_fd, spec.ring.kick_fd = (fds[0], fds[0]) if len(fds) == 1 else fds[1:3]
        spec.ring.event_bytes = 4 if ring.kind == "uio" else 8
        spec.ring.map_bytes = ring.map_bytes
        spec.journal_fd = ring.journal_fd
        spec.boot_id, spec.device_uuid = ring.boot_id, ring.uuid
        spec.generation = ring.generation
        spec.mode = lib.OBD_ATTACH_FRESH if ring.mode == "fresh" else lib.OBD_ATTACH_RECOVER
        spec.image = image.handle
        spec.is_blamed, spec.poison_after = ring.is_blamed, ring.poison_after
        info, ret = ffi.new("struct obd_errinfo *"), ffi.new("struct obd_attach_result *")
        code = lib.obd_engine_attach(self._engine, spec, info, ret)
        if code:
            raise native_error(f"serve device {name}", code, info)
        cnt = min(int(ret.poisoned_cnt), int(lib.OBD_POISONED_MAX))
        numbers = {field: int(getattr(ret, field)) for field in _ATTACH_RESULT_FIELDS}
        return numbers, [Poisoned(ret.poisoned[i]) for i in range(cnt)]

    def detach(self, name: str, device_id: int, timeout_ms: int) -> None:
        """Lets go of a ring at a command boundary.

        Raises:
            NativeError: code OBD_E_TIMEOUT: commands were still in flight, it is served on.
            StateError, RingError: it was lost before.
        """
        info = ffi.new("struct obd_errinfo *")
        code = lib.obd_engine_detach(self._engine, device_id, timeout_ms, info)
        if code:
            raise native_error(f"drain device {name}", code, info)

    def stat(self, device_id: int) -> tuple[int, int]:
        """Error the device was dropped with (0: none), and commands in flight."""
        ret = ffi.new("struct obd_device_stat *")
        code = lib.obd_engine_stat(self._engine, device_id, ret)
        return (int(ret.failed), int(ret.in_flight)) if code == 0 else (code, 0)


_ATTACH_RESULT_FIELDS = [
    name for name, _ in ffi.typeof("struct obd_attach_result").fields if name != "poisoned"
]
