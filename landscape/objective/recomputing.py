r"""Activation checkpointing that a Hessian-vector product goes through: blocks are computed again instead of kept.

The graph of a second derivative keeps the activations of a forward pass and of a backward pass, some four times what
training keeps, and ``torch.utils.checkpoint`` frees none of them for good: the first backward pass with
``create_graph=True`` computes the activations again and keeps them. Here a block :math:`y = f(x, w)` and its backward
pass :math:`(\bar x, \bar w) = \bar y^\top \partial f` are two functions that keep only what they are given, and compute
the block again for their derivatives. A graph then holds the inputs and output gradients of the blocks; beside it
stands the graph of a single block while it is differentiated. A product costs two more forward passes and one more
backward pass of each block.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from landscape.compute import masks
from landscape.compute.settings import math_attention
from landscape.errors import LandscapeError
from landscape.objective.convolution import CheapDoubleBackward

_recomputing: ContextVar[bool] = ContextVar("recomputing", default=False)
_inside: ContextVar[bool] = ContextVar("inside a block that is computed again", default=False)
# What a block may be given beside tensors: values that computing it again cannot have changed.
_CONSTANTS = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@contextmanager
def recomputing(active: bool = True) -> Iterator[None]:
    """Within it, blocks that `prepare` has found keep their inputs alone, where gradients are wanted."""
    token = _recomputing.set(active)
    try:
        yield
    finally:
        _recomputing.reset(token)


def is_transient() -> bool:
    """Whether what is computed now belongs to a block that is computed again, so that it is not kept."""
    return _inside.get()


def blocks(module: nn.Module) -> list[str]:
    """Names of the outermost modules that repeat: members of a container, of one class, with layers inside."""
    names: list[str] = []
    for name, container in module.named_modules():
        if not isinstance(container, (nn.Sequential, nn.ModuleList)) or name.startswith(tuple(f"{n}." for n in names)):
            continue
        members = {child: inner for child, inner in container.named_children() if _has_layers(inner)}
        classes = [type(inner) for inner in members.values()]
        repeated = [child for child, inner in members.items() if classes.count(type(inner)) > 1]
        names += [f"{name}.{child}" if name else child for child in repeated]
    return [name for name in names if not name.startswith(tuple(f"{other}." for other in names))]


def _has_layers(module: nn.Module) -> bool:
    return any(any(True for _ in child.parameters()) for child in module.children())


def prepare(module: nn.Module) -> list[str]:
    """Make the blocks of a private copy of a network such as `recomputing` speaks of; returns their names."""
    names = blocks(module)
    for name in names:
        block = module.get_submodule(name)
        kind = type(block)
        if not issubclass(kind, _Recomputed):
            block.__class__ = type(kind.__name__, (_Recomputed, kind), {"__module__": kind.__module__})
    # A cache of keys and values that grows with every call would make a block another function the second time.
    for part in module.modules() if names else ():
        if getattr(vars(part).get("config"), "use_cache", False):
            vars(part)["config"].use_cache = False
    return names


class _Recomputed(nn.Module):
    """What `prepare` makes of a block: the same module, of a class whose forward pass may keep its inputs alone."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        forward = super().forward
        given, spec = tree_flatten((arguments, named))
        plain = not (_recomputing.get() and torch.is_grad_enabled())
        # `torch.func.grad` and its like, in a loss of the user's own, take no `_Block`.
        plain = plain or torch._C._are_functorch_transforms_active()
        if plain or not all(isinstance(one, (Tensor, *_CONSTANTS)) for one in given):
            return forward(*arguments, **named)
        call = _Call(self, given, spec)
        outputs = _Block.apply(call, *call.tensors_of(given), *call.parameters)
        masks.advance(call.calls)
        return call.result(outputs)


class _Call:
    """One call of a block: how to make it again with other tensors."""

    def __init__(self, block: _Recomputed, given: Sequence[Any], spec: TreeSpec) -> None:
        # The parameters that are in force now, whatever is put in their place later, on a copy that nobody else uses.
        named = dict(block.named_parameters())
        self.names, self.parameters = list(named), list(named.values())
        shared = [*self.parameters, *block.buffers()]
        self._block = copy.deepcopy(block, {id(tensor): tensor for tensor in shared})
        self._block.__class__ = type(block).__mro__[2]
        self._constants = [None if isinstance(one, Tensor) else one for one in given]
        self._positions = [position for position, one in enumerate(given) if isinstance(one, Tensor)]
        self._spec = spec
        self._masks: Callable[[], AbstractContextManager[Any]] = masks.replaying()
        self._of_output: tuple[list[Any], list[int], TreeSpec] | None = None
        self._running = threading.RLock()
        # Dropout calls so far, after the last run.
        self.calls = 0

    def tensors_of(self, given: Sequence[Any]) -> list[Tensor]:
        """The tensors among what the block is given."""
        return [given[position] for position in self._positions]

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors that the block returns for others of its inputs and parameters."""
        given = list(self._constants)
        for position, tensor in zip(self._positions, tensors, strict=False):
            given[position] = tensor
        arguments, named = tree_unflatten(given, self._spec)
        parameters = dict(zip(self.names, tensors[len(self._positions) :], strict=True))
        token = _recomputing.set(False)
        try:
            with self._running, self._masks() as used:
                result = functional_call(self._block, parameters, arguments, named)
                self.calls = getattr(used, "calls", 0)
        finally:
            _recomputing.reset(token)
        leaves, spec = tree_flatten(result)
        positions = [position for position, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        if self._of_output is None:
            self._of_output = ([None if isinstance(leaf, Tensor) else leaf for leaf in leaves], positions, spec)
        # What is given back as it came would be two things to autograd.
        returned = [leaves[position] for position in positions]
        return [leaf.view_as(leaf) if any(leaf is one for one in tensors) else leaf for leaf in returned]

    def result(self, tensors: Sequence[Tensor]) -> Any:
        """What the block returns, from its tensors."""
        assert self._of_output is not None
        constants, positions, spec = self._of_output
        leaves = list(constants)
        for position, tensor in zip(positions, tensors, strict=True):
            leaves[position] = tensor
        return tree_unflatten(leaves, spec)


@contextmanager
def _again() -> Iterator[None]:
    """Settings under which a block is computed again, whatever those of the caller are."""
    token = _inside.set(True)
    try:
        with torch.enable_grad(), CheapDoubleBackward(), math_attention:
            yield
    finally:
        _inside.reset(token)


def _leaves(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [tensor.detach().requires_grad_(want) for tensor, want in zip(tensors, wanted, strict=True)]


class _Block(torch.autograd.Function):
    """A block that keeps what it is given."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        ctx.set_materialize_grads(False)
        ctx.call = call
        ctx.save_for_backward(*tensors)
        outputs = call.run(tensors)
        ctx.mark_non_differentiable(*(one for one in outputs if not (one.is_floating_point() or one.is_complex())))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        wanted = ctx.needs_input_grad[1:]
        gradients = _Backward.apply(ctx.call, wanted, len(cotangents), *cotangents, *ctx.saved_tensors)
        return (None, *gradients)


class _Backward(torch.autograd.Function):
    """The backward pass of a block, differentiable once more; keeps what it is given, too."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, call: _Call, wanted: Sequence[bool], count: int, *given: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.call, ctx.wanted, ctx.count = call, wanted, count
        ctx.save_for_backward(*given)
        with _again():
            return tuple(_pulled(call, wanted, given[:count], _leaves(given[count:], wanted), create_graph=False))  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # `once_differentiable` would give zeros in place of what depends on parameters.
        if torch.is_grad_enabled():
            raise LandscapeError(
                "the loss differentiates in the network's inputs, so that its curvature needs third derivatives of "
                "blocks that are computed again, which have two: leave out --activation-checkpointing"
            )
        given, needed = ctx.saved_tensors, ctx.needs_input_grad[3:]
        with _again():
            cotangents = [
                None if one is None else one.detach().requires_grad_(need)
                for one, need in zip(given[: ctx.count], needed, strict=False)
            ]
            leaves = _leaves(given[ctx.count :], ctx.wanted)
            pulled = _pulled(ctx.call, ctx.wanted, cotangents, leaves, create_graph=True)
            pairs = [
                (one, tangent)
                for one, tangent in zip(pulled, tangents, strict=True)
                if one is not None and tangent is not None and one.requires_grad
            ]
            sources = [*cotangents, *leaves]
            positions = [
                position
                for position, one in enumerate(sources)
                if needed[position] and one is not None and one.requires_grad
            ]
            gradients: list[Tensor | None] = [None] * len(sources)
            if pairs and positions:
                results = torch.autograd.grad(
                    [one for one, _ in pairs],
                    [sources[position] for position in positions],  # type: ignore[arg-type]
                    [tangent for _, tangent in pairs],
                    allow_unused=True,
                )
                for position, result in zip(positions, results, strict=True):
                    gradients[position] = result
        return (None, None, None, *gradients)


def _pulled(
    call: _Call,
    wanted: Sequence[bool],
    cotangents: Sequence[Tensor | None],
    leaves: Sequence[Tensor],
    create_graph: bool,
) -> list[Tensor | None]:
    """Gradients of a block in its inputs and parameters, None for those that are not wanted."""
    outputs = call.run(leaves)
    pairs = [
        (output, cotangent)
        for output, cotangent in zip(outputs, cotangents, strict=True)
        if cotangent is not None and output.requires_grad
    ]
    sources = [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]
    if not pairs:
        return [torch.zeros_like(leaf) if want else None for leaf, want in zip(leaves, wanted, strict=True)]
    gradients = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            sources,
            [cotangent for _, cotangent in pairs],
            create_graph=create_graph,
            materialize_grads=True,
        )
    )
    return [next(gradients) if want else None for want in wanted]
