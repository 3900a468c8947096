r"""Batch norm as what it is at test time: an affine map, folded into the convolution before it where there is one.

With running statistics, batch norm is :math:`y = s x + t`, :math:`s = \gamma / \sqrt{\sigma^2 + \epsilon}`,
:math:`t = \beta - \mu s`. Folding it into the weights of the convolution that feeds it is exact, and differentiable
with respect to the original parameters when *s* and *t* are computed from them in the graph. The framework's double
backward of batch norm is the largest single waste of a Hessian-vector product in evaluation mode.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from landscape.errors import LandscapeError

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The affine map (s, t), each (C,), that `norm` is with its running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = norm.weight * scale
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else norm.bias + shift


class StandIn(nn.Module):
    """A module that replaces another; attributes it lacks, such as a stride, are read from the other."""

    def __init__(self, original: nn.Module, **buffers: Tensor) -> None:
        super().__init__()
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        # In a tuple, so that it does not become a submodule.
        self._original = (original,)

    def __getattr__(self, name: str) -> Any:
        """The module's own attribute, or the original's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Not before it is there: copies are made without `__init__`.
            if "_original" not in self.__dict__:
                raise
            return getattr(self._original[0], name)


class FoldedNorm(StandIn):
    """A batch norm that has been folded away: the identity."""

    def forward(self, features: Tensor) -> Tensor:
        """The features."""
        return features


class AffineNorm(StandIn):
    """Batch norm with its running statistics, as a product and a sum."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm)
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C, ...) scaled and shifted per channel."""
        scale, shift = scale_and_shift(self.norm)
        shape = [1, -1] + [1] * (features.dim() - 2)
        return features * scale.view(shape) + shift.view(shape)


class FoldedConvolution(StandIn):
    """A convolution with the batch norm behind it folded into its weights, computed anew in every forward pass."""

    def __init__(self, convolution: Convolution, norm: _BatchNorm) -> None:
        super().__init__(convolution)
        self.convolution = convolution
        self.norm = norm

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """The folded weight and bias."""
        scale, shift = scale_and_shift(self.norm)
        weight = self.convolution.weight * scale.view([-1] + [1] * (self.convolution.weight.dim() - 1))
        bias = self.convolution.bias
        return weight, shift if bias is None else shift + bias * scale

    def forward(self, features: Tensor) -> Tensor:
        """The convolution and the norm in one."""
        weight, bias = self.weight_and_bias()
        return self.convolution._conv_forward(features, weight, bias)


class BatchStatistics(StandIn):
    """Batch norm with each batch's own statistics, that touches no buffer."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm)
        self.norm = norm

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C, ...) normalised over the batch."""
        if features.numel() == features.shape[1]:
            raise LandscapeError(
                "batch norm has no statistics of a batch of one example: give a number of examples and a --batch that "
                "leave none of one, or --batch-norm running"
            )
        return nn.functional.batch_norm(
            features, None, None, self.norm.weight, self.norm.bias, training=True, eps=self.norm.eps
        )


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Every batch norm of the model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


class _CountUses(TorchFunctionMode):
    """Counts how many calls take each tensor as an argument; keeps the tensors alive, so that ids stay theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: Counter[int] = Counter()
        self._alive: list[Any] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        # Reads of a shape or a type take the tensor but not its values.
        if any(isinstance(entry, Tensor) for entry in (result if isinstance(result, (list, tuple)) else (result,))):
            for value in (*args, *kwargs.values()):
                for entry in value if isinstance(value, (list, tuple)) else (value,):
                    if isinstance(entry, Tensor):
                        self.uses[id(entry)] += 1
                        self._alive.append(entry)
        return result


def pairs(model: nn.Module, forward: Callable[[], Any]) -> list[tuple[str, str]]:
    """Names (convolution, batch norm) such that the norm is all that ever sees the convolution's output.

    Found by running `forward` once and watching: no assumption about how the model is written. Modules that are called
    more than once are left alone, and so are those with hooks, which may change what passes between the two.
    """
    outputs: dict[int, str] = {}
    candidates: list[tuple[str, str, int]] = []
    calls: Counter[str] = Counter()
    handles = []

    def after_convolution(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            calls[name] += 1
            outputs[id(output)] = name
            counter._alive.append(output)

        return hook

    def before_norm(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            calls[name] += 1
            if id(arguments[0]) in outputs:
                candidates.append((outputs[id(arguments[0])], name, id(arguments[0])))

        return hook

    for name, module in model.named_modules():
        if any(getattr(module, hooks) for hooks in _HOOKS):
            continue
        if isinstance(module, Convolution):
            handles.append(module.register_forward_hook(after_convolution(name)))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    try:
        with torch.no_grad(), _CountUses() as counter:
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return [
        (convolution, norm)
        for convolution, norm, tensor in candidates
        if calls[convolution] == calls[norm] == 1 and counter.uses[tensor] == 1
    ]


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule `name` by `module`; hooks on the old one stay in force."""
    replaced = model.get_submodule(name)
    for hooks in _HOOKS:
        setattr(module, hooks, getattr(replaced, hooks))
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def prepare(model: nn.Module, forward: Callable[[], Any], *, batch_statistics: bool = False) -> None:
    """Rewrite every batch norm of a private copy of a network, in place.

    Parameters
    ----------
    model
        The copy; its parameters and buffers stay the same tensors, under other names.
    forward
        Runs the model once on a few examples.
    batch_statistics
        Normalise by each batch's own statistics; otherwise by the running ones, folded where possible.
    """
    norms = batch_norms(model)
    tracked = {name for name, norm in norms.items() if norm.running_mean is not None and norm.running_var is not None}
    folded: set[str] = set()
    if not batch_statistics:
        for convolution_name, norm_name in pairs(model, forward):
            if norm_name in tracked:
                folded.add(norm_name)
                convolution = model.get_submodule(convolution_name)
                assert isinstance(convolution, Convolution)
                replace(model, norm_name, FoldedNorm(norms[norm_name]))
                replace(model, convolution_name, FoldedConvolution(convolution, norms[norm_name]))
    for name, norm in norms.items():
        if name in folded:
            continue
        # Without running statistics, a norm uses its batch's in every mode: that is what the network computes.
        replace(model, name, AffineNorm(norm) if name in tracked and not batch_statistics else BatchStatistics(norm))
