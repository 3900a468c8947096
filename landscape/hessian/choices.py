"""What the command line offers to choose from: read before any numerics are imported."""

from typing import Literal, get_args

Part = Literal["top", "trace", "density"]
PARTS: tuple[Part, ...] = get_args(Part)
