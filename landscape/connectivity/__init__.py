"""Mode connectivity: what lies between networks that were trained apart, with and without their channels matched."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.connectivity import picture as picture
    from landscape.connectivity.alignment import (
        Alignment as Alignment,
        align as align,
        symmetries as symmetries,
    )
    from landscape.connectivity.curve import bend as bend
    from landscape.connectivity.matching import Match as Match, match as match
    from landscape.connectivity.measure import connect as connect
    from landscape.connectivity.permutations import Symmetries as Symmetries


lazy.attach(__name__)
