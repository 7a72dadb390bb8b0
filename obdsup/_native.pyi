"""The compiled module; obdsup.worker.native is the only one that imports it and gives it types."""

from typing import Any

ffi: Any
lib: Any
