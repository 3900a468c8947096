"""Robustness to noise by frequency band."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.frequency_noise import picture
    from landscape.frequency_noise.robustness import drops_compared, measure

__all__ = ["drops_compared", "measure", "picture"]

lazy.attach(__name__)
