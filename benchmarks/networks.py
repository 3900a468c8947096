"""The networks that the benchmarks share, trained for a few steps: random weights have no spectrum worth finding."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from landscape.compute.randomness import generator
from landscape.data import Images


class Block(nn.Module):
    """Basic residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Block output."""
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(features)))))
        return torch.relu(inner + self.shortcut(features))


def resnet20(classes: int) -> nn.Module:
    """ResNet-20 (He et al. 2016), width 16."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for place in range(3):
            layers.append(Block(inputs, outputs, stride if place == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def trained(images: Images, steps: int, network: Callable[[int], nn.Module] = resnet20) -> nn.Module:
    """The network after some steps of SGD: random weights have no spectrum worth finding."""
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator(0, "benchmark").get_state())
        net = network(images.classes).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    source = generator(0, "benchmark order")
    for _ in range(steps):
        chosen = images.select(torch.randint(len(images), (128,), generator=source))
        loss = nn.functional.cross_entropy(net(chosen.batch(0, 128)), chosen.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
