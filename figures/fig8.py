"""Hessian max-eigenvalue spectra (C1, C2)."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from figures import legends
from figures.sources import Drawing
from landscape import plotting

STUDY = "hessian_spectra"


def draw(drawing: Drawing) -> Figure:
    """Share of mini-batches whose largest eigenvalue is above a value; diamonds: that of many images at once."""
    with plotting.style():
        made = plotting.figure(5.6, 3.9)
        axes = made.add_subplot()
        for entry in drawing.of("mini_batches"):
            largest = np.sort(entry.dataset["eigenvalue"].values[:, 0])
            above = 1 - np.arange(len(largest)) / len(largest)
            axes.step(
                largest, above, where="pre", color=entry.color, label=entry.label, alpha=1 - 0.4 * (entry.seed > 0)
            )
        for entry in drawing.of("hessian"):
            axes.plot(float(entry.dataset["eigenvalue"][0]), 0.5, "D", color=entry.color, markersize=6)
        axes.plot([], [], "D", color="black", label="one batch of all measured images")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        axes.set_xlabel("largest Hessian eigenvalue of a mini-batch of 16 images")
        axes.set_ylabel("share of mini-batches above")
        legends.below(made, axes)
    return made
