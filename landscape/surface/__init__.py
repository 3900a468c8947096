"""Loss surfaces: the objective over lines and planes of weight space."""

from landscape.surface.directions import Directions
from landscape.surface.measure import line, plane

__all__ = ["Directions", "line", "plane"]
