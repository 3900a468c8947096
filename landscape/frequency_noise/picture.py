"""Picture of robustness by frequency band."""

from collections.abc import Sequence
from pathlib import Path

import xarray
from matplotlib.figure import Figure

from landscape import plotting
from landscape.frequency_noise.robustness import ENERGIES
from landscape.metrics.confidence import Z


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Accuracy drop and NLL rise against frequency, at given and at matched energy, bands of 95 %.

    Parameters
    ----------
    results
        What `landscape.frequency_noise.measure` gives.
    path
        Where to save the picture (.pdf, .png, .svg).
    """
    rows = {"accuracy_drop": ("accuracy drop (points)", 100.0), "nll_rise": ("NLL rise (nats)", 1.0)}
    with plotting.style():
        made = plotting.figure(6.6, 4.8)
        for row, (name, (label, factor)) in enumerate(rows.items()):
            for column, energy in enumerate(ENERGIES):
                axes = made.add_subplot(len(rows), len(ENERGIES), row * len(ENERGIES) + column + 1)
                for place, result in enumerate(results):
                    shown = result.sel(energy=energy)
                    value, stderr = factor * shown[name].values, factor * shown[f"{name}_stderr"].values
                    color = plotting.COLORS[place % len(plotting.COLORS)]
                    frequency = shown["frequency"].values
                    axes.fill_between(frequency, value - Z * stderr, value + Z * stderr, color=color, alpha=0.2, lw=0)
                    axes.plot(
                        frequency,
                        value,
                        color=color,
                        marker=plotting.MARKERS[place % len(plotting.MARKERS)],
                        markersize=4,
                        label=plotting.name_of(result, place),
                    )
                axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
                if column == 0:
                    axes.set_ylabel(label)
                if row == 0:
                    what = "white noise {:g}, cut to the band" if energy == "given" else "r.m.s. {:g} in every band"
                    axes.set_title(what.format(float(results[0].attrs[energy])))
                else:
                    axes.set_xlabel(r"frequency ($\pi$)")
        made.axes[0].legend()
    if path is not None:
        plotting.save(made, path, {"results": [dict(result.attrs) for result in results]})
    return made
