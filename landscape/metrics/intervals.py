"""Intervals of metrics over the choice of examples, from what single examples add to them."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from landscape.compute.randomness import numpy_generator
from landscape.errors import LandscapeError
from landscape.metrics import confidence, definitions
from landscape.metrics.choices import Binning
from landscape.metrics.definitions import BINS, CUTOFF, METRICS
from landscape.metrics.examples import Examples
from landscape.metrics.metric_set import bin_indicators
from landscape.metrics.resampling import sums_of

# Draws of the gaps' errors that the calibration error's interval is read off.
_DRAWS = 1000
_SHARES = ("accuracy", "accuracy_90", "uncertain_90", "frequency_90", "top5")


class Interval(NamedTuple):
    """A metric with its standard error and 95 % interval over the choice of examples."""

    value: float
    stderr: float
    low: float
    high: float


class Intervals:
    r"""Intervals of every metric, of one prediction of each example or of the mean over several.

    - Means (NLL, Brier score, signed ECE): Student's *t* corrected for skewness, `confidence.skewed`. None where no
      prediction is wrong: the losses of rare errors are then not among those seen.
    - Shares (accuracy, top-5, Freq-90, Acc-90, Unc-90): Wilson's.
    - IoU and IoU-90: Wilson's with the count that has the delta method's standard error. None where a class occurs
      once or not at all among those that count while others do, or where all are right: the mean is over classes that
      occur, which few examples choose in favour of the well predicted ones.
    - ECE: `confidence.absolute_sum` of the bins' gaps; the interval need not hold the value itself, whose upward bias
      it takes off. A bin's variance is at least that of calibrated predictions.

    Of examples in groups (tokens of a sequence), groups are what was sampled: standard errors are those of sums over
    groups, and a share's count is the one that has this standard error.

    Parameters
    ----------
    binning
        Of confidences; see `MetricSet`.
    seed
        Of the draws behind the ECE's interval.
    """

    def __init__(self, *, binning: Binning = "right", seed: int = 0) -> None:
        self.binning: Binning = binning
        self._draws = numpy_generator(seed, "calibration").standard_normal((_DRAWS, 2 * BINS))
        self._added = 0
        self._values = dict.fromkeys(METRICS, 0.0)
        self._terms: dict[str, Tensor] = {}
        self._trials: dict[str, float] = {}
        self._calibration = np.zeros(3)
        self._wrong = 0.0
        self._rare = {"iou": False, "iou_90": False}

    def add(self, batch: Examples) -> None:
        """Add predictions of the examples; when several are added, the intervals are of the metrics' mean over them.

        Raises
        ------
        LandscapeError
            When they are of another number of examples than the first.
        """
        sums = sums_of(batch, binning=self.binning)
        values = {name: float(value) for name, value in definitions.values(sums).items()}
        terms = {name: of_groups(term, batch) for name, term in linear_terms(batch, self.binning).items()}
        if self._terms and len(self._terms["nll"]) != len(terms["nll"]):
            raise LandscapeError(f"{len(batch.nll)} predictions beside those of {len(self._terms['nll'])} examples")
        for name, term in terms.items():
            self._terms[name] = self._terms[name] + term if name in self._terms else term
            self._values[name] += values[name]
        self._added += 1
        wrong = float((sums.labels - sums.hits).sum())
        self._wrong += wrong
        count, confident = float(sums.count), float(sums.labels[1].sum())
        trials = {"accuracy_90": confident, "uncertain_90": wrong}
        for name in _SHARES:
            # Where all agree, nothing says how much examples of a group depend on each other: a group is one trial.
            most = math.inf if batch.group is None else batch.independent
            self._trials[name] = min(self._trials.get(name, math.inf), trials.get(name, count), most)
        for name, labels in (("iou", sums.labels.sum(0)), ("iou_90", sums.labels[1])):
            self._rare[name] |= bool((labels == 1).any()) or not bool((labels > 0).any())
        self._calibration += self._gap_interval(batch)

    def result(self) -> dict[str, Interval]:
        """Every metric with its interval; raises LandscapeError when nothing was added."""
        if not self._added:
            raise LandscapeError("intervals of no examples: add some")
        intervals = {}
        for name in METRICS:
            value = self._values[name] / self._added
            term = (self._terms[name] / self._added).double().cpu().numpy()
            count = len(term)
            known = count > 1 and math.isfinite(value)
            stderr = float(term.std(ddof=1)) / math.sqrt(count) if known else math.nan
            intervals[name] = Interval(value, stderr, *self._ends(name, value, stderr, term))
        return intervals

    @property
    def debiased_ece(self) -> float:
        """The ECE without what the choice of few examples adds to it."""
        return float(self._calibration[0] / self._added)

    def _ends(self, name: str, value: float, stderr: float, term: np.ndarray) -> tuple[float, float]:
        none = (math.nan, math.nan)
        if not math.isfinite(value) or not math.isfinite(stderr):
            return none
        if name == "ece":
            return float(self._calibration[1] / self._added), float(self._calibration[2] / self._added)
        if name in _SHARES or name in self._rare:
            if self._rare.get(name):
                return none
            inside = 0 < value < 1 and stderr > 0
            if not inside and name in self._rare:
                return none
            trials = value * (1 - value) / stderr**2 if inside else self._trials[name]
            return confidence.of_proportion(value, trials)
        if self._wrong == 0:
            return none
        return confidence.skewed(value, stderr, float(confidence.skewness(term)), len(term))

    def _gap_interval(self, batch: Examples) -> np.ndarray:
        """Debiased ECE and its interval (3,) of one prediction of each example."""
        gaps = of_groups(gap_terms(batch, self.binning), batch).cpu().numpy()
        count = len(gaps)
        if count < 2:
            return np.full(3, np.nan)
        confidences = batch.confidence.cpu().numpy()
        bin_index = definitions.bin_of(batch.rounded, BINS).cpu().numpy()
        calibrated = np.bincount(bin_index, confidences * (1 - confidences), minlength=BINS) / len(bin_index) ** 2
        scale = np.sqrt(np.maximum(gaps.var(0, ddof=1) / count, calibrated))
        estimate, (low, high) = confidence.absolute_sum(gaps.mean(0), self._draws[:, :BINS] * scale)
        return np.array([estimate, low, high])


def of_groups(terms: Tensor, batch: Examples) -> Tensor:
    r"""Linear term (G, ...) of each group, from those of its examples (N, ...), with the same mean.

    A mean over all examples of groups of different sizes :math:`n_g` is a ratio of sums, and its linear term
    :math:`\bar t + \frac{G}{N} \sum_{i \in g} (t_i - \bar t)` (Cochran 1977,
    Sampling Techniques, chapter 6).
    """
    if batch.group is None:
        return terms
    mean = terms.mean(0)
    return mean + batch.by_group(terms - mean) * (batch.independent / len(terms))


def gap_terms(batch: Examples, binning: Binning = "right") -> Tensor:
    """What each example adds to the sum of confidence minus correctness of each bin (N, B), float64."""
    member, adds = bin_indicators(batch, binning)
    return adds * batch.confidence[:, None] - member * batch.correct.double()[:, None]


def linear_terms(batch: Examples, binning: Binning = "right") -> dict[str, Tensor]:
    r"""Linear term (N,) of each metric in its examples: the metric's standard error is :math:`s / \sqrt N` of it.

    Of means and shares of all examples these are the examples' own values; of ratios and IoU, and of the ECE with the
    signs of the gaps held, the delta method's, about zero.
    """
    correct = batch.correct.double()
    confident = (batch.rounded > torch.tensor(CUTOFF, dtype=torch.float32)).double()
    wrong = 1 - correct
    gaps = gap_terms(batch, binning)
    sign = gaps.sum(0).sign()
    return {
        "nll": batch.nll,
        "accuracy": correct,
        "accuracy_90": _of_ratio(confident * correct, confident),
        "uncertain_90": _of_ratio(wrong * (1 - confident), wrong),
        "iou": _of_iou(batch, torch.ones_like(confident)),
        "iou_90": _of_iou(batch, confident),
        "frequency_90": confident,
        "top5": batch.in_top.double(),
        "brier": batch.brier,
        "ece": gaps @ sign,
        "signed_ece": gaps.sum(1),
    }


def _of_ratio(above: Tensor, below: Tensor) -> Tensor:
    mean = below.mean()
    return (above - above.mean() / mean * below) / mean


def _of_iou(batch: Examples, chosen: Tensor) -> Tensor:
    """The linear term of the mean IoU; `MetricSet` has the same in closed form from its counts."""
    size = batch.classes + 1

    def counts(bin_index: Tensor, weight: Tensor) -> Tensor:
        return torch.zeros(size, dtype=torch.float64, device=bin_index.device).index_add_(0, bin_index, weight)

    hits = counts(batch.labels, chosen * batch.correct)
    labels, predictions = counts(batch.labels, chosen), counts(batch.predicted, chosen)
    present = labels > 0
    unions = torch.where(present, labels + predictions - hits, 1.0)
    ratios = torch.where(present, hits / unions, 0.0)
    falls = ratios / unions
    rises = torch.where(present, (1 - ratios) / unions, 0.0)
    # Predictions that are not a number belong to no class.
    falls[-1] = 0.0
    moves = torch.where(batch.correct, rises[batch.labels], -falls[batch.labels] - falls[batch.predicted])
    return moves * chosen * (len(chosen) / present.sum())
