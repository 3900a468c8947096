"""Intervals hold the truth as often as they say, where the plain ones do not."""

from statistics import NormalDist

import numpy as np
import pytest
import torch

from landscape import metrics
from landscape.compute.randomness import generator, numpy_generator
from landscape.errors import LandscapeError
from landscape.metrics import METRICS, Intervals, MetricSet, confidence

CLASSES = 10


def population(count: int, *, scale: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities whose labels are drawn from them (calibrated), sharper with a larger scale."""
    source = generator(seed, "population")
    logits = scale * torch.randn(count, CLASSES, dtype=torch.float64, generator=source)
    labels = torch.multinomial(logits.softmax(1), 1, generator=source)[:, 0]
    return logits.log_softmax(1), labels


@pytest.mark.parametrize(("scale", "temperature", "count"), [(2.0, 1.0, 150), (6.0, 0.7, 400)])
def test_intervals_of_metrics_cover(scale: float, temperature: float, count: int) -> None:
    """Hard calibrated predictions, on which a bootstrap of the ECE never holds, and easy overconfident ones."""
    logs, labels = population(40_000, scale=scale)
    logs = (logs / temperature).log_softmax(1)
    truth = MetricSet.of(logs, labels).values()
    held: dict[str, list[bool]] = {name: [] for name in METRICS}
    percentile = []
    for place, rows in enumerate(torch.randperm(40_000, generator=generator(1, "samples")).split(count)[:100]):
        batch = metrics.examples(logs[rows], labels[rows])
        intervals = Intervals()
        intervals.add(batch)
        for name, one in intervals.result().items():
            if np.isfinite(one.low):
                held[name].append(one.low <= truth[name] <= one.high)
        if place < 20:
            low, high = metrics.interval(
                metrics.bootstrap(batch, metrics.bootstrap_weights(count, replicates=200))["ece"]
            )
            percentile.append(low <= truth["ece"] <= high)
    # 100 samples: a true 95 % is seen in 88.5 to 100 of them (3 sigma).
    assert {name: np.mean(hits) for name, hits in held.items() if len(hits) > 50 and np.mean(hits) < 0.885} == {}
    assert len(held["ece"]) == 100
    if temperature == 1.0:
        assert np.mean(percentile) < 0.2


def test_debiased_calibration_error_is_nearer() -> None:
    logs, labels = population(20_000, scale=2.0)
    truth = metrics.ece(logs, labels)
    off = []
    for rows in torch.arange(20_000).split(100)[:60]:
        intervals = Intervals()
        intervals.add(metrics.examples(logs[rows], labels[rows]))
        off.append((intervals.result()["ece"].value - truth, intervals.debiased_ece - truth))
    plain, debiased = np.mean(off, axis=0)
    assert plain > 0.04
    assert abs(debiased) < 0.3 * plain


def test_intervals_of_a_mean_over_passes_are_narrower() -> None:
    """Noise of single passes is averaged, of which the interval of one pass holds all."""
    logs, labels = population(3000, scale=2.0)
    passes = [(logs + torch.randn(logs.shape, generator=generator(seed, "noise"))).log_softmax(1) for seed in range(8)]
    one, several = Intervals(), Intervals()
    one.add(metrics.examples(passes[0], labels))
    for each in passes:
        several.add(metrics.examples(each, labels))
    mean = several.result()["nll"]
    assert mean.value == pytest.approx(np.mean([metrics.nll(each, labels) for each in passes]))
    for name in ("nll", "accuracy", "brier"):
        first, mean = one.result()[name], several.result()[name]
        assert mean.stderr < 0.95 * first.stderr, name
        assert mean.high - mean.low < 0.95 * (first.high - first.low), name


def test_linear_terms_are_those_of_the_metric_set() -> None:
    logs, labels = population(500, scale=4.0)
    intervals = Intervals(binning="authors")
    intervals.add(metrics.examples(logs, labels))
    for name, (value, stderr) in MetricSet.of(logs, labels, binning="authors").result().items():
        assert intervals.result()[name].value == pytest.approx(value, rel=1e-12), name
        assert intervals.result()[name].stderr == pytest.approx(stderr, rel=0.01), name


def test_no_interval_where_none_holds() -> None:
    logs = torch.full((40, CLASSES), 0.001 / 9, dtype=torch.float64)
    labels = torch.arange(40) % CLASSES
    logs[torch.arange(40), labels] = 0.999
    intervals = Intervals()
    intervals.add(metrics.examples(logs.log(), labels))
    result = intervals.result()
    assert np.isnan([result[name].low for name in ("nll", "brier", "signed_ece", "iou")]).all()
    assert result["accuracy"][2:] == pytest.approx((0.9124, 1.0), abs=1e-3)
    assert np.isnan(result["uncertain_90"].value)
    with pytest.raises(LandscapeError, match="examples"):
        intervals.add(metrics.examples(logs[:5].log(), labels[:5]))


def test_skewed_means_cover_where_students_t_misses_above() -> None:
    source = numpy_generator(0, "skewed")
    values = source.lognormal(sigma=1.3, size=(1500, 60))
    truth = float(np.exp(1.3**2 / 2))
    low, high = confidence.of_mean(values)
    half = confidence.student(60) * values.std(1, ddof=1) / np.sqrt(60)
    plain = np.abs(values.mean(1) - truth) <= half
    assert plain.mean() < 0.9
    assert np.mean((low <= truth) & (truth <= high)) > 0.925
    assert np.mean(high < truth) < 0.07
    assert np.mean(values.mean(1) + half < truth) > 0.1


def test_means_of_symmetric_values_get_students_interval() -> None:
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert confidence.of_mean(values)[1] == pytest.approx(2.7764 * values.std(ddof=1) / np.sqrt(5), rel=1e-4)
    assert np.isnan(confidence.of_mean(values[:2])).all()


def test_equal_classifiers_that_differ_on_few_examples_are_rarely_told_apart() -> None:
    drawn = numpy_generator(0, "paired").random((1500, 100))
    differences = np.where(drawn < 0.025, 1.0, np.where(drawn < 0.05, -1.0, 0.0))
    low, high = confidence.of_paired_shares(differences)
    assert np.mean((low > 0) | (high < 0)) < 0.05
    assert np.mean(np.multiply(*confidence.of_mean(differences)) > 0) > 0.1
    # Of those that differ in truth, 3 % for the better and 1 % for the worse.
    differences = np.where(drawn < 0.03, 1.0, np.where(drawn < 0.04, -1.0, 0.0))
    low, high = confidence.of_paired_shares(differences)
    assert np.mean((low <= 0.02) & (high >= 0.02)) > 0.935
    # Right of the better alone 4 examples of 100: 4 / 102 +- 1.96 sqrt(5 - 16 / 102) / 102.
    assert confidence.of_paired_shares(np.r_[np.ones(4), np.zeros(96)]) == pytest.approx(
        (-0.003072, 0.081503), abs=1e-6
    )


def test_wilsons_interval() -> None:
    # Brown, Cai & DasGupta 2001: closed form.
    assert confidence.of_proportion(0.0, 10) == pytest.approx((0.0, 0.27753), abs=1e-4)
    assert confidence.of_proportion(0.5, 20) == pytest.approx((0.29930, 0.70070), abs=1e-4)
    assert confidence.of_proportion(1.0, 2000)[1] == 1.0
    assert confidence.of_proportion(0.0, 2000)[0] == 0.0
    assert np.isnan(confidence.of_proportion(np.nan, 0)).all()


def test_the_interval_of_a_quantile_holds_it_also_far_out_and_in_clusters() -> None:
    source = numpy_generator(5, "test")
    truth = NormalDist(sigma=np.sqrt(2)).inv_cdf(0.95)
    held = {1: 0, 4: 0}
    for size in held:
        for _ in range(400):
            # Half of the variance is common to a cluster, so that 120 clusters of four are not 480 values.
            values = source.normal(size=(120, 1)) + source.normal(size=(120, size))
            low, high = confidence.of_quantile(values, 0.95)
            held[size] += low <= truth <= high
    assert all(0.92 < count / 400 < 0.99 for count in held.values()), held


def test_a_quantile_beyond_which_too_few_lie_has_no_interval() -> None:
    values = numpy_generator(6, "test").normal(size=(64, 1))
    low, high = confidence.of_quantile(values, 0.99)
    assert np.isfinite(low)
    assert np.isnan(high)
    assert np.isfinite(confidence.of_quantile(np.tile(values, (10, 1)), 0.99)).all()
    assert np.isnan(confidence.of_quantile(np.full((3, 2), np.nan), 0.5)).all()
    # Values that are not finite count neither as low nor as high.
    damaged = np.concatenate([values, np.full((64, 1), np.nan)], axis=1)
    assert confidence.of_quantile(damaged, 0.5) == confidence.of_quantile(values, 0.5)
