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

# Panels of the uncertainty picture: variable, title, unit.
PANELS = {
    "model_std": ("over dropout masks", "standard deviation"),
    "relative_model_std": ("over masks, relative", "share of the map's r.m.s."),
    "data_std": ("over positions", "standard deviation"),
}
DEPTH = "normalised depth"


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Uncertainty against normalised depth, one line per network, bands of 95 % over images.

    Smoothing layers are hollow marks; subsampling is grey. Without dropout there is no uncertainty over masks, and no
    panel for it.

    Parameters
    ----------
    results
        What `landscape.feature_maps.measure` gives.
    path
        Where to save the picture (.pdf, .png, .svg).
    """
    shown = {name: text for name, text in PANELS.items() if any(bool((result[name] > 0).any()) for result in results)}
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS if len(shown) > 1 else plotting.ONE_COLUMN, 2.7)
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, (name, (title, unit)) in zip(panels, shown.items(), strict=True):
            curves(axes, results, name)
            axes.set_ylim(bottom=0)
            axes.set_title(title)
            axes.set_xlabel(DEPTH)
            axes.set_ylabel(unit)
        plotting.letter(panels)
        explain(figure, panels[0], results)
    return plotting.finished(figure, path, results)


def explain(figure: Figure, axes: Axes, results: Sequence[xarray.Dataset]) -> None:
    """The legend, including the meaning of hollow marks and shades."""
    extra = [plotting.mark("block", "o"), plotting.mark("smoothing layer", "o", filled=False)]
    if not any(bool((result["kind"] == "smoothing").any()) for result in results):
        extra = []
    extra.append(plotting.mark("subsampling between two points", "s", color=plotting.SHADE))
    bands = plotting.explained(results, f"bands: 95 % over {results[0].attrs.get('examples', 'images')}")
    plotting.below(figure, axes, columns=3, title=bands, extra=extra)


def scaled_depth(results: Sequence[xarray.Dataset]) -> float:
    """The divisor of depths, the same for all networks, that puts the last layer of the deepest at 1.

    Depth counts blocks: a layer after the last block, such as a smoothing layer, has a depth beyond 1 in results.
    """
    return max(1.0, *(float(result["depth"].max()) for result in results))


def curves(axes: Axes, results: Sequence[xarray.Dataset], name: str) -> None:
    """A quantity over ``point`` with its standard error, against depth, for each kind of network."""
    scale = scaled_depth(results)
    for group in plotting.groups_over(results, "depth"):
        first = group.results[0]
        depth = first["depth"].values / scale
        errors = [Z * result[f"{name}_stderr"].values for result in group.results]
        value = plotting.curve(axes, group, depth, [result[name].values for result in group.results], errors)
        marks(axes, group, depth, value, first["kind"].values == "smoothing")
    shade(axes, results[0], scale)


def marks(axes: Axes, group: plotting.Group, depth: np.ndarray, value: np.ndarray, smoothing: np.ndarray) -> None:
    """Blocks as full marks, smoothing layers as hollow ones."""
    axes.plot(depth[~smoothing], value[~smoothing], group.marker, color=group.color)
    axes.plot(depth[smoothing], value[smoothing], group.marker, color=group.color, markerfacecolor=plotting.page())


def shade(axes: Axes, result: xarray.Dataset, scale: float = 1.0) -> None:
    """Grey between the points before and after a subsampling."""
    depth, subsampled = result["depth"].values / scale, result["subsampled"].values
    for point in np.flatnonzero(subsampled):
        if point:
            axes.axvspan(depth[point - 1], depth[point], color=plotting.SHADE, alpha=0.25, zorder=-1, linewidth=0)


def draw_maps(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Maps of one image, one row per stage: passes, their mean and their standard deviation for each network.

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
        size = (plotting.TWO_COLUMNS - 0.4) / sum(columns)
        figure = plotting.figure(plotting.TWO_COLUMNS, 1.1 * size * stages + 0.5)
        parts = figure.subfigures(1, len(results), width_ratios=columns, squeeze=False)[0]
        for part, result, count, look in zip(parts, results, columns, plotting.labels(results), strict=True):
            part.suptitle(f"{look.label}, image {result.attrs['image']}")
            for stage in range(result.sizes["stage"]):
                shown = [*result[f"pass_{stage}"].values, result[f"mean_{stage}"].values]
                low, high = min(grid.min() for grid in shown), max(grid.max() for grid in shown)
                titles = [f"pass {number + 1}" for number in range(count - 2)] + ["mean"]
                for column, (grid, title) in enumerate(zip(shown, titles, strict=True)):
                    axes = part.add_subplot(stages, count, stage * count + column + 1)
                    _image(axes, grid, title if stage == 0 else "", vmin=low, vmax=high, cmap=plotting.SEQUENTIAL)
                    if column == 0:
                        axes.set_ylabel(plotting.plain(result["point"].values[stage]))
                std = result[f"std_{stage}"].values
                axes = part.add_subplot(stages, count, (stage + 1) * count)
                # On the scale of the maps' own range, so that rows and networks can be compared by eye.
                _image(axes, std, "std" if stage == 0 else "", vmin=0, vmax=(high - low) / 4, cmap="magma")
    return plotting.finished(figure, path, results)


def _image(axes: Axes, grid: np.ndarray, title: str, **arguments: Any) -> None:
    axes.imshow(grid, interpolation="nearest", **arguments)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.set_title(title, loc="center")
