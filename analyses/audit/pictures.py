"""Pictures of an audit's report."""

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses.audit.panel import Audit
from analyses.audit.verdict import Effect
from landscape import plotting
from landscape.feature_maps.picture import DEPTH

ROLE_COLORS = {"baseline": plotting.COLORS[0], "variant": plotting.COLORS[1], "placebo": plotting.PUBLISHED}
SIZE = "ensemble size N"
VERDICT_COLORS = {
    "supported": plotting.COLORS[0],
    "against": plotting.COLORS[1],
    "undecided": plotting.PUBLISHED,
    "no verdict": plotting.PUBLISHED,
}


def all_of(audit: Audit) -> Iterator[tuple[str, Figure, str]]:
    """(name, picture, caption) of each."""
    yield (
        "effects",
        effects(audit),
        (
            "Effects of the variant with 95 % intervals (uncorrected), turned so that right is what is claimed and "
            "scaled row by row; small dots are seeds."
            + (" The placebo is below each in grey." if any(row.placebo is not None for row in audit.rows) else "")
        ),
    )
    curves: list[tuple[str, str, str, str, Callable[[xarray.Dataset], tuple[np.ndarray, np.ndarray]], str]] = [
        ("nll", "curves", SIZE, "NLL (nats)", _nll, "NLL of the averaged prediction on test images."),
        (
            "model-std",
            "feature_maps",
            DEPTH,
            "standard deviation over masks",
            _model_std,
            "Model uncertainty of feature maps, from block to block and behind smoothing layers.",
        ),
        (
            "delta-at-pi",
            "fourier",
            DEPTH,
            "relative log amplitude at pi",
            _delta_at_pi,
            "High-frequency amplitude of feature maps, from block to block and behind smoothing layers, masks off.",
        ),
        (
            "band-noise",
            "frequency_noise",
            "frequency of the noise (units of pi)",
            "loss of accuracy (points)",
            _band_noise,
            "Loss of accuracy under noise of equal energy in a ring of frequencies.",
        ),
        (
            "mini-batches",
            "mini_batches",
            "largest Hessian eigenvalue of a mini-batch",
            "share of mini-batches below",
            _distribution,
            "Max-eigenvalue spectrum: distribution over mini-batches of 16 training images.",
        ),
    ]
    for name, instrument, across, up, read, caption in curves:
        if instrument in audit.results[0]:
            shown = f"{caption} Thin lines are seeds, the thick line is their mean."
            yield name, lines(audit, instrument, across, up, read), shown


def numbers(figure: Figure) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the numbers behind a picture of curves; of long curves, 25 points each. Empty for other ones."""
    (axes,) = figure.axes
    rows = []
    for line in axes.lines:
        label = str(line.get_label())
        across, up = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        if label.startswith("_") or len(across) < 2:
            continue
        chosen = np.unique(np.linspace(0, len(across) - 1, min(len(across), 25)).round().astype(int))
        rows += [[label, f"{across[place]:.4g}", f"{up[place]:.4g}"] for place in chosen]
    return ["network", axes.get_xlabel(), axes.get_ylabel()], rows


@dataclass(frozen=True)
class Bar:
    """A claim's effect as a picture shows it.

    Attributes
    ----------
    head
        The claim.
    direction
        1 where more is claimed, -1 where less is.
    verdict
        Of the rule.
    effect, placebo
        Of the variant, and of the placebo where there is one.
    """

    head: str
    direction: int
    verdict: str
    effect: Effect
    placebo: Effect | None = None


def effects(audit: Audit) -> Figure:
    """All effects of an audit."""
    bars = [
        Bar(f"{row.claim.name} {row.claim.statement}", row.claim.direction, row.verdict, row.effect, row.placebo)
        for row in audit.rows
    ]
    return forest({"": bars})


def forest(columns: Mapping[str, Sequence[Bar]]) -> Figure:
    """Effects, one row per claim and one panel per column; what is unknown is said, not drawn.

    A row is scaled to its own longest bar, the same in all panels, so that they compare.
    """
    heads = list(dict.fromkeys(bar.head for bars in columns.values() for bar in bars))
    shown = [bar for bars in columns.values() for bar in bars]
    # Beside claims on one line each there is room for four panels.
    crowded = len(columns) > 4
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, (0.31 if crowded else 0.24) * len(heads) + 0.9)
        panels = np.atleast_1d(figure.subplots(1, len(columns), sharey=True))
        for axes, (title, bars) in zip(panels, columns.items(), strict=True):
            for bar in bars:
                ends = [end for each in shown if each.head == bar.head for end in _ends(each)]
                _draw_bar(axes, bar, heads.index(bar.head), max(ends, default=0.0) or 1.0)
            axes.axvline(0, color=plotting.ink(), linewidth=0.8)
            axes.set_xlim(-1.1, 1.1)
            axes.set_xticks([-0.6, 0.6], ["against", "as\nclaimed" if crowded else "as claimed"])
            axes.set_title(title)
            axes.grid(visible=False)
        panels[0].set_yticks(
            range(len(heads)), [textwrap.fill(head, 30, break_on_hyphens=False) if crowded else head for head in heads]
        )
        panels[0].set_ylim(len(heads) - 0.5, -0.6)
        plotting.letter(list(panels))
        marks = [
            plotting.mark("supported", "o", line="-", color=VERDICT_COLORS["supported"]),
            plotting.mark("against", "o", line="-", color=VERDICT_COLORS["against"]),
            plotting.mark("undecided", "o", line="-", filled=False, color=VERDICT_COLORS["undecided"]),
        ]
        if any(bar.placebo is not None for bar in shown):
            marks.append(plotting.mark("placebo", "s", line="-", color=ROLE_COLORS["placebo"]))
        figure.legend(handles=marks, loc="outside lower center", ncols=4)
    return figure


def _ends(bar: Bar) -> list[float]:
    known = [bar.effect] + ([bar.placebo] if bar.placebo is not None else [])
    ends = [end for each in known for end in (each.low, each.high, *each.of_seed)]
    return [abs(end) for end in ends if math.isfinite(end)]


def _draw_bar(axes: Axes, bar: Bar, place: int, scale: float) -> None:
    """Interval, estimate and seeds of a claim, and those of the placebo below."""
    styles = [(bar.effect, VERDICT_COLORS[bar.verdict], -0.12, "o")]
    styles += [] if bar.placebo is None else [(bar.placebo, ROLE_COLORS["placebo"], 0.22, "s")]
    for each, color, height, marker in styles:
        if not (math.isfinite(each.low) and math.isfinite(each.high)):
            # Without an interval, a place on this axis would say what is not known.
            if marker == "o":
                axes.text(0.03, place, "no interval", color=color, va="center", fontsize="small")
            continue
        sign = bar.direction / scale
        at = place + (height if bar.placebo is not None else 0.0)
        axes.plot([sign * each.low, sign * each.high], [at, at], color=color, linewidth=2 if marker == "o" else 1)
        axes.plot(sign * each.of_seed, [at + 0.2] * len(each.of_seed), ".", color=color, markersize=2.5)
        filled = bar.verdict in ("supported", "against") or marker == "s"
        face = color if filled else plotting.page()
        axes.plot(sign * each.estimate, at, marker, color=color, markerfacecolor=face)


def lines(
    audit: Audit,
    instrument: str,
    across: str,
    up: str,
    read: Callable[[xarray.Dataset], tuple[np.ndarray, np.ndarray]],
) -> Figure:
    """One curve a network; the mean of a role where its networks share places."""
    with plotting.style():
        figure = plotting.figure(4.8, 2.9)
        axes = figure.add_subplot()
        for role, color in ROLE_COLORS.items():
            found = [read(results[instrument]) for _, results in audit.of(role)]
            _draw(axes, found, color, plotting.plain(f"{role}: {audit.label(role)}"))
        axes.set_xlabel(across)
        if across == SIZE:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(up)
        plotting.below(figure, axes, columns=1)
    return figure


def _draw(axes: Axes, found: list[tuple[np.ndarray, np.ndarray]], color: str, label: str) -> None:
    if not found:
        return
    shared = all(np.array_equal(found[0][0], places, equal_nan=True) for places, _ in found)
    for number, (places, values) in enumerate(found):
        named = label if number == 0 and not shared else None
        axes.plot(places, values, color=color, linewidth=0.7, alpha=0.6, label=named)
    if shared:
        axes.plot(found[0][0], np.mean([values for _, values in found], axis=0), color=color, marker=".", label=label)


def _nll(result: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return result["size"].values, result["nll"].values


def _model_std(result: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return result["depth"].values, result["model_std"].values


def _delta_at_pi(result: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return result["depth"].values, result["delta_at_pi"].sel(dropout="off", path="half_diagonal").values


def _band_noise(result: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    drop = result["accuracy_drop"].sel(energy="matched")
    return result["frequency"].values, 100 * drop.values


def _distribution(result: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    largest = np.sort(result["eigenvalue"].values[:, 0])
    return largest, (np.arange(len(largest)) + 1) / len(largest)
