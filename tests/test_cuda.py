"""What only a GPU can show: every instrument's numbers beside the CPU's, and that a training fits its own steps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from landscape import checkpoint
from landscape.training import trainer
from landscape.training.recipes import RECIPES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
CUDA = torch.device("cuda")
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "what",
    [
        "loss",
        "gradient",
        "product",
        "GGN",
        "trace",
        "spectrum",
        "mini-batches",
        "surface",
        "predictions",
        "feature maps",
        "Fourier",
        "band noise",
        "attacks",
    ],
)
def test_the_numbers_of_the_cpu(what: str) -> None:
    from device_numbers import SAME, near, numbers

    here, there = (numbers(SAME[what](device)) for device in (CPU, CUDA))
    assert here
    assert set(here) == set(there)
    for name, value in here.items():
        near(there[name], value, name)


def test_a_product_leaves_tf32_as_it_was_and_does_not_use_it() -> None:
    from device_numbers import products

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        rough = products(CUDA).cpu()
        during = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    exact = products(CPU)
    assert during == (True, True)
    assert float((rough - exact).norm() / exact.norm()) < 1e-5


def test_masks_of_a_seed_are_the_same_on_every_call() -> None:
    from device_numbers import objective

    drawn = objective(CUDA, dropout="fresh")
    first, again, other = drawn.value().loss, drawn.value().loss, drawn.value(sample=1).loss
    assert first == pytest.approx(again, rel=1e-6)
    assert first != pytest.approx(other, rel=2e-6)


def test_an_epoch_of_training(tmp_path: Path) -> None:
    recipe = RECIPES["digits-plain"].replace(epochs=1)
    recipe = recipe.replace(model={**recipe.model, "width": 4, "name": "resnet_dnn_18"})
    paths = [
        trainer.train(recipe, tmp_path / f"{device}.safetensors", device=device, compute="float32", quiet=True)
        for device in (CPU, CUDA)
    ]
    assert all(paths)
    here, there = (checkpoint.load(path) for path in paths if path)
    # The paths part from each other by rounding, step by step; the loss of an epoch hardly does.
    assert there.history[-1]["train_cross_entropy"] == pytest.approx(here.history[-1]["train_cross_entropy"], rel=0.02)
    assert there.recipe is not None
    assert there.recipe["run"]["device"] == "cuda"


def stepped(*, recordable: bool, count: int = 24) -> tuple[trainer._Run, list[float]]:
    from device_numbers import IMAGES

    recipe = RECIPES["digits-plain"].replace(batch=16)
    recipe = recipe.replace(model={**recipe.model, "width": 4})
    images = IMAGES.to(CUDA)
    run = trainer._Run.begun(recipe, 0, images, images, torch.float32)
    run.recordable = recordable
    losses = []
    for step in range(count):
        run.set_rate(0.01 * (1 + step % 3))
        loss, _ = run.step(images.images, images.labels, 0, step)
        losses.append(float(loss))
    return run, losses


def test_recorded_steps_are_the_steps_that_they_stand_for() -> None:
    (eager, wanted), (recorded, found) = (stepped(recordable=recordable) for recordable in (False, True))
    assert eager.recording is None
    assert recorded.recording is not None
    assert recorded.recording.difference(seed=1) < 1e-3
    assert recorded.stepped < eager.stepped
    # Two trainings part from each other by rounding, a hundredfold each few steps: for a step or two they are close.
    first = recorded.stepped + 1
    assert found[: first + 1] == pytest.approx(wanted[: first + 1], rel=0.01)
    assert found != wanted


def test_a_network_that_reads_a_number_on_the_host_is_trained_without_a_recording(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward = trainer._Run.forward

    def reading(self: trainer._Run, *given: object) -> torch.Tensor:
        outputs = forward(self, *given)  # type: ignore[arg-type]
        return outputs * (1 if float(outputs.detach().max()) < 1e9 else 0)

    monkeypatch.setattr(trainer._Run, "forward", reading)
    run, found = stepped(recordable=True)
    assert run.recording is None
    assert run.stepped == len(found)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_networks_have_gradients_and_curvature(kind: str) -> None:
    from landscape import CurvatureOperator, Objective, Protocol

    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = getattr(torch.nn, kind)(4, 5, 2, dropout=0.3, batch_first=True)
            self.head = torch.nn.Linear(5, 3)

        def forward(self, steps: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(steps)[0][:, -1])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, data = Recurrent(), (torch.randn(9, 6, 4), torch.arange(9) % 3)
    enabled = torch.backends.cudnn.enabled
    here, there = (Objective(net, data, protocol=Protocol(dtype="float64"), device=device) for device in (CPU, CUDA))
    vector = torch.randn(here.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = CurvatureOperator(here)(vector)
    assert torch.allclose(there.gradient().cpu(), here.gradient(), rtol=1e-9, atol=1e-12)
    assert torch.allclose(CurvatureOperator(there)(vector.to(CUDA)).cpu(), truth, rtol=1e-8, atol=1e-12)
    # Between layers, too, under masks.
    masked = Objective(net, data, protocol=Protocol(dropout="fixed"), device=CUDA)
    assert masked.network.dropout_calls == 1
    assert bool(CurvatureOperator(masked)(vector.float().to(CUDA)).isfinite().all())
    assert torch.backends.cudnn.enabled == enabled
