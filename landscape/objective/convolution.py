"""Convolutions whose second derivative costs what its arithmetic costs.

A Hessian-vector product through a convolution needs six convolutions of the forward pass's size: two tangents forward,
four in the two backward passes. The framework's own double backward computes one of them, the second-order weight
gradient, as a convolution with the batch as channels, which is slow in every memory format. Here all six go through the
kernels of the first-order backward.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from landscape.compute.settings import math_attention
from landscape.objective.second_derivatives import REPLACED

# stride, padding, dilation, groups
Geometry = tuple[list[int], list[int], list[int], int]


def _forward(images: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, dilation, groups = geometry
    return torch.convolution(images, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)


def _backward(
    output_gradient: Tensor, images: Tensor, weight: Tensor, geometry: Geometry, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    stride, padding, dilation, groups = geometry
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        output_gradient,
        images,
        weight,
        [weight.shape[0]],
        stride,
        padding,
        dilation,
        False,
        [0] * len(stride),
        groups,
        wanted,
    )
    return gradients


class _ConvolutionBackward(torch.autograd.Function):
    """First-order gradients (x, w, b) of a convolution, differentiable in the output gradient, x and w."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, output_gradient: Tensor, images: Tensor, weight: Tensor, geometry: Geometry, wanted: list[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output_gradient, images, weight)
        ctx.geometry = geometry
        return _backward(output_gradient, images, weight, geometry, wanted)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, image_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        # The backward of a bilinear map is the map's other partial derivatives, at the tangents.
        output_gradient, images, weight = ctx.saved_tensors
        wants_output, wants_images, wants_weight = ctx.needs_input_grad[:3]
        output = image_gradient = weight_gradient = None
        if wants_output:
            if weight_tangent is not None:
                output = _forward(images, weight_tangent, bias_tangent, ctx.geometry)
            elif bias_tangent is not None:
                shape = [1, -1] + [1] * (output_gradient.dim() - 2)
                output = bias_tangent.view(shape).expand_as(output_gradient).clone()
            if image_tangent is not None:
                through = _forward(image_tangent, weight, None, ctx.geometry)
                output = through if output is None else output.add_(through)
        wants_images = wants_images and weight_tangent is not None
        wants_weight = wants_weight and image_tangent is not None
        if wants_images or wants_weight:
            image_gradient, weight_gradient, _ = _backward(
                output_gradient,
                images if image_tangent is None else image_tangent,
                weight if weight_tangent is None else weight_tangent,
                ctx.geometry,
                [wants_images, wants_weight, False],
            )
        return output, image_gradient, weight_gradient, None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.geometry = geometry
        return _forward(images, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        images, weight = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        return (*_ConvolutionBackward.apply(output_gradient, images, weight, ctx.geometry, wanted), None)


def convolution(images: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Convolution (any number of spatial dimensions, not transposed), twice differentiable in reverse mode.

    Parameters
    ----------
    images, weight, bias
        As in :func:`torch.nn.functional.conv2d`.
    geometry
        Stride, padding, dilation (one entry per spatial dimension) and groups.
    """
    return _Convolution.apply(images, weight, bias, geometry)


_DIMENSIONS: dict[Callable[..., Tensor], int] = {
    torch.conv1d: 1,
    torch.conv2d: 2,
    torch.conv3d: 3,
    functional.conv1d: 1,
    functional.conv2d: 2,
    functional.conv3d: 3,
}


class CheapDoubleBackward(TorchFunctionMode):
    """Within it, every convolution of any model, module or bare call, is ours, and all else has second derivatives.

    Attention takes its math kernel: the fast ones have no double backward, on any device.
    """

    def __enter__(self) -> "CheapDoubleBackward":
        math_attention.__enter__()
        super().__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        math_attention.__exit__()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        dimensions = _DIMENSIONS.get(function)
        if dimensions is None:
            return REPLACED.get(function, function)(*args, **(kwargs or {}))
        return _intercepted(function, dimensions, *args, **(kwargs or {}))


def _intercepted(
    function: Callable[..., Tensor],
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    # "same" padding may be asymmetric, and unbatched input has no batch axis: both rare, both left to the framework.
    if isinstance(padding, str) or input.dim() != dimensions + 2:
        return function(input, weight, bias, stride, padding, dilation, groups)

    def each(value: Any) -> list[int]:
        return [value] * dimensions if isinstance(value, int) else [int(entry) for entry in value]

    return convolution(input, weight, bias, (each(stride), each(padding), each(dilation), groups))
