"""In the guest: the tcmu provider on a real kernel. What held is in GUEST_RESULT/checks.json."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from guest.checks.provider_contract import SIZE_BYTES, contract_geometry, run_contract
from guest.checks.report import named_checks, run_checks
from guest.checks.served import FakeServerProcess, fake_served
from obdsup.errors import ProviderError
from obdsup.supervisor.provider.base import DeviceGeometry, ProviderIds
from obdsup.supervisor.provider.configfs import Configfs
from obdsup.supervisor.provider.tcmu import TcmuProvider

_DEVICES_AT_ONCE = 20


@contextlib.contextmanager
def _published(
    name: str, folder: Path, *, is_read_only: bool = False
) -> Iterator[tuple[TcmuProvider, ProviderIds, str, FakeServerProcess]]:
    """A served and published device; gone when the block is left."""
    provider = TcmuProvider()
    base = contract_geometry(name)
    geometry = DeviceGeometry(name, base.uuid, SIZE_BYTES, is_read_only, base.config_path)
    ids = provider.create(geometry)
    handle = provider.open_ring(ids)
    try:
        with fake_served(handle, folder / f"{name}.disk", SIZE_BYTES) as server:
            try:
                yield provider, ids, provider.publish(ids), server
            finally:
                provider.retract(ids)
    finally:
        handle.close()
        provider.destroy(ids)


def check_contract(folder: Path) -> None:
    run_contract(TcmuProvider(), "contract", folder, lambda line: print(f"  {line}", flush=True))


def check_settings_outlive_outages(folder: Path) -> None:
    with _published("settings", folder) as (_, ids, node, _):
        device = Path("/sys/block", Path(node).name, "device")
        assert (device / "timeout").read_text().strip() == "3600"
        core = Path(f"/sys/kernel/config/target/core/user_{ids['hba']}/{ids['device']}")
        assert (core / "attrib" / "cmd_time_out").read_text().strip() == "0"


def check_read_only_device_refuses_writes(folder: Path) -> None:
    with _published("readonly", folder, is_read_only=True) as (_, _, node, _):
        done = subprocess.run(["blockdev", "--getro", node], capture_output=True, check=True)
        assert done.stdout.strip() == b"1", done.stdout


def check_second_open_names_the_holder(folder: Path) -> None:
    with _published("busy", folder) as (provider, ids, _, _):
        refusal = _refusal(lambda: provider.open_ring(ids))
        assert str(os.getpid()) in refusal.split("process ")[1], refusal


def check_ext4_lives_through_a_kill(folder: Path) -> None:
    mount_point = folder / "mnt"
    mount_point.mkdir()
    with _published("ext4", folder) as (provider, ids, node, server):
        _run("mkfs.ext4", "-q", node)
        _run("mount", "-t", "ext4", node, str(mount_point))
        try:
            data = os.urandom(3 << 20)
            (mount_point / "before").write_bytes(data)
            server.kill()
            writer = subprocess.Popen(["sync", "-f", str(mount_point)])
            provider.reset_ring(ids)
            server.start()
            assert writer.wait(60) == 0, "sync failed over a kill"
            Path("/proc/sys/vm/drop_caches").write_text("3")
            assert (mount_point / "before").read_bytes() == data
            refusal = _refusal(lambda: provider.retract(ids))
            assert str(mount_point) in refusal, refusal
        finally:
            _run("umount", str(mount_point))


def check_teardown_without_a_worker_is_bounded_and_completes_later(folder: Path) -> None:
    patient = TcmuProvider()
    ids = patient.create(contract_geometry("abandoned"))
    handle = patient.open_ring(ids)
    with fake_served(handle, folder / "abandoned.disk", SIZE_BYTES) as server:
        patient.publish(ids)
        server.kill()
        hasty = TcmuProvider(configfs=Configfs(3.0))
        refusal = _refusal(lambda: hasty.retract(ids))
        assert "not done within 3 s" in refusal, refusal
        assert "still published" in _refusal(lambda: hasty.destroy(ids))
        server.start()
        patient.retract(ids)
    handle.close()
    patient.destroy(ids)
    assert not patient.exists(ids)


def check_many_devices_at_once(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        nodes = set()
        for number in range(_DEVICES_AT_ONCE):
            _, _, node, _ = stack.enter_context(_published(f"many-{number}", folder))
            nodes.add(node)
        assert len(nodes) == _DEVICES_AT_ONCE, nodes


def _refusal(action: Callable[[], object]) -> str:
    try:
        action()
    except ProviderError as error:
        return str(error)
    raise AssertionError("expected a ProviderError")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


CHECKS = named_checks(globals())

if __name__ == "__main__":
    raise SystemExit(run_checks(CHECKS, sys.argv[1:]))
