"""Pictures of amplitude spectra and of frequency responses."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from landscape import plotting
from landscape.feature_maps.picture import shade
from landscape.fourier.choices import PATHS
from landscape.metrics.confidence import Z


def draw(results: Sequence[xarray.Dataset], path: Path | None = None, *, path_in_plane: str = PATHS[0]) -> Figure:
    """For each network the spectra of its blocks, coloured by depth; then Delta log A(pi) against depth for all.

    Where there is dropout, the spectra have masks on, a second row shows the spectrum of its noise, and thin broken
    lines are with masks off.

    Parameters
    ----------
    results
        What `landscape.fourier.measure` gives.
    path
        Where to save the picture (.pdf, .png, .svg).
    path_in_plane
        ``half_diagonal`` or ``radial``.
    """
    noisy = any("component_log_amplitude" in result for result in results)
    with plotting.style():
        made = plotting.figure(2.5 * (len(results) + 1) + 1.6, 5.4 if noisy else 3.0)
        grid = made.add_gridspec(1 + noisy, len(results) + 1, width_ratios=[1.0] * len(results) + [1.5])
        first: list[Axes | None] = [None, None]
        for place, result in enumerate(results):
            shown = result.sel(path=path_in_plane)
            names = {"delta_log_amplitude": "on" if "on" in result["dropout"].values else "off"}
            top = made.add_subplot(grid[0, place], sharey=first[0])
            first[0] = first[0] or top
            _curves(top, shown, "delta_log_amplitude", {"dropout": names["delta_log_amplitude"]})
            top.set_title(f"{plotting.name_of(result, place)}\nmasks {names['delta_log_amplitude']}", fontsize=8)
            if place == 0:
                top.set_ylabel(r"$\Delta\log A$")
            if "component_log_amplitude" in result:
                below = made.add_subplot(grid[1, place], sharey=first[1])
                first[1] = first[1] or below
                _curves(below, shown, "component_log_amplitude", {"component": "noise"})
                below.set_title("noise of the masks alone")
                if place == 0:
                    below.set_ylabel(r"$\log A_\mathrm{noise}$, r.m.s.")
                below.set_xlabel(r"frequency ($\pi$)")
            else:
                top.set_xlabel(r"frequency ($\pi$)")
        right = made.add_subplot(grid[0, -1])
        _ends(right, results, path_in_plane)
        if noisy:
            _noise_ends(made.add_subplot(grid[1, -1]), results, path_in_plane)
        scale = ScalarMappable(Normalize(0, 1), cmap=plotting.SEQUENTIAL)
        bar = made.colorbar(scale, ax=made.axes, location="left", shrink=0.5, aspect=30)
        bar.set_label("normalised depth of the block")
        bar.outline.set_visible(False)
    return _saved(made, results, path)


def _curves(axes: Axes, shown: xarray.Dataset, name: str, where: dict[str, str]) -> None:
    """Spectra against frequency, one line a block, bands of 95 %."""
    chosen = shown.sel(where)
    colors = matplotlib.colormaps[plotting.SEQUENTIAL]
    for place in range(chosen.sizes["point"]):
        point = chosen.isel(point=place)
        frequency, value = point["frequency"].values, point[name].values
        stderr = point[f"{name}_stderr"].values
        color = colors(float(point["depth"]))
        axes.plot(frequency, value, "--" if point["kind"] == "smoothing" else "-", color=color, linewidth=1.1)
        axes.fill_between(frequency, value - Z * stderr, value + Z * stderr, color=color, alpha=0.25, linewidth=0)
    axes.set_xlim(0, 1)


def _ends(axes: Axes, results: Sequence[xarray.Dataset], path: str) -> None:
    for place, result in enumerate(results):
        color = plotting.COLORS[place % len(plotting.COLORS)]
        shown = result.sel(path=path)
        for mode in result["dropout"].values:
            main = mode == result["dropout"].values[-1]
            value, stderr = (shown[name].sel(dropout=mode).values for name in ("delta_at_pi", "delta_at_pi_stderr"))
            depth = result["depth"].values
            label = f"{plotting.name_of(result, place)}, masks {mode}"
            axes.plot(depth, value, "-" if main else ":", color=color, label=label)
            if main:
                axes.fill_between(depth, value - Z * stderr, value + Z * stderr, color=color, alpha=0.2, linewidth=0)
                _marks(axes, result, value, place)
    shade(axes, results[0])
    axes.set_title(r"$\Delta\log A$ at the highest frequency below $\pi$")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1))


def _noise_ends(axes: Axes, results: Sequence[xarray.Dataset], path: str) -> None:
    for place, result in enumerate(results):
        if "noise_to_signal" not in result:
            continue
        shown = result.sel(path=path)
        last = shown["end"].values
        color = plotting.COLORS[place % len(plotting.COLORS)]
        for style, bins in (("-", last), (":", np.zeros_like(last))):
            value = shown["noise_to_signal"].values[np.arange(len(bins)), bins]
            axes.plot(result["depth"].values, value, style, color=color)
            if style == "-":
                _marks(axes, result, value, place)
    shade(axes, results[0])
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_title(r"log noise / signal: near $\pi$; dotted: at 0")
    axes.set_xlabel("normalised depth")


def _marks(axes: Axes, result: xarray.Dataset, value: np.ndarray, place: int) -> None:
    """Blocks as full marks, smoothing layers as open ones."""
    depth, smoothing = result["depth"].values, result["kind"].values == "smoothing"
    color = plotting.COLORS[place % len(plotting.COLORS)]
    marker = plotting.MARKERS[place % len(plotting.MARKERS)]
    axes.plot(depth[~smoothing], value[~smoothing], marker, color=color, markersize=4)
    axes.plot(depth[smoothing], value[smoothing], marker, color=color, markersize=5, markerfacecolor="white")


def draw_transfer(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Relative gain of each stretch against frequency along the diagonal, one panel a network, coloured by depth.

    Parameters
    ----------
    results
        What `landscape.fourier.transfer.measure` gives.
    path
        Where to save the picture (.pdf, .png, .svg).
    """
    with plotting.style():
        made = plotting.figure(3.0 * len(results) + 1.0, 3.2)
        colors = matplotlib.colormaps[plotting.SEQUENTIAL]
        axes = None
        for place, result in enumerate(results):
            axes = made.add_subplot(1, len(results), place + 1, sharey=axes)
            along = result.sel(direction="diagonal")
            for number in range(result.sizes["point"]):
                smoothing = str(along["kind"].values[number]) == "smoothing"
                axes.plot(
                    along["frequency"].values,
                    along["relative_gain"].values[number],
                    "--" if smoothing else "-",
                    color=colors(float(along["depth"].values[number])),
                    label=plotting.plain(along["point"].values[number]) if smoothing else None,
                )
            theory = np.cos(np.pi * along["frequency"].values / 2) ** 2
            axes.plot(along["frequency"].values, theory, ":", color="0.3", label="2-tap box, theory")
            axes.set_title(plotting.name_of(result, 0))
            axes.set_xlabel(r"frequency in both axes ($\pi$)")
            axes.set_xlim(0, 1)
            axes.legend()
        made.axes[0].set_ylabel("gain relative to frequency 0")
        scale = ScalarMappable(Normalize(0, 1), cmap=plotting.SEQUENTIAL)
        bar = made.colorbar(scale, ax=made.axes, aspect=30)
        bar.set_label("normalised depth")
        bar.outline.set_visible(False)
    return _saved(made, results, path)


def _saved(made: Figure, results: Sequence[xarray.Dataset], path: Path | None) -> Figure:
    if path is not None:
        plotting.save(made, path, {"results": [dict(result.attrs) for result in results]})
    return made
