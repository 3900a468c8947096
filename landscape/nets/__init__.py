"""The paper's networks by the authors' names, their smoothing layers and heads."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.nets.dropout import MCDropout as MCDropout
    from landscape.nets.families import (
        FAMILIES as FAMILIES,
        build as build,
        names as names,
        parameter_count as parameter_count,
        require_known as require_known,
        revision as revision,
    )
    from landscape.nets.heads import HEADS as HEADS
    from landscape.nets.smoothing import VARIANTS as VARIANTS, Blur as Blur
    from landscape.nets.surgery import (
        Report as Report,
        report as report,
        smooth as smooth,
        unsmooth as unsmooth,
    )


lazy.attach(__name__)
