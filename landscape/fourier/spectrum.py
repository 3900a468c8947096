"""Amplitude spectra of maps of any size: along the half-diagonal, and averaged over rings."""

from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.errors import LandscapeError

# Under the logarithm, as in the authors' code; amplitudes are of the unnormalised transform.
FLOOR = 1e-6


@dataclass(frozen=True)
class Grid:
    """Frequencies of a map and where they stand in its half spectrum ``rfft2``, (height, width // 2 + 1).

    The half-diagonal runs from frequency 0 to the corner, (f, f) in both axes; the ring of frequency f is the mean over
    all (u, v), both halves of the spectrum, with sqrt(u^2 + v^2) nearest to f. Frequencies are multiples of 2 pi / n,
    n the shorter side: up to pi for even n, pi (1 - 1/n) for odd n. (The authors' code reads the other half of an even
    diagonal, whose last point is pi (1 - 2/n), and labels it pi: see `end`.)

    A sequence has height 1 and the frequencies of its length, on both paths.

    Parameters
    ----------
    height, width
        Of the map.
    """

    height: int
    width: int

    @property
    def shorter(self) -> int:
        """The shorter side, whose frequencies they are; of a sequence, its length."""
        return self.width if self.height == 1 else min(self.height, self.width)

    @property
    def count(self) -> int:
        """Number of frequencies."""
        return self.shorter // 2 + 1

    @property
    def end(self) -> int:
        """Place of the frequency that the authors label pi: the last below it, pi (1 - 2/n) for even n.

        At pi itself a box blur passes nothing, and the logarithm would be that of the floor under it. A map of 2 x 2
        has nothing between: there it is pi.
        """
        return max((self.shorter - 1) // 2, 1)

    def frequencies(self) -> Tensor:
        """In units of pi, (count,) float64."""
        return 2 * torch.arange(self.count, dtype=torch.float64) / self.shorter

    def multiplicity(self, device: torch.device | None = None) -> Tensor:
        """How often each entry of the half spectrum stands in the whole one, (height, width // 2 + 1) float64."""
        columns = torch.arange(self.width // 2 + 1, device=device)
        single = (columns == 0) | (2 * columns == self.width)
        return torch.where(single, 1.0, 2.0).double().expand(self.height, -1)

    def read(self, half_spectrum: Tensor) -> Tensor:
        """A half spectrum (..., height, width // 2 + 1) along both of `PATHS`: (..., 2, count)."""
        shorter = self.shorter
        steps = torch.arange(self.count, device=half_spectrum.device)
        # Nearest entries, for maps that are not square; exact for square ones.
        rows = (steps * self.height + shorter // 2) // shorter
        columns = (steps * self.width + shorter // 2) // shorter
        rows, columns = rows.clamp(max=self.height // 2), columns.clamp(max=self.width // 2)
        diagonal = half_spectrum[..., rows, columns]
        u = torch.fft.fftfreq(self.height, device=half_spectrum.device, dtype=torch.float64)
        v = torch.fft.rfftfreq(self.width, device=half_spectrum.device, dtype=torch.float64)
        ring = (torch.hypot(u[:, None], v) * shorter).round().long().flatten()
        weight = self.multiplicity(half_spectrum.device).flatten() * (ring < self.count)
        ring = ring.clamp(max=self.count - 1)
        totals = torch.zeros(self.count, dtype=torch.float64, device=half_spectrum.device).index_add_(0, ring, weight)
        average = torch.zeros(len(ring), self.count, dtype=torch.float64, device=half_spectrum.device)
        average[torch.arange(len(ring)), ring] = weight / totals[ring]
        return torch.stack([diagonal.double(), half_spectrum.flatten(-2).double() @ average], dim=-2)


def transform(maps: Tensor, window: str | None = None) -> Tensor:
    """Half spectrum ``rfft2`` of maps (..., height, width), without normalisation.

    Parameters
    ----------
    maps
        Real.
    window
        None, or ``hann``: multiply by a Hann window in both axes first, so that the map's edges do not count as high
        frequencies; the constant then leaks into the first frequency above 0.

    Raises
    ------
    LandscapeError
        For another window.
    """
    if window == "hann":
        taper = [
            torch.hann_window(side + 2, periodic=False, dtype=maps.dtype, device=maps.device)[1:-1]
            for side in maps.shape[-2:]
        ]
        maps = maps * taper[0][:, None] * taper[1]
    elif window is not None:
        raise LandscapeError(f"unknown window {window!r}: choose hann, or none")
    return torch.fft.rfft2(maps)


def log_amplitude(amplitude: Tensor) -> Tensor:
    """log(A + 1e-6)."""
    return (amplitude + FLOOR).log()
