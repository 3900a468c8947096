"""Command line of the predictions instrument."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape import command, metrics, objective, predictions, store, tables
from landscape.errors import LandscapeError
from landscape.metrics.choices import BINNINGS
from landscape.predictions.choices import RESAMPLES, SIZES

if TYPE_CHECKING:
    import xarray

    from landscape.store.journal import Journal

NAME = "landscape.predictions"
DESCRIPTION = """Predictions of Monte-Carlo dropout ensembles: metrics against ensemble size, and how many passes of one
network equal those of another.

All sizes come from one set of passes, which is saved: other sizes cost no further pass. With several networks, each is
compared with the first, image by image. With --loss causal_lm or masked_lm, or a class per pixel, every token (pixel)
that counts is a prediction, and errors are over sequences (pictures)."""
_PRINTED = ("nll", "accuracy", "ece", "brier", "top5")


def sizes_of(text: str) -> tuple[int, ...]:
    """Ensemble sizes, separated by commas."""
    return tuple(command.positive(part) for part in text.split(","))


def add_arguments(parser: command.Parser) -> None:
    """Add its flags: passes, and the sizes of ensembles made of them."""
    # The paper's curves are on test images, with masks drawn anew in every pass.
    parser.set_defaults(split="test", dropout="fresh")
    group = parser.add_argument_group("predictions")
    group.add_argument("--passes", type=command.positive, default=50, metavar="T", help="masks per image (default: 50)")
    group.add_argument(
        "--sizes", type=sizes_of, default=SIZES, metavar="N,...", help="ensemble sizes of the curves (default: 1 to 50)"
    )
    group.add_argument(
        "--resamples",
        type=command.positive,
        default=RESAMPLES,
        metavar="R",
        help="choices of passes that a curve averages over (default: 10)",
    )
    group.add_argument("--binning", choices=BINNINGS, default="right", help="of confidences, for the ECE")
    group.add_argument(
        "--deep-ensemble", action="store_true", help="add the ensemble of all these networks, one size per network"
    )


@dataclass(frozen=True)
class Outcome:
    """Curves of every network, the ensemble's last, and the effective ensemble sizes against the first."""

    curves: list[xarray.Dataset]
    pairs: list[xarray.Dataset]


def check(arguments: argparse.Namespace) -> None:
    """Refuse a deep ensemble of one network."""
    if arguments.deep_ensemble and len(arguments.checkpoints) < 2 and not arguments.plan:
        raise LandscapeError("a deep ensemble of one network: give two checkpoints or more")


def measured(arguments: argparse.Namespace, subject: command.Subject) -> tuple[xarray.Dataset | None, xarray.Dataset]:
    """Passes and curves of one subject; for predictions of every token, only curves."""
    several = predictions.several(subject.data, subject.protocol.loss)
    passes = None if several else passed(arguments, subject)
    choices = _choices(arguments)
    question = command.question(arguments, NAME, subject, {"passes": arguments.passes, **choices})

    def begin(journal: Journal) -> xarray.Dataset:
        if passes is None:
            return _measured(predictions.per_term, arguments, subject, journal, **choices)
        return predictions.curves(passes, **choices)

    return passes, command.answer(question, begin, force=arguments.force)


def combined(arguments: argparse.Namespace, results: list[tuple[xarray.Dataset | None, xarray.Dataset]]) -> Outcome:
    """The curves, those of the deep ensemble with --deep-ensemble, and the comparisons."""
    curves = [curve for _, curve in results]
    if arguments.deep_ensemble:
        members = [passes for passes, _ in results if passes is not None]
        if len(members) < len(results):
            raise LandscapeError("--deep-ensemble is for one prediction per example: leave it out")
        ensemble = predictions.deep_ensemble(members)
        curves.append(predictions.curves(ensemble, **_choices(arguments)))
    return Outcome(curves, comparisons(curves))


def draw(arguments: argparse.Namespace, outcome: Outcome) -> list[Path]:
    """Curves against ensemble size."""
    if arguments.plot is None:
        return []
    predictions.picture.draw(outcome.curves, arguments.plot)
    return [arguments.plot]


def facts(arguments: argparse.Namespace, outcome: Outcome) -> dict[str, Any]:
    """JSON-ready."""
    curves = [command.facts_of(curve) for curve in outcome.curves]
    if len(curves) == 1:
        return curves[0]
    return {"results": curves, "effective_sizes": [pair_json(pair) for pair in outcome.pairs]}


def _choices(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "sizes": arguments.sizes,
        "resamples": arguments.resamples,
        "binning": arguments.binning,
        "seed": arguments.seed,
    }


def _measured(
    measure: Callable[..., xarray.Dataset],
    arguments: argparse.Namespace,
    subject: command.Subject,
    journal: Journal,
    **choices: Any,
) -> xarray.Dataset:
    return measure(
        subject.checkpoint.model,
        subject.data,
        passes=arguments.passes,
        **command.pass_settings(arguments, subject),
        journal=journal,
        quiet=arguments.quiet,
        **choices,
    )


def passed(arguments: argparse.Namespace, subject: command.Subject) -> xarray.Dataset:
    """The passes of one subject, from the cache when they are there."""
    beside = arguments.out and store.files.beside(arguments.out, "passes")
    kept = argparse.Namespace(**{**vars(arguments), "out": beside, "seed": 0})
    question = command.question(kept, f"{NAME}.passes", subject, {"passes": arguments.passes})

    def begin(journal: Journal) -> xarray.Dataset:
        return _measured(predictions.measure, arguments, subject, journal)

    return command.answer(question, begin, force=arguments.force)


def plan(arguments: argparse.Namespace, subject: command.Subject) -> str:
    """Passes, seconds and memory that the measurement will cost, estimated by timing a batch."""
    chosen = objective.preparation.examples(subject.data, subject.protocol)
    several = predictions.several(chosen, subject.protocol.loss)
    kind = predictions.terms.TermPredictor if several else predictions.Predictor
    predictor = kind(subject.checkpoint.model, chosen, **command.pass_settings(arguments, subject))
    start, stop = predictor.batches(0, len(chosen))[0]
    images = predictor.images(chosen, start, stop)
    predictor.outputs(images, start, range(1))
    started = time.perf_counter()
    predictor.outputs(images, start, range(3))
    repeats = 3 if predictor.stochastic else 1
    seconds = (time.perf_counter() - started) / repeats / (stop - start)
    passes = arguments.passes if predictor.stochastic else 1
    if several:
        return (
            f"{subject.name}: {len(chosen)} examples x {passes} passes at {seconds * 1e3:.2g} ms, about "
            f"{len(chosen) * passes * seconds:.0f} s, and as much again or more for metrics of {predictor.classes:,} "
            "classes; log-probabilities are not kept"
        )
    stored = 4 * passes * len(chosen) * predictor.classes
    return (
        f"{subject.name}: {len(chosen)} images x {passes} passes at {seconds * 1e3:.2g} ms, about "
        f"{len(chosen) * passes * seconds:.0f} s; {stored / 2**20:.0f} MiB of log-probabilities are kept"
    )


def comparisons(results: Sequence[xarray.Dataset]) -> list[xarray.Dataset]:
    """Effective ensemble sizes of the other networks against the first, where they were measured on the same images."""
    pairs = []
    for other in results[1:]:
        try:
            predictions.passes.require_same_images([results[0], other])
        except LandscapeError:
            continue
        pairs.append(predictions.effective_size(other, results[0]))
    return pairs


def pair_json(pair: xarray.Dataset) -> dict[str, Any]:
    """An effective ensemble size, JSON-ready."""
    return {str(name): pair[name].values.tolist() for name in pair.variables} | dict(pair.attrs)


def table(results: Sequence[xarray.Dataset], pairs: Sequence[xarray.Dataset] = ()) -> str:
    """One block per network, one row per size; below, the effective ensemble sizes."""
    lines: list[str] = []
    for result in results:
        attributes = result.attrs
        what = f"{attributes['images']} images"
        if "term" in attributes:
            what = f"{attributes['terms']:,} {attributes['term']}s of {attributes['images']:,} examples"
        lines.append(f"{attributes['name']}: {what}, one set of {attributes['passes']} {attributes['members']}")
        rows = [
            [
                str(size),
                *[_cell(result.sel(size=size), name) for name in _PRINTED],
                f"{100 * float(result['ece_debiased'].sel(size=size)):.2f}",
            ]
            for size in result["size"].values
        ]
        lines += [command.columns(["  N", *[_head(name) for name in _PRINTED], "debiased ECE, %"], rows), ""]
    over = "examples" if all("term" in result.attrs for result in results) else "images"
    lines += [
        f"[95 % interval over {over} and their masks; left out where none would hold, such as for a mean of losses",
        f"without any wrong prediction]. Few {over} raise the ECE: its interval and the debiased ECE are corrected for",
        "that.",
    ]
    lines += [_perplexity(result) for result in results if result.attrs.get("term") == "token"]
    lines += [_effective_sizes(pair) for pair in pairs]
    return "\n".join(lines)


def _head(name: str) -> str:
    metric = metrics.METRICS[name]
    return f"{metric.label}, {'%' if metric.unit == '1' else metric.unit}"


def _cell(row: xarray.Dataset, name: str) -> str:
    percent = metrics.METRICS[name].unit == "1"
    value, low, high = (float(row[f"{name}{part}"]) * (100 if percent else 1) for part in ("", "_low", "_high"))
    digits = 2 if percent else 4
    if not math.isfinite(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _perplexity(result: xarray.Dataset) -> str:
    """A sentence with the perplexity, the exponential of the NLL of tokens."""
    last = result.isel(size=-1)
    value, low, high = (math.exp(float(last[f"nll{part}"])) for part in ("", "_low", "_high"))
    size = int(last["size"])
    return (
        f"{result.attrs['name']}: the perplexity exp(NLL) with {size} pass{'es' * (size > 1)} is "
        f"{tables.with_interval(value, low, high)}, of {result.attrs['classes']:,} tokens to choose from."
    )


def _effective_sizes(pair: xarray.Dataset) -> str:
    """A sentence with the effective ensemble sizes of a pair of networks, each with its 95 % interval."""
    size = int(pair["size"][-1])

    def number(value: float) -> str:
        if not math.isfinite(value):
            return "more than were measured" if math.isinf(value) else "unknown"
        return f"{value:.2g}" if value < 10 else f"{value:.0f}"

    parts = []
    for name in ("nll", "accuracy", "ece"):
        entry = pair.sel(metric=name, size=size)
        value, low, high = (float(entry[part]) for part in ("effective_size", "low", "high"))
        parts.append(f"{number(value)} [{number(low)}, {number(high)}] by {metrics.METRICS[name].label}")
    return f"{size} passes of {pair.attrs['against']} are worth, in passes of {pair.attrs['of']}: {', '.join(parts)}."


INSTRUMENT = command.Instrument(
    name=NAME,
    summary="NLL, accuracy, calibration against ensemble size; how many passes of one net another is worth",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    check=check,
    measured=measured,
    plan=plan,
    compared=lambda results: [curve if passes is None else passes for passes, curve in results],
    combined=combined,
    table=lambda arguments, outcome: table(outcome.curves, outcome.pairs),
    facts=facts,
    draw=draw,
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
