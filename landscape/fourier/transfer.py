"""In-situ frequency response: sinusoids pushed through the Jacobian of each block at the operating point."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
import xarray
from torch import Tensor, nn

from landscape.compute.progress import Progress
from landscape.compute.randomness import generator
from landscape.compute.settings import math_attention, measurement
from landscape.data import Images
from landscape.look.depths import first_tensor
from landscape.look.forward import Passes
from landscape.metrics import confidence
from landscape.store.protocol import Protocol

FREQUENCIES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
_COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"
# Waves along both axes at once, and along one.
DIRECTIONS = {"diagonal": (1.0, 1.0), "horizontal": (0.0, 1.0)}


@measurement
def measure(
    model: nn.Module,
    data: Images,
    *,
    protocol: Protocol | None = None,
    images: int = 16,
    frequencies: Sequence[float] = FREQUENCIES,
    blocks: str | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Gain of each stretch of a network, from one point to the next, for small sinusoids on its feature maps.

    The Jacobian *J* of the stretch at each image's own maps is applied, by forward-mode differentiation, to
    :math:`a_c e^{i \omega \cdot p}` with Gaussian *a* over channels *c*; masks are off. With
    :math:`y = J (a e^{i\omega\cdot p})` on the output's positions *p'*, stride *s*:

    .. math::

       \text{gain}^2 = \frac{\sum_c |\langle y_c e^{-i \omega \cdot s p'} \rangle_{p'}|^2}{\sum_c |a_c|^2}, \qquad
       \text{total\_gain}^2 = \frac{\sum_c \langle |y_c|^2 \rangle_{p'}}{\sum_c |a_c|^2}

    the part that comes out at the frequency that went in, and all that comes out. Positions within an eighth of the map
    of its border are left out, where padding is seen. For a linear, shift-invariant layer the gain is exactly its
    transfer function: |cos(w/2)| an axis for the 2-tap box.

    Parameters
    ----------
    model, data, blocks, device
        See `Passes`.
    protocol
        See `Passes`; of its images the first `images` are used.
    images
        Number of operating points.
    frequencies
        In units of pi, from 0 to 1.
    seed
        Of the channel vectors.
    quiet
        Show no progress bar.

    Returns
    -------
    xarray.Dataset
        Over (direction, point, frequency): ``gain``, ``total_gain`` (root mean square over images) with ``_stderr``,
        and ``relative_gain``, the gain over the gain at the first frequency. The stretch of a point begins at the point
        before it (the first one's at the images); NaN where the point before has no influence.
    """
    protocol = protocol or Protocol(split="test")
    runs = Passes(model, data, protocol=protocol, blocks=blocks, device=device)
    count = min(images, len(runs))
    pixels = runs.images(0, count)
    shape = (len(DIRECTIONS), len(runs.depths), len(frequencies), count)
    gain, total = np.full(shape, np.nan), np.full(shape, np.nan)
    source = generator(seed, "transfer")
    widths = [pixels.shape[1], *(point.channels for point in runs.depths.points)]
    channel_vectors = [torch.randn(count, width, generator=source, dtype=torch.float64).to(pixels) for width in widths]
    with Progress(shape[0] * shape[2], "transfer", unit="frequency", quiet=quiet) as bar:
        for direction, axes in enumerate(DIRECTIONS.values()):
            for index, frequency in enumerate(frequencies):
                omega = (math.pi * frequency * axes[0], math.pi * frequency * axes[1])
                here = (direction, slice(None), index)
                gain[here], total[here] = _gains(runs, pixels, channel_vectors, omega)
                bar.update()
    variables: dict[str, Any] = {}
    dims = ("direction", "point", "frequency")
    for name, squared in (("gain", gain), ("total_gain", total)):
        root = np.sqrt(squared.mean(-1))
        spread = confidence.standard_error(squared)
        variables[name] = (dims, root)
        variables[f"{name}_stderr"] = (dims, np.divide(spread, 2 * root, where=root > 0, out=np.zeros_like(root)))
    root = variables["gain"][1]
    first = root[..., :1]
    relative = np.divide(root, first, where=first > 0, out=np.full_like(root, np.nan))
    variables["relative_gain"] = (dims, relative)
    coordinates = runs.depths.coordinates() | {"direction": list(DIRECTIONS), "frequency": list(frequencies)}
    result = xarray.Dataset(variables, coords=coordinates)
    result.attrs |= {"images": count, "passes": 1, "dropout_calls": runs.dropout_calls}
    return result


def _gains(
    runs: Passes, pixels: Tensor, channel_vectors: Sequence[Tensor], omega: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Squared gain and total gain (points, images), NaN where nothing arrives."""
    real, imaginary = (_responses(runs, pixels, channel_vectors, omega, phase) for phase in (0.0, -math.pi / 2))
    shape = (len(runs.depths), len(pixels))
    gain, total = np.full(shape, np.nan), np.full(shape, np.nan)
    sizes = [tuple(pixels.shape[2:]), *((point.height, point.width) for point in runs.depths.points)]
    for index, response in real.items():
        energy = channel_vectors[index].double().square().sum(1)
        before, after = sizes[index], sizes[index + 1]
        out = tuple(w * _stride(a, b) for w, a, b in zip(omega, before, after, strict=True))
        wave, quadrature = (_wave(after, out, phase, pixels) for phase in (0.0, -math.pi / 2))
        inside = tuple(slice(side // 8, side - side // 8) for side in after)
        carrier = torch.complex(wave, quadrature)[inside]
        arrived = torch.complex(response.double(), imaginary[index].double())[:, :, inside[0], inside[1]]
        projected = (arrived * carrier.conj()).mean((2, 3))
        gain[index] = (projected.abs().square().sum(1) / energy).cpu().numpy()
        total[index] = (arrived.abs().square().mean((2, 3)).sum(1) / energy).cpu().numpy()
    return gain, total


def _stride(before: int, after: int) -> int:
    """Subsampling from a side to another; a border more or less is none."""
    return max(round(before / after), 1)


def _wave(size: tuple[int, ...], omega: tuple[float, ...], phase: float, like: Tensor) -> Tensor:
    """cos(omega . p + phase) on a grid, float64."""
    rows, columns = (torch.arange(side, dtype=torch.float64, device=like.device) for side in size)
    return torch.cos(omega[0] * rows[:, None] + omega[1] * columns + phase)


def _responses(
    runs: Passes, pixels: Tensor, channel_vectors: Sequence[Tensor], omega: tuple[float, float], phase: float
) -> dict[int, Tensor]:
    """What arrives at each point of the sinusoid that sets out at the point before: one pass gives all."""

    def tangent(size: tuple[int, ...], vector: Tensor) -> Tensor:
        return vector[:, :, None, None] * _wave(size, omega, phase, pixels).to(pixels.dtype)

    arrived: dict[int, Tensor] = {}
    points = runs.depths.points
    modules = dict(runs.network.module.named_modules())
    order = {point.name: index for index, point in enumerate(points)}
    calls: dict[str, int] = {}

    def hook(name: str) -> Any:
        def after(module: nn.Module, arguments: Any, output: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            index = order.get(name if calls[name] == 1 else f"{name}:{calls[name]}")
            features = first_tensor(output)
            if index is None or features is None:
                return None
            point = points[index]
            plain, reached = forward_ad.unpack_dual(features)
            if reached is not None:
                arrived[index] = point.as_map(reached).detach().clone()
            following = tangent((point.height, point.width), channel_vectors[index + 1])
            dual = forward_ad.make_dual(plain.contiguous(), point.as_output(following, plain).contiguous())
            return _replaced(output, dual)

        return after

    handles = [modules[name].register_forward_hook(hook(name)) for name in {point.module_name for point in points}]
    try:
        with warnings.catch_warnings(), _environment(), forward_ad.dual_level(), math_attention:
            # torch compiles its own forward-mode formulas by a means that it has deprecated.
            warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            start = forward_ad.make_dual(pixels.contiguous(), tangent(tuple(pixels.shape[2:]), channel_vectors[0]))
            runs.deterministic(start)
    finally:
        for handle in handles:
            handle.remove()
    return arrived


@contextmanager
def _environment() -> Iterator[None]:
    """The environment is as before afterwards: torch's first forward-mode formula sets a variable of its compiler."""
    before = os.environ.get(_COMPILER_CACHE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_COMPILER_CACHE, None)


def _replaced(output: Any, tensor: Tensor) -> Any:
    """What a module returned, with its first tensor replaced."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(_replaced(output[0], tensor), *output[1:])
    if isinstance(output, (tuple, list)):
        return type(output)([_replaced(output[0], tensor), *output[1:]])
    name = next(iter(output))
    output[name] = _replaced(output[name], tensor)
    return output
