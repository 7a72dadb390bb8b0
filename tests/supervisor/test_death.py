"""What a death is called, and what it says of the command that was executing."""

from __future__ import annotations

import signal

import pytest

from obdsup.supervisor.death import Cause, Hang, judge_death


@pytest.mark.parametrize(
    ("status", "cause", "is_blamed"),
    [
        (0, Cause.EXITED, False),
        (1, Cause.CRASHED, True),
        (-signal.SIGSEGV, Cause.CRASHED, True),
        (-signal.SIGBUS, Cause.CRASHED, True),
        (-signal.SIGABRT, Cause.CRASHED, True),
        (-signal.SIGILL, Cause.CRASHED, True),
        (-signal.SIGFPE, Cause.CRASHED, True),
        (-signal.SIGSYS, Cause.CRASHED, True),
        (-signal.SIGKILL, Cause.KILLED, False),
        (-signal.SIGTERM, Cause.KILLED, False),
        (None, Cause.UNKNOWN, False),
    ],
)
def test_cause_by_exit_status(status: int | None, cause: Cause, is_blamed: bool) -> None:
    death = judge_death(status, is_oom=False)
    assert (death.cause, death.is_blamed) == (cause, is_blamed)


HANG = Hang("engine", is_blamed=True)


def test_what_we_know_counts_more_than_the_status() -> None:
    assert judge_death(-9, hang=HANG, is_oom=False).cause is Cause.HUNG
    assert judge_death(-9, is_oom=True).cause is Cause.OOM
    assert judge_death(None, hang=HANG, is_oom=False).is_blamed
    assert judge_death(-9, is_oom=True).is_blamed


def test_text_names_the_signal() -> None:
    assert str(judge_death(-signal.SIGSEGV, is_oom=False)) == "crashed (SIGSEGV)"
    assert str(judge_death(3, is_oom=False)) == "crashed (exit status 3)"
    assert str(judge_death(-63, is_oom=False)) == "crashed (signal 63)"
    assert str(judge_death(None, is_oom=False)) == "unknown"


def test_a_hang_is_called_one_also_when_no_command_is_to_blame() -> None:
    death = judge_death(-9, hang=Hang("control", is_blamed=False), is_oom=False)
    assert (death.cause, death.is_blamed, str(death)) == (Cause.HUNG, False, "hung (control)")
