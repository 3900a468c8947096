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
from landscape.connectivity.alignment import NothingToPermuteError, align
from landscape.connectivity.choices import PARTS, STEPS, USUAL, Part
from landscape.errors import LandscapeError, require_parts
from landscape.metrics import confidence
from landscape.objective import Objective
from landscape.objective.network import unwrapped
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, pieces
from landscape.store.vocabulary import described
from landscape.surface.cells import Cells
from landscape.surface.directions import Directions, point_of

# Examples on which the permuted network is compared with the one it was.
_COMPARED = 8
_WORDS = {
    "loss": ("regularised loss", "nats"),
    "cross_entropy": ("mean loss over examples", "nats"),
    "height": ("mean loss above the straight line between those of both ends", "nats"),
    "barrier": ("largest height", "nats"),
    "barrier_at": ("step along the way at which the height is largest", "1"),
    "distance": ("Euclidean distance of the ends", "1"),
    "t": ("step along the way, 0 at the first network and 1 at the other", "1"),
    "soup_cross_entropy": ("mean loss of the mean network", "nats"),
    "soup_accuracy": ("accuracy of the mean network", "1"),
}
Ends = dict[tuple[str, str], Tensor]
# What is measured, by key: the length of the step along each vector.
Steps = dict[str, dict[int, float]]


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
        (:func:`landscape.connectivity.align`); left out, beside other parts, where no channel can be permuted.
        ``curve``: trained (:func:`landscape.connectivity.bend`).
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
        ``_high`` (95 %, of each example's own height). Over ``other`` and ``way``: ``barrier`` with the same, its upper
        end the highest of the way, ``barrier_at``, ``distance`` of the ends. Over ``way``: ``soup_cross_entropy`` and
        ``soup_accuracy`` of the equal mean of all networks (Wortsman et al. 2022, arXiv 2203.05482), not for curves.

    Raises
    ------
    LandscapeError
        For unknown parts, too few points, networks of different kinds, and those that cannot be aligned, if that is all
        that is asked for or something in them acts on channels unseen.

    Examples
    --------
    >>> import landscape
    >>> one, other = (landscape.build("resnet_dnn_18", num_classes=10, width=2) for _ in range(2))
    >>> protocol = landscape.Protocol(images=16, batch_norm="recalibrated")
    >>> objective = landscape.Objective(one, landscape.data.load("digits", "train"), protocol=protocol)
    >>> result = connect(objective, one, {"other": other}, parts=["line"], points=3)
    >>> result["t"].values.tolist(), float(result["height"].sel(t=0).item())
    ([0.0, 0.5, 1.0], 0.0)
    """
    require_parts(parts, PARTS)
    if points < 3:
        raise LandscapeError(f"{points} points leave nothing between two networks: give 3 or more")
    if not objective.classifies:
        raise LandscapeError(
            "connectivity measures loss and accuracy of classifiers, one class per example: for a line between "
            "networks of other kinds give landscape.surface"
        )
    if not others:
        raise LandscapeError("there is one network only: give another to go to")

    def bent(name: str, end: Tensor) -> Tensor:
        if training is None:
            raise LandscapeError("a curve needs an objective to be trained with: give training")
        key = f"curve/{name}"
        return curve.bend(
            training(),
            end,
            steps=curve_steps,
            learning_rate=curve_rate,
            seed=seed,
            journal=journal,
            key=key,
            quiet=quiet,
        )

    try:
        ends, matches = _ends(objective, model, others, parts, seed)
    except NothingToPermuteError:
        parts = [part for part in parts if part != "aligned"]
        if not parts:
            raise
        ends, matches = _ends(objective, model, others, parts, seed)
    times = np.linspace(0, 1, points)
    vectors, steps = _steps(objective.point.double(), list(others), parts, ends, times, bent)
    cells = _cells(objective, vectors.to(objective.point), steps, journal, quiet)
    dataset = _dataset(objective, list(others), parts, times, cells, ends)
    return described(dataset.assign({name: ("other", values) for name, values in matches.items()}), _WORDS)


def _ends(
    objective: Objective, model: nn.Module, others: Mapping[str, nn.Module], parts: Sequence[Part], seed: int
) -> tuple[Ends, dict[str, list[float]]]:
    """Where each way leads, by network and way, and how well channels match, by network."""
    start = objective.point.double()
    ends: Ends = {}
    matches: dict[str, list[float]] = {}
    for name, other in others.items():
        straight = point_of(objective, dict(unwrapped(other).named_parameters()), name)
        ends |= {(name, part): straight for part in parts}
        if "aligned" not in parts:
            continue
        alignment = align(model, other, objective.batch(0, min(_COMPARED, objective.images)), seed=seed)
        aligned = ends[name, "aligned"] = point_of(objective, dict(alignment.network.named_parameters()), name)
        scale = float(start.norm() * straight.norm())
        for fact, value in (
            ("weight_match_before", float(start @ straight) / scale),
            ("weight_match_after", float(start @ aligned) / scale),
            ("function_deviation", alignment.deviation),
        ):
            matches.setdefault(fact, []).append(value)
    return ends, matches


def _steps(
    start: Tensor,
    others: Sequence[str],
    parts: Sequence[Part],
    ends: Ends,
    times: np.ndarray,
    bent: Callable[[str, Tensor], Tensor],
) -> tuple[Tensor, Steps]:
    """Vectors (k, P) from the first network, and the steps along them to every point that is measured."""
    vectors: list[Tensor] = []
    steps: Steps = {}

    def axis(vector: Tensor) -> int:
        vectors.append(vector)
        return len(vectors) - 1

    for name in others:
        for part in parts:
            to = axis(ends[name, part] - start)
            if part == "curve":
                bend = axis(bent(name, ends[name, part]) - start)
                along = [dict(zip((to, bend), curve.coordinates(float(time)), strict=True)) for time in times]
            else:
                along = [{to: float(time)} for time in times]
            steps |= {f"{name}/{part}/{number}": step for number, step in enumerate(along)}
    for part in parts:
        if part != "curve":
            mean = torch.stack([ends[name, part] - start for name in others]).sum(0) / (len(others) + 1)
            steps[f"soup/{part}"] = {axis(mean): 1.0}
    return torch.stack(vectors), steps


def _cells(
    objective: Objective, vectors: Tensor, steps: Steps, journal: Journal | None, quiet: bool
) -> dict[str, Arrays]:
    """What is measured at each point, with the losses of single examples."""
    cells = Cells(objective, Directions(vectors, kind="connectivity"), keep_losses=True)
    nothing = torch.zeros(objective.images, 1, dtype=torch.float64, device=objective.device)
    numbers = {key: number for number, key in enumerate(steps)}

    def compute(key: str) -> Arrays:
        coordinates = [steps[key].get(axis, 0.0) for axis in range(len(vectors))]
        return cells.measure(coordinates, number=numbers[key], controls=nothing)

    return dict(pieces(list(steps), compute, journal=journal, what="between", unit="point", quiet=quiet))


def _dataset(
    objective: Objective,
    others: Sequence[str],
    parts: Sequence[Part],
    times: np.ndarray,
    cells: Mapping[str, Arrays],
    ends: Ends,
) -> xarray.Dataset:
    rows: list[list[dict[str, Any]]] = [
        [
            _way([cells[f"{other}/{part}/{number}"] for number in range(len(times))], times)
            | {"distance": float((ends[other, part] - objective.point.double()).norm())}
            for part in parts
        ]
        for other in others
    ]
    variables: dict[str, Any] = {}
    for name in rows[0][0]:
        values = np.array([[row[name] for row in each] for each in rows])
        variables[name] = (("other", "way", "t")[: values.ndim], values)
    soups = [_numbers(cells[f"soup/{part}"], loss=False) if f"soup/{part}" in cells else {} for part in parts]
    for name in max(soups, key=len):
        variables[f"soup_{name}"] = ("way", [soup.get(name, math.nan) for soup in soups])
    coordinates = {"other": list(others), "way": list(parts), "t": times}
    facts = {"parameters": objective.size, "images": objective.images}
    return xarray.Dataset(variables, coordinates, attrs=facts)


def _way(cells: Sequence[Arrays], times: np.ndarray) -> dict[str, Any]:
    """Numbers over one way, and its barrier."""
    numbers = [_numbers(cell) for cell in cells]
    losses = np.stack([cell["losses"].astype(np.float64) for cell in cells])
    heights = losses - ((1 - times)[:, None] * losses[0] + times[:, None] * losses[-1])
    low, high = confidence.of_mean(heights)
    error = confidence.standard_error(heights)
    above = {"height": heights.mean(1), "height_stderr": error, "height_low": low, "height_high": high}
    # At the ends there is nothing above the line.
    for values in above.values():
        values[[0, -1]] = 0.0
    top = int(np.nanargmax(above["height"])) if np.isfinite(above["height"]).any() else 0
    barrier = {name.replace("height", "barrier"): values[top] for name, values in above.items()}
    # The highest point on these examples need not be the highest on all: another may be as high as its own interval.
    barrier["barrier_high"] = high.max()
    return (
        {name: [each[name] for each in numbers] for name in numbers[0]} | above | barrier | {"barrier_at": times[top]}
    )


def _numbers(cell: Arrays, *, loss: bool = True) -> dict[str, float]:
    """Loss and accuracy of a cell with their errors over the choice of examples; `loss`: the regularised one, too."""
    losses = cell["losses"].astype(np.float64)
    mean = cell["cross_entropy"].item()
    numbers = {"loss": mean + cell["l2"].item()} if loss else {}
    numbers |= {
        "cross_entropy": mean,
        "cross_entropy_stderr": float(confidence.standard_error(losses)),
    }
    return numbers | {name: cell[name].item() for name in ("accuracy", "accuracy_stderr") if name in cell}
