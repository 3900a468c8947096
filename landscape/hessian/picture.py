"""Pictures of Hessian spectra."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from landscape import plotting
from landscape.errors import LandscapeError
from landscape.hessian.sampling import interval
from landscape.hessian.spectrum import density_of

NO_PICTURE = "a trace alone has no picture: leave out --plot, or measure top or density as well"
_EIGENVALUE = "eigenvalue of the Hessian (nats per unit of weight squared)"


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Spectral densities on a log axis, with the top eigenvalues marked; without any density, eigenvalues by rank.

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
        made = plotting.figure(6.4, 3.6)
        axes = made.add_subplot()
        if any("node" in result for result in results):
            _densities(axes, results)
        else:
            _ranks(axes, results)
        axes.legend()
    if path is not None:
        plotting.save(
            made, path, {"command": results[0].attrs.get("command", ""), "results": [_source(r) for r in results]}
        )
    return made


def _densities(axes: Axes, results: Sequence[xarray.Dataset]) -> None:
    for place, result in enumerate(results):
        color, label = _color(place), plotting.name_of(result, place)
        if "node" in result:
            curve = density_of(result).on_grid()
            axes.fill_between(curve.centres, curve.lower, curve.upper, color=color, alpha=0.2, linewidth=0)
            axes.plot(curve.centres, curve.density, color=color, label=label)
            label = ""
        if "eigenvalue" in result:
            # One row of marks a network, in the axes' lowest part, so that they do not hide each other.
            height = 0.03 + 0.05 * place
            axes.plot(
                result["eigenvalue"].values,
                np.full(result.sizes["rank"], height),
                _marker(place),
                transform=axes.get_xaxis_transform(),
                color=color,
                markersize=5,
                fillstyle="none",
                label=label or None,
            )
    axes.set_yscale("log")
    # Below a tenth of what one eigenvalue spread over the whole range would be, there are only kernel tails.
    floor = min(0.1 / (density_of(r).size * np.ptp(density_of(r).range)) for r in results if "node" in r)
    top = max(float(density_of(r).on_grid().density.max()) for r in results if "node" in r)
    axes.set_ylim(floor, 10 * top)
    axes.set_ylabel("spectral density (1 / nat)")
    axes.set_xlabel(_EIGENVALUE)
    marks = [float(result["eigenvalue"].max()) for result in results if "eigenvalue" in result]
    if marks:
        low, high = axes.get_xlim()
        axes.set_xlim(low, min(high, 1.08 * max(marks)) if max(marks) > 0 else high)
        axes.set_title("spectral density (band: 95 % over probes) and top eigenvalues (marks)")


def _ranks(axes: Axes, results: Sequence[xarray.Dataset]) -> None:
    shown = [result for result in results if "eigenvalue" in result]
    for place, result in enumerate(shown):
        # Side by side, so that bars do not hide each other.
        value, (low, high) = result["eigenvalue"].values, interval(result)
        aside = 0.12 * (place - (len(shown) - 1) / 2)
        axes.errorbar(
            result["rank"] + aside,
            value,
            np.nan_to_num(np.stack([value - low, high - value]).clip(0)),
            fmt=_marker(place),
            color=_color(place),
            markersize=5,
            fillstyle="none",
            capsize=2,
            label=plotting.name_of(result, place),
        )
    if all(float(result["eigenvalue"].min()) >= 0 for result in shown):
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rank")
    axes.set_ylabel(_EIGENVALUE.replace(" (", "\n("))
    axes.set_title("top eigenvalues (bars: 95 % for the choice of images)")


def _color(place: int) -> str:
    return plotting.COLORS[place % len(plotting.COLORS)]


def _marker(place: int) -> str:
    return plotting.MARKERS[place % len(plotting.MARKERS)]


def _source(result: xarray.Dataset) -> dict[str, str]:
    names = ("name", "key", "protocol_hash", "checkpoint_sha256")
    return {name: str(result.attrs[name]) for name in names if name in result.attrs}
