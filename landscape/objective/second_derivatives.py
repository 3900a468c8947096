"""Operations whose second derivative torch lacks, or has wrong, written with others that have a right one.

Squeeze-and-excitation of MobileNetV3 has hard sigmoids, metric learning and vector quantisation have distances,
recommenders have bags of embeddings.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    r"""Weights :math:`g\, v / \lVert v\rVert` of weight normalisation.

    The framework's fused kernel has a double backward that is wrong: on a CPU, torch 2.13, the Hessian that it gives is
    not even symmetric.
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return functional.relu6(input + 3) / 6


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "") -> Tensor:
    if p not in (1, 2):
        return torch.cdist(x1, x2, p)
    differences = x1[..., :, None, :] - x2[..., None, :, :]
    if p == 1:
        return differences.abs().sum(-1)
    squares = differences.square().sum(-1)
    apart = squares > 0
    # Where points coincide, the derivative is taken for zero, as the framework's first one is.
    return torch.where(apart, torch.where(apart, squares, 1).sqrt(), 0)


def _embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None, *rest: Any, **settings: Any) -> Tensor:
    names = ("max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse", "per_sample_weights")
    given = dict(zip((*names, "include_last_offset", "padding_idx"), rest, strict=False)) | settings
    mode, weights, padding = (given.get(name) for name in ("mode", "per_sample_weights", "padding_idx"))
    if input.dim() != 2 or mode == "max" or given.get("max_norm") is not None:
        return functional.embedding_bag(input, weight, offsets, *rest, **settings)
    found = functional.embedding(input, weight)
    counted = torch.ones_like(input) if padding is None else input != padding
    shares = counted.to(weight) if weights is None else counted * weights
    bags = (found * shares[..., None]).sum(1)
    return bags if mode == "sum" else bags / counted.sum(1, keepdim=True).clamp(min=1)


REPLACED: dict[Any, Callable[..., Tensor]] = {
    torch._weight_norm: _weight_norm,
    functional.hardsigmoid: _hardsigmoid,
    torch.cdist: _cdist,
    functional.embedding_bag: _embedding_bag,
}


class SecondDerivatives(TorchFunctionMode):
    """Within it, these operations can be differentiated twice."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return REPLACED.get(function, function)(*args, **(kwargs or {}))
