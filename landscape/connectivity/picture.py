"""Picture of mode connectivity: loss and accuracy along the ways between networks."""

from collections.abc import Sequence
from pathlib import Path

import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape import plotting
from landscape.connectivity.choices import LABELS
from landscape.metrics.confidence import Z

_COLORS = {"line": plotting.COLORS[1], "aligned": plotting.COLORS[0], "curve": plotting.COLORS[2]}


def draw(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Loss and accuracy along each way, with 95 % bands over the choice of examples, and the line between both ends."""
    panels = [
        (result.sel(other=other), str(other), str(result.attrs.get("name", "A")))
        for result in results
        for other in result["other"].values
    ]
    several = "accuracy" in results[0]
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS if several else plotting.ONE_COLUMN, 2.6 * len(panels))
        axes = figure.subplots(len(panels), 1 + several, squeeze=False)
        for row, (result, other, own) in zip(axes, panels, strict=True):
            _along(row[0], result, "cross_entropy", "loss (nats)")
            if several:
                _along(row[1], result, "accuracy", "accuracy")
                row[1].set_ylim(bottom=0)
            for axis in row:
                axis.set_xticks([0, 0.5, 1], [plotting.plain(_short(own)), "between", plotting.plain(_short(other))])
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return plotting.finished(figure, path, results)


def _short(name: str) -> str:
    """The end of a long name, which tells checkpoints of one kind apart."""
    return name if len(name) < 14 else f"...{name[-10:]}"


def _along(axis: Axes, result: xarray.Dataset, name: str, label: str) -> None:
    steps = result["t"].values
    for way in result["way"].values:
        text, color = LABELS[str(way)], _COLORS[str(way)]
        one = result.sel(way=way)
        values, error = one[name].values, Z * one[f"{name}_stderr"].values
        axis.plot(steps, values, marker="o", color=color, label=text)
        axis.fill_between(steps, values - error, values + error, color=color, alpha=0.2, linewidth=0)
    axis.plot(steps[[0, -1]], values[[0, -1]], color=plotting.PUBLISHED, linestyle=":", linewidth=1)
    axis.set_ylabel(label)
