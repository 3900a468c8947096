"""Command line of series of checkpoints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from landscape import command, series, store, tables
from landscape.errors import LandscapeError
from landscape.series.choices import PARTS, USUAL

if TYPE_CHECKING:
    import xarray

    from landscape.objective import Objective
    from landscape.series.order import Series
    from landscape.store.journal import Journal

NAME = "landscape.series"
DESCRIPTION = """Curvature along a training: loss, accuracy, eigenvalues, trace and trajectory of its checkpoints.

Give the checkpoints, or folders of them; they are sorted into trainings by name, and in time by their history or the
number in their name. Each solve starts from the eigenvectors of the checkpoint before."""


def add_arguments(parser: command.Parser) -> None:
    """Add its flags: what is measured along a training, and how precisely."""
    group = parser.add_argument_group("series")
    command.add_parts(group, PARTS, USUAL)
    group.add_argument("--top", type=command.positive, default=1, metavar="K", help="top eigenvalues (default: 1)")
    group.add_argument(
        "--operator", choices=("hessian", "ggn", "fisher"), default="hessian", help="which curvature (default: hessian)"
    )
    advanced = parser.add_argument_group("advanced: precision")
    advanced.add_argument(
        "--tolerance", type=float, default=0.02, metavar="X", help="relative error of eigenvalues (default: 0.02)"
    )
    advanced.add_argument(
        "--trace-products", type=command.positive, default=4, metavar="N", help="products of each trace (default: 4)"
    )
    advanced.add_argument(
        "--points", type=command.positive, default=11, metavar="N", help="on the line of each barrier (default: 11)"
    )


def check(arguments: argparse.Namespace) -> None:
    """Sorts the files into trainings; the last checkpoint of each stands for it from here on."""
    paths = [command.checkpoint_path(name, arguments) for name in arguments.checkpoints]
    arguments.series = {str(each.files[-1]): each for each in series.order.series(paths)}
    arguments.checkpoints = list(arguments.series)
    if arguments.points < 3:
        raise LandscapeError(f"--points {arguments.points} leaves nothing between two checkpoints: give 3 or more")
    if arguments.trace_products < 4:
        raise LandscapeError(f"--trace-products {arguments.trace_products} are too few: give 4 or more")


def _series(arguments: argparse.Namespace, subject: command.Subject) -> Series:
    """The training whose last checkpoint is the subject."""
    return arguments.series[str(subject.checkpoint.path)]


def settings(arguments: argparse.Namespace, subject: command.Subject) -> dict[str, Any]:
    """What decides the numbers."""
    training = _series(arguments, subject)
    parts = command.parts(arguments, PARTS, USUAL)
    return {
        "only": parts,
        "top": arguments.top,
        "operator": arguments.operator,
        "tolerance": arguments.tolerance,
        "trace_products": arguments.trace_products,
        "points": arguments.points if "barrier" in parts else None,
        "times": list(training.times),
        "earlier": [store.files.sha256(file) for file in training.files[:-1]],
    }


def measure(arguments: argparse.Namespace, subject: command.Subject, journal: Journal) -> xarray.Dataset:
    """The numbers of a training whose last checkpoint is the subject."""
    training = _series(arguments, subject)
    result = series.along(
        _objectives(arguments, subject, training),
        training.times,
        parts=command.parts(arguments, PARTS, USUAL),
        top=arguments.top,
        operator=arguments.operator,
        tolerance=arguments.tolerance,
        trace_products=arguments.trace_products,
        points=arguments.points,
        seed=arguments.seed,
        journal=journal,
        quiet=arguments.quiet,
    )
    return result.assign_attrs(series=training.name, checkpoints=json.dumps([file.name for file in training.files]))


def _objectives(arguments: argparse.Namespace, last: command.Subject, training: Series) -> Any:
    """(number, recalibrated) -> the objective of a checkpoint of the series."""
    import dataclasses

    def objective(number: int, recalibrated: bool) -> Objective:
        subject = last
        if number < len(training.files) - 1:
            loaded = command.load_checkpoint(arguments, str(training.files[number]))
            subject = dataclasses.replace(last, checkpoint=loaded)
        # Between two networks the running statistics of either are wrong.
        if recalibrated and subject.protocol.batch_norm == "running":
            subject = dataclasses.replace(subject, protocol=subject.protocol.replace(batch_norm="recalibrated"))
        return command.objective(arguments, subject, sharded=not recalibrated)

    return objective


def plan(arguments: argparse.Namespace, subject: command.Subject) -> str:
    """Products and seconds that the series will cost."""
    from landscape.objective import CurvatureOperator

    training = _series(arguments, subject)
    seconds = CurvatureOperator(command.objective(arguments, subject), arguments.operator).predicted_seconds()
    parts = command.parts(arguments, PARTS, USUAL)
    # Warm solves of the largest eigenvalues take about five products each, those of the smallest six.
    each = {"top": 5 * arguments.top, "smallest": 6, "trace": arguments.trace_products}
    products = len(training.files) * sum(number for part, number in each.items() if part in parts)
    return (
        f"{training.name}: {len(training.files)} checkpoints; about {products} products of {seconds:.2g} s, "
        f"{products * seconds:.0f} s in all"
    )


def table(results: Sequence[xarray.Dataset]) -> str:
    """One block per training, one row per checkpoint."""
    lines = []
    for result in results:
        lines += [f"{result.attrs['series']}, {result.attrs['sample']}, protocol {result.attrs['protocol_hash']}", ""]
        head, rows = ["time"], [[str(time)] for time in result["time"].values]
        for name, label, error in _COLUMNS:
            if name not in result:
                continue
            values = result[name].values
            several = values.ndim == 2
            for rank in range(values.shape[1] if several else 1):
                head.append(f"{label} {rank + 1}" if several and values.shape[1] > 1 else label)
                for number, row in enumerate(rows):
                    cell = (number, rank) if several else number
                    value = float(values[cell])
                    row.append(tables.with_error(value, float(result[error].values[cell])) if error else f"{value:.4g}")
        lines += [command.columns(head, rows), ""]
    notes = ["± of eigenvalues: an eigenvalue lies within; of the trace: one standard error, over its random vectors."]
    if any("barrier" in result for result in results):
        notes.append("barrier: highest loss above the straight line to the next checkpoint, batch norm recalibrated.")
    for result in results:
        if "variance_share" in result:
            fraction = float(result["variance_share"].sum())
            notes.append(f"{result.attrs['series']}: its principal plane holds {fraction:.0%} of the squared steps.")
    return "\n".join([*lines, *notes])


_COLUMNS = (
    ("loss", "loss", None),
    ("accuracy", "accuracy", None),
    ("eigenvalue", "eigenvalue", "residual"),
    ("smallest_eigenvalue", "smallest", "smallest_residual"),
    ("trace", "trace", "trace_stderr"),
    ("barrier", "barrier", None),
    ("products", "products", None),
)

INSTRUMENT = command.Instrument(
    name=NAME,
    summary="curvature, loss and trajectory along the checkpoints of a training",
    description=DESCRIPTION,
    add_arguments=add_arguments,
    settings=settings,
    measure=measure,
    plan=plan,
    table=lambda arguments, results: table(results),
    draw=command.picture(lambda results, path: series.picture.draw(results, path)),
    check=check,
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
