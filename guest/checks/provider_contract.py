"""What every ring provider promises (``provider.base``), as one run over one device.

The same function runs over ``fuse`` on the host and over ``tcmu`` in the guest.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from guest.checks.served import FakeServerProcess, fake_served
from obdsup.errors import ProviderError
from obdsup.supervisor.provider.base import (
    DeviceGeometry,
    ProviderIds,
    RingHandle,
    RingProvider,
)

__all__ = ["contract_geometry", "run_contract"]

SIZE_BYTES = 64 << 20
_MIB = 1 << 20


def contract_geometry(name: str) -> DeviceGeometry:
    """A writable device of 64 MiB."""
    return DeviceGeometry(name, str(uuid.uuid4()), SIZE_BYTES, False, f"/images/{name}.json")


def run_contract(
    provider: RingProvider, name: str, folder: Path, say: Callable[[str], None]
) -> None:
    """Takes a device through its whole life; raises AssertionError at the first broken promise.

    ``say`` is told each promise that held. Leaves no device behind, even on failure.
    """
    geometry = contract_geometry(name)
    probe = provider.probe()
    assert probe.is_available, probe.reason
    ids = provider.create(geometry)
    handle: RingHandle | None = None
    try:
        assert provider.create(geometry) == ids, "a second create must find the same device"
        assert provider.exists(ids)
        say("create is idempotent")
        handle = provider.open_ring(ids)
        assert handle.kind in ("uio", "memfd"), handle.kind
        assert handle.map_bytes > 0
        with fake_served(handle, folder / f"{name}.disk", SIZE_BYTES) as server:
            _check_published(provider, ids, server, folder / f"{name}.disk", say)
    finally:
        if handle is not None:
            handle.close()
        provider.destroy(ids)
    provider.destroy(ids)
    assert not provider.exists(ids)
    say("destroy is idempotent")


def _check_published(
    provider: RingProvider,
    ids: ProviderIds,
    server: FakeServerProcess,
    backing: Path,
    say: Callable[[str], None],
) -> None:
    try:
        node = provider.publish(ids)
        assert provider.publish(ids) == node, "a second publish must find the same block device"
        say("publish is idempotent")
        _check_data(node, backing)
        say("what is written arrives and is read back")
        _check_use_is_respected(provider, ids, node)
        say("retract refuses while the device is in use")
        _check_reset(provider, ids, node, server)
        say("reset_ring resends what a dead server left")
    finally:
        provider.retract(ids)
    provider.retract(ids)
    assert not os.path.exists(node) or not Path(node).name.startswith("sd"), (
        f"{node} is still there"
    )
    say("retract is idempotent")


def _check_data(node: str, backing: Path) -> None:
    pattern = os.urandom(_MIB)
    fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    try:
        assert os.lseek(fd, 0, os.SEEK_END) == SIZE_BYTES
        assert os.pwrite(fd, pattern, 5 * _MIB) == _MIB
        os.fsync(fd)
        with backing.open("rb") as disk:
            disk.seek(5 * _MIB)
            assert disk.read(_MIB) == pattern, "fsync returned before the data arrived"
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, _MIB, 5 * _MIB) == pattern
    finally:
        os.close(fd)


def _check_use_is_respected(provider: RingProvider, ids: ProviderIds, node: str) -> None:
    fd = os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    try:
        with contextlib.suppress(ProviderError):
            provider.retract(ids)
            raise AssertionError("retract took a device away that was in use")
        assert len(os.pread(fd, 4096, 0)) == 4096, "a refused retract must change nothing"
    finally:
        os.close(fd)


def _check_reset(
    provider: RingProvider, ids: ProviderIds, node: str, server: FakeServerProcess
) -> None:
    server.kill()
    results: list[bytes | OSError] = []

    def read_uncached() -> None:
        try:
            fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            try:
                results.append(os.pread(fd, 4096, 40 * _MIB))
            finally:
                os.close(fd)
        except OSError as error:
            results.append(error)

    reader = threading.Thread(target=read_uncached, daemon=True)
    reader.start()
    reader.join(0.5)  # not a synchronisation: with or without the read in flight it must work
    assert not results, f"read ended without a server: {results!r}"
    provider.reset_ring(ids)
    server.start()
    reader.join(60)
    assert results == [bytes(4096)], f"read after reset_ring: {results!r}"
