"""Model and data uncertainty of feature maps by depth (C4)."""

from matplotlib.figure import Figure

from figures import legends
from figures.sources import Drawing
from landscape import plotting
from landscape.metrics.confidence import Z

STUDY = "feature_uncertainty"
PANELS = {"model_std": "standard deviation over masks", "data_std": "standard deviation over positions"}
SHADES = {"smoothing": plotting.COLORS[1], "subsampling": "#8C8C8C"}


def draw(drawing: Drawing) -> Figure:
    """Curves over depth; vertical bands mark the smoothing and subsampling layers of the network of that colour."""
    with plotting.style():
        made = plotting.figure(7.2, 3.5)
        for axes, (name, title) in zip(made.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            for entry in drawing.of("feature_maps"):
                result = entry.dataset
                depth, values = result["depth"].values, result[name].values
                error = Z * result[f"{name}_stderr"].values
                axes.fill_between(depth, values - error, values + error, color=entry.color, alpha=0.2, linewidth=0)
                axes.plot(depth, values, color=entry.color, marker=".", label=entry.label)
                if entry.seed == 0 and entry.kind == "mcdo-smooth":
                    for place, kind in zip(depth, result["kind"].values, strict=True):
                        if kind in SHADES:
                            axes.axvspan(place - 0.01, place + 0.01, color=SHADES[str(kind)], alpha=0.15, linewidth=0)
            axes.set_xlabel("normalised depth")
            axes.set_ylabel(title)
        legends.below(made, made.axes[0])
    return made
