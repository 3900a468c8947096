"""Pictures of robustness: box plots by severity, accuracy under attack."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape import plotting
from landscape.metrics import METRICS
from landscape.metrics.confidence import Z

SHOWN = ("accuracy", "nll", "ece")
# Corruptions that a box needs.
FEWEST = 4


def draw(
    results: Sequence[xarray.Dataset],
    path: Path | None = None,
    *,
    baseline: xarray.Dataset | None = None,
    metrics: Sequence[str] = SHOWN,
) -> Figure:
    """Metrics on corrupted images: one box per network and severity, over corruptions.

    Parameters
    ----------
    results
        What `landscape.robustness.corrupted.measure` gives, or published tables as
        `landscape.store.published.read_corrupted` reads them.
    path
        Where to save the picture (.pdf, .png, .svg).
    baseline
        Drawn in grey beside them.
    metrics
        Names of the metrics, one panel each.
    """
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 2.9)
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, name in zip(panels, metrics, strict=True):
            boxes(axes, results, name, baseline=baseline)
        plotting.letter(panels)
        plotting.below(figure, panels[0], title="boxes: quartiles over corruptions; whiskers: all of them")
    return plotting.finished(figure, path, results)


def boxes(axes: Axes, results: Sequence[xarray.Dataset], name: str, *, baseline: xarray.Dataset | None = None) -> None:
    """One metric by severity: quartiles over corruptions, whiskers to the extremes.

    Fewer than `FEWEST` corruptions have no quartiles worth the name: they are drawn as points.
    """
    factor, unit = (100.0, "%") if METRICS[name].unit == "1" else (1.0, METRICS[name].unit)
    shown = [*results, *([] if baseline is None else [baseline])]
    width = 0.8 / len(shown)
    looks = plotting.labels(shown)
    for number, result in enumerate(shown):
        ours = number < len(results)
        color = looks[number].color if ours else plotting.PUBLISHED
        severities = result["severity"].values
        table = factor * result[name].transpose("severity", "corruption").values
        where = severities + (number + 0.5) * width - 0.4
        if table.shape[1] < FEWEST:
            for points in table.T:
                axes.plot(where, points, looks[number].marker, color=color, alpha=0.7)
            axes.plot([], [], looks[number].marker, color=color, label=looks[number].label)
            continue
        drawn = axes.boxplot(
            [row[np.isfinite(row)] for row in table],
            positions=where,
            widths=0.85 * width,
            whis=(0, 100),
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": plotting.ink(), "linewidth": 0.8},
        )
        for box in drawn["boxes"]:
            box.set(facecolor=(color, 0.5), edgecolor=color)
        for line in (*drawn["whiskers"], *drawn["caps"]):
            line.set_color(color)
        drawn["boxes"][0].set_label(looks[number].label)
    axes.set_xticks(sorted({int(severity) for result in shown for severity in result["severity"].values}))
    axes.set_xlabel("severity")
    axes.set_ylabel(f"{METRICS[name].label} ({unit})")


def draw_attacks(results: Sequence[xarray.Dataset], path: Path | None = None) -> Figure:
    """Accuracy against the attack's radius, one panel per kind; bars are 95 % over images."""
    kinds = list(dict.fromkeys(str(kind) for result in results for kind in result["kind"].values if kind != "none"))
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS if len(kinds) > 1 else plotting.ONE_COLUMN, 2.7)
        panels = figure.subplots(1, max(len(kinds), 1), squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=False):
            for result, look in zip(results, plotting.labels(results), strict=True):
                chosen = np.isin(result["kind"].values, ["none", kind])
                part = result.isel(attack=np.flatnonzero(chosen)).sortby("epsilon")
                axes.errorbar(
                    255 * part["epsilon"].values,
                    100 * part["accuracy"].values,
                    yerr=100 * Z * part["accuracy_stderr"].values,
                    color=look.color,
                    marker=look.marker,
                    capsize=2,
                    label=look.label,
                )
            axes.set(xlabel="radius (1/255 of the pixels' range)", ylabel="accuracy (%)", title=kind.upper())
        plotting.letter(panels)
        plotting.below(figure, panels[0], title="bars: 95 % over images")
    return plotting.finished(figure, path, results)
