"""Carries a rollout out: rollout_machine's actions in order, in a thread of its own.

There is one at a time. Whoever asked may go away; the rollout goes on, and a supervisor that died
in it goes on with it at its next start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from obdsup.errors import AlreadyServed, HandoffError, ObdError, StateError
from obdsup.state.device import RolloutRow
from obdsup.supervisor.rollout_machine import (
    UNDER_WAY,
    RolloutAction,
    RolloutEvent,
    RolloutState,
    step,
)

__all__ = ["Ground", "Rollout", "RolloutOptions"]

_S, _E, _A = RolloutState, RolloutEvent, RolloutAction
Progress = Callable[[str], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """How carefully. Checked by who asked."""

    canary: int = 1
    batch: int = 10
    watch_s: float = 30.0


class Ground(Protocol):
    """What the actions act on. Text that is returned says what is wrong, "" that all is well."""

    def begin(self) -> None: ...
    def aim(self, row: RolloutRow) -> str: ...
    def prepare(self, row: RolloutRow) -> str: ...
    def next_group(self, row: RolloutRow, count: int) -> tuple[str, ...]: ...
    def candidates(self, row: RolloutRow) -> list[str]: ...
    def persist(self, row: RolloutRow) -> None: ...
    def move(self, row: RolloutRow) -> str: ...
    def watch(self, row: RolloutRow) -> str: ...
    def finish(self, row: RolloutRow) -> str: ...
    def move_back(self, row: RolloutRow) -> str: ...


class Rollout:
    """The last or present rollout; safe from any thread.

    Args:
        ground: the devices and workers.
        row: the last one, from state.db.
        emit: emits an event: name, device, fields.
    """

    def __init__(self, ground: Ground, row: RolloutRow | None, emit: Callable[..., None]) -> None:
        self._ground = ground
        self._emit = emit
        self._row = row or RolloutRow("", "", _S.IDLE.value, {}, (), "", 0.0, 0.0)
        self._state = RolloutState(self._row.state)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._said: list[str] = []
        self._abort_asked = threading.Event()

    # -- asked by operations, in their threads ---------------------------------------------------
    @property
    def row(self) -> RolloutRow:
        """As it stands; ``state`` is "idle" when there never was one."""
        return self._row

    @property
    def is_under_way(self) -> bool:
        return self._state in UNDER_WAY or self._thread is not None

    def is_aborted(self) -> bool:
        """For the ground: what it does is not wanted any more. Not while rolling back."""
        return self._abort_asked.is_set() and self._state is not _S.ROLLING_BACK

    def start(self, target: str, origin: str, options: RolloutOptions) -> None:
        """Begins one; returns at once.

        Args:
            target: full path of the release.
            origin: full path of the one that new devices come from now.
            options: how carefully.

        Raises:
            AlreadyServed: one is under way.
        """
        with self._changed:
            if self.is_under_way:
                raise AlreadyServed(
                    f"a rollout of {self._row.target} is under way ({self._state.value})",
                    hint="see `obdsup upgrade status`, or stop it with `obdsup upgrade abort`",
                )
            self._abort_asked.clear()
            self._said = []
            now = time.time()
            values = {key: float(value) for key, value in asdict(options).items()}
            self._row = RolloutRow(target, origin, self._state.value, values, (), "", now, now)
            self._ground.begin()
            self._run_in_thread(_E.STARTED)

    def abort(self) -> None:
        """Rolls it back; returns when that is over.

        Raises:
            StateError: there is nothing to roll back, or not any more.
            HandoffError: something could not go back.
        """
        with self._changed:
            if self._state is _S.FAILED and self._thread is None:
                self._run_in_thread(_E.ABORT_ASKED)
            elif not self.is_under_way or self._state is _S.FINISHING:
                raise StateError(
                    f"no rollout to abort: the last one is {self._state.value}",
                    hint="roll the other release out with `obdsup upgrade --to`",
                )
            self._abort_asked.set()
        self._wait(lambda text: None)
        if self._state is _S.DONE:
            raise StateError("too late to abort: every device had moved")
        if self._state is not _S.ROLLED_BACK:
            raise HandoffError(f"the rollout could not be rolled back: {self._row.reason}")

    def resume(self) -> None:
        """Goes on with what a dead supervisor left; returns at once."""
        with self._changed:
            if self._state in UNDER_WAY:
                self._say(f"the supervisor was started again: {self._state.value}")
                self._run_in_thread(_E.RESUMED)

    def wait(self, progress: Progress) -> RolloutRow:
        """Returns the row once it is done.

        Raises:
            HandoffError: it was rolled back, and why; or it could not be.
        """
        self._wait(progress)
        row = self._row
        if self._state is _S.DONE:
            return row
        did = "was rolled back" if self._state is _S.ROLLED_BACK else "failed, and is half done"
        raise HandoffError(
            f"the rollout of {row.target} {did}: {row.reason}",
            hint="see `obdsup upgrade status` and the logs of its workers",
            state=row.state, reason=row.reason, moved=list(row.moved),
        )  # fmt: skip

    def _wait(self, progress: Progress) -> None:
        told, is_over = 0, False
        while not is_over:
            with self._changed:
                while self._thread is not None and len(self._said) == told:
                    self._changed.wait()
                lines, told = self._said[told:], len(self._said)
                is_over = self._thread is None
            for line in lines:
                progress(line)

    # -- the thread ------------------------------------------------------------------------------
    def _run_in_thread(self, event: RolloutEvent) -> None:
        self._thread = threading.Thread(
            target=self._run, args=(event,), name="rollout", daemon=True
        )
        self._thread.start()

    def _run(self, event: RolloutEvent) -> None:
        try:
            self.carry_out(event)
        except Exception:
            # A bug: the devices are served as they are; the next start goes on with what is kept.
            log.exception("the rollout failed")
            self._say("stopped by a bug of the supervisor: see its log")
        finally:
            with self._changed:
                self._thread = None
                self._changed.notify_all()

    def carry_out(self, event: RolloutEvent) -> None:
        """Every action up to an end, in the caller's thread."""
        following: RolloutEvent | None = event
        if event is _E.RESUMED and self._state is not _S.ROLLING_BACK:
            following = self._judged(self._ground.aim(self._row), event)
        while following is not None:
            self._state, actions = step(self._state, following, time.monotonic())
            following = None
            for action in actions:
                following = self._DO[action](self)
                if following is not None:
                    break  # PERSIST failed, or the last action ended

    def _judged(self, problem: str, good: RolloutEvent) -> RolloutEvent:
        """The event an action ended with."""
        if self.is_aborted():
            self._change(reason="aborted by the operator")
            return _E.ABORT_ASKED
        if problem:
            self._change(reason=problem)
            return _E.BAD_SIGN
        return good

    def _change(self, **changes: object) -> None:
        self._row = replace(self._row, changed=time.time(), **changes)  # type: ignore[arg-type]

    def _say(self, text: str) -> None:
        with self._changed:
            self._said.append(text)
            self._changed.notify_all()

    # -- actions; each returns the event it ends with ----------------------------------------------
    def _persist(self) -> RolloutEvent | None:
        state, options = self._state, self._row.options
        if state in (_S.CANARY, _S.BATCH):
            count = options["canary" if state is _S.CANARY else "batch"]
            group = self._ground.next_group(self._row, int(count))
            self._change(moved=(*self._row.moved, *group))
            self._say(f"{state.value}: {', '.join(group) or 'no device is served'}")
            self._emit(f"rollout.{state.value}", devices=list(group), release=self._row.target)
        else:
            self._say(state.value + (f": {self._row.reason}" if self._row.reason else ""))
        self._change(state=state.value)
        try:
            self._ground.persist(self._row)
        except ObdError as error:
            log.warning("rollout.not_kept state=%s reason=%s", state.value, error)
            if state in UNDER_WAY - {_S.ROLLING_BACK}:
                return self._judged(str(error), _E.BAD_SIGN)
        name = {_S.PREPARING: "started"}.get(state, state.value)
        if name in ("started", "rolling_back"):
            level = logging.WARNING if state is _S.ROLLING_BACK else logging.INFO
            self._emit(
                f"rollout.{name}", level=level, release=self._row.target, origin=self._row.origin,
                reason=self._row.reason,
            )  # fmt: skip
        return None

    def _prepare(self) -> RolloutEvent:
        row = self._row
        return self._judged(self._ground.aim(row) or self._ground.prepare(row), _E.READY)

    def _move(self) -> RolloutEvent:
        return self._judged(self._ground.move(self._row), _E.MOVED)

    def _watch(self) -> RolloutEvent:
        problem = self._ground.watch(self._row)
        is_all = not self._ground.candidates(self._row)
        return self._judged(problem, _E.ALL_QUIET if is_all else _E.QUIET)

    def _finish(self) -> RolloutEvent:
        problem = self._ground.finish(self._row)
        self._change(reason=problem)
        return _E.BAD_SIGN if problem else _E.FINISHED

    def _move_back(self) -> RolloutEvent:
        problem = self._ground.move_back(self._row)
        if not problem:
            return _E.MOVED_BACK
        self._change(reason=f"{self._row.reason}; then {problem}")
        return _E.STUCK

    def _report(self) -> None:
        failed = self._state is _S.FAILED
        self._emit(
            f"rollout.{self._state.value}", level=logging.ERROR if failed else logging.INFO,
            release=self._row.target, moved=len(self._row.moved), reason=self._row.reason,
        )  # fmt: skip

    _DO: dict[RolloutAction, Callable[[Rollout], RolloutEvent | None]] = {
        _A.PERSIST: _persist,
        _A.PREPARE: _prepare,
        _A.MOVE: _move,
        _A.WATCH: _watch,
        _A.FINISH: _finish,
        _A.MOVE_BACK: _move_back,
        _A.REPORT: _report,
    }
