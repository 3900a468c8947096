"""Where dropout masks come from: one mechanism for our dropout layers, torch's, and bare functional calls.

Monte-Carlo dropout is a random function of the weights. To measure anything about it, its masks must be switched off,
held fixed, or drawn anew and reproducible: here they are functions of an address (seed, sample, call, example), so that
results depend neither on how examples are grouped into batches nor on what else was computed before.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from landscape.compute.pooling import avg_pool2d
from landscape.compute.randomness import derived_seed

# Masks of so many consecutive examples come from one source: seeding one costs ten microseconds, which small maps would
# otherwise feel.
BLOCK = 16
_LEVELS = 2**16


def keep_level(rate: float) -> int:
    """How many of the 65,536 values of a 16-bit number keep an element at that dropout rate."""
    return round((1 - rate) * _LEVELS)


def keep_mask(bits: Tensor, rate: float, out: Tensor) -> Tensor:
    """Fill `out` with mask values, 0 or 1 / k, from uniform signed 16-bit numbers; k is the probability of keeping.

    k is a multiple of 2^-16, and scaling by its exact inverse keeps the mean exactly one.
    """
    level = keep_level(rate)
    if level == _LEVELS:
        return out.fill_(1)
    # A signed 16-bit number is below level - 2^15 with probability level / 2^16. A comparison that writes the wanted
    # dtype costs a quarter of one that makes booleans and converts them.
    torch.lt(bits, level - _LEVELS // 2, out=out)
    return out.mul_(_LEVELS / level) if level else out


class _HostSource:
    """Uniform 16-bit numbers cut from raw 64-bit random ones, on the CPU.

    The framework's own dropout draws a number for each value, and costs more than the convolution beside it. numpy's
    SFC64 fills memory twice as fast as torch's Mersenne Twister, and draws inside `torch.func.vmap` too.
    """

    def __init__(self, seed: int) -> None:
        self._words = np.random.SFC64(seed)

    def fill(self, out: Tensor, rate: float, skip: int, whole: int) -> None:
        """Fill `out` with mask values, from the number after the next `skip` on; `whole` is ignored."""
        self._words.random_raw(skip // 4, output=False)
        first = skip % 4
        bits = self._words.random_raw(-(-(first + len(out)) // 4)).view(np.int16)
        keep_mask(torch.from_numpy(bits[first : first + len(out)]), rate, out)


class _DeviceSource:
    """The same from a generator of torch, on its device."""

    def __init__(self, source: torch.Generator) -> None:
        self._source = source

    def fill(self, out: Tensor, rate: float, skip: int, whole: int) -> None:
        """Fill `out` with mask values `skip` to `skip` + len(out) of the next `whole`.

        On a GPU the numbers depend on how many are drawn at once.
        """
        words = torch.empty(-(-whole // 4), dtype=torch.int64, device=out.device)
        words.random_(-(2**63), None, generator=self._source)
        keep_mask(words.view(torch.int16)[skip : skip + len(out)], rate, out)


_Source = _HostSource | _DeviceSource


def _seeded(seed: int, device: torch.device) -> _Source:
    if device.type == "cpu":
        return _HostSource(seed)
    return _DeviceSource(torch.Generator(device).manual_seed(seed))


class Masks(TorchFunctionMode):
    """A context within which every dropout draws its masks from here; see `off`, `addressed` and `stream`.

    Attributes
    ----------
    calls
        Dropout calls that have been active since the last `address` (or since entering).
    draws
        Whether there are any masks here.
    in_attention
        Whether torch's own attention is calling: its maps are of heads (N x heads, L, S).
    """

    draws = True
    in_attention = False

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    @staticmethod
    def off() -> "Masks":
        """Every dropout is the identity."""
        return _Off()

    @staticmethod
    def addressed(seed: int = 0) -> "Masks":
        """Masks are a function of (seed, sample, call within the forward pass, position of the example).

        Every dropout with a positive rate is active, whatever its training flag. Call `address` before each forward
        pass.
        """
        return _Addressed(seed)

    @staticmethod
    def stream(source: torch.Generator) -> "Masks":
        """Masks are drawn one after the other from a generator: the fastest, for training.

        torch's own dropout follows its training flag; ours is always on. Features must be on the generator's device.
        """
        if source.device.type != "cpu":
            return _Stream(_DeviceSource(source))
        return _Stream(_HostSource(int(torch.randint(2**63 - 1, (), generator=source))))

    def address(self, *, first_example: int = 0, sample: int = 0, examples: int | None = None) -> None:
        """Say that the rows of the next batch are examples `first_example`, `first_example` + 1, ... of `sample`.

        Where features have several rows per example, one behind the other (windows, heads of attention, tokens), or
        examples along their second dimension, the number of `examples` tells what is whose.
        """
        self.calls = 0

    def active(self, rate: float, training: bool) -> bool:
        """Whether a dropout of that rate and training flag masks anything here."""
        raise TypeError("use Masks.off, Masks.addressed or Masks.stream")

    def mask(self, shape: torch.Size, rate: float, like: Tensor) -> Tensor:
        """Mask values (N, ...) of a shape, 0 or 1 / k, in the dtype and on the device of `like`."""
        raise TypeError("use Masks.off, Masks.addressed or Masks.stream")

    def again(self) -> "Masks":
        """Masks that go on from here as these will: for a part of a forward pass that is computed once more."""
        raise TypeError("use Masks.off or Masks.addressed")

    def __enter__(self) -> "Masks":
        self._token = _current.set(self)
        super().__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        _current.reset(self._token)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replaced = _REPLACED.get(function)
        return function(*args, **(kwargs or {})) if replaced is None else replaced(self, *args, **(kwargs or {}))


class _Off(Masks):
    draws = False

    def again(self) -> Masks:
        return _Off()

    def active(self, rate: float, training: bool) -> bool:
        return False


class _Addressed(Masks):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self.address()

    def address(self, *, first_example: int = 0, sample: int = 0, examples: int | None = None) -> None:
        self.calls, self._first_example, self._sample, self._examples = 0, first_example, sample, examples

    def again(self) -> Masks:
        other = _Addressed(self._seed)
        other.address(first_example=self._first_example, sample=self._sample, examples=self._examples)
        other.calls = self.calls
        return other

    def active(self, rate: float, training: bool) -> bool:
        return rate > 0

    def mask(self, shape: torch.Size, rate: float, like: Tensor) -> Tensor:
        if len(shape) == 3 and shape[1] == self._examples != shape[0] and not self.in_attention:
            # Sequences first, (L, N, C), as torch's own transformers have them unless told otherwise. Of as many
            # examples as positions nothing tells which is which: their masks belong to positions.
            return self._mask(torch.Size([shape[1], shape[0], shape[2]]), rate, like).transpose(0, 1)
        return self._mask(shape, rate, like)

    def _mask(self, shape: torch.Size, rate: float, like: Tensor) -> Tensor:
        call, self.calls = self.calls, self.calls + 1
        rows = 1 if not self._examples or shape[0] % self._examples else max(shape[0] // self._examples, 1)
        first, last = self._first_example, self._first_example + shape[0] // rows
        each = rows * shape[1:].numel()
        values = torch.empty(shape.numel(), dtype=like.dtype, device=like.device)
        for block in range(first // BLOCK, -(-last // BLOCK)):
            here = block * BLOCK
            begin, end = max(first, here), min(last, here + BLOCK)
            source = _seeded(derived_seed(self._seed, "mask", self._sample, call, block), like.device)
            part = values[(begin - first) * each : (end - first) * each]
            source.fill(part, rate, skip=(begin - here) * each, whole=BLOCK * each)
        return _shaped(values, shape)


class _Stream(Masks):
    def __init__(self, source: _Source) -> None:
        super().__init__()
        self._source = source

    def active(self, rate: float, training: bool) -> bool:
        return rate > 0 and training

    def mask(self, shape: torch.Size, rate: float, like: Tensor) -> Tensor:
        self.calls += 1
        values = torch.empty(shape.numel(), dtype=like.dtype, device=like.device)
        self._source.fill(values, rate, skip=0, whole=len(values))
        return _shaped(values, shape)


def _shaped(values: Tensor, shape: torch.Size) -> Tensor:
    # Masks of feature maps are laid out channels last, whatever the map's own layout, so that one address means one
    # mask; our engines compute channels last, and no copy is made.
    if len(shape) == 4:
        examples, channels, height, width = shape
        return values.view(examples, height, width, channels).permute(0, 3, 1, 2)
    return values.view(shape)


_current: ContextVar[Masks | None] = ContextVar("masks", default=None)


def advance(calls: int) -> None:
    """Say that the masks in force have been called so often since their address, by others that replay them."""
    masks = _current.get()
    if masks is not None:
        masks.calls = calls


def is_active(rate: float) -> bool:
    """Whether dropout of that rate masks anything here."""
    masks = _current.get()
    return masks is not None and masks.active(rate, training=True)


def calls() -> int:
    """Active dropout calls since the masks in force were addressed; 0 where none are in force."""
    masks = _current.get()
    return 0 if masks is None else masks.calls


def replaying() -> Callable[[], AbstractContextManager[Any]]:
    """Makes, whenever it is called, the masks in force now as they are now; nothing where none are in force."""
    masks = _current.get()
    if masks is None:
        return nullcontext
    kept = masks.again()
    return kept.again


_fallback: dict[torch.device, Masks] = {}


def dropout(features: Tensor, rate: float) -> Tensor:
    """Monte-Carlo dropout, always on unless `Masks.off` is in force.

    Parameters
    ----------
    features
        (N, ...), any floating-point type.
    rate
        Probability of zeroing an element, rounded to a multiple of 2^-16.

    Notes
    -----
    Outside any `Masks`, masks come from a generator of this module's own: the global one is never moved.
    """
    masks = _in_force(features.device)
    if not masks.active(rate, training=True):
        return features
    return features * masks.mask(features.shape, rate, features)


def drop_examples(features: Tensor, rate: float) -> Tensor:
    """The same of whole examples of (N, ...): stochastic depth (Huang et al. 2016, arXiv 1603.09382)."""
    masks = _in_force(features.device)
    if not masks.active(rate, training=True):
        return features
    return features * masks.mask(features.shape[:1], rate, features).view(-1, *[1] * (features.dim() - 1))


def _in_force(device: torch.device) -> Masks:
    masks = _current.get()
    if masks is not None:
        return masks
    if device not in _fallback:
        _fallback[device] = _Stream(_seeded(derived_seed(0, "mask"), device))
    return _fallback[device]


def _functional_dropout(
    masks: Masks, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not masks.active(p, training):
        return input
    return input * masks.mask(input.shape, p, input)


def _functional_channel_dropout(
    masks: Masks, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not masks.active(p, training):
        return input
    drawn = masks.mask(input.shape[:2], p, input)
    return input * drawn.view([*input.shape[:2], *[1] * (input.dim() - 2)])


def _alpha(masks: Masks, input: Tensor, shape: torch.Size, p: float, training: bool) -> Tensor:
    # Klambauer et al. 2017 (arXiv 1706.02515): dropped elements take SELU's negative saturation value, and an affine
    # map restores mean 0 and variance 1.
    if not masks.active(p, training):
        return input
    saturation = -1.7580993408473766
    keep = (masks.mask(shape, p, input) != 0).to(input.dtype).view([*shape, *[1] * (input.dim() - len(shape))])
    q = keep_level(p) / _LEVELS
    if q == 0:
        return torch.zeros_like(input)
    scale = (q + saturation**2 * q * (1 - q)) ** -0.5
    return scale * (input * keep + saturation * (1 - keep)) - scale * (1 - q) * saturation


def _functional_alpha_dropout(
    masks: Masks, input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    return _alpha(masks, input, input.shape, p, training)


def _functional_feature_alpha_dropout(
    masks: Masks, input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    return _alpha(masks, input, input.shape[:2], p, training)


def _attention(
    masks: Masks,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if not masks.active(dropout_p, training=True):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.softmax(-1)
    return weights * masks.mask(weights.shape, dropout_p, weights) @ value


def _opened(function: Any) -> Callable[..., Any]:
    """Attention of torch, a function in Python, within which the masks go on replacing what it calls.

    A mode is not in force within what it intercepts, and the function intercepts itself first: here is its own code,
    for which there is nothing to intercept.
    """
    names = {**function.__globals__, "has_torch_function": lambda _: False}
    inner = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    inner.__kwdefaults__ = function.__kwdefaults__

    def opened(masks: Masks, *arguments: Any, **keywords: Any) -> Any:
        TorchFunctionMode.__enter__(masks)
        masks.in_attention = True
        try:
            return inner(*arguments, **keywords)
        finally:
            masks.in_attention = False
            TorchFunctionMode.__exit__(masks, None, None, None)

    return opened


def _average(masks: Masks, *arguments: Any, **keywords: Any) -> Tensor:
    return avg_pool2d(*arguments, **keywords)


def _recurrent(function: Any) -> Callable[..., Any]:
    """A recurrent network on a GPU without cuDNN where gradients are wanted.

    cuDNN's have none in evaluation mode, and no second derivative in any.
    """

    def run(masks: Masks, *arguments: Any, **keywords: Any) -> Any:
        before = torch.backends.cudnn.enabled
        if not (before and arguments[0].is_cuda and torch.is_grad_enabled()) or isinstance(masks, _Stream):
            return function(*arguments, **keywords)
        torch.backends.cudnn.enabled = False
        try:
            return function(*arguments, **keywords)
        finally:
            torch.backends.cudnn.enabled = before

    return run


def _torch_dropout(masks: Masks, input: Tensor, p: float, train: bool) -> Tensor:
    return _functional_dropout(masks, input, p, train)


_REPLACED: dict[Any, Callable[..., Tensor]] = {
    functional.dropout: _functional_dropout,
    functional.dropout1d: _functional_channel_dropout,
    functional.dropout2d: _functional_channel_dropout,
    functional.dropout3d: _functional_channel_dropout,
    functional.alpha_dropout: _functional_alpha_dropout,
    functional.feature_alpha_dropout: _functional_feature_alpha_dropout,
    functional.scaled_dot_product_attention: _attention,
    functional.multi_head_attention_forward: _opened(functional.multi_head_attention_forward),
    torch.dropout: _torch_dropout,
    # Every pass of a measurement and of a training is made within one of these.
    functional.avg_pool2d: _average,
    **{function: _recurrent(function) for function in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)},
}
