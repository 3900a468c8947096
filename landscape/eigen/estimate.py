"""A number with its standard error."""

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A random estimate whose standard error can be used in the usual way.

    Attributes
    ----------
    value
        The estimate.
    stderr
        Standard error, widened for few samples: value +- 1.96 * stderr is a 95 % interval. With k samples of standard
        deviation s it is s / sqrt(k) * t(0.975; k - 1) / 1.96, since the spread of few samples is itself uncertain
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

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval holding the truth with probability `level`, by Student's t (samples - 1 degrees of freedom)."""
        if self.stderr == 0:
            return self.value, self.value
        half = self.stderr / widening(self.samples) * stats.t.ppf((1 + level) / 2, max(self.samples - 1, 1))
        return self.value - float(half), self.value + float(half)


def widening(samples: int) -> float:
    """t(0.975; samples - 1) / 1.96: what a standard error from few samples is widened by."""
    return float(stats.t.ppf(0.975, max(samples - 1, 1)) / stats.norm.ppf(0.975))


def mean_of(samples: np.ndarray, products: int) -> Estimate:
    """Estimate of a mean from independent samples (k,)."""
    count = len(samples)
    if count == 1:
        return Estimate(float(samples[0]), float("nan"), 1, products)
    stderr = float(samples.std(ddof=1) / np.sqrt(count)) * widening(count)
    return Estimate(float(samples.mean()), stderr, count, products)
