"""The two laws of a blur, on every kind of blur that a network has."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from landscape.compute.randomness import generator
from landscape.compute.settings import measurement
from landscape.nets.smoothing import Blur
from landscape.selfcheck.check import Check


@measurement
def blur_checks(
    *, kernel: Sequence[float] = (1, 1), blur: Blur | None = None, name: str = "", seed: int = 0
) -> list[Check]:
    """The two laws of a blur with an outer-product kernel k: white noise loses variance to sum k^2; a wave along an
    axis is multiplied by the filter's response, |cos(w / 2)| for the 2-tap box.

    Parameters
    ----------
    kernel
        1D filter of the blur to check when none is given.
    blur
        A layer of the user's network, its filter taken from its own kernel.
    name
        What to call it.
    seed
        Of the noise.
    """
    if blur is None:
        blur = Blur(kernel)
    else:
        kernel = blur.kernel.double().sum(0).tolist()
    name = name or f"blur {tuple(kernel)}"
    squares = float(blur.kernel.double().square().sum())
    noise = torch.randn(64, 1, 64, 64, generator=generator(seed, "noise"))
    interior = blur(noise)[..., 4:-4, 4:-4].double()
    ratio = float(interior.square().mean())
    # Neighbouring outputs share inputs: the number of independent ones is smaller by about the kernel's area.
    stderr = squares * math.sqrt(2 * blur.kernel.numel() / interior.numel())
    checks = [
        Check(
            f"{name}: noise variance against sum k^2, in standard errors",
            abs(ratio - squares) / stderr,
            4.0,
            "the blur is not normalised",
        )
    ]
    frequency = 2 * math.pi * 5 / 64
    phases = torch.arange(64) * frequency
    waves = torch.stack([phases.cos(), phases.sin()])[:, None, None, :].expand(2, 1, 64, 64)
    real, imaginary = blur(waves)[:, 0, 32, 8:56].double()
    amplitude = float((real.square() + imaginary.square()).sqrt().mean())
    taps = torch.tensor(kernel, dtype=torch.float64)
    taps = taps / taps.sum()
    angles = torch.arange(len(kernel)) * frequency
    theory = float(torch.hypot((taps * angles.cos()).sum(), (taps * angles.sin()).sum()))
    checks.append(Check(f"{name}: amplitude of a wave", abs(amplitude - theory), 1e-5, "the blur is not the kernel"))
    return checks


def network_blur_checks(model: nn.Module, *, seed: int = 0) -> list[Check]:
    """The laws of every kind of blur in a network, one of each kernel; of the paper's when it has none."""
    layers: dict[tuple[float, ...], tuple[str, Blur]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Blur):
            layers.setdefault(tuple(module.kernel.flatten().tolist()), (name, module))
    if not layers:
        return blur_checks(seed=seed)
    return [check for name, layer in layers.values() for check in blur_checks(blur=layer, name=name, seed=seed)]
