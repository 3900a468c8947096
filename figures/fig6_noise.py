"""Loss of accuracy under noise in a ring of frequencies (C7)."""

from matplotlib.figure import Figure

from figures.sources import Drawing
from landscape import plotting
from landscape.frequency_noise.robustness import drop_interval

STUDY = "noise_robustness"
TITLES = {"given": "same noise, ring by ring", "matched": "same energy in every ring"}


def draw(drawing: Drawing) -> Figure:
    """Curves over frequency by kind of network."""
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 3.0)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (energy, title) in zip(panels, TITLES.items(), strict=True):
            for group in drawing.groups("frequency_noise"):
                chosen = [result.sel(energy=energy) for result in group.results]
                plotting.curve(
                    axes,
                    group,
                    chosen[0]["frequency"].values,
                    [100 * each["accuracy_drop"].values for each in chosen],
                    [(100 * low, 100 * high) for low, high in map(drop_interval, chosen)],
                    marker=group.marker,
                )
            axes.set_title(title)
            axes.set_xlabel(r"frequency of the noise ($\pi$)")
        panels[0].set_ylabel("loss of accuracy (points)")
        plotting.letter(panels)
        plotting.below(
            figure, panels[0], title=drawing.explained("frequency_noise", "bands: 95 % over images"), columns=4
        )
    return figure
