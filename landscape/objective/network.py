"""One network prepared for measuring: a private copy that every instrument of this house is built on."""

import copy
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from landscape.compute.masks import Masks
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.objective import folding

_log = logging.getLogger(__name__)

# What a network raises when it is shown what it cannot take.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOK_FLAGS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


class Network:
    """A private copy of a network: finite, in evaluation mode, on its device, in its precision and memory layout.

    The user's network is left as it was. Hooks that only watch are not copied: theirs is the user's network. Those
    that are part of it stay: ``torch.nn.utils``' (weight and spectral norm, pruning), our own smoothing's, and any
    whose attribute ``part_of_network`` is true. Parametrizations are no hooks and stay, too.

    Convolutions are fastest channels-last; a network that cannot be run that way (``x.view(...)`` wants contiguous
    memory) is run in the contiguous layout. Which of the two is decided once, by trying.

    Parameters
    ----------
    model
        Any network that maps images (N, C, H, W) to outputs; an output object with ``logits`` is understood.
    data
        Images that it takes; it is tried on the first two.
    device, dtype
        Where, and in which precision, to compute.
    masks
        Makes the dropout masks under which it is tried; those of Monte-Carlo passes by default.

    Attributes
    ----------
    module
        The copy.
    layout
        Memory layout of images and weights.
    output_shape
        Shape of the output, without the images' dimension.
    activation_bytes
        Of the largest activation of one image.
    dropout_calls
        Active dropout calls in one pass, under `masks`.

    Raises
    ------
    LandscapeError
        When a parameter is not finite, the network cannot be copied or cannot take the images, or is not deterministic
        but for its dropout.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Images,
        *,
        device: torch.device,
        dtype: torch.dtype,
        masks: Callable[[], Masks] = Masks.addressed,
    ) -> None:
        require_finite(model)
        self.device, self.dtype = device, dtype
        self.module = private_copy(model).eval().to(device=device, dtype=dtype)
        self._lay_out(data, masks)

    def _lay_out(self, data: Images, masks: Callable[[], Masks]) -> None:
        """Take the faster layout in which the network runs."""
        refusal: Exception | None = None
        for layout in (torch.channels_last, torch.contiguous_format):
            self.layout, self.activation_bytes = layout, 0
            self.module = self.module.to(memory_format=layout)  # type: ignore[call-overload]
            try:
                self._try(data, masks)
            except _REFUSALS as error:
                if isinstance(error, (LandscapeError, torch.OutOfMemoryError)):
                    raise
                refusal = error
                continue
            if refusal is not None:
                _log.info("measured in contiguous layout: channels-last, the network fails (%s)", _first_line(refusal))
            return
        assert refusal is not None
        raise LandscapeError(
            f"the network cannot take images of shape {tuple(data.images.shape[1:])}: {_first_line(refusal)}; "
            "give --data that fits the network"
        ) from None

    @torch.no_grad()
    def _try(self, data: Images, masks: Callable[[], Masks]) -> None:
        """Run two examples twice over, with the same masks."""
        images = self.images(data, 0, 2)

        def watch(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                size = output.numel() * output.element_size() // len(images)
                self.activation_bytes = max(self.activation_bytes, size)

        handles = [module.register_forward_hook(watch) for module in self.module.modules()]
        outputs = []
        try:
            with frozen_randomness(self.device), masks() as drawn:
                for _ in range(2):
                    drawn.address(first_example=0, sample=0)
                    outputs.append(logits(self.module(images)))
                self.dropout_calls = drawn.calls
        finally:
            for handle in handles:
                handle.remove()
        self.output_shape = tuple(outputs[0].shape[1:])
        if not torch.equal(outputs[0], outputs[1]) and not outputs[0].isnan().any():
            raise LandscapeError(
                "the network gives different outputs for the same images: it draws random numbers that are not "
                "dropout's; switch them off, or draw them from a fixed torch.Generator"
            )

    def images(self, data: Images, start: int, stop: int) -> Tensor:
        """Images `start` to `stop` of some data, as the network takes them: normalised, in its precision and layout."""
        batch = data.batch(start, min(stop, len(data)), dtype=self.dtype, device=self.device)
        return self.laid_out(batch)

    def laid_out(self, batch: Tensor) -> Tensor:
        """A batch in the network's memory layout."""
        return batch.contiguous(memory_format=self.layout) if batch.dim() == 4 else batch

    def __call__(self, batch: Tensor) -> Tensor:
        """Outputs (N, ...) of a batch, under whatever `Masks` are in force."""
        return logits(self.module(batch))

    def holding(self, module: nn.Module, dtype: torch.dtype) -> "Network":
        """The same with another copy of the network inside, of another precision."""
        other = copy.copy(self)
        other.module, other.dtype = module, dtype
        return other

    def require_class_scores(self, data: Images) -> int:
        """Number of classes *K* of outputs (N, K).

        Raises
        ------
        LandscapeError
            When outputs have another shape, or a label of the data is beyond them.
        """
        if len(self.output_shape) != 1:
            shape = ", ".join(str(part) for part in ("N", *self.output_shape))
            raise LandscapeError(
                f"the network's output has shape ({shape}), not (images, classes): wrap it, or give a loss of your own"
            )
        classes, highest = self.output_shape[0], int(data.labels.max())
        if highest >= classes:
            raise LandscapeError(
                f"label {highest} in {data.name} is beyond the network's {classes} outputs: "
                "give the data that the network was trained on"
            )
        return classes

    def fold(self, data: Images, *, except_at: Collection[str] = ()) -> None:
        """Fold batch norm with running statistics into the convolutions before it, once and for all, for inference.

        Exact but for rounding. `except_at` names convolutions whose own output is wanted.
        """
        self.module.requires_grad_(False)
        image = self.images(data, 0, 1)
        with Masks.off():
            pairs = folding.pairs(self.module, lambda: self.module(image))
        for convolution_name, norm_name in pairs:
            norm = self.module.get_submodule(norm_name)
            assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
            if convolution_name in except_at or norm.running_mean is None or norm.running_var is None:
                continue
            convolution = self.module.get_submodule(convolution_name)
            assert isinstance(convolution, folding.Convolution)
            weight, bias = folding.FoldedConvolution(convolution, norm).weight_and_bias()
            layout = self.layout if weight.dim() == 4 else torch.contiguous_format
            convolution.weight = nn.Parameter(weight.contiguous(memory_format=layout), requires_grad=False)
            convolution.bias = nn.Parameter(bias, requires_grad=False)
            folding.replace(self.module, norm_name, folding.FoldedNorm(norm))


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy of a network without the hooks that are not part of it."""
    # `deepcopy` takes what its memo holds for the copy: hooks that stay behind are not even looked at.
    memo: dict[int, Any] = {}
    kept: list[tuple[OrderedDict[int, Any], dict[int, Any]]] = []
    dropped = 0
    for module in model.modules():
        # Weights that a hook computes from others (pruning, weight norm): they are computed anew in the copy.
        computed = [value for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf]
        memo |= {id(value): value.detach().clone() for value in computed}
        hooks = [getattr(module, name) for name in _HOOKS]
        ours = [{key: hook for key, hook in part.items() if _belongs(hook)} for part in hooks]
        if sum(map(len, ours)) == sum(map(len, hooks)):
            continue
        dropped += sum(map(len, hooks)) - sum(map(len, ours))
        for before, after in zip(hooks, ours, strict=True):
            memo[id(before)] = OrderedDict()
            kept.append((memo[id(before)], after))
        left = {key for part in ours for key in part}
        for name in _HOOK_FLAGS:
            flags = getattr(module, name)
            memo[id(flags)] = OrderedDict((key, value) for key, value in flags.items() if key in left)
    if dropped:
        _log.warning(
            "%d hooks of the network are not measured; if one changes what it computes, "
            "set the hook's attribute part_of_network to True",
            dropped,
        )
    try:
        network = copy.deepcopy(model, memo)
        for target, after in kept:
            # With the same memo: a hook that holds a layer of the network holds the copy's.
            target |= copy.deepcopy(after, memo)
    except _REFUSALS as error:
        raise LandscapeError(
            f"the network cannot be copied ({_first_line(error)}): keep what cannot be copied outside the network"
        ) from None
    return network


def _belongs(hook: Any) -> bool:
    """Whether a hook is part of what the network computes."""
    return getattr(hook, "part_of_network", False) or type(hook).__module__.startswith("torch.nn.utils.")


_randomness = threading.RLock()


@contextmanager
def frozen_randomness(device: torch.device) -> Iterator[None]:
    """Whatever a network draws from the global generators, they are as before afterwards; one thread at a time."""
    with _randomness, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def ranges(first: int, last: int, size: int) -> list[tuple[int, int]]:
    """Ranges (start, stop) of the batches of `size` between two examples; the last one may be smaller."""
    return [(start, min(start + size, last)) for start in range(first, last, size)]


def logits(output: Any) -> Tensor:
    """The tensor of outputs, out of whatever a network returns."""
    found = getattr(output, "logits", output)
    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        raise LandscapeError(f"the network returns a {type(output).__name__}: wrap it so that it returns a tensor")
    return found


def require_finite(model: nn.Module) -> None:
    """Raise LandscapeError that names the first tensor of the model with a value that is not finite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise LandscapeError(
                f"{name} holds {bad} values that are not finite: the checkpoint is damaged or diverged"
            )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
