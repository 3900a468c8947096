"""Tables as text."""

from collections.abc import Sequence

from landscape.errors import printable


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
