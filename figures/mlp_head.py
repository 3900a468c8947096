"""An MLP head against global average pooling: its landscape, and how well it fits the training set (C11)."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.sources import Drawing
from landscape import plotting

STUDY = "mlp_head"


def draw(drawing: Drawing) -> Figure:
    """Loss along the surface's two axes, max-eigenvalue spectra of mini-batches, NLL on augmented training images."""
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 2.9)
        surface, spectrum, fit = figure.subplots(1, 3)
        for group in drawing.groups("surface"):
            for axis, line in (("alpha", "-"), ("beta", "--")):
                cuts = [
                    result["cross_entropy"].sel({"beta" if axis == "alpha" else "alpha": 0}, method="nearest")
                    for result in group.results
                ]
                rises = [cut.values - float(cut.sel({axis: 0}, method="nearest")) for cut in cuts]
                label = f"{group.label}, direction {1 if axis == 'alpha' else 2}"
                plotting.curve(surface, group, cuts[0][axis].values, rises, label=label, dashes=line)
        for group in drawing.groups("mini_batches"):
            for result in group.results:
                largest = np.sort(result["eigenvalue"].values[:, 0])
                spectrum.step(largest, 1 - np.arange(len(largest)) / len(largest), where="pre", color=group.color)
        for group in drawing.groups("training"):
            plotting.curve(
                fit,
                group,
                group.results[0]["size"].values,
                [curve["nll"].values for curve in group.results],
                [(curve["nll_low"].values, curve["nll_high"].values) for curve in group.results],
                marker=group.marker,
            )
        fit.xaxis.set_major_locator(MaxNLocator(integer=True))
        surface.set_yscale("symlog", linthresh=0.01)
        surface.set_xlabel("filter-normalised direction")
        surface.set_ylabel("rise of cross-entropy (nats)")
        plotting.log_scale(spectrum, "x", ticks=5)
        spectrum.set_xlabel("largest eigenvalue of 16 images")
        spectrum.set_ylabel("share of mini-batches above")
        fit.set_xlabel("ensemble size $N$")
        fit.set_ylabel("NLL, training images (nats)")
        plotting.letter([surface, spectrum, fit])
        plotting.below(
            figure, surface, columns=4, title=drawing.explained("training", "bands: 95 % over images and passes")
        )
    return figure
