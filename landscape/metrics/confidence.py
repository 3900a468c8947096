r"""Intervals that hold the truth in 95 % of samples, for means, shares and absolute values, on few and skewed examples.

One level for the whole project, :data:`LEVEL`. How often each interval holds is in ``docs/coverage.md``.
"""

from statistics import NormalDist

import numpy as np

LEVEL = 0.95
# Two-sided quantile of the normal distribution: value +- Z * stderr.
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
# Shifts of the gaps, in their standard errors, between which `absolute_sum` looks for the ends of its interval.
_SHIFTS = np.arange(-4.0, 8.01, 0.5)


def tails(level: float = LEVEL) -> tuple[float, float]:
    """Probabilities below the lower and the upper end of a two-sided interval."""
    return (1 - level) / 2, (1 + level) / 2


def student(count: int, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t for the mean of `count` values; not a number for fewer than 2."""
    if count < 2:
        return float("nan")
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, tails(level)[1]))


def skewed(mean: float, stderr: float, skewness: float, count: int, *, level: float = LEVEL) -> tuple[float, float]:
    r"""Interval of the mean of skewed values.

    With few values of a skewed law, such as losses of which a few are large, Student's *t* is skewed the other way:
    :math:`mean \pm t\,s/\sqrt n` holds in 84 % of samples of 200 losses of skewness 9, and misses above. The cubic
    :math:`T + \frac{\gamma}{3\sqrt n} T^2 + \frac{\gamma^2}{27 n} T^3 + \frac{\gamma}{6\sqrt n}` of the studentised
    mean *T*, with :math:`\gamma` the skewness, is nearly normal and monotone (Hall 1992, JRSS B 54, 221); its
    inverse gives the ends. Quantiles are Student's instead of the normal ones.

    Parameters
    ----------
    mean, stderr
        Of the values, the standard error with divisor *n* - 1.
    skewness
        Of the values, unbiased for a normal law (`skewness`).
    count
        Number of values *n*.
    level
        Probability that the interval holds the mean.

    Returns
    -------
    tuple of float
        Lower and upper end; not a number where `stderr` is not finite or there are fewer than 3 values.
    """
    if count < 3 or not np.isfinite(stderr):
        return float("nan"), float("nan")
    quantile = student(count, level)
    root = np.sqrt(count)
    slope = skewness / (3 * root) if np.isfinite(skewness) else 0.0
    if abs(slope) < 1e-8:
        return mean - quantile * stderr, mean + quantile * stderr
    low, high = ((np.cbrt(1 + 3 * slope * (end - slope / 2)) - 1) / slope for end in (quantile, -quantile))
    return float(mean - low * stderr), float(mean - high * stderr)


def skewness(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Sample skewness, adjusted to be unbiased for a normal law; 0 for equal values, not a number for fewer than 3."""
    values = np.asarray(values, dtype=np.float64)
    count = values.shape[axis]
    centred = values - values.mean(axis, keepdims=True)
    return adjusted_skewness((centred**2).mean(axis), (centred**3).mean(axis), count)


def adjusted_skewness(second: np.ndarray | float, third: np.ndarray | float, count: int) -> np.ndarray:
    """The same from the second and third central moments with divisor `count`."""
    second, third = np.asarray(second, dtype=np.float64), np.asarray(third, dtype=np.float64)
    if count < 3:
        return np.full(second.shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(second > 0, third / second**1.5, np.where(np.isfinite(second), 0.0, np.nan))
    return np.asarray(ratio * np.sqrt(count * (count - 1)) / (count - 2))


def from_moments(first: float, second: float, third: float, count: int) -> tuple[float, tuple[float, float]]:
    """Standard error and interval of a mean from the raw moments (means of values, squares and cubes) of `count`."""
    if count < 2 or not np.isfinite([first, second, third]).all():
        return float("nan"), (float("nan"), float("nan"))
    variance = max(second - first**2, 0.0)
    stderr = float(np.sqrt(variance / (count - 1)))
    skew = adjusted_skewness(variance, third - 3 * first * second + 2 * first**3, count)
    return stderr, skewed(first, stderr, float(skew), count)


def standard_error(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Standard error of the mean over an axis; not a number for fewer than 2 values."""
    count = values.shape[axis]
    if count < 2:
        return np.full(values.mean(axis).shape, np.nan)
    return np.asarray(values.std(axis, ddof=1) / np.sqrt(count))


def of_mean(values: np.ndarray, *, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of the mean over the last axis (..., n), by `skewed`."""
    values = np.asarray(values, dtype=np.float64)
    count = values.shape[-1]
    mean = values.mean(-1)
    stderr = standard_error(values)
    skews = skewness(values, axis=-1)
    ends = [
        skewed(float(mean[index]), float(stderr[index]), float(skews[index]), count, level=level)
        for index in np.ndindex(mean.shape)
    ]
    low, high = np.array(ends).reshape(*mean.shape, 2).transpose(-1, *range(mean.ndim))
    return low, high


def of_paired_shares(differences: np.ndarray, *, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    r"""Ends of the interval of the mean over the last axis (..., n) of paired differences between -1 and 1.

    For what two classifiers get right of the same examples. They differ on few, on which neither the standard error nor
    the skewness is known: `of_mean` misses 0 in 8 to 20 % of samples of equal classifiers that differ on 1 to 10. With
    two examples added, half of one of each outcome (both right, both wrong, either alone), the normal interval holds
    (Agresti & Min 2005, Statist. Med. 24, 729).
    """
    differences = np.asarray(differences, dtype=np.float64)
    return of_paired_share(differences.mean(-1), standard_error(differences), differences.shape[-1], level=level)


def of_paired_share(
    mean: np.ndarray, stderr: np.ndarray, count: int, *, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """The same from the mean of `count` paired differences and its standard error."""
    squares = count * (count - 1) * np.square(stderr) + count * np.square(mean)
    centre = count * mean / (count + 2)
    half = NormalDist().inv_cdf(tails(level)[1]) * np.sqrt(
        ((squares + 1) / (count + 2) - np.square(centre)) / (count + 2)
    )
    return centre - half, centre + half


def of_proportion(value: float, count: float, *, level: float = LEVEL) -> tuple[float, float]:
    r"""Wilson's interval of a share of `count` independent trials.

    It holds near 0 and 1, where :math:`\pm z\,\mathrm{se}` has no width (Wilson 1927; Brown, Cai & DasGupta 2001,
    Statist. Sci. 16, 101). Not a number without trials.
    """
    if not (np.isfinite(value) and count > 0):
        return float("nan"), float("nan")
    quantile = NormalDist().inv_cdf(tails(level)[1])
    square = quantile**2 / count
    centre = (value + square / 2) / (1 + square)
    half = quantile / (1 + square) * np.sqrt(max(value * (1 - value), 0.0) / count + square / (4 * count))
    # Exact at the ends, where rounding may leave the share itself outside.
    low = 0.0 if value <= 0 else max(0.0, float(centre - half))
    return low, 1.0 if value >= 1 else min(1.0, float(centre + half))


def of_quantile(values: np.ndarray, probability: float, *, level: float = LEVEL) -> tuple[float, float]:
    r"""Interval of a quantile of clustered values, between two of the values themselves.

    The share of values below the quantile is `probability`, so the interval of that share, turned back into values,
    holds the quantile whatever the law (Woodruff 1952, JASA 47, 635). The binomial interval is exact where clusters
    are of one value; else its count is the effective one, by the variance of the share between clusters (Korn &
    Graubard 1998, Survey Methodology 24, 193). A percentile bootstrap holds high quantiles less often: it cannot reach
    beyond the largest value.

    Parameters
    ----------
    values
        (clusters, values of each); those that are not finite do not count.
    probability
        Of the quantile, between 0 and 1.
    level
        Probability that the interval holds the quantile.

    Returns
    -------
    tuple of float
        Lower and upper end; not a number on the side where too few values lie beyond the quantile.

    Examples
    --------
    >>> of_quantile(np.arange(100.0)[:, None], 0.5)
    (39.0, 60.0)
    >>> of_quantile(np.arange(100.0)[:, None], 0.99)
    (96.0, nan)
    """
    from scipy.stats import binom

    finite = np.isfinite(values)
    ordered = np.sort(values[finite])
    if len(ordered) == 0:
        return float("nan"), float("nan")
    sizes = finite.sum(1)
    # Linearised share of each cluster: clusters may have lost values.
    below = (finite & (values <= np.quantile(ordered, probability))).sum(1)
    share = below.sum() / sizes.sum()
    variance = np.square(below - share * sizes).sum() / sizes.sum() ** 2
    effective = len(ordered) if variance == 0 else share * (1 - share) / variance
    # Rounding must not take a value away.
    count = int(np.clip(effective + 1e-9, 1, len(ordered)))
    lower, upper = (int(binom.ppf(tail, count, probability)) for tail in tails(level))
    ends = [
        ordered[int(np.ceil(rank / count * len(ordered))) - 1] if 1 <= rank <= count else np.nan
        for rank in (lower, upper + 1)
    ]
    return float(ends[0]), float(ends[1])


def absolute_sum(
    sums: np.ndarray, deviations: np.ndarray, *, level: float = LEVEL
) -> tuple[float, tuple[float, float]]:
    r"""Estimate and interval of :math:`\sum_k |g_k|` from noisy :math:`\hat g_k`, as in a calibration error.

    The plain sum :math:`\sum_k |\hat g_k|` is biased upwards, and a percentile bootstrap of it by the bias a second
    time: noise makes absolute values larger, never smaller. So the test is inverted instead (DiCiccio & Romano 1990,
    Int. Statist. Rev. 58, 59): on the path :math:`g_k(t) = \mathrm{sign}(\hat g_k) \max(|\hat g_k| - t\,s_k, 0)`, which
    shrinks the noisiest first, the values are kept at which the sum that was seen lies within the central 95 % of its
    law. The estimate is the value at which it is the mean of that law; like the debiased estimates of Brocker (2012,
    Climate Dynamics 39, 655) and Kumar et al. (2019, arXiv 1909.10155) of squared errors, it takes off what noise adds.

    Parameters
    ----------
    sums
        (K,) the :math:`\hat g_k`.
    deviations
        (R, K) draws of their errors :math:`\hat g - g`.
    level
        Probability that the interval holds the sum.

    Returns
    -------
    estimate : float
    interval : tuple of float
        Lower and upper end, 0 or more. They need not hold the plain sum.
    """
    if not (np.isfinite(sums).all() and np.isfinite(deviations).all()):
        return float("nan"), (float("nan"), float("nan"))
    scale = deviations.std(axis=0)
    seen = float(np.abs(sums).sum())
    paths = np.sign(sums) * np.maximum(np.abs(sums) - _SHIFTS[:, None] * scale, 0.0)
    values = np.abs(paths).sum(1)
    means = np.empty(len(paths))
    ends = np.empty((len(paths), 2))
    for index, gaps in enumerate(paths):
        law = np.abs(gaps + deviations).sum(1)
        means[index], ends[index] = law.mean(), np.quantile(law, tails(level))

    def where(curve: np.ndarray) -> float:
        # Curves fall along the path; rounding and finitely many draws may leave a step up.
        falling = np.minimum.accumulate(curve)
        return float(np.interp(-seen, -falling, values))

    return where(means), (where(ends[:, 1]), where(ends[:, 0]))
