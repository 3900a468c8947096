"""Loss and accuracy on the ways between networks: straight lines, aligned lines, trained curves; and their mean."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from landscape.compute.settings import measurement
from landscape.connectivity import curve
from landscape.connectivity.alignment import align
from landscape.connectivity.choices import PARTS, STEPS, USUAL, Part
from landscape.errors import LandscapeError
from landscape.metrics import confidence
from landscape.objective import Objective
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, pieces
from landscape.surface.cells import Cells
from landscape.surface.directions import Directions, point_of

# Examples on which the permuted network is compared with the one it was.
_COMPARED = 8
_NAMES = {
    "loss": ("regularised loss", "nats"),
    "cross_entropy": ("mean loss over examples", "nats"),
    "cross_entropy_stderr": ("standard error of the mean loss over examples", "nats"),
    "accuracy": ("accuracy", "1"),
    "accuracy_stderr": ("standard error of the accuracy", "1"),
    "height": ("mean loss above the straight line between those of both ends", "nats"),
    "height_stderr": ("standard error of the height", "nats"),
    "height_low": ("lower end of the 95 % interval", "nats"),
    "height_high": ("upper end of the 95 % interval", "nats"),
    "barrier": ("largest height", "nats"),
    "barrier_stderr": ("standard error of the height there", "nats"),
    "barrier_low": ("lower end of the 95 % interval", "nats"),
    "barrier_high": ("upper end of the 95 % interval", "nats"),
    "barrier_at": ("place of the largest height", "1"),
    "distance": ("Euclidean distance of the ends", "1"),
    "soup_cross_entropy": ("mean loss of the mean network", "nats"),
    "soup_cross_entropy_stderr": ("standard error of the mean loss over examples", "nats"),
    "soup_accuracy": ("accuracy of the mean network", "1"),
    "soup_accuracy_stderr": ("standard error of the accuracy", "1"),
}


@measurement
def connect(
    objective: Objective,
    model: nn.Module,
    others: Mapping[str, nn.Module],
    *,
    parts: Sequence[Part] = USUAL,
    points: int = 11,
    training: Callable[[], Objective] | None = None,
    curve_steps: int = STEPS,
    curve_rate: float = 0.05,
    seed: int = 0,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""What lies between a network and others of its kind.

    The *barrier* of a way :math:`w(t)` is :math:`\max_t\, L(w(t)) - (1-t) L(w(0)) - t L(w(1))` (Frankle et al. 2020,
    arXiv 1912.05671), *L* the mean loss over examples, without the L2 term, which is lower between any two networks.

    Parameters
    ----------
    objective
        The loss at `model`. Between networks with batch norm the running statistics of either are wrong (Jordan et al.
        2023, REPAIR, arXiv 2211.08403): give ``batch_norm="recalibrated"``, which measures them anew at every point.
    model
        The network itself.
    others
        Networks of its kind, by name.
    parts
        ``line``: as they are. ``aligned``: the channels of the other permuted to match
        (:func:`landscape.connectivity.align`). ``curve``: trained (:func:`landscape.connectivity.bend`).
    points
        On each way, both ends included.
    training
        Makes the objective that curves are trained with; needed for them alone.
    curve_steps, curve_rate
        Steps and first learning rate of their training.
    seed
        Of the matching and of the training of curves.
    journal
        Where finished pieces are kept, and read again.
    quiet
        No progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``other``, ``way`` and ``t``: ``loss``, ``cross_entropy`` and ``accuracy`` with standard errors over the
        choice of examples, ``height`` above the straight line between both ends' losses with ``_stderr``, ``_low`` and
        ``_high`` (95 %, of each example's own height). Over ``other`` and ``way``: ``barrier`` with the same,
        ``barrier_at``, ``distance`` of the ends. Over ``way``: ``soup_cross_entropy`` and ``soup_accuracy`` of the
        equal mean of all networks (Wortsman et al. 2022, arXiv 2203.05482), not for curves.

    Raises
    ------
    LandscapeError
        For unknown parts, too few points, networks of different kinds, and those that cannot be aligned.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise LandscapeError(f"unknown part {', '.join(unknown) or '(none)'}: choose among {', '.join(PARTS)}")
    if points < 3:
        raise LandscapeError(f"{points} points leave nothing between two networks: give 3 or more")
    if not objective.classifies:
        raise LandscapeError(
            "connectivity tells loss and accuracy of classifiers, one class per example: for a line between networks "
            "of other kinds give landscape.surface"
        )
    if not others:
        raise LandscapeError("there is one network only: give another to go to")
    start = objective.point.double()
    ends: dict[tuple[str, str], Tensor] = {}
    matches: dict[str, list[float]] = {"weight_match_before": [], "weight_match_after": [], "function_deviation": []}
    for name, other in others.items():
        ends[name, "line"] = point_of(objective, dict(other.named_parameters()), name)
        if "aligned" in parts:
            found = align(model, other, objective.batch(0, min(_COMPARED, objective.images)), seed=seed)
            ends[name, "aligned"] = point_of(objective, dict(found.network.named_parameters()), name)
            scale = float(start.norm() * ends[name, "line"].norm())
            matches["weight_match_before"].append(float(start @ ends[name, "line"]) / scale)
            matches["weight_match_after"].append(float(start @ ends[name, "aligned"]) / scale)
            matches["function_deviation"].append(found.deviation)
    vectors, ways = [], {}
    for name in others:
        for way in parts:
            end = ends[name, "line" if way == "curve" else way]
            vectors.append(end - start)
            place = len(vectors) - 1
            ways[name, way] = {place: lambda t: t}
            if way == "curve":
                if training is None:
                    raise LandscapeError("a curve needs an objective to be trained with: give training")
                vectors.append(
                    curve.bend(
                        training(),
                        end,
                        steps=curve_steps,
                        learning_rate=curve_rate,
                        seed=seed,
                        journal=journal,
                        key=f"curve/{name}",
                        quiet=quiet,
                    )
                    - start
                )
                ways[name, way] = {
                    place: lambda t: curve.coordinates(t)[0],
                    place + 1: lambda t: curve.coordinates(t)[1],
                }
    straight = [way for way in parts if way != "curve"]
    for way in straight:
        vectors.append(torch.stack([ends[name, way] - start for name in others]).sum(0) / (len(others) + 1))
    shares = np.linspace(0, 1, points)
    places: dict[str, tuple[float, ...]] = {}
    for (name, way), axes in ways.items():
        for number, share in enumerate(shares):
            places[f"{name}/{way}/{number}"] = _coordinates(len(vectors), {a: f(float(share)) for a, f in axes.items()})
    for number, way in enumerate(straight):
        places[f"soup/{way}"] = _coordinates(len(vectors), {len(vectors) - len(straight) + number: 1.0})
    cells = _cells(objective, torch.stack(vectors).to(objective.point), places, journal, quiet)
    return _dataset(objective, list(others), list(parts), shares, straight, cells, ends, matches)


def _coordinates(count: int, given: Mapping[int, float]) -> tuple[float, ...]:
    return tuple(given.get(place, 0.0) for place in range(count))


def _cells(
    objective: Objective,
    vectors: Tensor,
    places: Mapping[str, tuple[float, ...]],
    journal: Journal | None,
    quiet: bool,
) -> dict[str, Arrays]:
    """What is measured at each place, with the losses of single examples."""
    cells = Cells(objective, Directions(vectors, kind="connectivity"), keep_losses=True)
    nothing = torch.zeros(objective.images, 1, dtype=torch.float64, device=objective.device)
    numbers = {key: number for number, key in enumerate(places)}

    def compute(key: str) -> Arrays:
        return cells.measure(places[key], number=numbers[key], controls=nothing)

    return dict(pieces(list(places), compute, journal=journal, what="between", unit="point", quiet=quiet))


def _dataset(
    objective: Objective,
    others: list[str],
    ways: list[Part],
    shares: np.ndarray,
    straight: Sequence[Part],
    cells: Mapping[str, Arrays],
    ends: Mapping[tuple[str, str], Tensor],
    matches: Mapping[str, list[float]],
) -> xarray.Dataset:
    rows: dict[str, np.ndarray] = {}

    def put(name: str, shape: tuple[int, ...], place: tuple[int, ...], value: float) -> None:
        rows.setdefault(name, np.full(shape, np.nan))[place] = value

    whole = (len(others), len(ways), len(shares))
    for i, other in enumerate(others):
        for j, way in enumerate(ways):
            measured = [cells[f"{other}/{way}/{number}"] for number in range(len(shares))]
            losses = np.stack([cell["losses"].astype(np.float64) for cell in measured])
            for k, cell in enumerate(measured):
                for name, value in _numbers(cell).items():
                    put(name, whole, (i, j, k), value)
            chords = (1 - shares)[:, None] * losses[0] + shares[:, None] * losses[-1]
            heights = losses - chords
            low, high = confidence.of_mean(heights)
            error = (
                heights.std(1, ddof=1) / math.sqrt(heights.shape[1])
                if heights.shape[1] > 1
                else np.full(len(low), np.nan)
            )
            found = {"height": heights.mean(1), "height_stderr": error, "height_low": low, "height_high": high}
            # At the ends there is nothing above the line.
            for values in found.values():
                values[[0, -1]] = 0.0
            for name, values in found.items():
                for k, value in enumerate(values):
                    put(name, whole, (i, j, k), value)
            top = int(np.nanargmax(found["height"])) if np.isfinite(found["height"]).any() else 0
            for name, values in found.items():
                put(name.replace("height", "barrier"), whole[:2], (i, j), values[top])
            put("barrier_at", whole[:2], (i, j), float(shares[top]))
            end = ends[other, "line" if way == "curve" else way]
            put("distance", whole[:2], (i, j), float((end - objective.point.double()).norm()))
    for j, way in enumerate(ways):
        if way in straight:
            for name, value in _numbers(cells[f"soup/{way}"]).items():
                if name != "loss":
                    put(f"soup_{name}", whole[1:2], (j,), value)
    names = ("other", "way", "t")
    variables: dict[str, Any] = {}
    for name, values in rows.items():
        long_name, units = _NAMES[name]
        dimensions = ("way",) if values.ndim == 1 else names[: values.ndim]
        variables[name] = (dimensions, values, {"long_name": long_name, "units": units})
    for name, facts in matches.items():
        if facts:
            variables[name] = (("other",), np.array(facts), {"long_name": name.replace("_", " "), "units": "1"})
    return xarray.Dataset(
        variables,
        {"other": others, "way": list(ways), "t": shares},
        attrs={"parameters": objective.size, "images": objective.images},
    )


def _numbers(cell: Arrays) -> dict[str, float]:
    """Loss and accuracy of a cell with their errors over the choice of examples."""
    losses = cell["losses"].astype(np.float64)
    count = len(losses)
    mean, l2 = cell["cross_entropy"].item(), cell["l2"].item()
    found = {
        "loss": mean + l2,
        "cross_entropy": mean,
        "cross_entropy_stderr": float(losses.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan,
    }
    for name in ("accuracy", "accuracy_stderr"):
        if name in cell:
            found[name] = cell[name].item()
    return found
