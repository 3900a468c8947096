r"""The L2 term of a regularised loss, as a protocol reads it: its value, its Hessian, and the Hessian's trace.

``exact``
    :math:`\frac{wd}2 \sum_t \lVert w_t\rVert^2` over tensors *t*, which SGD's weight decay minimises.
``unsquared``
    :math:`wd \sum_t \lVert w_t\rVert`, as the code of Park & Kim has it.
``none``
    Zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.objective.parameters import ParameterSpace
from landscape.store.protocol import L2Reading


@dataclass(frozen=True)
class L2Term:
    """The L2 term over every trainable parameter, coordinate or not.

    Attributes
    ----------
    reading
        ``exact``, ``unsquared`` or ``none``, see :attr:`Protocol.l2`.
    weight_decay
        The coefficient *wd*.
    space
        Which parameters are coordinates.
    trainable
        Every trainable parameter by name; those that are not coordinates stay as they are here.
    """

    reading: L2Reading
    weight_decay: float
    space: ParameterSpace
    trainable: Mapping[str, Tensor]

    def __call__(self, parameters: Sequence[Tensor]) -> Tensor:
        """The term, from the coordinates as tensors."""
        if self._is_zero:
            return parameters[0].new_zeros(())
        tensors = self.tensors(parameters)
        if self.reading == "exact":
            return self.weight_decay / 2 * torch.stack([value.double().square().sum() for value in tensors]).sum()
        return self.weight_decay * torch.stack([value.double().norm() for value in tensors]).sum()

    @property
    def _is_zero(self) -> bool:
        return self.reading == "none" or self.weight_decay == 0

    def tensors(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Every trainable parameter, those that are coordinates as given."""
        given = dict(zip(self.space.names, parameters, strict=True))
        return [given.get(name, value) for name, value in self.trainable.items()]

    def product(self, parameters: Sequence[Tensor], vectors: Tensor) -> Tensor:
        r"""Its Hessian times flat vectors (P, k): wd v where it is exact.

        Where it is unsquared, tensor by tensor, :math:`wd\,(v - \hat w \hat w^\top v) / \lVert w\rVert`; zero for a
        tensor of zeros, whose norm has no derivative there, and whose gradient is taken as zero, too.
        """
        if self._is_zero:
            return torch.zeros_like(vectors)
        if self.reading == "exact":
            return self.weight_decay * vectors
        products = torch.empty_like(vectors)
        for entries, value in zip(self.space.slices().values(), parameters, strict=True):
            weights, part = value.reshape(-1), vectors[entries]
            length = weights.norm()
            if length == 0:
                products[entries] = 0
                continue
            unit = weights / length
            products[entries] = self.weight_decay * (part - unit[:, None] * (unit @ part)) / length
        return products

    def trace(self, parameters: Sequence[Tensor]) -> float:
        r"""Trace of its Hessian: :math:`wd\,P` where it is exact.

        Where it is unsquared, tensor by tensor, :math:`wd\,(P_t - 1) / \lVert w_t\rVert`; zero for a tensor of zeros.
        """
        if self._is_zero:
            return 0.0
        if self.reading == "exact":
            return self.weight_decay * self.space.size
        lengths = [(value.numel(), float(value.norm())) for value in parameters]
        return self.weight_decay * sum((size - 1) / length for size, length in lengths if length > 0)
