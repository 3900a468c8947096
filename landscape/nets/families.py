"""The paper's networks by the authors' names: families are data, one builder for each of two kinds."""

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from landscape.compute.randomness import generator
from landscape.errors import LandscapeError
from landscape.nets import smoothing as smoothing_layers
from landscape.nets.heads import HEADS, HeadContext
from landscape.nets.plain import Convolution, PlainNet
from landscape.nets.residual import (
    Basic,
    Block,
    Bottleneck,
    DeterministicPreBottleneck,
    PreBasic,
    PreBottleneck,
    ResidualNet,
)
from landscape.nets.smoothing import Smoothing
from landscape.nets.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class Family:
    """What makes a family of networks.

    Attributes
    ----------
    sizes
        Size by the authors' number, None where there is but one.
    dropout
        Rate of the ``mcdo`` kind.
    head
        The default head.
    smoothed
        Smoothing layers at the end of each stage, of the smoothing kind.
    make
        Builds it.
    heads
        Those that it can have.
    smoothing
        The smoothing layer of the smoothing kind; None for the paper's.
    """

    sizes: dict[str, Any]
    dropout: float
    head: str
    smoothed: tuple[int, ...]
    make: "Callable[[Family, Any, Request], nn.Module]"
    heads: Collection[str] = tuple(HEADS)
    smoothing: str | None = None


@dataclass(frozen=True)
class Request:
    """One network that is asked for, defaults filled in; `stochastic` is the ``mcdo`` kind, whatever its rate."""

    classes: int
    stochastic: bool
    stem: bool
    width: int
    dropout: float
    head: str
    smoothing: Smoothing
    stages: tuple[int, ...]

    def smoothed(self, channels: Sequence[int]) -> tuple[nn.Module, ...]:
        """The smoothing of each stage; empty where there is none."""
        if not any(self.stages):
            return tuple(nn.Sequential() for _ in channels)
        layer = smoothing_layers.factory(self.smoothing)
        return tuple(
            nn.Sequential(*[layer(count) for _ in range(number)])
            for count, number in zip(channels, self.stages, strict=True)
        )

    def classifier(self, channels: int, subsampling: tuple[nn.Module, ...], side: int) -> nn.Module:
        """The head, on so many channels."""
        return HEADS[self.head](
            HeadContext(
                channels=channels,
                classes=self.classes,
                # 4096 at the paper's width, and as much narrower as the network is.
                hidden=64 * self.width,
                subsampling=subsampling,
                side=side,
            )
        )


@dataclass(frozen=True)
class ResidualSize:
    """Block and depth of a residual network."""

    block: Block
    depths: tuple[int, int, int, int]
    groups: int = 1
    base_width: int = 64


def _residual(family: Family, size: ResidualSize, request: Request) -> nn.Module:
    channels = [request.width * 2**stage * size.block.expansion for stage in range(4)]
    deterministic = size.block is PreBottleneck and not request.stochastic
    return ResidualNet(
        block=DeterministicPreBottleneck if deterministic else size.block,
        depths=size.depths,
        width=request.width,
        stem=request.stem,
        groups=size.groups,
        base_width=size.base_width,
        dropout=request.dropout,
        smoothing=request.smoothed(channels),
        classifier=request.classifier(channels[-1], (), side=7),
    )


def _vgg(family: Family, size: tuple[bool, tuple[int, ...]], request: Request) -> nn.Module:
    preactivation, depths = size
    channels = [request.width * factor for factor in (1, 2, 4, 8, 8)]
    return PlainNet(
        stages=[[Convolution(count)] * depth for count, depth in zip(channels, depths, strict=True)],
        preactivation=preactivation,
        normalized=True,
        pool=2,
        dropout=request.dropout,
        smoothing=request.smoothed(channels),
        classifier=request.classifier(channels[-1], (nn.MaxPool2d(2, 2),), side=7),
    )


def _alexnet(family: Family, size: None, request: Request) -> nn.Module:
    width, stem = request.width, request.stem
    first = Convolution(width, 11, 4, 2) if stem else Convolution(width, 3, 2, 1)
    stages = [
        [first],
        [Convolution(3 * width, 5, 1, 2)],
        [Convolution(6 * width), Convolution(4 * width), Convolution(4 * width)],
    ]
    pool = 3 if stem else 2
    return PlainNet(
        stages=stages,
        preactivation=False,
        normalized=False,
        pool=pool,
        dropout=request.dropout,
        smoothing=request.smoothed([stage[-1].outputs for stage in stages]),
        classifier=request.classifier(4 * width, (nn.MaxPool2d(pool, 2),), side=6 if stem else 2),
    )


@dataclass(frozen=True)
class TransformerSize:
    """Blocks in each stage of a vision transformer."""

    depths: tuple[int, ...]


def _transformer(family: Family, size: TransformerSize, request: Request) -> nn.Module:
    return VisionTransformer(
        depths=size.depths,
        width=request.width,
        side=224 if request.stem else 32,
        patch=16 if request.stem else 4,
        dropout=request.dropout,
        smoothing=request.smoothed([request.width] * len(size.depths)),
        classes=request.classes,
    )


_DEPTHS = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
}
_VGG_DEPTHS = {"11": (1, 1, 2, 2, 2), "13": (2, 2, 2, 2, 2), "16": (2, 2, 3, 3, 3), "19": (2, 2, 4, 4, 4)}


def _residual_sizes(basic: Block, bottleneck: Block) -> dict[str, ResidualSize]:
    return {
        size: ResidualSize(basic if size in ("18", "34") else bottleneck, depths) for size, depths in _DEPTHS.items()
    }


_EVERY = (1, 1, 1, 1)
FAMILIES: dict[str, Family] = {
    "resnet": Family(_residual_sizes(Basic, Bottleneck), 0.3, "gap", _EVERY, _residual),
    # Global average pooling smooths what the last stage would have.
    "preresnet": Family(_residual_sizes(PreBasic, PreBottleneck), 0.3, "bn-relu-gap", (1, 1, 1, 0), _residual),
    "resnext": Family(
        {
            "50": ResidualSize(Bottleneck, _DEPTHS["50"], groups=32, base_width=4),
            "101": ResidualSize(Bottleneck, _DEPTHS["101"], groups=32, base_width=8),
        },
        0.3,
        "gap",
        _EVERY,
        _residual,
    ),
    "wideresnet": Family(
        {size: ResidualSize(Bottleneck, _DEPTHS[size], base_width=128) for size in ("50", "101")},
        0.3,
        "gap",
        _EVERY,
        _residual,
    ),
    "vgg": Family({size: (False, depths) for size, depths in _VGG_DEPTHS.items()}, 0.3, "mlp", (1,) * 5, _vgg),
    "prevgg": Family({size: (True, depths) for size, depths in _VGG_DEPTHS.items()}, 0.3, "mlp", (1,) * 5, _vgg),
    "alexnet": Family({"": None}, 0.1, "mlp", (1,) * 3, _alexnet),
    # Not the paper's. Its class token reads nothing behind the last block. Tokens are signed, so that the ReLU of the
    # paper's layer would take half of them away: a blur alone, of the tokens that there are.
    "vit": Family(
        {"6": TransformerSize((2, 2, 2))},
        0.1,
        "class-token",
        (1, 1, 0),
        _transformer,
        heads=("class-token",),
        smoothing="blur(padding=zero)",
    ),
}


def names() -> list[str]:
    """Every network's name, e.g. ``resnet_mcdo_smoothing_18``."""
    return [
        "_".join(part for part in (family, kind, size) if part)
        for family, facts in FAMILIES.items()
        for kind in ("dnn", "mcdo", "dnn_smoothing", "mcdo_smoothing")
        for size in facts.sizes
    ]


def require_known(name: str) -> re.Match[str]:
    """The parts of a network's name: family, kind, smoothing, size; raises LandscapeError with the near names."""
    match = re.fullmatch(r"([a-z]+)_(dnn|mcdo)(_smoothing)?(?:_(\d+))?", name)
    if match is None or match[1] not in FAMILIES or (match[4] or "") not in FAMILIES[match[1]].sizes:
        near = ", ".join(difflib.get_close_matches(name, names(), n=3)) or f"e.g. {names()[0]}"
        raise LandscapeError(f"unknown network {name!r}: near names are {near}")
    return match


def revision(arguments: Mapping[str, Any]) -> int:
    """Number of the definition of a network with these arguments of `build`; 1 for all that were never corrected.

    Weights trained under an earlier definition are of another function, or have other names.
    """
    name, head, layer = (str(arguments.get(each)) for each in ("name", "head", "smoothing"))
    corrected = (
        head in ("global-median", "gap-mlp")
        or layer.startswith(("softmax-blur", "bn-blur", "bn-tanh-blur"))
        or re.match(r"preresnet_dnn(_smoothing)?_(50|101|152)$", name) is not None
    )
    return 2 if corrected else 1


def depths_of(size: Any) -> tuple[int, ...]:
    """Number of blocks in each stage of a size of a family."""
    if size is None:
        return (1, 1, 3)  # AlexNet
    return size.depths if isinstance(size, (ResidualSize, TransformerSize)) else size[1]


def build(
    name: str,
    *,
    num_classes: int,
    stem: bool = False,
    width: int = 64,
    dropout: float | None = None,
    smoothing: Smoothing = None,
    head: str | None = None,
    stages: Sequence[int] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A network of the paper by the authors' name, or a small vision transformer (``vit_...``), with fresh weights.

    Parameters
    ----------
    name
        ``<family>_<dnn|mcdo>[_smoothing]_<size>``; see `names`.
    num_classes
        Number of classes.
    stem
        The ImageNet stem instead of the CIFAR one; of a transformer, patches of 16 on images of 224 instead of 4 on 32.
    width
        Channels of the first stage, or of a token; 64 is the paper's.
    dropout
        Rate of MC dropout; default: the family's for ``mcdo``, 0 for ``dnn``.
    smoothing
        Which smoothing layer, see :func:`landscape.nets.smoothing.factory`; default: where the name says ``smoothing``
        the paper's, of a transformer ``blur(padding=zero)``; none elsewhere. Giving one places it whatever the name
        says.
    head
        One of `HEADS`; default: the family's.
    stages
        Number of smoothing layers at the end of each stage; default: the family's.
    seed
        Seed of the weights, which follow torch's own initialisation; the global generator is as before afterwards.

    Raises
    ------
    LandscapeError
        For an unknown name (with the near ones), head, smoothing or impossible size.

    Examples
    --------
    >>> parameter_count(build("resnet_mcdo_smoothing_18", num_classes=100))
    11220132
    """
    match = require_known(name)
    family = FAMILIES[match[1]]
    if num_classes < 1 or width < 1:
        raise LandscapeError(f"{name}: num_classes is {num_classes} and width {width}: give positive numbers")
    head = head or family.head
    if head not in family.heads:
        raise LandscapeError(f"unknown head {head!r}: choose one of {', '.join(family.heads)}")
    wanted = bool(match[3]) or smoothing is not None or stages is not None
    placed = tuple(stages) if stages is not None else family.smoothed
    if len(placed) != len(family.smoothed) or min(placed) < 0:
        raise LandscapeError(
            f"{name} has {len(family.smoothed)} stages, stages={placed} was given: give one count from 0 for each"
        )
    request = Request(
        classes=num_classes,
        stochastic=match[2] == "mcdo",
        stem=stem,
        width=width,
        dropout=dropout if dropout is not None else (family.dropout if match[2] == "mcdo" else 0.0),
        head=head,
        smoothing=family.smoothing if smoothing is None else smoothing,
        stages=placed if wanted else (0,) * len(family.smoothed),
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator(seed, "initial weights").get_state())
        return family.make(family, family.sizes[match[4] or ""], request)


def parameter_count(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
