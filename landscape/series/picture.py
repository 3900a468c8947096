"""Picture of series: one panel per quantity, one curve per training, trainings of a kind in one colour."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes

from landscape import plotting


def draw(results: Sequence[xarray.Dataset], path: Path) -> Path:
    """Draw what was measured over time, and the trajectories in their principal planes.

    Raises
    ------
    LandscapeError
        For a file name that does not end in .pdf, .png or .svg.
    """
    panels: list[tuple[str, Callable[[Axes, xarray.Dataset, dict], None]]] = [
        (name, panel) for name, panel in _PANELS if any(name in result for result in results)
    ]
    kinds = list(dict.fromkeys(_kind(result) for result in results))
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with plotting.style():
        figure = plotting.figure(2.9 * columns + 0.3, 2.3 * rows + 0.4)
        axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        for spare in axes[len(panels) :]:
            spare.set_axis_off()
        for axis, (name, panel) in zip(axes, panels, strict=False):
            seen: set[str] = set()
            for result in results:
                if name not in result:
                    continue
                kind = _kind(result)
                color = plotting.COLORS[kinds.index(kind) % len(plotting.COLORS)]
                label = None if kind in seen else kind
                seen.add(kind)
                panel(axis, result, {"color": color, "label": label})
            if name != "path":
                axis.set_xlabel("epoch")
                _time_axis(axis, results)
        if len(kinds) > 1 or len(results) > 1:
            axes[0].legend(loc="best")
        return plotting.save(figure, path, {"series": [result.attrs.get("series") for result in results]})


def _time_axis(axis: Axes, results: Sequence[xarray.Dataset]) -> None:
    """A training changes fast at first: times that span much are drawn by their logarithm."""
    times = np.concatenate([result["time"].values for result in results])
    if times.min() > 0 and times.max() > 20 * times.min():
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")


def _kind(result: xarray.Dataset) -> str:
    """A training's name without its seed."""
    return re.sub(r"[-_]?seed[-_]?\d+", "", str(result.attrs.get("series", ""))) or "training"


def _band(axis: Axes, result: xarray.Dataset, values: np.ndarray, error: np.ndarray, style: dict) -> None:
    times = result["time"].values
    axis.plot(times, values, marker="o", markersize=2.5, linewidth=1.0, **style)
    axis.fill_between(times, values - error, values + error, color=style["color"], alpha=0.2, linewidth=0)


def _curve(name: str, error: str | None, label: str, *, log: bool = False) -> Callable:
    def panel(axis: Axes, result: xarray.Dataset, style: dict) -> None:
        values = result[name].values
        values = values[:, 0] if values.ndim == 2 else values
        bound = np.zeros(len(values)) if error is None else result[error].values
        _band(axis, result, values, bound[:, 0] if bound.ndim == 2 else bound, style)
        axis.set_ylabel(label)
        if log and bool((values[np.isfinite(values)] > 0).all()):
            axis.set_yscale("log")

    return panel


def _trajectory(axis: Axes, result: xarray.Dataset, style: dict) -> None:
    places, times = result["path"].values, result["time"].values
    axis.plot(*places.T, marker="o", markersize=2.5, linewidth=1.0, **style)
    for place in (0, len(times) - 1):
        axis.annotate(str(times[place]), places[place], textcoords="offset points", xytext=(4, 4), fontsize=7)
    axis.set_xlabel("first principal component")
    axis.set_ylabel("second")


_PANELS: tuple[tuple[str, Callable], ...] = (
    ("loss", _curve("loss", None, "loss (nats)", log=True)),
    ("accuracy", _curve("accuracy", None, "accuracy")),
    ("eigenvalue", _curve("eigenvalue", "residual", "largest eigenvalue", log=True)),
    ("smallest_eigenvalue", _curve("smallest_eigenvalue", "smallest_residual", "smallest eigenvalue")),
    ("trace", _curve("trace", "trace_stderr", "trace", log=True)),
    ("barrier", _curve("barrier", None, "barrier to the next (nats)")),
    ("path", _trajectory),
)
