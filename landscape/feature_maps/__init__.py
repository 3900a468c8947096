"""Feature maps by depth: what dropout noise does to them, and what they look like."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.feature_maps import maps as maps, picture as picture, tables as tables
    from landscape.feature_maps.uncertainty import measure as measure


lazy.attach(__name__)
