"""Dropout that a network applies in training mode alone, made to draw from `Masks` in its private copy.

The copy is in evaluation mode, where attention passes a rate of zero on, and stochastic depth is off.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from landscape.compute.masks import Masks, calls, drop_examples, is_active
from landscape.data.examples import leaves
from landscape.errors import LandscapeError
from landscape.objective import folding

# Where modules keep the rate of what they drop.
_RATES = ("p", "drop_prob", "drop_rate", "rate", "dropout")
# Words in the names of classes that drop whole examples of a residual branch.
_STOCHASTIC_DEPTH = ("droppath", "stochasticdepth")
# Modules whose training mode is something else, or whose dropout needs none.
_OTHERS = (_NormBase, _DropoutNd, nn.RNNBase)


class Trial(NamedTuple):
    """What a network returned for a few examples.

    Attributes
    ----------
    returned
        Whatever it returned, of each of two runs with the same masks.
    dropout_calls
        Active dropout calls in one run.
    """

    returned: tuple[Any, Any]
    dropout_calls: int

    @property
    def outputs(self) -> list[Tensor]:
        """All tensors that the first run returned."""
        return _tensors(self.returned[0])

    @property
    def repeats(self) -> bool:
        """Whether both returned the same, or what is not a number."""
        both = zip(self.outputs, _tensors(self.returned[1]), strict=True)
        return all(torch.equal(one, two) or bool(one.isnan().any()) for one, two in both)


class StochasticDepth(nn.Module):
    """Drops whole examples under the masks in force, in place of another library's layer.

    Parameters
    ----------
    rate
        Probability of dropping an example.
    scaled
        Whether what is kept is divided by the probability of keeping it.
    """

    def __init__(self, rate: float, *, scaled: bool) -> None:
        super().__init__()
        self.rate, self.scaled = rate, scaled

    def forward(self, input: Tensor) -> Tensor:
        """The same shape as `input` (N, ...)."""
        kept = drop_examples(input, self.rate)
        return kept if self.scaled or kept is input else kept * (1 - self.rate)


class LayerByLayer(nn.RNNBase):
    """A recurrent network whose dropout between layers is under the masks in force: its layers are called one by one.

    Mixed into the class of another, whose call for all layers draws masks of its own, in training mode alone.
    """

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As the network that it is; of packed sequences, whose rows are no examples, without dropout."""
        if not isinstance(input, Tensor) or input.dim() != 3 or not is_active(self.dropout):
            return super().forward(input, hx)
        features = input.transpose(0, 1) if self.batch_first else input
        directions, gated = 2 if self.bidirectional else 1, self.mode == "LSTM"
        if hx is None:
            sizes = [self.proj_size or self.hidden_size, self.hidden_size]
            states = [features.new_zeros(self.num_layers * directions, features.shape[1], size) for size in sizes]
        else:
            states = [*hx] if gated else [hx]
        run = getattr(torch, self.mode.lower())
        each, last = len(self._flat_weights_names) // self.num_layers, []
        for layer in range(self.num_layers):
            of_layer = slice(layer * directions, (layer + 1) * directions)
            weights = [getattr(self, name) for name in self._flat_weights_names[layer * each : (layer + 1) * each]]
            first = tuple(state[of_layer] for state in states) if gated else states[0][of_layer]
            features, *ends = run(features, first, weights, self.bias, 1, 0.0, False, self.bidirectional, False)
            last.append(ends)
            if layer + 1 < self.num_layers:
                features = functional.dropout(features, self.dropout)
        ended = tuple(torch.cat(parts) for parts in zip(*last, strict=True))
        return features.transpose(0, 1) if self.batch_first else features, ended if gated else ended[0]


def take_over(module: nn.Module) -> None:
    """Have layers of the private copy of a network drop under the masks in force that draw masks of their own.

    Stochastic depth, by its name and where it drops each example by itself, and recurrent networks of several layers.
    """
    for name, layer in [*module.named_modules(remove_duplicate=False)]:
        if isinstance(layer, nn.RNNBase):
            if _rate(layer) > 0 and type(layer) in (nn.LSTM, nn.GRU, nn.RNN):
                layer.__class__ = type(type(layer).__name__, (LayerByLayer, type(layer)), {})
            continue
        kind, rate = type(layer).__name__.lower(), _rate(layer)
        known = any(word in kind for word in _STOCHASTIC_DEPTH) and not [*layer.children(), *layer.parameters()]
        if name and known and rate > 0 and getattr(layer, "mode", "row") == "row":
            folding.replace(module, name, StochasticDepth(rate, scaled=getattr(layer, "scale_by_keep", True)))


def awaken(
    module: nn.Module, trial: Callable[[Callable[[], Masks]], Trial], masks: Callable[[], Masks]
) -> set[type[nn.Module]]:
    """Put modules into training mode that drop something in it alone; their classes.

    Which ones, a trial of each class says whose code asks for the mode: in training mode there are more dropout calls,
    the runs still repeat, and with dropout off the outputs are what they were.

    Parameters
    ----------
    module
        The private copy of a network, in evaluation mode.
    trial
        Runs it on a few examples, under masks of the given kind.
    masks
        Those under which it will be measured.
    """
    classes = {type(part): None for part in module.modules() if _asks_for_mode(type(part))}
    awake: set[type[nn.Module]] = set()
    if not classes:
        return awake
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    active, plain = trial(masks).dropout_calls, trial(Masks.off).outputs
    for kind in classes:
        set_mode(module, {kind}, training=True)
        try:
            masked = trial(masks)
            if masked.dropout_calls > active and masked.repeats and _equal(plain, trial(Masks.off).outputs):
                awake.add(kind)
                active = masked.dropout_calls
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, LandscapeError):
            pass
        set_mode(module, {kind}, training=kind in awake)
        for buffer, value in buffers:
            buffer.copy_(value)
    return awake


def set_mode(module: nn.Module, kinds: Collection[type[nn.Module]], *, training: bool) -> None:
    """Put modules of some classes into training or evaluation mode, and none of those inside them."""
    for part in module.modules():
        if type(part) in kinds:
            part.training = training


def _tensors(returned: Any) -> list[Tensor]:
    return [leaf for _, leaf in leaves(returned)]


def _equal(outputs: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(outputs) == len(others) and all(
        one.shape == two.shape and torch.allclose(one, two, rtol=1e-4, atol=1e-6, equal_nan=True)
        for one, two in zip(outputs, others, strict=True)
    )


def _asks_for_mode(kind: type[nn.Module]) -> bool:
    """Whether code of that class, or of one that it derives from, reads whether it is in training mode."""
    if issubclass(kind, _OTHERS):
        return False
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    functions = [value for one in own for value in vars(one).values()]
    return any("training" in code.co_names for function in functions for code in _codes(function))


def _codes(function: Any) -> Iterator[Any]:
    """Code of a function, and of those that decorate it."""
    while isinstance(function, FunctionType):
        yield function.__code__
        function = getattr(function, "__wrapped__", None)


def without_masks(network: nn.Module, trial: Callable[[], Any]) -> list[str]:
    """Modules that seem to drop something by other means than torch's dropout layers, and do not, each in words.

    Modules of other libraries may draw for themselves, in training mode alone, and rows of packed sequences are no
    examples: no masks reach them.

    Parameters
    ----------
    network
        The private copy of a network.
    trial
        Runs it under masks.
    """
    off: set[str] = set()
    handles: list[Any] = []
    for name, module in network.named_modules():
        rate = _rate(module)
        if not rate > 0:
            continue
        before: list[int] = []
        words = f"{name or 'the network'} ({type(module).__name__}, {rate:g})"

        def enter(*_: Any, before: list[int] = before) -> None:
            before.append(calls())

        def leave(*_: Any, before: list[int] = before, words: str = words) -> None:
            if before.pop() == calls():
                off.add(words)

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        if handles:
            trial()
    finally:
        for handle in handles:
            handle.remove()
    return sorted(off)


def _rate(module: nn.Module) -> float:
    """Rate of a module that seems to drop something by other means than torch's dropout layers; 0 of others."""
    kind, rate = type(module).__name__.lower(), None
    if isinstance(module, nn.RNNBase):
        rate = module.dropout if module.num_layers > 1 else 0
    elif any(word in kind for word in ("drop", *_STOCHASTIC_DEPTH)) and not isinstance(module, _DropoutNd):
        rate = next((vars(module)[key] for key in _RATES if key in vars(module)), 0)
    return float(rate) if isinstance(rate, (int, float)) else 0.0
