"""How good predicted probabilities are: metrics as plain functions, as mergeable sums, and over bootstrap samples."""

from typing import TYPE_CHECKING

from landscape import lazy

if TYPE_CHECKING:
    from landscape.metrics.choices import BINNINGS as BINNINGS
    from landscape.metrics.definitions import (
        METRICS as METRICS,
        Metric as Metric,
        MetricValue as MetricValue,
        Sums as Sums,
        values as values,
    )
    from landscape.metrics.examples import (
        Examples as Examples,
        examples as examples,
        log_mean_exp as log_mean_exp,
    )
    from landscape.metrics.functions import (
        accuracy as accuracy,
        accuracy_90 as accuracy_90,
        brier as brier,
        ece as ece,
        frequency_90 as frequency_90,
        iou as iou,
        iou_90 as iou_90,
        nll as nll,
        signed_ece as signed_ece,
        top5 as top5,
        uncertain_90 as uncertain_90,
    )
    from landscape.metrics.intervals import Interval as Interval, Intervals as Intervals
    from landscape.metrics.metric_set import MetricSet as MetricSet
    from landscape.metrics.resampling import (
        REPLICATES as REPLICATES,
        bootstrap as bootstrap,
        bootstrap_weights as bootstrap_weights,
        interval as interval,
    )


lazy.attach(__name__)
