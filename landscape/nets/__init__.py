"""The paper's networks by the authors' names, their smoothing layers and heads."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.nets.dropout import MCDropout
    from landscape.nets.families import FAMILIES, build, names, parameter_count, require_known, revision
    from landscape.nets.heads import HEADS
    from landscape.nets.smoothing import VARIANTS, Blur
    from landscape.nets.surgery import Report, report, smooth, unsmooth

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
    "report",
    "require_known",
    "revision",
    "smooth",
    "unsmooth",
]

lazy.attach(__name__)
