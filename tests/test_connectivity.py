"""Mode connectivity: permutations that change nothing, matched channels, barriers, curves and means."""

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from nets_for_tests import small_images, small_net
from torch import Tensor, nn
from torch.nn import functional

from landscape import Objective, Protocol, nets
from landscape.compute.randomness import generator
from landscape.connectivity import align, bend, cli, connect, match, measure, symmetries
from landscape.connectivity.permutations import Symmetries
from landscape.data import Images, load
from landscape.errors import LandscapeError
from landscape.store.journal import Journal


class Attention(nn.Module):
    """Queries, keys and values from one matrix, taken apart in one of the usual ways."""

    def __init__(self, width: int, heads: int, how: str) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.how = heads, how

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, width = tokens.shape
        if self.how == "chunk":
            parts = [each.view(count, length, self.heads, -1).transpose(1, 2) for each in self.qkv(tokens).chunk(3, -1)]
        else:
            stacked = self.qkv(tokens).reshape(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            parts = list(stacked.unbind(0)) if self.how == "unbind" else [stacked[n] for n in range(3)]
        queries, keys, values = parts
        if self.how == "unbind":
            found = functional.scaled_dot_product_attention(queries, keys, values)
        elif self.how == "chunk":
            found = torch.einsum("bhls,bhsd->bhld", (queries @ keys.mT).softmax(-1), values)
        else:
            found = (queries @ keys.transpose(-2, -1) / math.sqrt(width)).softmax(-1) @ values
        return self.out(found.transpose(1, 2).reshape(count, length, width))


class Transformer(nn.Module):
    """A small vision transformer: patches, class token, positions, a gated layer, a residual stream."""

    def __init__(self, how: str, heads: int = 3, width: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, width, 3, 3)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 5, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.attention = Attention(width, heads, how)
        self.gate, self.back = nn.Linear(width, 20), nn.Linear(10, width)
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.places
        tokens = tokens + self.attention(self.norms[0](tokens))
        tokens = tokens + self.back(functional.glu(self.gate(self.norms[1](tokens)), -1))
        return self.head(self.norms[2](tokens)[:, 0])


class Mixed(nn.Module):
    """Concatenation, groups, depthwise convolution, gates, padding of channels, flattening, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.third, self.groups = nn.Conv2d(10, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.depthwise, self.slope = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.PReLU(8)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.gate, self.last = nn.Linear(12, 12), nn.Linear(12 * 16, 7)
        self.recurrent, self.head = nn.LSTM(7, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        here = self.first(images).relu()
        both = torch.cat([here, self.second(here)], 1)
        features = self.slope(self.depthwise(self.groups(self.third(both))))
        features = features + functional.pad(self.second(here), (0, 0, 0, 0, 2, 2))
        features = self.grouped(features)
        features = features * self.gate(features.mean((2, 3))).sigmoid()[:, :, None, None]
        hidden = self.last(features.flatten(1)).tanh()
        return self.head(self.recurrent(hidden[:, None])[0][:, -1])


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True, activation="gelu")
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(36, 12))
    return nn.Sequential(
        tokens, nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(24, 3)
    )


def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """Float64, with every parameter and statistic away from where a permutation would not show."""
    source = generator(seed, "shaken")
    net = net.double().eval()
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point() and tensor.dim():
                noise = torch.randn(tensor.shape, generator=source, dtype=torch.float64)
                tensor.copy_(tensor.abs() + noise.abs() if tensor.dim() == 1 else tensor + 0.2 * noise)
    return net


# Groups of channels, and how many of them stand inside the blocks of another.
NETS: dict[str, tuple[Any, int, int]] = {
    "resnet": (lambda: nets.build("resnet_dnn_18", num_classes=5, width=4), 12, 0),
    "resnet, MC dropout, smooth": (lambda: nets.build("resnet_mcdo_smoothing_50", num_classes=5, width=2), 37, 0),
    "preresnet": (lambda: nets.build("preresnet_dnn_18", num_classes=5, width=4), 12, 0),
    "vgg": (lambda: nets.build("vgg_dnn_11", num_classes=5, width=4), 10, 0),
    "encoder": (encoder, 9, 4),
    "transformer, unbind": (lambda: Transformer("unbind"), 5, 2),
    "transformer, index": (lambda: Transformer("index", heads=2), 5, 2),
    "transformer, chunk": (lambda: Transformer("chunk"), 5, 2),
    "mixed": (Mixed, 4, 0),
}


def images_for(name: str) -> Tensor:
    wide = name.startswith(("resnet", "preresnet", "vgg"))
    shape = (2, 3, 32, 32) if wide else (2, 2, 6, 6)
    return torch.randn(shape, generator=generator(0, "images"), dtype=torch.float64)


@pytest.mark.parametrize("name", NETS)
def test_a_permuted_network_is_the_same_function_and_matching_undoes_it(name: str) -> None:
    make, groups, inside = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = shaken(make())
    images = images_for(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = symmetries(net, images)
    assert repr(found) == (
        f"Symmetries({groups - inside} groups of channels, {inside} inside the blocks of another)"
    ), [axis.size for axis in found.groups]
    other = copy.deepcopy(net)
    found.apply(other, found.random(seed=3))
    moved = [float((a != b).double().mean()) for a, b in zip(net.parameters(), other.parameters(), strict=True)]
    assert np.mean(moved) > 0.4
    result = align(net, other, images)
    assert result.deviation < 1e-12
    permuted, original = dict(result.network.named_parameters()), dict(net.named_parameters())
    assert [key for key in original if not torch.equal(original[key], permuted[key])] == []
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    steps = result.match.objective
    assert list(steps) == sorted(steps)
    assert steps[-1] == pytest.approx(sum(float(value.detach().square().sum()) for value in original.values()))


def inner(one: nn.Module, other: dict[str, Tensor]) -> float:
    return sum(float((value.detach() * other[name]).sum()) for name, value in one.named_parameters())


def best_by_trying(found: Symmetries, one: nn.Module, other: nn.Module) -> float:
    """The largest inner product over all permutations."""
    tensors = {name: value.detach() for name, value in other.named_parameters()}
    choices = []
    for order in found.identity().values():
        rows = [list(itertools.permutations(range(order.shape[-1]))) for _ in range(order.numel() // order.shape[-1])]
        choices.append([torch.tensor(each).view(order.shape) for each in itertools.product(*rows)])
    return max(
        inner(one, found.permuted(tensors, dict(zip(found.groups, each, strict=True))))
        for each in itertools.product(*choices)
    )


class Heads(nn.Module):
    """Attention alone, from inputs to outputs that stay in place."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(6, 2, "unbind")

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attention(tokens)


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), Heads])
def test_where_one_assignment_is_all_it_is_the_best_of_all(make: Any) -> None:
    one, other = shaken(make(), seed=1), shaken(make(), seed=2)
    found = symmetries(one, torch.randn(2, 4, 6, dtype=torch.float64) if make is Heads else torch.randn(2, 3).double())
    result = match(found, dict(one.named_parameters()), dict(other.named_parameters()))
    assert result.objective[-1] == pytest.approx(best_by_trying(found, one, other), rel=1e-12)
    permuted = found.permuted({n: p.detach() for n, p in other.named_parameters()}, result.permutations)
    assert inner(one, permuted) == pytest.approx(result.objective[-1], rel=1e-12)


def test_the_objective_of_independent_networks_never_falls() -> None:
    one, other = (shaken(nets.build("resnet_dnn_18", num_classes=5, width=8), seed=seed) for seed in (1, 2))
    found = symmetries(one, images_for("resnet"))
    result = match(found, dict(one.named_parameters()), dict(other.named_parameters()))
    assert len(result.objective) > 3
    assert (np.diff(result.objective) > 0).all()


class Unseen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        with torch._C.DisableTorchFunction():
            weighted = hidden * torch.arange(6)
        return self.last(hidden + weighted.sum(-1, keepdim=True))


def test_what_cannot_be_aligned_is_refused() -> None:
    inputs = torch.randn(4, 4)
    with pytest.raises(LandscapeError, match="differ in their parameters"):
        align(nn.Linear(4, 3), nn.Linear(4, 2), inputs)
    with pytest.raises(LandscapeError, match="no channel"):
        align(nn.Linear(4, 3), nn.Linear(4, 3), inputs)
    with pytest.raises(LandscapeError, match="unseen"):
        align(Unseen(), shaken(Unseen(), seed=4).float(), inputs)


def digits() -> Images:
    data = load("digits").subset(200, 0)
    small = functional.avg_pool2d(data.batch(0, 200)[:, :1], 2)
    return Images(small, data.labels, 10, "digits", "train")


def classifier(seed: int) -> nn.Module:
    """A network wide enough for its data, trained alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10))
    data, optimizer = digits(), torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(net(data.images), data.labels).backward()
        optimizer.step()
    return net


def trained(seed: int, steps: int) -> nn.Module:
    data, net = small_images(), small_net(seed=seed).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(net(data.images), data.labels).backward()
        optimizer.step()
    return net.eval()


def objective(net: nn.Module, data: Images | None = None) -> Objective:
    protocol = Protocol(dtype="float64", batch_norm="recalibrated")
    return Objective(net, data or small_images(), weight_decay=1e-4, protocol=protocol)


def test_numbers_are_those_of_the_networks_between() -> None:
    one, two, three = trained(0, 20), trained(5, 20), trained(6, 20)
    start = objective(one)
    result = connect(start, one, {"b": two, "c": three}, points=5)
    ends = [objective(net).point for net in (two, three)]
    for other, end in zip("bc", ends, strict=True):
        for share in (0.0, 0.25, 0.5, 1.0):
            truth = start.value(start.point + share * (end - start.point))
            row = result.sel(other=other, way="line", t=share)
            assert float(row["loss"]) == pytest.approx(truth.loss, rel=1e-9)
            assert float(row["cross_entropy"]) == pytest.approx(truth.cross_entropy, rel=1e-9)
    line = result.sel(other="b", way="line")
    heights = line["cross_entropy"].values - np.linspace(*line["cross_entropy"].values[[0, -1]], 5)
    assert line["height"].values == pytest.approx(heights, abs=1e-6)
    assert float(line["barrier"]) == pytest.approx(heights.max(), rel=1e-5)
    assert float(line["barrier_at"]) == line["t"].values[heights.argmax()]
    assert float(line["barrier_low"]) < float(line["barrier"]) < float(line["barrier_high"])
    assert float(line["distance"]) == pytest.approx(float((ends[0] - start.point).norm()), rel=1e-12)
    # The other end computes what it did before it was permuted.
    for name in ("cross_entropy", "accuracy"):
        at_end = result[name].sel(other="b", t=1)
        assert at_end.sel(way="aligned").item() == pytest.approx(at_end.sel(way="line").item(), rel=1e-9)
    assert (result["distance"].sel(way="aligned") < result["distance"].sel(way="line")).all()
    assert (result["weight_match_after"] > result["weight_match_before"]).all()
    mean = start.value((start.point + ends[0] + ends[1]) / 3)
    assert float(result["soup_cross_entropy"].sel(way="line")) == pytest.approx(mean.cross_entropy, rel=1e-9)


def test_a_network_and_its_permuted_copy_have_no_barrier_once_matched() -> None:
    net, data = classifier(0), digits()
    other = copy.deepcopy(net)
    found = symmetries(net, data.images[:4])
    found.apply(other, found.random(seed=2))
    result = connect(objective(net, data), net, {"permuted": other}, points=5).sel(other="permuted")
    assert float(result["barrier"].sel(way="line")) > 0.2
    assert float(result["barrier"].sel(way="aligned")) == pytest.approx(0, abs=1e-6)
    assert float(result["distance"].sel(way="aligned")) == 0


def test_networks_in_wrappers_are_seen_through() -> None:
    one, other = classifier(0), classifier(1)
    plain = connect(objective(one, digits()), one, {"b": other}, points=3)
    one, other = nn.DataParallel(one), nn.DataParallel(other)
    assert connect(objective(one, digits()), one, {"b": other}, points=3).identical(plain)


def test_the_interval_of_a_low_barrier_holds_it() -> None:
    # Heights of single examples vary by 0.3, their mean by a hundredth of that: often it is nowhere above the line.
    source, times = np.random.default_rng(0), np.linspace(0, 1, 11)
    held = []
    for _ in range(100):
        own = source.normal(0, [0.3, 0.1], (500, 2)) @ np.sin(np.pi * np.outer([1, 2], times))
        losses = source.exponential(size=(500, 1)) + 0.004 * times * (1 - times) + own
        cells = [{"losses": each, "cross_entropy": each.mean(), "l2": np.zeros(())} for each in losses.T]
        way = measure._way(cells, times)
        held.append(way["barrier_low"] <= 0.001 <= way["barrier_high"])
    assert np.mean(held) > 0.9


def test_matching_and_a_curve_lower_the_barrier_between_two_trainings() -> None:
    one, two, data = classifier(0), classifier(1), digits()
    start = objective(one, data)
    result = connect(
        start, one, {"b": two}, parts=("line", "aligned", "curve"), points=7, training=lambda: start, curve_steps=80
    ).sel(other="b")
    line, aligned, curve = result["barrier"].values
    assert aligned < 0.8 * line
    assert curve < 0.5 * line
    ends = result["cross_entropy"].isel(t=[0, -1])
    assert ends.sel(way="curve").values == pytest.approx(ends.sel(way="line").values, rel=1e-9)


def test_a_killed_curve_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    training, end = objective(trained(0, 5)), objective(trained(5, 5)).point
    whole = bend(training, end, steps=8, batch=16)
    with Journal(tmp_path / "journal", {"key": "x"}) as kept:
        bend(training, end, steps=8, batch=16, journal=kept)
    raw = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(raw[: 6 * len(raw) // 10])
    with Journal(tmp_path / "journal", {"key": "x"}) as kept:
        assert 0 < sum(f"curve/{piece}" in kept for piece in range(4)) < 4
        resumed = bend(training, end, steps=8, batch=16, journal=kept)
    assert torch.equal(whole, resumed)
    with pytest.raises(LandscapeError, match="diverges"):
        bend(training, end, steps=8, learning_rate=1e200)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": ()}, "unknown part"),
        ({"points": 2}, "3 or more"),
        ({"others": {}}, "one network only"),
        ({"parts": ("curve",)}, "give training"),
    ],
)
def test_what_cannot_be_connected_is_refused(settings: dict[str, Any], message: str) -> None:
    net = small_net()
    others = settings.pop("others", {"b": small_net(seed=1)})
    with pytest.raises(LandscapeError, match=message):
        connect(objective(net), net, others, **settings)


class Recurrent(nn.Module):
    """Nothing in it can be permuted: its hidden units are followed nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(images[:, 0])[0][:, -1])


def test_where_nothing_can_be_aligned_the_other_ways_are_measured() -> None:
    one, two = Recurrent(), Recurrent()
    data = Images(torch.rand(12, 1, 6, 6, generator=generator(0, "rows")), torch.arange(12) % 4, 4, "rows", "train")
    start = objective(one, data)
    assert connect(start, one, {"b": two}, points=3)["way"].values.tolist() == ["line"]
    with pytest.raises(LandscapeError, match=r"no channel .* can be permuted.*--only line"):
        connect(start, one, {"b": two}, parts=["aligned"], points=3)


FACTORY = """
import sys
sys.path.insert(0, {tests!r})
from nets_for_tests import small_images, small_net as net


def data(split):
    return small_images()
"""


def test_the_command_measures_draws_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(FACTORY.format(tests=str(Path(__file__).parent)))
    for name, seed in (("a", 0), ("b", 5), ("c", 6)):
        torch.save(trained(seed, 20).state_dict(), f"{name}.pt")
    model = ["--model", "nets.py:net", "--data", "nets.py:data", "--images", "all"]
    common = ["a.pt", "b.pt", "c.pt", *model]
    ways = ["--only", "line", "--only", "aligned", "--only", "curve", "--curve-steps", "4", "--points", "3"]
    assert cli.main([*common, *ways, "--plot", "ways.png", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["other"] == ["b", "c"]
    assert facts["way"] == ["line", "aligned", "curve"]
    assert np.shape(facts["cross_entropy"]) == (2, 3, 3)
    assert facts["protocol"]["batch_norm"] == "recalibrated"
    assert max(facts["function_deviation"]) < 1e-6
    assert Path("ways.png").stat().st_size > 1000
    (kept,) = Path("results/connectivity").iterdir()
    with xarray.open_dataset(kept) as saved:
        assert "barrier_high" in saved
    assert cli.main([*common, *ways]) == 0
    table = capsys.readouterr().out
    assert table.count("trained curve") == 2
    assert "mean, channels matched" in table
    assert "measured anew" in table
    assert cli.main([*common, "--plan"]) == 0
    assert "46 points of 37 images" in capsys.readouterr().out
    for wrong, message in (
        (["a.pt", *model], "two checkpoints"),
        ([*common, "--points", "2"], "3 or more"),
        (["a.pt", "b.pt", *common], "named alike"),
        ([*common, "--only", "curve", "--split", "test"], "--split train"),
        ([*common, "--curve-rate", "0"], "positive"),
    ):
        with pytest.raises(LandscapeError, match=message):
            cli.main(wrong)


def test_the_command_says_that_nothing_was_aligned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = small_images().images[0].numel()
    # Without hidden channels there is nothing to permute.
    Path("flat.py").write_text(
        FACTORY.format(tests=str(Path(__file__).parent))
        + f"\n\ndef flat():\n    from torch import nn\n    return nn.Sequential(nn.Flatten(), nn.Linear({inputs}, 3))\n"
    )
    for name in ("a", "b"):
        torch.save({"1.weight": torch.randn(3, inputs), "1.bias": torch.zeros(3)}, f"{name}.pt")
    common = ["a.pt", "b.pt", "--model", "flat.py:flat", "--data", "flat.py:data", "--images", "all", "--points", "3"]
    assert cli.main(common) == 0
    out, err = capsys.readouterr()
    assert [line for line in err.splitlines() if "warning: nothing was aligned" in line]
    assert "as trained" in out
    assert "channels matched" not in out
    with pytest.raises(LandscapeError, match="--only line"):
        cli.main([*common, "--only", "aligned"])
