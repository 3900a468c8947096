"""Model and data uncertainty of feature maps by depth (C4)."""

from matplotlib.figure import Figure

from figures.sources import Drawing
from landscape import plotting
from landscape.feature_maps import picture

STUDY = "feature_uncertainty"
PANELS = {"model_std": "over dropout masks", "data_std": "over positions"}


def draw(drawing: Drawing) -> Figure:
    """Curves over depth, smoothing layers as hollow marks, subsampling grey."""
    results = [entry.dataset for entry in drawing.of("feature_maps")]
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 2.9)
        panels = figure.subplots(1, len(PANELS))
        for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
            picture.curves(axes, results, name)
            axes.set_ylim(bottom=0)
            axes.set_title(title)
            axes.set_xlabel(picture.DEPTH)
            axes.set_ylabel("standard deviation")
        plotting.letter(panels)
        picture.explain(figure, panels[0], results)
    return figure
