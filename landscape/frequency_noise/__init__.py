"""Robustness to noise by frequency band."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.frequency_noise import picture as picture
    from landscape.frequency_noise.robustness import drops_compared as drops_compared, measure as measure


lazy.attach(__name__)
