"""In the guest: real workers on real rings. A standby takes over, again and again, under load."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guest.checks.real_worker import RealWorker, open_journal
from guest.checks.report import named_checks, run_checks
from obdsup.format.upper_writer import create_upper
from obdsup.state.journal import JournalReader
from obdsup.supervisor.provider.base import DeviceGeometry, ProviderIds, RingHandle
from obdsup.supervisor.provider.tcmu import TcmuProvider

SIZE_BYTES = 256 << 20
LEAST_KILLS = 3
AIM_S = 2.0


class ServedDevice:
    """A published device with its serving worker and a warm standby."""

    def __init__(self, name: str, folder: Path) -> None:
        self.provider = TcmuProvider()
        self.geometry = DeviceGeometry(name, str(uuid.uuid4()), SIZE_BYTES, False, f"/check/{name}")
        data, index = str(folder / f"{name}.data"), str(folder / f"{name}.index")
        create_upper(data, index, SIZE_BYTES)
        self.image: dict[str, Any] = {"lowers": [], "upper": {"data": data, "index": index}}
        self.ids: ProviderIds = self.provider.create(self.geometry)
        self.handle: RingHandle = self.provider.open_ring(self.ids)
        self.journal_fd = open_journal(folder / f"{name}.inflight")
        self._folder = folder
        self._started = 0
        self.generation = 0
        self.standby = self._start_worker()
        self.worker = self.standby
        self.take_over("fresh")
        self.node = self.provider.publish(self.ids)

    def _start_worker(self) -> RealWorker:
        self._started += 1
        worker = RealWorker(self._folder, f"{self.geometry.name}-{self._started}")
        worker.prewarm(self.geometry.name, self.image)
        return worker

    def take_over(self, mode: str) -> dict[str, Any]:
        """The standby serves; then there is a new standby."""
        self.worker = self.standby
        answer = self._serve(mode)
        self.standby = self._start_worker()
        return answer

    def _serve(self, mode: str) -> dict[str, Any]:
        self.generation += 1
        return self.worker.serve(
            self.geometry, self.image, self.handle, self.journal_fd, self.generation, mode
        )

    def stop_in_flight(self, timeout_s: float) -> bool:
        """Stops the worker at a moment when it has commands in flight; False when none came."""
        journal, deadline = JournalReader(self.journal_fd), time.monotonic() + timeout_s
        pid = self.worker.pid
        while time.monotonic() < deadline:
            os.kill(pid, signal.SIGSTOP)
            while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
                pass
            if journal.counters().in_flight:
                return True
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.003)
        return False

    def kill_and_take_over(self) -> tuple[dict[str, Any], float]:
        """Returns the answer to ``serve`` and the seconds from the kill to it."""
        begin = time.monotonic()
        self.worker.kill()
        self.worker = self.standby
        answer = self._serve("recover")
        took_s = time.monotonic() - begin
        self.standby = self._start_worker()
        return answer, took_s

    def remove(self) -> None:
        self.provider.retract(self.ids)
        self.worker.call("drain", device=self.geometry.name, timeout_ms=10000)
        self.close()
        self.provider.destroy(self.ids)

    def close(self) -> None:
        for worker in (self.worker, self.standby):
            worker.close()
        self.handle.close()
        os.close(self.journal_fd)


@contextlib.contextmanager
def _served(name: str, folder: Path) -> Iterator[ServedDevice]:
    device = ServedDevice(name, folder)
    try:
        yield device
    except BaseException:
        print(device.worker.log_text()[-3000:], flush=True)
        raise
    finally:
        device.remove()


@contextlib.contextmanager
def _mounted(device: ServedDevice, folder: Path) -> Iterator[Path]:
    mount_point = folder / "mnt"
    mount_point.mkdir()
    _run("mkfs.ext4", "-q", device.node)
    _run("mount", "-t", "ext4", device.node, str(mount_point))
    try:
        yield mount_point
    finally:
        _run("umount", str(mount_point))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} exited {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def check_worker_serves_ext4(folder: Path) -> None:
    with _served("plain", folder) as device:
        with _mounted(device, folder) as mount_point:
            data = os.urandom(8 << 20)
            (mount_point / "file").write_bytes(data)
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
            assert (mount_point / "file").read_bytes() == data
        _run("e2fsck", "-fn", device.node)


def check_kills_under_verified_load_lose_nothing(folder: Path) -> None:
    """fio verifies what it reads; kills meet commands in flight while it runs."""
    chance = random.Random(7)
    with _served("load", folder) as device:
        job = subprocess.Popen(
            [
                "fio", "--name=verify", f"--filename={device.node}", "--direct=1",
                "--rw=randwrite", "--bsrange=4k-64k", "--ioengine=libaio", "--iodepth=32",
                "--size=64m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
                "--verify_backlog=256", "--loops=3", "--eta=never",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        )  # fmt: skip
        recovered, times_s = 0, []
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    job.wait(chance.uniform(0.2, 1.0))
                if job.poll() is not None:
                    break
                device.stop_in_flight(AIM_S)
                answer, took_s = device.kill_and_take_over()
                print(f"  {took_s * 1000:.1f} ms, recovered {answer['recovered']}", flush=True)
                recovered += answer["recovered"]
                times_s.append(took_s)
            output, _ = job.communicate()
        finally:
            if job.poll() is None:
                job.kill()
                job.wait()
        assert job.returncode == 0, output
        assert len(times_s) >= LEAST_KILLS, output
        assert recovered > 0, "no kill hit a command in flight"
        times_s.sort()
        print(
            f"  {len(times_s)} kills, {recovered} commands recovered, kill to served: median"
            f" {times_s[len(times_s) // 2] * 1000:.1f} ms, longest {times_s[-1] * 1000:.1f} ms",
            flush=True,
        )


def check_reset_ring_replaces_a_lost_journal(folder: Path) -> None:
    with _served("lost", folder) as device, _mounted(device, folder) as mount_point:
        data = os.urandom(4 << 20)
        (mount_point / "file").write_bytes(data)
        device.worker.kill()
        syncing = subprocess.Popen(["sync", "-f", str(mount_point)])
        os.ftruncate(device.journal_fd, 0)
        device.provider.reset_ring(device.ids)
        device.take_over("fresh")
        assert syncing.wait(120) == 0
        Path("/proc/sys/vm/drop_caches").write_text("3")
        assert (mount_point / "file").read_bytes() == data


CHECKS = named_checks(globals())

if __name__ == "__main__":
    raise SystemExit(run_checks(CHECKS, sys.argv[1:]))
