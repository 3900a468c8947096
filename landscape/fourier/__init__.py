"""Fourier analysis of feature maps, and the frequency response of the layers between them."""

from landscape.fourier.amplitude import measure

__all__ = ["measure"]
