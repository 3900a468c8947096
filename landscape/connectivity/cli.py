"""Command line of mode connectivity."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from landscape import command, connectivity, store, tables
from landscape.connectivity.choices import LABELS, PARTS, STEPS, USUAL
from landscape.errors import LandscapeError
from landscape.store.protocol import preset

if TYPE_CHECKING:
    import xarray

    from landscape.objective import Objective
    from landscape.store.journal import Journal

NAME = "landscape.connectivity"
DESCRIPTION = """Mode connectivity: the barrier between checkpoints that were trained apart, and their mean.

Give two checkpoints of one kind, or more: each of the others is connected with the first. As they are; with the
channels of the other permuted to match, which leaves its function as it is; along a trained curve."""


def add_arguments(parser: command.Parser) -> None:
    """Add its flags: which ways, and how curves are trained."""
    group = parser.add_argument_group("ways")
    command.add_parts(group, PARTS, USUAL, "WAY")
    group.add_argument("--points", type=command.positive, default=11, metavar="N", help="on each way (default: 11)")
    advanced = parser.add_argument_group("advanced: curve")
    advanced.add_argument(
        "--curve-steps", type=command.positive, default=STEPS, metavar="N", help=f"of its training (default: {STEPS})"
    )
    advanced.add_argument(
        "--curve-rate", type=float, default=0.05, metavar="X", help="its first learning rate (default: 0.05)"
    )


def check(arguments: argparse.Namespace) -> None:
    """The first checkpoint is the subject, the others are where the ways lead."""
    if len(arguments.checkpoints) < 2:
        raise LandscapeError("one network has nothing to be connected with: give two checkpoints or more")
    if arguments.points < 3:
        raise LandscapeError(f"--points {arguments.points} leaves nothing between two checkpoints: give 3 or more")
    if not 0 < arguments.curve_rate < float("inf"):
        raise LandscapeError(f"--curve-rate {arguments.curve_rate} trains nothing: give a positive number")
    arguments.others = arguments.checkpoints[1:]
    names = [store.files.stem(name) for name in arguments.others]
    if len(set(names)) < len(names):
        raise LandscapeError("two of the other checkpoints are named alike: give each once, under a name of its own")
    arguments.checkpoints = arguments.checkpoints[:1]
    protocol = preset(arguments.protocol)
    if "curve" in command.parts(arguments, PARTS, USUAL) and (arguments.split or protocol.split) != "train":
        raise LandscapeError("a curve is trained on the images it is given: measure it with --split train")
    # Between two networks the running statistics of either are wrong.
    if (arguments.batch_norm or protocol.batch_norm) == "running":
        arguments.batch_norm = "recalibrated"


def settings(arguments: argparse.Namespace, subject: command.Subject) -> dict[str, Any]:
    """What decides the numbers."""
    parts = command.parts(arguments, PARTS, USUAL)
    return {
        "only": parts,
        "points": arguments.points,
        "curve": [arguments.curve_steps, arguments.curve_rate] if "curve" in parts else None,
        "others": [store.files.sha256(command.checkpoint_path(name, arguments)) for name in arguments.others],
        "names": [store.files.stem(name) for name in arguments.others],
    }


def measure(arguments: argparse.Namespace, subject: command.Subject, journal: Journal) -> xarray.Dataset:
    """The ways from the subject to all others."""

    def training() -> Objective:
        # All images of the split, in batches, as networks are trained.
        protocol = subject.protocol.replace(batch_norm="batch", images=None)
        return command.objective(arguments, dataclasses.replace(subject, protocol=protocol))

    parts = command.parts(arguments, PARTS, USUAL)
    result = connectivity.connect(
        command.objective(arguments, subject),
        subject.checkpoint.model,
        {store.files.stem(name): command.load_checkpoint(arguments, name).model for name in arguments.others},
        parts=parts,
        points=arguments.points,
        training=training,
        curve_steps=arguments.curve_steps,
        curve_rate=arguments.curve_rate,
        seed=arguments.seed,
        journal=journal,
        quiet=arguments.quiet,
    )
    if "aligned" in parts and "aligned" not in result["way"]:
        command.caution(
            f"nothing was aligned: no channel of {subject.name} can be permuted; {LABELS['aligned']} would be "
            f"{LABELS['line']}"
        )
    return result


def plan(arguments: argparse.Namespace, subject: command.Subject) -> str:
    """Points and seconds, by measuring one point on a few images."""
    import time

    objective = command.objective(arguments, subject)
    parts = command.parts(arguments, PARTS, USUAL)
    straight = sum(part != "curve" for part in parts)
    points = arguments.points * len(parts) * len(arguments.others) + straight
    objective.value(objective.point)
    started = time.perf_counter()
    objective.value(objective.point)
    seconds = time.perf_counter() - started
    steps = arguments.curve_steps * len(arguments.others) if "curve" in parts else 0
    training = f"; {steps} steps of SGD for curves" if steps else ""
    kind = objective.kind_of_examples
    return (
        f"{subject.name}: {points} points of {objective.images} {kind}, {points * seconds:.0f} s at {seconds:.2g} s a "
        f"point, batch norm {objective.protocol.batch_norm}{training}"
    )


def table(results: Sequence[xarray.Dataset]) -> str:
    """One row per way, and one per mean."""
    lines = []
    for result in results:
        name = result.attrs["name"]
        lines += [f"{name}, {result.attrs['sample']}, protocol {result.attrs['protocol_hash']}", ""]
        classifies = "accuracy" in result
        head = ["to", "way", "barrier (nats) [95 %]", "at", "distance", *["lowest accuracy"] * classifies]
        rows = []
        for other in result["other"].values:
            for way in result["way"].values:
                one = result.sel(other=other, way=way)
                low, high = float(one["barrier_low"]), float(one["barrier_high"])
                row = [str(other), LABELS[str(way)], tables.with_interval(float(one["barrier"]), low, high)]
                row += [f"{float(one['barrier_at']):.2g}", f"{float(one['distance']):.4g}"]
                if classifies:
                    row.append(f"{float(one['accuracy'].min()):.3f}")
                rows.append(row)
        lines += [command.columns(head, rows), ""]
        ends = result.isel(way=0)
        rows = [_fit(str(name), ends.isel(other=0, t=0))]
        rows += [_fit(str(other), ends.sel(other=other).isel(t=-1)) for other in result["other"].values]
        means = [str(way) for way in result["way"].values if way != "curve"]
        rows += [_fit(f"mean, {LABELS[way]}", result.sel(way=way), "soup_") for way in means]
        lines += [command.columns(["network", "loss", *["accuracy"] * classifies], rows), ""]
    notes = [
        "barrier: highest mean loss above the straight line between those of both ends; interval over the images.",
    ]
    if any("aligned" in result["way"] for result in results):
        notes.append(
            "channels matched: the other network permuted, the same function (weight matching, Ainsworth et al. 2023)."
        )
    if any(json.loads(result.attrs["protocol"])["batch_norm"] == "recalibrated" for result in results):
        notes.append("batch norm: statistics measured anew at every point, also at both ends.")
    return "\n".join([*lines, *notes])


def _fit(label: str, result: xarray.Dataset, prefix: str = "") -> list[str]:
    """Loss and accuracy of one network."""
    row = [label]
    for quantity in (f"{prefix}cross_entropy", f"{prefix}accuracy"):
        if quantity in result:
            row.append(tables.with_error(float(result[quantity]), float(result[f"{quantity}_stderr"])))
    return row


INSTRUMENT = command.Instrument(
    name=NAME,
    summary="the barrier between checkpoints: straight, with channels matched, along a trained curve; and their mean",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    settings=settings,
    measure=measure,
    plan=plan,
    table=lambda arguments, results: table(results),
    draw=command.picture(lambda results, path: connectivity.picture.draw(results, path)),
    check=check,
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
