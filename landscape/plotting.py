"""One look for all pictures: colour-blind-safe colours, vector output, provenance inside the file."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import xarray
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from landscape.errors import LandscapeError, printable
from landscape.store.files import write_whole

# Okabe & Ito (2008), distinguishable with every common colour-vision deficiency; yellow left out: too light on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"
PUBLISHED = "#8C8C8C"

STYLE: dict[str, Any] = {
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "font.size": 9,
    "lines.linewidth": 1.4,
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    # Text stays text in vector files, so that a journal can change the font.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
FORMATS = (".pdf", ".png", ".svg")


def plain(text: object) -> str:
    """Text from a file or a command line for a label: harmless to SVG and PDF, and never read as mathematics."""
    return printable(text).replace("$", r"\$")


def name_of(result: xarray.Dataset, place: int, kind: str = "network") -> str:
    """Label of a result: its name, or its number."""
    return plain(result.attrs.get("name", f"{kind} {place + 1}"))


@contextmanager
def style() -> Iterator[None]:
    """Our look while drawing; the caller's matplotlib settings are as before afterwards."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        yield


def figure(width: float = 6.0, height: float = 3.6) -> Figure:
    """An empty figure, sizes in inches, that needs no display and is known to no global list. Use inside `style()`."""
    made = Figure(figsize=(width, height))
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: Path | str, provenance: Mapping[str, Any] | None = None) -> Path:
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
    for label in made.findobj(Text):
        assert isinstance(label, Text)
        harmless = "\n".join(map(printable, label.get_text().split("\n")))
        if harmless != label.get_text():
            label.set_text(harmless)
    content = io.BytesIO()
    with style():
        made.savefig(content, format=path.suffix[1:].lower(), metadata={field: text, **undated})
    write_whole(path, content.getbuffer())
    return path
