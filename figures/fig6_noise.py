"""Loss of accuracy under noise in a ring of frequencies (C7)."""

from matplotlib.figure import Figure

from figures import legends
from figures.sources import Drawing
from landscape import plotting
from landscape.metrics.confidence import Z

STUDY = "noise_robustness"
TITLES = {"given": "same noise, ring by ring", "matched": "same energy in every ring"}


def draw(drawing: Drawing) -> Figure:
    """Curves over frequency with 95 % bands over images."""
    with plotting.style():
        made = plotting.figure(7.2, 3.6)
        for axes, (energy, title) in zip(made.subplots(1, 2, sharey=True), TITLES.items(), strict=True):
            for entry in drawing.of("frequency_noise"):
                chosen = entry.dataset.sel(energy=energy)
                frequency, drop = chosen["frequency"].values, 100 * chosen["accuracy_drop"].values
                error = 100 * Z * chosen["accuracy_drop_stderr"].values
                axes.fill_between(frequency, drop - error, drop + error, color=entry.color, alpha=0.15, linewidth=0)
                axes.plot(frequency, drop, color=entry.color, marker=".", label=entry.label)
            axes.set_title(title)
            axes.set_xlabel("frequency of the noise (units of pi)")
        made.axes[0].set_ylabel("loss of accuracy (points)")
        legends.below(made, made.axes[0])
    return made
