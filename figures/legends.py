"""One legend below the panels, one row a kind of network."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def below(made: Figure, axes: Axes, *, columns: int = 2) -> None:
    """Legend of what `axes` shows, outside; what shares a label, as seeds of a kind do, is told once."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(reversed(labels), reversed(handles), strict=True))
    order = list(dict.fromkeys(labels))
    made.legend(
        [unique[label] for label in order],
        order,
        loc="outside lower center",
        ncols=columns,
        title="each drawn by itself: several trainings of a kind" if len(order) < len(labels) else None,
        title_fontsize=8,
    )
