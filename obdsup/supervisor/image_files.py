"""The files of an image as a worker found them: what a device keeps of its config.v1.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from obdsup.errors import ControlError

__all__ = ["ImageFiles"]


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Absolute paths, lowers bottom to top; upper is (data, index)."""

    lowers: tuple[str, ...]
    upper: tuple[str, str] | None
    size_bytes: int

    @classmethod
    def of_answer(cls, answer: dict[str, Any]) -> ImageFiles:
        """From the answer to ``prewarm``.

        Raises:
            ControlError: the worker answered something else.
        """
        try:
            files, size_bytes = answer["files"], answer["size_bytes"]
            upper = files["upper"]
            pair = (str(upper["data"]), str(upper["index"])) if upper else None
            lowers = tuple(str(path) for path in files["lowers"])
            return cls(lowers, pair, int(size_bytes))
        except (KeyError, TypeError, ValueError) as error:
            raise ControlError(f"the worker did not describe the image: {answer!r}") from error
