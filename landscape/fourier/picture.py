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
from landscape.feature_maps.picture import DEPTH, marks, scaled_depth, shade
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
        # Two networks fill two columns; more take the width they need.
        figure = plotting.figure(max(plotting.TWO_COLUMNS, 1.7 * (len(results) + 2)), 4.6 if noisy else 2.6)
        scale, looks = scaled_depth(results), plotting.labels(results)
        grid = figure.add_gridspec(1 + noisy, len(results) + 1, width_ratios=[1.0] * len(results) + [1.5])
        first: list[Axes | None] = [None, None]
        for column, result in enumerate(results):
            shown = result.sel(path=path_in_plane)
            names = {"delta_log_amplitude": "on" if "on" in result["dropout"].values else "off"}
            top = figure.add_subplot(grid[0, column], sharey=first[0])
            first[0] = first[0] or top
            _curves(top, shown, "delta_log_amplitude", {"dropout": names["delta_log_amplitude"]}, scale)
            top.set_title(f"{looks[column].label}\nmasks {names['delta_log_amplitude']}")
            if column == 0:
                top.set_ylabel(r"$\Delta\log A$")
            if "component_log_amplitude" in result:
                below = figure.add_subplot(grid[1, column], sharey=first[1])
                first[1] = first[1] or below
                _curves(below, shown, "component_log_amplitude", {"component": "noise"}, scale)
                below.set_title("noise of the masks alone")
                if column == 0:
                    below.set_ylabel(r"$\log A_\mathrm{noise}$, r.m.s.")
                below.set_xlabel(r"frequency ($\pi$)")
            else:
                top.set_xlabel(r"frequency ($\pi$)")
        right = figure.add_subplot(grid[0, -1])
        _ends(right, results, path_in_plane)
        if noisy:
            _noise_ends(figure.add_subplot(grid[1, -1]), results, path_in_plane)
        plotting.letter(figure.axes)
        colors = ScalarMappable(Normalize(0, 1), cmap=plotting.SEQUENTIAL)
        bar = figure.colorbar(colors, ax=figure.axes, location="left", shrink=0.5, aspect=30)
        bar.set_label("normalised depth of the block (broken lines: smoothing)")
        bar.outline.set_visible(False)
    return plotting.finished(figure, path, results)


def _curves(axes: Axes, shown: xarray.Dataset, name: str, where: dict[str, str], scale: float) -> None:
    """Spectra against frequency, one line per block, bands of 95 %."""
    chosen = shown.sel(where)
    colors = matplotlib.colormaps[plotting.SEQUENTIAL]
    for index in range(chosen.sizes["point"]):
        point = chosen.isel(point=index)
        frequency, value = point["frequency"].values, point[name].values
        stderr = point[f"{name}_stderr"].values
        color = colors(float(point["depth"]) / scale)
        axes.plot(frequency, value, "--" if point["kind"] == "smoothing" else "-", color=color, linewidth=1.1)
        axes.fill_between(frequency, value - Z * stderr, value + Z * stderr, color=color, alpha=0.25, linewidth=0)
    axes.set_xlim(0, 1)


def _ends(axes: Axes, results: Sequence[xarray.Dataset], path: str) -> None:
    scale = scaled_depth(results)
    for result, look in zip(results, plotting.labels(results), strict=True):
        color = look.color
        shown = result.sel(path=path)
        for mode in result["dropout"].values:
            main = mode == result["dropout"].values[-1]
            value, stderr = (shown[name].sel(dropout=mode).values for name in ("delta_at_pi", "delta_at_pi_stderr"))
            depth = result["depth"].values / scale
            label = f"{look.label}, masks {mode}"
            axes.plot(depth, value, "-" if main else ":", color=color, label=label)
            if main:
                axes.fill_between(depth, value - Z * stderr, value + Z * stderr, color=color, alpha=0.2, linewidth=0)
                marks(axes, look, depth, value, result["kind"].values == "smoothing")
    shade(axes, results[0], scale)
    axes.set_title(r"$\Delta\log A$ near $\pi$")
    axes.set_xlabel(DEPTH)
    handles, names = axes.get_legend_handles_labels()
    if any(bool((result["kind"] == "smoothing").any()) for result in results):
        handles.append(plotting.mark("smoothing layer", filled=False))
        names.append("smoothing layer")
    handles.append(plotting.mark("subsampling", "s", color=plotting.SHADE))
    axes.legend(handles, [*names, "subsampling"], loc="upper center", bbox_to_anchor=(0.5, -0.25))


def _noise_ends(axes: Axes, results: Sequence[xarray.Dataset], path: str) -> None:
    scale = scaled_depth(results)
    for result, look in zip(results, plotting.labels(results), strict=True):
        if "noise_to_signal" not in result:
            continue
        shown = result.sel(path=path)
        last = shown["end"].values
        depth = result["depth"].values / scale
        for style, bins in (("-", last), (":", np.zeros_like(last))):
            value = shown["noise_to_signal"].values[np.arange(len(bins)), bins]
            axes.plot(depth, value, style, color=look.color)
            if style == "-":
                marks(axes, look, depth, value, result["kind"].values == "smoothing")
    shade(axes, results[0], scale)
    axes.axhline(0, color=plotting.ink(), linewidth=0.5)
    axes.set_title(r"log noise / signal" + "\n" + r"near $\pi$; dotted: at 0")
    axes.set_xlabel(DEPTH)


def draw_transfer(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Relative gain of each stretch against frequency along the diagonal, one panel per network, coloured by depth.

    Parameters
    ----------
    results
        What `landscape.fourier.transfer.measure` gives.
    path
        Where to save the picture (.pdf, .png, .svg).
    """
    with plotting.style():
        figure = plotting.figure(max(plotting.TWO_COLUMNS, 2.3 * len(results)), 2.8)
        scale, looks = scaled_depth(results), plotting.labels(results)
        colors = matplotlib.colormaps[plotting.SEQUENTIAL]
        axes = None
        for column, result in enumerate(results):
            axes = figure.add_subplot(1, len(results), column + 1, sharey=axes)
            along = result.sel(direction="diagonal")
            for number in range(result.sizes["point"]):
                smoothing = str(along["kind"].values[number]) == "smoothing"
                axes.plot(
                    along["frequency"].values,
                    along["relative_gain"].values[number],
                    "--" if smoothing else "-",
                    color=colors(float(along["depth"].values[number]) / scale),
                    label=plotting.plain(along["point"].values[number]) if smoothing else None,
                )
            theory = np.cos(np.pi * along["frequency"].values / 2) ** 2
            axes.plot(along["frequency"].values, theory, ":", color=plotting.PUBLISHED, label="2-tap box, theory")
            axes.set_title(looks[column].label)
            axes.set_xlabel(r"frequency in both axes ($\pi$)")
            axes.set_xlim(0, 1)
            axes.legend()
        figure.axes[0].set_ylabel("gain relative to frequency 0")
        plotting.letter(figure.axes)
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), cmap=plotting.SEQUENTIAL), ax=figure.axes, aspect=30)
        bar.set_label(DEPTH)
        bar.outline.set_visible(False)
    return plotting.finished(figure, path, results)
