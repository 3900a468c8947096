"""One record per instrument, and the one command line that all of them share."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.command.output import report
from landscape.command.parser import Parser, instrument_parser
from landscape.command.subjects import Subject, subjects

if TYPE_CHECKING:
    import xarray

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Instrument:
    """What a command measures; `main` is its command line.

    A *result* below is what `measured` returns for one network: a dataset, unless an instrument needs several; the
    *outcome* is what `combined` makes of all results, their list by default. All functions import numerics only when
    they are called.

    Attributes
    ----------
    name
        The module that ``python -m`` runs.
    summary
        One line for the list of instruments.
    description
        For ``--help``.
    add_arguments
        Adds the instrument's own arguments, see `instrument_parser`.
    measured
        (arguments, subject) -> the result for one network, from the cache when it is there.
    plan
        (arguments, subject) -> one line that says what measuring it will cost.
    table
        (arguments, outcome) -> the numbers side by side, with what they mean below.
    facts
        (arguments, outcome) -> numbers and provenance of all of them, JSON-ready.
    draw
        (arguments, outcome) -> writes the pictures that are wanted and returns their files.
    compared
        Results -> the datasets whose protocols must agree.
    combined
        (arguments, results) -> the outcome.
    check
        Refuses what cannot be measured, before anything is loaded; may complete the arguments.
    """

    name: str
    summary: str
    description: str
    add_arguments: Callable[[Parser], None]
    measured: Callable[[Arguments, Subject], Any]
    plan: Callable[[Arguments, Subject], str]
    table: Callable[[Arguments, Any], str]
    facts: Callable[[Arguments, Any], dict[str, Any]]
    draw: Callable[[Arguments, Any], list[Path]]
    compared: Callable[[list[Any]], "list[xarray.Dataset]"] = list
    combined: Callable[[Arguments, list[Any]], Any] = lambda arguments, results: results
    check: Callable[[Arguments], None] = lambda arguments: None

    def parser(self) -> Parser:
        """The parser of the command line."""
        return instrument_parser(self.name, self.description, self.add_arguments)

    def main(self, argv: Sequence[str]) -> int:
        """Measure every network that the command line names, draw, print; returns the exit status.

        Raises
        ------
        LandscapeError
            For invalid input, and for results of different protocols.
        """
        arguments = self.parser().parse_args(argv)
        arguments.saved = []
        self.check(arguments)
        chosen = subjects(arguments)
        if arguments.plan:
            lines = [self.plan(arguments, subject) for subject in chosen]
            report(arguments, table=lambda: "\n".join(lines), facts=lambda: {"plan": lines})
            return 0
        results = [self.measured(arguments, subject) for subject in chosen]
        from landscape.compute import distributed
        from landscape.store.result import require_same_protocol

        datasets = self.compared(results)
        differences = (
            require_same_protocol(datasets, allow_mismatch=arguments.allow_protocol_mismatch) if datasets else []
        )
        outcome = self.combined(arguments, results)
        pictures = self.draw(arguments, outcome) if distributed.is_main() else []
        report(
            arguments,
            table=lambda: "\n".join([*differences, self.table(arguments, outcome)]),
            facts=lambda: self.facts(arguments, outcome),
            saved=[f"result: {path}" for path in arguments.saved] + [f"picture: {path}" for path in pictures],
        )
        return 0


def one_or_all(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON object of one network, or of several under ``results``."""
    return facts[0] if len(facts) == 1 else {"results": facts}


def picture(
    draw: "Callable[[Sequence[xarray.Dataset], Path], object]",
) -> "Callable[[Arguments, list[xarray.Dataset]], list[Path]]":
    """Draws results to ``--plot``, if it is given."""

    def drawn(arguments: Arguments, results: "list[xarray.Dataset]") -> list[Path]:
        if arguments.plot is None:
            return []
        draw(results, arguments.plot)
        return [arguments.plot]

    return drawn
