"""Metrics against ensemble size: every size and every choice of passes out of one set of passes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from landscape import metrics
from landscape.compute.randomness import generator
from landscape.errors import LandscapeError
from landscape.metrics import METRICS, Examples, Intervals
from landscape.metrics.choices import Binning
from landscape.metrics.definitions import BINS
from landscape.metrics.resampling import sums_of
from landscape.predictions.choices import RESAMPLES, SIZES

# Images at a time, so that float64 copies stay small.
_CHUNK = 500


def curves(
    passes: xarray.Dataset,
    *,
    sizes: Sequence[int] = SIZES,
    resamples: int = RESAMPLES,
    replicates: int = metrics.REPLICATES,
    binning: Binning = "right",
    seed: int = 0,
) -> xarray.Dataset:
    r"""Metrics of the average of *N* probabilities, for several *N*.

    Each resample is a random order of the passes; the ensemble of size *N* is its first *N*. Probabilities are averaged
    in float64, as logarithms, so that none underflows.

    Parameters
    ----------
    passes
        What `measure` or `deep_ensemble` gives.
    sizes
        Ensemble sizes; those beyond the number of passes are left out, and that number is added.
    resamples
        Orders of the passes. All passes make one ensemble, so that the largest size has no spread.
    replicates
        Bootstrap samples of the images, kept for paired comparisons: of the mean over resamples, the same images for
        every network.
    binning
        Of confidences; see `MetricSet`.
    seed
        Of orders and bootstrap.

    Returns
    -------
    xarray.Dataset
        Over ``size``: each metric, the mean over resamples; ``<metric>_stderr``, its standard error over images and
        their masks (each image has masks of its own); ``<metric>_spread``, the standard deviation over resamples.
        ``<metric>_low`` and ``_high``: the 95 % interval by :class:`landscape.metrics.Intervals`, nan where there is
        none that holds; of a deep ensemble it is for these networks. ``ece_debiased``, the ECE without its bias for
        few images. ``<metric>_replicate`` (size, replicate). Over ``(size, bin)``, pooled over resamples:
        ``bin_share`` of the predictions in a bin of confidence, their ``bin_confidence`` and ``bin_accuracy``, nan for
        empty bins.

    Raises
    ------
    LandscapeError
        For no size of 1 or more.
    """
    logs = torch.from_numpy(passes["log_probability"].values)
    labels = torch.from_numpy(passes["label"].values)
    usable, orders = choices_of(len(logs), sizes, resamples, seed)
    by_order = (ensembles(logs[order], labels, usable) for order in orders)
    return summary(by_order, usable, passes.attrs, len(orders), replicates=replicates, binning=binning, seed=seed)


def choices_of(count: int, sizes: Sequence[int], resamples: int, seed: int) -> tuple[list[int], list[Tensor]]:
    """Ensemble sizes that `count` passes allow, and the orders of the passes that are averaged over."""
    usable = sorted({size for size in sizes if 0 < size <= count} | {count})
    if not usable or resamples < 1:
        raise LandscapeError("curves need a size and a resample of 1 or more")
    # A single pass has one order.
    orders = [
        torch.randperm(count, generator=generator(seed, "resample", index)) for index in range(min(resamples, count))
    ]
    return usable, orders


def summary(
    predicted: Iterable[Sequence[Examples]],
    sizes: list[int],
    attributes: Mapping[Any, Any],
    resamples: int,
    *,
    replicates: int = metrics.REPLICATES,
    binning: Binning = "right",
    seed: int = 0,
) -> xarray.Dataset:
    """What `curves` returns, from the predictions of every size, for each order of the passes."""
    if replicates < 1:
        raise LandscapeError("curves need a replicate of 1 or more")
    largest = sizes[-1]
    values = {name: np.empty((len(sizes), resamples)) for name in METRICS}
    drawn = {name: np.zeros((len(sizes), replicates)) for name in METRICS}
    intervals = [Intervals(binning=binning, seed=seed) for _ in sizes]
    # Number, sum of confidences and correct predictions of each bin, over the orders.
    bins = np.zeros((3, len(sizes), BINS))
    weights: Tensor | None = None
    for resample, of_sizes in enumerate(predicted):
        for index, batch in enumerate(of_sizes):
            sums = sums_of(batch, binning=binning)
            for name, value in metrics.values(sums).items():
                values[name][index, resample] = float(value)
            bins[:, index] += np.stack([sums.bin_count, sums.bin_confidence, sums.bin_correct])
            # All passes make one ensemble, whatever their order.
            if sizes[index] < largest or resample == 0:
                if weights is None:
                    weights = metrics.bootstrap_weights(batch.independent, replicates=replicates, seed=seed)
                intervals[index].add(batch)
                repeats = resamples if sizes[index] < largest else 1
                for name, replicated in metrics.bootstrap(batch, weights, binning=binning).items():
                    drawn[name][index] += replicated / repeats
    return _dataset(attributes, sizes, values, intervals, drawn, bins)


def ensembles(logs: Tensor, labels: Tensor, sizes: Sequence[int]) -> list[Examples]:
    """Contributions of each image to the metrics of the first N passes (T, n, C), for each N."""
    logarithms: list[list[Tensor]] = [[] for _ in sizes]
    for start in range(0, len(labels), _CHUNK):
        chunk = logs[:, start : start + _CHUNK].double()
        total, before = torch.full(chunk.shape[1:], -torch.inf, dtype=torch.float64), 0
        for index, size in enumerate(sizes):
            total = torch.logaddexp(total, chunk[before:size].logsumexp(0))
            logarithms[index].append(total - np.log(size))
            before = size
    return [metrics.examples(torch.cat(parts), labels) for parts in logarithms]


def _dataset(
    attributes: Mapping[Any, Any],
    sizes: list[int],
    values: dict[str, np.ndarray],
    intervals: list[Intervals],
    drawn: dict[str, np.ndarray],
    bins: np.ndarray,
) -> xarray.Dataset:
    variables: dict[str, tuple[object, np.ndarray, dict[str, str]]] = {}

    def add(name: str, value: np.ndarray, label: str, unit: str) -> None:
        variables[name] = (("size", "replicate")[: value.ndim], value, {"long_name": label, "units": unit})

    results = [interval.result() for interval in intervals]
    for name, metric in METRICS.items():
        stderr, low, high = np.array([result[name][1:] for result in results]).T
        spread = values[name].std(1, ddof=1) if values[name].shape[1] > 1 else np.zeros(len(sizes))
        add(name, values[name].mean(1), metric.label, metric.unit)
        add(f"{name}_stderr", stderr, "standard error over images", metric.unit)
        add(f"{name}_spread", spread, "standard deviation over choices of passes", metric.unit)
        add(f"{name}_low", low, "lower end of the 95 % interval", metric.unit)
        add(f"{name}_high", high, "upper end of the 95 % interval", metric.unit)
        add(f"{name}_replicate", drawn[name], "bootstrap samples", metric.unit)
    debiased = np.array([interval.debiased_ece for interval in intervals])
    add("ece_debiased", debiased, "ECE without the bias of few images", "1")
    counts, confidences, correct = bins
    with np.errstate(invalid="ignore"):
        variables["bin_share"] = (("size", "bin"), counts / counts.sum(1, keepdims=True), {})
        variables["bin_confidence"] = (("size", "bin"), confidences / counts, {})
        variables["bin_accuracy"] = (("size", "bin"), correct / counts, {})
    kept = ("images", "population", "passes", "members", "images_sha256", "name", "term", "terms", "classes")
    return xarray.Dataset(
        variables,
        coords={"size": sizes, "bin": (np.arange(BINS) + 0.5) / BINS},
        attrs={name: attributes[name] for name in kept if name in attributes},
    )
