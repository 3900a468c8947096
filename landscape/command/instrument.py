"""One record per instrument, and the one command line that all of them share."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.command.cautions import caution_about_fit
from landscape.command.output import facts_of, report
from landscape.command.parser import STYLES, Parser, instrument_parser
from landscape.command.questions import answer, question
from landscape.command.subjects import Subject, subjects

if TYPE_CHECKING:
    import xarray

    from landscape.store.journal import Journal

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Instrument:
    """What a command measures; `main` is its command line.

    A *result* below is what is measured of one network: a dataset, unless `measured` returns several; the *outcome* is
    what `combined` makes of all results, their list by default. All functions import numerics only when they are
    called.

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
    table
        (arguments, outcome) -> the numbers side by side, with what they mean below.
    settings
        (arguments, subject) -> what decides the result besides checkpoint, images, protocol and seed. It is part of
        the result's address: whatever changes the numbers must be in it.
    measure
        (arguments, subject, journal) -> the dataset of one network.
    measured
        (arguments, subject) -> the result, for an instrument that keeps several datasets per network, or none;
        `answer` by default.
    plan
        (arguments, subject) -> one line that says what measuring it will cost.
    facts
        (arguments, outcome) -> numbers and provenance of all of them, JSON-ready; `facts_of` by default.
    draw
        (arguments, outcome) -> writes the pictures that are wanted and returns their files.
    compared
        Results -> the datasets whose protocols must agree.
    combined
        (arguments, results) -> the outcome.
    check
        Refuses what cannot be measured, before anything is loaded; may complete the arguments.
    status
        Outcome -> exit status.
    kept
        Whether results are saved; without, there are no flags to plan, save and draw them.
    """

    name: str
    summary: str
    description: str
    add_arguments: Callable[[Parser], None]
    table: Callable[[Arguments, Any], str]
    settings: Callable[[Arguments, Subject], dict[str, Any]] = lambda arguments, subject: {}
    measure: "Callable[[Arguments, Subject, Journal], xarray.Dataset] | None" = None
    measured: Callable[[Arguments, Subject], Any] | None = None
    plan: Callable[[Arguments, Subject], str] = lambda arguments, subject: f"{subject.name}: no estimate"
    facts: Callable[[Arguments, Any], dict[str, Any]] = lambda arguments, outcome: one_or_all(
        [facts_of(result) for result in outcome]
    )
    draw: Callable[[Arguments, Any], list[Path]] = lambda arguments, outcome: []
    compared: "Callable[[list[Any]], list[xarray.Dataset]]" = list
    combined: Callable[[Arguments, list[Any]], Any] = lambda arguments, results: results
    check: Callable[[Arguments], None] = lambda arguments: None
    status: Callable[[Any], int] = lambda outcome: 0
    kept: bool = True

    def parser(self) -> Parser:
        """The parser of the command line."""
        return instrument_parser(self.name, self.description, self.add_arguments, kept=self.kept)

    def arguments(self, argv: Sequence[str]) -> Arguments:
        """Parsed and checked arguments; raises LandscapeError."""
        arguments = self.parser().parse_args(argv)
        arguments.saved = []
        self.check(arguments)
        return arguments

    def answer(self, arguments: Arguments, subject: Subject) -> "xarray.Dataset":
        """The dataset of one network: from the cache, or measured now and saved; interrupted, it resumes."""
        measure = self.measure
        assert measure is not None
        wanted = question(arguments, self.name, subject, self.settings(arguments, subject))
        dataset = answer(wanted, lambda journal: measure(arguments, subject, journal), force=arguments.force)
        caution_about_fit(dataset.attrs)
        return dataset

    def result(self, arguments: Arguments, subject: Subject) -> Any:
        """The result of one network, as a study or a notebook asks for it, too."""
        return (self.measured or self.answer)(arguments, subject)

    def main(self, argv: Sequence[str]) -> int:
        """Measure every network that the command line names, draw, print; returns the exit status.

        Raises
        ------
        LandscapeError
            For invalid input, and for results of different protocols.
        """
        arguments = self.arguments(argv)
        chosen = subjects(arguments)
        if arguments.plan:
            lines = [self.plan(arguments, subject) for subject in chosen]
            report(arguments, table=lambda: "\n".join(lines), facts=lambda: {"plan": lines})
            return 0
        results = [self.result(arguments, subject) for subject in chosen]
        from landscape.compute import distributed
        from landscape.store.result import require_same_protocol

        datasets = self.compared(results) if self.kept else []
        differences = (
            require_same_protocol(datasets, allow_mismatch=arguments.allow_protocol_mismatch) if datasets else []
        )
        outcome = self.combined(arguments, results)
        pictures = self._pictures(arguments, outcome) if distributed.is_main() else []
        report(
            arguments,
            table=lambda: "\n".join([*differences, self.table(arguments, outcome)]),
            facts=lambda: self.facts(arguments, outcome),
            saved=[f"result: {path}" for path in arguments.saved] + [f"picture: {path}" for path in pictures],
        )
        return self.status(outcome)

    def _pictures(self, arguments: Arguments, outcome: Any) -> list[Path]:
        if arguments.style == STYLES[0]:
            # The default: an instrument that draws nothing then need not import matplotlib.
            return self.draw(arguments, outcome)
        from landscape import plotting

        with plotting.using(arguments.style):
            return self.draw(arguments, outcome)


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
