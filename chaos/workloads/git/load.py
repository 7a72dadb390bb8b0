"""The load: write, commit, build, now and then pack and check; every answer is judged."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

from chaos.workloads.git.repository import OrderFailed, Orders
from chaos.workloads.recorder import Recorder

__all__ = ["GitLoad", "kind_of"]

MODULES = 12
MAX_BALLAST_LINES = 400
CHANGES_PER_ROUND = 3
FSCK_EVERY = 7  # rounds
GC_EVERY = 11
CLEAN_EVERY = 5


class GitLoad:
    """One repository; what it must hold follows from the orders that were answered.

    After an order that failed it is not known what it left: the load ends there.
    """

    def __init__(self, orders: Orders, seed: int, recorder: Recorder) -> None:
        self._orders = orders
        self._recorder = recorder
        self._random = random.Random(f"{seed}/git")
        self._values: dict[str, int] = {}
        self._commits: list[str] = []  # acknowledged, oldest first
        self._round = 0
        self._todo: deque[str] = deque(self._first())
        self._has_failed = False
        self._is_committed = True

    def step(self) -> None:
        if self._has_failed:
            return
        if not self._todo:
            self._round += 1
            self._todo.extend(self._next_round())
        self._carry_out(self._todo.popleft())

    def stop(self) -> None:
        """Nothing is under way between two orders; the round is brought to its commit."""
        while self._todo and not self._is_committed and not self._has_failed:
            self._carry_out(self._todo.popleft())

    def verify(self) -> None:
        for order in ("fsck", "status", "clean", "build"):
            self._carry_out(order)
        result = self._give("history")
        if result is not None:
            self._judge_history(result.split())

    def close(self) -> None:
        self._orders.close()

    def _first(self) -> Iterator[str]:
        yield "create"
        for number in range(MODULES):
            yield self._change(f"m{number}")
        yield f"main {MODULES}"
        yield "commit start"

    def _next_round(self) -> Iterator[str]:
        for number in self._random.sample(range(MODULES), CHANGES_PER_ROUND):
            yield self._change(f"m{number}")
        yield f"commit round-{self._round}"
        yield "build"
        for order, period in (("fsck", FSCK_EVERY), ("gc", GC_EVERY), ("clean", CLEAN_EVERY)):
            if self._round % period == 0:
                yield order

    def _change(self, name: str) -> str:
        value, ballast = self._random.randrange(10**6), self._random.randrange(MAX_BALLAST_LINES)
        return f"write {name} {value} {ballast}"

    def _carry_out(self, order: str) -> None:
        word, *words = order.split()
        if word == "write":
            self._values[words[0]] = int(words[1])
        self._is_committed = word not in ("create", "write", "main")
        result = self._give(order)
        if result is None:
            return
        if word in ("create", "commit"):
            self._commits.append(result)
        if word == "build" and result != str(sum(self._values.values())):
            expected = sum(self._values.values())
            self._recorder.found("corrupt", f"git: the program printed {result!r}, not {expected}")

    def _give(self, order: str) -> str | None:
        """The result; None, and a finding, when a tool failed."""
        try:
            result, operation = self._orders.give(order)
        except OrderFailed as failure:
            self._has_failed = True
            self._recorder.found(kind_of(str(failure)), f"git: {order}: {failure}")
            return None
        except OSError:
            self._has_failed = True
            raise
        self._recorder.operation(*operation)
        return result

    def _judge_history(self, found: list[str]) -> None:
        if found[: len(self._commits)] != self._commits:
            absent = [commit for commit in self._commits if commit not in found]
            line = f"git: {len(absent)} of {len(self._commits)} acknowledged commits are missing"
            self._recorder.found("lost", f"{line}: {absent[:3]}")
        elif len(found) > len(self._commits) + self._has_failed:
            self._recorder.found("corrupt", f"git: {len(found)} commits, {len(self._commits)} made")


def kind_of(said: str) -> str:
    """What a tool's complaint means: an error of the device, or data that is not what it was."""
    words = ("Input/output error", "Read-only file system", "No space left", "Structure needs")
    return "io_errors" if any(word in said for word in words) else "corrupt"
