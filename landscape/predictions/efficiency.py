"""How many passes of one network equal some passes of another."""

from collections.abc import Sequence

import numpy as np
import xarray

from landscape.metrics import METRICS
from landscape.metrics.confidence import LEVEL, tails
from landscape.predictions.passes import require_same_images

COMPARED = tuple(name for name, metric in METRICS.items() if metric.better != "neither")


def effective_size(of: xarray.Dataset, against: xarray.Dataset, *, metrics: Sequence[str] = COMPARED) -> xarray.Dataset:
    r"""Passes of one network that are as good as *N* passes of another.

    The effective size is the smallest number of passes of `of` at which its metric is at least as good as that of
    `against` with *N*. Between measured sizes the metric is interpolated linearly in 1/N, since an average of *N*
    independent draws differs from its limit by a term in 1/N.

    Parameters
    ----------
    of, against
        What `curves` gives, on the same images, with the same seed.
    metrics
        Names of metrics with a better and a worse.

    Returns
    -------
    xarray.Dataset
        Over ``(metric, size)``, *N* of `against` being the size: ``effective_size`` with the 95 % interval ``low`` to
        ``high``, and ``gain``, *N* divided by the effective size. 1 means one pass or less; infinite, that no number of
        passes of `of` that was measured is as good. The interval is of percentiles over bootstrap samples of the
        images, the same for both networks (paired), shifted so that their mean is the metric itself: a bias of few
        images is in both networks, and in the samples once more.

    Raises
    ------
    LandscapeError
        When the networks were shown different images.
    """
    require_same_images([of, against])
    sizes, targets = of["size"].values, against["size"].values
    shape = (len(metrics), len(targets))
    value, low, high = np.empty(shape), np.empty(shape), np.empty(shape)
    lower, upper = tails()
    for row, name in enumerate(metrics):
        sign = 1.0 if METRICS[name].better == "lower" else -1.0
        curve, target = sign * of[name].values, sign * against[name].values
        curves, levels = (sign * _centred(result, name) for result in (of, against))
        for column in range(len(targets)):
            value[row, column] = crossing(sizes, curve[:, None], target[column : column + 1])[0]
            drawn = crossing(sizes, curves, levels[column])
            # Sizes may be infinite: quantiles that are members of the sample, not between two of them.
            low[row, column] = np.quantile(drawn, lower, method="inverted_cdf")
            high[row, column] = np.quantile(drawn, upper, method="inverted_cdf")
    dimensions = ("metric", "size")
    return xarray.Dataset(
        {
            "effective_size": (dimensions, value),
            "low": (dimensions, low),
            "high": (dimensions, high),
            "gain": (dimensions, targets[None, :] / value),
        },
        coords={"metric": list(metrics), "size": targets},
        attrs={"of": str(of.attrs.get("name", "")), "against": str(against.attrs.get("name", "")), "level": LEVEL},
    )


def _centred(result: xarray.Dataset, name: str) -> np.ndarray:
    """Bootstrap samples (size, replicate) about the metric itself."""
    drawn = result[f"{name}_replicate"].values
    return np.asarray(drawn - drawn.mean(1, keepdims=True) + result[name].values[:, None])


def crossing(sizes: np.ndarray, curves: np.ndarray, targets: np.ndarray, *, extrapolate: bool = False) -> np.ndarray:
    """Smallest size at which each curve is at or below its target.

    Parameters
    ----------
    sizes
        (S,), rising.
    curves
        (S, R): lower is better.
    targets
        (R,).
    extrapolate
        Whether a curve that is better than its target at its first size is extrapolated below that size, as a + b / N
        through its first and its last size, so that such curves differ; a curve that does not fall is not.

    Returns
    -------
    numpy.ndarray
        (R,): the first size where that is good enough (or less, with `extrapolate`), infinite where none is; nan where
        the comparison is undefined.
    """
    reached = curves <= targets
    index = reached.argmax(0)
    columns = np.arange(curves.shape[1])
    before = np.maximum(index - 1, 0)
    above, below = curves[before, columns], curves[index, columns]
    with np.errstate(invalid="ignore", divide="ignore"):
        # Nothing is interpolated from values that are not finite.
        fraction = np.where((index > 0) & np.isfinite(above), (above - targets) / (above - below), 1.0)
    inverse = 1 / sizes[before] + fraction * (1 / sizes[index] - 1 / sizes[before])
    if extrapolate and len(sizes) > 1:
        fall = (curves[0] - curves[-1]) / (1 / sizes[0] - 1 / sizes[-1])
        with np.errstate(invalid="ignore", divide="ignore"):
            beyond = np.where(fall > 0, (targets - curves[0]) / fall, 0.0)
        inverse += np.where(index == 0, np.maximum(beyond, 0.0), 0.0)
    result = np.where(reached.any(0), 1 / inverse, np.inf)
    result[np.isnan(curves).all(0) | np.isnan(targets)] = np.nan
    return result
