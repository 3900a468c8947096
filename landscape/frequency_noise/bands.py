"""Noise whose spectrum is a square ring around a frequency."""

from collections.abc import Sequence

import torch
from torch import Tensor

from landscape.compute.randomness import generator
from landscape.errors import LandscapeError
from landscape.frequency_noise.choices import WIDTH

# Centres of the rings, units of pi: neighbours touch at the paper's width, and together they are the whole spectrum.
FREQUENCIES = tuple(round(0.1 * step, 1) for step in range(11))


def ring(height: int, width: int, frequency: float, band_width: float = WIDTH) -> Tensor:
    """Which entries of the whole spectrum ``fft2`` belong to a square ring.

    Parameters
    ----------
    height, width
        Of the image.
    frequency, band_width
        Units of pi: the ring is frequency - band_width / 2 <= max(|u|, |v|) < frequency + band_width / 2, with u and v
        in [-1, 1].

    Returns
    -------
    Tensor
        (height, width) bool.

    Raises
    ------
    LandscapeError
        When an image of this size has no frequency in the ring.
    """
    inside = in_ring(height, width, frequency, band_width)
    if not bool(inside.any()):
        raise LandscapeError(
            f"images of {height} x {width} have no frequency within {band_width / 2:g} pi of {frequency:g} pi: "
            "give other --frequencies or a larger --width"
        )
    return inside


def in_ring(height: int, width: int, frequency: float, band_width: float = WIDTH) -> Tensor:
    """The same as `ring`, empty where there are none."""
    u, v = (torch.fft.fftfreq(side, dtype=torch.float64).abs() * 2 for side in (height, width))
    # Edges of rings are multiples of 0.05 in floating point: what lies on one must fall into exactly one ring.
    low, high = round(frequency - band_width / 2, 9), round(frequency + band_width / 2, 9)
    radius = (torch.maximum(u[:, None], v) * 1e9).round() / 1e9
    return (radius >= low) & (radius < high)


def white_noise(shape: Sequence[int], *, seed: int, first: int) -> Tensor:
    """Standard normal noise (N, channels, height, width) float64 for the images from number `first` on, image by image.

    A function of seed and number of the image, whatever the batch, so that all bands and all networks see the same.
    """
    count, *one = shape
    noise = [
        torch.randn(*one, generator=generator(seed, "noise", first + row), dtype=torch.float64) for row in range(count)
    ]
    return torch.stack(noise)


def banded(noise: Tensor, inside: Tensor, *, matched: bool) -> Tensor:
    """Noise with only the frequencies in a ring left.

    Parameters
    ----------
    noise
        (..., height, width), white, variance 1.
    inside
        The ring, (height, width) bool.
    matched
        Scale so that the expected variance of a pixel is 1 again, whatever the number of frequencies in the ring;
        otherwise it is the share of frequencies that the ring holds.
    """
    kept = torch.fft.ifft2(torch.fft.fft2(noise) * inside).real
    return kept / inside.double().mean().sqrt() if matched else kept
