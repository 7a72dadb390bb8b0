"""What the kernel complained of during a campaign, collected as it goes: its buffer is small."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from chaos.rig.kernel_log import KernelLog, is_refutable, offending
from guest.dmesg import complaints

__all__ = ["KernelWatch"]

MARKER = "obdsup-chaos: since here"


class KernelWatch:
    """The kernel log from the construction on.

    Args:
        devices: kernel names of the block devices under test.
        is_ours: the machine runs nothing else (the guest): any complaint of any block or SCSI layer
            counts, not only those that name our devices.
    """

    def __init__(self, devices: Sequence[str], *, is_ours: bool) -> None:
        self.complaints: list[str] = []
        self.false_alarms: list[str] = []
        self._announced: list[tuple[str, str]] = []  # device, line: losses not yet looked for
        self._devices = devices
        self._is_ours = is_ours
        self._is_readable = True
        self._log = KernelLog()

    def collect(self, caused: Sequence[str] = ()) -> None:
        """Judges what was said since the last time.

        Args:
            caused: regular expressions of lines that a fault since then causes by design.
        """
        lines = self._log.lines()
        self._log.mark()
        if lines is None:
            self._is_readable = False
            return
        if caused:
            by_design = re.compile("|".join(f"(?:{one})" for one in caused))
            lines = [line for line in lines if not by_design.search(line)]
        if self._is_ours:
            self.complaints += complaints("\n".join([MARKER, *lines]), MARKER)
            return
        for device in self._devices:
            for line in offending(lines, device, is_strict=False):
                if is_refutable(line):
                    self._announced.append((device, line))
                else:
                    self.complaints.append(line)

    def settle(self, whole: Collection[str]) -> None:
        """Judges the losses that were announced; until then they are neither.

        Args:
            whole: kernel names of the devices that were read back, after the unmount, with nothing
                wrong on them. What was announced for any other device is a complaint.
        """
        for device, line in self._announced:
            (self.false_alarms if device in whole else self.complaints).append(line)
        self._announced.clear()

    def verdict(self) -> str:
        """One line for the report."""
        if self.complaints:
            return f"{len(self.complaints)} complaints"
        if self.false_alarms:
            return f"clean but for {len(self.false_alarms)} losses announced that did not happen"
        return "clean" if self._is_readable else "not readable here"
