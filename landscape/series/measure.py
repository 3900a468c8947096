"""Curvature, loss and barriers along the checkpoints of one training."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
import xarray

from landscape.compute import distributed
from landscape.compute.progress import Progress
from landscape.compute.randomness import derived_seed
from landscape.compute.settings import measurement
from landscape.eigen import WarmStarts, trace
from landscape.errors import LandscapeError
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.fit import fit
from landscape.objective.operators import Kind
from landscape.series.choices import PARTS, USUAL, Part
from landscape.store.files import read_sealed, write_sealed
from landscape.store.journal import Journal
from landscape.surface import directions
from landscape.surface.measure import line
from landscape.surface.summary import barrier

Arrays = dict[str, np.ndarray]

# Warm solves converge in 3 to 8 products; what does not within these says so by its residual.
_COLD, _WARM = 60, 12
# The smallest eigenvalue lies at the edge of a bulk, where each digit costs as much as all of the largest ones.
_SMALLEST = 10
_UNITS = {
    "loss": ("regularised loss", "nats"),
    "cross_entropy": ("mean loss over examples", "nats"),
    "data_loss": ("mean loss over terms", "1"),
    "l2": ("L2 term", "nats"),
    "accuracy": ("accuracy", "1"),
    "eigenvalue": ("eigenvalue", "nats"),
    "residual": ("bound: an eigenvalue lies within this distance", "nats"),
    "smallest_eigenvalue": ("smallest eigenvalue", "nats"),
    "smallest_residual": ("bound: an eigenvalue lies within this distance", "nats"),
    "trace": ("trace", "nats"),
    "trace_stderr": ("standard error of the trace over random vectors", "nats"),
    "barrier": ("highest loss above the straight line to the next checkpoint", "nats"),
    "path": ("place in the principal plane of the trajectory, the last checkpoint at the origin", "1"),
    "products": ("products with the curvature", "1"),
}


@measurement
def along(
    objective_of: Callable[[int, bool], Objective],
    times: Sequence[int],
    *,
    parts: Sequence[Part] = USUAL,
    top: int = 1,
    operator: Kind = "hessian",
    tolerance: float = 0.02,
    trace_products: int = 4,
    points: int = 11,
    seed: int = 0,
    journal: Journal | None = None,
    vectors: Path | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Scalars of every checkpoint of a training, each solve started from the eigenvectors of the one before.

    Parameters
    ----------
    objective_of
        (number, recalibrated) -> the objective of a checkpoint; with `recalibrated`, its batch-norm statistics are
        measured anew at each point of weight space, as the lines of barriers need it. Called one at a time.
    times
        Epoch or step of each checkpoint.
    parts
        ``loss`` (with its terms and the accuracy), ``top``, ``smallest``, ``trace``, ``path``, ``barrier``.
    top
        Number of largest eigenvalues.
    operator
        ``hessian``, ``ggn`` or ``fisher``.
    tolerance
        Relative error of the largest eigenvalues; 2 % is well below what they change along a training.
    trace_products
        Products for each trace.
    points
        On the line to the next checkpoint, both ends included.
    seed
        Of starting and random vectors.
    journal
        Where finished checkpoints are kept, and read again.
    vectors
        Base name of the files that keep the last eigenvectors, so that a resumed series has the same bits; removed
        when it is whole.
    quiet
        No progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``time``: ``loss``, ``cross_entropy``, ``l2``, ``accuracy``; ``eigenvalue`` (time, rank) with ``residual``,
        ``smallest_eigenvalue`` with ``smallest_residual``; ``trace`` with ``trace_stderr``; ``barrier`` to the next
        checkpoint, the last NaN; ``path`` (time, axis), principal components of the steps from the last checkpoint (Li
        et al. 2018), with their ``variance_share`` (axis); ``products``.

    Raises
    ------
    LandscapeError
        For unknown parts, and checkpoints of different networks.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise LandscapeError(f"unknown part {', '.join(unknown) or '(none)'}: choose among {', '.join(PARTS)}")
    curved = [part for part in parts if part in ("top", "smallest", "trace")]
    pieces: dict[str, Arrays] = {}
    warm: WarmStarts | None = None
    lines = len(times) - 1 if "barrier" in parts else 0
    with Progress(len(times) + lines, "series", unit="checkpoint", quiet=quiet) as bar:
        for number, time in enumerate(times):
            key = f"checkpoint {number}"
            if journal is not None and key in journal:
                pieces[key] = journal[key]
                bar.found(1)
                continue
            if warm is None:
                warm = WarmStarts(_read_vectors(vectors, number - 1))
            objective = objective_of(number, False)
            pieces[key] = _measured(
                objective, warm, parts, top, operator, tolerance, trace_products, derived_seed(seed, "series", number)
            )
            # First the vectors, then the record that needs them: killed between the two, the last two are there.
            if curved:
                _write_vectors(vectors, number, warm)
            if journal is not None:
                journal.write(key, pieces[key])
            bar.update(1, time=time)
        for number in range(lines):
            key = f"barrier {number}"
            if journal is not None and key in journal:
                pieces[key] = journal[key]
                bar.found(1)
                continue
            pieces[key] = {"barrier": np.array(_barrier(objective_of, number, points))}
            if journal is not None:
                journal.write(key, pieces[key])
            bar.update(1)
    rows = [pieces[f"checkpoint {number}"] for number in range(len(times))]
    variables: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]] = {}
    for name in rows[0]:
        if name in ("eigenvalue", "residual"):
            variables[name] = (("time", "rank"), np.stack([row[name] for row in rows]), _described(name))
        elif name not in ("parameters", "images"):
            # A journal gives numbers back as arrays of one entry.
            variables[name] = (("time",), np.array([row[name].item() for row in rows]), _described(name))
    if lines:
        heights = [pieces[f"barrier {number}"]["barrier"].item() for number in range(lines)]
        variables["barrier"] = (("time",), np.array([*heights, math.nan]), _described("barrier"))
    if "path" in parts and len(times) > 2:
        places, shares = _path(objective_of, len(times))
        variables["path"] = (("time", "axis"), places, _described("path"))
        variables["variance_share"] = (("axis",), shares, {"long_name": "share of the squared steps", "units": "1"})
    _forget_vectors(vectors, len(times))
    coordinates: dict[str, object] = {"time": np.array(times)}
    if "eigenvalue" in variables:
        coordinates["rank"] = np.arange(1, rows[0]["eigenvalue"].shape[0] + 1)
    return xarray.Dataset(
        variables,
        coordinates,
        attrs={
            "operator": operator,
            "parameters": rows[0]["parameters"].item(),
            "images": rows[0]["images"].item(),
            "tolerance": tolerance,
            "total_products": sum(row["products"].item() for row in rows),
        },
    )


def _described(name: str) -> dict[str, str]:
    long_name, units = _UNITS[name]
    return {"long_name": long_name, "units": units}


def _measured(
    objective: Objective,
    warm: WarmStarts,
    parts: Sequence[Part],
    top: int,
    operator: Kind,
    tolerance: float,
    trace_products: int,
    seed: int,
) -> Arrays:
    """Numbers of one checkpoint."""
    found: dict[str, object] = {"parameters": objective.size, "images": objective.images}
    if "loss" in parts:
        found |= fit(objective).facts()
    curvature = CurvatureOperator(objective, operator)
    space = None
    if "top" in parts or "trace" in parts:
        pairs = warm.solve(
            curvature, "top", count=top, tolerance=tolerance, products=_WARM + 3 * top, cold_products=_COLD, seed=seed
        )
        space = pairs.space
        # A network smaller than `top` has fewer.
        count = min(top, len(pairs.values))
        if "top" in parts:
            found |= {"eigenvalue": pairs.values[:count], "residual": pairs.residuals[:count]}
    if "smallest" in parts:
        lowest = warm.solve(
            curvature,
            "smallest",
            which="SA",
            tolerance=_SMALLEST * tolerance,
            products=_WARM // 2,
            cold_products=_COLD // 2,
            seed=seed,
        )
        found |= {"smallest_eigenvalue": lowest.values[0], "smallest_residual": lowest.residuals[0]}
    if "trace" in parts:
        estimate = trace(curvature, products=trace_products, seed=seed, space=space)
        found |= {"trace": estimate.value, "trace_stderr": estimate.stderr}
    found["products"] = curvature.products
    return {name: np.asarray(value) for name, value in found.items()}


def _barrier(objective_of: Callable[[int, bool], Objective], number: int, points: int) -> float:
    """Height of the barrier between a checkpoint and the next one."""
    objective = objective_of(number, True)
    other = objective_of(number + 1, False).point.double()
    axes = directions.between(objective, other)
    return barrier(line(objective, directions=axes, points=points, span=[(0.0, 1.0)]))


def _path(objective_of: Callable[[int, bool], Objective], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (count, 2) in the trajectory's principal plane, and the plane's shares of the squared steps (2,)."""
    points = [objective_of(number, False).point.double() for number in range(count - 1)]
    axes = directions.trajectory(objective_of(count - 1, False), points)
    assert axes.path is not None
    shares = [float(axes.facts[f"variance_share_{axis}"]) for axis in (1, 2)]
    # In units of weight space: the directions' lengths are the path's extents.
    return axes.path * np.array(axes.norms), np.array(shares)


def _vectors_file(base: Path, number: int) -> Path:
    return base.with_name(f"{base.name}-{number}")


def _read_vectors(base: Path | None, number: int) -> dict[str, torch.Tensor]:
    if base is None or not _vectors_file(base, number).is_file():
        return {}
    try:
        return safetensors.torch.load(bytes(read_sealed(_vectors_file(base, number))))
    except (LandscapeError, safetensors.SafetensorError):
        return {}  # damaged: a cold start gives the same numbers within their bounds


def _write_vectors(base: Path | None, number: int, warm: WarmStarts) -> None:
    if base is None or not distributed.is_main():
        return
    tensors = {name: value.cpu().contiguous() for name, value in warm.vectors.items()}
    write_sealed(_vectors_file(base, number), safetensors.torch.save(tensors))
    _vectors_file(base, number - 2).unlink(missing_ok=True)


def _forget_vectors(base: Path | None, count: int) -> None:
    if base is not None and distributed.is_main():
        for number in range(count):
            _vectors_file(base, number).unlink(missing_ok=True)
