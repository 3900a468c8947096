"""Picture of robustness by frequency band."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray
from matplotlib.figure import Figure

from landscape import plotting
from landscape.frequency_noise.robustness import ENERGIES, drop_interval
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
    rows = {
        "accuracy_drop": ("accuracy drop (points)", 100.0, drop_interval),
        "nll_rise": ("NLL rise (nats)", 1.0, lambda result: _normal(result["nll_rise"], result["nll_rise_stderr"])),
    }
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 4.4)
        panels = figure.subplots(len(rows), len(ENERGIES), sharex=True, sharey="row")
        for row, (name, (label, factor, interval)) in enumerate(rows.items()):
            for column, energy in enumerate(ENERGIES):
                axes = panels[row, column]
                for group in plotting.groups_over(results, "frequency"):
                    shown = [result.sel(energy=energy) for result in group.results]
                    plotting.curve(
                        axes,
                        group,
                        shown[0]["frequency"].values,
                        [factor * each[name].values for each in shown],
                        [(factor * low, factor * high) for low, high in map(interval, shown)],
                        marker=group.marker,
                    )
                axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
                if column == 0:
                    axes.set_ylabel(label)
                if row == 0:
                    what = "white noise {:g}, cut to the band" if energy == "given" else "r.m.s. {:g} in every band"
                    axes.set_title(what.format(float(results[0].attrs[energy])))
                else:
                    axes.set_xlabel(r"frequency ($\pi$)")
        plotting.letter([*panels.ravel()])
        plotting.below(figure, panels[0, 0], title=plotting.explained(results, "bands: 95 % over images"))
    return plotting.finished(figure, path, results)


def _normal(mean: xarray.DataArray, stderr: xarray.DataArray) -> tuple[np.ndarray, np.ndarray]:
    return (mean - Z * stderr).values, (mean + Z * stderr).values
