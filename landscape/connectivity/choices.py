"""What the command line offers to choose from: read before any numerics are imported."""

from typing import Literal, get_args

Part = Literal["line", "aligned", "curve"]
PARTS: tuple[Part, ...] = get_args(Part)
LABELS: dict[str, str] = {"line": "as trained", "aligned": "channels matched", "curve": "trained curve"}
# A curve has to be trained.
USUAL: tuple[Part, ...] = ("line", "aligned")
STEPS = 200
