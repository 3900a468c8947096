"""A number with its standard error."""

from dataclasses import dataclass

import numpy as np

from landscape.metrics.confidence import LEVEL, Z, student


@dataclass(frozen=True)
class Estimate:
    """A random estimate whose standard error can be used in the usual way.

    Attributes
    ----------
    value
        The estimate.
    stderr
        Standard error, widened for few samples: value +- Z * stderr is a 95 % interval. With k samples of standard
        deviation s it is s / sqrt(k) * t(0.975; k - 1) / Z, since the spread of few samples is itself uncertain
        (Student's t). 0 when the value is exact, NaN when a single sample leaves it unknown.
    samples
        Number of independent samples behind it.
    products
        Products with the operator that it cost.
    """

    value: float
    stderr: float
    samples: int
    products: int

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Interval holding the truth with probability `level`, by Student's t (samples - 1 degrees of freedom)."""
        if self.stderr == 0:
            return self.value, self.value
        half = self.stderr / widening(self.samples) * student(max(self.samples, 2), level)
        return self.value - half, self.value + half


def widening(samples: int) -> float:
    """t(0.975; samples - 1) / Z: what a standard error from few samples is widened by."""
    return student(max(samples, 2)) / Z


def mean_of(samples: np.ndarray, products: int) -> Estimate:
    """Estimate of a mean from independent samples (k,)."""
    count = len(samples)
    if count == 1:
        return Estimate(float(samples[0]), float("nan"), 1, products)
    stderr = float(samples.std(ddof=1) / np.sqrt(count)) * widening(count)
    return Estimate(float(samples.mean()), stderr, count, products)
