"""Pictures of feature maps and of their uncertainty by depth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape import plotting
from landscape.metrics.confidence import Z

# What is in the uncertainty picture: variable, title.
PANELS = {
    "model_std": "model uncertainty: std over masks",
    "relative_model_std": "relative to the map's r.m.s.",
    "data_std": "data uncertainty: std over positions",
}


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Uncertainty against normalised depth, one line a network, bands of 95 % over images.

    Smoothing layers are open marks; where a map was subsampled is grey.

    Parameters
    ----------
    results
        What `landscape.feature_maps.measure` gives.
    path
        Where to save the picture (.pdf, .png, .svg).
    """
    with plotting.style():
        made = plotting.figure(9.6, 3.2)
        for place, (name, title) in enumerate(PANELS.items()):
            axes = made.add_subplot(1, len(PANELS), place + 1)
            curves(axes, results, name)
            axes.set_ylim(bottom=0)
            axes.set_title(title)
            axes.set_xlabel("normalised depth")
        made.axes[0].set_ylabel("feature-map units")
        made.axes[1].set_ylabel("share of r.m.s.")
        made.axes[2].set_ylabel("feature-map units")
        made.axes[0].legend()
    return _saved(made, results, path)


def curves(axes: Axes, results: Sequence[xarray.Dataset], name: str) -> None:
    """A quantity over ``point`` with its standard error, against depth, for each network."""
    for place, result in enumerate(results):
        color = plotting.COLORS[place % len(plotting.COLORS)]
        depth, value, stderr = (result[key].values for key in ("depth", name, f"{name}_stderr"))
        label = plotting.name_of(result, place)
        axes.fill_between(depth, value - Z * stderr, value + Z * stderr, color=color, alpha=0.2, linewidth=0)
        axes.plot(depth, value, color=color, label=label)
        smoothing = result["kind"].values == "smoothing"
        marker = plotting.MARKERS[place % len(plotting.MARKERS)]
        axes.plot(depth[~smoothing], value[~smoothing], marker, color=color, markersize=4)
        axes.plot(depth[smoothing], value[smoothing], marker, color=color, markersize=5, markerfacecolor="white")
    shade(axes, results[0])


def shade(axes: Axes, result: xarray.Dataset) -> None:
    """Grey between the point before a subsampling and the one behind."""
    depth, subsampled = result["depth"].values, result["subsampled"].values
    for place in np.flatnonzero(subsampled):
        if place:
            axes.axvspan(depth[place - 1], depth[place], color="0.92", zorder=-1, linewidth=0)


def draw_maps(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Maps of one image: a row for each stage, for each network the passes, their mean and their standard deviation.

    Parameters
    ----------
    results
        What `landscape.feature_maps.maps.measure` gives.
    path
        Where to save the picture (.pdf, .png, .svg).
    """
    stages = max(result.sizes["stage"] for result in results)
    columns = [result.sizes["pass"] + 2 for result in results]
    with plotting.style():
        made = plotting.figure(1.05 * sum(columns) + 0.4, 1.15 * stages + 0.5)
        parts = made.subfigures(1, len(results), width_ratios=columns, squeeze=False)[0]
        for part, result, count in zip(parts, results, columns, strict=True):
            part.suptitle(f"{result.attrs.get('name', 'network')}, image {result.attrs['image']}", fontsize=9)
            for stage in range(result.sizes["stage"]):
                shown = [*result[f"pass_{stage}"].values, result[f"mean_{stage}"].values]
                low, high = min(grid.min() for grid in shown), max(grid.max() for grid in shown)
                titles = [f"pass {number + 1}" for number in range(count - 2)] + ["mean"]
                for column, (grid, title) in enumerate(zip(shown, titles, strict=True)):
                    axes = part.add_subplot(stages, count, stage * count + column + 1)
                    _image(axes, grid, title if stage == 0 else "", vmin=low, vmax=high, cmap=plotting.SEQUENTIAL)
                    if column == 0:
                        axes.set_ylabel(plotting.plain(result["point"].values[stage]), fontsize=7)
                std = result[f"std_{stage}"].values
                axes = part.add_subplot(stages, count, (stage + 1) * count)
                # On the scale of the maps' own range, so that rows and networks can be compared by eye.
                _image(axes, std, "std" if stage == 0 else "", vmin=0, vmax=(high - low) / 4, cmap="magma")
    return _saved(made, results, path)


def _image(axes: Axes, grid: np.ndarray, title: str, **arguments: Any) -> None:
    axes.imshow(grid, interpolation="nearest", **arguments)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.set_title(title, fontsize=8)


def _saved(made: Figure, results: Sequence[xarray.Dataset], path: Path | None) -> Figure:
    if path is not None:
        plotting.save(made, path, {"results": [dict(result.attrs) for result in results]})
    return made
