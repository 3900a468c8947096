"""The paper's networks by the authors' names, their smoothing layers and heads."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.nets.dropout import MCDropout
    from landscape.nets.families import FAMILIES, build, names, parameter_count
    from landscape.nets.heads import HEADS
    from landscape.nets.smoothing import VARIANTS, Blur
    from landscape.nets.surgery import Report, smooth, unsmooth

__all__ = [
    "FAMILIES",
    "HEADS",
    "VARIANTS",
    "Blur",
    "MCDropout",
    "Report",
    "build",
    "names",
    "parameter_count",
    "smooth",
    "unsmooth",
]

lazy.attach(__name__)
