"""Where the landscape claim holds: smooth against plain under every protocol, early and late (C1, C2, C3)."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from figures.sources import Drawing
from landscape import plotting

STUDY = "protocol_sweep"
COLUMNS = {
    "C1": "C1: top eigenvalue",
    "C1 filter-normalised": "C1: filter-normalised",
    "C2": "C2: mini-batches, 90 %",
    "C3 rise": "C3: rise",
    "C3 roughness": "C3: roughness",
}
MARKS = {"on": ("o", "full"), "off": ("s", "none")}


def draw(drawing: Drawing) -> Figure:
    """Ratio smooth / plain, one row a moment and protocol, one panel a measure; left of 1 the claim holds."""
    rows = drawing.facts["table"]
    places = list(dict.fromkeys((row["moment"], row["variant"]) for row in rows))
    with plotting.style():
        made = plotting.figure(10, 0.3 * len(places) + 1.5)
        for color, (axes, (name, title)) in zip(
            plotting.COLORS,
            zip(made.subplots(1, len(COLUMNS), sharey=True), COLUMNS.items(), strict=True),
            strict=False,
        ):
            for row in rows:
                marker, fill = MARKS[row["l2"]]
                height = places.index((row["moment"], row["variant"])) + (0.12 if row["l2"] == "off" else -0.12)
                known = [math.exp(value) for value in row[name] if math.isfinite(value)]
                axes.plot(known, [height] * len(known), marker, color=color, fillstyle=fill, markersize=4)
            axes.axvline(1, color="black", linewidth=0.8)
            axes.set_xscale("log")
            axes.set_title(title)
            axes.set_xlabel("smooth / plain")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.minorticks_off()
        made.axes[0].set_yticks(range(len(places)), [f"{moment}: {variant}" for moment, variant in places])
        made.axes[0].set_ylim(len(places) - 0.5, -0.5)
        for l2, (marker, fill) in MARKS.items():
            made.axes[0].plot([], [], marker, color="black", fillstyle=fill, label=f"L2 {l2}")
        made.legend(*made.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return made
