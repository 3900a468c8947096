"""Symmetric problems with known spectra, for the tests of landscape.eigen."""

import functools

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from landscape.compute.randomness import generator, numpy_generator


def with_spectrum(values: np.ndarray, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A dense matrix with the given eigenvalues and random eigenvectors."""
    vectors, _ = np.linalg.qr(numpy_generator(seed, "problem").standard_normal((len(values), len(values))))
    matrix = (vectors * values) @ vectors.T
    return torch.from_numpy((matrix + matrix.T) / 2).to(dtype)


def hessian_like(size: int) -> np.ndarray:
    """Outliers, a decaying bulk, and negative eigenvalues."""
    outliers = np.array([30, 22, 15, 12, 9, 7, 6, 4, 3, 2.5])
    positive = 1.2 * np.exp(-np.linspace(0, 8, (size - 10) * 3 // 4))
    negative = -0.3 * np.exp(-np.linspace(0, 6, size - 10 - len(positive)))
    return np.concatenate([outliers, positive, negative])


@functools.cache
def digits_hessian() -> Tensor:
    """Exact float64 Hessian (1060, 1060) of a trained two-layer network on 256 digits."""
    digits = load_digits()
    images = torch.from_numpy(digits.data / 16 - 0.3)
    labels = torch.from_numpy(digits.target).long()
    shapes = [(14, 64), (14,), (10, 14), (10,)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    stream = generator(0, "digits hessian")

    def loss(weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        first, bias, second, offset = (w.reshape(s) for w, s in zip(weights.split(sizes), shapes, strict=True))
        hidden = torch.tanh(inputs @ first.T + bias)
        cross_entropy = torch.nn.functional.cross_entropy(hidden @ second.T + offset, targets)
        return cross_entropy + 2.5e-4 * (weights**2).sum()

    weights = (0.1 * torch.randn(sum(sizes), generator=stream, dtype=torch.float64)).requires_grad_()
    optimiser = torch.optim.Adam([weights], 1e-2)
    for _ in range(200):
        chosen = torch.randint(0, 1500, (128,), generator=stream)
        optimiser.zero_grad()
        loss(weights, images[chosen], labels[chosen]).backward()
        optimiser.step()
    hessian = torch.func.hessian(loss)(weights.detach(), images[:256], labels[:256])
    return (hessian + hessian.T) / 2
