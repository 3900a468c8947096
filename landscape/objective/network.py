"""One network prepared for measuring: a private copy that every instrument is built on."""

import copy
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import stateless
from torch.utils._pytree import tree_map_only

from landscape.compute.masks import Masks
from landscape.compute.randomness import untouched_states
from landscape.compute.settings import math_attention
from landscape.data import Data, Images
from landscape.data.examples import Tree, count_of, leaves, mapped
from landscape.errors import LandscapeError
from landscape.objective import dropping, folding
from landscape.objective.chunked import Deferred, DeferredHead, deferring
from landscape.objective.losses import called

_log = logging.getLogger(__name__)

# What networks raise for inputs that they cannot take.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
# Of these, what says that gradients in the inputs are missing.
_WITHOUT_GRADIENTS = "does not require grad"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOK_FLAGS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


class Network:
    """A private copy of a network: finite, in evaluation mode, on its device, in its precision and memory layout.

    The user's network is not changed. Hooks that only watch it are not copied. Those that are part of it are:
    ``torch.nn.utils``' (weight and spectral norm, pruning), our own smoothing's, and any whose attribute
    ``part_of_network`` is true. Parametrizations are not hooks; they are copied, too.

    Convolutions are fastest channels-last; a network that cannot be run that way (``x.view(...)`` wants contiguous
    memory, Conv3d has another) is run in the contiguous layout. Which of the two is decided once, by trying.

    Parameters
    ----------
    model
        Any network that maps the examples' inputs to outputs, whose first dimension counts examples; also inside
        ``DataParallel``, ``DistributedDataParallel`` or ``torch.compile``.
    data
        Examples that it takes; it is tried on the first two.
    device, dtype
        Where, and in which precision, to compute.
    masks
        Makes the dropout masks under which it is tried; those of Monte-Carlo passes by default.
    output
        Which of several outputs counts, see `selected`.

    Attributes
    ----------
    module
        The copy.
    layout
        Memory layout of images and weights.
    output_shape
        Shape of the output, without the examples' dimension; empty when it is several tensors.
    activation_bytes
        Of the largest activation of one example.
    dropout_calls
        Active dropout calls in one pass, under `masks`.

    Raises
    ------
    LandscapeError
        When a parameter is not finite or has no shape yet, the network cannot be copied or cannot take the examples,
        lacks the output, or is not deterministic but for its dropout.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        *,
        device: torch.device,
        dtype: torch.dtype,
        masks: Callable[[], Masks] = Masks.addressed,
        output: str | None = None,
    ) -> None:
        model = unwrapped(model)
        if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
            raise LandscapeError("the network holds TorchScript, which takes no other weights: give the plain module")
        require_finite(model)
        self.device, self.dtype, self.output = device, dtype, output
        self.module = in_precision(private_copy(model).eval(), dtype, device)
        dropping.take_over(self.module)
        self._lay_out(data, masks)
        self._awaken(data, masks)

    def _lay_out(self, data: Data, masks: Callable[[], Masks]) -> None:
        """Take the faster layout in which the network runs."""
        refusal: Exception | None = None
        for layout in (torch.channels_last, torch.contiguous_format):
            self.layout, self.activation_bytes = layout, 0
            try:
                # Weights of five dimensions, of Conv3d, have no such layout.
                self.module = self.module.to(memory_format=layout)  # type: ignore[call-overload]
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
        if _WITHOUT_GRADIENTS in str(refusal) and not isinstance(self.module, _Differentiating):
            kind = type(self.module)
            self.module.__class__ = type(kind.__name__, (_Differentiating, kind), {"__module__": kind.__module__})
            self._lay_out(data, masks)
            return
        if isinstance(data, Images):
            what = f"images of shape {tuple(data.images.shape[1:])}"
        else:
            shapes = ", ".join(f"{path} {tuple(tensor.shape[1:])}" for path, tensor in leaves(data.inputs, "inputs"))
            what = f"examples of shape {shapes}"
        raise LandscapeError(
            f"the network cannot take {what}: {_first_line(refusal)}; give --data that fits the network"
        ) from None

    def _try(self, data: Data, masks: Callable[[], Masks]) -> None:
        """Run two examples twice over, with the same masks."""
        count = min(len(data), 2)

        def watch(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                size = output.numel() * output.element_size() // count
                self.activation_bytes = max(self.activation_bytes, size)

        handles = [module.register_forward_hook(watch) for module in self.module.modules()]
        try:
            trial = self._trial(data, masks)
        finally:
            for handle in handles:
                handle.remove()
        self.dropout_calls, first = trial.dropout_calls, trial.returned[0]
        self.output_shape = tuple(first.shape[1:]) if isinstance(first, Tensor) else ()
        if not trial.repeats:
            what = "images" if isinstance(data, Images) else "examples"
            raise LandscapeError(
                f"the network gives different outputs for the same {what}: it draws random numbers that are not "
                "dropout's; switch them off, or give them with the examples, as one of the inputs"
            )

    @torch.no_grad()
    def _trial(self, data: Data, masks: Callable[[], Masks]) -> dropping.Trial:
        """What the network returns for two examples, twice over with the same masks."""
        inputs, returned = self.inputs(data, 0, 2), []
        # Another thread's measurement may change the kernel of attention, and so the last digit, between the two.
        with frozen_randomness(self.device), math_attention, masks() as drawn:
            for _ in range(2):
                drawn.address(examples=count_of(inputs))
                returned.append(self(inputs))
        return dropping.Trial((returned[0], returned[1]), drawn.calls)

    def _awaken(self, data: Data, masks: Callable[[], Masks]) -> None:
        """Let dropout draw that asks for training mode, and say which does not."""
        self._awake: set[type[nn.Module]] = set()
        if not masks().draws:
            return
        with untouched_states():  # in training mode a network may draw whatever it likes
            self._awake = dropping.awaken(self.module, lambda chosen: self._trial(data, chosen), masks)
        if self._awake:
            self._try(data, masks)
        off = dropping.without_masks(self.module, lambda: self._trial(data, masks))
        if off:
            _log.warning(
                "dropout that is not drawn here, so that it is off: %s; write it with torch.nn.functional.dropout",
                ", ".join(off),
            )

    def drop_alike(self, module: nn.Module) -> nn.Module:
        """Another copy of the network, in evaluation mode, that drops what this one does; changed in place."""
        dropping.take_over(module)
        dropping.set_mode(module, self._awake, training=True)
        return module

    def images(self, data: Images, start: int, stop: int) -> Tensor:
        """Images `start` to `stop` of some data, as the network takes them: normalised, in its precision and layout."""
        batch = self.inputs(data, start, stop)
        assert isinstance(batch, Tensor)
        return batch

    def inputs(self, data: Data, start: int, stop: int) -> Tree:
        """Examples `start` to `stop` of some data, as the network takes them: in its precision and layout."""
        batch = data.batch(start, min(stop, len(data)), dtype=self.dtype, device=self.device)
        return mapped(self.laid_out, batch)

    def laid_out(self, batch: Tensor) -> Tensor:
        """A batch in the network's memory layout."""
        return batch.contiguous(memory_format=self.layout) if batch.dim() == 4 else batch

    def __call__(self, batch: Tree) -> Any:
        """Outputs of a batch, under whatever `Masks` are in force: a tensor (N, ...), or all there are."""
        return self.select(called(self.module, batch))

    def select(self, output: Any) -> Any:
        """What counts of what the network returns."""
        return selected(output, self.output)

    def last_layer(self, inputs: Tree, masks: Callable[[], Masks]) -> str:
        """Name of the last module with parameters of its own that is called for some inputs."""
        return self._calls(inputs, masks)[0]

    def head(self, inputs: Tree, masks: Callable[[], Masks]) -> str | None:
        """Name of the linear layer whose product the outputs are, and that is called once; None without one."""
        return self._calls(inputs, masks)[1]

    def defer_head(self, inputs: Tree, masks: Callable[[], Masks]) -> nn.Linear | None:
        """Leave the product of the `head` to the loss (`landscape.objective.chunked`); the head, or None if not."""
        name = self.head(inputs, masks)
        if name is None:
            return None
        head = self.module.get_submodule(name)
        assert isinstance(head, nn.Linear)
        folding.replace(self.module, name, DeferredHead(head))
        try:
            with torch.no_grad(), frozen_randomness(self.device), masks() as drawn, deferring():
                drawn.address(examples=count_of(inputs))
                self(inputs)
        except (*_REFUSALS, AttributeError):  # the network computes with its scores, or changes them in place
            folding.replace(self.module, name, head)
            return None
        return head

    @torch.no_grad()
    def _calls(self, inputs: Tree, masks: Callable[[], Masks]) -> tuple[str, str | None]:
        """The last module called that has parameters of its own, and the linear layer that makes the outputs."""
        calls: list[tuple[str, Any]] = []

        def watch(name: str) -> Callable[..., None]:
            return lambda module, arguments, output: calls.append((name, output))

        parts = {
            name: module for name, module in self.module.named_modules() if any(True for _ in module.parameters(False))
        }
        handles = [module.register_forward_hook(watch(name)) for name, module in parts.items()]
        try:
            with frozen_randomness(self.device), masks() as drawn:
                drawn.address(examples=count_of(inputs))
                outputs = self(inputs)
        finally:
            for handle in handles:
                handle.remove()
        if not calls:
            return "", None
        name, output = calls[-1]
        once = [called for called, _ in calls].count(name) == 1
        plain = type(parts[name]) is nn.Linear and not any(getattr(parts[name], hooks) for hooks in _HOOKS)
        return name, name if once and plain and output is outputs else None

    def holding(self, module: nn.Module, dtype: torch.dtype) -> "Network":
        """The same with another copy of the network inside, of another precision."""
        other = copy.copy(self)
        other.module, other.dtype = module, dtype
        return other

    def require_class_scores(self, data: Data) -> int:
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
        labels = data.target(0, len(data))
        if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
            raise LandscapeError(f"{data.name} does not have one class per example: give targets (N,) of whole numbers")
        classes, highest = self.output_shape[0], int(labels.max())
        if highest >= classes:
            raise LandscapeError(
                f"label {highest} in {data.name} is beyond the network's {classes} outputs: "
                "give the data that the network was trained on"
            )
        return classes

    def fold(self, data: Data, *, except_at: Collection[str] = ()) -> None:
        """Fold batch norm with running statistics into the convolutions before it, once and for all, for inference.

        Exact but for rounding. `except_at` names convolutions whose own output is wanted.
        """
        self.module.requires_grad_(False)
        example = self.inputs(data, 0, 1)
        with Masks.off():
            pairs = folding.pairs(self.module, lambda: called(self.module, example))
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


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside wrappers for several devices and for compilation."""
    while True:
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model.module if parallel else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def in_precision(module: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> nn.Module:
    """The module, changed in place: floating-point tensors in `dtype`, complex ones in pairs of it, on a device.

    `nn.Module.to` would drop imaginary parts, and `nn.Module.double` leave complex tensors as they are.
    """

    def converted(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(device=device, dtype=dtype.to_complex())
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

    return module._apply(converted)


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy of a network without the hooks that are not part of it, no part compiled, no gradient sparse."""
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
    for parent in [*network.modules()]:
        if isinstance(parent, (nn.Embedding, nn.EmbeddingBag)):
            parent.sparse = False  # a sparse gradient has no second derivative, and no place in a vector
        for name, part in parent.named_children():
            if isinstance(getattr(part, "_orig_mod", None), nn.Module):
                folding.replace(parent, name, _Uncompiled(part))
    return network


class _Differentiating(nn.Module):
    """Mixed into a network that differentiates in its inputs, as one that predicts forces does: always with gradients.

    Its inputs are leaves of their own, and what it returns has a graph only where gradients are wanted.
    """

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """As the network that it is."""
        wanted = torch.is_grad_enabled()
        arguments, named = tree_map_only(Tensor, Tensor.detach, (arguments, named))
        with torch.enable_grad():
            returned = super().forward(*arguments, **named)
        return returned if wanted else tree_map_only(Tensor, Tensor.detach, returned)


class _Uncompiled(nn.Module):
    """A part that `torch.compile` wrapped, as it was written: compiled code has no second derivative.

    Parameters have the names that they have in the wrapper.
    """

    def __init__(self, compiled: nn.Module) -> None:
        super().__init__()
        self._orig_mod = compiled._orig_mod

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the part gives."""
        return self._orig_mod(*arguments, **named)  # type: ignore[operator]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_orig_mod"), name)


def _belongs(hook: Any) -> bool:
    """Whether a hook is part of what the network computes."""
    return getattr(hook, "part_of_network", False) or type(hook).__module__.startswith("torch.nn.utils.")


_randomness = threading.RLock()


@contextmanager
def frozen_randomness(device: torch.device) -> Iterator[None]:
    """Whatever a network draws from the global generators, they are as before afterwards; one thread at a time."""
    with _randomness, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def running_with(module: nn.Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Within it, a module has other tensors, by name, in place of its own; what is tied stays tied."""
    # What `torch.func.functional_call` does for one call: a loss may call parts of the network, too.
    with stateless._reparametrize_module(module, tensors, tie_weights=True):
        yield


def ranges(first: int, last: int, size: int) -> list[tuple[int, int]]:
    """Ranges (start, stop) of the batches of `size` between two examples; the last one may be smaller."""
    return [(start, min(start + size, last)) for start in range(first, last, size)]


# What asks for everything that a network returns.
ALL = "all"
# Where networks that return several outputs by name keep the one that they are trained on.
_USUAL = ("logits", "out", "prediction_logits", "sample")


def selected(output: Any, wanted: str | None = None) -> Any:
    """The outputs that count, out of whatever a network returns.

    Parameters
    ----------
    output
        A tensor, a sequence, a mapping, or an object with attributes.
    wanted
        A name, an index, or ``all`` for everything, as tensors in tuples and dictionaries; None for ``logits``, the
        usual name in a mapping, or the first of a sequence.

    Raises
    ------
    LandscapeError
        When there is no such output, or it is not a tensor.
    """
    if wanted == ALL:
        return _everything(output)
    names = _names(output)
    chosen = output
    if wanted is not None:
        if wanted in names:
            chosen = output[wanted] if isinstance(output, Mapping) else getattr(output, wanted)
        elif wanted.lstrip("-").isdigit() and isinstance(output, (tuple, list)) and _within(int(wanted), len(output)):
            chosen = output[int(wanted)]
        else:
            there = ", ".join(names) or (
                f"{len(output)} outputs" if isinstance(output, (tuple, list)) else f"one {type(output).__name__}"
            )
            raise LandscapeError(f"the network has no output {wanted!r}: it returns {there}; give one with --output")
    elif not isinstance(output, Tensor):
        usual = next((name for name in _USUAL if name in names), None)
        if usual is not None:
            chosen = output[usual] if isinstance(output, Mapping) else getattr(output, usual)
        elif isinstance(output, (tuple, list)) and output:
            chosen = output[0]
        elif isinstance(output, Mapping) and len(names) > 1:
            raise LandscapeError(f"the network returns {', '.join(names)}: say with --output which of them counts")
        elif isinstance(output, Mapping) and names:
            chosen = output[names[0]]
    # As Hugging Face's key-value caches and pairs of scores and states come: the first tensor.
    if wanted is None and isinstance(chosen, (tuple, list)) and chosen:
        chosen = chosen[0]
    if not isinstance(chosen, (Tensor, Deferred)):
        kind = type(output if wanted is None else chosen).__name__
        raise LandscapeError(
            f"the network returns a {kind}: wrap it so that it returns a tensor"
            + (f", or give --output one of {', '.join(names)}" if names else "")
        )
    return chosen


def _within(index: int, length: int) -> bool:
    return -length <= index < length


def _names(output: Any) -> list[str]:
    """Names of the outputs, of a mapping or an object."""
    if isinstance(output, Mapping):
        return [str(name) for name in output]
    if isinstance(output, (Tensor, tuple, list)) and not hasattr(output, "_fields"):
        return []
    fields: Iterable[str] = getattr(output, "_fields", None) or getattr(output, "__dict__", {})
    return [str(name) for name in fields if not str(name).startswith("_")]


def _everything(output: Any) -> Any:
    """All tensors of an output, in tuples and dictionaries; anything else is left out."""
    if isinstance(output, (Tensor, Deferred)):
        return output
    if isinstance(output, Mapping):
        return {str(name): _everything(value) for name, value in output.items() if _holds_tensors(value)}
    if isinstance(output, (tuple, list)):
        return tuple(_everything(value) for value in output if _holds_tensors(value))
    return {
        name: _everything(getattr(output, name)) for name in _names(output) if _holds_tensors(getattr(output, name))
    }


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (Tensor, Deferred, Mapping, tuple, list))


def logits(output: Any) -> Tensor:
    """The tensor of outputs, out of whatever a network returns."""
    tensor = selected(output)
    assert isinstance(tensor, Tensor)
    return tensor


def require_finite(model: nn.Module) -> None:
    """Raise LandscapeError that names the first tensor of the model with a value that is not finite, or none yet."""
    for name, tensor in model.state_dict().items():
        if is_lazy(tensor):
            raise LandscapeError(f"{name} has no shape yet: call the network once with an example, so that it gets one")
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise LandscapeError(
                f"{name} holds {bad} values that are not finite: the checkpoint is damaged or diverged"
            )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
