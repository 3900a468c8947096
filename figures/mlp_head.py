"""An MLP head against global average pooling: its landscape, and how well it fits the training set (C11)."""

import numpy as np
from matplotlib.figure import Figure

from figures import legends
from figures.sources import Drawing
from landscape import plotting

STUDY = "mlp_head"


def draw(drawing: Drawing) -> Figure:
    """Loss along the surface's two axes, max-eigenvalue spectra of mini-batches, NLL on augmented training images."""
    with plotting.style():
        made = plotting.figure(8.6, 3.3)
        surface, spectrum, fit = made.subplots(1, 3)
        for entry in drawing.of("surface"):
            loss = entry.dataset["cross_entropy"]
            middle = float(loss.sel(alpha=0, beta=0, method="nearest"))
            for axis, line in (("alpha", "-"), ("beta", "--")):
                cut = loss.sel({"beta" if axis == "alpha" else "alpha": 0}, method="nearest")
                label = f"{entry.label}, direction {1 if axis == 'alpha' else 2}"
                surface.plot(cut[axis], cut.values - middle, line, color=entry.color, marker=".", label=label)
        for entry in drawing.of("mini_batches"):
            largest = np.sort(entry.dataset["eigenvalue"].values[:, 0])
            above = 1 - np.arange(len(largest)) / len(largest)
            spectrum.step(largest, above, where="pre", color=entry.color)
        for entry in drawing.of("training"):
            curve = entry.dataset
            value, low, high = (curve[which].values for which in ("nll", "nll_low", "nll_high"))
            fit.fill_between(curve["size"], low, high, color=entry.color, alpha=0.2, linewidth=0)
            fit.plot(curve["size"], value, color=entry.color, marker=".")
        surface.set_yscale("symlog", linthresh=0.01)
        surface.set_xlabel("along a filter-normalised direction")
        surface.set_ylabel("rise of cross-entropy (nats)")
        spectrum.set_xscale("log")
        spectrum.set_xlabel("largest eigenvalue of a mini-batch")
        spectrum.set_ylabel("share of mini-batches above")
        fit.set_xlabel("ensemble size N")
        fit.set_ylabel("NLL on training images (nats)")
        legends.below(made, surface)
    return made
