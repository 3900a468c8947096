"""Metrics over bootstrap samples of the examples: intervals that need no linearisation, and that pair networks."""

import numpy as np
import torch
from torch import Tensor

from landscape.compute.randomness import generator
from landscape.metrics import definitions
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


def weighted_sums(batch: Examples, weights: Tensor) -> Sums:
    """Sums (R, ...) over weighted examples, one for each row of `weights` (R, N)."""
    rounded, correct = batch.rounded, batch.correct
    confident = (rounded > torch.tensor(CUTOFF, dtype=torch.float32)).long()
    columns = batch.classes + 1

    def by_class(place: Tensor, chosen: Tensor) -> Tensor:
        total = torch.zeros(2 * columns, len(weights), dtype=torch.float64)
        place = (confident * columns + place)[chosen]
        total.index_add_(0, place, weights.T[chosen])
        return total.T.reshape(len(weights), 2, columns)[..., :-1]

    everything = torch.ones_like(correct)
    member = torch.nn.functional.one_hot(definitions.bin_of(rounded, BINS), BINS).double()
    binned = weights @ torch.cat(
        [member, member * correct.double()[:, None], member * batch.confidence[:, None]], dim=1
    )
    bin_count, bin_correct, bin_confidence = binned.split(BINS, dim=1)
    return Sums(
        count=weights.sum(1),
        nll=weights @ batch.nll,
        brier=weights @ batch.brier,
        in_top=weights @ batch.in_top.double(),
        hits=by_class(batch.labels, correct),
        labels=by_class(batch.labels, everything),
        predictions=by_class(batch.predicted, everything),
        bin_count=bin_count,
        bin_correct=bin_correct,
        bin_confidence=bin_confidence,
    )


def bootstrap(batch: Examples, weights: Tensor) -> dict[str, np.ndarray]:
    """Every metric (R,) over bootstrap samples, by name."""
    return {name: value.numpy() for name, value in definitions.values(weighted_sums(batch, weights)).items()}


def interval(replicates: np.ndarray, *, level: float = 0.95, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the percentile interval over `axis` (Efron 1979)."""
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=axis)
    return low, high
