"""One look for all pictures: colour-blind-safe colours, one per kind, vector output, provenance inside the file."""

import io
import json
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

import matplotlib
import numpy as np
import xarray
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from scipy.special import stdtrit

from landscape.errors import LandscapeError, printable
from landscape.store.files import write_whole

# Okabe & Ito (2008), distinguishable with every common colour-vision deficiency; yellow left out: too light on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SEQUENTIAL = "viridis"
PUBLISHED = "#8C8C8C"
# Behind the curves, where something happens.
SHADE = "#B0B0B0"

# Widths of one and of two columns of a paper, in inches.
ONE_COLUMN, TWO_COLUMNS = 3.3, 6.9
# Kind of network -> label and place in COLORS: the same in every picture. Those of the paper; studies name more.
KINDS: dict[str, tuple[str, int]] = {
    "mcdo": ("MC dropout", 0),
    "mcdo-smooth": ("MC dropout + smooth", 1),
    "dnn": ("deterministic", 4),
    "dnn-smooth": ("deterministic + smooth", 5),
    "mcdo-mlp": ("MLP head", 2),
    "mcdo-preact": ("pre-activation", 3),
    # With the colours of two that are not shown beside them.
    "vit": ("vision transformer", 2),
    "vit-smooth": ("vision transformer + blur of tokens", 3),
}
# How names of our recipes say the kind of network.
_RECIPE = re.compile(
    r"(?P<data>digits|cifar10|cifar100-small|cifar100-medium|converged|cifar100-paper)-(?P<kind>.+?)"
    r"(?:-after(?P<epochs>\d+))?(?:-seed(?P<seed>\d+))?"
)
# How other names say their seed.
_SEEDED = re.compile(r"(?P<kind>.+?)[-_.]?seed[-_]?(?P<seed>\d+)")
_ALIASES = {
    "plain": "mcdo",
    "smooth": "mcdo-smooth",
    "deterministic": "dnn",
    "deterministic-smooth": "dnn-smooth",
    "resnet_mcdo_18": "mcdo",
    "resnet_mcdo_smoothing_18": "mcdo-smooth",
    "resnet_dnn_18": "dnn",
    "resnet_dnn_smoothing_18": "dnn-smooth",
}

STYLES = ("paper", "screen", "dark")
_PAPER: dict[str, Any] = {
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    # 7 and 8 points at print size, the least that journals accept.
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "figure.titlesize": 8,
    "font.size": 8,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    # Text stays text in vector files, so that a journal can change the font.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "landscape",  # else names inside are random: the same picture, the same bytes
}
# Sizes of the screen's picture are the paper's times this; its pixels suit a slide or a page.
_SCALE = {"paper": 1.0, "screen": 1.5, "dark": 1.5}
_SCALED = ("size", "linewidth", "width", "markersize")
_DARK_INK, _DARK_PAGE = "#E6E6E6", "#14171A"
_DARK: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _DARK_INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), _DARK_PAGE),
    "grid.color": _DARK_INK,
    "grid.alpha": 0.18,
}
_chosen: ContextVar[str] = ContextVar("style", default="paper")
FORMATS = (".pdf", ".png", ".svg")


@dataclass(frozen=True)
class Group:
    """Results of one kind of network, which share a colour and a line of the legend.

    Attributes
    ----------
    label, color, marker
        How they are shown.
    results
        One for each training, by seed.
    """

    label: str
    color: str
    marker: str
    results: list[xarray.Dataset] = field(default_factory=list)


def kind_color(kind: str) -> str:
    """Colour of a kind of network, grey for a kind without one of its own."""
    return COLORS[KINDS[kind][1]] if kind in KINDS else PUBLISHED


def groups(results: Sequence[xarray.Dataset], *, together: bool = True) -> list[Group]:
    """Results by kind of network, with labels for people and the kind's own colour.

    What the name of one of our recipes says decides (``cifar100-small-mcdo-smooth-seed1`` is *MC dropout + smooth*);
    any other network is a kind of its own, with its name but for the seed and the next colour that is free.

    Parameters
    ----------
    results
        With the attribute ``name``.
    together
        Whether trainings of a kind that differ by their seed alone share a group.
    """
    named = [_identified(result, number) for number, result in enumerate(results)]
    data = {each["data"] for each in named if each["data"]}
    seeds: dict[tuple[str, str, str], set[str]] = {}
    for each in named:
        seeds.setdefault((each["data"], each["kind"], each["epochs"]), set()).add(each["seed"])
    taken = {KINDS[each["kind"]][1] for each in named if each["kind"] in KINDS}
    free = iter([number for number in range(len(COLORS)) if number not in taken] * (1 + len(named)))
    by_kind: dict[tuple[str, ...], Group] = {}
    colors: dict[str, int] = {kind: number for kind, (_, number) in KINDS.items()}
    for result, each in zip(results, named, strict=True):
        same = (each["data"], each["kind"], each["epochs"])
        where = same if together else (*same, each["seed"])
        if where not in by_kind:
            label = KINDS[each["kind"]][0] if each["kind"] in KINDS else each["kind"]
            label += f" after {each['epochs']} epochs" if each["epochs"] else ""
            label += f" ({each['data']})" if len(data) > 1 and each["data"] else ""
            label += f", seed {each['seed']}" if not together and len(seeds[same]) > 1 else ""
            if each["kind"] not in colors:
                colors[each["kind"]] = next(free)
            by_kind[where] = Group(plain(label), COLORS[colors[each["kind"]]], MARKERS[len(by_kind) % len(MARKERS)])
        by_kind[where].results.append(result)
    return list(by_kind.values())


def labels(results: Sequence[xarray.Dataset]) -> list[Group]:
    """One group for each result, in order: its label, colour and marker."""
    alone = groups(results, together=False)
    of = {id(result): group for group in alone for result in group.results}
    return [of[id(result)] for result in results]


def groups_over(results: Sequence[xarray.Dataset], across: str) -> list[Group]:
    """`groups`, where trainings of a kind stand together only if all of them were measured at the same places."""
    whole = groups(results)
    same = all(
        np.array_equal(each[across].values, group.results[0][across].values)
        for group in whole
        for each in group.results
    )
    return whole if same else groups(results, together=False)


def _identified(result: xarray.Dataset, number: int) -> dict[str, str]:
    name = str(result.attrs.get("name", f"network {number + 1}"))
    match = _RECIPE.fullmatch(name)
    kind = _ALIASES.get(match["kind"], match["kind"]) if match else name
    if match is None or kind not in KINDS:
        seeded = _SEEDED.fullmatch(name)
        return {"data": "", "epochs": "", **(seeded.groupdict() if seeded else {"kind": name, "seed": ""})}
    return {"data": match["data"], "kind": kind, "epochs": match["epochs"] or "", "seed": match["seed"] or "0"}


def curve(
    axes: Axes,
    group: Group,
    across: np.ndarray,
    values: Sequence[np.ndarray],
    errors: Sequence[np.ndarray | tuple[np.ndarray, np.ndarray]] = (),
    *,
    label: str | None = None,
    dashes: str = "-",
    marker: str | None = None,
) -> np.ndarray:
    """A curve of a kind of network: its mean over trainings, a band, and thin lines behind.

    Parameters
    ----------
    across
        (m,) places, the same for all trainings.
    values
        One (m,) curve for each training.
    errors
        Of the one training, half the width of its 95 % band or its two ends; with several trainings, which differ by
        more than their own errors, the band is the 95 % t interval of their mean, from three trainings on.

    Returns
    -------
    ndarray
        (m,) what is drawn thick.
    """
    stacked = np.array(values, dtype=float)
    mean: np.ndarray = stacked.mean(0)
    count = len(stacked)
    low = high = None
    if count == 1 and len(errors):
        ends = errors[0]
        low, high = ends if isinstance(ends, tuple) else (mean - ends, mean + ends)
    elif count > 2:
        half = stdtrit(count - 1, 0.975) * stacked.std(0, ddof=1) / count**0.5
        low, high = mean - half, mean + half
    if low is not None and high is not None:
        axes.fill_between(across, low, high, color=group.color, alpha=0.18, linewidth=0)
    if count > 1:
        for each in stacked:
            axes.plot(across, each, dashes, color=group.color, linewidth=0.4, alpha=0.6)
    axes.plot(across, mean, dashes, color=group.color, marker=marker, label=label or group.label)
    return mean


def explained(results: Sequence[xarray.Dataset], of_one: str) -> str:
    """What bands and thin lines are, for the legend's title: `of_one` where no kind has several trainings."""
    return seeds_explained([len(group.results) for group in groups(results)], of_one)


def seeds_explained(counts: Sequence[int], of_one: str) -> str:
    """The same, from the number of trainings of each kind."""
    most = max(counts, default=1)
    if most == 1:
        return of_one
    band = "band: 95 % of the mean (t); " if most > 2 else ""
    return f"thick: mean over trainings; {band}thin: each training"


def letter(panels: Sequence[Axes]) -> None:
    """Panel letters a, b, ... before the titles; one panel needs none."""
    for mark, axes in zip(ascii_lowercase, panels if len(panels) > 1 else (), strict=False):
        title = axes.get_title(loc="left")
        axes.set_title(rf"$\bf{{{mark}}}$" + (f"  {title}" if title else ""), loc="left")


def log_scale(axes: Axes, name: Literal["x", "y"], *, ticks: int = 6) -> None:
    """Make an axis logarithmic, with about so many ticks in plain numbers, however little it spans.

    Call it when all is drawn: matplotlib's own ticks are powers of ten, of which a panel may show one or none.
    """
    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axes.get_xlim() if name == "x" else axes.get_ylim()
    decades = math.log10(high / low)
    # Multiples of the powers of ten, from the most to the fewest: the first that are few enough.
    several = ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))
    chosen = next((each for each in several if len(each) * decades <= ticks), (1,))
    # Within less than a factor of two, steps are equal.
    locator = LogLocator(subs=chosen, numticks=ticks + 4) if decades > 0.3 else MaxNLocator(ticks)
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(axis=name, which="minor", length=0)
    axis.set_minor_formatter(NullFormatter())


def below(
    figure: FigureBase, axes: Axes, *, columns: int = 3, title: str | None = None, extra: Sequence[Line2D] = ()
) -> None:
    """One legend below all panels, each label once, with what bands and marks mean."""
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(reversed(names), reversed(handles), strict=True))
    order = [*dict.fromkeys(names)]
    figure.legend(
        [*[unique[name] for name in order], *extra],
        [*order, *[str(each.get_label()) for each in extra]],
        loc="outside lower center",
        ncols=columns,
        title=title,
    )


def head(figure: Figure, text: str) -> None:
    """Small lines above all panels: of what the figure is."""
    scale = _SCALE[_chosen.get()]
    # About 20 characters of this size fill an inch; lines break where the text has semicolons, or else anywhere.
    width, lines = int(20 * figure.get_size_inches()[0] / scale), [""]
    for part in plain(text).split("; "):
        if lines[-1] and len(lines[-1]) + len(part) + 2 > width:
            lines[-1] += ";"
            lines.append("")
        lines[-1] += f"; {part}" if lines[-1] else part
    wrapped = [short for line in lines for short in textwrap.wrap(line, width)]
    figure.suptitle("\n".join(wrapped), x=0.01, ha="left", fontsize=6.5 * scale)


def mark(
    label: str,
    marker: str = "o",
    *,
    filled: bool = True,
    line: Literal["none", "-", "--"] = "none",
    color: str | None = None,
) -> Line2D:
    """An entry of a legend that explains a mark or a kind of line."""
    shown = color or ink()
    return Line2D(
        [], [], marker=marker, linestyle=line, color=shown, markerfacecolor=shown if filled else page(), label=label
    )


def ink() -> str:
    """Colour of text and axes in the style that is in force."""
    return str(matplotlib.rcParams["text.color"])


def page() -> str:
    """Colour behind the panels in the style that is in force."""
    return str(matplotlib.rcParams["axes.facecolor"])


def plain(text: object) -> str:
    """Text from a file or a command line for a label: harmless to SVG and PDF, and never read as mathematics."""
    return printable(text).replace("$", r"\$")


@contextmanager
def using(name: str) -> Iterator[None]:
    """Draw in the style ``paper``, ``screen`` or ``dark`` inside; on return the earlier one is in force."""
    if name not in STYLES:
        raise LandscapeError(f"no style {name!r} of pictures: choose one of {', '.join(STYLES)}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


@contextmanager
def style() -> Iterator[None]:
    """Our look while drawing; the caller's matplotlib settings are as before afterwards."""
    factor = _SCALE[_chosen.get()]
    settings = {
        name: factor * value if name.split(".")[-1].endswith(_SCALED) and not isinstance(value, bool) else value
        for name, value in _PAPER.items()
    }
    if factor > 1:
        settings["savefig.dpi"] = 150
    settings |= _DARK if _chosen.get() == "dark" else {}
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        yield


def figure(width: float = TWO_COLUMNS, height: float = 2.8) -> Figure:
    """An empty figure, inches on paper, that needs no display and is known to no global list. Use inside `style()`."""
    factor = _SCALE[_chosen.get()]
    empty = Figure(figsize=(factor * width, factor * height))
    FigureCanvasAgg(empty)
    return empty


def save(figure: Figure, path: Path | str, provenance: Mapping[str, Any] | None = None) -> Path:
    """Write a figure as PDF, PNG or SVG by the name's ending, with `provenance` as JSON in its metadata.

    Raises
    ------
    LandscapeError
        For another ending, or when the folder cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise LandscapeError(f"cannot draw to {path}: the name must end in one of {', '.join(FORMATS)}")
    text = json.dumps(dict(provenance or {}), sort_keys=True, default=str)
    field = "Keywords" if path.suffix.lower() == ".pdf" else "Description"
    # Files of the same content have the same bytes: no date inside.
    undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}[path.suffix.lower()]
    for label in figure.findobj(Text):
        assert isinstance(label, Text)
        harmless = "\n".join(map(printable, label.get_text().split("\n")))
        if harmless != label.get_text():
            label.set_text(harmless)
    content = io.BytesIO()
    with style():
        figure.savefig(content, format=path.suffix[1:].lower(), metadata={field: text, **undated})
    write_whole(path, content.getbuffer())
    return path


def provenance(results: Sequence[xarray.Dataset]) -> dict[str, Any]:
    """Which results a picture shows, and which command drew it."""
    names = ("name", "key", "protocol_hash", "checkpoint_sha256", "images_sha256", "source")
    return {
        "command": str(results[0].attrs.get("command", "")) if len(results) else "",
        "results": [{name: str(each.attrs[name]) for name in names if name in each.attrs} for each in results],
    }


def finished(figure: Figure, path: Path | str | None, results: Sequence[xarray.Dataset]) -> Figure:
    """The figure, saved with its `provenance` where there is a path."""
    if path is not None:
        save(figure, path, provenance(results))
    return figure
