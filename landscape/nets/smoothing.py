"""Spatial smoothing layers: a nonlinearity that bounds the features, then a blur (Park & Kim, ICML 2022).

A smoothing layer is any module that maps (N, C, H, W) to (N, C, H', W'). The paper's is
``Smooth(x) = Blur(ReLU(t tanh(x / t)))``, t = 10, Blur the 2x2 box with stride 1 and zero padding 1.
"""

import copy
import difflib
import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.compute.pooling import avg_pool2d
from landscape.errors import LandscapeError
from landscape.store.importing import named_object

# Channels of the map -> the layer.
LayerFactory = Callable[[int], nn.Module]
Smoothing = str | LayerFactory | nn.Module | None

_LONGEST_KERNEL = 64
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Blur(nn.Module):
    """Depthwise convolution with the outer product of a 1D filter, normalised to sum 1, stride 1.

    Its frequency response along an axis is that of the filter: |cos(w / 2)| for the 2-tap box. The kernel is a buffer:
    neither L2 terms nor directions in weight space see it.

    Parameters
    ----------
    kernel
        The 1D filter, e.g. ``(1, 1)`` or ``(1, 2, 1)``.
    padding
        ``grow``: zero padding of half the kernel on both sides, so that a kernel of even length makes the map one row
        and one column larger; for (1, 1) exactly the authors' average pooling. ``zero``, ``replicate``, ``reflect``:
        the map keeps its size.

    Raises
    ------
    LandscapeError
        For an empty kernel, one that sums to zero, or an unknown padding.
    """

    kernel: Tensor

    def __init__(self, kernel: Sequence[float] = (1, 1), padding: str = "grow") -> None:
        super().__init__()
        if not kernel or not math.isfinite(sum(kernel)) or sum(kernel) == 0:
            raise LandscapeError(f"blur kernel {tuple(kernel)} cannot be normalised: give weights that do not sum to 0")
        if len(kernel) > _LONGEST_KERNEL:
            raise LandscapeError(
                f"a blur kernel of {len(kernel)} taps is longer than any feature map: give at most {_LONGEST_KERNEL}"
            )
        if padding not in ("grow", "zero", "replicate", "reflect"):
            raise LandscapeError(f"unknown blur padding {padding!r}: choose grow, zero, replicate or reflect")
        total = sum(kernel) ** 2
        outer = torch.tensor([[one * other / total for other in kernel] for one in kernel], dtype=torch.float32)
        self.register_buffer("kernel", outer, persistent=False)
        self.taps = len(kernel)
        self.box = len(set(kernel)) == 1
        self.padding = padding

    def forward(self, features: Tensor) -> Tensor:
        """Blur features (N, C, H, W)."""
        if self.padding == "grow":
            before = after = self.taps // 2
        else:
            # Where one side must have more, it is the far one, as in the authors' code.
            before, after = (self.taps - 1) // 2, self.taps // 2
        if self.box and before == after and self.padding in ("grow", "zero"):
            # A box is an average pooling whose zeros count: the fastest kernel there is for it.
            return avg_pool2d(features, self.taps, 1, before)
        mode = {"grow": "constant", "zero": "constant"}.get(self.padding, self.padding)
        padded = functional.pad(features, (before, after, before, after), mode=mode)
        weight = self.kernel.to(features.dtype).expand(features.shape[1], 1, self.taps, self.taps)
        return functional.conv2d(padded, weight, groups=features.shape[1])

    def extra_repr(self) -> str:
        """Taps and padding."""
        return f"taps={self.taps}, padding={self.padding}"


class Tanh(nn.Module):
    """ReLU(t tanh(x / t)): bounded by t, the identity near zero."""

    def __init__(self, temperature: float = 10.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """Bound the features."""
        return torch.relu(self.temperature * torch.tanh(features / self.temperature))


class Sigmoid(nn.Module):
    """ReLU(4 t (sigmoid(x / t) - 1/2)): slope 1 at zero, bounded by 2 t."""

    def __init__(self, temperature: float = 10.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """Bound the features."""
        return torch.relu(4 * self.temperature * (torch.sigmoid(features / self.temperature) - 0.5))


class Softmax(nn.Module):
    """ReLU(t softmax(x / t)) over channels."""

    def __init__(self, temperature: float = 10.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """Bound the features."""
        return torch.relu(self.temperature * torch.softmax(features / self.temperature, dim=1))


class Scaling(nn.Module):
    """x / 5."""

    def __init__(self, temperature: float = 5.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        """Scale the features."""
        return features / self.temperature


# Name -> (has batch norm, nonlinearity, has blur). "identity" is the placebo of an audit.
VARIANTS: dict[str, tuple[bool, Callable[..., nn.Module] | None, bool]] = {
    "tanh-blur": (False, Tanh, True),
    "blur": (False, None, True),
    "tanh": (False, Tanh, False),
    "relu6-blur": (False, nn.ReLU6, True),
    "relu6": (False, nn.ReLU6, False),
    "sigmoid-blur": (False, Sigmoid, True),
    "softmax-blur": (False, Softmax, True),
    "scaling-blur": (False, Scaling, True),
    "scaling": (False, Scaling, False),
    "bn-tanh-blur": (True, Tanh, True),
    "bn-blur": (True, nn.ReLU, True),
    "identity": (False, None, False),
}
DEFAULT = "tanh-blur"


def factory(smoothing: Smoothing) -> LayerFactory:
    """Makes smoothing layers by specification.

    Parameters
    ----------
    smoothing
        A variant, with arguments if wanted: ``tanh-blur``, ``tanh-blur(t=5,kernel=1-2-1,padding=reflect)``; a class of
        one's own, ``MODULE:CLASS`` or ``FILE.py:CLASS``; a class or function, called with ``channels=`` if it takes
        that, with the number of channels if it needs an argument, and without any otherwise; a module, which is copied;
        or None for the paper's.

    Raises
    ------
    LandscapeError
        For an unknown variant (with the near names) or argument.
    """
    if isinstance(smoothing, nn.Module):
        return lambda channels: copy.deepcopy(smoothing)
    if smoothing is not None and not isinstance(smoothing, str):
        return _constructed(smoothing, getattr(smoothing, "__name__", repr(smoothing)))
    text = smoothing or DEFAULT
    if ":" in text:
        return _constructed(named_object(text), text)
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", text)
    name = match[1] if match else text
    if match is None or name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=2) or list(VARIANTS)
        raise LandscapeError(f"unknown smoothing {text!r}: choose {', '.join(near)}, or give MODULE:CLASS")
    given = _arguments(text, match[2] or "")
    normalized, nonlinearity, blurred = VARIANTS[name]
    allowed = {"t"} if nonlinearity not in (None, nn.ReLU, nn.ReLU6) else set()
    allowed |= {"kernel", "padding"} if blurred else set()
    if unknown := set(given) - allowed:
        raise LandscapeError(
            f"{name} takes no {', '.join(sorted(unknown))}: it takes {', '.join(sorted(allowed)) or 'nothing'}"
        )
    try:
        kernel = tuple(float(tap) for tap in given.get("kernel", "1-1").split("-"))
        temperature = {"temperature": float(given["t"])} if "t" in given else {}
    except ValueError:
        raise LandscapeError(f"smoothing {text!r}: t must be a number, kernel numbers like 1-2-1") from None
    if temperature and not temperature["temperature"] > 0:
        raise LandscapeError(f"smoothing {text!r}: t={given['t']} bounds nothing: give a positive number")
    # Longer or weighted kernels keep the map's size unless told otherwise; the paper's 2x2 box grows it.
    padding = given.get("padding", "grow" if kernel == (1, 1) else "zero")

    def make(channels: int) -> nn.Module:
        # The batch norm has the authors' name; nothing else here has weights.
        layers: dict[str, nn.Module] = {"bn": nn.BatchNorm2d(channels)} if normalized else {}
        if nonlinearity is not None:
            layers["bound"] = nonlinearity(**temperature)
        if blurred:
            layers["blur"] = Blur(kernel, padding)
        return nn.Sequential(OrderedDict(layers))

    make(1)
    return make


def _arguments(text: str, inside: str) -> dict[str, str]:
    pairs = [part.split("=", 1) for part in inside.split(",") if part.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise LandscapeError(f"smoothing {text!r}: write arguments as name=value, with commas between")
    return {name.strip(): value.strip() for name, value in pairs}


def _constructed(layer_class: Any, text: str) -> LayerFactory:
    """Calls a class or function with what it asks for."""

    def make(channels: int) -> nn.Module:
        try:
            parameters = inspect.signature(layer_class).parameters
        except (TypeError, ValueError) as error:
            raise LandscapeError(f"smoothing {text} cannot be called: give a class of torch.nn.Module") from error
        if "channels" in parameters:
            layer = layer_class(channels=channels)
        elif any(each.default is each.empty and each.kind in _POSITIONAL for each in parameters.values()):
            layer = layer_class(channels)
        else:
            layer = layer_class()
        if not isinstance(layer, nn.Module):
            raise LandscapeError(f"{text} makes a {type(layer).__name__}: give a class of torch.nn.Module")
        return layer

    return make
