"""Pictures of Hessian spectra."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from landscape import plotting
from landscape.errors import LandscapeError
from landscape.hessian.sampling import interval
from landscape.hessian.spectrum import density_of
from landscape.metrics.confidence import Z
from landscape.store.vocabulary import with_unit

NO_PICTURE = "a trace alone has no picture: leave out --plot, or measure top or density as well"


def _eigenvalue(results: Sequence[xarray.Dataset]) -> str:
    """Label of an axis of eigenvalues."""
    unit = " (nats per weight squared)" if with_unit("", results) else ""
    return f"eigenvalue of the Hessian{unit}"


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Spectral densities on logarithmic axes, with the top eigenvalues marked; without any density, values by rank.

    The axis of eigenvalues is linear around zero, over half of the spectrum, and logarithmic beyond: the bulk and both
    ends are readable in one picture.

    Parameters
    ----------
    results
        What :func:`landscape.hessian.spectrum` gives, with or without the density.
    path
        Where to save the picture (.pdf, .png, .svg).

    Raises
    ------
    LandscapeError
        When there is nothing to draw: a trace is one number.
    """
    if not any("node" in result or "eigenvalue" in result for result in results):
        raise LandscapeError(NO_PICTURE)
    with plotting.style():
        if any("node" in result for result in results):
            figure = plotting.figure(plotting.TWO_COLUMNS, 3.1)
            densities(figure.add_subplot(), results)
        else:
            figure = plotting.figure(plotting.ONE_COLUMN, 2.6)
            _ranks(figure.add_subplot(), results)
    return plotting.finished(figure, path, results)


def densities(axes: Axes, results: Sequence[xarray.Dataset]) -> None:
    """Densities of several networks in one panel, top and smallest eigenvalues as hollow marks in a row for each."""
    spectra = [density_of(result) for result in results if "node" in result]
    knee = max(density.knee() for density in spectra)
    # From the number of parameters: below it there are only the tails of the kernels.
    floor = min(0.1 / (density.size * np.ptp(density.range)) for density in spectra)
    top = 0.0
    low = high = 0.0
    for row, (result, look) in enumerate(zip(results, plotting.labels(results), strict=True)):
        label: str | None = look.label
        if "node" in result:
            density = density_of(result)
            curve = density.on_grid(density.grid(400, "symlog", knee))
            height = np.where(curve.density > floor, curve.density, np.nan)
            top = max(top, float(curve.density.max()))
            low, high = min(low, float(curve.edges[0])), max(high, float(curve.edges[-1]))
            if density.probes > 1:
                # On a logarithmic axis the error is one of the logarithm: a band around the density would reach zero.
                factor = np.exp(np.minimum(Z * curve.stderr / height, math.log(1e3)))
                axes.fill_between(
                    curve.centres, height / factor, height * factor, color=look.color, alpha=0.18, linewidth=0
                )
            axes.plot(curve.centres, height, color=look.color, label=label)
            label = None
        if "eigenvalue" in result:
            # One row of marks for each network, in the axes' lowest part, so that they do not hide each other.
            values = result["eigenvalue"].values
            if "smallest_eigenvalue" in result:
                values = np.append(values, float(result["smallest_eigenvalue"]))
            low, high = min(low, float(values.min())), max(high, 1.1 * float(values.max()))
            axes.plot(
                values,
                np.full(len(values), 0.04 + 0.055 * row),
                look.marker,
                transform=axes.get_xaxis_transform(),
                color=look.color,
                fillstyle="none",
                label=label,
            )
    axes.set_xscale("asinh", linear_width=knee)
    # Room below the curves for the marks.
    axes.set_yscale("log")
    rows = 0.04 + 0.055 * len(results)
    logs = np.log10(floor), np.log10(3 * top)
    axes.set_ylim(10 ** (logs[0] - (logs[1] - logs[0]) * rows / (1 - rows)), 10 ** logs[1])
    axes.set_xlim(low * (1.15 if low < 0 else 0.9), high * 1.15)
    _ticks(axes, knee, low, high)
    axes.set_ylabel("spectral density (1 / nat)" if with_unit("", results) else "spectral density")
    axes.set_xlabel(_eigenvalue(results) + "; linear around 0, logarithmic beyond")
    axes.axvline(0, color=plotting.ink(), linewidth=0.5, alpha=0.6)
    _legend(axes, results, band=any(density.probes > 1 for density in spectra))


def _legend(axes: Axes, results: Sequence[xarray.Dataset], *, band: bool) -> None:
    handles, names = axes.get_legend_handles_labels()
    marked = [result for result in results if "eigenvalue" in result]
    if marked:
        count = max(result.sizes["rank"] for result in marked)
        smallest = " and the smallest" if any("smallest_eigenvalue" in result for result in marked) else ""
        handles.append(plotting.mark(f"{count} top eigenvalues{smallest}", filled=False))
        names.append(f"top {count} eigenvalues{smallest}, one row for each network")
    if band:
        handles.append(Patch(color=plotting.ink(), alpha=0.18, linewidth=0))
        names.append("95 % over random vectors")
    # Above the panel: bands may reach its upper edge anywhere.
    axes.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def _ticks(axes: Axes, knee: float, low: float, high: float) -> None:
    """Zero, and powers of ten beyond the linear part of the axis; every second one where there are many."""
    first = math.ceil(math.log10(knee))
    last = math.floor(math.log10(max(high, -low, 10.0**first)))
    powers = [10.0**power for power in range(first, last + 1, 1 if last - first < 5 else 2)]
    negative = [-power for power in powers if -power >= low * 1.15]
    axes.set_xticks([*negative, 0.0, *[power for power in powers if power <= high]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _ranks(axes: Axes, results: Sequence[xarray.Dataset]) -> None:
    shown = [result for result in results if "eigenvalue" in result]
    for index, (result, look) in enumerate(zip(shown, plotting.labels(shown), strict=True)):
        # Side by side, so that bars do not hide each other.
        value, (low, high) = result["eigenvalue"].values, interval(result)
        aside = 0.12 * (index - (len(shown) - 1) / 2)
        axes.errorbar(
            np.arange(1, result.sizes["rank"] + 1) + aside,
            value,
            np.nan_to_num(np.stack([value - low, high - value]).clip(0)),
            fmt=look.marker,
            color=look.color,
            fillstyle="none",
            capsize=2,
            label=look.label,
        )
    if all(float(result["eigenvalue"].min()) >= 0 for result in shown):
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rank")
    axes.set_ylabel(_eigenvalue(results).replace(" (", "\n("))
    axes.legend(title="bars: 95 % for the choice of images")
