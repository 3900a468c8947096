"""Networks without shortcuts: VGG, pre-activation VGG and AlexNet, with the authors' state-dict keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.nets.dropout import mc_dropout


@dataclass(frozen=True)
class Convolution:
    """Sizes of one convolution."""

    outputs: int
    size: int = 3
    stride: int = 1
    padding: int = 1


class ConvBlock(nn.Module):
    """Convolution, batch norm if wanted, ReLU, dropout."""

    def __init__(self, inputs: int, shape: Convolution, dropout: float, *, normalized: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, shape.outputs, shape.size, shape.stride, shape.padding, bias=False)
        self.bn: nn.Module | None = nn.BatchNorm2d(shape.outputs) if normalized else None
        self.dropout = mc_dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Block output."""
        features = self.conv(features)
        if self.bn is not None:
            features = self.bn(features)
        return self.dropout(torch.relu(features))


class PreConvBlock(nn.Module):
    """Batch norm, ReLU, convolution, dropout."""

    def __init__(self, inputs: int, shape: Convolution, dropout: float, *, normalized: bool) -> None:
        super().__init__()
        self.bn: nn.Module | None = nn.BatchNorm2d(inputs) if normalized else None
        self.conv = nn.Conv2d(inputs, shape.outputs, shape.size, shape.stride, shape.padding, bias=False)
        self.dropout = mc_dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Block output."""
        if self.bn is not None:
            features = self.bn(features)
        return self.dropout(self.conv(torch.relu(features)))


class PlainNet(nn.Module):
    """Stages of convolutions, each but the first opened by max pooling and all closed by their smoothing; head.

    Parameters
    ----------
    stages
        The convolutions of each stage.
    preactivation
        Blocks of batch norm, ReLU, convolution instead of convolution, batch norm, ReLU.
    normalized
        Whether blocks have batch norm.
    pool
        Size of the max pooling windows, stride 2.
    smoothing
        One module a stage, at its end.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Sequence[Convolution]],
        preactivation: bool,
        normalized: bool,
        pool: int,
        dropout: float,
        smoothing: Sequence[nn.Module],
        classifier: nn.Module,
    ) -> None:
        super().__init__()
        inputs = 3
        for stage, convolutions in enumerate(stages):
            layers: list[nn.Module] = [nn.MaxPool2d(pool, 2)] if stage > 0 else []
            for shape in convolutions:
                block = PreConvBlock if preactivation else ConvBlock
                layers.append(block(inputs, shape, dropout, normalized=normalized))
                inputs = shape.outputs
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
            setattr(self, f"smooth{stage}", smoothing[stage])
        self.classifier = classifier
        self.stages = len(stages)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (N, classes) of images (N, 3, H, W)."""
        features = images
        for stage in range(self.stages):
            features = getattr(self, f"smooth{stage}")(getattr(self, f"layer{stage}")(features))
        return self.classifier(features)
