"""Residual networks: ResNet, ResNeXt, WideResNet and pre-activation ResNet, with the authors' state-dict keys."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.nets.dropout import mc_dropout


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


@dataclass(frozen=True)
class BlockShape:
    """Sizes of one residual block."""

    inputs: int
    planes: int
    stride: int
    groups: int
    base_width: int
    dropout: float


def _shortcut(shape: BlockShape, outputs: int, *, normalized: bool) -> nn.Sequential:
    """The identity, or a 1x1 convolution where the block changes the shape."""
    if shape.stride == 1 and shape.inputs == outputs:
        return nn.Sequential()
    norm = [nn.BatchNorm2d(outputs)] if normalized else []
    return nn.Sequential(_conv(shape.inputs, outputs, 1, shape.stride), *norm)


class Basic(nn.Module):
    """Two 3x3 convolutions; dropout after the first ReLU."""

    expansion = 1

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        outputs = shape.planes
        self.shortcut = _shortcut(shape, outputs, normalized=True)
        self.conv1 = _conv(shape.inputs, outputs, 3, shape.stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.dropout = mc_dropout(shape.dropout)
        self.conv2 = _conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Block output."""
        inner = self.dropout(torch.relu(self.bn1(self.conv1(features))))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(features))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1; dropout after the second ReLU."""

    expansion = 4

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        outputs, inner = shape.planes * self.expansion, _inner_width(shape)
        self.shortcut = _shortcut(shape, outputs, normalized=True)
        self.conv1 = _conv(shape.inputs, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, 3, shape.stride, shape.groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.dropout = mc_dropout(shape.dropout)
        self.conv3 = _conv(inner, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Block output."""
        inner = torch.relu(self.bn1(self.conv1(features)))
        inner = self.dropout(torch.relu(self.bn2(self.conv2(inner))))
        return torch.relu(self.bn3(self.conv3(inner)) + self.shortcut(features))


class PreBasic(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and ReLU; dropout before the second."""

    expansion = 1

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        outputs = shape.planes
        self.shortcut = _shortcut(shape, outputs, normalized=False)
        self.bn1 = nn.BatchNorm2d(shape.inputs)
        self.conv1 = _conv(shape.inputs, outputs, 3, shape.stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = mc_dropout(shape.dropout)
        self.conv2 = _conv(outputs, outputs, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Block output; a shortcut that is not the identity takes the activated input."""
        active = torch.relu(self.bn1(features))
        skipped = self.shortcut(active) if len(self.shortcut) else features
        return self.conv2(self.dropout(torch.relu(self.bn2(self.conv1(active))))) + skipped


class PreBottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1, each behind batch norm and ReLU; dropout before the last."""

    expansion = 4
    # The authors' MC-dropout networks have batch norm in the shortcut, their deterministic ones have none.
    normalized_shortcut = True

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        outputs, inner = shape.planes * self.expansion, _inner_width(shape)
        self.shortcut = _shortcut(shape, outputs, normalized=self.normalized_shortcut)
        self.bn1 = nn.BatchNorm2d(shape.inputs)
        self.conv1 = _conv(shape.inputs, inner, 1)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, 3, shape.stride, shape.groups)
        self.bn3 = nn.BatchNorm2d(inner)
        self.dropout = mc_dropout(shape.dropout)
        self.conv3 = _conv(inner, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Block output; a shortcut that is not the identity takes the activated input."""
        active = torch.relu(self.bn1(features))
        skipped = self.shortcut(active) if len(self.shortcut) else features
        inner = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return self.conv3(self.dropout(torch.relu(self.bn3(inner)))) + skipped


class DeterministicPreBottleneck(PreBottleneck):
    """The same without batch norm in the shortcut, as in the authors' deterministic networks."""

    normalized_shortcut = False


def _inner_width(shape: BlockShape) -> int:
    # Grouped convolutions need whole channels in each group, however narrow the network.
    return max(1, shape.planes * shape.base_width // 64) * shape.groups


Block = type[Basic] | type[Bottleneck] | type[PreBasic] | type[PreBottleneck]


class ResidualNet(nn.Module):
    """Stem, four stages each with its smoothing, head.

    Parameters
    ----------
    block, depths
        Block and number of blocks of each stage.
    width
        Channels of the first stage; they double with every stage.
    stem
        7x7 stride 2 and max pooling (ImageNet) instead of 3x3 stride 1 (CIFAR).
    smoothing
        One module a stage, at its end.
    classifier
        The head.
    """

    def __init__(
        self,
        *,
        block: Block,
        depths: tuple[int, ...],
        width: int,
        stem: bool,
        groups: int,
        base_width: int,
        dropout: float,
        smoothing: tuple[nn.Module, ...],
        classifier: nn.Module,
    ) -> None:
        super().__init__()
        preactivation = issubclass(block, (PreBasic, PreBottleneck))
        first: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False) if stem else _conv(3, width, 3)]
        if not preactivation:
            first += [nn.BatchNorm2d(width), nn.ReLU()]
        if stem:
            first.append(nn.MaxPool2d(3, 2, 1))
        self.layer0 = nn.Sequential(*first)
        inputs = width
        for stage, depth in enumerate(depths):
            planes, blocks = width * 2**stage, []
            for block_index in range(depth):
                stride = 2 if stage > 0 and block_index == 0 else 1
                blocks.append(block(BlockShape(inputs, planes, stride, groups, base_width, dropout)))
                inputs = planes * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            setattr(self, f"smooth{stage + 1}", smoothing[stage])
        self.classifier = classifier
        self.stages = len(depths)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (N, classes) of images (N, 3, H, W)."""
        features = self.layer0(images)
        for stage in range(1, self.stages + 1):
            features = getattr(self, f"smooth{stage}")(getattr(self, f"layer{stage}")(features))
        return self.classifier(features)
