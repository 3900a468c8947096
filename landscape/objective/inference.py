"""Forward passes anywhere in weight space, at the price of the forward passes alone.

Parameters are written in place into storage that is allocated once; batch norm is folded when they are written, not in
every pass; images are normalised and laid out once.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from landscape.compute import workers
from landscape.compute.memory import available_memory
from landscape.compute.settings import measurement
from landscape.data.examples import Tree, converted
from landscape.errors import LandscapeError
from landscape.objective import folding
from landscape.objective.losses import called
from landscape.objective.network import in_precision, ranges
from landscape.objective.objective import Objective
from landscape.objective.parameters import in_pairs
from landscape.objective.terms import Weights

Precision = Literal["full", "bfloat16"]
PRECISIONS = get_args(Precision)


class _FoldedConvolution(folding.StandIn):
    """A convolution whose weights hold the batch norm behind it; `refresh` computes them from the originals."""

    weight: Tensor
    bias: Tensor

    def __init__(self, source: folding.FoldedConvolution, layout: torch.memory_format) -> None:
        weight, bias = source.weight_and_bias()
        layout = layout if weight.dim() == 4 else torch.contiguous_format
        weight = weight.detach().clone(memory_format=layout)
        super().__init__(source.convolution, weight=weight, bias=bias.detach().clone())
        # In a tuple, so that it does not become a submodule: the originals keep full precision in a conversion.
        self._source = (source,)

    def refresh(self) -> None:
        weight, bias = self._source[0].weight_and_bias()
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, features: Tensor) -> Tensor:
        return self._source[0].convolution._conv_forward(features, self.weight, self.bias)


class _AffineNorm(folding.StandIn):
    """Batch norm as a product and a sum whose factors are computed by `refresh`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, source: folding.AffineNorm) -> None:
        scale, shift = folding.scale_and_shift(source.norm)
        super().__init__(source.norm, scale=scale.detach().clone(), shift=shift.detach().clone())
        self._source = (source,)

    def refresh(self) -> None:
        scale, shift = folding.scale_and_shift(self._source[0].norm)
        self.scale.copy_(scale)
        self.shift.copy_(shift)

    def forward(self, features: Tensor) -> Tensor:
        shape = [1, -1] + [1] * (features.dim() - 2)
        return (features * self.scale.view(shape)).add_(self.shift.view(shape))


class Inference:
    """Outputs of an objective's network at any point of its weight space, without gradients.

    Parameters
    ----------
    objective
        Whose network, images and protocol. Its parameters are not touched.
    precision
        ``full``: the protocol's dtype. ``bfloat16``: activations and weights rounded to 8 bits of mantissa after
        folding; outputs are off by about 1 %, so measure the error that matters to you.
    micro_batch
        Images per forward pass. Default: the objective's.

    Raises
    ------
    LandscapeError
        For an unknown precision.
    """

    @measurement
    def __init__(self, objective: Objective, *, precision: Precision = "full", micro_batch: int | None = None) -> None:
        if precision not in PRECISIONS:
            raise LandscapeError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        self.objective = objective
        self.precision = precision
        self.micro_batch = micro_batch or objective.micro_batch
        self.dtype = objective.dtype if precision == "full" else torch.bfloat16
        module = objective.private_module()
        parameters = dict(module.named_parameters())
        self._targets = [parameters[objective.inner_names[name]] for name in objective.space.names]
        self._buffers = dict(module.named_buffers())
        self._derived: list[_FoldedConvolution | _AffineNorm] = []
        for name, part in list(module.named_modules()):
            derived: _FoldedConvolution | _AffineNorm | None = None
            if isinstance(part, folding.FoldedConvolution):
                derived = _FoldedConvolution(part, objective.network.layout)
            elif isinstance(part, folding.AffineNorm):
                derived = _AffineNorm(part)
            if derived is not None:
                self._derived.append(derived)
                folding.replace(module, name, derived)
        if precision != "full":
            module = in_precision(module, self.dtype)
        self._replicas = workers.Replicas(module, [part._source for part in self._derived])
        self._staged: dict[tuple[int, int], Tree] = {}
        self._stages = (
            objective.data.nbytes * torch.finfo(self.dtype).bits // 32 < available_memory(objective.device) // 4
        )
        self._write(Weights(objective.space.split(objective.point), {}))

    @measurement
    def write(self, point: Tensor, *, sample: int = 0) -> None:
        """Go to a point (P,); `sample` is the draw of masks under which batch norm is recalibrated, if it is."""
        self._write(self.objective.weights(point, sample=sample))

    @torch.no_grad()
    def _write(self, weights: Weights) -> None:
        for name, value in weights.statistics.items():
            self._buffers[name].copy_(value)
        for target, value in zip(self._targets, weights.parameters, strict=True):
            in_pairs(target).copy_(value)
        for part in self._derived:
            part.refresh()

    def batch(self, start: int, stop: int) -> Tree:
        """Examples `start` to `stop` as the network takes them; kept for the next point when memory allows."""
        batch = self._staged.get((start, stop))
        if batch is None:
            batch = converted(self.objective.batch(start, stop), self.dtype)
            if self._stages:
                self._staged[start, stop] = batch
        return batch

    def ranges(self, first: int, last: int) -> list[tuple[int, int]]:
        """Ranges (start, stop) of the micro-batches between two examples."""
        return ranges(first, last, self.micro_batch)

    @measurement
    @torch.no_grad()
    def outputs(self, start: int, stop: int, *, sample: int = 0) -> Any:
        """Outputs (stop - start, ...) for some examples, under the draw `sample` of the dropout masks."""
        with self.objective.masks() as masks, self._replicas.one() as module:
            masks.address(first_example=start, sample=sample, examples=stop - start)
            return self.objective.network.select(called(module, self.batch(start, stop)))

    @measurement
    def losses(self, ranges: Sequence[tuple[int, int]], *, sample: int = 0) -> Tensor:
        """What each example of several micro-batches contributes to the loss (n,), float64.

        See `Objective.example_losses`; outputs are held for one micro-batch at a time.
        """
        objective = self.objective

        def one(bounds: tuple[int, int]) -> Tensor:
            with torch.no_grad(), self._replicas.one() as module:
                return objective.example_losses_of(module, self.batch(*bounds), *bounds, sample=sample)

        return torch.cat(list(workers.each(one, ranges, objective.device)))

    @measurement
    def all_outputs(self, ranges: Sequence[tuple[int, int]], *, sample: int = 0) -> Tensor:
        """Outputs of several micro-batches, one below the other, shared out over the cores."""
        outputs = workers.each(lambda bounds: self.outputs(*bounds, sample=sample), ranges, self.objective.device)
        return torch.cat(list(outputs))
