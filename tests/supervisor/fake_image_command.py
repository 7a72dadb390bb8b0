"""Stands for `obdsup image new-upper --size N DATA INDEX`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    assert sys.argv[1:4] == ["image", "new-upper", "--size"], sys.argv
    for path in sys.argv[5:]:
        Path(path).write_bytes(b"fake upper")
