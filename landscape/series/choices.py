"""What the command line offers to choose from: read before any numerics are imported."""

from typing import Literal, get_args

Part = Literal["loss", "top", "smallest", "trace", "path", "barrier"]
PARTS: tuple[Part, ...] = get_args(Part)
# The smallest eigenvalue costs as much as all else together, a barrier a line of passes between any two neighbours.
USUAL: tuple[Part, ...] = ("loss", "top", "trace", "path")
