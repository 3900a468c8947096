"""Forward passes anywhere in weight space, at the price of the forward passes alone.

Parameters are written in place into storage that is allocated once; batch norm is folded when they are written, not in
every pass; images are normalised and laid out once.
"""

import copy
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.compute import workers
from landscape.errors import LandscapeError
from landscape.objective import folding
from landscape.objective.objective import Objective, available_memory, logits

Precision = Literal["full", "bfloat16"]
PRECISIONS = get_args(Precision)


class _FoldedConvolution(nn.Module):
    """A convolution whose weights hold the batch norm behind it; `refresh` computes them from the originals."""

    weight: Tensor
    bias: Tensor

    def __init__(self, source: folding.FoldedConvolution) -> None:
        super().__init__()
        # In a tuple, so that the originals are no submodule: they keep full precision when this module is converted.
        self._source = (source,)
        weight, bias = source.weight_and_bias()
        layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        self.register_buffer("weight", weight.detach().clone(memory_format=layout))
        self.register_buffer("bias", bias.detach().clone())

    def refresh(self) -> None:
        weight, bias = self._source[0].weight_and_bias()
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, features: Tensor) -> Tensor:
        return self._source[0].convolution._conv_forward(features, self.weight, self.bias)


class _AffineNorm(nn.Module):
    """Batch norm as a product and a sum whose factors are computed by `refresh`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, source: folding.AffineNorm) -> None:
        super().__init__()
        self._source = (source,)
        scale, shift = folding.scale_and_shift(source.norm)
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("shift", shift.detach().clone())

    def refresh(self) -> None:
        scale, shift = folding.scale_and_shift(self._source[0].norm)
        self.scale.copy_(scale)
        self.shift.copy_(shift)

    def forward(self, features: Tensor) -> Tensor:
        shape = [1, -1] + [1] * (features.dim() - 2)
        return (features * self.scale.view(shape)).add_(self.shift.view(shape))


class Inference:
    """Outputs of an objective's network at any point of its weight space, without gradients.

    Use as a context: on leaving, recalibrated batch-norm statistics of the objective are those of its own point again.

    Parameters
    ----------
    objective
        Whose network, images and protocol. Its parameters are not touched.
    precision
        ``full``: the protocol's dtype. ``bfloat16``: activations and weights rounded to 8 bits of mantissa after
        folding; outputs are off by about 1 %, so measure the error that matters to you.
    micro_batch
        Images a pass; the objective's own unless given.

    Raises
    ------
    LandscapeError
        For an unknown precision.
    """

    def __init__(self, objective: Objective, *, precision: Precision = "full", micro_batch: int | None = None) -> None:
        if precision not in PRECISIONS:
            raise LandscapeError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        self.objective = objective
        self.precision = precision
        self.micro_batch = micro_batch or objective.micro_batch
        self.dtype = objective.dtype if precision == "full" else torch.bfloat16
        copies: dict[int, Any] = {}
        network = copy.deepcopy(objective._network, copies)
        self._norms: list[_BatchNorm] = [copies[id(norm)] for norm in objective._norms]
        parameters = dict(network.named_parameters())
        self._targets = [parameters[objective._inner_names[name]] for name in objective.space.names]
        self._derived: list[_FoldedConvolution | _AffineNorm] = []
        for name, module in list(network.named_modules()):
            made: _FoldedConvolution | _AffineNorm | None = None
            if isinstance(module, folding.FoldedConvolution):
                made = _FoldedConvolution(module)
            elif isinstance(module, folding.AffineNorm):
                made = _AffineNorm(module)
            if made is not None:
                self._derived.append(made)
                folding.replace(network, name, made)
        if precision != "full":
            network = network.to(self.dtype)
        self._replicas = workers.Replicas(network, [module._source for module in self._derived])
        self._staged: dict[tuple[int, int], Tensor] = {}
        element = torch.finfo(self.dtype).bits // 8
        needed = objective.data.images.numel() * element
        self._stages = needed < available_memory(objective.device) // 4
        self._moved = False
        self.write(objective.point)

    def __enter__(self) -> "Inference":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._moved:
            self.objective._recalibrate(self.objective.point, sample=0)
            self._moved = False

    @torch.no_grad()
    def write(self, point: Tensor, *, sample: int = 0) -> None:
        """Go to a point (P,); `sample` is the draw of masks under which batch norm is recalibrated, if it is."""
        objective = self.objective
        if objective._statistics is not None:
            objective._recalibrate(point, sample=sample)
            self._moved = True
            for own, measured in zip(self._norms, objective._norms, strict=True):
                assert own.running_mean is not None
                assert own.running_var is not None
                assert measured.running_mean is not None
                assert measured.running_var is not None
                own.running_mean.copy_(measured.running_mean)
                own.running_var.copy_(measured.running_var)
        for target, value in zip(self._targets, objective.space.split(point), strict=True):
            target.copy_(value)
        for module in self._derived:
            module.refresh()

    def batch(self, start: int, stop: int) -> Tensor:
        """Images `start` to `stop` as the network takes them; kept for the next point when memory allows."""
        found = self._staged.get((start, stop))
        if found is None:
            found = self.objective.batch(start, stop).to(self.dtype)
            if self._stages:
                self._staged[start, stop] = found
        return found

    def ranges(self, first: int, last: int) -> list[tuple[int, int]]:
        """Ranges (start, stop) of the micro-batches between two examples."""
        return [(start, min(start + self.micro_batch, last)) for start in range(first, last, self.micro_batch)]

    @torch.no_grad()
    def outputs(self, start: int, stop: int, *, sample: int = 0) -> Tensor:
        """Outputs (stop - start, K) for some examples, under the draw `sample` of the dropout masks."""
        with self.objective._masks() as masks, self._replicas.one() as network:
            masks.address(first_example=start, sample=sample)
            return logits(network(self.batch(start, stop)))

    def all_outputs(self, ranges: Sequence[tuple[int, int]], *, sample: int = 0) -> Tensor:
        """Outputs of several micro-batches, one below the other, shared out over the cores."""
        found = workers.each(lambda bounds: self.outputs(*bounds, sample=sample), ranges, self.objective.device)
        return torch.cat(list(found))
