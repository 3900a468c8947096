"""Ablations: what each change of the network does to curvature, feature maps and predictions."""

from collections.abc import Callable

import numpy as np
import xarray
from matplotlib.figure import Figure

from figures.sources import Drawing
from landscape import plotting
from landscape.hessian import sampling
from landscape.look.comparison import stage_ends
from landscape.metrics.confidence import Z

Point = tuple[float, float, float]


def _metric(name: str, scale: float) -> Callable[[xarray.Dataset], Point]:
    def read(curve: xarray.Dataset) -> Point:
        value, low, high = (scale * float(curve[which][-1]) for which in (name, f"{name}_low", f"{name}_high"))
        return value, low, high

    return read


def _eigenvalue(result: xarray.Dataset) -> Point:
    value, (low, high) = float(result["eigenvalue"][0]), (float(end[0]) for end in sampling.interval(result))
    return value, low, high


def _model_std(result: xarray.Dataset) -> Point:
    ends = stage_ends(result)
    value = float(np.exp(np.mean(np.log(result["model_std"].values[ends]))))
    relative = float(np.mean(result["model_std_stderr"].values[ends] / result["model_std"].values[ends]))
    return value, value * (1 - Z * relative), value * (1 + Z * relative)


def _delta_at_pi(result: xarray.Dataset) -> Point:
    chosen = result["delta_at_pi_of_image"].sel(dropout="off", path="half_diagonal").values[stage_ends(result)]
    # A map of one pixel has no frequency but zero.
    of_image = chosen[np.isfinite(chosen).all(1)].mean(0)
    value, error = float(of_image.mean()), Z * float(of_image.std(ddof=1)) / len(of_image) ** 0.5
    return value, value - error, value + error


PANELS: tuple[tuple[str, str, Callable[[xarray.Dataset], Point]], ...] = (
    ("predictions", "NLL (nats)", _metric("nll", 1.0)),
    ("predictions", "accuracy (%)", _metric("accuracy", 100.0)),
    ("predictions", "ECE (%)", _metric("ece", 100.0)),
    ("hessian", "top eigenvalue\n(nats)", _eigenvalue),
    ("feature_maps", "model\nuncertainty", _model_std),
    ("fourier", r"$\Delta\log A(\pi)$", _delta_at_pi),
)


def draw(drawing: Drawing) -> Figure:
    """One row per kind, one panel per measure, a mark per seed with its 95 % interval over images.

    The dashed line is the baseline's mean over seeds.
    """
    labels = list(dict.fromkeys(entry.label for entry in drawing.entries))
    seeds = sorted({entry.seed for entry in drawing.entries})
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, (0.18 + 0.06 * len(seeds)) * len(labels) + 1.2)
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (instrument, title, read) in zip(panels, PANELS, strict=True):
            baseline = []
            for entry in drawing.of(instrument):
                value, low, high = read(entry.dataset)
                row = labels.index(entry.label) + 0.2 * (seeds.index(entry.seed) - (len(seeds) - 1) / 2)
                # The baseline and the paper's own variant have the colours of all pictures, what is changed is black.
                color = entry.color if entry.color != plotting.PUBLISHED else plotting.ink()
                axes.plot([low, high], [row, row], color=color)
                axes.plot(value, row, plotting.MARKERS[entry.seed % len(plotting.MARKERS)], color=color)
                if entry.kind == "mcdo":
                    baseline.append(value)
            if baseline:
                axes.axvline(np.mean(baseline), color=plotting.kind_color("mcdo"), linewidth=0.7, linestyle="--")
            axes.set_xlabel(title)
            axes.locator_params(axis="x", nbins=3)
        plotting.letter(panels)
        average = plotting.mark("MC dropout, the baseline", "", line="--", color=plotting.kind_color("mcdo"))
        of_seed = plotting.mark("95 % over images, a mark per seed", "o", line="-")
        figure.legend(handles=[average, of_seed], loc="outside lower center", ncols=2)
        figure.axes[0].set_yticks(range(len(labels)), labels)
        figure.axes[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure
