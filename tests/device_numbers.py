"""What is measured of two small networks on any device, instrument by instrument, for comparison with the CPU."""

from collections.abc import Callable

import numpy as np
import torch
import xarray

from landscape import data, feature_maps, fourier, frequency_noise, hessian, nets, predictions, robustness, surface
from landscape.compute.randomness import generator
from landscape.eigen import eigenpairs, trace
from landscape.objective import CurvatureOperator, Objective
from landscape.store.protocol import Protocol

IMAGES = data.load("digits", "train").select(torch.arange(16))


def built(name: str) -> torch.nn.Module:
    """A small network that no activation of which is exactly zero: at the kink of a ReLU rounding decides a slope."""
    network = nets.build(name, num_classes=10, width=2)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.bias, 0.2, 0.5, generator=generator(0, "bias"))
    return network


NETWORK = built("resnet_mcdo_smoothing_18")
# Where its dropout is on, the two devices draw other masks.
PLAIN = built("resnet_dnn_smoothing_18")


def objective(device: torch.device, **protocol: object) -> Objective:
    return Objective(NETWORK, IMAGES, weight_decay=5e-4, protocol=Protocol(**protocol), device=device)


def above_floor(spectra: xarray.Dataset) -> xarray.Dataset:
    """Without pi behind a blur: nothing passes there, and the logarithm is of the floor and of rounding on it."""
    floor = (spectra["kind"] == "smoothing") & (spectra["frequency"] == 1)
    return spectra.assign({name: each.where(~floor) for name, each in spectra.items() if "bin" in each.dims})


def products(device: torch.device, count: int = 1) -> torch.Tensor:
    operator = CurvatureOperator(objective(device))
    vector = torch.ones(operator.size, device=device)
    return torch.stack([operator @ vector for _ in range(count)])


SAME: dict[str, Callable[[torch.device], object]] = {
    "loss": lambda device: objective(device).value().loss,
    "gradient": lambda device: objective(device).gradient().cpu(),
    "product": lambda device: products(device).cpu(),
    "GGN": lambda device: eigenpairs(CurvatureOperator(objective(device), "ggn"), 1, tolerance=0.1).values,
    "trace": lambda device: trace(CurvatureOperator(objective(device)), products=5).value,
    "spectrum": lambda device: hessian.spectrum(
        objective(device), top=1, tolerance=0.1, trace_products=4, probes=1, steps=2
    ),
    "mini-batches": lambda device: hessian.mini_batch_spectra(objective(device), per_batch=8, top=1, tolerance=0.1),
    "surface": lambda device: surface.plane(objective(device), points=2),
    "predictions": lambda device: predictions.measure(PLAIN, IMAGES, passes=1, device=device),
    "feature maps": lambda device: feature_maps.measure(PLAIN, IMAGES, passes=2, device=device),
    "Fourier": lambda device: above_floor(fourier.measure(PLAIN, IMAGES, passes=2, device=device)),
    "band noise": lambda device: frequency_noise.measure(PLAIN, IMAGES, frequencies=(0.5,), passes=1, device=device),
    "attacks": lambda device: robustness.adversarial.measure(PLAIN, IMAGES, passes=1, device=device),
}


def numbers(found: object) -> dict[str, np.ndarray]:
    if hasattr(found, "data_vars"):
        values = {name: found[name].values for name in found.data_vars}
        return {name: value for name, value in values.items() if value.dtype.kind in "fib" and "second" not in name}
    return {"": np.asarray(found)}


# Of the largest number of an array: rounding of float32, amplified by a Lanczos recursion, or by a logarithm.
ROUNDING = 5e-3


def near(there: np.ndarray, here: np.ndarray, name: str) -> None:
    """Raise unless two devices agree on an array to rounding."""
    here, there = np.asarray(here, float), np.asarray(there, float)
    scale = float(np.abs(here[np.isfinite(here)]).max(initial=0.0))
    np.testing.assert_allclose(there, here, rtol=ROUNDING, atol=ROUNDING * scale + 1e-6, err_msg=name)
