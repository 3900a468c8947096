"""Tables as text."""

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
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place and right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def side_by_side(results: "Sequence[xarray.Dataset]", rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """One column per network, one row per label and text of its result; `notes` below."""
    head = ["", *[str(result.attrs.get("name", "")) for result in results]]
    return "\n".join([columns(head, [[label, *map(cell, results)] for label, cell in rows]), *notes])


def value(name: str, spec: str = ".5g", error: str | None = None, error_spec: str = ".1g", **at: object) -> Cell:
    """A variable of a result as text, with ``± error`` behind it where one is named; `at` selects by coordinates."""

    def cell(result: "xarray.Dataset") -> str:
        chosen = result.sel(at) if at else result
        text = f"{float(chosen[name]):{spec}}"
        return text if error is None else f"{text} ± {float(chosen[error]):{error_spec}}"

    return cell


def attribute(name: str, spec: str = ",.0f") -> Cell:
    """A number among the attributes of a result as text; a count by default."""
    return lambda result: f"{float(result.attrs[name]):{spec}}"


def by_rank(results: "Sequence[xarray.Dataset]", label: str, cell: Cell) -> Iterator[Row]:
    """One row per rank that all results have: ``label 1``, ``label 2`` and so on."""

    def at(place: int) -> Cell:
        return lambda result: cell(result.isel(rank=place))

    for place in range(min(result.sizes["rank"] for result in results)):
        yield f"{label} {place + 1}", at(place)
