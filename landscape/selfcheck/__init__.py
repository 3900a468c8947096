"""Whether the numbers can be trusted on a network of the user's own."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.selfcheck.check import Check, blur_checks, curvature_checks, network_blur_checks, plain_product_check

__all__ = ["Check", "blur_checks", "curvature_checks", "network_blur_checks", "plain_product_check"]

lazy.attach(__name__)
