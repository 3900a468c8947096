"""Pictures of Hessian spectra."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray
from matplotlib.figure import Figure

from landscape import plotting
from landscape.hessian.spectrum import density_of


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Spectral densities on a log axis, laid over each other, with the top eigenvalues marked.

    Parameters
    ----------
    results
        What :func:`landscape.hessian.spectrum` gives, with or without the density.
    path
        Where to save the picture (.pdf, .png, .svg).
    """
    with plotting.style():
        made = plotting.figure(6.4, 3.6)
        axes = made.add_subplot()
        marks = [float(result["eigenvalue"].max()) for result in results if "eigenvalue" in result]
        for place, result in enumerate(results):
            color = plotting.COLORS[place % len(plotting.COLORS)]
            label = str(result.attrs.get("name", f"network {place + 1}"))
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
                    plotting.MARKERS[place % len(plotting.MARKERS)],
                    transform=axes.get_xaxis_transform(),
                    color=color,
                    markersize=5,
                    fillstyle="none",
                    label=label or None,
                )
        if any("node" in result for result in results):
            axes.set_yscale("log")
            # Below a tenth of what one eigenvalue spread over the whole range would be, there are only kernel tails.
            floor = min(0.1 / (density_of(r).size * np.ptp(density_of(r).range)) for r in results if "node" in r)
            top = max(float(density_of(r).on_grid().density.max()) for r in results if "node" in r)
            axes.set_ylim(floor, 10 * top)
            axes.set_ylabel("spectral density (1 / nat)")
        else:
            axes.set_yticks([])
        axes.set_xlabel("eigenvalue of the Hessian (nats per unit of weight squared)")
        if marks:
            low, high = axes.get_xlim()
            axes.set_xlim(low, min(high, 1.08 * max(marks)) if max(marks) > 0 else high)
            axes.set_title("spectral density (band: 95 % over probes) and top eigenvalues (marks)")
        axes.legend()
    if path is not None:
        plotting.save(
            made, path, {"command": results[0].attrs.get("command", ""), "results": [_source(r) for r in results]}
        )
    return made


def _source(result: xarray.Dataset) -> dict[str, str]:
    names = ("name", "key", "protocol_hash", "checkpoint_sha256")
    return {name: str(result.attrs[name]) for name in names if name in result.attrs}
