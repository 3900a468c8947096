"""Loss surfaces: the objective over lines and planes of weight space."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.surface import (
        curvature as curvature,
        html as html,
        pictures as pictures,
        summary as summary,
        table as table,
        vtp as vtp,
    )
    from landscape.surface.directions import Directions as Directions
    from landscape.surface.measure import line as line, plane as plane


lazy.attach(__name__)
