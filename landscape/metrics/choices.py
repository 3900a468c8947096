"""What the command line offers to choose from: read before any numerics are imported."""

from typing import Literal, get_args

Binning = Literal["right", "authors"]
BINNINGS: tuple[Binning, ...] = get_args(Binning)
