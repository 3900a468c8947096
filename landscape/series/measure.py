"""Curvature, loss and barriers along the checkpoints of one training."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from landscape.errors import LandscapeError, require_parts
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.fit import fit
from landscape.objective.operators import Kind
from landscape.series.choices import PARTS, USUAL, Part
from landscape.store.files import read_sealed, write_sealed
from landscape.store.journal import Journal
from landscape.store.vocabulary import described
from landscape.surface import directions
from landscape.surface.measure import line
from landscape.surface.summary import barrier

_log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]
Variable = tuple[tuple[str, ...], np.ndarray]

# Warm solves converge in 3 to 8 products; what does not within these says so by its residual.
_COLD, _WARM = 60, 12
# The smallest eigenvalue lies at the edge of a bulk, where each digit costs as much as all of the largest ones.
_SMALLEST = 10
_WORDS = {
    "loss": ("regularised loss", "nats"),
    "cross_entropy": ("mean loss over examples", "nats"),
    "data_loss": ("mean loss over terms", "1"),
    "l2": ("L2 term", "nats"),
    "trace_stderr": ("standard error of the trace over random vectors", "nats"),
    "barrier": ("highest loss above the straight line to the next checkpoint", "nats"),
    "path": ("coordinates in the principal plane of the trajectory, the last checkpoint at the origin", "1"),
    "variance_share": ("fraction of the squared steps", "1"),
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
        Where finished checkpoints are kept, and read again. Files beside it keep the last eigenvectors, so that a
        resumed series has the same bits; they are removed when it is whole.
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
    require_parts(parts, PARTS)
    starts = _Starts(journal)
    lines = len(times) - 1 if "barrier" in parts else 0

    def checkpoint(number: int) -> Arrays:
        objective, warm = objective_of(number, False), starts.before(number)
        own_seed = derived_seed(seed, "series", number)
        arrays = _numbers(objective, warm, parts, top, operator, tolerance, trace_products, own_seed)
        # Before the record that needs them: killed between the two, the last two are there.
        starts.keep(number)
        return arrays

    def piece(key: str, compute: Callable[[], Arrays], **facts: object) -> Arrays:
        if journal is not None and key in journal:
            bar.resumed(1)
            return journal[key]
        arrays = compute()
        if journal is not None:
            journal.write(key, arrays)
        bar.update(1, **facts)
        return arrays

    with Progress(len(times) + lines, "series", unit="checkpoint", quiet=quiet) as bar:
        rows = [
            piece(f"checkpoint {number}", partial(checkpoint, number), time=time) for number, time in enumerate(times)
        ]
        barriers = [
            piece(f"barrier {number}", partial(_barrier, objective_of, number, points))["barrier"].item()
            for number in range(lines)
        ]
    path = _path(objective_of, len(times)) if "path" in parts and len(times) > 2 else {}
    starts.remove(len(times))
    return _dataset(times, rows, barriers, path).assign_attrs(operator=operator, tolerance=tolerance)


def _dataset(
    times: Sequence[int], rows: Sequence[Arrays], barriers: Sequence[float], path: Mapping[str, Variable]
) -> xarray.Dataset:
    """Rows of all checkpoints and what lies between them, labelled."""
    variables: dict[str, Variable] = dict(path)
    coordinates: dict[str, object] = {"time": np.array(times)}
    for name in rows[0]:
        if name in ("parameters", "images"):
            continue
        if name in ("eigenvalue", "residual"):
            variables[name] = (("time", "rank"), np.stack([row[name] for row in rows]))
            coordinates["rank"] = np.arange(1, len(rows[0][name]) + 1)
        else:
            # A journal gives numbers back as arrays of one entry.
            variables[name] = (("time",), np.array([row[name].item() for row in rows]))
    if barriers:
        variables["barrier"] = (("time",), np.array([*barriers, math.nan]))
    facts = {name: rows[0][name].item() for name in ("parameters", "images")}
    facts["total_products"] = sum(row["products"].item() for row in rows)
    return described(xarray.Dataset(variables, coordinates, attrs=facts), _WORDS)


def _numbers(
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


def _barrier(objective_of: Callable[[int, bool], Objective], number: int, points: int) -> Arrays:
    """Height of the barrier between a checkpoint and the next one."""
    objective = objective_of(number, True)
    other = objective_of(number + 1, False).point.double()
    if torch.equal(other, objective.point.double()):
        return {"barrier": np.zeros(())}
    axes = directions.between(objective, other)
    return {"barrier": np.array(barrier(line(objective, directions=axes, points=points, span=[(0.0, 1.0)])))}


def _path(objective_of: Callable[[int, bool], Objective], count: int) -> dict[str, Variable]:
    """Coordinates (count, 2) in the trajectory's principal plane, and the fractions of the squared steps in it (2,)."""
    points = [objective_of(number, False).point.double() for number in range(count - 1)]
    try:
        axes = directions.trajectory(objective_of(count - 1, False), points)
    except directions.NoPlaneError as error:
        _log.warning("no path: %s", error)
        return {}
    assert axes.path is not None
    fractions = [float(axes.facts[f"variance_share_{axis}"]) for axis in (1, 2)]
    # In units of weight space: the directions' lengths are the path's extents.
    coordinates = axes.path * np.array(axes.norms)
    return {"path": (("time", "axis"), coordinates), "variance_share": (("axis",), np.array(fractions))}


class _Starts:
    """Warm starts, their vectors kept in files beside the journal."""

    def __init__(self, journal: Journal | None) -> None:
        self._base = None if journal is None else journal.base.with_suffix(".vectors")
        self._warm: WarmStarts | None = None

    def _file(self, number: int) -> Path:
        assert self._base is not None
        return self._base.with_name(f"{self._base.name}-{number}")

    def before(self, number: int) -> WarmStarts:
        """Vectors of the checkpoint before, read from its file in a resumed series."""
        if self._warm is None:
            self._warm = WarmStarts(self._read(number - 1))
        return self._warm

    def _read(self, number: int) -> dict[str, torch.Tensor]:
        if self._base is None or not self._file(number).is_file():
            return {}
        try:
            return safetensors.torch.load(bytes(read_sealed(self._file(number))))
        except (LandscapeError, safetensors.SafetensorError):
            return {}  # damaged: a cold start gives the same numbers within their bounds

    def keep(self, number: int) -> None:
        """Save the vectors of a checkpoint beside those of the one before."""
        if self._base is None or self._warm is None or not self._warm.vectors or not distributed.is_main():
            return
        tensors = {name: value.cpu().contiguous() for name, value in self._warm.vectors.items()}
        write_sealed(self._file(number), safetensors.torch.save(tensors))
        self._file(number - 2).unlink(missing_ok=True)

    def remove(self, count: int) -> None:
        """Delete the files of all checkpoints."""
        if self._base is not None and distributed.is_main():
            for number in range(count):
                self._file(number).unlink(missing_ok=True)
