"""Every instrument, and an epoch of training, on a device that is not the CPU; run by `test_pseudo_device`."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pseudo_device import pseudo_device, register
from torch.nn import functional

from landscape import checkpoint, data, feature_maps
from landscape.compute.masks import Masks
from landscape.compute.randomness import generator
from landscape.eigen import eigenpairs
from landscape.objective import CurvatureOperator
from landscape.training import trainer
from landscape.training.recipes import RECIPES

register()
from device_numbers import IMAGES, NETWORK, SAME, numbers, objective, products  # noqa: E402  torch knows the device now

torch.set_num_threads(1)


@pytest.mark.parametrize("what", SAME)
def test_the_same_numbers_as_on_the_cpu(what: str) -> None:
    here = numbers(SAME[what](torch.device("cpu")))
    with pseudo_device() as (device, _):
        there = numbers(SAME[what](device))
    assert here
    assert set(here) == set(there)
    for name, value in here.items():
        np.testing.assert_array_equal(there[name], value, err_msg=name)


@pytest.mark.parametrize("dropout", ["fixed", "fresh"])
def test_masks_come_from_a_generator_of_the_device(dropout: str) -> None:
    with pseudo_device() as (device, _):
        drawn = objective(device, dropout=dropout)
        assert drawn.value().loss == drawn.value().loss
        assert drawn.value(sample=1).loss != drawn.value().loss
        found = feature_maps.measure(NETWORK, IMAGES, passes=3, device=device)
    assert float(found["model_std"].max()) > 0


def waits_of(ask: Callable[[torch.device], object]) -> Counter[str]:
    with pseudo_device() as (device, waits):
        ask(device)
        return +waits


def test_a_product_never_waits() -> None:
    one, three = (waits_of(lambda device, count=count: products(device, count)) for count in (1, 3))
    assert not three - one


def test_a_lanczos_step_waits_for_its_few_numbers_alone() -> None:
    def search(device: torch.device, count: int) -> None:
        eigenpairs(CurvatureOperator(objective(device)), 1, tolerance=1e-9, confidence=0, max_products=count)

    five, nine = (waits_of(lambda device, count=count: search(device, count)) for count in (5, 9))
    # Coefficients and norm, of two passes of reorthogonalisation, decide on the host.
    assert sum((nine - five).values()) <= 4 * 6, nine - five


def steps(device: torch.device, count: int) -> None:
    recipe = RECIPES["digits-plain"]
    recipe = recipe.replace(model={**recipe.model, "width": 2})
    images = IMAGES.to(device)
    run = trainer._Run.begun(recipe, 0, images, images, torch.float32)
    rows, drawn = torch.arange(16).to(device), data.draws(16, seed=0, padding=2, flip=True).to(device)
    for step in range(count):
        run.step(data.augment(images.images[rows], drawn, padding=2), images.labels[rows], 0, step)


def test_a_training_step_never_waits() -> None:
    more = waits_of(lambda device: steps(device, 4)) - waits_of(lambda device: steps(device, 2))
    assert not more


def test_an_epoch_of_training(tmp_path: Path) -> None:
    recipe = RECIPES["digits-plain"].replace(epochs=1)
    recipe = recipe.replace(model={**recipe.model, "width": 2, "name": "resnet_dnn_18"})
    here = trainer.train(recipe, tmp_path / "here.safetensors", compute="float32", quiet=True)
    with pseudo_device() as (device, _):
        there = trainer.train(recipe, tmp_path / "there.safetensors", device=device, compute="float32", quiet=True)
    assert here is not None
    assert there is not None
    first, second = (checkpoint.load(path).model.state_dict() for path in (here, there))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


class TestThatItIsStrict:
    """What the tests above would catch."""

    def test_a_cpu_tensor_among_its_own(self) -> None:
        with pseudo_device() as (device, _), pytest.raises(RuntimeError, match="same device"):
            torch.ones(3, device=device) + torch.ones(3)

    def test_a_cpu_generator(self) -> None:
        with pseudo_device() as (device, _), pytest.raises(RuntimeError, match="generator"):
            torch.empty(3, device=device).normal_(generator=torch.Generator())

    def test_a_number_read(self) -> None:
        def read(device: torch.device) -> None:
            loss = functional.cross_entropy(torch.ones(2, 3, device=device), torch.zeros(2, device=device).long())
            loss.item()

        assert sum(waits_of(read).values()) == 1

    def test_a_mask_as_an_index(self) -> None:
        def choose(device: torch.device) -> None:
            values = torch.ones(3, device=device)
            values[values > 0]

        assert waits_of(choose)

    def test_masks_of_a_generator_of_the_device(self) -> None:
        with pseudo_device() as (device, _), Masks.stream(generator(0, "mask", device=device)):
            assert functional.dropout(torch.ones(100, device=device), 0.5).device == device
