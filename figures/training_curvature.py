"""Curvature along a training, plain and smooth."""

from matplotlib.figure import Figure

from figures.sources import Drawing
from landscape import plotting
from landscape.series.picture import QUANTITIES, over_time

STUDY = "training_curvature"
PANELS = ("eigenvalue", "trace", "loss")


def draw(drawing: Drawing) -> Figure:
    """Largest eigenvalue, trace and loss against epochs: the mean over trainings, its band, each training thin."""
    groups = drawing.groups("series")
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 2.7)
        panels = figure.subplots(1, len(PANELS))
        for axes, name in zip(panels, PANELS, strict=True):
            over_time(axes, groups, QUANTITIES[name])
        plotting.letter(panels)
        counts = ", ".join(f"{group.label}: n = {len(group.results)}" for group in groups)
        title = f"{counts}; {drawing.explained('series', 'bands: bound of the solve (a), 95 % (b)')}"
        plotting.below(figure, panels[0], columns=len(groups), title=title)
    return figure
