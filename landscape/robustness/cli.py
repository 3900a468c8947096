"""Command line of the robustness instrument."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape import command, metrics, objective, robustness, tables
from landscape.errors import LandscapeError
from landscape.metrics.choices import BINNINGS
from landscape.predictions import cli as predictions_cli
from landscape.robustness.choices import ATTACKS, EPSILONS, SEVERITIES

if TYPE_CHECKING:
    import numpy as np
    import xarray

    from landscape.store.journal import Journal

NAME = "landscape.robustness"
DESCRIPTION = """Robustness of predictions, averaged over Monte-Carlo dropout passes.

corruptions: all metrics by corruption and severity, from the files of CIFAR-10/100-C (--cifar-c) or computed here;
with --baseline, mCE, mCNLL and mCECE. adversarial: accuracy under FGSM and PGD. perturbations: consistency over the
frames of CIFAR-10-P (--cifar-p)."""
PARTS = ("corruptions", "adversarial", "perturbations")

Results = dict[str, list["xarray.Dataset"]]


def names_of(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(text.split(","))


def severities_of(text: str) -> tuple[int, ...]:
    """Severities with commas between."""
    severities = tuple(int(part) for part in text.split(","))
    if not set(severities) <= set(SEVERITIES):
        raise argparse.ArgumentTypeError(f"severities are 1 to 5, not {text}")
    return severities


def radii_of(text: str) -> tuple[float, ...]:
    """Radii with commas between: numbers, or quotients such as 8/255."""
    parts = [part.partition("/") for part in text.split(",")]
    try:
        return tuple(float(above) / float(below or 1) for above, _, below in parts)
    except ZeroDivisionError:
        raise argparse.ArgumentTypeError(f"{text} divides by zero") from None


def add_arguments(parser: command.Parser) -> None:
    """Add its flags: corruptions, attacks and the files of CIFAR-C and CIFAR-P."""
    parser.set_defaults(split="test", dropout="fresh")
    group = parser.add_argument_group("robustness")
    group.add_argument(
        "--only",
        choices=PARTS,
        action="append",
        metavar="PART",
        help=f"{', '.join(PARTS)}; may repeat (default: the first two, and the third with --cifar-p)",
    )
    group.add_argument(
        "--passes", type=command.positive, default=50, metavar="T", help="masks averaged per image (default: 50)"
    )
    group.add_argument("--cifar-c", type=Path, metavar="DIR", help="folder of <corruption>.npy and labels.npy")
    group.add_argument("--cifar-p", type=Path, metavar="DIR", help="folder of <perturbation>.npy")
    group.add_argument(
        "--baseline", type=Path, metavar="FILE", help="published .csv, or a result .nc of this instrument"
    )
    group = parser.add_argument_group("advanced: corruptions and attacks")
    group.add_argument(
        "--corruptions", type=names_of, metavar="NAME,...", help="which (default: all computed here, or in --cifar-c)"
    )
    group.add_argument(
        "--severities", type=severities_of, default=SEVERITIES, metavar="S,...", help="which (default: 1,2,3,4,5)"
    )
    group.add_argument("--binning", choices=BINNINGS, default="right", help="of confidences, for the ECE")
    group.add_argument("--attack", choices=ATTACKS, action="append", help="which attack; may repeat (default: both)")
    group.add_argument(
        "--epsilon", type=radii_of, default=EPSILONS, metavar="R,...", help="radii (default: 1/255,2/255,4/255,8/255)"
    )
    group.add_argument(
        "--attack-steps", type=command.positive, default=10, metavar="N", help="steps of PGD (default: 10)"
    )
    group.add_argument(
        "--attack-passes",
        type=command.positive,
        default=5,
        metavar="T",
        help="masks averaged per gradient (default: 5)",
    )


def parts_of(arguments: argparse.Namespace) -> list[str]:
    """What is measured, in order."""
    if arguments.only:
        wanted = [part for part in PARTS if part in arguments.only]
    else:
        wanted = [part for part in PARTS if part != "perturbations" or arguments.cifar_p]
    if "perturbations" in wanted and not arguments.cifar_p:
        raise LandscapeError("perturbations are read from the files of CIFAR-10-P: give --cifar-p DIR")
    return wanted


@dataclass(frozen=True)
class Outcome:
    """Results of every network by part, and corruption errors relative to a baseline, if there is one."""

    results: Results
    relative: list[xarray.Dataset]
    baseline: xarray.Dataset | None


def check(arguments: argparse.Namespace) -> None:
    """Reads the baseline before anything long starts."""
    arguments.parts = parts_of(arguments)
    arguments.baseline_read = robustness.corrupted.read_baseline(arguments.baseline) if arguments.baseline else None


def measured(arguments: argparse.Namespace, subject: command.Subject) -> dict[str, xarray.Dataset]:
    """The parts of one subject that are asked for."""
    return {part: part_measured(arguments, subject, part) for part in arguments.parts}


def combined(arguments: argparse.Namespace, results: list[dict[str, xarray.Dataset]]) -> Outcome:
    """By part instead of by network, with errors relative to the baseline."""
    by_part = {part: [result[part] for result in results] for part in arguments.parts}
    baseline, relative = arguments.baseline_read, []
    if baseline is not None and "corruptions" in by_part:
        relative = [
            robustness.corrupted.relative_errors(result, baseline, seed=arguments.seed)
            for result in by_part["corruptions"]
        ]
    return Outcome(by_part, relative, baseline)


def draw(arguments: argparse.Namespace, outcome: Outcome) -> list[Path]:
    """Corruptions, and attacks in a picture of their own."""
    path, drawn = arguments.plot, []
    if path is None:
        return []
    if "corruptions" in outcome.results:
        robustness.picture.draw(outcome.results["corruptions"], path, baseline=outcome.baseline)
        drawn.append(path)
    if "adversarial" in outcome.results:
        beside = path.with_name(f"{path.stem}-attacks{path.suffix}") if drawn else path
        robustness.picture.draw_attacks(outcome.results["adversarial"], beside)
        drawn.append(beside)
    return drawn


def part_measured(arguments: argparse.Namespace, subject: command.Subject, part: str) -> xarray.Dataset:
    """One part of one subject, from the cache when it is there."""
    settings, measure = _PARTS[part](arguments, subject)
    out = arguments.out
    if out is not None and len(arguments.parts) > 1:
        out = out.with_name(f"{out.stem}-{part}{out.suffix}")
    named = argparse.Namespace(**{**vars(arguments), "out": out})
    question = command.question(named, NAME, subject, {"part": part, "passes": arguments.passes, **settings})
    return command.answer(question, measure, force=arguments.force)


Part = tuple[dict[str, Any], Callable[["Journal"], "xarray.Dataset"]]


def _common(arguments: argparse.Namespace, subject: command.Subject) -> dict[str, Any]:
    settings = command.pass_settings(arguments, subject)
    return settings | {"passes": arguments.passes, "quiet": arguments.quiet}


def _corruptions(arguments: argparse.Namespace, subject: command.Subject) -> Part:
    source: robustness.Computed | robustness.CifarC
    if arguments.cifar_c:
        source = robustness.CifarC(arguments.cifar_c, subject.images, protocol=subject.protocol)
        files = source.identity()
    else:
        images = objective.preparation.examples(subject.images, subject.protocol)
        source, files = robustness.Computed(images, seed=arguments.seed), "computed"
    chosen = {
        "corruptions": arguments.corruptions,
        "severities": arguments.severities,
        "binning": arguments.binning,
    }
    common = _common(arguments, subject)
    return {"files": files, **chosen}, lambda journal: robustness.corrupted.measure(
        subject.checkpoint.model, source, **chosen, **common, journal=journal
    )


def _adversarial(arguments: argparse.Namespace, subject: command.Subject) -> Part:
    attacks = [
        robustness.Attack(kind, radius, steps=arguments.attack_steps, passes=arguments.attack_passes)
        for kind in (arguments.attack or ATTACKS)
        for radius in arguments.epsilon
    ]
    common = _common(arguments, subject)
    return {"attacks": [str(attack) for attack in attacks]}, lambda journal: robustness.adversarial.measure(
        subject.checkpoint.model, subject.images, attacks=attacks, **common, seed=arguments.seed, journal=journal
    )


def _perturbations(arguments: argparse.Namespace, subject: command.Subject) -> Part:
    files = robustness.CifarP(arguments.cifar_p, subject.images).identity()
    common = _common(arguments, subject)
    return {"files": files}, lambda journal: robustness.consistency.measure(
        subject.checkpoint.model, arguments.cifar_p, subject.images, **common, journal=journal
    )


_PARTS: dict[str, Callable[[argparse.Namespace, command.Subject], Part]] = {
    "corruptions": _corruptions,
    "adversarial": _adversarial,
    "perturbations": _perturbations,
}


def plan(arguments: argparse.Namespace, subject: command.Subject) -> str:
    """How many plain sets of passes each part is worth, and what one costs."""
    parts, sets = arguments.parts, []
    if "corruptions" in parts:
        names = (
            arguments.corruptions
            or (
                robustness.CifarC(arguments.cifar_c, subject.images)
                if arguments.cifar_c
                else robustness.Computed(subject.images)
            ).names
        )
        sets.append(f"{len(names) * len(arguments.severities)} for corruptions")
    if "adversarial" in parts:
        sets.append(f"{1 + len(arguments.attack or ATTACKS) * len(arguments.epsilon)} and gradients for attacks")
    if "perturbations" in parts:
        source = robustness.CifarP(arguments.cifar_p, subject.images)
        frames = sum(math.prod(source.shape(name)) for name in source.names)
        sets.append(f"{frames / max(len(subject.images), 1):.0f} for perturbations (all sequences)")
    return f"{predictions_cli.plan(arguments, subject)} for one set; sets: {', '.join(sets)}"


def to_json(results: Results, relative: Sequence[xarray.Dataset]) -> dict[str, Any]:
    """Metrics and provenance, without values of single images."""
    facts: dict[str, Any] = {part: [command.facts_of(entry) for entry in entries] for part, entries in results.items()}
    if relative:
        facts["relative"] = [command.facts_of(entry) for entry in relative]
    return facts


def table(results: Results, relative: Sequence[xarray.Dataset]) -> str:
    """Means over severities by corruption, mean corruption errors, accuracy under attack, consistency."""
    lines: list[str] = []
    for part, entries in results.items():
        head = ["", *[str(entry.attrs["name"]) for entry in entries]]
        lines += [command.columns(head, _ROWS[part](entries)), _NOTES[part], *_reading(part, entries), ""]
        if part == "corruptions" and relative:
            lines += [_relative_table(head, relative), ""]
    return "\n".join(lines).rstrip()


def _corruption_rows(entries: Sequence[xarray.Dataset]) -> list[list[str]]:
    rows = []
    for name in entries[0]["corruption"].values:
        cells = []
        for entry in entries:
            chosen = entry.sel(corruption=name)
            means = chosen.mean("severity")
            # Severities share their images: errors are of each image's mean over them.
            of_image = {name: chosen[f"{name}_of_image"].mean("severity").values for name in ("correct", "nll")}
            right, nll = (float(metrics.confidence.standard_error(values)) for values in of_image.values())
            accuracy, error, ece = (float(means[name]) for name in ("accuracy", "nll", "ece"))
            cells.append(
                f"{tables.with_error(100 * accuracy, 100 * right)} / {tables.with_error(error, nll)} / {100 * ece:.1f}"
            )
        rows.append([str(name), *cells])
    return rows


def _attack_rows(entries: Sequence[xarray.Dataset]) -> list[list[str]]:
    rows = []
    for index, (kind, radius) in enumerate(zip(entries[0]["kind"].values, entries[0]["epsilon"].values, strict=True)):
        cells = [
            tables.with_error(100 * float(entry["accuracy"][index]), 100 * float(entry["accuracy_stderr"][index]))
            for entry in entries
        ]
        rows.append([_attack_name(kind, radius), *cells])
    return rows


def _perturbation_rows(entries: Sequence[xarray.Dataset]) -> list[list[str]]:
    rows = []
    for name in entries[0]["perturbation"].values:
        chosen = [entry.sel(perturbation=name) for entry in entries]
        cells = [
            f"{tables.with_error(100 * float(one['consistency']), 100 * float(one['consistency_stderr']))} / "
            f"{tables.with_error(float(one['cross_entropy']), float(one['cross_entropy_stderr']))}"
            for one in chosen
        ]
        rows.append([str(name), *cells])
    return rows


_ROWS = {"corruptions": _corruption_rows, "adversarial": _attack_rows, "perturbations": _perturbation_rows}
_NOTES = {
    "corruptions": "accuracy % / NLL, nats / ECE %, means over severities, ± standard error over images",
    "adversarial": "accuracy %, ± standard error over images",
    "perturbations": "consistency of predicted classes % / cross-entropy between frames, nats, ± over sequences",
}


# What is compared, where, the paired differences, and the method of their intervals.
Paired = Iterator[tuple[str, list[str], "np.ndarray", Callable[["np.ndarray"], tuple["np.ndarray", "np.ndarray"]]]]


def _reading(part: str, entries: Sequence[xarray.Dataset]) -> list[str]:
    """How the others compare with the first network, paired over images or sequences: a sentence a measure."""
    from landscape.predictions.passes import require_same_images

    first, lines = entries[0], []
    for other in entries[1:]:
        one, two = (str(entry.attrs["name"]) for entry in (first, other))
        try:
            require_same_images([first, other])
        except LandscapeError as error:
            lines.append(f"{two} is not compared with {one}: {error}")
            continue
        for what, where, differences, interval in _PAIRED[part](first, other):
            ends = [interval(each[each == each]) for each in differences]  # sequences may be fewer
            lines.append(tables.told_apart(what, one, two, where, [(float(low), float(high)) for low, high in ends]))
    return lines


def _paired_corruptions(first: xarray.Dataset, other: xarray.Dataset) -> Paired:
    names = [str(name) for name in first["corruption"].values]
    for what, variable, sign, interval in (
        ("the error", "correct_of_image", -1, metrics.confidence.of_paired_shares),
        ("the NLL", "nll_of_image", 1, metrics.confidence.of_mean),
    ):
        change = other[variable].astype(float) - first[variable]
        yield what, names, sign * change.mean("severity").transpose("corruption", "image").values, interval


def _paired_attacks(first: xarray.Dataset, other: xarray.Dataset) -> Paired:
    names = [
        _attack_name(kind, radius) for kind, radius in zip(first["kind"].values, first["epsilon"].values, strict=True)
    ]
    change = other["correct_of_image"].values.astype(float) - first["correct_of_image"].values
    yield "the accuracy", names, change, metrics.confidence.of_paired_shares


def _paired_perturbations(first: xarray.Dataset, other: xarray.Dataset) -> Paired:
    names = [str(name) for name in first["perturbation"].values]
    change = (other["consistency_of_sequence"] - first["consistency_of_sequence"]).values
    yield "the consistency", names, change, metrics.confidence.of_paired_shares


_PAIRED = {
    "corruptions": _paired_corruptions,
    "adversarial": _paired_attacks,
    "perturbations": _paired_perturbations,
}


def _attack_name(kind: object, radius: float) -> str:
    return "no attack" if kind == "none" else f"{str(kind).upper()} {255 * radius:.3g}/255"


def _relative_table(head: Sequence[str], relative: Sequence[xarray.Dataset]) -> str:
    rows = [
        [
            str(measure),
            *[
                tables.with_interval(*(100 * float(entry[part][index]) for part in ("value", "low", "high")))
                for entry in relative
            ],
        ]
        for index, measure in enumerate(relative[0]["measure"].values)
    ]
    names = ", ".join(map(str, relative[0]["corruption"].values))
    lines = [command.columns(head, rows), f"% of {relative[0].attrs['baseline']}, 95 % over images; mean over {names}"]
    for index, entry in enumerate(relative[1:], start=1):
        change = robustness.corrupted.difference(relative[0], entry)
        ends = list(zip(change["low"].values, change["high"].values, strict=True))
        cells = [
            f"{measure} {100 * float(change['difference'][row]):+.2f} "
            + (f"[{100 * low:+.2f}, {100 * high:+.2f}]" if math.isfinite(low) else "(no interval that holds)")
            for row, (measure, (low, high)) in enumerate(zip(entry["measure"].values, ends, strict=True))
        ]
        lines.append(f"{head[index + 1]} minus {head[1]}, paired over images: {', '.join(cells)}")
        known = [
            (str(name), each)
            for name, each in zip(entry["measure"].values, ends, strict=True)
            if math.isfinite(each[0])
        ]
        measures = [name for name, _ in known]
        lines.append(
            tables.told_apart(
                "the mean corruption error", head[1], head[index + 1], measures, [each for _, each in known]
            )
        )
    return "\n".join(lines)


INSTRUMENT = command.Instrument(
    name=NAME,
    summary="corruptions (CIFAR-C files or computed), adversarial attacks, consistency",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    check=check,
    measured=measured,
    plan=plan,
    compared=lambda results: [next(iter(parts.values())) for parts in results],
    combined=combined,
    table=lambda arguments, outcome: table(outcome.results, outcome.relative),
    facts=lambda arguments, outcome: to_json(outcome.results, outcome.relative),
    draw=draw,
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
