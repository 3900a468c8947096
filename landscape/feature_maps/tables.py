"""Shared by the command lines of instruments on feature maps: an argument, the cost, lines of tables."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from landscape import command, look, tables
from landscape.errors import LandscapeError

if TYPE_CHECKING:
    import xarray


def add_blocks(group: Any) -> None:
    """The argument that names blocks."""
    group.add_argument(
        "--blocks", metavar="PATTERN,...", help="names of blocks, e.g. 'layer*.*'; default: by structure"
    )


def plan(arguments: argparse.Namespace, subject: command.Subject) -> str:
    """Passes and seconds that the measurement will cost, estimated by timing a batch."""
    settings = command.pass_settings(arguments, subject)
    runs = look.forward.Passes(subject.checkpoint.model, subject.data, blocks=arguments.blocks, **settings)
    start, stop = runs.batches(0, len(runs))[0]
    images = runs.images(start, stop)
    runs.stochastic(images, start, range(1))
    started = time.perf_counter()
    runs.stochastic(images, start, range(2))
    seconds = (time.perf_counter() - started) / 2 / (stop - start)
    passes = arguments.passes if runs.dropout_calls else 1
    entries = sum(point.channels * point.height * point.width for point in runs.depths.points)
    memory = 4 * entries * runs.batch * runs.dtype.itemsize
    return (
        f"{subject.name}: {len(runs.depths)} points, {runs.dropout_calls} dropout layers; {len(runs)} {runs.examples} "
        f"x {passes} passes at {seconds * 1e3:.2g} ms, about {len(runs) * passes * seconds:.0f} s "
        f"and {memory / 2**20:.0f} MiB"
    )


def by_point(
    results: Sequence[xarray.Dataset],
    head: Callable[[xarray.Dataset], list[str]],
    cells: Callable[[xarray.Dataset], list[str]],
) -> str:
    """What was measured, and a table of it: one row per point, one group of columns per network.

    Parameters
    ----------
    results
        Over ``point``.
    head
        What a network's columns are called.
    cells
        What stands in them, from a network's result at one point; a network that lacks the point shows ``-``.
    """
    heads = [[f"{what} [{number}]" for what in head(result)] for number, result in enumerate(results, start=1)]
    rows = []
    for name in look.comparison.ordered_union([list(result["point"].values) for result in results]):
        row = [name, ""]
        for result, own in zip(results, heads, strict=True):
            if name not in result["point"].values:
                row += ["-"] * len(own)
                continue
            point = result.sel(point=name)
            row[1] = _map_size(point, row[1])
            row += cells(point)
        rows.append(row)
    table = tables.columns(["point", "map", *itertools.chain(*heads)], rows)
    return "\n".join([*(f"[{number}] {legend(result)}" for number, result in enumerate(results, start=1)), "", table])


def _map_size(point: xarray.Dataset, before: str) -> str:
    """Size of a map after the sizes of other networks' maps at this point, where they differ."""
    # A sequence has no height.
    size = "x".join(
        str(int(point[side])) for side in ("channels", "height", "width") if side != "height" or point[side] > 1
    )
    return size if before in ("", size) else f"{before}, {size}"


def legend(result: xarray.Dataset) -> str:
    """One line: which network was measured on which data, and how well it fits them."""
    attributes = result.attrs
    on = f"{attributes['images']} {attributes.get('examples', 'images')} of {attributes['data']}"
    words = [f"{attributes['name']} on {on}, {attributes['passes']} passes", command.fit_in_words(attributes)]
    return "; ".join(word for word in words if word)


def compared(results: Sequence[xarray.Dataset], variable: str, what: str, *, ratio: bool = True) -> list[str]:
    """Lines with the ratio (or difference) to the first network where both can be compared.

    Where either has smoothing layers, before them first: behind them is what the layers do to any map, too.
    """
    first = results[0]
    lines = []
    for number, other in enumerate(results[1:], start=2):
        smoothed = any("smoothing" in result["kind"].values for result in (first, other))
        sides = {"before smoothing layers": True, "behind them": False} if smoothed else {"after each stage": False}
        try:
            for side, before in sides.items():
                effect = look.comparison.paired(first, other, variable, before_smoothing=before)
                lines.append(f"{what} [{number}] {'/' if ratio else '-'} [1] {side} {_cells(effect, ratio)}")
                one, two = (str(result.attrs.get("name", at)) for result, at in ((first, 1), (other, number)))
                lines.append(_told_apart(effect, f"the {what}", one, two, ratio))
        except LandscapeError as error:
            lines.append(f"{what} [{number}] against [1]: {error}")
    return lines


def _cells(effect: xarray.Dataset, ratio: bool) -> str:
    """Effect, interval and effect size at each block."""
    values, intervals = effect["ratio" if ratio else "difference"], effect["ratio_interval" if ratio else "interval"]
    cells = [
        f"{block} {value:.3f} ({low:.3f} to {high:.3f}; {size:+.1f})"
        for block, value, (low, high), size in zip(
            effect["block"].values, values.values, intervals.values, effect["effect_size"].values, strict=True
        )
    ]
    return f"(95 % over images; effect size d_z): {', '.join(cells)}"


def _told_apart(effect: xarray.Dataset, what: str, one: str, two: str, ratio: bool) -> str:
    """Where the intervals leave no doubt, in words."""
    intervals = [(float(low), float(high)) for low, high in effect["ratio_interval" if ratio else "interval"].values]
    return tables.told_apart(what, one, two, [*effect["block"].values], intervals, neutral=1.0 if ratio else 0.0)
