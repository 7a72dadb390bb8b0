"""An image without layers: an empty writable disk, as files and a config that names them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from chaos.rig.node import Node

__all__ = ["BlankImage"]


@dataclass(frozen=True, slots=True)
class BlankImage:
    """The writable layer's two files, and ``config`` for `device create`."""

    config: Path
    data: Path
    index: Path

    @classmethod
    def make(
        cls, node: Node, folder: Path, name: str, size_bytes: int, files: Path | None = None
    ) -> BlankImage:
        """Makes ``NAME.data``, ``NAME.index`` and ``NAME.config.v1.json``; old ones are replaced.

        Args:
            folder: of the config.
            files: folder of the layer's files; None: the same.

        Raises:
            RigError: the command failed.
        """
        data, index = ((files or folder) / f"{name}.{part}" for part in ("data", "index"))
        for file in (data, index):
            file.unlink(missing_ok=True)
        node.obdsup("image", "new-upper", "--size", str(size_bytes), str(data), str(index))
        config = folder / f"{name}.config.v1.json"
        upper = {"data": str(data), "index": str(index)}
        config.write_text(json.dumps({"repoBlobUrl": "", "lowers": [], "upper": upper}))
        return cls(config, data, index)
