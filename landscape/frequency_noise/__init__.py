"""Robustness to noise by frequency band."""

from landscape.frequency_noise.robustness import drops_compared, measure

__all__ = ["drops_compared", "measure"]
