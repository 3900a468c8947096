"""Where the landscape claim holds: smooth against plain under every protocol (C1, C2)."""

import numpy as np
from matplotlib.figure import Figure

from figures.sources import Drawing
from landscape import plotting

STUDY = "protocol_sweep"
MARKS = {
    "hessian": ("D", "one batch of all measured images (C1)"),
    "mini_batches": ("o", "median mini-batch of 16 (C2)"),
}


def draw(drawing: Drawing) -> Figure:
    """Ratio of top eigenvalues, smooth over plain, one row a protocol; left of 1 the claim holds."""
    variants = list(dict.fromkeys(entry.variant for entry in drawing.entries))
    values = {
        (entry.instrument, entry.variant, entry.kind, entry.seed): float(
            np.median(entry.dataset["eigenvalue"].values[:, 0])
        )
        for entry in drawing.entries
    }
    with plotting.style():
        made = plotting.figure(6.8, 0.35 * len(variants) + 1.2)
        axes = made.add_subplot()
        for color, (instrument, (marker, label)) in zip(plotting.COLORS, MARKS.items(), strict=False):
            points = [
                (values[instrument, variant, "mcdo-smooth", seed] / values[instrument, variant, "mcdo", seed], place)
                for place, variant in enumerate(variants)
                for seed in sorted({entry.seed for entry in drawing.entries})
                if {(instrument, variant, kind, seed) for kind in ("mcdo", "mcdo-smooth")} <= set(values)
            ]
            axes.plot([x for x, _ in points], [y for _, y in points], marker, color=color, label=label)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yticks(range(len(variants)), variants)
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.set_xlabel("top eigenvalue, smooth / plain (left of 1: as claimed)")
        made.legend(loc="outside lower center", ncols=2)
    return made
