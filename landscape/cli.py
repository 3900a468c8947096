"""List of the commands, each with its one line."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator, Sequence

import landscape
from landscape import command

# Commands that measure nothing.
_OTHERS = {
    "landscape.training": "trains by recipe, and resumes what was interrupted",
    "landscape.nets": "every network of the paper, with its number of parameters",
}
DESCRIPTION = "Look at neural networks from the inside. Without arguments: the commands; each has its own --help."


def instruments() -> Iterator[command.Instrument]:
    """Every package here whose ``cli`` module has an `Instrument`."""
    for package in pkgutil.iter_modules(landscape.__path__, "landscape."):
        if package.ispkg and importlib.util.find_spec(f"{package.name}.cli") is not None:
            instrument = getattr(importlib.import_module(f"{package.name}.cli"), "INSTRUMENT", None)
            if isinstance(instrument, command.Instrument):
                yield instrument


def main(argv: Sequence[str]) -> int:
    """Print the list."""
    command.Parser("landscape", DESCRIPTION).parse_args(argv)
    summaries = {each.name: each.summary for each in instruments()} | _OTHERS
    rows = [[f"python -m {name}", summary] for name, summary in summaries.items()]
    print(command.columns(["command", "answers"], rows, right=False))
    return 0
