"""Whether the numbers can be trusted on a network of the user's own."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.selfcheck.blurs import blur_checks, network_blur_checks
    from landscape.selfcheck.check import Check
    from landscape.selfcheck.curvature import curvature_checks, plain_checks

__all__ = ["Check", "blur_checks", "curvature_checks", "network_blur_checks", "plain_checks"]

lazy.attach(__name__)
