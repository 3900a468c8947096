"""Mini-batches, blocks, masks, split and sharpness against dense matrices and closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nets_for_tests import Dense, small_images, small_net
from torch import nn

from landscape import hessian, objective
from landscape.compute.randomness import generator, numpy_generator
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.hessian import mini_batches
from landscape.hessian.blocks import named_blocks
from landscape.hessian.sharpness import filter_norms, rayleigh_quotient
from landscape.metrics import confidence
from landscape.nets import MCDropout
from landscape.objective import CurvatureOperator, Objective
from landscape.store.journal import Journal
from landscape.store.protocol import Protocol

EXACT = Protocol(dtype="float64")


def measured(net: nn.Module | None = None, data: Images | None = None, **settings: object) -> Objective:
    settings = {"protocol": EXACT, "weight_decay": 0.1} | settings
    return Objective(net or small_net(), data or small_images(), **settings)


@pytest.fixture(scope="module")
def dense() -> Dense:
    return Dense(small_net(), small_images(), weight_decay=0.1)


def descending(matrix: torch.Tensor) -> np.ndarray:
    return torch.linalg.eigvalsh(matrix).flip(0).numpy()


def perceptron(*, dropout: float = 0.0, bias: bool = False) -> nn.Module:
    """80 parameters on images (2, 2, 2)."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(8, 7, bias=bias), nn.ReLU(), MCDropout(dropout), nn.Linear(7, 3, bias=bias)
    )
    with torch.no_grad():
        for place, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(place, "perceptron")) * 0.6)
    return net.eval()


def little_images() -> Images:
    return small_images(side=2)


def matrix_of(curvature: CurvatureOperator) -> torch.Tensor:
    return curvature(torch.eye(curvature.size, dtype=torch.float64))


# Mini-batches ---------------------------------------------------------------------------------------------------------


def of_mini_batches(**settings: object) -> object:
    return hessian.mini_batch_spectra(measured(), per_batch=8, batches=9, top=2, tolerance=1e-6, **settings)


def test_each_mini_batch_has_the_eigenvalues_of_its_own_dense_hessian() -> None:
    found = of_mini_batches()
    assert found.sizes["batch"] == 4
    for place in (0, 3):
        own = small_images().select(torch.arange(8 * place, 8 * place + 8))
        values = descending(Dense(small_net(), own, weight_decay=0.1).hessian)
        largest = values[np.argsort(-np.abs(values))[:2]]
        assert found["eigenvalue"].values[place] == pytest.approx(np.sort(largest)[::-1], rel=1e-5)
    pooled = found["eigenvalue"].values
    assert float(found["negative_share"]) == np.mean(pooled < 0)
    assert float(found["quantile"].sel(probability=0.5)) == pytest.approx(np.median(pooled))
    assert float(found["quantile_stderr"].sel(probability=0.5)) > 0


def test_killed_mini_batches_go_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of_mini_batches()
    file = tmp_path / "journal"
    with Journal(file, {"work": 1}) as journal:
        of_mini_batches(journal=journal)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * 0.7)])
    calls = []
    original = objective.CurvatureOperator

    def counted(*arguments: object, **settings: object) -> object:
        calls.append(settings["first"])
        return original(*arguments, **settings)

    monkeypatch.setattr("landscape.hessian.mini_batches.CurvatureOperator", counted)
    with Journal(file, {"work": 1}) as journal:
        kept = len(journal)
        resumed = of_mini_batches(journal=journal)
    assert 0 < kept < 4
    assert len(calls) == 4 - kept
    assert resumed.identical(whole)


def test_too_few_images_are_refused_and_pictures_drawn(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="5 images do not fill a mini-batch of 8"):
        hessian.mini_batch_spectra(measured(data=small_images(count=5)), per_batch=8)
    mini_batches.draw([of_mini_batches()], tmp_path / "picture.svg")
    assert "max-eigenvalue spectrum" in (tmp_path / "picture.svg").read_text()


def test_the_distribution_counts_outliers_and_finds_the_tail() -> None:
    source = numpy_generator(0, "test")
    values = np.sort(source.normal(10, 1, size=(400, 5)), axis=1)[:, ::-1].copy()
    values[:40, 0] = 50
    values[:20, 4] = -1
    found = mini_batches.distribution(values, replicates=50)
    assert float(found["outlier_share"]) == pytest.approx(40 / 2000)
    assert float(found["negative_share"]) == pytest.approx(20 / 2000)
    low, high = found["outlier_share_interval"].values
    assert low < 0.02 < high
    grid = found["grid"].values
    assert float(found["density"].sum()) * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-3)
    # Pareto with index 2, whose Hill estimate from 2000 values has a standard deviation of 2 / sqrt(2000).
    pareto = source.pareto(2.0, size=20_000) + 1
    assert mini_batches.tail_index(pareto) == pytest.approx(2.0, abs=0.15)
    assert np.isnan(mini_batches.tail_index(pareto[:9]))


def test_the_distributions_standard_error_is_the_spread_over_draws_of_mini_batches() -> None:
    source = numpy_generator(1, "test")
    draws = [source.normal(0, 1, size=(100, 1)) + source.normal(0, 1, size=(100, 5)) for _ in range(40)]
    found = [mini_batches.distribution(values, seed=n, replicates=60) for n, values in enumerate(draws)]
    stated = np.mean([float(one["negative_share_stderr"]) for one in found])
    # The rows' common part makes drawing single eigenvalues understate the spread by a factor of 1.6.
    assert np.std([float(one["negative_share"]) for one in found], ddof=1) / stated == pytest.approx(1, abs=0.3)


def test_epochs_show_every_example_before_any_comes_again() -> None:
    data = small_images(count=10)
    drawn = mini_batches.epochs(data, 25, seed=0)
    position = [int((data.images == image).flatten(1).all(1).nonzero()[0, 0]) for image in drawn.images]
    assert sorted(position[:10]) == sorted(position[10:20]) == list(range(10))
    assert position[:10] != position[10:20]
    assert position[:10] != list(range(10))


# Blocks ---------------------------------------------------------------------------------------------------------------


def test_blocks_are_those_of_the_dense_matrix_and_add_up(dense: Dense) -> None:
    function = measured()
    found = hessian.block_spectra(function, depth=1, top=2, tolerance=1e-6, trace_products=60)
    places = function.space.slices()
    for name, members in named_blocks(function.names, 1).items():
        where = torch.cat([torch.arange(places[one].start, places[one].stop) for one in members])
        block = dense.hessian[where][:, where]
        one = found.sel(block=name)
        assert float(one["block_eigenvalue"]) == pytest.approx(descending(block)[0], rel=1e-4)
        assert abs(float(one["block_trace"]) - float(block.trace())) <= 4 * float(one["block_trace_stderr"]) + 1e-6
        assert int(one["block_parameters"]) == len(where)
    values, vectors = torch.linalg.eigh(dense.hessian)
    assert found["eigenvalue"].values == pytest.approx(values.flip(0)[:2].numpy(), rel=1e-5)
    assert found["share"].sum("block").values == pytest.approx([1, 1])
    tail = places["8.bias"].stop - places["8.weight"].start
    assert float(found["share"].sel(block="8")[0]) == pytest.approx(float(vectors[-tail:, -1].square().sum()), rel=1e-2)


def test_blocks_are_named_by_depth() -> None:
    names = ["layer1.0.conv1.weight", "layer1.0.bn1.weight", "layer1.1.conv1.weight", "scale"]
    assert list(named_blocks(names, 1)) == ["layer1", "scale"]
    assert list(named_blocks(names, 2)) == ["layer1.0", "layer1.1", "scale"]
    assert len(named_blocks(names, 9)) == 4


# Masks ----------------------------------------------------------------------------------------------------------------


def test_eigenvalues_over_masks_and_of_the_mean_hessian() -> None:
    function = measured(perceptron(dropout=0.4), little_images(), protocol=EXACT.replace(dropout="fixed"))
    found = hessian.mask_spectra(function, masks=4, top=2, tolerance=1e-8)
    matrices = [matrix_of(CurvatureOperator(function, sample=mask)) for mask in range(4)]
    own = np.array([descending(matrix)[:2] for matrix in matrices])
    assert found["mask_eigenvalue"].values == pytest.approx(own, rel=1e-6)
    assert found["eigenvalue"].values == pytest.approx(own.mean(0), rel=1e-6)
    assert found["eigenvalue_spread"].values == pytest.approx(own.std(0, ddof=1), rel=1e-4)
    mean = descending(torch.stack(matrices).mean(0))[:2]
    assert found["mean_hessian_eigenvalue"].values == pytest.approx(mean, rel=1e-6)
    assert float(found["mean_hessian_eigenvalue"][0]) < float(found["eigenvalue"][0])
    assert found["eigenvalue_stderr"].values == pytest.approx(own.std(0, ddof=1) / 2, rel=1e-4)
    for rank in range(2):
        ends = found["eigenvalue_low"][rank], found["eigenvalue_high"][rank]
        assert [float(end) for end in ends] == pytest.approx(confidence.of_mean(own[:, rank]), rel=1e-4)
    low, high = found["mean_hessian_eigenvalue_low"].values, found["mean_hessian_eigenvalue_high"].values
    assert np.all((low < mean) & (mean < high))


def test_the_mean_over_masks_covers_the_expectation() -> None:
    function = measured(perceptron(dropout=0.4), little_images(), protocol=EXACT.replace(dropout="fixed"))
    values = [descending(matrix_of(CurvatureOperator(function, sample=mask)))[0] for mask in range(200)]
    low, high = confidence.of_mean(np.array(values).reshape(40, 5))
    # 40 trials of 95 %: at least 34 with probability 0.997.
    assert np.sum((low <= np.mean(values)) & (np.mean(values) <= high)) >= 34


@pytest.mark.parametrize(
    ("dropout", "mode", "masks", "message"),
    [
        (0.4, "off", 4, "dropout is off in this protocol"),
        (0.0, "fixed", 4, "the network has no dropout"),
        (0.4, "fixed", 1, "1 mask has no spread"),
    ],
)
def test_masks_that_mean_nothing_are_refused(dropout: float, mode: str, masks: int, message: str) -> None:
    function = measured(perceptron(dropout=dropout), little_images(), protocol=EXACT.replace(dropout=mode))
    with pytest.raises(LandscapeError, match=message):
        hessian.mask_spectra(function, masks=masks)


def test_every_output_of_a_regression_has_a_copy_of_each_eigenvalue() -> None:
    x = torch.randn(16, 3, generator=generator(0), dtype=torch.float64)
    objective = Objective(nn.Linear(3, 2), (x, x[:, :2]), loss="mse", protocol=Protocol(dtype="float64"))
    values = descending(CurvatureOperator(objective)(torch.eye(objective.size, dtype=torch.float64)))
    groups = hessian.image_group_spectrum(objective, top=4)["eigenvalue"].values
    batches = hessian.mini_batch_spectra(objective, per_batch=16, top=4)["eigenvalue"].values[0]
    assert groups == pytest.approx(values[:4], rel=1e-4)
    assert batches == pytest.approx(values[:4], rel=1e-4)


# Split ----------------------------------------------------------------------------------------------------------------


def test_the_split_is_that_of_the_dense_matrices(dense: Dense) -> None:
    found = hessian.curvature_split(measured(), top=2, tolerance=1e-7)
    values, vectors = torch.linalg.eigh(dense.hessian)
    assert found["eigenvalue"].values == pytest.approx(values.flip(0)[:2].numpy(), rel=1e-6)
    assert found["lowest_eigenvalue"].values == pytest.approx(values[:2].numpy(), rel=1e-4)
    for place, column in ((0, -1), (1, -2)):
        part = float(vectors[:, column] @ dense.ggn @ vectors[:, column])
        assert float(found["ggn_part"][place]) == pytest.approx(part, rel=1e-3)
    residual = descending(dense.hessian - dense.ggn)
    assert float(found["residual_largest"]) == pytest.approx(residual[0], rel=1e-5)
    assert float(found["residual_smallest"]) == pytest.approx(residual[-1], rel=1e-5)
    assert float(found["ggn_eigenvalue"][0]) == pytest.approx(descending(dense.ggn)[0], rel=1e-6)
    # All negative curvature is the residual's.
    assert float(found["lowest_eigenvalue"][0]) < 0 < float(found["lowest_ggn_part"][0])


def test_the_split_of_a_single_parameter() -> None:
    x = torch.tensor([[1.0], [2.0]])
    found = hessian.curvature_split(Objective(torch.nn.Linear(1, 1, bias=False), (x, x), loss="mse"))
    assert found["ggn_part"].values == pytest.approx(5)  # 2 (1 + 4) / 2
    assert float(found["residual_largest"]) == float(found["residual_smallest"]) == pytest.approx(0, abs=1e-5)


# Sharpness ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_dimensional", ["zero", "random"])
@pytest.mark.parametrize("normalization", ["filter", "first_axis", "layer", "none"])
def test_filter_norms_tensor_by_tensor(normalization: str, one_dimensional: str) -> None:
    protocol = EXACT.replace(normalization=normalization, one_dimensional=one_dimensional)
    function = measured(protocol=protocol)
    scales = dict(zip(function.names, function.space.split(filter_norms(function)), strict=True))
    weights = dict(zip(function.names, function.space.split(function.point), strict=True))
    weight, scale = weights["3.conv1.weight"], scales["3.conv1.weight"]
    expected = {
        "filter": float(weight[1].norm()),
        "first_axis": float(weight[:, 2, 1, 0].norm()),
        "layer": float(weight.norm()),
        "none": 1.0,
    }[normalization]
    assert float(scale[1, 2, 1, 0]) == pytest.approx(expected)
    bias = float(weights["8.bias"].norm()) if normalization != "none" else 1.0
    assert scales["8.bias"].tolist() == pytest.approx([0.0 if one_dimensional == "zero" else bias] * 3)


def test_scale_free_eigenvalues_are_those_of_the_scaled_dense_matrix(dense: Dense) -> None:
    function = measured()
    found = hessian.scale_free_spectrum(function, top=3, tolerance=1e-7, trace_products=60)
    scale = filter_norms(function)
    matrix = scale[:, None] * dense.hessian * scale
    assert found["scale_free_eigenvalue"].values == pytest.approx(descending(matrix)[:3], rel=1e-6)
    trace, stderr = float(found["scale_free_trace"]), float(found["scale_free_trace_stderr"])
    assert abs(trace - float(matrix.trace())) <= 4 * stderr + 1e-6


def test_scale_free_eigenvalues_do_not_change_with_the_scale_of_layers() -> None:
    first, second = perceptron(), perceptron()
    with torch.no_grad():
        second[1].weight *= 5
        second[4].weight /= 5
    functions = [measured(net, little_images(), weight_decay=0.0) for net in (first, second)]
    assert functions[0].value().loss == pytest.approx(functions[1].value().loss, rel=1e-6)
    free = [hessian.scale_free_spectrum(one, top=2, tolerance=1e-8)["scale_free_eigenvalue"] for one in functions]
    assert free[0].values == pytest.approx(free[1].values, rel=1e-5)
    plain = [hessian.spectrum(one, top=2, only=("top",))["eigenvalue"].values for one in functions]
    assert plain[0][0] != pytest.approx(plain[1][0], rel=0.5)
    rises = [hessian.sharpness_measures(one)["rise"] for one in functions]
    adaptive = [float(rise.sel(measure="adaptive_sam")) for rise in rises]
    assert adaptive[0] == pytest.approx(adaptive[1], rel=1e-5)
    assert float(rises[0].sel(measure="sam")) != pytest.approx(float(rises[1].sel(measure="sam")), rel=0.1)


def line(slope: float = 0.8) -> Objective:
    """Least squares with one weight, whose neighbourhoods have two ends."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))
    net[1].weight.data.fill_(slope)
    data = small_images(channels=1, side=1, count=20)

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (outputs[:, 0] - labels).square().mean()

    return Objective(net, data, loss=loss, protocol=EXACT)


def test_sharpness_in_one_dimension_is_the_higher_end_of_the_neighbourhood() -> None:
    function = line()
    found = hessian.sharpness_measures(function, epsilon=0.01, radius=0.2, adaptive_radius=0.5)
    here = function.value().loss
    radii = {"epsilon": 0.01 * 1.8, "sam": 0.2, "adaptive_sam": 0.5 * 0.8}
    for name, radius in radii.items():
        ends = [function.value(function.point + sign * radius).loss - here for sign in (1, -1)]
        assert float(found["rise"].sel(measure=name)) == pytest.approx(max(ends), rel=1e-6)
    worst = float(found["rise"].sel(measure="epsilon"))
    assert float(found["epsilon_sharpness"]) == pytest.approx(100 * worst / (1 + here), rel=1e-12)
    assert float(found["gradient_norm"]) == pytest.approx(abs(float(function.gradient())))
    curvature = 2 * float(function.data.images.double().square().mean())
    assert found["rayleigh_quotient"].values == pytest.approx([curvature, curvature])


def test_further_steps_of_the_ascent_never_lose_and_sometimes_win() -> None:
    function = measured()
    found = hessian.sharpness_measures(function, radius=1.0)
    assert np.all(found["rise"].values >= found["first_rise"].values)
    assert np.any(found["rise"].values > 1.01 * found["first_rise"].values)


def test_curvature_along_a_direction(dense: Dense) -> None:
    function = measured()
    vector = torch.randn(function.size, generator=generator(0), dtype=torch.float64)
    truth = float(vector @ dense.hessian @ vector / (vector @ vector))
    found = hessian.sharpness_measures(function, steps=1, directions={"mine": 7 * vector})
    assert float(found["rayleigh_quotient"].sel(direction="mine")) == pytest.approx(truth)
    with pytest.raises(LandscapeError, match="mine is zero"):
        rayleigh_quotient(CurvatureOperator(function), torch.zeros_like(vector), "mine")


# PyHessian ------------------------------------------------------------------------------------------------------------


def test_pyhessians_missing_density_is_one_line() -> None:
    with pytest.raises(
        LandscapeError, match=r"^PyHessian 0\.1's density\(\) calls torch\.eig, which torch has removed"
    ):
        hessian.pyhessian_spectrum(measured(), only=("density",))
