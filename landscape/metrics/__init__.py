"""How good predicted probabilities are: metrics as plain functions, as mergeable sums, and over bootstrap samples."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.metrics.choices import BINNINGS
    from landscape.metrics.definitions import METRICS, Metric, MetricValue, Sums, values
    from landscape.metrics.examples import Examples, examples, log_mean_exp
    from landscape.metrics.functions import (
        accuracy,
        accuracy_90,
        brier,
        ece,
        frequency_90,
        iou,
        iou_90,
        nll,
        signed_ece,
        top5,
        uncertain_90,
    )
    from landscape.metrics.intervals import Interval, Intervals
    from landscape.metrics.metric_set import MetricSet
    from landscape.metrics.resampling import REPLICATES, bootstrap, bootstrap_weights, interval

__all__ = [
    "BINNINGS",
    "METRICS",
    "REPLICATES",
    "Examples",
    "Interval",
    "Intervals",
    "Metric",
    "MetricSet",
    "MetricValue",
    "Sums",
    "accuracy",
    "accuracy_90",
    "bootstrap",
    "bootstrap_weights",
    "brier",
    "ece",
    "examples",
    "frequency_90",
    "interval",
    "iou",
    "iou_90",
    "log_mean_exp",
    "nll",
    "signed_ece",
    "top5",
    "uncertain_90",
    "values",
]

lazy.attach(__name__)
