"""Metrics over bootstrap samples of the examples: intervals that need no linearisation, and that pair networks."""

import numpy as np
import torch
from torch import Tensor

from landscape.compute.randomness import generator
from landscape.metrics import definitions
from landscape.metrics.choices import Binning
from landscape.metrics.confidence import LEVEL, tails
from landscape.metrics.definitions import BINS, CUTOFF, Sums
from landscape.metrics.examples import Examples

REPLICATES = 1000


def bootstrap_weights(count: int, *, replicates: int = REPLICATES, seed: int = 0) -> Tensor:
    """How often each example is drawn in each of the replicates, (R, N) float64: N draws with replacement.

    The same for the same count and seed, so that metrics of two networks on the same examples are paired.
    """
    source = generator(seed, "bootstrap")
    weights = torch.zeros(replicates, count, dtype=torch.float64)
    for row in weights:
        row += torch.bincount(torch.randint(count, (count,), generator=source), minlength=count)
    return weights


def weighted_sums(batch: Examples, weights: Tensor, *, binning: Binning = "right") -> Sums:
    """Sums (R, ...) over weighted examples, one for each row of `weights` (R, N); `binning` as in `MetricSet`."""
    rounded, correct = batch.rounded, batch.correct
    confident = (rounded > torch.tensor(CUTOFF, dtype=torch.float32)).long()
    columns = batch.classes + 1
    # Rows of it are added up: each must lie together in memory.
    of_example = weights.T.contiguous()

    def by_class(column: Tensor, of_those: Tensor) -> Tensor:
        total = torch.zeros(2 * columns, len(weights), dtype=torch.float64)
        total.index_add_(0, confident * columns + column, of_those)
        return total.T.reshape(len(weights), 2, columns)[..., :-1]

    numbers = torch.arange(BINS)
    bin_index = definitions.bin_of(rounded, BINS)
    member = (bin_index[:, None] == numbers).double()
    if binning == "authors":
        bin_index = definitions.authors_bin_of(rounded, BINS)
    adds = (bin_index[:, None] == numbers).double()
    binned = weights @ torch.cat([member, member * correct.double()[:, None], adds * batch.confidence[:, None]], dim=1)
    bin_count, bin_correct, bin_confidence = binned.split(BINS, dim=1)
    sums = Sums(
        count=weights.sum(1),
        nll=weights @ batch.nll,
        brier=weights @ batch.brier,
        in_top=weights @ batch.in_top.double(),
        hits=by_class(batch.labels, of_example * correct.double()[:, None]),
        labels=by_class(batch.labels, of_example),
        predictions=by_class(batch.predicted, of_example),
        bin_count=bin_count,
        bin_correct=bin_correct,
        bin_confidence=bin_confidence,
    )
    return definitions.without_numbers(sums, weights @ (batch.predicted == batch.classes).double() > 0)


def bootstrap(batch: Examples, weights: Tensor, *, binning: Binning = "right") -> dict[str, np.ndarray]:
    """Every metric (R,) over bootstrap samples, by name."""
    sums = weighted_sums(batch, weights, binning=binning)
    return {name: value.numpy() for name, value in definitions.values(sums).items()}


def interval(replicates: np.ndarray, *, level: float = LEVEL, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the percentile interval over `axis` (Efron 1979).

    For statistics whose law is shifted but not biased. What is biased on few examples, as calibration errors are, is
    biased a second time in its replicates: `Intervals` are for these.
    """
    low, high = np.quantile(replicates, tails(level), axis=axis)
    return low, high
