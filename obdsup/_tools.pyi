"""The compiled module of the tools; only modules of obdsup.image import it, through native."""

from typing import Any

ffi: Any
lib: Any
