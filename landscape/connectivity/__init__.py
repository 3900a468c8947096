"""Mode connectivity: what lies between networks that were trained apart, with and without their channels matched."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.connectivity import picture
    from landscape.connectivity.alignment import Alignment, align, symmetries
    from landscape.connectivity.curve import bend
    from landscape.connectivity.matching import Match, match
    from landscape.connectivity.measure import connect
    from landscape.connectivity.permutations import Symmetries

__all__ = ["Alignment", "Match", "Symmetries", "align", "bend", "connect", "match", "picture", "symmetries"]

lazy.attach(__name__)
