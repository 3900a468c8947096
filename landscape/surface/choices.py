"""What the command line offers to choose from: read before any numerics are imported."""

from typing import Literal, get_args

View = Literal["contour", "3d", "profile"]
VIEWS: tuple[View, ...] = get_args(View)
