"""All metrics at once, batch by batch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from landscape.errors import LandscapeError
from landscape.metrics import definitions
from landscape.metrics.choices import BINNINGS, Binning
from landscape.metrics.definitions import BINS, CUTOFF, METRICS, MetricValue, Sums
from landscape.metrics.examples import Examples, examples

# Probabilities that sum to something else are logits or were not normalised; rounding stays far below this.
_TOLERANCE = 1e-3
# Probabilities at a time.
_CHUNK = 2**17


class MetricSet:
    """Mergeable sums for every metric: one pass over the log-probabilities, all arithmetic on their device.

    A prediction that is not a number makes every metric not a number: it is neither right nor wrong.

    Counts are integers, so that any grouping into batches gives the same bits; other sums are float64, equal to
    rounding.

    Parameters
    ----------
    classes
        Number of classes *C*.
    binning
        Of confidences, for the calibration errors. ``right``: bins (lower, upper], as Guo et al. (2017, arXiv
        1706.04599). ``authors``: as the code of Park & Kim, whose counts and accuracies use (lower, upper] but whose
        mean confidences use [lower, upper), so that a confidence of exactly 1 counts as 0 and one on an edge is added
        to the bin above.
    device
        Where the sums live: the log-probabilities' own device.

    Raises
    ------
    LandscapeError
        For an unknown binning.
    """

    def __init__(self, classes: int, *, binning: Binning = "right", device: torch.device | str = "cpu") -> None:
        if binning not in BINNINGS:
            raise LandscapeError(f"unknown binning {binning!r}: choose one of {', '.join(BINNINGS)}")
        self.classes = classes
        self.binning: Binning = binning
        integers = {"dtype": torch.int64, "device": device}
        floats = {"dtype": torch.float64, "device": device}
        # The last column is for predictions that are not a number.
        self._confusion = torch.zeros(2 * classes * (classes + 1), **integers)  # type: ignore[call-overload]
        self._in_top = torch.zeros((), **integers)  # type: ignore[call-overload]
        self._bins = torch.zeros(2, BINS, **integers)  # type: ignore[call-overload]
        self._bin_confidence = torch.zeros(BINS, **floats)  # type: ignore[call-overload]
        # Rows NLL, Brier, calibration gap; columns sum, sum of squares.
        self._moments = torch.zeros(3, 2, **floats)  # type: ignore[call-overload]
        self._excess = torch.zeros((), **floats)  # type: ignore[call-overload]

    @classmethod
    def of(cls, log_probabilities: Tensor, labels: Tensor, *, binning: Binning = "right") -> "MetricSet":
        """The sums of one batch."""
        metric_set = cls(log_probabilities.shape[-1], binning=binning, device=log_probabilities.device)
        metric_set.update(log_probabilities, labels)
        return metric_set

    def update(self, log_probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch of log-probabilities (N, C) with labels (N,); see `landscape.metrics.examples`."""
        if log_probabilities.shape[-1] != self.classes:
            raise LandscapeError(
                f"log-probabilities of {log_probabilities.shape[-1]} classes do not fit metrics of {self.classes}"
            )
        # On a CPU, float64 copies that outgrow the cache cost several times their arithmetic.
        rows = len(labels) if labels.is_cuda else max(1, _CHUNK // self.classes)
        if log_probabilities.dim() != 2 or len(labels) <= rows:
            self.add(examples(log_probabilities, labels))
        else:
            for some, their_labels in zip(log_probabilities.split(rows), labels.split(rows), strict=True):
                self.add(examples(some, their_labels))

    def add(self, batch: Examples) -> None:
        """Add examples."""
        rounded, correct = batch.rounded, batch.correct
        confident = (rounded > torch.tensor(CUTOFF, dtype=torch.float32)).long()
        entry = (confident * self.classes + batch.labels) * (self.classes + 1) + batch.predicted
        self._confusion.index_add_(0, entry, torch.ones_like(entry))
        self._in_top += batch.in_top.sum()
        # Products with indicator matrices add in a fixed order on every device, which atomic additions do not.
        member, adds = bin_indicators(batch, self.binning)
        self._bins += torch.stack([member.sum(0), (member * correct[:, None]).sum(0)]).long()
        self._bin_confidence += batch.confidence @ adds
        gap = batch.confidence - correct.double()
        terms = torch.stack([batch.nll, batch.brier, gap])
        self._moments += torch.stack([terms.sum(1), terms.square().sum(1)], dim=1)
        self._excess = torch.maximum(self._excess, batch.excess.nan_to_num(nan=0.0, posinf=torch.inf).max())

    def merge(self, other: "MetricSet") -> "MetricSet":
        """Add the sums of other examples, in place; raises LandscapeError when they are not of the same kind."""
        if (self.classes, self.binning) != (other.classes, other.binning):
            raise LandscapeError(
                f"metrics of {self.classes} classes, binning {self.binning!r}, do not merge with those of "
                f"{other.classes}, binning {other.binning!r}"
            )
        for name in _STATE:
            mine, theirs = getattr(self, name), getattr(other, name).to(getattr(self, name).device)
            setattr(self, name, torch.maximum(mine, theirs) if name == "_excess" else mine + theirs)
        return self

    @property
    def count(self) -> int:
        """Number of examples."""
        return int(self._bins[0].sum())

    def sums(self) -> Sums:
        """The sums by name; raises LandscapeError without any examples, or when probabilities do not sum to 1."""
        if self.count == 0:
            raise LandscapeError("metrics of no examples: update with at least one")
        require_probabilities(float(self._excess))
        # Quotients of integers would be float32.
        confusion, bins = self._matrix().double(), self._bins.double()
        sums = Sums(
            count=bins[0].sum(),
            nll=self._moments[0, 0],
            brier=self._moments[1, 0],
            in_top=self._in_top.double(),
            hits=confusion[..., :-1].diagonal(dim1=-2, dim2=-1),
            labels=confusion.sum(-1),
            predictions=confusion[..., :-1].sum(-2),
            bin_count=bins[0],
            bin_correct=bins[1],
            bin_confidence=self._bin_confidence,
        )
        return definitions.without_numbers(sums, confusion[..., -1].sum() > 0)

    def values(self) -> dict[str, float]:
        """Every metric by name."""
        return {name: float(value) for name, value in definitions.values(self.sums()).items()}

    def result(self) -> dict[str, MetricValue]:
        r"""Every metric with its standard error.

        Standard errors are over the choice of examples: of means, :math:`s / \sqrt N`; of ratios and of IoU by the
        delta method (the linear term of the ratio in its sums); of the calibration error with the signs of its bins'
        gaps held, which is right where gaps are larger than their own noise. Of a share that is 0 or 1, or of fewer
        than about five events, it says nothing: it is 0. See `landscape.metrics.Intervals` for intervals that hold in
        these cases, too.
        """
        sums = self.sums()
        values = {name: float(value) for name, value in definitions.values(sums).items()}
        errors = self._errors(sums, values)
        return {name: MetricValue(values[name], errors[name]) for name in METRICS}

    def _matrix(self) -> Tensor:
        """Confusion counts (2, C labels, C + 1 predictions)."""
        return self._confusion.view(2, self.classes, self.classes + 1)

    def _errors(self, sums: Sums, values: Mapping[str, float]) -> dict[str, float]:
        count = float(sums.count)
        confident = float(sums.labels[1].sum())
        wrong = float((sums.labels - sums.hits).sum())
        square_of = dict(zip(("nll", "brier", "gap"), self._moments[:, 1].tolist(), strict=True))
        confusion = self._matrix()
        return {
            "nll": _of_mean(values["nll"], square_of["nll"], count),
            "accuracy": _of_share(values["accuracy"], count),
            "accuracy_90": _of_share(values["accuracy_90"], confident),
            "uncertain_90": _of_share(values["uncertain_90"], wrong),
            "iou": _of_iou(confusion.sum(0)) if np.isfinite(count) else np.nan,
            "iou_90": _of_iou(confusion[1]) if np.isfinite(count) else np.nan,
            "frequency_90": _of_share(values["frequency_90"], count),
            "top5": _of_share(values["top5"], count),
            "brier": _of_mean(values["brier"], square_of["brier"], count),
            # Each example adds plus or minus its own gap, whose square does not know the sign.
            "ece": _of_mean(values["ece"], square_of["gap"], count),
            "signed_ece": _of_mean(values["signed_ece"], square_of["gap"], count),
        }


def require_probabilities(excess: float) -> None:
    """Raise LandscapeError when probabilities sum to something else than 1, by `excess`."""
    if excess > _TOLERANCE:
        raise LandscapeError(f"probabilities sum to 1 ± {excess:.2g}: give log-probabilities (log_softmax of logits)")


_STATE = ("_confusion", "_in_top", "_bins", "_bin_confidence", "_moments", "_excess")


def bin_indicators(batch: Examples, binning: Binning) -> tuple[Tensor, Tensor]:
    """Which bin each example counts in, and which its confidence is added to: (N, B) float64 of 0 and 1 each."""

    def indicator(bin_index: Tensor) -> Tensor:
        return (bin_index[:, None] == torch.arange(BINS, device=bin_index.device)).double()

    member = indicator(definitions.bin_of(batch.rounded, BINS))
    return member, member if binning == "right" else indicator(definitions.authors_bin_of(batch.rounded, BINS))


def _of_mean(mean: float, square: float, count: float) -> float:
    """Standard error of a mean from the sum of squares."""
    if count < 2:
        return float("nan")
    return float(np.sqrt(np.maximum(square / count - mean * mean, 0.0) / (count - 1))) if np.isfinite(mean) else np.nan


def _of_share(fraction: float, count: float) -> float:
    return _of_mean(fraction, fraction * count, count)


def _of_iou(confusion: Tensor) -> float:
    r"""Standard error of the mean IoU by the delta method.

    With :math:`r_c = h_c / u_c`, a correct example of class *c* moves the sum over classes by :math:`(1 - r_c) / u_c`,
    a wrong one of class *c* predicted as *d* by :math:`-r_c / u_c - r_d / u_d`.
    """
    counts = confusion.double()
    hits, labels = counts[:, :-1].diagonal(), counts.sum(1)
    unions = labels + counts[:, :-1].sum(0) - hits
    classes = int((labels > 0).sum())
    ratios = torch.where(labels > 0, hits / unions, 0.0)
    falls = torch.where(labels > 0, ratios / unions, 0.0)
    moves = -(falls[:, None] + torch.cat([falls, falls.new_zeros(1)]))
    rises = torch.where(labels > 0, (1 - ratios) / unions, 0.0)
    moves[:, :-1].diagonal().copy_(rises)
    total = counts.sum()
    if total < 2:
        return float("nan")
    variance = (counts * moves.square()).sum() * total / (total - 1)
    return float(variance.sqrt()) / classes
