"""Picture of series: one panel per quantity, trainings of a kind in one colour, their mean and each of them thin."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from landscape import plotting
from landscape.metrics.confidence import Z
from landscape.store.vocabulary import with_unit


@dataclass(frozen=True)
class Quantity:
    """A variable over time.

    Attributes
    ----------
    name, label
        The variable, and the panel's title.
    half_width
        Half the width of the band of one training.
    positive
        Whether it spans orders of magnitude: drawn, and averaged, in logarithms where all of it is positive.
    linear
        On a symmetric-logarithmic axis, for values of which some are ten times the usual ones, what is drawn linearly.
    """

    name: str
    label: str
    half_width: Callable[[xarray.Dataset], np.ndarray] = lambda result: np.zeros(result.sizes["time"])
    positive: bool = False
    linear: float | None = None

    def of(self, result: xarray.Dataset) -> np.ndarray:
        """(time,) values; of several eigenvalues, the leading one."""
        values: np.ndarray = result[self.name].values
        return values[:, 0] if values.ndim == 2 else values


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("loss", "regularised loss (nats)", positive=True),
        Quantity("accuracy", "accuracy"),
        Quantity("eigenvalue", "largest eigenvalue (nats)", lambda result: result["residual"].values[:, 0], True),
        Quantity(
            "smallest_eigenvalue",
            "smallest eigenvalue (nats)",
            lambda result: result["smallest_residual"].values.reshape(result.sizes["time"], -1)[:, 0],
        ),
        # Early in training a trace may be negative.
        Quantity("trace", "trace (nats)", lambda result: Z * result["trace_stderr"].values, linear=100.0),
        Quantity("barrier", "barrier to the next (nats)"),
    )
}
PATH = "path"


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Draw what was measured over time, and the trajectories in their principal planes."""
    groups = plotting.groups([result.assign_attrs(name=result.attrs.get("series", "")) for result in results])
    names = [name for name in (*QUANTITIES, PATH) if any(name in result for result in results)]
    rows = math.ceil(len(names) / 3)
    columns = math.ceil(len(names) / rows)
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS * max(columns, 2) / 3, 1.9 * rows + 0.6)
        panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        for spare in panels[len(names) :]:
            spare.set_axis_off()
        for axes, name in zip(panels, names, strict=False):
            if name == PATH:
                _trajectories(axes, groups)
            else:
                over_time(axes, groups, QUANTITIES[name])
        plotting.letter(list(panels[: len(names)]))
        title = plotting.seeds_explained([len(group.results) for group in groups], "")
        plotting.below(figure, panels[0], columns=min(len(groups), 3), title=title or None)
    return plotting.finished(figure, path, results)


def over_time(axes: Axes, groups: Sequence[plotting.Group], quantity: Quantity) -> None:
    """One quantity along the trainings: the mean of each kind, its band from three trainings on, each one thin."""
    shown = [(group, [result for result in group.results if quantity.name in result]) for group in groups]
    drawn = [quantity.of(result) for _, some in shown for result in some]
    positive = quantity.positive and all(bool((values[np.isfinite(values)] > 0).all()) for values in drawn)
    for group, some in shown:
        if len(some) == 1:
            (result,) = some
            values, half = quantity.of(result), quantity.half_width(result)
            plotting.curve(axes, group, result["time"].values, [values], [half], marker=group.marker)
        elif some:
            _mean(axes, group, [(result["time"].values, quantity.of(result)) for result in some], in_logs=positive)
    times = np.unique(np.concatenate([result["time"].values for _, some in shown for result in some]))
    time_axis(axes, times)
    if positive:
        plotting.log_scale(axes, "y")
    elif quantity.linear is not None:
        # Linear where most values are, so that a wild start leaves them room.
        sizes = np.abs(np.concatenate(drawn))
        linear = max(quantity.linear, float(np.nanmedian(sizes)))
        if np.nanmax(sizes) > 10 * linear:
            axes.set_yscale("symlog", linthresh=linear)
            axes.set_yticks([tick for tick in axes.get_yticks() if tick == 0 or abs(tick) > linear / 2])
            axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    results = [result for _, some in shown for result in some]
    axes.set_title(quantity.label if with_unit("", results) else quantity.label.replace(" (nats)", ""))


def time_axis(axes: Axes, times: np.ndarray) -> None:
    """Epochs; where they span much, by their square root: a training changes fast at first, and its end needs room."""
    if times.min() >= 0 and times.max() >= 20 * max(times.min(), 1):
        axes.set_xscale("function", functions=(lambda time: np.sqrt(np.maximum(time, 0)), np.square))
        ticks = _apart([int(time) for time in times])
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("epoch")


def _mean(axes: Axes, group: plotting.Group, curves: Sequence[tuple[np.ndarray, np.ndarray]], *, in_logs: bool) -> None:
    """Of trainings of a kind; those that are not finished count as far as they have come."""
    epochs = np.unique(np.concatenate([times for times, _ in curves]))
    stacked = np.full((len(curves), len(epochs)), np.nan)
    for row, (times, values) in zip(stacked, curves, strict=True):
        row[np.searchsorted(epochs, times)] = values
        there = np.isfinite(row)
        axes.plot(epochs[there], row[there], color=group.color, linewidth=0.4, alpha=0.6)
    scaled = np.log(stacked) if in_logs else stacked
    count, mean = np.isfinite(scaled).sum(0), np.nanmean(scaled, 0)
    back: Callable[[np.ndarray], np.ndarray] = np.exp if in_logs else np.asarray
    axes.plot(epochs, back(mean), color=group.color, marker=group.marker, label=group.label)
    several = count > 2
    if several.any():
        spread = np.nanstd(scaled[:, several], 0, ddof=1)
        half = stdtrit(count[several] - 1, 0.975) * spread / np.sqrt(count[several])
        low, high = back(mean[several] - half), back(mean[several] + half)
        axes.fill_between(epochs[several], low, high, color=group.color, alpha=0.18, linewidth=0)


def _apart(epochs: list[int], share: float = 0.13) -> list[int]:
    """Epochs whose labels have room beside each other on an axis of square roots, the last one among them."""
    ticks = [epochs[-1]]
    for epoch in reversed(epochs[:-1]):
        if ticks[-1] ** 0.5 - epoch**0.5 >= share * epochs[-1] ** 0.5:
            ticks.append(epoch)
    return ticks[::-1]


def _trajectories(axes: Axes, groups: Sequence[plotting.Group]) -> None:
    for group in groups:
        for index, result in enumerate(group.results):
            places, times = result[PATH].values, result["time"].values
            axes.plot(*places.T, marker="o", markersize=2, color=group.color, label=None if index else group.label)
            for place in (0, len(times) - 1):
                axes.annotate(str(times[place]), places[place], textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second")
    axes.set_title("trajectory")
