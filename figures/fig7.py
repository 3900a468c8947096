"""Loss surfaces over a random plane, fresh dropout masks in every cell (C3)."""

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from figures.sources import Drawing
from landscape import plotting
from landscape.store import published

STUDY = "loss_surfaces"
PUBLISHED_FILE = "cifar100_resnet_mcdo_18_x10_losslandscape.csv"
LEVELS = 12


def draw(drawing: Drawing) -> Figure:
    """One panel per network, one scale for all of ours; the published surface, of another quantity, on its own."""
    first = min(entry.seed for entry in drawing.of("surface"))
    shown = [entry for entry in drawing.of("surface") if entry.seed == first]
    file = drawing.published / PUBLISHED_FILE if drawing.published else None
    extra = [published.read_surface(file)] if file is not None and file.is_file() else []
    rise = [entry.dataset["cross_entropy"] for entry in shown]
    values = np.concatenate([each.values[np.isfinite(each.values)] for each in rise])
    norm = LogNorm(values.min(), np.quantile(values, 0.98))
    with plotting.style():
        count = len(shown) + len(extra)
        figure = plotting.figure(plotting.TWO_COLUMNS, 0.9 + 5.6 / max(count, 2))
        panels = np.atleast_1d(figure.subplots(1, count))
        for axes, entry, surface in zip(panels, shown, rise, strict=False):
            _panel(axes, surface, norm, plotting.SEQUENTIAL)
            axes.set_title(entry.label.replace(" + ", "\n+ "))
        figure.colorbar(
            ScalarMappable(norm, plotting.SEQUENTIAL),
            ax=list(panels[: len(shown)]),
            label="cross-entropy (nats)",
            shrink=0.9,
            extend="max",
            ticks=np.geomspace(norm.vmin or 1e-12, norm.vmax or 1.0, 5),
            format=FuncFormatter(lambda value, _: f"{value:.2g}"),
        ).minorticks_off()
        for axes, theirs in zip(panels[len(shown) :], extra, strict=True):
            low, high = float(theirs["nll"].min()), float(theirs["nll"].max())
            drawn = axes.contourf(theirs["alpha"], theirs["beta"], theirs["nll"].T, LEVELS, cmap="Greys")
            axes.set_title("published:\nMC dropout", color=plotting.PUBLISHED)
            figure.colorbar(drawn, ax=axes, shrink=0.8, label=f"NLL, {low:.3g} to {high:.3g}")
            axes.set_aspect("equal")
        panels[0].set_ylabel("second direction")
        plotting.letter(panels.tolist())
        for axes in panels:
            axes.set_xlabel("first direction")
            axes.locator_params(axis="x", nbins=4 if count < 4 else 2)
    return figure


def _panel(axes: Axes, surface: xarray.DataArray, norm: LogNorm, colors: str) -> None:
    levels = np.geomspace(norm.vmin or 1e-12, norm.vmax or 1.0, LEVELS)
    axes.contourf(
        surface["alpha"],
        surface["beta"],
        np.ma.masked_invalid(surface.values.T),
        levels,
        norm=norm,
        cmap=colors,
        extend="both",
    )
    axes.set_aspect("equal")
    axes.grid(visible=False)
