r"""As many images as the wanted standard error needs, the same ones in all cells.

A few cells (the origin and the corners) are measured on all images. At every other cell the loss of an example is
largely what the same example's losses at those *controls* predict, so that the mean over all images is estimated by
regression (Cochran, Sampling Techniques, 3rd ed., section 7.3), from a random sample of *n* of *N*:

.. math:: \hat L = \bar\ell_n + b^\top (\bar z_N - \bar z_n), \quad
          \mathrm{se}^2 = \frac{1 - n/N}{n}\, \frac{n}{n - c - 1}\,(s_\ell^2 - b^\top s_{z\ell})

with *z* the losses at the *c* controls and :math:`b = S_{zz}^{-1} s_{z\ell}` of the sample. The bias is of order 1/n.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Regression:
    """Estimates means over all images from sums over the first *n*.

    Parameters
    ----------
    controls
        (N, c) losses of all examples, in random order, at the controls.
    count
        How many of them other cells see, *n*.
    """

    controls: Tensor
    count: int

    def __post_init__(self) -> None:
        seen = self.controls[: self.count].double()
        mean = seen.mean(0)
        centred = seen - mean
        object.__setattr__(self, "_mean", mean.cpu().numpy())
        object.__setattr__(self, "_shift", (self.controls.double().mean(0) - mean).cpu().numpy())
        object.__setattr__(self, "_covariance", (centred.T @ centred / self.count).cpu().numpy())

    _mean: np.ndarray = None  # type: ignore[assignment]
    _shift: np.ndarray = None  # type: ignore[assignment]
    _covariance: np.ndarray = None  # type: ignore[assignment]

    def estimate(self, mean: float, square: float, cross: np.ndarray) -> tuple[float, float]:
        """Mean over all images and its standard error, from the sample's means of the loss, its square and z times it.

        The standard error is of the estimate against the mean over all *N* images; it is zero when n = N.
        """
        total = len(self.controls)
        if self.count == total:
            return mean, 0.0
        variance = square - mean * mean
        if not (math.isfinite(variance) and np.isfinite(cross).all()):
            return mean, math.nan
        covariance = cross - mean * self._mean
        slope = np.linalg.lstsq(self._covariance, covariance, rcond=1e-10)[0]
        left = max(variance - float(slope @ covariance), 0.0)
        left *= self.count / max(self.count - len(slope) - 1, 1)
        return mean + float(slope @ self._shift), math.sqrt(left * (1 - self.count / total) / self.count)

    def needed(self, stderr: float, wanted: float) -> int:
        """How many images bring a standard error that is `stderr` now to `wanted`."""
        total = len(self.controls)
        # se^2 = v (1/n - 1/N)
        each = stderr**2 / (1 / self.count - 1 / total)
        return min(total, math.ceil(each / (wanted**2 + each / total)))
