"""What the command line offers to choose from: read before any numerics are imported."""

from typing import Literal, get_args

Style = Literal["contour", "3d", "profile"]
STYLES: tuple[Style, ...] = get_args(Style)
