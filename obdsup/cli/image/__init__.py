"""``obdsup image``: make, look into, check and change image files. Works without a supervisor.

One module per command, each with ``add(commands)``; what they do is in ``obdsup.image``.
"""

from __future__ import annotations

import argparse
from typing import Any

from obdsup.cli.image import (
    apply,
    commit,
    compact,
    diff,
    export,
    gzip_index,
    import_disk,
    info,
    merge,
    new_upper,
    repair,
    resize,
    seal,
    tree,
    verify,
)

__all__ = ["add_parser"]

# In the order of the help.
_COMMANDS = (
    info,
    tree,
    verify,
    diff,
    export,
    import_disk,
    new_upper,
    repair,
    apply,
    resize,
    commit,
    seal,
    compact,
    merge,
    gzip_index,
)

_GROUP_EXAMPLES = """examples:
  obdsup image info config.v1.json
  obdsup image verify config.v1.json && obdsup image export config.v1.json --sha256
  obdsup image import disk.raw -o base.obd --zfile lz4
  obdsup image new-upper --size 64G upper.data upper.index
  obdsup image apply --mkfs layer.tar config.v1.json
  obdsup image commit upper.data upper.index -o layer.obd --zfile lz4
  obdsup image diff old/config.v1.json new/config.v1.json

CONFIG is an overlaybd config.v1.json, LAYER one sealed layer file: raw, ZFile, in a tar or not.
"""


def add_parser(subparsers: Any) -> None:
    """Adds ``image`` and its commands; each sets its handler, ``args.run(args) -> int``."""
    group = subparsers.add_parser(
        "image",
        help="image files: look at, check, convert, make",
        description="Makes, looks into, checks and changes image files; needs no supervisor.",
        epilog=_GROUP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = group.add_subparsers(dest="image_command", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add(commands)
