"""`python -m kata`: the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)


def main() -> None:
    # A folder may hold a torch.py: nothing is imported from where one stands, and from here only what is nowhere else.
    sys.path[:] = [*(entry for entry in sys.path[1:] if entry not in ("", ROOT)), ROOT]
    from kata.cli import run

    status = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 1
    os._exit(status)  # tearing PyTorch down takes a third of a second and frees nothing that the system does not


if __name__ == "__main__":
    main()
