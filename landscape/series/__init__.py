"""Curvature along a training, from its checkpoints."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.series import order, picture
    from landscape.series.measure import along

__all__ = ["along", "order", "picture"]

lazy.attach(__name__)
