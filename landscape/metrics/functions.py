"""Each metric as a plain function of log-probabilities (N, C) and labels (N,).

Log-probabilities are in nats; an ensemble's are averaged by :func:`landscape.metrics.log_mean_exp` first. All return a
float; for several metrics, or their standard errors, use :class:`landscape.metrics.MetricSet`, which passes once.
"""

from torch import Tensor

from landscape.metrics import definitions
from landscape.metrics.choices import Binning
from landscape.metrics.metric_set import MetricSet


def nll(log_probabilities: Tensor, labels: Tensor) -> float:
    r"""Negative log-likelihood :math:`-\frac1N \sum_n \log p_n(y_n)`, nats.

    Examples
    --------
    >>> import torch
    >>> round(nll(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log(), torch.tensor([0, 1])), 4)
    0.3993
    """
    return float(definitions.nll(MetricSet.of(log_probabilities, labels).sums()))


def accuracy(log_probabilities: Tensor, labels: Tensor) -> float:
    """Share of examples whose most probable class (the first of equals) is the label."""
    return float(definitions.accuracy(MetricSet.of(log_probabilities, labels).sums()))


def accuracy_90(log_probabilities: Tensor, labels: Tensor) -> float:
    """Acc-90: accuracy among predictions with confidence > 0.9; nan when there are none."""
    return float(definitions.accuracy_90(MetricSet.of(log_probabilities, labels).sums()))


def uncertain_90(log_probabilities: Tensor, labels: Tensor) -> float:
    """Unc-90: share of wrong predictions with confidence <= 0.9; nan when none is wrong."""
    return float(definitions.uncertain_90(MetricSet.of(log_probabilities, labels).sums()))


def iou(log_probabilities: Tensor, labels: Tensor) -> float:
    """Intersection over union of labelled and predicted examples, mean over the classes that occur as labels."""
    return float(definitions.iou(MetricSet.of(log_probabilities, labels).sums()))


def iou_90(log_probabilities: Tensor, labels: Tensor) -> float:
    """IoU among predictions with confidence > 0.9, mean over the classes that occur as labels among them."""
    return float(definitions.iou_90(MetricSet.of(log_probabilities, labels).sums()))


def frequency_90(log_probabilities: Tensor, labels: Tensor) -> float:
    """Freq-90: share of predictions with confidence > 0.9."""
    return float(definitions.frequency_90(MetricSet.of(log_probabilities, labels).sums()))


def top5(log_probabilities: Tensor, labels: Tensor) -> float:
    """Share of labels among the five most probable classes."""
    return float(definitions.top5(MetricSet.of(log_probabilities, labels).sums()))


def brier(log_probabilities: Tensor, labels: Tensor) -> float:
    r"""Brier score :math:`\frac1N \sum_n \sum_c (p_{nc} - [y_n = c])^2`, 0 to 2."""
    return float(definitions.brier(MetricSet.of(log_probabilities, labels).sums()))


def ece(log_probabilities: Tensor, labels: Tensor, *, binning: Binning = "right") -> float:
    r"""Expected calibration error :math:`\sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|` over 10 bins.

    Examples
    --------
    >>> import torch
    >>> round(ece(torch.tensor([[0.9, 0.1], [0.8, 0.2]]).log(), torch.tensor([0, 1])), 4)
    0.45
    """
    return float(definitions.ece(MetricSet.of(log_probabilities, labels, binning=binning).sums()))


def signed_ece(log_probabilities: Tensor, labels: Tensor, *, binning: Binning = "right") -> float:
    """Mean of confidence minus accuracy: positive when overconfident."""
    return float(definitions.signed_ece(MetricSet.of(log_probabilities, labels, binning=binning).sums()))
