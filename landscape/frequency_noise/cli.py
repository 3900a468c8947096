"""Command line of the frequency-noise instrument."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from landscape import command, feature_maps, frequency_noise, look, tables
from landscape.errors import LandscapeError
from landscape.frequency_noise.choices import WIDTH

if TYPE_CHECKING:
    import xarray

    from landscape.store.journal import Journal

NAME = "landscape.frequency_noise"
DESCRIPTION = """Accuracy and NLL on images with noise in one frequency band at a time.

Noise is in the units of the network's input. given: the same white noise, cut to each band; matched: every band with
the same root mean square."""


def add_arguments(parser: command.Parser) -> None:
    """Add its flags: the bands, and how strong the noise in them is."""
    parser.set_defaults(split="test", dropout="fresh")
    group = parser.add_argument_group("noise")
    group.add_argument(
        "--frequencies", type=command.numbers, metavar="F,...", help="units of pi (default: 0 to 1 by 0.1)"
    )
    group.add_argument("--width", type=float, default=WIDTH, metavar="W", help="of a band, units of pi (default: 0.1)")
    group.add_argument("--given", type=float, default=1.0, metavar="S", help="standard deviation of the white noise")
    group.add_argument("--matched", type=float, default=0.2, metavar="S", help="root mean square in each band")
    group.add_argument("--passes", type=command.positive, default=5, metavar="T", help="masks averaged (default: 5)")


def settings(arguments: argparse.Namespace, subject: command.Subject) -> dict[str, Any]:
    """What decides the result."""
    return {
        "frequencies": None if arguments.frequencies is None else list(arguments.frequencies),
        "width": arguments.width,
        "given": arguments.given,
        "matched": arguments.matched,
        "passes": arguments.passes,
    }


def measure(arguments: argparse.Namespace, subject: command.Subject, journal: Journal) -> xarray.Dataset:
    """Accuracy and NLL band by band."""
    return frequency_noise.measure(
        subject.checkpoint.model,
        subject.images,
        **settings(arguments, subject),
        **command.pass_settings(arguments, subject),
        seed=arguments.seed,
        journal=journal,
        quiet=arguments.quiet,
    )


def plan(arguments: argparse.Namespace, subject: command.Subject) -> str:
    """Forward passes that the measurement will cost."""
    runs = look.forward.Passes(subject.checkpoint.model, subject.images, **command.pass_settings(arguments, subject))
    passes = arguments.passes if runs.dropout_calls and subject.protocol.dropout == "fresh" else 1
    frequencies = arguments.frequencies or frequency_noise.robustness.present(subject.images, arguments.width)
    noises = 1 + len(frequency_noise.robustness.ENERGIES) * len(frequencies)
    return f"{subject.name}: {len(runs)} images x {noises} noises x {passes} passes in batches of {runs.batch}"


def table(results: Sequence[xarray.Dataset]) -> str:
    """Accuracy drop of every band at both strengths, one column per network; then the differences to the first."""
    lines = [
        f"[{index + 1}] {feature_maps.tables.legend(result)}: accuracy {float(result['clean_accuracy']):.2%}, "
        f"NLL {float(result['clean_nll']):.4f} without noise"
        for index, result in enumerate(results)
    ]
    head = ["frequency"]
    for energy in frequency_noise.robustness.ENERGIES:
        head += [f"drop, {energy} [{index + 1}]" for index, _ in enumerate(results)]
    rows = []
    for band, frequency in enumerate(results[0]["frequency"].values):
        row = [f"{frequency:g} pi"]
        for number in range(len(frequency_noise.robustness.ENERGIES)):
            for result in results:
                drop, stderr = (float(result[name][number, band]) for name in ("accuracy_drop", "accuracy_drop_stderr"))
                row.append(tables.with_error(100 * drop, 100 * stderr))
        rows.append(row)
    lines += ["", command.columns(head, rows), "accuracy lost in percentage points, ± standard error over images"]
    for index, other in enumerate(results[1:], start=2):
        try:
            effect = frequency_noise.drops_compared(results[0], other)
        except LandscapeError as error:
            lines.append(f"[{index}] against [1]: {error}")
            continue
        where = [f"{frequency:g} pi" for frequency in effect["frequency"].values]
        one, two = (str(result.attrs["name"]) for result in (results[0], other))
        for number, strength in enumerate(frequency_noise.robustness.ENERGIES):
            drops, lows, highs = (100 * effect[f"accuracy_drop{part}"].values[number] for part in ("", "_low", "_high"))
            ends = list(zip(lows, highs, strict=True))
            cells = [
                f"{place} {drop:+.1f} [{low:+.1f}, {high:+.1f}]"
                for place, drop, (low, high) in zip(where, drops, ends, strict=True)
            ]
            lines.append(f"drop [{index}] - [1], {strength}, points, 95 % paired over images: {', '.join(cells)}")
            lines.append(tables.told_apart(f"the accuracy lost to noise of {strength}", one, two, where, ends))
    return "\n".join(lines)


INSTRUMENT = command.Instrument(
    name=NAME,
    summary="accuracy under noise of one frequency band at a time",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    settings=settings,
    measure=measure,
    plan=plan,
    table=lambda arguments, results: table(results),
    draw=command.picture(lambda results, path: frequency_noise.picture.draw(results, path)),
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
