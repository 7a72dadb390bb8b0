"""A supervisord event listener that writes down what it is told: one JSON line per event.

``FILE`` is written. While ``FILE.hang`` exists an event is not answered; ``FILE.die`` ends it once.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from supervisor import childutils


def main() -> None:
    path = Path(sys.argv[1])
    while True:
        headers, payload = childutils.listener.wait()
        with path.open("a") as file:
            file.write(json.dumps({**headers, "payload": payload}) + "\n")
        if path.with_suffix(".die").exists():
            path.with_suffix(".die").unlink()
            sys.exit(3)
        while path.with_suffix(".hang").exists():
            time.sleep(0.01)
        childutils.listener.ok()


if __name__ == "__main__":
    main()
