"""Relative log amplitudes of feature maps by depth, with and without dropout (C5, C6)."""

import numpy as np
from matplotlib.figure import Figure

from figures.sources import Drawing
from landscape import plotting
from landscape.feature_maps.picture import DEPTH, marks, scaled_depth, shade
from landscape.metrics.confidence import Z

STUDY = "fourier_analysis"
PATH = "half_diagonal"
STYLES = {"off": "-", "on": "--"}


def draw(drawing: Drawing) -> Figure:
    """Amplitude at the highest frequency by depth, and what dropout adds to the spectrum after each stage's end."""
    results = [entry.dataset for entry in drawing.of("fourier")]
    scale = scaled_depth(results)
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 3.0)
        left, right = figure.subplots(1, 2)
        for group in drawing.groups("fourier"):
            first = group.results[0]
            for mode in first["dropout"].values:
                at = [result.sel(dropout=mode, path=PATH) for result in group.results]
                seen = np.isfinite(at[0]["delta_at_pi"].values)
                value = plotting.curve(
                    left,
                    group,
                    first["depth"].values[seen] / scale,
                    [each["delta_at_pi"].values[seen] for each in at],
                    [Z * each["delta_at_pi_stderr"].values[seen] for each in at],
                    label=f"{group.label}, masks {mode}" if len(first["dropout"]) > 1 else None,
                    dashes=STYLES[str(mode)],
                )
                if mode == "off":
                    smoothing = first["kind"].values[seen] == "smoothing"
                    marks(left, group, first["depth"].values[seen] / scale, value, smoothing)
            effects = [
                result["dropout_effect"].sel(path=PATH).values for result in group.results if "dropout_effect" in result
            ]
            if effects:
                # Before the first dropout the effect is exactly zero.
                acted = np.nan_to_num(np.abs(effects[0])).max(1) > 0
                place = int(np.argmax(np.isfinite(effects[0]).sum(1) * acted))
                seen = np.isfinite(effects[0][place])
                frequency = first["frequency"].values[place][seen]
                plotting.curve(
                    right, group, frequency, [effect[place][seen] for effect in effects], marker=group.marker
                )
        shade(left, results[0], scale)
        left.set_xlabel(DEPTH)
        left.set_ylabel(r"relative log amplitude near $\pi$")
        left.set_title("how much high frequency")
        right.axhline(0, color=plotting.ink(), linewidth=0.5)
        right.set_xlabel(r"frequency ($\pi$), first block")
        right.set_ylabel("log amplitude, masks on minus off")
        right.set_title("what dropout adds")
        plotting.letter([left, right])
        extra = [
            plotting.mark("smoothing layer", filled=False),
            plotting.mark("subsampling", "s", color=plotting.SHADE),
        ]
        title = drawing.explained("fourier", "bands: 95 % over images")
        plotting.below(figure, left, title=title, extra=extra)
    return figure
