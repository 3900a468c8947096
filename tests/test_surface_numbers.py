"""Numbers about surfaces, directions, refinement, and what is drawn of them."""

import base64
import json
import math
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import xarray
from nets_for_tests import Dense, small_images, small_net

from landscape.compute.randomness import generator
from landscape.errors import LandscapeError
from landscape.hessian.sharpness import filter_norms
from landscape.metrics import confidence
from landscape.objective import Objective
from landscape.store.protocol import Protocol
from landscape.surface import adaptive, curvature, directions, html, line, pictures, plane, saved_directions, vtp
from landscape.surface.choices import VIEWS
from landscape.surface.persistence import barcode
from landscape.surface.summary import roughness, spread, summarize


def surface_of(values: np.ndarray, span: float = 1.0, **attributes: object) -> xarray.Dataset:
    axis = span * (np.arange(len(values)) - (len(values) - 1) / 2) / ((len(values) - 1) / 2)
    variables = {"loss": (("alpha", "beta"), values), "rise_stderr": (("alpha", "beta"), np.full(values.shape, 0.01))}
    return xarray.Dataset(variables, {"alpha": axis, "beta": axis}, attrs=attributes)


def test_summary_of_a_bowl_is_its_closed_form() -> None:
    axis = np.linspace(-2, 2, 21)
    a, b = np.meshgrid(axis, axis, indexing="ij")
    summary = summarize(surface_of(3 + a**2 + 4 * b**2 + a * b, span=2.0))
    assert summary.curvature == pytest.approx([2, 8])
    small, large = np.linalg.eigvalsh([[2, 1], [1, 8]])
    assert summary.anisotropy == pytest.approx(large / small)
    assert summary.origin == 3
    assert [rise.radius for rise in summary.rises] == [0.5, 1.0, 1.5, 2.0]
    for rise in summary.rises:
        # Mean over a circle: half the trace of the matrix, times the radius squared over two.
        assert rise.mean == pytest.approx(2.5 * rise.radius**2, rel=1e-6)
        assert rise.stderr == pytest.approx(0.01)
    assert summary.roughness == pytest.approx(0, abs=1e-9)
    assert (summary.nonconvex_in_plane, summary.basins, summary.total_persistence) == (0, 1, 0)
    assert summarize(surface_of(a**2 - b**2, span=2.0)).nonconvex_in_plane == 1


def test_one_example_has_a_surface_without_errors() -> None:
    surface = plane(Objective(small_net(), small_images().subset(1, 0)), points=3)
    assert bool(surface["loss_stderr"].isnull().all())
    assert math.isfinite(summarize(surface).origin)


def test_roughness_is_the_noise_that_was_added() -> None:
    source = np.random.default_rng(0)
    axis = np.linspace(-1, 1, 41)
    a, b = np.meshgrid(axis, axis, indexing="ij")
    noisy = surface_of(np.exp(a + 0.5 * b) + source.normal(0, 0.05, a.shape))
    assert roughness(noisy)[0] == pytest.approx(0.05, rel=0.05)
    # What the cells state as their own error is taken out.
    noisy["mask_stderr"] = (("alpha", "beta"), np.full(a.shape, 0.04))
    assert roughness(noisy)[0] == pytest.approx(0.03, rel=0.15)
    assert math.isnan(roughness(surface_of(np.exp(a), dropout="fresh"))[1])


def test_barcode_counts_basins_and_their_barriers() -> None:
    bars = barcode(np.array([3.0, 1.0, 2.0, 0.0, 5.0, 4.0, 6.0]))
    np.testing.assert_array_equal(bars.births, [0, 1, 4])
    np.testing.assert_array_equal(bars.deaths, [6, 2, 5])
    np.testing.assert_array_equal(bars.minima[:, 0], [3, 1, 5])
    assert bars.total == 2
    assert (bars.longer_than(0.5), bars.longer_than(1.5)) == (3, 1)
    ring = np.array([[9.0, 9, 9, 9, 9], [9, 0, 9, 1, 9], [9, 9, 5, 9, 9], [9, 9, 9, 9, 9]])
    assert barcode(ring).lengths.tolist() == [9, 8, 4]
    flat = barcode(np.zeros((4, 4)))
    assert flat.lengths.tolist() == [0]
    broken = np.array([0.0, np.nan, 1.0, np.inf, 2.0])
    assert barcode(broken).lengths.tolist() == [2, 1, 0]
    # Two basins on either side of a wall that is not finite, the right one with a barrier of its own.
    walled = barcode(np.array([1.0, 0.0, 4.0, np.nan, 3.0, 2.0, 5.0, 4.0]))
    assert (walled.births.tolist(), walled.deaths.tolist()) == ([0.0, 2.0, 4.0], [5.0, 5.0, 5.0])
    assert walled.minima[:, 0].tolist() == [1, 5, 7]
    assert (walled.longer_than(2), walled.total) == (2, 4.0)


def test_barcode_against_brute_force() -> None:
    values = np.random.default_rng(1).permutation(64).reshape(8, 8).astype(float)
    bars = barcode(values)
    from scipy import ndimage

    for height in range(64):
        alive = int(((bars.births <= height) & ((bars.deaths > height) | (np.arange(len(bars.births)) == 0))).sum())
        assert alive == ndimage.label(values <= height)[1]


def test_curvature_of_the_surface_is_the_hessians() -> None:
    net, data = small_net(), small_images()
    objective = Objective(net, data, weight_decay=0.01, protocol=Protocol(dtype="float64"), micro_batch=16)
    chosen = directions.random_directions(objective)
    exact = Dense(net, data, weight_decay=0.01).hessian
    wanted = (chosen.vectors @ exact @ chosen.vectors.T).numpy()
    found = curvature.along_axes(objective, chosen)
    np.testing.assert_allclose(found.axis_curvature, wanted, rtol=1e-8)
    np.testing.assert_allclose(found.rayleigh, np.diag(wanted) / chosen.vectors.square().sum(1).numpy(), rtol=1e-8)
    # A span that meets no kink of the piecewise linear network.
    surface = plane(objective, directions=chosen, points=5, span=3e-5)
    np.testing.assert_allclose(summarize(surface).curvature, np.diag(wanted), rtol=1e-3)


def test_curvature_map_is_the_dense_spectrum() -> None:
    net, data = small_net(), small_images()
    objective = Objective(net, data, protocol=Protocol(dtype="float64"), micro_batch=37)
    chosen = directions.random_directions(objective)
    found = curvature.over_cells(objective, chosen, [np.array([0.0, 1.0]), np.array([0.0])], tolerance=1e-6)
    exact = np.linalg.eigvalsh(Dense(net, data).hessian.numpy())
    assert float(found.smallest_eigenvalue[0, 0]) == pytest.approx(exact[0], rel=1e-4)
    assert float(found.largest_eigenvalue[0, 0]) == pytest.approx(exact[-1], rel=1e-4)
    assert float(found.largest_eigenvalue[1, 0]) != pytest.approx(exact[-1], rel=1e-2)


def test_filters_of_transposed_convolutions_make_one_output_channel() -> None:
    net = torch.nn.Sequential(torch.nn.ConvTranspose2d(4, 6, 3, groups=2), torch.nn.Flatten(), torch.nn.LazyLinear(3))
    inputs = torch.randn(8, 4, 5, 5, generator=generator(0, "inputs"))
    net(inputs[:1])
    data = (inputs, torch.arange(8) % 3)
    objective = Objective(net, data, protocol=Protocol(dtype="float64"))
    step = objective.space.split(directions.random_directions(objective).vectors[0])[0]
    lengths = objective.space.split(filter_norms(objective))[0]
    weight = net[0].weight.detach().double()
    for group, rows in enumerate((slice(0, 2), slice(2, 4))):
        for output in range(3):
            size = weight[rows, output].norm()
            assert step[rows, output].norm() == pytest.approx(float(size), rel=1e-6), (group, output)
            assert lengths[rows, output].unique() == pytest.approx(float(size), rel=1e-6)
    # What it is for: the output channel scales with its filter, and nothing else does.
    with torch.no_grad():
        net[0].weight[:2, 1] *= 10
    scaled = objective.space.split(filter_norms(Objective(net, data, protocol=objective.protocol)))[0]
    ratio = scaled / lengths
    assert torch.allclose(ratio[:2, 1], torch.tensor(10.0, dtype=torch.float64))
    ratio[:2, 1] = 1
    assert torch.allclose(ratio, torch.ones_like(ratio))


@pytest.mark.parametrize("normalization", ["filter", "first_axis", "layer", "none"])
@pytest.mark.parametrize("one_dimensional", ["zero", "random"])
def test_directions_are_as_long_as_the_protocol_says(normalization: str, one_dimensional: str) -> None:
    protocol = Protocol(normalization=normalization, one_dimensional=one_dimensional, dtype="float64")
    objective = Objective(small_net(), small_images(), protocol=protocol)
    first, second = (objective.space.split(v) for v in directions.random_directions(objective, seed=4).vectors)
    over = {"filter": lambda t: tuple(range(1, t.dim())), "first_axis": lambda t: (0,)}
    for weight, one, other in zip(objective.space.split(objective.point), first, second, strict=True):
        if weight.dim() == 1 and one_dimensional == "zero":
            assert not one.any()
            continue
        assert not torch.equal(one, other)
        if normalization == "none":
            assert 0.2 < float(one.square().mean()) < 4 or one.numel() < 9
            continue
        axes = over.get(normalization, lambda t: tuple(range(t.dim())))(weight) if weight.dim() > 1 else (0,)
        torch.testing.assert_close(one.square().sum(axes), weight.square().sum(axes))


def test_a_direction_of_nothing_is_refused() -> None:
    objective = Objective(small_net(), small_images(), protocol=Protocol(parameters="*.bias"))
    with pytest.raises(LandscapeError, match=r"is zero: one-dimensional ones stay"):
        plane(objective, points=3)


def test_a_line_between_networks_of_complex_weights() -> None:
    class Complex(torch.nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            drawn = torch.randn(4, 3, dtype=torch.complex64, generator=generator(seed, "complex"))
            self.weight = torch.nn.Parameter(drawn)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return (inputs.to(torch.complex64) @ self.weight).abs()

    one, other = Complex(0), Complex(1)
    data = torch.randn(20, 4, generator=generator(0, "inputs")), torch.arange(20) % 3
    objective = Objective(one, data)
    end = directions.point_of(objective, dict(other.named_parameters()), "other")
    surface = line(objective, directions=directions.between(objective, end), points=3, span=[(0.0, 1.0)])
    assert float(surface.loss[-1]) == pytest.approx(Objective(other, data).value().loss, rel=1e-6)


def test_directions_survive_a_file_and_serve_another_network(tmp_path: Path) -> None:
    first = Objective(small_net(), small_images())
    other = Objective(small_net(seed=5), small_images())
    drawn = directions.random_directions(first, seed=7)
    assert drawn.angle == pytest.approx(90, abs=8)
    file = saved_directions.save(drawn, first, tmp_path / "axes.safetensors")
    torch.testing.assert_close(saved_directions.load(file, first).vectors, drawn.vectors)
    # The same draw, at the other network's scale: what it would have drawn itself.
    torch.testing.assert_close(
        saved_directions.load(file, other).vectors, directions.random_directions(other, seed=7).vectors
    )
    # Made at a channel of zeros, as pruning leaves them: zero there, also for a network without.
    pruned = small_net()
    with torch.no_grad():
        next(pruned.parameters())[0] = 0
    at_zero = Objective(pruned, small_images())
    drawn = directions.random_directions(at_zero, seed=7)
    saved_directions.save(drawn, at_zero, file)
    torch.testing.assert_close(saved_directions.load(file, at_zero).vectors, drawn.vectors)
    assert bool(saved_directions.load(file, other).vectors.isfinite().all())
    with pytest.raises(LandscapeError, match="not a readable file of directions"):
        saved_directions.load(__file__, first)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"facts": "[" * 5000}, "'facts'"),
        ({"facts": '{"norms": 1}'}, "'facts'"),
        ({"facts": '{"a b": 1}'}, "'facts'"),
        ({"facts": '{"a": [1]}'}, "'facts'"),
        ({"marks": '{"a": [1, "x"]}'}, "'marks'"),
        ({"marks": '{"a": [1, 2, 3]}'}, "'marks'"),
        ({"marks": "[1]"}, "'marks'"),
        ({"path": "[[0, 0], [NaN, 1]]"}, "'path'"),
        ({"path": "[[0, 0], [1e400, 1]]"}, "'path'"),
        ({"path": "7"}, "'path'"),
    ],
)
def test_headers_of_directions_are_checked(tmp_path: Path, header: dict[str, str], words: str) -> None:
    objective = Objective(small_net(), small_images())
    file = saved_directions.save(directions.random_directions(objective), objective, tmp_path / "axes.safetensors")
    tensors, kept = safetensors.torch.load_file(file), {"kind": "hessian"}
    safetensors.torch.save_file(tensors, file, {**kept, **header})
    with pytest.raises(LandscapeError, match=words):
        saved_directions.load(file, objective)
    safetensors.torch.save_file(tensors, file, {"kind": "\x1b[2J", "facts": '{"a": "\\u001b[2J"}'})
    read = saved_directions.load(file, objective)
    assert (read.kind, read.facts) == (r"\x1b[2J", {"a": r"\x1b[2J"})


def test_tensors_of_directions_are_checked(tmp_path: Path) -> None:
    objective = Objective(small_net(), small_images())
    file = saved_directions.save(directions.random_directions(objective), objective, tmp_path / "axes.safetensors")
    tensors = safetensors.torch.load_file(file)
    name = next(iter(tensors))
    damages = {
        "not floating point": {name: tensors[name].long()},
        "has shape": {name: tensors[name].reshape(-1)[:1].clone()},
        "not finite": {name: torch.full_like(tensors[name], torch.nan)},
        "is zero": {each: torch.zeros_like(tensor) for each, tensor in tensors.items()},
        "holds no directions": {"1000000000/x": torch.ones(1)},
    }
    for words, changes in damages.items():
        safetensors.torch.save_file({**tensors, **changes}, file, {"kind": "random"})
        with pytest.raises(LandscapeError, match=words):
            saved_directions.load(file, objective)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LandscapeError, match="not a regular file"):
        saved_directions.load(tmp_path / "pipe", objective)


def test_line_between_networks_and_plane_through_three(tmp_path: Path) -> None:
    objective = Objective(small_net(), small_images(), micro_batch=37, protocol=Protocol(dtype="float64"))
    others = [Objective(small_net(seed=seed), small_images()).point.double() for seed in (1, 2)]
    across = directions.between(objective, others[0])
    surface = line(objective, directions=across, points=11, span=[(0.0, 1.0)])
    assert float(surface.loss[0]) == objective.value().loss
    assert float(surface.loss[-1]) == pytest.approx(objective.value(others[0]).loss, rel=1e-12)
    straight = np.linspace(float(surface.loss[0]), float(surface.loss[-1]), 11)
    assert summarize(surface).barrier == pytest.approx(float((surface.loss - straight).max()))
    # Half of the way says nothing of the other end.
    assert math.isnan(summarize(line(objective, directions=across, points=11, span=0.5)).barrier)
    # From a third network the same step leads elsewhere.
    file = saved_directions.save(across, objective, tmp_path / "across.safetensors")
    assert saved_directions.load(file, objective).marks == across.marks
    elsewhere = saved_directions.load(file, Objective(small_net(seed=3), small_images()))
    assert (elsewhere.kind, elsewhere.marks) == ("between of another network", {})
    spanned = directions.through(objective, others)
    assert spanned.angle == pytest.approx(90)
    for other, place in zip(others, list(spanned.marks.values())[1:], strict=True):
        torch.testing.assert_close(spanned.at(objective.point, place), other)
    with pytest.raises(LandscapeError, match="same weights"):
        directions.between(objective, objective.point)


def test_trajectory_is_its_principal_plane() -> None:
    objective = Objective(small_net(), small_images(), protocol=Protocol(dtype="float64"))
    one, two = directions.random_directions(objective, seed=1).vectors
    points = [objective.point + a * one + b * two for a, b in ((3.0, 1.0), (2.0, -1.0), (1.0, 0.3))]
    found = directions.trajectory(objective, points)
    assert found.facts["variance_share_1"] + found.facts["variance_share_2"] == pytest.approx(1)
    assert found.path is not None
    assert np.abs(found.path).max() == pytest.approx(1)
    for point, place in zip(points, found.path, strict=False):
        torch.testing.assert_close(found.at(objective.point, place), point)


def test_hessian_directions_are_its_eigenvectors() -> None:
    net, data = small_net(), small_images()
    objective = Objective(net, data, protocol=Protocol(dtype="float64"))
    found = directions.hessian_directions(objective)
    exact = np.linalg.eigvalsh(Dense(net, data).hessian.numpy())
    measured = curvature.along_axes(objective, found)
    np.testing.assert_allclose(measured.rayleigh, exact[::-1][:2], rtol=1e-2)


def test_refinement_follows_a_ridge() -> None:
    axis = np.linspace(-1, 1, 33)
    a, b = np.meshgrid(axis, axis, indexing="ij")
    truth = a**2 + b**2 + 2 * np.exp(-(((a - 0.5) / 0.15) ** 2))
    values = np.full(truth.shape, np.nan)

    def evaluate(cells: list[tuple[int, ...]]) -> None:
        for cell in cells:
            assert np.isnan(values[cell]), "measured twice"
            values[cell] = truth[cell]

    found = adaptive.refine(values, evaluate, 0.02)
    known = np.isfinite(values)
    rest = [tuple(cell) for cell in np.argwhere(~known)]
    off = np.abs(adaptive.interpolated(values, known, rest) - truth[~known])
    assert known[a > 0].mean() > 2 * known[a < -0.2].mean()
    assert known.mean() < 0.7
    assert (off > 0.02).mean() <= found.risk
    assert found.worst <= 0.02


def test_pictures_pages_and_meshes(tmp_path: Path) -> None:
    objective = Objective(small_net(), small_images(), micro_batch=37)
    surface = plane(objective, points=5).assign_attrs(name="</script><b>net</b>", key="abc")
    surface.loss[0, 0] = np.inf
    for view in VIEWS:
        made = pictures.draw([surface, surface], tmp_path / f"{view}.png", view=view)
        assert (tmp_path / f"{view}.png").stat().st_size > 5000
        assert len(made.axes) >= 2
    # One scale for all: the larger of two surfaces sets it.
    norm, _ = pictures.scale([surface, surface.assign(loss=surface.loss + 5)], "loss")
    assert norm.vmax == pytest.approx(float(surface.loss.values[1:].max()) + 5, rel=0.2)
    page = html.write([surface], tmp_path / "page.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("</script>") == 2  # the data and what draws them
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["surfaces"][0]["values"]["loss"][0][0] is None
    assert data["surfaces"][0]["values"]["loss"][2][3] == pytest.approx(float(surface.loss[2, 3]), rel=1e-6)
    mesh = ElementTree.parse(vtp.write(surface, tmp_path / "mesh.vtp")).getroot()
    piece = mesh.find("PolyData/Piece")
    assert piece is not None
    assert (piece.get("NumberOfPoints"), piece.get("NumberOfPolys")) == ("25", "15")
    # VTK reads numbers that are not finite from bytes alone, behind their count.
    arrays = {array.get("Name"): array for array in piece.iter("DataArray")}
    content = base64.b64decode(arrays["loss"].text)
    assert (arrays["loss"].get("format"), int.from_bytes(content[:8], "little")) == ("binary", 25 * 8)
    assert np.array_equal(np.frombuffer(content[8:]), surface.loss.values.ravel())
    frames = [surface, surface.assign(loss=surface.loss * 1.1)]
    assert pictures.animate(frames, tmp_path / "frames.gif").read_bytes()[:6] == b"GIF89a"
    files = (
        lambda variable: pictures.draw([surface], variable=variable),
        lambda variable: pictures.animate(frames, tmp_path / "frames.gif", variable=variable),
        lambda variable: html.write([surface], tmp_path / "page.html", variable=variable),
        lambda variable: vtp.write(surface, tmp_path / "mesh.vtp", variable=variable),
    )
    surface["unknown"] = surface.loss * np.nan
    frames = [surface, surface]
    for draw in files:
        with pytest.raises(LandscapeError, match="has no 'nothing'"):
            draw("nothing")
        with pytest.raises(LandscapeError, match="no cell has a finite unknown"):
            draw("unknown")


def test_spread_over_planes() -> None:
    objective = Objective(small_net(), small_images(), micro_batch=37)
    found = [summarize(plane(objective, points=5, seed=seed)) for seed in range(3)]
    table = spread(found)
    means = [one.rises[-1].mean for one in found]
    assert table["rise at 1"]["mean"] == pytest.approx(np.mean(means))
    assert table["rise at 1"]["deviation"] == pytest.approx(np.std(means, ddof=1))
    low, high = confidence.of_mean(np.array(means))
    assert (table["rise at 1"]["low"], table["rise at 1"]["high"]) == (low, high)
    assert low < np.mean(means) < high
