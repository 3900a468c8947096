"""Curvature along a training, plain and smooth, and how they differ."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.protocol_sweep import interval
from figures.sources import Drawing, Entry
from landscape import plotting
from landscape.series.picture import QUANTITIES, over_time, time_axis

STUDY = "training_curvature"
PANELS = ("eigenvalue", "trace", "loss")
COMPARED = {"eigenvalue": "o-", "trace": "s:"}
SMOOTH = "-smooth"


def draw(drawing: Drawing) -> Figure:
    """Largest eigenvalue, trace and loss against epochs, means over trainings with bands; and smooth over plain."""
    groups = drawing.groups("series")
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 4.6)
        panels = figure.subplots(2, 2).ravel()
        for axes, name in zip(panels, PANELS, strict=False):
            over_time(axes, groups, QUANTITIES[name])
        _ratios(panels[-1], drawing.of("series"))
        plotting.letter(panels.tolist())
        counts = ", ".join(f"{group.label}: n = {len(group.results)}" for group in groups)
        title = f"{counts}\n{drawing.explained('series', 'bands: bound of the solve (a), 95 % (b)')}"
        plotting.below(figure, panels[0], columns=len(groups), title=title)
    return figure


def ratios(entries: Sequence[Entry], name: str) -> dict[int, list[float]]:
    """Logarithms of smooth over plain by time, one per pair of trainings; left out where a value is not positive."""
    at: dict[tuple[str, int, int], float] = {}
    for entry in entries:
        for time, value in zip(entry.dataset["time"].values, QUANTITIES[name].of(entry.dataset), strict=True):
            at[entry.kind, entry.seed, int(time)] = float(value)
    logarithms: dict[int, list[float]] = {}
    for (kind, seed, time), value in at.items():
        plain = at.get((kind.removesuffix(SMOOTH), seed, time), math.nan)
        if kind.endswith(SMOOTH) and value > 0 and plain > 0:
            logarithms.setdefault(time, []).append(math.log(value / plain))
    return dict(sorted(logarithms.items()))


def _ratios(axes: Axes, entries: Sequence[Entry]) -> None:
    """Geometric means over pairs, with 95 % intervals from three pairs on."""
    for name, look in COMPARED.items():
        logarithms = ratios(entries, name)
        times = np.array([*logarithms])
        if len(times):
            middle, low, high = np.exp(np.array([interval(each) for each in logarithms.values()]).T)
            label = QUANTITIES[name].label.removesuffix(" (nats)")
            fill = plotting.ink() if look.endswith("-") else plotting.page()
            axes.plot(times, middle, look, color=plotting.ink(), markerfacecolor=fill, label=label)
            known = np.isfinite(high)
            axes.fill_between(times[known], low[known], high[known], color=plotting.ink(), alpha=0.15, linewidth=0)
    axes.axhline(1, color=plotting.ink(), linewidth=0.8)
    time_axis(axes, np.unique(np.concatenate([entry.dataset["time"].values for entry in entries])))
    plotting.log_scale(axes, "y")
    axes.legend(loc="best")
    axes.set_title("smooth / plain, paired; bands: 95 %")
