"""Where the landscape claim holds: smooth against plain under every protocol, early and late (C1, C2, C3)."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from figures.sources import Drawing
from landscape import plotting

STUDY = "protocol_sweep"
COLUMNS = {
    "C1": "C1: top\neigenvalue",
    "C1 filter-normalised": "C1: filter-\nnormalised",
    "C2": "C2: mini-\nbatches, 90 %",
    "C3 rise": "C3: rise of\nthe loss",
    "C3 roughness": "C3: rough-\nness",
}
MARKS = {"on": ("o", "full"), "off": ("s", "none")}


def draw(drawing: Drawing) -> Figure:
    """Ratio smooth / plain, one row a moment and protocol, one panel a measure; left of 1 the claim holds."""
    rows = drawing.facts["table"]
    places = list(dict.fromkeys((row["moment"], row["variant"]) for row in rows))
    with plotting.style():
        made = plotting.figure(plotting.TWO_COLUMNS, 0.22 * len(places) + 1.2)
        color = plotting.kind_color("mcdo-smooth")
        panels = made.subplots(1, len(COLUMNS), sharey=True)
        for axes, (name, title) in zip(panels, COLUMNS.items(), strict=True):
            for row in rows:
                marker, fill = MARKS[row["l2"]]
                height = places.index((row["moment"], row["variant"])) + (0.12 if row["l2"] == "off" else -0.12)
                known = [math.exp(value) for value in row[name] if math.isfinite(value)]
                axes.plot(known, [height] * len(known), marker, color=color, fillstyle=fill)
            axes.axvline(1, color=plotting.ink(), linewidth=0.8)
            axes.set_xscale("log")
            axes.set_title(title)
            axes.set_xlabel("smooth / plain")
            axes.xaxis.set_major_locator(
                LogLocator(subs=(1, 2, 5) if len(rows) and _spread(rows, name) > 2.5 else (1, 1.5, 2))
            )
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.minorticks_off()
        made.axes[0].set_yticks(range(len(places)), [f"{moment}: {variant}" for moment, variant in places])
        made.axes[0].set_ylim(len(places) - 0.5, -0.5)
        for l2, (marker, fill) in MARKS.items():
            made.axes[0].plot(
                [],
                [],
                marker,
                color=color,
                fillstyle=fill,
                label=f"L2 term {'in the loss' if l2 == 'on' else 'left out'}",
            )
        plotting.letter(panels)
        plotting.below(made, made.axes[0], title="one mark per training; left of 1 the claim holds")
    return made


def _spread(rows: list[dict], name: str) -> float:
    """Largest over smallest ratio of a panel, 1 among them."""
    known = [0.0, *[value for row in rows for value in row[name] if math.isfinite(value)]]
    return math.exp(max(known) - min(known))
