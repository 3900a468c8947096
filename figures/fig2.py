"""Metrics against ensemble size, beside the published ones (C8, C9, C13)."""

from matplotlib.figure import Figure

from figures import legends
from figures.sources import PUBLISHED, PUBLISHED_SIZES, Drawing
from landscape import plotting

STUDY = "ensemble_size"
PANELS = {"nll": ("NLL (nats)", 1.0), "accuracy": ("accuracy (%)", 100.0), "ece": ("ECE (%)", 100.0)}
DASHES = {"mcdo": "--", "mcdo-smooth": "-"}


def draw(drawing: Drawing) -> Figure:
    """Curves with 95 % bands over images and passes; published full-size networks on CIFAR-100 in grey."""
    with plotting.style():
        made = plotting.figure(8.4, 3.3)
        for axes, (name, (title, scale)) in zip(made.subplots(1, 3), PANELS.items(), strict=True):
            for entry in drawing.of("predictions"):
                curve = entry.dataset
                sizes, value = curve["size"].values, scale * curve[name].values
                if len(sizes) == 1:
                    axes.axhline(value[0], color=entry.color, label=f"{entry.label} (one pass)", linestyle=":")
                    continue
                low, high = scale * curve[f"{name}_low"].values, scale * curve[f"{name}_high"].values
                axes.fill_between(sizes, low, high, color=entry.color, alpha=0.15, linewidth=0)
                axes.plot(sizes, value, color=entry.color, marker=".", label=entry.label)
            for kind, dashes in DASHES.items():
                label = f"published, {'smooth' if 'smooth' in kind else 'plain'} (CIFAR-100, full size)"
                axes.plot(PUBLISHED_SIZES, PUBLISHED[kind][name], dashes, color=plotting.PUBLISHED, label=label)
            axes.set_xscale("log")
            axes.set_xticks(PUBLISHED_SIZES, [str(size) for size in PUBLISHED_SIZES])
            axes.minorticks_off()
            axes.set_xlabel("ensemble size N")
            axes.set_ylabel(title)
        legends.below(made, made.axes[0], columns=3)
    return made
