"""Loss surfaces: the objective over lines and planes of weight space."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.surface import curvature, html, pictures, summary, table, vtp
    from landscape.surface.directions import Directions
    from landscape.surface.measure import line, plane

__all__ = [
    "Directions",
    "curvature",
    "html",
    "line",
    "pictures",
    "plane",
    "summary",
    "table",
    "vtp",
]

lazy.attach(__name__)
