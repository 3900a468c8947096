"""Metrics against ensemble size, beside the published ones (C8, C9, C13)."""

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from figures.sources import PUBLISHED, PUBLISHED_SIZES, Drawing
from landscape import plotting

STUDY = "ensemble_size"
PANELS = {"nll": ("NLL (nats)", 1.0), "accuracy": ("accuracy (%)", 100.0), "ece": ("ECE (%)", 100.0)}
DASHES = {"mcdo": "--", "mcdo-smooth": "-"}


def draw(drawing: Drawing) -> Figure:
    """Curves by kind of network; published full-size networks on CIFAR-100 in grey."""
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 2.9)
        panels = figure.subplots(1, 3)
        for axes, (name, (title, scale)) in zip(panels, PANELS.items(), strict=True):
            for group in drawing.groups("predictions"):
                sizes = group.results[0]["size"].values
                values = [scale * curve[name].values for curve in group.results]
                ends = [
                    (scale * curve[f"{name}_low"].values, scale * curve[f"{name}_high"].values)
                    for curve in group.results
                ]
                if len(sizes) == 1:
                    # A network without masks has one prediction: a level line over all sizes.
                    sizes, label, dashes = np.array(PUBLISHED_SIZES)[[0, -1]], f"{group.label} (one pass)", ":"
                    values, ends = [np.repeat(value, 2) for value in values], []
                    group = dataclasses.replace(group, marker="")
                else:
                    label, dashes = group.label, "-"
                plotting.curve(axes, group, sizes, values, ends, label=label, dashes=dashes, marker=group.marker)
            for kind, dashes in DASHES.items():
                label = f"published, {'smooth' if 'smooth' in kind else 'plain'} (CIFAR-100, full size)"
                axes.plot(PUBLISHED_SIZES, PUBLISHED[kind][name], dashes, color=plotting.PUBLISHED, label=label)
            axes.set_xscale("log")
            axes.set_xticks(PUBLISHED_SIZES, [str(size) for size in PUBLISHED_SIZES])
            axes.minorticks_off()
            axes.set_xlabel("ensemble size $N$")
            axes.set_ylabel(title)
        plotting.letter(panels)
        plotting.below(figure, panels[0], title=drawing.explained("predictions", "bands: 95 % over images and passes"))
    return figure
