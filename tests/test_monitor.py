"""The monitor: right numbers, and a training that does not notice it."""

import importlib.util
import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets_for_tests import Dense, small_images, small_net
from torch import Tensor, nn
from torch.nn import functional

from landscape import Monitor, Protocol, nets
from landscape.compute.randomness import generator
from landscape.data import Images, load
from landscape.errors import LandscapeError
from landscape.monitor import lightning_callback, transformers_callback
from landscape.monitor.record import read_table
from landscape.objective import CurvatureOperator, Objective


class Sam(torch.optim.Optimizer):
    """SAM as its best-known implementation has it: a wrapper with ``base_optimizer`` and ``rho`` in its groups."""

    def __init__(
        self, parameters: Any, base: Callable[..., torch.optim.Optimizer], rho: float, **settings: Any
    ) -> None:
        super().__init__(parameters, {"rho": rho, "adaptive": False, **settings})
        self.base_optimizer = base(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        length = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        moves = [(p, p.grad * (g["rho"] / length)) for g in self.param_groups for p in g["params"]]
        for parameter, move in moves:
            parameter.add_(move)
        self.zero_grad()
        with torch.enable_grad():
            closure()
        for parameter, move in moves:
            parameter.sub_(move)
        self.base_optimizer.step()


class Noisy(nn.Module):
    """Batch norm, dropout of both kinds, a hook of the user's own, a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        source = generator(0, "noisy net")
        self.conv = nn.Conv2d(1, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.ours = nets.dropout.MCDropout(0.2)
        self.head = nn.Linear(8 * 16, 10)
        self.register_buffer("passes", torch.zeros(()))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=source))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
        return self.head(self.drop(self.ours(torch.relu(self.norm(self.conv(images))))).flatten(1))


def digits(count: int) -> tuple[Tensor, Tensor]:
    data = load("digits").subset(count, 0)
    return functional.avg_pool2d(data.batch(0, count)[:, :1], 2), data.labels


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "adam": lambda p: torch.optim.Adam(p, lr=2e-3, weight_decay=1e-4),
    "sam": lambda p: Sam(p, torch.optim.SGD, rho=0.05, lr=0.05, momentum=0.9),
}


def trained(optimizer: str, *, autocast: bool, watched: bool) -> tuple[dict[str, Any], int, list[dict[str, float]]]:
    """Everything that 200 steps leave behind, with or without a monitor in the loop."""
    torch.manual_seed(3)
    nets.dropout.masks._fallback.clear()
    inputs, targets = digits(400)
    net = Noisy()
    calls = []
    net.conv.register_forward_hook(lambda *_: calls.append(net.training))
    steps = OPTIMIZERS[optimizer](net.parameters())
    monitor = None
    if watched:
        monitor = Monitor(net, (inputs[:64], targets[:64]), optimizer=steps, every=20, budget=None)
    net.train()
    for _ in range(200):
        rows = torch.randint(400, (32,))

        def closure(rows: Tensor = rows) -> Tensor:
            steps.zero_grad()
            loss = functional.cross_entropy(net(inputs[rows]).float(), targets[rows])
            loss.backward()
            return loss

        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            closure()
            if optimizer == "sam":
                steps.step(closure)
            else:
                steps.step()
            if monitor is not None:
                monitor.step()
                assert torch.is_autocast_enabled("cpu") == autocast
    assert net.training
    left = {f"model {name}": value.clone() for name, value in net.state_dict().items()}
    left |= {f"gradient {name}": p.grad.clone() for name, p in net.named_parameters()}
    inner = getattr(steps, "base_optimizer", steps)
    for number, (_, state) in enumerate(inner.state.items()):
        left |= {f"state {number} {name}": value.clone() for name, value in state.items() if torch.is_tensor(value)}
    left["random"] = torch.get_rng_state()
    left["numpy"] = np.random.get_state()[1].copy()  # noqa: NPY002
    return left, len(calls), [] if monitor is None else monitor.rows


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_is_the_same_to_the_last_bit(optimizer: str, autocast: bool) -> None:
    alone, calls_alone, _ = trained(optimizer, autocast=autocast, watched=False)
    watched, calls_watched, rows = trained(optimizer, autocast=autocast, watched=True)
    assert alone.keys() == watched.keys()
    assert [name for name in alone if not np.array_equal(alone[name], watched[name], equal_nan=True)] == []
    assert calls_alone == calls_watched  # the user's hook did not fire in measurements
    assert len(rows) == 10
    assert all(math.isfinite(row["largest_eigenvalue"]) for row in rows)


def test_the_numbers_are_those_of_the_dense_hessian() -> None:
    net, data, decay = small_net(), small_images(), 0.01
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=decay)
    monitor = Monitor(
        net, data, optimizer=optimizer, products=60, trace_products=40, protocol=Protocol(dtype="float64")
    )
    row = monitor.measure()
    row = monitor.measure()  # the second has no limit of a cold solve
    truth = Dense(net, data, weight_decay=decay)
    values = torch.linalg.eigvalsh(truth.hessian)
    assert row["loss"] == pytest.approx(truth.loss, rel=1e-9)
    assert row["l2"] == pytest.approx(decay / 2 * float(truth.point.square().sum()), rel=1e-9)
    assert row["gradient_norm"] == pytest.approx(float(truth.gradient.norm()), rel=1e-9)
    assert row["largest_eigenvalue"] == pytest.approx(float(values[-1]), abs=row["largest_residual"] + 1e-9)
    assert row["largest_eigenvalue"] == pytest.approx(float(values[-1]), rel=1e-2)
    assert row["smallest_eigenvalue"] == pytest.approx(float(values[0]), abs=row["smallest_residual"] + 1e-9)
    assert row["trace"] == pytest.approx(float(truth.hessian.trace()), abs=4 * row["trace_stderr"])
    assert row["trace_stderr"] < 0.2 * row["trace"]
    assert row["preconditioned_sharpness"] == row["largest_eigenvalue"]
    assert row["two_over_learning_rate"] == row["stability_threshold"] == 20


def dense_preconditioned(net: nn.Module, data: Images, inverse: list[Tensor]) -> float:
    root = torch.cat([part.double().reshape(-1) for part in inverse]).sqrt()
    return float(torch.linalg.eigvalsh(root[:, None] * Dense(net, data).hessian * root)[-1])


def exact(net: nn.Module, data: Images, optimizer: Any, **settings: Any) -> dict[str, float]:
    monitor = Monitor(
        net, data, optimizer=optimizer, products=60, trace_products=0, protocol=Protocol(dtype="float64"), **settings
    )
    monitor.measure()
    return monitor.measure()


def steps(net: nn.Module, data: Images, optimizer: torch.optim.Optimizer, count: int = 5) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        functional.cross_entropy(net(data.images), data.labels).backward()
        optimizer.step()


def test_adam_is_measured_in_the_metric_of_its_own_state() -> None:
    net, data = small_net(), small_images()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.8, 0.95), eps=1e-3)
    steps(net, data, optimizer)
    row = exact(net, data, optimizer)
    inverse = [
        1 / ((1 - 0.8**5) * ((optimizer.state[p]["exp_avg_sq"] / (1 - 0.95**5)).sqrt() + 1e-3))
        for p in net.parameters()
    ]
    assert row["preconditioned_sharpness"] == pytest.approx(dense_preconditioned(net, data, inverse), rel=1e-2)
    assert row["stability_threshold"] == pytest.approx((2 + 1.6) / (0.2 * 1e-3))


def test_before_its_first_step_adam_has_no_preconditioner() -> None:
    net, data = small_net(), small_images()
    row = Monitor(net, data, optimizer=torch.optim.Adam(net.parameters())).measure()
    assert "preconditioned_sharpness" not in row
    assert math.isfinite(row["largest_eigenvalue"])


def test_groups_have_their_own_learning_rates_and_decays() -> None:
    net, data = small_net(), small_images()
    parameters = list(net.parameters())
    groups = [{"params": parameters[:3], "lr": 0.02, "weight_decay": 0.3}, {"params": parameters[3:]}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.5, weight_decay=0.1)
    row = exact(net, data, optimizer)
    rates = [torch.full_like(p, 0.2 if n < 3 else 1.0) for n, p in enumerate(parameters)]
    decays = torch.cat([torch.full((p.numel(),), 0.3 if n < 3 else 0.1) for n, p in enumerate(parameters)]).double()
    root = torch.cat([rate.double().reshape(-1) for rate in rates]).sqrt()
    truth = Dense(net, data)
    matrix = truth.hessian + decays.diag()
    assert row["preconditioned_sharpness"] == pytest.approx(
        float(torch.linalg.eigvalsh(root[:, None] * matrix * root)[-1]), rel=1e-2
    )
    assert row["l2"] == pytest.approx(float((decays * truth.point.square()).sum()) / 2)
    assert row["stability_threshold"] == pytest.approx(2 * 1.5 / 0.1)


def test_decoupled_weight_decay_is_no_part_of_the_loss() -> None:
    net, data = small_net(), small_images()
    assert Monitor(net, data, optimizer=torch.optim.AdamW(net.parameters(), weight_decay=0.1)).measure()["l2"] == 0
    assert Monitor(net, data, optimizer=torch.optim.Adam(net.parameters(), weight_decay=0.1)).measure()["l2"] > 0


def test_sam_is_measured_where_it_looks() -> None:
    net, data = small_net(), small_images()
    row = exact(net, data, Sam(net.parameters(), torch.optim.SGD, rho=0.1, lr=0.2))
    here = Dense(net, data)
    moved = small_net()
    start = torch.nn.utils.parameters_to_vector(net.parameters()).double()
    step = 0.1 * here.gradient / here.gradient.norm()
    torch.nn.utils.vector_to_parameters(start + step, moved.double().parameters())
    there = Dense(moved, data)
    assert row["perturbed_sharpness"] == pytest.approx(float(torch.linalg.eigvalsh(there.hessian)[-1]), rel=1e-2)
    assert row["perturbed_rise"] == pytest.approx(there.loss - here.loss, rel=1e-6)
    # On a quadratic of this curvature along the gradient, SAM's step multiplies the weight by minus one.
    edge, length = row["sam_threshold"], row["gradient_norm"]
    assert 0.2 * edge * (1 + 0.1 * edge / length) == pytest.approx(2)


def test_sams_step_up_is_of_the_data_alone() -> None:
    # Its weight decay enters the gradient in the optimizer inside, behind the step up.
    net, data = small_net(), small_images()
    row = exact(net, data, Sam(net.parameters(), torch.optim.SGD, rho=0.1, lr=0.2, weight_decay=0.5))
    here, moved = Dense(net, data), small_net()
    point = here.point + 0.1 * here.gradient / here.gradient.norm()
    torch.nn.utils.vector_to_parameters(point, moved.double().parameters())
    there = Dense(moved, data, weight_decay=0.5)
    assert row["perturbed_sharpness"] == pytest.approx(float(torch.linalg.eigvalsh(there.hessian)[-1]), rel=1e-2)
    assert row["perturbed_rise"] == pytest.approx(there.loss - Dense(net, data, weight_decay=0.5).loss, rel=1e-5)


@pytest.mark.parametrize("kind", ["NAdam", "RAdam", "Adamax", "Adadelta", "ASGD"])
def test_weight_decay_in_the_gradient_is_part_of_the_loss(kind: str) -> None:
    net = small_net()
    row = Monitor(
        net, small_images(), optimizer=getattr(torch.optim, kind)(net.parameters(), weight_decay=0.1)
    ).measure()
    assert row["l2"] == pytest.approx(0.05 * sum(float(p.detach().square().sum()) for p in net.parameters()))


def test_settings_without_effect_and_learning_rates_that_fall() -> None:
    net, data = small_net(), small_images()
    row = Monitor(net, data, optimizer=torch.optim.SGD(net.parameters(), lr=0.1, dampening=0.5)).measure()
    assert row["stability_threshold"] == 20
    optimizer = torch.optim.Adagrad(net.parameters(), lr=0.01, lr_decay=0.5, eps=0.1)
    steps(net, data, optimizer)
    inverse = [1 / (3 * (optimizer.state[p]["sum"].sqrt() + 0.1)) for p in net.parameters()]
    assert exact(net, data, optimizer)["preconditioned_sharpness"] == pytest.approx(
        dense_preconditioned(net, data, inverse), rel=1e-2
    )
    # Adafactor sets its own.
    optimizer.param_groups[0]["lr"] = None
    assert math.isnan(Monitor(net, data, optimizer=optimizer).measure()["learning_rate"])


class Complex(nn.Module):
    """Complex weights, as of Fourier neural operators."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64, generator=generator(0, "complex")))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.to(torch.complex64) @ self.weight).abs()


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_complex_parameters_are_pairs_of_real_ones(kind: str) -> None:
    net, inputs = Complex(), torch.randn(30, 4, generator=generator(0, "inputs"))
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.1)
    net(inputs).sum().backward()
    optimizer.step()
    monitor = Monitor(net, (inputs, torch.arange(30) % 3), optimizer=optimizer, products=30)
    monitor.measure()
    row, state = monitor.measure(), optimizer.state[net.weight]
    if kind == "SGD":
        assert row["preconditioned_sharpness"] == row["largest_eigenvalue"]
        return
    inverse = 1 / (0.1 * ((torch.view_as_real(state["exp_avg_sq"]) / 0.001).sqrt() + 1e-8))
    objective = Objective(net, (inputs, torch.arange(30) % 3))
    root = inverse.reshape(-1).sqrt()
    product = CurvatureOperator(objective)(torch.eye(24))
    sharpness = float(torch.linalg.eigvalsh(root[:, None] * product * root)[-1])
    assert row["preconditioned_sharpness"] == pytest.approx(sharpness, rel=1e-2)


def test_warm_starts_are_within_two_percent_in_four_products() -> None:
    torch.manual_seed(0)
    inputs, targets = digits(300)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    examples = (inputs[:100], targets[:100])
    warm = Monitor(net, examples, optimizer=optimizer, every=10, budget=None, trace_products=0)
    errors, products, lowest = [], [], []
    for number in range(200):
        rows = torch.randint(300, (32,))
        optimizer.zero_grad()
        functional.cross_entropy(net(inputs[rows]), targets[rows]).backward()
        optimizer.step()
        row = warm.step()
        if row is not None and number > 20:
            cold = Monitor(net, examples, trace_products=0).measure()
            errors.append(abs(row["largest_eigenvalue"] / cold["largest_eigenvalue"] - 1))
            products.append(row["products"])
            off = abs(row["smallest_eigenvalue"] - cold["smallest_eigenvalue"])
            lowest.append(off / cold["largest_eigenvalue"])
            # The bound holds whatever the error is.
            gap = abs(row["largest_eigenvalue"] - cold["largest_eigenvalue"])
            assert gap < row["largest_residual"] + cold["largest_residual"] or row["largest_residual"] > 0.1 * gap
    assert np.median(errors) < 0.02
    assert np.median(products) <= 8  # for the largest and the smallest
    assert np.median(lowest) < 0.05


def test_the_budget_spaces_measurements(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    monkeypatch.setattr("landscape.monitor.monitor.time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    monitor = Monitor(small_net(), small_images(), every=10, budget=0.05)
    measured = Monitor._measured

    def slow(self: Monitor) -> dict[str, float]:
        clock[0] += 2.0
        return measured(self)

    monkeypatch.setattr(Monitor, "_measured", slow)
    monitor._product_seconds = 3.0 / 46  # foretold: two solves of 20 products, 4 for the trace, loss and gradient
    assert "the first after 60 s" in repr(monitor)
    at, shares = [], []
    for step in range(1, 1001):
        clock[0] += 0.1
        if monitor.step() is not None:
            at.append(step)
        shares.append(monitor.cost()["share"])
    # A first measurement is postponed until 5 % of the training pay for it, the second until they pay for both.
    assert at in ([600, 800], [600, 810])
    assert max(shares) <= 0.05 + 1e-9
    cost = monitor.cost()
    assert cost["share"] == pytest.approx(0.04, rel=1e-6)
    assert cost["skipped"] == 98
    assert "4 %" in repr(monitor)
    assert caplog.text.count("raise budget or take fewer examples") == 1


def test_a_training_too_short_for_the_budget_is_not_measured() -> None:
    net = small_net()
    for optimizer, products in (
        (None, 46),
        (torch.optim.SGD(net.parameters(), lr=0.1), 46),
        (torch.optim.Adam(net.parameters()), 66),
        (Sam(net.parameters(), torch.optim.SGD, rho=0.05, lr=0.05), 66),
    ):
        monitor = Monitor(net, small_images(), optimizer=optimizer, every=1, budget=1e-6)
        assert all(monitor.step() is None for _ in range(3))
        assert monitor._expected() == pytest.approx(products * monitor._product_seconds)
        assert monitor._product_seconds > 0
        assert monitor.dataset().sizes["step"] == 0
        assert monitor.cost()["skipped"] == 3
    with pytest.raises(LandscapeError, match="nothing was measured yet"):
        monitor.draw("never.png")


def test_numbers_go_to_loggers_tables_and_pictures(tmp_path: Path) -> None:
    seen: list[Any] = []
    board = types.SimpleNamespace(add_scalar=lambda name, value, step: seen.append((name, step)))
    weights = types.SimpleNamespace(log=seen.append)
    lightning = types.SimpleNamespace(log_metrics=lambda values, step: seen.append((sorted(values)[0], step)))
    table = tmp_path / "curvature.csv"
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    monitor = Monitor(
        net, small_images(), optimizer=optimizer, every=2, budget=None, log=[board, weights, lightning, table]
    )
    for _ in range(4):
        monitor.step()
    assert ("curvature/largest_eigenvalue", 2) in seen
    assert [entry["curvature/step"] for entry in seen if isinstance(entry, dict)] == [2, 4]
    assert ("curvature/cost_seconds", 4) in seen
    assert read_table(table) == monitor.rows
    result = monitor.dataset()
    assert result["step"].values.tolist() == [2, 4]
    assert result["trace_stderr"].attrs["units"] == "nats"
    assert result.attrs["cost_measurements"] == 2
    assert monitor.draw(tmp_path / "curvature.png").stat().st_size > 1000
    # A resumed training keeps the rows up to where it goes on.
    again = Monitor(net, small_images(), every=2, budget=None, log=table, first_step=2)
    assert [row["step"] for row in again.rows] == [2]
    assert again.step() is None
    assert again.step() is not None
    assert [row["step"] for row in read_table(table)] == [2, 4]
    # What it cost is what it cost since.
    assert again.cost()["measurements"] == 1
    assert again.cost()["products"] == again.rows[-1]["products"]
    stingy = Monitor(net, small_images(), every=2, budget=1e-9, log=table, first_step=4)
    stingy.measure()
    assert (stingy.step(), stingy.step(), stingy.cost()["skipped"]) == (None, None, 1)


def test_the_protocol_and_its_hash_are_of_one() -> None:
    inputs = torch.randn(8, 3, generator=generator(0, "inputs"))
    attributes = Monitor(nn.Linear(3, 1), (inputs, inputs[:, :1]), loss="mse").dataset().attrs
    assert Protocol(**json.loads(attributes["protocol"])).hash == attributes["protocol_hash"]


def test_a_damaged_table_is_refused_in_one_line(tmp_path: Path) -> None:
    table = tmp_path / "curvature.csv"
    for content in (b"\xff\xfe", b"a,b\n1,2\n", b"step,loss\n1,two\n"):
        table.write_bytes(content)
        with pytest.raises(LandscapeError, match="not a table of a monitor"):
            Monitor(small_net(), small_images(), log=table, first_step=2)


def test_without_a_threshold_there_is_a_picture(tmp_path: Path) -> None:
    monitor = Monitor(small_net(), small_images())
    monitor.measure()
    assert monitor.draw(tmp_path / "curvature.png").is_file()


def test_a_mask_of_infinities_is_no_divergence() -> None:
    net = small_net()
    net.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1), persistent=False)
    assert math.isfinite(Monitor(net, small_images()).measure()["largest_eigenvalue"])


def test_weights_that_are_not_finite_are_measured_as_not_a_number(caplog: pytest.LogCaptureFixture) -> None:
    net = small_net()
    monitor = Monitor(net, small_images(), every=1, budget=None)
    monitor.step()
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] = math.nan
    row = monitor.step()
    assert row is not None
    assert math.isnan(row["largest_eigenvalue"])
    assert "not finite" in caplog.text


def sequences() -> tuple[dict[str, Tensor], Tensor]:
    source = generator(0, "tokens")
    tokens = torch.randint(20, (24, 6), generator=source)
    return {"tokens": tokens, "weight": torch.rand(24, 6, generator=source)}, tokens.sum(1) % 3


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 5)
        self.recurrent = nn.LSTM(5, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor, weight: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens) * weight[..., None])[0][:, -1])


def test_examples_of_any_kind_give_the_same_numbers() -> None:
    torch.manual_seed(0)
    net = Recurrent()
    inputs, labels = sequences()
    mapping = Monitor(net, {**inputs, "labels": labels}).measure()
    pair = Monitor(net, ((inputs["tokens"], inputs["weight"]), labels)).measure()
    rows = [{"tokens": inputs["tokens"][n], "weight": inputs["weight"][n], "labels": labels[n]} for n in range(24)]
    before = torch.get_rng_state()
    loader = torch.utils.data.DataLoader(rows, batch_size=7)  # type: ignore[arg-type]
    loaded = Monitor(net, loader).measure()
    assert torch.equal(torch.get_rng_state(), before)
    direct = functional.cross_entropy(net(**inputs), labels).item()
    for row in (mapping, pair, loaded):
        assert row["loss"] == pytest.approx(direct, rel=1e-6)
        assert row["largest_eigenvalue"] == mapping["largest_eigenvalue"]


def test_regression_with_targets_of_any_shape() -> None:
    torch.manual_seed(0)
    net, inputs, targets = nn.Linear(4, 2), torch.randn(50, 4), torch.randn(50, 2)
    row = Monitor(net, (inputs, targets), loss="mse").measure()
    # The mean over both outputs of (w x - y)^2: the Hessian is X'X / N per output, and 1 for the bias.
    design = torch.cat([inputs, torch.ones(50, 1)], 1).double()
    assert row["largest_eigenvalue"] == pytest.approx(
        float(torch.linalg.eigvalsh(design.T @ design / 50)[-1]), rel=1e-2
    )
    assert row["loss"] == pytest.approx(functional.mse_loss(net(inputs), targets).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("examples", "loss", "settings", "message"),
    [
        ((torch.zeros(3, 4), torch.zeros(2)), "mse", {}, "first dimensions differ"),
        ({"input": torch.zeros(3, 4)}, "mse", {}, "no targets for mse"),
        (torch.zeros(3, 4), "mse", {}, "no targets for mse"),
        ((torch.zeros(3, 4), torch.zeros(3, 1)), "median", {}, "unknown loss"),
        ((torch.zeros(3, 5), torch.zeros(3, 1)), "mse", {}, "cannot take"),
        ((torch.zeros(3, 4), torch.zeros(3, 1)), "mse", {"every": 0}, "every is 0"),
        ((torch.zeros(3, 4), torch.zeros(3, 1)), "mse", {"budget": 0}, "budget is 0"),
        ((torch.zeros(3, 4), torch.zeros(3, 1)), "mse", {"trace_products": 2}, "4 or more"),
        ((torch.zeros(3, 4), torch.zeros(3, 1)), "mse", {"log": 3}, "add_scalar"),
    ],
)
def test_what_does_not_fit_is_said_at_once(examples: Any, loss: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        Monitor(nn.Linear(4, 1), examples, loss, **settings)


def test_a_compiled_or_wrapped_network_is_seen_through() -> None:
    net = small_net()
    plain = Monitor(net, small_images()).measure()
    wrapped = Monitor(nn.DataParallel(net), small_images()).measure()
    assert wrapped["largest_eigenvalue"] == plain["largest_eigenvalue"]


def test_transformers_trainers_callback() -> None:
    transformers = pytest.importorskip("transformers")
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    callback = transformers_callback(small_images(), every=2, budget=None)
    assert isinstance(callback, transformers.TrainerCallback)
    state = transformers.TrainerState(global_step=0)
    handler = transformers.trainer_callback.CallbackHandler([callback], net, None, optimizer, None)
    control = transformers.TrainerControl()
    handler.on_train_begin(None, state, control)
    for _ in range(4):
        handler.on_step_end(None, state, control)
    assert [row["step"] for row in callback.monitor.rows] == [2, 4]
    assert callback.monitor.rows[0]["two_over_learning_rate"] == 20


def test_lightnings_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lightning.pytorch")
    module.Callback = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", module)
    net, seen = small_net(), []
    logger = types.SimpleNamespace(log_metrics=lambda values, step: seen.append(step))
    trainer = types.SimpleNamespace(
        global_step=0, optimizers=[torch.optim.SGD(net.parameters(), lr=0.1)], loggers=[logger]
    )
    callback = lightning_callback(small_images(), every=2, budget=None)
    callback.on_train_start(trainer, net)
    for batch in range(8):
        trainer.global_step = (batch + 1) // 2  # gradients accumulate over two batches
        callback.on_train_batch_end(trainer, net, None, None, batch)
    assert seen == [2, 4]


def test_a_missing_trainer_is_named() -> None:
    if "lightning" not in sys.modules:
        with pytest.raises(LandscapeError, match="Lightning is not installed"):
            lightning_callback(small_images())


def test_gradient_descent_hovers_at_the_edge_of_stability() -> None:
    """Cohen et al. 2021 (arXiv 2103.00065): sharpness rises to 2 / learning rate and stays there."""
    path = Path(__file__).parents[1] / "examples" / "edge_of_stability.py"
    specification = importlib.util.spec_from_file_location("edge_of_stability", path)
    assert specification is not None
    assert specification.loader is not None
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    result = example.descend(0.1, steps=900, every=30)
    sharpness, edge = result["largest_eigenvalue"].values, result["two_over_learning_rate"].values
    assert sharpness[0] < 0.7 * edge[0]
    assert sharpness.max() > edge[0]
    late = sharpness[-15:] / edge[-15:]
    assert 0.95 < late.mean() < 1.1
    assert late.min() > 0.85
    assert late.max() < 1.25
    # The loss goes on to fall all the while.
    assert np.median(result["loss"].values[-7:]) < 0.75 * result["loss"].values[8]
