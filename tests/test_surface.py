"""Loss surfaces against closed forms and plain loops."""

import copy
import math

import numpy as np
import pytest
import torch
from nets_for_tests import small_images, small_net
from torch import nn

from landscape.compute.randomness import generator
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.metrics import METRICS, MetricSet, confidence
from landscape.nets.dropout import MCDropout
from landscape.objective import Inference, Objective
from landscape.store.journal import Journal
from landscape.store.protocol import Protocol
from landscape.surface import Directions, directions as axes, line, plane
from landscape.surface.sampling import Regression


class Flat(nn.Module):
    """A linear model of the pixels."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(features, outputs)
        source = generator(0, "flat")
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.dense(images.flatten(1))


def dropout_net() -> nn.Module:
    net = small_net()
    net.insert(7, MCDropout(0.3))
    return net


def squared_error(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs - nn.functional.one_hot(labels, 3)).square().sum(1).mean()


def test_quadratic_equals_closed_form() -> None:
    data = small_images()
    objective = Objective(
        Flat(72, 3), data, loss=squared_error, weight_decay=0.01, protocol=Protocol(dtype="float64"), micro_batch=16
    )
    surface = plane(objective, points=7, seed=3)
    first, second = axes.random_directions(objective, seed=3).vectors.double()
    inputs = torch.cat([data.images.double().flatten(1), torch.ones(37, 1, dtype=torch.float64)], dim=1)
    targets = nn.functional.one_hot(data.labels, 3).double()
    for i, alpha in enumerate(surface.alpha.values):
        for j, beta in enumerate(surface.beta.values):
            point = objective.point + alpha * first + beta * second
            weight = torch.cat([point[:216].view(3, 72), point[216:, None]], dim=1)
            loss = (inputs @ weight.T - targets).square().sum(1).mean() + 0.005 * point.square().sum()
            assert float(surface.loss[i, j]) == pytest.approx(float(loss), rel=1e-12)


def test_softmax_regression_in_float32_equals_float64() -> None:
    data = small_images()
    rough = plane(Objective(Flat(72, 3), data, weight_decay=0.01, micro_batch=16), points=5)
    exact = plane(
        Objective(Flat(72, 3), data, weight_decay=0.01, protocol=Protocol(dtype="float64"), micro_batch=16), points=5
    )
    np.testing.assert_allclose(rough.loss, exact.loss, rtol=1e-6)


@pytest.mark.parametrize("batch_norm", ["running", "batch", "recalibrated"])
@pytest.mark.parametrize("dropout", ["off", "fixed", "fresh"])
def test_origin_is_the_plain_evaluation_exactly(batch_norm: str, dropout: str) -> None:
    objective = Objective(
        dropout_net(),
        small_images(),
        weight_decay=0.01,
        protocol=Protocol(batch_norm=batch_norm, dropout=dropout),
        micro_batch=16,
    )
    before = objective.value()
    surface = plane(objective, points=3)
    terms = objective.value(objective.point, sample=4 if dropout == "fresh" else 0)
    cell = surface.sel(alpha=0.0, beta=0.0)
    assert (float(cell.loss), float(cell.cross_entropy), float(cell.l2)) == (terms.loss, terms.cross_entropy, terms.l2)
    assert float(cell.rise) == 0.0
    assert float(cell.rise_stderr) < 1e-9
    assert objective.value() == before


def test_float32_against_a_float64_loop_over_cells() -> None:
    net, data = small_net(), small_images()
    objective = Objective(net, data, weight_decay=0.01, micro_batch=16)
    surface = plane(objective, points=5, span=0.7)
    chosen = axes.random_directions(objective)
    exact = copy.deepcopy(net).double()
    names = dict(exact.named_parameters())
    start = {name: parameter.detach().clone() for name, parameter in names.items()}
    steps = [dict(zip(objective.names, objective.space.split(v.double()), strict=True)) for v in chosen.vectors]
    for i, alpha in enumerate(surface.alpha.values):
        for j, beta in enumerate(surface.beta.values):
            with torch.no_grad():
                for name, parameter in names.items():
                    parameter.copy_(start[name] + alpha * steps[0][name] + beta * steps[1][name])
                outputs = exact(data.images.double())
                l2 = sum(float(parameter.square().sum()) for parameter in names.values()) * 0.005
            cell = surface.isel(alpha=i, beta=j)
            losses = nn.functional.cross_entropy(outputs, data.labels, reduction="none")
            assert float(cell.loss) == pytest.approx(float(losses.mean()) + l2, rel=1e-5)
            assert float(cell.loss_stderr) == pytest.approx(float(losses.std() / math.sqrt(37)), rel=1e-5)
            for name, estimate in MetricSet.of(outputs.log_softmax(-1), data.labels).result().items():
                assert float(cell[name]) == pytest.approx(estimate.value, rel=1e-5, abs=1e-6, nan_ok=True)


def test_rise_error_is_of_paired_differences() -> None:
    objective = Objective(small_net(), small_images(), micro_batch=16)
    surface = plane(objective, points=3, span=0.2)
    chosen = axes.random_directions(objective)
    inference = Inference(objective)

    def losses(*coordinates: float) -> torch.Tensor:
        inference.write(chosen.at(objective.point, coordinates))
        return objective.example_losses(inference.outputs(0, 37), objective.labels(0, 37))

    difference = losses(0.2, -0.2) - losses(0.0, 0.0)
    cell = surface.isel(alpha=2, beta=0)
    assert float(cell.rise) == pytest.approx(float(difference.mean()), abs=1e-6)
    assert float(cell.rise_stderr) == pytest.approx(float(difference.std() / math.sqrt(37)), rel=1e-4)
    # Ends from the cubes that the cells add up, against the examples themselves.
    for name, values in (("loss", losses(0.2, -0.2)), ("rise", difference)):
        low, high = confidence.of_mean(values.numpy())
        assert float(cell[f"{name}_low"]) == pytest.approx(float(low), rel=1e-4)
        assert float(cell[f"{name}_high"]) == pytest.approx(float(high), rel=1e-4)


def test_errors_of_a_mean_over_tokens_are_those_of_a_ratio() -> None:
    source = generator(0, "ragged")
    tokens = torch.randn(40, 12, 4, generator=source)
    lengths = torch.randint(1, 13, (40, 1), generator=source)
    targets = torch.randint(3, (40, 12), generator=source).masked_fill(torch.arange(12) >= lengths, -100)
    net = nn.Linear(4, 3)
    objective = Objective(net, (tokens, targets), loss="masked_lm", protocol=Protocol(dtype="float64"), micro_batch=16)
    surface = line(objective, points=3, span=0.5)
    chosen = axes.random_directions(objective, 1)

    def sums(coordinate: float) -> torch.Tensor:
        torch.nn.utils.vector_to_parameters(chosen.at(objective.point, (coordinate,)), net.double().parameters())
        scores = net(tokens.double()).transpose(1, 2)
        return nn.functional.cross_entropy(scores, targets, reduction="none").sum(1).detach()

    cell = surface.isel(alpha=2)
    for name, values in (("loss", sums(0.5)), ("rise", sums(0.5) - sums(0.0))):
        ratio = values.sum() / lengths.sum()
        assert float(cell[name]) == pytest.approx(float(ratio))
        left = (values - ratio * lengths[:, 0]) / lengths.double().mean()
        assert float(cell[f"{name}_stderr"]) == pytest.approx(float(left.std() / math.sqrt(40)))


def test_masks_off_fixed_and_fresh() -> None:
    def measured(dropout: str, passes: int = 1, points: int = 3) -> object:
        objective = Objective(dropout_net(), small_images(), protocol=Protocol(dropout=dropout), micro_batch=16)
        still = Directions(torch.zeros(2, objective.size), kind="random")
        return plane(objective, points=points, directions=still, passes=passes)

    for mode in ("off", "fixed"):
        values = measured(mode).loss.values
        assert (values == values[0, 0]).all()
    fresh = measured("fresh", passes=4)
    assert len(np.unique(fresh.loss.values)) == 9
    # Cells that differ by their masks alone scatter as the cells' own masks say.
    assert 0.5 < fresh.loss.values.std(ddof=1) / float(fresh.mask_stderr.mean()) < 1.7
    # The prediction is averaged over the draws, not the metric.
    assert (fresh.nll < fresh.cross_entropy).all()


def test_several_passes_are_the_mean_over_draws() -> None:
    objective = Objective(dropout_net(), small_images(), protocol=Protocol(dropout="fresh"), micro_batch=16)
    surface = plane(objective, points=2, passes=3)
    point = axes.random_directions(objective).at(objective.point, (1.0, -1.0))
    draws = [objective.value(point, sample=2 * 3 + draw).cross_entropy for draw in range(3)]
    assert float(surface.loss[1, 0]) == pytest.approx(np.mean(draws), rel=1e-9)
    assert float(surface.mask_spread[1, 0]) == pytest.approx(np.std(draws, ddof=1), rel=1e-9)


def test_results_do_not_depend_on_who_measured_before(tmp_path: object) -> None:
    objective = Objective(dropout_net(), small_images(), protocol=Protocol(dropout="fresh"), micro_batch=16)
    whole = plane(objective, points=4, tolerance=0.01)
    identity = {"what": "test"}
    with Journal(tmp_path / "journal", identity) as journal:
        plane(objective, points=4, tolerance=0.01, journal=journal)
        finished = len(journal)
    # Cut the journal anywhere: the rest is measured again, to the same bits.
    content = (tmp_path / "journal").read_bytes()
    for length in (len(content) // 7, len(content) // 2, len(content) - 3):
        (tmp_path / "journal").write_bytes(content[:length])
        with Journal(tmp_path / "journal", identity) as journal:
            assert len(journal) < finished
            again = plane(objective, points=4, tolerance=0.01, journal=journal)
        assert again.drop_attrs().identical(whole.drop_attrs())


def test_cells_that_are_not_finite_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Objective(small_net(), small_images(), weight_decay=0.01, micro_batch=16)
    surface = plane(objective, points=3, span=1e30)
    assert surface.attrs["nonfinite_cells"] == 8
    assert np.isfinite(surface.loss.values[1, 1])
    assert float(surface.loss[1, 1]) == objective.value().loss
    tolerant = plane(objective, points=9, span=1e30, tolerance=0.1)
    assert tolerant.attrs["nonfinite_cells"] == 80


def test_tolerance_holds_and_saves() -> None:
    objective = Objective(small_net(), small_images(count=20), micro_batch=20)
    whole = plane(objective, points=17)
    # The net's surface ranges over half a nat.
    some = plane(objective, points=17, tolerance=0.02)
    assert np.abs(whole.loss - some.loss).max() < 0.02
    measured = some.evaluated.values == 1
    np.testing.assert_array_equal(whole.loss.values[measured], some.loss.values[measured])
    assert measured.sum() == some.attrs["cells_evaluated"] < 0.5 * 17**2
    assert some.attrs["saved_factor"] > 2
    assert (some.interpolation_error.values[measured] == 0).all()


def test_what_is_interpolated_stays_what_it_is() -> None:
    source = generator(1, "interpolated")
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source))
    inputs = torch.randn(60, 4, generator=source)
    # The network itself is always right, so that accuracy has an edge there, and the error of the rise a tip.
    objective = Objective(net, (inputs, net(inputs).argmax(1)))
    surface = plane(objective, points=41, tolerance=0.2)
    assert int(surface.evaluated.sum()) < 200
    assert float(surface.accuracy.max()) == 1
    for name, values in surface.data_vars.items():
        assert not name.endswith("_stderr") or not (values < 0).any(), name
    for name in ("loss", "rise"):
        assert not (surface[f"{name}_low"] > surface[name]).any()
        assert not (surface[f"{name}_high"] < surface[name]).any()
    # Of no wrong prediction there is no interval, also between cells.
    assert surface.rise_low[19:22, 19:22].isnull().all()


def test_tolerance_on_a_quadratic_takes_the_coarse_lattice_alone() -> None:
    objective = Objective(
        Flat(72, 3), small_images(), loss=squared_error, protocol=Protocol(dtype="float64"), micro_batch=37
    )
    surface = plane(objective, points=21, tolerance=1e-6)
    whole = plane(objective, points=21)
    np.testing.assert_allclose(surface.loss, whole.loss, atol=1e-8)
    # 6 x 6 lattice points, 5 x 5 middles, and the checks.
    assert surface.attrs["cells_evaluated"] == 36 + 25 + surface.attrs["checks"]


def test_rough_surfaces_are_measured_everywhere() -> None:
    objective = Objective(dropout_net(), small_images(), protocol=Protocol(dropout="fresh"), micro_batch=37)
    surface = line(objective, points=15, tolerance=1e-7)
    assert surface.attrs["cells_evaluated"] == 15


def test_sampled_surface_states_an_error_that_holds() -> None:
    source = generator(0, "many")
    data = small_images(count=2500)
    net = small_net()
    with torch.no_grad():
        # Labels that the net knows a little about, so that losses of one example are alike in all cells.
        labels = torch.distributions.Categorical(logits=net(data.images)).probs.multinomial(1, generator=source)[:, 0]
    data = Images(data.images, labels, 3, "known", "train")
    objective = Objective(net, data, micro_batch=1000)
    whole = plane(objective, points=3, span=0.5)
    inside, total, cheaper = 0, 0, []
    for seed in range(5):
        chosen = axes.random_directions(objective)
        sampled = plane(objective, points=3, span=0.5, stderr="4%", seed=seed, directions=chosen)
        # The origin and the corners are measured on all images.
        off = np.abs(sampled.loss - whole.loss).values.ravel()[1::2]
        error = sampled.loss_stderr.values.ravel()[1::2]
        inside += int((off <= 1.96 * error + 1e-9).sum())
        total += off.size
        assert sampled.attrs["stderr_reached"] <= sampled.attrs["stderr_wanted"] * 1.0001
        cheaper.append(sampled.attrs["images_sampled"])
    assert inside / total >= 0.85
    assert max(cheaper) < 2000


def test_regression_estimates_are_unbiased_with_honest_errors() -> None:
    source = np.random.default_rng(0)
    controls = torch.from_numpy(source.gamma(2.0, size=(5000, 3)))
    losses = controls @ torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    losses += torch.from_numpy(source.gamma(1.0, 0.2, size=5000))
    scores = []
    for _ in range(300):
        order = torch.from_numpy(source.permutation(5000))
        shuffled, these = controls[order], losses[order][:200]
        estimate, error = Regression(shuffled, 200).estimate(
            float(these.mean()), float(these.square().mean()), (these @ shuffled[:200] / 200).numpy()
        )
        scores.append((estimate - float(losses.mean())) / error)
    assert abs(np.mean(scores)) < 0.2
    assert np.std(scores) == pytest.approx(1.0, abs=0.12)
    # Without the controls the error would be many times larger.
    assert error < 0.3 * float(losses.std()) / math.sqrt(200)


def test_reduced_precision_states_its_error() -> None:
    objective = Objective(small_net(), small_images(), micro_batch=16)
    surface = plane(objective, points=3, precision="bfloat16")
    exact = plane(objective, points=3)
    worst = float(np.abs(surface.loss - exact.loss).max())
    assert worst > 0
    corners = np.abs(surface.loss - exact.loss).values[[0, 0, 2, 2, 1], [0, 2, 0, 2, 1]]
    assert surface.attrs["precision_error"] == pytest.approx(corners.max(), rel=1e-6)


def test_restricted_parameters_and_losses_of_ones_own() -> None:
    objective = Objective(small_net(), small_images(), protocol=Protocol(parameters="8.*"), micro_batch=16)
    surface = plane(objective, points=3)
    assert surface.attrs["parameters"] == 15
    custom = Objective(small_net(), small_images(), loss=squared_error, micro_batch=16)
    values = plane(custom, points=3)
    assert float(values.loss[1, 1]) == custom.value().loss
    assert not set(METRICS) & set(values.data_vars)


def test_grids() -> None:
    from landscape.surface.measure import grid

    for span in (0.1, 0.3, 1.0, 0.7):
        (axis,) = grid(21, span, 1)
        assert axis[10] == 0
        np.testing.assert_array_equal(axis, -axis[::-1])
        assert axis[-1] == span
    first, second = grid((3, 5), [(0.0, 1.0), (-2.0, 1.0)], 2)
    assert (first[0], first[-1], second[0], second[-1], len(second)) == (0.0, 1.0, -2.0, 1.0, 5)
    for points, span in ((1, 1.0), (3, 0.0), (3, -1.0), (3, math.inf), (3, [(1.0, 0.0)])):
        with pytest.raises(LandscapeError):
            grid(points, span, 1)


def test_users_model_is_left_alone() -> None:
    net = dropout_net().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    plane(Objective(net, small_images(), protocol=Protocol(dropout="fresh", batch_norm="recalibrated")), points=2)
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_cell_whose_loss_is_not_a_number_has_no_accuracy_either() -> None:
    surface = plane(Objective(small_net(), small_images()), points=3, span=1e25)
    broken = np.isnan(surface["cross_entropy"].values)
    assert 0 < broken.sum() < broken.size
    for name in ("accuracy", "top5", "nll", "ece", "accuracy_stderr"):
        assert np.array_equal(np.isnan(surface[name].values), broken), name
