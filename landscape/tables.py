"""Tables as text."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from landscape.errors import printable

if TYPE_CHECKING:
    import xarray

Cell = Callable[["xarray.Dataset"], str]
Row = tuple[str, Cell]


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True) -> str:
    """A table as text: the first column to the left, the others to the right (numbers) or left (words).

    Names from files are shown harmless to a terminal (`printable`).
    """
    lines = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index and right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def side_by_side(results: "Sequence[xarray.Dataset]", rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """One column per network, one row per label and text of its result; `notes` below."""
    head = ["", *[str(result.attrs.get("name", "")) for result in results]]
    return "\n".join([columns(head, [[label, *map(cell, results)] for label, cell in rows]), *notes])


def digits(value: float, error: float) -> str:
    """A number with no more digits than its error leaves: down to the second digit of the error.

    Examples
    --------
    >>> digits(193.4217, 5.8), digits(0.0312345, 0.00021), digits(1234567.0, 52000.0)
    ('193.4', '0.03123', '1235000')
    """
    if not (math.isfinite(value) and math.isfinite(error)) or error <= 0:
        return f"{value:.5g}"
    places = 1 - math.floor(math.log10(error))
    # A number much smaller than its error is as good as zero, and is shown to the error's own digits all the same.
    return f"{round(value, places) + 0.0:.{max(0, places)}f}"  # no minus before a zero


def with_error(value: float, error: float) -> str:
    """``value ± error``, both to the second digit of the error."""
    if not math.isfinite(error) or error <= 0:
        return f"{value:.5g} ± {error:.2g}"
    return f"{digits(value, error)} ± {digits(error, error)}"


def with_interval(value: float, low: float, high: float) -> str:
    """``value [low, high]``, all three to the second digit of half the interval's width; says where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:.4g} (no interval)"
    half = (high - low) / 2
    return f"{digits(value, half)} [{digits(low, half)}, {digits(high, half)}]"


def compared(
    what: str, names: Sequence[str], values: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> list[str]:
    """One sentence for each network but the first: how it compares, and whether intervals tell them apart.

    Intervals that overlap may still hide a difference that a paired comparison would find; the sentence claims no more
    than that they overlap.
    """
    lines = []
    for name, value, (low, high) in list(zip(names, values, intervals, strict=True))[1:]:
        (first, *_), (first_low, first_high) = values, intervals[0]
        if not (first > 0 and value > 0):
            continue
        factor = f"{what} of {name} is {value / first:.2g} times that of {names[0]}"
        if not all(map(math.isfinite, (low, high, first_low, first_high))):
            lines.append(f"{factor}; without intervals, nothing says whether other images would agree.")
        elif low > first_high or high < first_low:
            lines.append(f"{factor}: more than the choice of images explains, since the 95 % intervals do not meet.")
        else:
            lines.append(f"{factor}; the 95 % intervals overlap, so the choice of images alone may explain it.")
    return lines


def told_apart(
    what: str,
    one: str,
    other: str,
    where: Sequence[str],
    intervals: Sequence[tuple[float, float]],
    *,
    neutral: float = 0.0,
) -> str:
    """A sentence for intervals of paired differences (or of ratios, with `neutral` 1): where they leave no doubt.

    Examples
    --------
    >>> told_apart("the drop", "A", "B", ["0.1 pi", "0.5 pi"], [(0.1, 0.4), (-0.2, 0.3)])
    'the drop of B is higher than that of A at 0.1 pi; at 0.5 pi the choice of images alone may explain the difference.'
    """
    sides: dict[str, list[str]] = {"higher": [], "lower": [], "": []}
    for place, (low, high) in zip(where, intervals, strict=True):
        sides["higher" if low > neutral else "lower" if high < neutral else ""].append(place)

    def at(places: Sequence[str]) -> str:
        return "everywhere" if len(places) == len(where) > 1 else f"at {', '.join(places)}"

    parts: list[str] = []
    for side in ("higher", "lower"):
        if sides[side]:
            first = f"{what} of {other} is {side} than that of {one} " if not parts else f"{side} "
            parts.append(f"{first}{at(sides[side])}")
    if sides[""]:
        here = at(sides[""])
        subject = "" if parts else f"{what} of {other} and of {one}: "
        parts.append(f"{subject}{here} the choice of images alone may explain the difference")
    return f"{'; '.join(parts)}."


def value(name: str, spec: str = ".5g", error: str | None = None, error_spec: str = ".1g", **at: object) -> Cell:
    """A variable of a result as text, with ``± error`` behind it where one is named; `at` selects by coordinates."""

    def cell(result: "xarray.Dataset") -> str:
        chosen = result.sel(at) if at else result
        text = f"{float(chosen[name]):{spec}}"
        return text if error is None else f"{text} ± {float(chosen[error]):{error_spec}}"

    return cell


def estimate(name: str) -> Cell:
    """A variable as text, with its interval ``NAME_low`` to ``NAME_high`` behind it."""
    return lambda result: with_interval(*(float(result[each]) for each in (name, f"{name}_low", f"{name}_high")))


def attribute(name: str, spec: str = ",.0f") -> Cell:
    """A number among the attributes of a result as text; a count by default."""
    return lambda result: f"{float(result.attrs[name]):{spec}}"


def by_rank(results: "Sequence[xarray.Dataset]", label: str, cell: Cell) -> Iterator[Row]:
    """One row per rank that all results have: ``label 1``, ``label 2`` and so on."""

    def at(index: int) -> Cell:
        return lambda result: cell(result.isel(rank=index))

    for index in range(min(result.sizes["rank"] for result in results)):
        yield f"{label} {index + 1}", at(index)
