"""Pictures of predictions: metrics against ensemble size, reliability diagrams, confidence histograms."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape import plotting
from landscape.metrics import METRICS

SHOWN = ("nll", "accuracy", "ece")
# Predictions that a bin of the reliability diagram needs: the standard error of its accuracy is then below 0.12.
FEWEST = 20


def draw(results: Sequence[xarray.Dataset], path: Path | None = None, *, metrics: Sequence[str] = SHOWN) -> Figure:
    """Ensemble-size curves above, reliability diagrams and confidence histograms of the largest ensembles below.

    Parameters
    ----------
    results
        What `curves` gives, one for each network.
    path
        Where to save the picture (.pdf, .png, .svg).
    metrics
        Names of the metrics above.
    """
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 4.9)
        rows = figure.add_gridspec(2, 1)
        above, below = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
        curves = above.subplots(1, len(metrics), squeeze=False)[0]
        for axes, name in zip(curves, metrics, strict=True):
            size_curve(axes, results, name)
        calibration, confidence = below.subplots(1, 2)
        reliability(calibration, results)
        histogram(confidence, results)
        plotting.letter([*curves, calibration, confidence])
        plotting.below(above, curves[0], title=plotting.explained(results, "bands: 95 % over images and passes"))
        # Below, where no bar can lie under it.
        plotting.below(below, confidence)
    return plotting.finished(figure, path, results)


def size_curve(axes: Axes, results: Sequence[xarray.Dataset], name: str) -> None:
    """One metric against ensemble size, on a log axis, with its 95 % band over images and passes.

    A network with one pass is a level line.
    """
    metric = METRICS[name]
    factor, unit = (100.0, "%") if metric.unit == "1" else (1.0, metric.unit)
    largest = max(int(result["size"].max()) for result in results)
    for group in plotting.groups_over(results, "size"):
        sizes = group.results[0]["size"].values
        alone = len(sizes) == 1

        def of(result: xarray.Dataset, part: str = "", *, alone: bool = alone) -> np.ndarray:
            values: np.ndarray = factor * result[f"{name}{part}"].values
            return np.repeat(values, 2) if alone else values

        plotting.curve(
            axes,
            group,
            np.array([1, max(largest, 2)]) if alone else sizes,
            [of(result) for result in group.results],
            [(of(result, "_low"), of(result, "_high")) for result in group.results],
            label=f"{group.label} (one pass)" if alone else None,
            dashes="--" if alone else "-",
            marker=None if alone else group.marker,
        )
    axes.set_xscale("log")
    ticks = [size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500) if size <= max(largest, 2)]
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("ensemble size $N$")
    axes.set_ylabel(f"{metric.label} ({unit})")


def reliability(axes: Axes, results: Sequence[xarray.Dataset]) -> None:
    """Accuracy against mean confidence in each bin, of the largest ensemble of each result.

    Bins with fewer than `FEWEST` predictions are left out: their accuracy is chance.
    """
    axes.plot([0, 100], [0, 100], color=plotting.PUBLISHED, linestyle=":", linewidth=1)
    for result, look in zip(results, plotting.labels(results), strict=True):
        bins = result.sel(size=result["size"].max())
        predictions = float(result.attrs.get("terms", result.attrs.get("images", np.inf)))
        enough = bins["bin_share"].values * predictions >= FEWEST
        axes.plot(
            100 * bins["bin_confidence"].values[enough],
            100 * bins["bin_accuracy"].values[enough],
            marker=look.marker,
            color=look.color,
            clip_on=False,
        )
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence (%)", ylabel="accuracy (%)")
    axes.set_title(f"reliability (bins of {FEWEST} and more)")
    axes.text(97, 4, "overconfident", ha="right", fontsize="small", color=plotting.PUBLISHED)
    axes.text(3, 90, "underconfident", fontsize="small", color=plotting.PUBLISHED)


def histogram(axes: Axes, results: Sequence[xarray.Dataset]) -> None:
    """Share of predictions in each bin of confidence, of the largest ensemble of each result."""
    width = 10 / (len(results) + 0.5)
    for index, (result, look) in enumerate(zip(results, plotting.labels(results), strict=True)):
        bins = result.sel(size=result["size"].max())
        left = 100 * bins["bin"].values - 5 + (index + 0.25) * width
        axes.bar(
            left,
            100 * bins["bin_share"].values,
            width,
            align="edge",
            color=look.color,
            label=f"{look.label} (N = {int(bins['size'])})",
        )
    axes.set(xlim=(0, 100), xlabel="confidence (%)", ylabel="predictions (%)")
    axes.set_title("confidence")
