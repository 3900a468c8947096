"""Relative log amplitudes of feature maps by depth, with and without dropout (C5, C6)."""

import numpy as np
from matplotlib.figure import Figure

from figures import legends
from figures.sources import Drawing
from landscape import plotting
from landscape.metrics.confidence import Z

STUDY = "fourier_analysis"
PATH = "half_diagonal"
STYLES = {"off": "-", "on": "--"}


def draw(drawing: Drawing) -> Figure:
    """Amplitude at the highest frequency by depth, and what dropout adds to the spectrum after each stage's end."""
    with plotting.style():
        made = plotting.figure(7.2, 3.2)
        left, right = made.subplots(1, 2)
        for entry in drawing.of("fourier"):
            result = entry.dataset
            for mode in result["dropout"].values:
                values = result["delta_at_pi"].sel(dropout=mode, path=PATH).values
                seen = np.isfinite(values)
                error = Z * result["delta_at_pi_stderr"].sel(dropout=mode, path=PATH).values
                low, high = values - error, values + error
                left.fill_between(result["depth"], low, high, where=seen, color=entry.color, alpha=0.2, linewidth=0)
                name = f"{entry.label}, masks {mode}" if entry.kind.startswith("mcdo") else entry.label
                left.plot(
                    result["depth"].values[seen],
                    values[seen],
                    STYLES[str(mode)],
                    color=entry.color,
                    marker=".",
                    label=name,
                )
            if "dropout_effect" in result:
                effect = result["dropout_effect"].sel(path=PATH).values
                frequency = result["frequency"].values
                # Before the first dropout the effect is exactly zero.
                acted = np.nan_to_num(np.abs(effect)).max(1) > 0
                place = int(np.argmax(np.isfinite(effect).sum(1) * acted))
                seen = np.isfinite(effect[place])
                right.plot(frequency[place][seen], effect[place][seen], color=entry.color, marker=".")
        left.set_xlabel("normalised depth")
        left.set_ylabel("relative log amplitude at pi")
        right.axhline(0, color="black", linewidth=0.8)
        right.set_xlabel("frequency (units of pi), first block")
        right.set_ylabel("masks on minus off")
        legends.below(made, left, columns=3)
    return made
