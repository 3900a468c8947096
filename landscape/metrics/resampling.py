"""Metrics over bootstrap samples of the examples: intervals that need no linearisation, and that pair networks."""

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from landscape.compute.randomness import generator
from landscape.metrics import definitions
from landscape.metrics.choices import Binning
from landscape.metrics.confidence import tails
from landscape.metrics.definitions import BINS, CUTOFF, Sums
from landscape.metrics.examples import Examples
from landscape.metrics.metric_set import MetricSet, bin_indicators, require_probabilities

REPLICATES = 1000
# Of more classes, as the words of a language, an intersection over union says nothing and its counts fill memory.
_MOST_CLASSES = 1000


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
    """Sums (R, ...) over weighted examples, one for each row of `weights` (R, N); `binning` as in `MetricSet`.

    Of examples in groups, weights are the groups' (R, G).
    """
    if batch.group is not None:
        return _weighted_groups(batch, weights, binning)
    rounded, correct = batch.rounded, batch.correct
    confident = (rounded > torch.tensor(CUTOFF, dtype=torch.float32)).long()
    columns = batch.classes + 1
    # Rows of it are added up: each must lie together in memory.
    of_example = weights.T.contiguous()

    def by_class(column: Tensor, of_those: Tensor) -> Tensor:
        total = torch.zeros(2 * columns, len(weights), dtype=torch.float64)
        total.index_add_(0, confident * columns + column, of_those)
        return total.T.reshape(len(weights), 2, columns)[..., :-1]

    binned = weights @ _binned(batch, binning)
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


def _binned(batch: Examples, binning: Binning) -> Tensor:
    """What each example adds to the counts, the correct ones and the confidences of the bins, (N, 3 B) float64."""
    member, adds = bin_indicators(batch, binning)
    return torch.cat([member, member * batch.correct.double()[:, None], adds * batch.confidence[:, None]], dim=1)


def _weighted_groups(batch: Examples, weights: Tensor, binning: Binning) -> Sums:
    """`weighted_sums` of weighted groups: what a group's examples add is summed before it is weighted."""
    group = batch.group
    assert group is not None
    correct, missing = batch.correct.double(), batch.predicted == batch.classes
    confident = (batch.rounded > torch.tensor(CUTOFF, dtype=torch.float32)).long()
    together = batch.classes > _MOST_CLASSES
    classes = 1 if together else batch.classes
    labels = torch.zeros_like(batch.labels) if together else batch.labels
    predicted = missing.long() if together else batch.predicted
    columns = 2 * (classes + 1)

    def by_class(column: Tensor, of_those: Tensor) -> Tensor:
        total = torch.zeros(batch.independent * columns, dtype=torch.float64)
        total.index_add_(0, group * columns + confident * (classes + 1) + column, of_those)
        return (weights @ total.view(-1, columns)).view(len(weights), 2, classes + 1)[..., :-1]

    plain = torch.stack(
        [torch.ones_like(batch.nll), batch.nll, batch.brier, batch.in_top.double(), missing.double()], 1
    )
    parts = weights @ batch.by_group(torch.cat([plain, _binned(batch, binning)], dim=1))
    count, nll, brier, in_top, without = parts[:, :5].unbind(1)
    bin_count, bin_correct, bin_confidence = parts[:, 5:].split(BINS, dim=1)
    predictions = by_class(predicted, torch.ones_like(correct))
    sums = Sums(
        count=count,
        nll=nll,
        brier=brier,
        in_top=in_top,
        hits=by_class(labels, correct),
        labels=by_class(labels, torch.ones_like(correct)),
        predictions=torch.full_like(predictions, torch.nan) if together else predictions,
        bin_count=bin_count,
        bin_correct=bin_correct,
        bin_confidence=bin_confidence,
    )
    return definitions.without_numbers(sums, without > 0)


def sums_of(batch: Examples, *, binning: Binning = "right") -> Sums:
    """Sums over the examples, in groups or not; raises LandscapeError when probabilities do not sum to 1."""
    if batch.group is None:
        metric_set = MetricSet(batch.classes, binning=binning, device=batch.nll.device)
        metric_set.add(batch)
        return metric_set.sums()
    require_probabilities(float(batch.excess.nan_to_num(nan=0.0, posinf=torch.inf).max()))
    ones = torch.ones(1, batch.independent, dtype=torch.float64)
    sums = weighted_sums(batch, ones, binning=binning)
    return Sums(**{field.name: getattr(sums, field.name)[0] for field in fields(sums)})


def bootstrap(batch: Examples, weights: Tensor, *, binning: Binning = "right") -> dict[str, np.ndarray]:
    """Every metric (R,) over bootstrap samples, by name."""
    sums = weighted_sums(batch, weights, binning=binning)
    return {name: value.numpy() for name, value in definitions.values(sums).items()}


def interval(replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the 95 % percentile interval over the first axis (Efron 1979).

    For statistics whose law is shifted but not biased. What is biased on few examples, as calibration errors are, is
    biased a second time in its replicates: `Intervals` are for these.
    """
    low, high = np.quantile(replicates, tails(), axis=0)
    return low, high
