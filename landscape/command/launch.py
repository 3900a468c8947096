"""From a process's arguments to its exit status: bad input is one line, Ctrl-C no traceback."""

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from landscape.errors import LandscapeError

INTERRUPTED = 130
BAD_INPUT = 2


def launch(module: str) -> NoReturn:
    """Run the ``main(argv) -> int`` of a module on this process's arguments and leave with its status."""
    sys.exit(run(module, sys.argv[1:]))


def run(module: str, argv: Sequence[str]) -> int:
    """Status of the ``main(argv)`` of a module.

    Bad input is one line ``error: ...`` and status 2; Ctrl-C is status 130 without a traceback. Any other exception is
    a defect of ours and keeps its traceback.
    """
    try:
        try:
            return int(importlib.import_module(module).main(argv))
        finally:
            if "torch" in sys.modules:
                from landscape.compute import distributed

                distributed.stop()
    except LandscapeError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
