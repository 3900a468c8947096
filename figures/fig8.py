"""Hessian max-eigenvalue spectra, as distribution and as density (C1, C2)."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.sources import Drawing
from landscape import plotting

STUDY = "hessian_spectra"


def draw(drawing: Drawing) -> Figure:
    """Share of mini-batches whose largest eigenvalue is above a value; density of the eigenvalues, outliers below."""
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 3.1)
        left, right = figure.subplots(1, 2, sharex=True)
        for row, group in enumerate(drawing.groups("mini_batches")):
            largest = [np.sort(result["eigenvalue"].values[:, 0]) for result in group.results]
            _above(left, group, largest)
            _density(right, group, largest, -0.045 - 0.05 * row)
        whole = {group.label: group for group in drawing.groups("hessian")}
        for row, group in enumerate(whole.values()):
            values = [float(result["eigenvalue"][0]) for result in group.results]
            heights = np.full(len(values), 0.06 + 0.06 * row)
            left.plot(values, heights, "D", color=group.color, markerfacecolor=plotting.page())
        plotting.log_scale(left, "x")
        for axes in (left, right):
            axes.set_xlabel("largest eigenvalue of 16 images (nats)")
        left.set_ylabel("share of mini-batches above")
        right.set_ylabel("density (per factor e)")
        right.set_ylim(bottom=-0.3 * right.get_ylim()[1])
        right.set_yticks([tick for tick in right.get_yticks() if tick >= 0])
        left.set_title("distribution")
        right.set_title("density, mini-batches beyond the 98 % as dots")
        plotting.letter([left, right])
        extra = [plotting.mark("all measured images at once", "D", filled=False)]
        title = drawing.explained("mini_batches", "steps: mini-batches")
        plotting.below(figure, left, title=title, extra=extra)
    return figure


def _above(axes: Axes, group: plotting.Group, largest: list[np.ndarray]) -> None:
    """Each training as a thin step, all mini-batches of the kind together as a thick one."""
    for thin in largest if len(largest) > 1 else ():
        axes.step(thin, 1 - np.arange(len(thin)) / len(thin), where="pre", color=group.color, linewidth=0.4, alpha=0.6)
    pooled = np.sort(np.concatenate(largest))
    axes.step(pooled, 1 - np.arange(len(pooled)) / len(pooled), where="pre", color=group.color, label=group.label)


def _density(axes: Axes, group: plotting.Group, largest: list[np.ndarray], height: float) -> None:
    """Kernel estimates in the logarithm, and what lies beyond the last two per cent as dots in a row of its own."""
    logs = [np.log(values[values > 0]) for values in largest]
    grid = np.linspace(min(each.min() for each in logs) - 0.2, max(each.max() for each in logs) + 0.2, 300)
    # `curve` over the trainings: their mean, its band, and each of them thin.
    heights = [_kernel(each, grid) for each in logs]
    plotting.curve(axes, group, np.exp(grid), heights)
    pooled = np.concatenate(largest)
    outliers = pooled[pooled > np.quantile(pooled, 0.98)]
    transform = axes.get_xaxis_transform()
    axes.plot(
        outliers, np.full(len(outliers), 0.22 + height), ".", color=group.color, transform=transform, clip_on=False
    )


def _kernel(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Gaussian kernel estimate with Silverman's width (1986)."""
    spread = min(float(values.std()), float(np.subtract(*np.quantile(values, [0.75, 0.25]))) / 1.34)
    width = max(0.9 * spread * len(values) ** -0.2, 0.02)
    scaled = (grid[:, None] - values) / width
    height: np.ndarray = np.exp(-(scaled**2) / 2).mean(1) / (width * (2 * np.pi) ** 0.5)
    return height
