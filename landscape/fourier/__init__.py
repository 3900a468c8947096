"""Fourier analysis of feature maps, and the frequency response of the layers between them."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.fourier import picture as picture, transfer as transfer
    from landscape.fourier.amplitude import measure as measure


lazy.attach(__name__)
