"""Metrics against scikit-learn, torchmetrics and hand-worked cases; merging; boundaries; coverage of errors."""

from collections.abc import Sequence

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.classification
from torch import Tensor

from landscape import metrics
from landscape.compute.randomness import generator
from landscape.errors import LandscapeError
from landscape.metrics import METRICS, MetricSet, functions
from landscape.metrics.examples import examples
from landscape.metrics.resampling import bootstrap, bootstrap_weights

CLASSES = 7


def predictions(count: int = 500, seed: int = 0, scale: float = 2.5) -> tuple[Tensor, Tensor]:
    """Random float64 log-probabilities and labels that mostly agree with them."""
    source = generator(seed, "predictions")
    logits = torch.randn(count, CLASSES, generator=source, dtype=torch.float64) * scale
    labels = torch.distributions.Categorical(logits=logits).probs.cumsum(1)
    drawn = (labels < torch.rand(count, 1, generator=source, dtype=torch.float64)).sum(1).clamp(max=CLASSES - 1)
    return logits.log_softmax(1), drawn


def two_class(
    confidences: list[float], correct: list[int], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Predictions of class 0 with given confidences, and the labels that make them right or wrong."""
    first = torch.tensor(confidences, dtype=dtype)
    return torch.stack([first, 1 - first], dim=1).log(), 1 - torch.tensor(correct)


def test_agree_with_scikit_learn() -> None:
    log_probabilities, labels = predictions()
    probabilities, predicted = log_probabilities.exp().numpy(), log_probabilities.argmax(1).numpy()
    assert metrics.nll(log_probabilities, labels) == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities, labels=range(CLASSES)), rel=1e-12
    )
    assert metrics.accuracy(log_probabilities, labels) == sklearn.metrics.accuracy_score(labels, predicted)
    assert metrics.top5(log_probabilities, labels) == sklearn.metrics.top_k_accuracy_score(
        labels, probabilities, k=5, labels=range(CLASSES)
    )
    assert metrics.iou(log_probabilities, labels) == pytest.approx(
        sklearn.metrics.jaccard_score(labels, predicted, average="macro", labels=np.unique(labels)), rel=1e-12
    )
    assert metrics.brier(log_probabilities, labels) == pytest.approx(
        sklearn.metrics.brier_score_loss(labels, probabilities, labels=range(CLASSES), scale_by_half=False), rel=1e-12
    )
    confident = probabilities.max(1) > 0.9
    assert metrics.frequency_90(log_probabilities, labels) == confident.mean()
    assert metrics.accuracy_90(log_probabilities, labels) == pytest.approx(
        sklearn.metrics.accuracy_score(labels[confident], predicted[confident]), rel=1e-12
    )
    assert metrics.iou_90(log_probabilities, labels) == pytest.approx(
        sklearn.metrics.jaccard_score(
            labels[confident], predicted[confident], average="macro", labels=np.unique(labels[confident])
        ),
        rel=1e-12,
    )
    wrong = predicted != labels.numpy()
    assert metrics.uncertain_90(log_probabilities, labels) == pytest.approx((~confident)[wrong].mean(), rel=1e-12)


def test_calibration_agrees_with_torchmetrics() -> None:
    log_probabilities, labels = predictions()
    peer = torchmetrics.classification.MulticlassCalibrationError(CLASSES, n_bins=10, norm="l1")
    assert metrics.ece(log_probabilities, labels) == pytest.approx(
        float(peer(log_probabilities.exp(), labels)), abs=1e-6
    )
    confidence, correct = log_probabilities.exp().max(1).values, log_probabilities.argmax(1) == labels
    assert metrics.signed_ece(log_probabilities, labels) == pytest.approx(
        float(confidence.mean() - correct.double().mean()), rel=1e-10
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confidence_of_exactly_nine_tenths_is_not_confident(dtype: torch.dtype) -> None:
    log_probabilities, labels = two_class([0.9, 0.95, 0.9], [1, 1, 0], dtype)
    assert metrics.frequency_90(log_probabilities, labels) == pytest.approx(1 / 3)
    assert metrics.uncertain_90(log_probabilities, labels) == 1.0
    # 0.9 twice in (0.8, 0.9] with accuracy 1/2, 0.95 once in (0.9, 1] with accuracy 1.
    assert metrics.ece(log_probabilities, labels) == pytest.approx((2 * 0.4 + 0.05) / 3, abs=1e-6)


def test_float32_softmax_at_the_threshold() -> None:
    """Logits whose float32 softmax is the float32 nearest to 0.9 are at the threshold, not above it."""
    probabilities = torch.tensor([[0.9, 0.1]], dtype=torch.float32)
    for log_probabilities in (probabilities.log(), probabilities.double().log(), probabilities.log().log_softmax(1)):
        assert metrics.frequency_90(log_probabilities, torch.tensor([0])) == 0.0
    above = torch.nextafter(probabilities, torch.tensor(1.0))
    assert metrics.frequency_90(above.double().log(), torch.tensor([0])) == 1.0


def test_confidence_of_exactly_one() -> None:
    log_probabilities, labels = two_class([1.0, 1.0, 1.0, 1.0], [1, 1, 1, 0])
    assert metrics.ece(log_probabilities, labels) == pytest.approx(0.25)
    assert metrics.signed_ece(log_probabilities, labels) == pytest.approx(0.25)
    assert metrics.nll(log_probabilities, labels) == np.inf
    # The authors' code adds confidences of 1 to no bin, so that they count as 0.
    assert metrics.ece(log_probabilities, labels, binning="authors") == pytest.approx(0.75)
    assert metrics.signed_ece(log_probabilities, labels, binning="authors") == pytest.approx(-0.75)


def test_authors_binning_moves_edges_up() -> None:
    """Two bins in use: 0.8 counts in (0.7, 0.8] but its confidence goes to [0.8, 0.9), as their code has it."""
    log_probabilities, labels = two_class([0.75, 0.8, 0.85], [1, 1, 0])
    by_hand = abs(0.75 - 2) + abs(0.8 + 0.85 - 0)
    assert metrics.ece(log_probabilities, labels, binning="authors") == pytest.approx(by_hand / 3, rel=1e-6)
    assert metrics.ece(log_probabilities, labels) == pytest.approx((abs(1.55 - 2) + 0.85) / 3, rel=1e-6)


def test_ties_take_the_first_class() -> None:
    uniform = torch.full((8, 8), 1 / 8, dtype=torch.float64).log()
    assert metrics.accuracy(uniform, torch.arange(8)) == pytest.approx(1 / 8)
    assert metrics.top5(uniform, torch.arange(8)) == pytest.approx(5 / 8)


def test_iou_by_hand() -> None:
    """Labels 0 0 1 1, predictions 0 1 1 2: IoU 1/2 and 1/3; class 2 does not occur as a label."""
    predicted = torch.tensor([0, 1, 1, 2])
    log_probabilities = torch.nn.functional.one_hot(predicted, 3).double().mul(8).log_softmax(1)
    assert metrics.iou(log_probabilities, torch.tensor([0, 0, 1, 1])) == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_merged_over_batches_is_computed_at_once() -> None:
    log_probabilities, labels = predictions(1003)
    whole = MetricSet.of(log_probabilities, labels)
    parts = MetricSet(CLASSES)
    for rows in torch.randperm(1003, generator=generator(1, "order")).split(64):
        parts.merge(MetricSet.of(log_probabilities[rows], labels[rows]))
    torch.testing.assert_close(vars(parts.sums()), vars(whole.sums()), rtol=1e-12, atol=1e-15)
    for name, (value, stderr) in whole.result().items():
        assert parts.result()[name].value == pytest.approx(value, rel=1e-12), name
        assert parts.result()[name].stderr == pytest.approx(stderr, rel=1e-9), name


@pytest.mark.parametrize("rows", [[3], range(10)])
def test_a_prediction_that_is_not_a_number_makes_every_metric_none(rows: Sequence[int]) -> None:
    log_probabilities, labels = predictions(10)
    labels = log_probabilities.argmax(1)
    log_probabilities[list(rows)] = torch.nan
    metric_set = MetricSet.of(log_probabilities, labels)
    for name, estimate in metric_set.result().items():
        assert np.isnan(estimate.value), name
        assert np.isnan(estimate.stderr), name
    for name in metrics.METRICS:
        assert np.isnan(getattr(functions, name)(log_probabilities, labels)), name
    sound = MetricSet.of(*predictions(10))
    assert np.isnan(sound.merge(metric_set).result()["accuracy"].value)
    weights = bootstrap_weights(10, replicates=50)
    drawn = weights[:, list(rows)].sum(1).numpy() > 0
    replicates = bootstrap(examples(log_probabilities, labels), weights)
    assert np.array_equal(np.isnan(replicates["accuracy"]), drawn)
    assert np.array_equal(np.isnan(replicates["top5"]), drawn)


def test_no_confident_prediction_is_not_a_number() -> None:
    result = MetricSet.of(*two_class([0.6, 0.7], [1, 1])).result()
    assert np.isnan(result["accuracy_90"].value)
    assert np.isnan(result["uncertain_90"].value)
    assert result["accuracy"] == (1.0, 0.0)


def test_averages_do_not_underflow() -> None:
    members = torch.tensor([[-2000.0], [-2001.0]], dtype=torch.float64)
    assert metrics.log_mean_exp(members)[0] == pytest.approx(-2000 + np.log((1 + np.exp(-1)) / 2), rel=1e-12)
    log_probabilities, _ = predictions(20)
    stacked = torch.stack([log_probabilities, log_probabilities.roll(1, 0)])
    torch.testing.assert_close(metrics.log_mean_exp(stacked), stacked.exp().mean(0).log())


def test_refuses_what_would_be_silently_wrong() -> None:
    log_probabilities, labels = predictions(20)
    with pytest.raises(LandscapeError, match="sum to 1"):
        metrics.nll(log_probabilities + 0.3, labels)
    with pytest.raises(LandscapeError, match="log_mean_exp"):
        metrics.nll(log_probabilities[None], labels)
    with pytest.raises(LandscapeError, match="no examples"):
        MetricSet(CLASSES).result()
    with pytest.raises(LandscapeError, match="do not merge"):
        MetricSet(CLASSES).merge(MetricSet(CLASSES, binning="authors"))
    with pytest.raises(LandscapeError, match="unknown binning"):
        MetricSet(CLASSES, binning="left")  # type: ignore[arg-type]


def test_bootstrap_of_equal_weights_is_the_metric_itself() -> None:
    log_probabilities, labels = predictions(200)
    batch = metrics.examples(log_probabilities, labels)
    once = metrics.bootstrap(batch, torch.ones(1, 200, dtype=torch.float64))
    for name, (value, _) in MetricSet.of(log_probabilities, labels).result().items():
        assert once[name][0] == pytest.approx(value, rel=1e-12), name


def test_bootstrap_weights_are_samples_with_replacement() -> None:
    weights = metrics.bootstrap_weights(50, replicates=400, seed=3)
    assert torch.equal(weights.sum(1), torch.full((400,), 50.0, dtype=torch.float64))
    assert float(weights.var()) == pytest.approx(1 - 1 / 50, abs=0.05)
    assert torch.equal(weights, metrics.bootstrap_weights(50, replicates=400, seed=3))


@pytest.mark.parametrize("temperature", [0.6, 0.8])
def test_standard_errors_cover(temperature: float) -> None:
    """The 95 % interval of every metric holds the population's value in about 95 % of samples of 400."""
    population, all_labels = predictions(100_000, seed=5, scale=3.0)
    population = (population / temperature).log_softmax(1)
    truth = {name: value for name, (value, _) in MetricSet.of(population, all_labels).result().items()}
    samples, inside = 200, dict.fromkeys(METRICS, 0)
    for rows in torch.randperm(100_000, generator=generator(6, "samples"))[: samples * 400].split(400):
        for name, (value, stderr) in MetricSet.of(population[rows], all_labels[rows]).result().items():
            inside[name] += abs(value - truth[name]) <= 1.96 * stderr
    coverage = {name: count / samples for name, count in inside.items()}
    # 200 samples: a true 95 % is seen between 90 and 99 % (3 sigma); IoU's and ECE's small bias costs a little more.
    assert all(0.89 <= share <= 1.0 for share in coverage.values()), coverage


def test_standard_errors_match_the_bootstrap() -> None:
    log_probabilities, labels = predictions(2000, seed=2)
    sharper = (log_probabilities * 1.6).log_softmax(1)
    replicates = metrics.bootstrap(
        metrics.examples(sharper, labels), metrics.bootstrap_weights(2000, replicates=600, seed=0)
    )
    for name, (value, stderr) in MetricSet.of(sharper, labels).result().items():
        assert replicates[name].std() == pytest.approx(stderr, rel=0.15), name
        low, high = metrics.interval(replicates[name])
        assert low < value + 2 * stderr, name
        assert high > value - 2 * stderr, name
