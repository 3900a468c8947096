"""What a monitor has measured: rows by step, kept as a CSV, handed to loggers, as a data set, as a picture."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from landscape import plotting
from landscape.errors import LandscapeError
from landscape.store.files import write_whole
from landscape.store.vocabulary import described, with_unit

Row = dict[str, float]

# name: (what it is, unit)
VARIABLES: dict[str, tuple[str, str]] = {
    "loss": ("mean loss over the examples plus L2 term", "nats"),
    "data_loss": ("mean loss over the examples", "nats"),
    "l2": ("L2 term of the optimizer's weight decay", "nats"),
    "gradient_norm": ("norm of the gradient", "nats"),
    "largest_eigenvalue": ("largest eigenvalue of the Hessian (sharpness)", "nats"),
    "largest_residual": ("bound: an eigenvalue lies within this distance", "nats"),
    "smallest_eigenvalue": ("smallest Ritz value: the smallest eigenvalue is at or below it", "nats"),
    "smallest_residual": ("bound: an eigenvalue lies within this distance", "nats"),
    "trace": ("trace of the Hessian", "nats"),
    "trace_stderr": ("standard error of the trace over random vectors", "nats"),
    "learning_rate": ("largest learning rate of the parameter groups", "1"),
    "two_over_learning_rate": ("2 / learning rate", "nats"),
    "stability_threshold": ("preconditioned sharpness above which the optimizer is unstable on a quadratic", "nats"),
    "preconditioned_sharpness": ("largest eigenvalue of P^-1/2 H P^-1/2, P the optimizer's preconditioner", "nats"),
    "preconditioned_residual": ("bound: an eigenvalue lies within this distance", "nats"),
    "perturbed_sharpness": ("largest eigenvalue at the point that SAM perturbs the weights to", "nats"),
    "perturbed_residual": ("bound: an eigenvalue lies within this distance", "nats"),
    "perturbed_rise": ("rise of the loss to the point that SAM perturbs the weights to", "nats"),
    "sam_threshold": ("sharpness above which SAM with gradient descent is unstable on a quadratic", "nats"),
    "products": ("Hessian-vector products of this measurement", "1"),
    "cost_seconds": ("seconds of this measurement", "s"),
    "training_seconds": ("seconds of training so far, measurements left out", "s"),
}


def dataset(rows: Sequence[Row], attributes: Mapping[str, Any]) -> xarray.Dataset:
    """Rows as variables over ``step``, with units; what was not measured at a step is NaN."""
    names = [name for name in VARIABLES if any(name in row for row in rows)]
    dataset = xarray.Dataset(
        {
            name: (
                "step",
                np.array([row.get(name, math.nan) for row in rows], dtype=float),
                {"long_name": VARIABLES[name][0], "units": VARIABLES[name][1]},
            )
            for name in names
        },
        {"step": ("step", np.array([int(row["step"]) for row in rows], dtype=np.int64))},
        attrs=dict(attributes),
    )
    return described(dataset)


class Table:
    """A CSV file with one row per measurement, always whole on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, rows: Sequence[Row]) -> None:
        """Write all rows; raises LandscapeError when that fails."""
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *VARIABLES], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: int(value) if name == "step" else repr(float(value)) for name, value in row.items()})
        write_whole(self.path, text.getvalue().encode())


def read_table(path: Path | str) -> list[Row]:
    """Rows of a CSV file that a monitor wrote.

    Raises
    ------
    LandscapeError
        When the file cannot be read or is not such a table.
    """
    path = Path(path)
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_bytes().decode())))
        rows = [{name: float(value) for name, value in line.items() if value} for line in lines]
        if any("step" not in row for row in rows):
            raise KeyError("step")
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
        raise LandscapeError(f"{path} is not a table of a monitor: give the CSV that one wrote") from None
    return rows


def hand_over(logger: Any, row: Row, prefix: str) -> None:
    """Give a row to a logger: ``add_scalar`` (TensorBoard), ``log_metrics`` (Lightning) or ``log`` (W&B)."""
    step = int(row["step"])
    scalars = {f"{prefix}{name}": value for name, value in row.items() if name != "step"}
    if hasattr(logger, "add_scalar"):
        for name, value in scalars.items():
            logger.add_scalar(name, value, step)
    elif hasattr(logger, "log_metrics"):
        logger.log_metrics(scalars, step=step)
    else:
        # W&B counts its own steps, which are the loop's business: ours stands among the values.
        logger.log({**scalars, f"{prefix}step": step})


def draw(result: xarray.Dataset, path: Path | str) -> Path:
    """Draw curvature with its bounds against the stability threshold, and loss and gradient norm below.

    Raises
    ------
    LandscapeError
        When nothing was measured, or for a file name that does not end in .pdf, .png or .svg.
    """
    if result.sizes.get("step", 0) == 0:
        raise LandscapeError("nothing was measured yet: call monitor.step() in the loop, or monitor.measure()")
    with plotting.style():
        figure = plotting.figure(6.0, 5.0)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        steps = result["step"].values
        for index, (name, label) in enumerate(_curves(result)):
            values = result[name].values
            bound = result[name.replace("eigenvalue", "residual").replace("sharpness", "residual")].values
            color = plotting.COLORS[index]
            above.plot(steps, values, color=color, marker="o", markersize=2.5, label=label)
            above.fill_between(steps, values - bound, values + bound, color=color, alpha=0.2, linewidth=0)
        # Bounds of early, unconverged values and thresholds of a vanishing learning rate would flatten all else.
        seen = np.concatenate([result[name].values for name, _ in _curves(result)])
        seen = seen[np.isfinite(seen)]
        top = np.inf
        if len(seen):
            low, high = float(seen.min()), float(seen.max())
            if "stability_threshold" in result and bool(np.isfinite(result["stability_threshold"]).any()):
                edge = float(np.nanmin(result["stability_threshold"].values))
                high = max(high, edge if edge < 3 * high else high)
            margin = 0.08 * (high - low or 1.0)
            top = high + margin
            above.set_ylim(low - margin, top)
        for name, label, style in (
            ("stability_threshold", "stability threshold", "--"),
            ("sam_threshold", "SAM's stability threshold", ":"),
        ):
            if name in result and bool(np.isfinite(result[name]).any()):
                lowest = float(np.nanmin(result[name].values))
                label += f" (above, from {lowest:.3g})" if lowest > top else ""
                above.plot(steps, result[name].values, style, color="black", linewidth=1.0, label=label)
        above.set_ylabel(with_unit("curvature", [result]))
        above.legend(loc="best")
        below.plot(steps, result["loss"].values, color=plotting.COLORS[0], label="loss")
        below.plot(steps, result["gradient_norm"].values, color=plotting.COLORS[1], label="gradient norm")
        plotting.log_scale(below, "y")
        below.set_xlabel("step")
        below.set_ylabel(f"{with_unit('loss', [result])}, gradient norm")
        below.legend(loc="best")
        return plotting.save(figure, path, dict(result.attrs))


def _curves(result: xarray.Dataset) -> list[tuple[str, str]]:
    curves = [("largest_eigenvalue", "largest eigenvalue"), ("smallest_eigenvalue", "smallest eigenvalue")]
    own = result.get("preconditioned_sharpness")
    if own is not None and not np.array_equal(own.values, result["largest_eigenvalue"].values, equal_nan=True):
        curves.append(("preconditioned_sharpness", "preconditioned sharpness"))
    if "perturbed_sharpness" in result:
        curves.append(("perturbed_sharpness", "sharpness at SAM's point"))
    return curves
