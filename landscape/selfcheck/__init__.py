"""Whether the numbers can be trusted on a network of the user's own."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.selfcheck.blurs import (
        blur_checks as blur_checks,
        network_blur_checks as network_blur_checks,
    )
    from landscape.selfcheck.check import Check as Check
    from landscape.selfcheck.curvature import (
        curvature_checks as curvature_checks,
        plain_checks as plain_checks,
    )


lazy.attach(__name__)
