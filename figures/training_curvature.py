"""Curvature along a training, plain and smooth."""

from collections.abc import Callable

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from figures.sources import Drawing
from landscape import plotting
from landscape.metrics.confidence import Z

STUDY = "training_curvature"
# Variable, label, half the width of the 95 % band of one training.
PANELS: tuple[tuple[str, str, Callable[[xarray.Dataset], np.ndarray]], ...] = (
    ("eigenvalue", "largest eigenvalue (nats)", lambda result: result["residual"].values[:, 0]),
    ("trace", "trace (nats)", lambda result: Z * result["trace_stderr"].values),
    ("loss", "regularised loss (nats)", lambda result: np.zeros(result.sizes["time"])),
)
# Panels whose mean is geometric.
POSITIVE = ("eigenvalue", "loss")


def draw(drawing: Drawing) -> Figure:
    """Largest eigenvalue, trace and loss against epochs: the mean over trainings, its band, each training thin."""
    groups = drawing.groups("series")
    with plotting.style():
        made = plotting.figure(plotting.TWO_COLUMNS, 2.7)
        panels = made.subplots(1, len(PANELS))
        for axes, (name, label, error) in zip(panels, PANELS, strict=True):
            for group in groups:
                _curves(axes, group, name, error)
            axes.set_xscale("log")
            # Early in training a trace may be negative.
            axes.set_yscale("log" if name in POSITIVE else "symlog", **({} if name in POSITIVE else {"linthresh": 100}))
            axes.set_xlabel("epoch")
            axes.set_title(label)
            epochs = sorted({int(time) for group in groups for one in group.results for time in one["time"].values})
            axes.set_xticks(_apart(epochs), [str(epoch) for epoch in _apart(epochs)])
            axes.minorticks_off()
            axes.yaxis.set_major_formatter("{x:g}")
        plotting.letter(panels)
        counts = ", ".join(f"{group.label}: n = {len(group.results)}" for group in groups)
        title = f"{counts}; {drawing.explained('series', 'bands: bound of the solve (a), 95 % (b)')}"
        plotting.below(made, panels[0], columns=len(groups), title=title)
    return made


def _curves(axes: Axes, group: plotting.Group, name: str, error: Callable[[xarray.Dataset], np.ndarray]) -> None:
    """One kind of network; trainings that are not finished count as far as they have come."""
    if len(group.results) == 1:
        (result,) = group.results
        plotting.curve(
            axes, group, result["time"].values, [_values(result, name)], [error(result)], marker=group.marker
        )
        return
    epochs = np.unique(np.concatenate([result["time"].values for result in group.results]))
    stacked = np.full((len(group.results), len(epochs)), np.nan)
    for row, result in zip(stacked, group.results, strict=True):
        row[np.searchsorted(epochs, result["time"].values)] = _values(result, name)
        there = np.isfinite(row)
        axes.plot(epochs[there], row[there], color=group.color, linewidth=0.4, alpha=0.6)
    # What spans orders of magnitude is averaged as it is drawn: in logarithms.
    positive = name in POSITIVE
    scaled = np.log(stacked) if positive else stacked
    count, mean = np.isfinite(scaled).sum(0), np.nanmean(scaled, 0)
    back: Callable[[np.ndarray], np.ndarray] = np.exp if positive else np.asarray
    axes.plot(epochs, back(mean), color=group.color, marker=group.marker, label=group.label)
    several = count > 2
    if several.any():
        spread = np.nanstd(scaled[:, several], 0, ddof=1)
        half = stdtrit(count[several] - 1, 0.975) * spread / np.sqrt(count[several])
        low, high = back(mean[several] - half), back(mean[several] + half)
        axes.fill_between(epochs[several], low, high, color=group.color, alpha=0.18, linewidth=0)


def _apart(epochs: list[int], factor: float = 1.3) -> list[int]:
    """Epochs whose labels have room beside each other on a logarithmic axis, the last one among them."""
    chosen = epochs[-1:]
    for epoch in reversed(epochs):
        if epoch * factor < chosen[0]:
            chosen.insert(0, epoch)
    return chosen


def _values(result: xarray.Dataset, name: str) -> np.ndarray:
    values: np.ndarray = result[name].values
    return values[:, 0] if values.ndim == 2 else values
