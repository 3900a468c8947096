"""The result files that Park & Kim published beside their papers: CSV without a header, read by position.

Sources: github.com/xxxnell/how-do-vits-work, ``resources/results``, of "Blurs Behave Like Ensembles" (ICML 2022, arXiv
2105.12639) and "How Do Vision Transformers Work?" (ICLR 2022, arXiv 2202.06709).
"""

import csv
import math
from pathlib import Path

import numpy as np
import xarray

from landscape.errors import LandscapeError, printable

# The largest published table has 90 thousand bytes; this is a surface of about 300 x 300 cells.
_BYTES = 32 * 2**20
_FARTHEST = 1e6  # coordinate

_CUTOFFS = {"cutoff_0": 0.0, "cutoff_90": 0.9}
_METRICS = (
    "nll",
    *_CUTOFFS,
    "accuracy",
    "accuracy_90",
    "uncertain_0",
    "uncertain_90",
    "iou",
    "iou_90",
    "frequency_0",
    "frequency_90",
    "top5",
    "brier",
    "ece",
)
SURFACE_COLUMNS: dict[int, tuple[str, ...]] = {
    16: ("alpha", "beta", *_METRICS),
    # l1 and l2: sums over tensors of each tensor's norm, not squared.
    19: ("alpha", "beta", "l1", "l2", *_METRICS, "signed_ece"),
}
CORRUPTED_COLUMNS: dict[int, tuple[str, ...]] = {
    16: ("severity", "corruption", *_METRICS),
    17: ("severity", "corruption", *_METRICS, "signed_ece"),
}


def read_surface(path: Path | str) -> xarray.Dataset:
    """A published loss surface, e.g. ``cifar100_resnet_mcdo_18_x10_losslandscape.csv``.

    Returns
    -------
    xarray.Dataset
        Over ``(alpha, beta)``: ``nll`` (nats, as published, infinities included), ``accuracy``, ``accuracy_90``,
        ``uncertain_0``, ``uncertain_90``, ``iou``, ``iou_90``, ``frequency_0``, ``frequency_90``, ``top5``, ``brier``,
        ``ece``, and in the 19-column file ``l1``, ``l2`` (sums over tensors of unsquared norms) and ``signed_ece``.

    Raises
    ------
    LandscapeError
        When the file has another number of columns, text for a number, or is not a complete grid.
    """
    columns = _columns(Path(path), SURFACE_COLUMNS)
    # The authors' coordinates carry the rounding of a sum of steps.
    coordinates = {
        name: np.round(_bounded(_numbers(columns.pop(name), name, path), name, path), 9) for name in ("alpha", "beta")
    }
    return _grid(coordinates, columns, Path(path))


def read_corrupted(path: Path | str) -> xarray.Dataset:
    """Published metrics on corrupted images, e.g. ``cifar100_alexnet_dnn_corrupted.csv``.

    Returns
    -------
    xarray.Dataset
        Over ``(severity, corruption)``; the variables of `read_surface` without the norms.

    Raises
    ------
    LandscapeError
        As `read_surface`.
    """
    columns = _columns(Path(path), CORRUPTED_COLUMNS)
    severity = _bounded(_numbers(columns.pop("severity"), "severity", path), "severity", path).astype(np.int64)
    corruption = np.array([printable(name, 60) for name in columns.pop("corruption")])
    return _grid({"severity": severity, "corruption": corruption}, columns, Path(path))


def _columns(path: Path, layouts: dict[int, tuple[str, ...]]) -> dict[str, list[str]]:
    if not path.is_file():
        raise LandscapeError(f"no file {path}: give the CSV that the authors published")
    try:
        size = path.stat().st_size
        if size > _BYTES:
            raise LandscapeError(f"{path} has {size:,} bytes, more than any published table: it is another file")
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else printable(error, 100)
        raise LandscapeError(f"{path} is not a readable table ({reason}): it is not the published file") from None
    counts = sorted({len(row) for row in rows})
    if len(counts) != 1 or counts[0] not in layouts:
        raise LandscapeError(
            f"{path} has rows of {' and '.join(map(str, counts[:5])) or 'no'} columns, not of "
            f"{' or '.join(map(str, layouts))}: it is not the published file, or cut off"
        )
    names = layouts[counts[0]]
    return {name: [row[column] for row in rows] for column, name in enumerate(names)}


def _numbers(texts: list[str], name: str, path: Path | str) -> np.ndarray:
    try:
        return np.array([float(text) for text in texts])
    except ValueError as error:
        raise LandscapeError(
            f"{path}: column {name} holds no number ({printable(error, 100)}): the columns are not as published"
        ) from None


def _bounded(coordinates: np.ndarray, name: str, path: Path | str) -> np.ndarray:
    wrong = ~(np.abs(coordinates) <= _FARTHEST)
    if wrong.any():
        first = int(wrong.argmax())
        raise LandscapeError(f"{path}: {name} {coordinates[first]:g} of row {first + 1} is not a coordinate of a grid")
    return coordinates


def _grid(coordinates: dict[str, np.ndarray], columns: dict[str, list[str]], path: Path) -> xarray.Dataset:
    """The rows on the product of their coordinates, in order of first appearance (text) or size (numbers)."""
    values = {name: _numbers(texts, name, path) for name, texts in columns.items()}
    for name, cutoff in _CUTOFFS.items():
        if not (values.pop(name) == cutoff).all():
            raise LandscapeError(f"{path}: column {name} is not {cutoff} throughout: the columns are not as published")
    axes, places = {}, []
    for name, given in coordinates.items():
        axis, first, inverse = np.unique(given, return_index=True, return_inverse=True)
        # Text stands in the file's own order, numbers by size.
        order = np.argsort(first) if given.dtype.kind == "U" else np.arange(len(axis))
        axes[name] = axis[order]
        places.append(np.argsort(order)[inverse])
    indices = tuple(places)
    shape = tuple(len(axis) for axis in axes.values())
    rows = len(indices[0])
    # Counted before a grid is allocated: every row may have coordinates of its own.
    if math.prod(shape) != rows or len(np.unique(np.ravel_multi_index(indices, shape))) != rows:
        raise LandscapeError(
            f"{path} has {rows} rows for a grid of {' x '.join(map(str, shape))}: rows are missing or repeated"
        )
    variables = {}
    source = printable(path.name)
    for name, given in values.items():
        table = np.empty(shape)
        table[indices] = given
        variables[name] = (tuple(axes), table)
    return xarray.Dataset(variables, coords=dict(axes), attrs={"name": f"published: {source}", "source": source})
