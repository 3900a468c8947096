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
        made = plotting.figure(2.9 * len(metrics), 5.8)
        rows = made.add_gridspec(2, 1)
        above, below = made.add_subfigure(rows[0]), made.add_subfigure(rows[1])
        for axes, name in zip(above.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            size_curve(axes, results, name)
        above.legend(*above.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(results), 3))
        calibration, confidence = below.subplots(1, 2)
        reliability(calibration, results)
        histogram(confidence, results)
        # Below, where no bar can lie under it.
        below.legend(*confidence.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(results), 3))
    if path is not None:
        plotting.save(made, path, {"results": [_source(result) for result in results]})
    return made


def size_curve(axes: Axes, results: Sequence[xarray.Dataset], name: str) -> None:
    """One metric against ensemble size, on a log axis.

    Dark band: standard deviation over choices of passes. Light band: 95 % over images and passes together. A network
    with one pass is a level line.
    """
    metric = METRICS[name]
    factor, unit = (100.0, "%") if metric.unit == "1" else (1.0, metric.unit)
    largest = max(int(result["size"].max()) for result in results)
    for place, result in enumerate(results):
        color, marker = _look(place)
        sizes = result["size"].values
        curve = {part: factor * result[f"{name}{part}"].values for part in ("", "_spread", "_low", "_high")}
        label = plotting.name_of(result, place)
        if len(sizes) == 1:
            axes.axhline(curve[""][0], color=color, linestyle="--", label=label)
            axes.axhspan(curve["_low"][0], curve["_high"][0], color=color, alpha=0.1, linewidth=0)
            continue
        axes.fill_between(sizes, curve["_low"], curve["_high"], color=color, alpha=0.1, linewidth=0)
        axes.fill_between(
            sizes, curve[""] - curve["_spread"], curve[""] + curve["_spread"], color=color, alpha=0.3, linewidth=0
        )
        axes.plot(sizes, curve[""], marker=marker, markersize=4, color=color, label=label)
    axes.set_xscale("log")
    ticks = [size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500) if size <= max(largest, 2)]
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("ensemble size $N$")
    axes.set_ylabel(f"{metric.label} ({unit})")


def reliability(axes: Axes, results: Sequence[xarray.Dataset], *, size: int | None = None) -> None:
    """Accuracy against mean confidence in each bin, of ensembles of `size` (default: the largest of each result)."""
    axes.plot([0, 100], [0, 100], color="0.5", linestyle=":", linewidth=1)
    for place, result in enumerate(results):
        color, marker = _look(place)
        bins = _bins(result, size)
        axes.plot(
            100 * bins["bin_confidence"].values,
            100 * bins["bin_accuracy"].values,
            marker=marker,
            markersize=4,
            color=color,
            clip_on=False,
            label=f"{result.attrs.get('name', '')} (N = {int(bins['size'])})",
        )
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence (%)", ylabel="accuracy (%)")
    axes.set_title("reliability: below the diagonal is overconfident")


def histogram(axes: Axes, results: Sequence[xarray.Dataset], *, size: int | None = None) -> None:
    """Share of predictions in each bin of confidence, of ensembles of `size` (default: the largest of each result)."""
    width = 10 / (len(results) + 0.5)
    for place, result in enumerate(results):
        bins = _bins(result, size)
        left = 100 * bins["bin"].values - 5 + (place + 0.25) * width
        axes.bar(
            left,
            100 * bins["bin_share"].values,
            width,
            align="edge",
            color=_look(place)[0],
            label=f"{result.attrs.get('name', '')} (N = {int(bins['size'])})",
        )
    axes.set(xlim=(0, 100), xlabel="confidence (%)", ylabel="predictions (%)")
    axes.set_title("confidence")


def _bins(result: xarray.Dataset, size: int | None) -> xarray.Dataset:
    return result.sel(size=int(np.max(result["size"])) if size is None else size)


def _look(place: int) -> tuple[str, str]:
    return plotting.COLORS[place % len(plotting.COLORS)], plotting.MARKERS[place % len(plotting.MARKERS)]


def _source(result: xarray.Dataset) -> dict[str, str]:
    names = ("name", "key", "protocol_hash", "checkpoint_sha256", "images_sha256")
    return {name: str(result.attrs[name]) for name in names if name in result.attrs}
