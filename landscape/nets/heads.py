"""Heads: from the last feature map to class scores. Module names carry the authors' state-dict keys."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.nets.dropout import TrainingDropout


def _average(features: Tensor) -> Tensor:
    return features.mean(dim=(2, 3))


def _maximum(features: Tensor) -> Tensor:
    return features.amax(dim=(2, 3))


def _median(features: Tensor) -> Tensor:
    # The authors' median of n positions: the floor(n/2)-th largest (torch.median takes the next smaller one).
    positions = features.flatten(2)
    count = positions.shape[2]
    return positions.kthvalue(count - max(1, count // 2) + 1, dim=2).values


class Pooled(nn.Module):
    """Pool each channel to one number, then classify linearly.

    Parameters
    ----------
    channels, classes
        Sizes.
    pool
        (N, C, H, W) -> (N, C).
    clip
        Bound the pooled features to (-t / 2, t / 2) by t (sigmoid(x / t) - 1/2); the temperature t, or None.
    normalized
        Batch norm and ReLU before pooling, for pre-activation networks.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        pool: Callable[[Tensor], Tensor] = _average,
        clip: float | None = None,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.bn: nn.Module | None = nn.BatchNorm2d(channels) if normalized else None
        self.dense = nn.Linear(channels, classes)
        self.pool = pool
        self.clip = clip

    def forward(self, features: Tensor) -> Tensor:
        """Class scores (N, classes) of features (N, C, H, W)."""
        if self.bn is not None:
            features = torch.relu(self.bn(features))
        pooled = self.pool(features)
        if self.clip is not None:
            pooled = self.clip * (torch.sigmoid(pooled / self.clip) - 0.5)
        return self.dense(pooled)


class MLP(nn.Module):
    """Three dense layers, ReLU and dropout after the first two: rate 0.5, in training only, as in the authors' code.

    Parameters
    ----------
    pooled
        Whether each channel is averaged to one number first.
    """

    def __init__(self, features: int, hidden: int, classes: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.pooled = pooled
        self.dense1 = nn.Linear(features, hidden)
        self.dense2 = nn.Linear(hidden, hidden)
        self.dense3 = nn.Linear(hidden, classes)
        self.dropout1 = TrainingDropout(0.5)
        self.dropout2 = TrainingDropout(0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Class scores (N, classes) of features (N, ...)."""
        features = _average(features) if self.pooled else features.flatten(1)
        features = self.dropout1(functional.relu(self.dense1(features)))
        features = self.dropout2(functional.relu(self.dense2(features)))
        return self.dense3(features)


@dataclass(frozen=True)
class HeadContext:
    """What a head needs to know of its network."""

    channels: int
    classes: int
    hidden: int
    # Modules that subsample before a dense head, and the side of the map that they leave.
    subsampling: tuple[nn.Module, ...]
    side: int


def _dense(context: HeadContext) -> nn.Sequential:
    mlp = MLP(context.channels * context.side**2, context.hidden, context.classes)
    return nn.Sequential(*context.subsampling, nn.AdaptiveAvgPool2d(context.side), mlp)


def _pooled_dense(context: HeadContext) -> nn.Sequential:
    return nn.Sequential(MLP(context.channels, context.hidden, context.classes, pooled=True))


HEADS: dict[str, Callable[[HeadContext], nn.Sequential]] = {
    "gap": lambda c: nn.Sequential(Pooled(c.channels, c.classes)),
    "bn-relu-gap": lambda c: nn.Sequential(Pooled(c.channels, c.classes, normalized=True)),
    "global-max": lambda c: nn.Sequential(Pooled(c.channels, c.classes, pool=_maximum)),
    "global-median": lambda c: nn.Sequential(Pooled(c.channels, c.classes, pool=_median)),
    "clipped-gap": lambda c: nn.Sequential(Pooled(c.channels, c.classes, clip=2.0)),
    "mlp": _dense,
    "gap-mlp": _pooled_dense,
}
