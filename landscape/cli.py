"""List of the commands, each with its one line."""

import argparse
import difflib
import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Iterator, Sequence
from typing import NoReturn

import landscape
from landscape import command
from landscape.command import launch
from landscape.errors import LandscapeError

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


def script() -> NoReturn:
    """``netlandscape COMMAND ...``, the same as ``python -m landscape.COMMAND ...``; completes words in a shell.

    For completion, install ``argcomplete`` and put ``eval "$(register-python-argcomplete netlandscape)"`` into the
    shell's start-up file.
    """
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    launch("landscape.cli")


def _complete() -> None:
    """Tell the shell what may stand at its cursor; returns only where argcomplete is missing."""
    try:
        import argcomplete
    except ImportError:
        return
    parser = argparse.ArgumentParser(prog="netlandscape")
    commands = parser.add_subparsers()
    for each in instruments():
        commands.add_parser(each.name.removeprefix("landscape."), parents=[each.parser()], add_help=False)
    for name in _OTHERS:
        commands.add_parser(name.removeprefix("landscape."))
    argcomplete.autocomplete(parser)


def main(argv: Sequence[str]) -> int:
    """Print the list, or run the command that is named first."""
    if argv and not argv[0].startswith("-"):
        name = f"landscape.{argv[0]}"
        known = [each.name for each in instruments()] + list(_OTHERS)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0].removeprefix('landscape.')}?" if near else "python -m landscape lists them"
            raise LandscapeError(f"no command {argv[0]!r}: {hint}")
        return int(importlib.import_module(f"{name}.cli").main(argv[1:]))
    command.Parser("landscape", DESCRIPTION).parse_args(argv)
    summaries = {each.name: each.summary for each in instruments()} | _OTHERS
    rows = [[f"python -m {name}", summary] for name, summary in summaries.items()]
    print(command.columns(["command", "answers"], rows, right=False))
    return 0
