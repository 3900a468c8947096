"""Can the numbers be trusted on this network? In under a minute.

Invariants that hold exactly, measured on the user's own network, images and protocol: symmetry of the curvature
products, products against differences of gradients, weight decay as an exact shift of the spectrum, and the two laws of
a blur.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.compute.masks import Masks
from landscape.compute.randomness import generator
from landscape.compute.settings import measurement
from landscape.nets.smoothing import Blur
from landscape.objective import CurvatureOperator, Objective
from landscape.objective.objective import logits

# The plain graph of these is held whole, in float64.
_PLAIN_IMAGES = 16


@dataclass(frozen=True)
class Check:
    """One invariant: what was found, what is allowed, and what it means when it fails."""

    name: str
    found: float
    allowed: float
    meaning: str

    @property
    def passed(self) -> bool:
        """Whether what was found is finite and within what is allowed."""
        return math.isfinite(self.found) and self.found <= self.allowed


@measurement
def curvature_checks(objective: Objective, decayed: Objective, exact: Objective, *, seed: int = 0) -> list[Check]:
    """Invariants of curvature products.

    Parameters
    ----------
    objective
        The function to check.
    decayed
        The same with its weight decay larger by one.
    exact
        The same in float64.
    seed
        Seed of the probe vectors.
    """
    operator = CurvatureOperator(objective)
    first, second = (_unit(objective, seed, place) for place in range(2))
    image, other = operator(first), operator(second)
    precision = torch.finfo(objective.dtype).eps
    scale = max(float(image.norm()), float(other.norm()))
    symmetry = abs(float(second @ image - first @ other)) / scale
    checks = [
        Check(
            "symmetry: |u.Hv - v.Hu| / |Hv|", symmetry, 1e3 * precision, "masks or statistics change between products"
        )
    ]
    # In float64, so that the step can be too short to meet the kinks of a piecewise linear network; along the gradient,
    # where the curvature is well above rounding.
    direction = exact.gradient()
    direction = direction / direction.norm()
    along = CurvatureOperator(exact)(direction)
    step = 1e-6 * max(1.0, float(exact.point.norm()) / math.sqrt(exact.size))
    ahead, behind = (exact.gradient(exact.point + sign * step * direction) for sign in (1, -1))
    error = float(((ahead - behind) / (2 * step) - along).norm() / along.norm())
    checks.append(
        Check(
            "product against difference of gradients (float64)",
            error,
            1e-2,
            "the product is wrong, or the loss has kinks within one millionth of a weight",
        )
    )
    rounding = float((operator(direction.to(objective.dtype)).double() - along).norm() / along.norm())
    checks.append(
        Check(
            f"rounding of a product in {objective.protocol.dtype}",
            rounding,
            1e-2,
            "this precision does not carry the curvature: measure with --dtype float64",
        )
    )
    if objective.protocol.l2 == "exact":
        shifted = CurvatureOperator(decayed)(first) - image
        checks.append(
            Check(
                "weight decay 1 shifts H by exactly 1",
                float((shifted - first).norm()),
                1e3 * precision * max(1.0, scale),
                "the L2 term is not what it says",
            )
        )
    return checks


@measurement
def plain_product_check(model: nn.Module, exact: Objective, *, seed: int = 0) -> list[Check]:
    """Our product, batch norm folded and convolutions differentiated our way, against plain double backward.

    Parameters
    ----------
    model
        The network as it was loaded.
    exact
        Its objective in float64; nothing is checked unless batch norm uses running statistics, since the plain network
        knows no other way in evaluation mode.
    seed
        Seed of the probe vector.
    """
    if exact.protocol.batch_norm != "running" or exact.left_out:
        return []
    plain = copy.deepcopy(model).double().eval().to(exact.device)
    vector = _unit(exact, seed, 2)
    stop = min(exact.images, _PLAIN_IMAGES)
    off = exact.protocol.dropout == "off"
    math_kernel = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with Masks.off() if off else Masks.addressed(seed=exact.protocol.mask_seed) as masks, math_kernel:
        masks.address(first_example=0, sample=0)
        loss = exact.loss(logits(plain(exact.batch(0, stop))), exact.labels(0, stop))
        parameters = list(plain.parameters())
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        rows = torch.autograd.grad(gradients, parameters, exact.space.split(vector))
    found = exact.space.flatten(rows)
    ours = CurvatureOperator(exact, first=0, last=stop)(vector)
    decay = exact.l2_product(exact.space.split(exact.point), vector[:, None])
    if isinstance(decay, Tensor):
        found = found + decay[:, 0]
    return [
        Check(
            "product against plain double backward (float64)",
            float((ours - found).norm() / found.norm()),
            1e-8,
            "folding or our convolutions are wrong for this network: please report it",
        )
    ]


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


def _unit(objective: Objective, seed: int, place: int) -> Tensor:
    vector = torch.randn(objective.size, generator=generator(seed, "selfcheck", place), dtype=objective.dtype)
    return (vector / vector.norm()).to(objective.device)
