"""Listens to TCM-USER: devices that others make are served, let go of, resized, and answered for.

One thread only reads and queues; each notice is carried out in a thread of its own, so that a slow
image delays nobody else. Every notice that its maker waits for is answered, whatever happens.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from obdsup.errors import AlreadyServed, ConfigError, FormatError, ObdError, WorkerLost
from obdsup.supervisor.event_log import EventLog
from obdsup.supervisor.foreign_devices import ForeignDevices
from obdsup.supervisor.provider.foreign_rings import (
    ForeignRing,
    foreign_daemons,
    foreign_rings,
    ring_holders,
)
from obdsup.supervisor.provider.kernel_files import KernelRoots
from obdsup.supervisor.provider.tcmu_foreign import ForeignTcmuProvider
from obdsup.supervisor.provider.tcmu_notice import OWN_SUBTYPE, Notice, NoticeKind

if TYPE_CHECKING:
    from obdsup.supervisor.provider.tcmu_netlink import TcmuNetlink

__all__ = ["ForeignListener", "status_of"]

log = logging.getLogger(__name__)
SETTLE_S = 120.0  # for what is under way, after notices were lost
GONE_PAUSES_S = (0.0, 0.5, 2.0, 10.0, 60.0)
_TICK_S = 0.1
_BY_CLASS: tuple[tuple[type[ObdError], int], ...] = (
    (ConfigError, errno.EINVAL),
    (FormatError, errno.EINVAL),
    (AlreadyServed, errno.EBUSY),
    (WorkerLost, errno.ETIMEDOUT),
)
# What makes a writer of ``enable`` try again for ever, or for some time.
_TRIED_AGAIN = (errno.EAGAIN, errno.EINTR)


def status_of(error: Exception) -> int:
    """The -errno that who made a device gets for an error."""
    if isinstance(error, ObdError):
        number = error.fields.get("errno")
        if isinstance(number, int) and 0 < number < 256 and number not in _TRIED_AGAIN:
            return -number
        for kind, code in _BY_CLASS:
            if isinstance(error, kind):
                return -code
    return -errno.EIO


class ForeignListener:
    """Listens from ``start`` to ``stop``.

    Args:
        devices: what is done with rings of others.
        provider: their provider.
        events: told of what goes wrong.
        roots: where the kernel shows itself.
    """

    def __init__(
        self,
        devices: ForeignDevices,
        provider: ForeignTcmuProvider,
        events: EventLog,
        roots: KernelRoots,
    ) -> None:
        self._devices = devices
        self._provider = provider
        self._events = events
        self._roots = roots
        self._netlink: TcmuNetlink | None = None
        self._lock = threading.Lock()
        self._pending = 0  # notices not yet answered
        self._places: dict[tuple[int, str], threading.Lock] = {}
        self._answered_for: set[tuple[int, str]] = set()  # of another subtype, with nobody else
        self.left: set[ForeignRing] = set()  # served by nobody, until an operator says so

    @property
    def is_listening(self) -> bool:
        return self._netlink is not None

    def start(self) -> None:
        """Joins the group; what waited for an answer from whoever was here before is ended.

        Raises:
            ObdError: another supervisor or overlaybd-tcmu listens, or there is no such family.
        """
        if self._netlink is not None:
            return
        daemons = foreign_daemons(self._roots)
        if daemons:
            raise AlreadyServed(
                f"overlaybd-tcmu runs (pid {', '.join(map(str, daemons))}) and serves the devices"
                " made in configfs", hint="stop it, then `obdsup adopt --all`", pids=daemons,
            )  # fmt: skip
        from obdsup.supervisor.provider import tcmu_netlink

        self.left = set(foreign_rings(self._roots)) - {ring for ring, _ in self._devices.all()}
        self._netlink = netlink = tcmu_netlink.TcmuNetlink()
        netlink.announce()
        tcmu_netlink.fail_pending_requests(self._roots)
        for target in (self._read, self._look_for_gone):
            threading.Thread(target=target, name="tcm-user", daemon=True).start()

    def stop(self) -> None:
        """Makers of devices are told to try again, until the next supervisor is here."""
        netlink, self._netlink = self._netlink, None
        if netlink is not None:
            from obdsup.supervisor.provider import tcmu_netlink

            try:
                tcmu_netlink.set_blocked(self._roots, is_blocked=True)
            except OSError as error:
                log.warning("netlink of TCMU can not be blocked: %s", error.strerror)
            netlink.stop()

    # -- the reading thread ------------------------------------------------------------------------
    def _read(self) -> None:
        from obdsup.supervisor.provider.tcmu_netlink import NoticesLost

        netlink = self._netlink
        while netlink is not None:
            try:
                for notice in netlink.read():
                    self._queue(netlink, notice)
                break
            except NoticesLost:
                self._events.emit(
                    "operation.refused", level=logging.ERROR,
                    reason="notices of TCMU were lost: too many at once; looking at what is there",
                )  # fmt: skip
                threading.Thread(
                    target=self._recover_lost, name="tcm-user-lost", daemon=True
                ).start()
            except ObdError as error:
                log.warning("notice of TCMU ignored: %s", error)

    def _queue(self, netlink: TcmuNetlink, notice: Notice) -> None:
        if notice.config.startswith(OWN_SUBTYPE):
            return  # made by us: nobody waits
        with self._lock:
            self._pending += 1
        name = f"{notice.kind.value}-{notice.device}"
        threading.Thread(
            target=self._carry_out, args=(netlink, notice), name=name, daemon=True
        ).start()

    # -- one notice --------------------------------------------------------------------------------
    def _carry_out(self, netlink: TcmuNetlink, notice: Notice) -> None:
        place = (notice.hba, notice.device)
        with self._lock:
            lock = self._places.setdefault(place, threading.Lock())
        try:
            with lock:
                if self._is_ours(notice) and not self._is_another_daemons(notice):
                    is_awaited = self._is_awaited(notice)
                    status = self._status(notice)
                else:
                    is_awaited, status = self._is_lonely(netlink, notice), 0
                if is_awaited:
                    netlink.answer(notice, status)
        except ObdError as error:
            log.warning("answer to TCMU about %s: %s", notice.device, error)
        finally:
            with self._lock:
                self._pending -= 1
                if notice.kind is NoticeKind.REMOVED:
                    self._places.pop(place, None)

    def _is_ours(self, notice: Notice) -> bool:
        return bool(_ring(notice).path)

    def _is_another_daemons(self, notice: Notice) -> bool:
        """Whether overlaybd-tcmu, started beside us, has taken it or will."""
        return self._devices.find(_ring(notice)) is None and bool(foreign_daemons(self._roots))

    def _is_awaited(self, notice: Notice) -> bool:
        """Before anything is done: of a device that is being removed only its row can tell."""
        device = self._devices.find(_ring(notice))
        if notice.kind is NoticeKind.REMOVED and device is not None:
            return bool(device.record.row.provider_ids.get("waits", 1))
        return self._provider.waits_for_answers(notice.hba, notice.device)

    def _is_lonely(self, netlink: TcmuNetlink, notice: Notice) -> bool:
        """Whether nobody else could answer for a device of another program. The kernel waits since
        we asked it to; where no other listens, it must not wait for one.
        """
        place = (notice.hba, notice.device)
        if self._is_ours(notice):
            return False
        if notice.kind is not NoticeKind.ADDED:
            return place in self._answered_for
        if not self._provider.waits_for_answers(*place) or netlink.others(self._roots):
            return False
        self._answered_for.add(place)
        return True

    def _status(self, notice: Notice) -> int:
        ring = _ring(notice)
        try:
            if notice.kind is NoticeKind.ADDED:
                self._devices.let_go(ring)  # of an earlier time, when we were not here
                self._devices.serve(ring, lambda text: None)
            elif notice.kind is NoticeKind.REMOVED:
                self.left.discard(ring)
                self._devices.let_go(ring)
            elif notice.size_bytes is not None:
                self._devices.resize(ring, notice.size_bytes)
            else:
                return -errno.EOPNOTSUPP
        except ObdError as error:
            log.warning("%s of %s refused: %s", notice.kind.name, notice.device, error)
            return status_of(error)
        except Exception:
            log.exception("%s of %s", notice.kind.name, notice.device)  # its maker must not wait
            return -errno.EIO
        return 0

    # -- what was missed ---------------------------------------------------------------------------
    def _look_for_gone(self) -> None:
        """More than once: a removal that was just told to go on takes the kernel a moment."""
        for pause_s in GONE_PAUSES_S:
            time.sleep(pause_s)
            self._let_go_of_gone()

    def _let_go_of_gone(self) -> None:
        """Devices that were removed while nobody listened."""
        present = {(ring.hba, ring.device) for ring in foreign_rings(self._roots)}
        for ring, device in self._devices.all():
            if (ring.hba, ring.device) not in present:
                self._try(device.record.name, partial(self._devices.let_go, ring))

    def _recover_lost(self) -> None:
        """Whose notice was lost waits for ever: it is told to try again. Whoever waits for nothing
        is served. First what is under way ends, so that its answer finds who waits.
        """
        from obdsup.supervisor.provider import tcmu_netlink

        deadline = time.monotonic() + SETTLE_S
        while self._pending and time.monotonic() < deadline:
            time.sleep(_TICK_S)
        self._try("", lambda: tcmu_netlink.fail_pending_requests(self._roots))
        self._let_go_of_gone()
        for ring, sysfs in foreign_rings(self._roots).items():
            is_known = ring in self.left or self._devices.find(ring) is not None
            if not is_known and not ring_holders(self._roots, sysfs):
                self._try(ring.device, partial(self._devices.serve, ring, lambda text: None))

    def _try(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except ObdError as error:
            log.warning("device %s of another program: %s", name, error)


def _ring(notice: Notice) -> ForeignRing:
    return ForeignRing(notice.hba, notice.device, notice.config)
