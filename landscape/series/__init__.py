"""Curvature along a training, from its checkpoints."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.series import order as order, picture as picture
    from landscape.series.measure import along as along


lazy.attach(__name__)
