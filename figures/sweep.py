"""Where the landscape claim holds: smooth against plain under every protocol and at every moment (C1, C2, C3)."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analyses import protocol_sweep
from analyses.kinds import KINDS
from figures.sources import Drawing
from landscape import plotting
from landscape.errors import LandscapeError

STUDY = "protocol_sweep"
COLUMNS = {
    "C1": "C1: top\neigenvalue",
    "C1 filter-normalised": "C1: filter-\nnormalised",
    "C1 loss-scaled": "C1: over\nthe loss",
    "C2": "C2: mini-\nbatches",
    "C3 rise": "C3: rise\nof loss",
    "C3 roughness": "C3: rough-\nness",
}
MARKS = {"on": ("o", "full"), "off": ("s", "none")}


def draw(drawing: Drawing) -> Figure:
    """Ratio smooth / plain, one row per moment and protocol, one panel per measure; left of 1 the claim holds."""
    if "table" not in drawing.facts:
        raise LandscapeError(f"{STUDY} of {drawing.preset} was not finished: run python -m analyses {STUDY} again")
    rows = drawing.facts["table"]
    places = list(dict.fromkeys((row["moment"], row["variant"]) for row in rows))
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 0.22 * len(places) + 1.2)
        color = plotting.kind_color("mcdo-smooth")
        panels = figure.subplots(1, len(COLUMNS), sharey=True)
        for axes, (name, title) in zip(panels, COLUMNS.items(), strict=True):
            for row in rows:
                marker, fill = MARKS[row["l2"]]
                height = places.index((row["moment"], row["variant"])) + (0.12 if row["l2"] == "off" else -0.12)
                known = [value for value in row[name] if math.isfinite(value)]
                several = len(known) > 2
                size = {"markersize": 1.8, "alpha": 0.6} if several else {}
                axes.plot(np.exp(known), [height] * len(known), marker, color=color, fillstyle=fill, **size)
                if several:
                    mean, low, high = np.exp(protocol_sweep.interval(known))
                    axes.plot(mean, height, marker, color=color, fillstyle=fill)
                    axes.plot([low, high], [height, height], color=color, linewidth=0.8)
            axes.axvline(1, color=plotting.ink(), linewidth=0.8)
            plotting.log_scale(axes, "x", ticks=3)
            axes.set_title(title)
        figure.axes[0].set_yticks(range(len(places)), [_short(variant) for _, variant in places])
        figure.axes[0].set_ylim(len(places) - 0.5, -0.5)
        for moment in dict.fromkeys(moment for moment, _ in places):
            heights = [height for height, place in enumerate(places) if place[0] == moment]
            for axes in panels if heights[0] else ():
                axes.axhline(heights[0] - 0.5, color=plotting.ink(), linewidth=0.4)
            across = panels[-1].get_yaxis_transform()
            panels[-1].text(
                1.08,
                sum(heights) / len(heights),
                _moment(moment, drawing.facts),
                transform=across,
                rotation=-90,
                va="center",
            )
        for l2, (marker, fill) in MARKS.items():
            figure.axes[0].plot(
                [],
                [],
                marker,
                color=color,
                fillstyle=fill,
                label=f"L2 term {'in the loss' if l2 == 'on' else 'left out'}",
            )
        plotting.letter(panels)
        most = max(len(row["C1"]) for row in rows)
        marks = "one mark per pair" if most < 3 else f"small: each of {most} pairs; large: mean, 95 % interval"
        plotting.below(figure, figure.axes[0], title=f"ratio smooth / plain; {marks}; left of 1 the claim holds")
    return figure


def _moment(moment: str, facts: Mapping[str, Any]) -> str:
    """A moment of training with its number of epochs, where the listing says it."""
    label = KINDS[protocol_sweep.MOMENTS[moment][0]].label
    epochs = [each["epochs"] for each in facts.get("kinds", ()) if each["network"] == label]
    return f"{moment}, {epochs[0]} epochs" if epochs else moment


def _short(variant: str) -> str:
    """A protocol in a line's head: what is augmented is not said twice."""
    augmentation, masks = variant.split(", ")
    return f"{'augmented' if augmentation.endswith('frozen') else 'not augmented'}, {masks}"
