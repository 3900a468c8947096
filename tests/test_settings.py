"""Settings of torch that the caller has changed do not reach a measurement, and are as before afterwards."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch
import xarray
from nets_for_tests import small_images, small_net
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from landscape import eigen, feature_maps, frequency_noise, predictions
from landscape.compute.randomness import generator
from landscape.compute.settings import ProcessSetting, math_attention
from landscape.fourier import amplitude, transfer
from landscape.hessian import spectrum
from landscape.nets import MCDropout
from landscape.objective import CurvatureOperator, Inference, Objective
from landscape.store.protocol import Protocol
from landscape.surface import plane


def dropout_net() -> nn.Module:
    net = small_net()
    net.insert(5, MCDropout(0.3))
    return net


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(2, 12), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        query, key, value = self.project(images.flatten(2).mT)[:, None].chunk(3, dim=-1)
        return self.out(nn.functional.scaled_dot_product_attention(query, key, value)[:, 0].mean(1))


def attention_net() -> nn.Module:
    net = Attention()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(0, "attention")))
    return net


# Made before any setting is changed.
DATA, NET, DROPOUT, ATTENTION = small_images(), small_net(), dropout_net(), attention_net()
ROOT = torch.randn(40, 40, generator=generator(0, "settings"))
MATRIX = ROOT @ ROOT.T
ONES = torch.ones(51)
BLOCKS, RECALIBRATED = "3,4", Protocol(batch_norm="recalibrated")

INSTRUMENTS: dict[str, Callable[[], object]] = {
    "value": lambda: Objective(NET, DATA).value().loss,
    "gradient": lambda: Objective(NET, DATA).gradient(),
    "recalibrated": lambda: Objective(NET, DATA, protocol=RECALIBRATED).value().loss,
    "spectrum": lambda: spectrum(Objective(NET, DATA), top=2, probes=1, steps=5, trace_products=6),
    "attention": lambda: CurvatureOperator(Objective(ATTENTION, DATA))(ONES),
    "surface": lambda: plane(Objective(NET, DATA), points=2),
    "inference": lambda: Inference(Objective(NET, DATA)).outputs(0, 10),
    "feature maps": lambda: feature_maps.measure(DROPOUT, DATA, passes=3, blocks=BLOCKS),
    "amplitude": lambda: amplitude.measure(NET, DATA, blocks=BLOCKS),
    "transfer": lambda: transfer.measure(NET, DATA, images=2, frequencies=(0.0, 0.5), blocks=BLOCKS),
    "frequency noise": lambda: frequency_noise.measure(NET, DATA, frequencies=(2 / 3,)),
    "predictions": lambda: predictions.measure(DROPOUT, DATA, passes=3),
    "eigenpairs": lambda: eigen.eigenpairs(eigen.dense(MATRIX), 3).values,
    "trace": lambda: eigen.trace(eigen.dense(MATRIX), products=10).value,
    "density": lambda: eigen.spectral_density(eigen.dense(MATRIX), probes=1, steps=5).nodes,
}


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def matmul_precision() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def equal(first: object, second: object) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, xarray.Dataset):
        return first.equals(second)
    return bool(np.all(first == second))


CALLERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "default device": lambda: torch.device("meta"),
    "default dtype": default_dtype,
    "matmul precision": matmul_precision,
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("name", INSTRUMENTS)
def test_the_callers_settings_do_not_leak_into_any_instrument(name: str) -> None:
    # On one thread: others inherit nothing from the caller anyway.
    with one_thread():
        plain = INSTRUMENTS[name]()
        for caller, context in CALLERS.items():
            with context():
                pass
            before = state()
            with context():
                during = state()
                found = INSTRUMENTS[name]()
                assert state() == during, f"{caller} is as before"
            assert equal(plain, found), caller
            assert state() == before


def state() -> tuple[object, ...]:
    """Every setting that a measurement changes."""
    return (
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_anomaly_enabled(),
        torch.get_default_device(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        precisions(),
        kernels(),
    )


def kernels() -> tuple[bool, ...]:
    """Which attention kernels are enabled."""
    backends = torch.backends.cuda
    return (
        backends.flash_sdp_enabled(),
        backends.mem_efficient_sdp_enabled(),
        backends.cudnn_sdp_enabled(),
        backends.math_sdp_enabled(),
    )


def precisions() -> list[str | None]:
    """The float32 precision of every kind of product, where this torch has one."""
    backends = torch.backends
    operations = [
        getattr(backends.cudnn, "conv", None),
        getattr(backends.cudnn, "rnn", None),
        backends.cuda.matmul,
        getattr(backends.mkldnn, "matmul", None),
        getattr(backends.mkldnn, "conv", None),
    ]
    return [getattr(operation, "fp32_precision", None) for operation in operations]


class Spying(nn.Module):
    """Notes the state of torch whenever it is run."""

    def __init__(self, seen: list[tuple[object, ...]]) -> None:
        super().__init__()
        self.seen = seen

    def __deepcopy__(self, memo: object) -> "Spying":
        return Spying(self.seen)

    def forward(self, features: Tensor) -> Tensor:
        self.seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, precisions()))
        return features


def test_float32_products_are_ieee_inside_and_as_before_afterwards() -> None:
    # As torch has it, but said: what was never set reads otherwise.
    torch.backends.cuda.matmul.allow_tf32 = False
    before = state()
    assert torch.backends.cudnn.allow_tf32, "torch's default, on which a GPU's convolutions would be off by 1e-3"
    seen: list[tuple[object, ...]] = []
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        allowed = state()
        objective = Objective(nn.Sequential(Spying(seen), small_net()), small_images())
        objective.value()
        CurvatureOperator(objective)(objective.point)
        assert state() == allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert len(seen) > 4
    for convolutions, products, operations in seen:
        assert not convolutions
        assert not products
        assert set(operations) <= {"ieee", None}
    assert state() == before


def test_a_process_setting_is_counted_and_put_back_by_the_last() -> None:
    value = ["before"]
    setting = ProcessSetting(lambda: value[0], lambda new: value.__setitem__(0, new), lambda _: "during")
    with setting:
        with setting:
            assert value == ["during"]
        assert value == ["during"]
    assert value == ["before"]
    with setting:
        value[0] = "somebody else's"
    assert value == ["somebody else's"]


def test_overlapping_measurements_leave_the_attention_kernels_as_they_were() -> None:
    before = kernels()
    objective = Objective(ATTENTION, DATA)
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    found: list[Tensor] = []

    def first() -> None:
        with math_attention:
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(10)
        operator = CurvatureOperator(objective)
        operator(ONES)
        with math_attention:
            second_is_in.set()
            first_is_out.wait(10)
            found.append(operator(ONES))

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kernels() == before
    assert torch.allclose(found[0], CurvatureOperator(objective)(ONES))


def test_spectra_in_several_threads_leave_everything_as_it_was() -> None:
    before, errors = state(), []

    def work() -> None:
        try:
            spectrum(Objective(ATTENTION, DATA), top=1, only=("top",))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert state() == before


def test_a_recalibrated_objective_gives_the_same_values_in_three_threads() -> None:
    objective = Objective(NET, DATA, protocol=Protocol(batch_norm="recalibrated"))
    points = [objective.point * scale for scale in (1.0, 1.2, 0.8)]
    truth = [(objective.value(point).loss, objective.gradient(point)) for point in points]
    own = objective.value().loss
    wrong = []

    def work(place: int) -> None:
        for _ in range(5):
            found = objective.value(points[place]).loss
            if found != truth[place][0] or not torch.equal(objective.gradient(points[place]), truth[place][1]):
                wrong.append(place)
            if objective.value().loss != own:
                wrong.append(-1)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_curvature_away_from_the_networks_point_has_the_statistics_that_belong_there() -> None:
    protocol = Protocol(batch_norm="recalibrated", dtype="float64")
    objective = Objective(NET, DATA, protocol=protocol)
    away = objective.point * 1.1
    moved = small_net().double()
    nn.utils.vector_to_parameters(away, moved.parameters())
    vector = torch.randn(objective.size, generator=generator(1), dtype=torch.float64)
    truth = CurvatureOperator(Objective(moved, DATA, protocol=protocol))(vector)
    torch.testing.assert_close(CurvatureOperator(objective, point=away)(vector), truth)
    torch.testing.assert_close(objective.gradient(away), Objective(moved, DATA, protocol=protocol).gradient())


def test_predictions_in_several_threads_are_right() -> None:
    predictor = predictions.Predictor(DROPOUT, DATA, protocol=Protocol(dropout="fresh"))
    images = predictor.images(DATA, 0, 37)
    truth = [predictor.passes(images, first, range(3)) for first in range(3)]
    wrong = []

    def work(first: int) -> None:
        for _ in range(5):
            if not torch.equal(predictor.passes(images, first, range(3)), truth[first]):
                wrong.append(first)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tensors_made_in_inference_mode_can_be_measured() -> None:
    truth = Objective(NET, DATA).gradient()
    with torch.inference_mode():
        data, net = small_images(), small_net()
        objective = Objective(net, data)
        point = objective.point * 1
    assert torch.equal(objective.gradient(), truth)
    assert torch.equal(objective.gradient(point), truth)
    with torch.inference_mode():
        vector = torch.ones(objective.size)
    assert bool(CurvatureOperator(objective)(vector).isfinite().all())


def test_the_transfer_function_leaves_the_environment_as_it_was() -> None:
    program = (
        "import os\n"
        "import torch\n"
        "from nets_for_tests import small_images, small_net\n"
        "from landscape.fourier import transfer\n"
        "before = dict(os.environ)\n"
        "transfer.measure(small_net(), small_images(), images=2, frequencies=(0.5,), blocks='3,4')\n"
        "print(sorted(set(dict(os.environ).items()) ^ set(before.items())))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


class Checkpointed(nn.Module):
    """Computes a part again in its backward pass, whatever its mode."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.last, self.reentrant = nn.Sequential(nn.Flatten(), small_tanh()), nn.Linear(4, 3), reentrant
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator(0, "checkpointed")))

    def forward(self, images: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.last(self.first(images))
        return self.last(checkpoint(self.first, images, use_reentrant=self.reentrant))


def small_tanh() -> nn.Module:
    return nn.Sequential(nn.Linear(72, 4), nn.Tanh(), nn.Dropout(0.2))


def test_networks_that_checkpoint_themselves_have_curvature_and_checkpoint_afterwards() -> None:
    def saved(net: nn.Module) -> int:
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda one: one):
            net(DATA.images.clone().requires_grad_())
        return len(kept)

    plain, *others = (Checkpointed(reentrant) for reentrant in (None, False, True))
    before = [saved(net.train()) for net in others]
    for protocol in (Protocol(), Protocol(dropout="fixed")):
        truth, *found = (Objective(net, DATA, protocol=protocol) for net in (plain, *others))
        vector = torch.randn(truth.size, generator=generator(0))
        for one in found:
            assert one.size == truth.size
            assert torch.equal(one.gradient(), truth.gradient())
            assert torch.equal(CurvatureOperator(one)(vector), CurvatureOperator(truth)(vector))
    assert [saved(net) for net in others] == before
    assert before[0] < saved(plain.train())
