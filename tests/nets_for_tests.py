"""Small networks with every awkward feature that the tests need, and their dense curvature as an oracle."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape.compute.randomness import generator
from landscape.data import Images


class ResidualBlock(nn.Module):
    """Batch norm behind every convolution, a shortcut of its own."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(features)))))
        return torch.relu(inner + self.shortcut(features))


class PreactivationBlock(nn.Module):
    """Batch norm with no convolution before it; a grouped convolution with a bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, groups=2)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(torch.relu(self.bn(features)))


class SharedUse(nn.Module):
    """The convolution's output is seen by more than its batch norm: not to be folded."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        inner = self.conv(features)
        return torch.relu(self.bn(inner)) + 0.3 * inner


def small_net(*, classes: int = 3, seed: int = 0) -> nn.Module:
    """About 660 parameters; running statistics and affine parameters away from their defaults."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, 1, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        ResidualBlock(4, 4, 2),
        PreactivationBlock(4),
        SharedUse(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )
    source = generator(seed, "test net")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.4)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=source) * 0.3)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=source) + 0.5)
    return net.eval()


def small_images(*, count: int = 37, classes: int = 3, channels: int = 2, side: int = 6, seed: int = 0) -> Images:
    """Random images; 37 of them, so that the last micro-batch is ragged."""
    source = generator(seed, "test images")
    return Images(
        images=torch.randn(count, channels, side, side, generator=source),
        labels=torch.randint(classes, (count,), generator=source),
        classes=classes,
        name="random",
        split="train",
    )


class Dense:
    """Loss, gradient, Hessian, GGN and Fisher of a network as dense float64 arrays, by automatic differentiation."""

    def __init__(self, net: nn.Module, data: Images, *, weight_decay: float = 0.0) -> None:
        net = _double(net)
        named = dict(net.named_parameters())
        sizes = [parameter.numel() for parameter in named.values()]
        images, labels = data.images.double(), data.labels

        def outputs(vector: Tensor) -> Tensor:
            parts = vector.split(sizes)
            parameters = {name: part.view(named[name].shape) for name, part in zip(named, parts, strict=True)}
            return functional_call(net, parameters, (images,))

        def loss(vector: Tensor) -> Tensor:
            return nn.functional.cross_entropy(outputs(vector), labels) + weight_decay / 2 * vector.square().sum()

        self.point = torch.cat([parameter.detach().reshape(-1) for parameter in named.values()])
        self.loss = float(loss(self.point))
        self.gradient = torch.func.grad(loss)(self.point)
        self.hessian = torch.func.hessian(loss)(self.point)
        jacobian = torch.func.jacrev(outputs)(self.point)
        probabilities = outputs(self.point).softmax(-1)
        curvature = torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None]
        identity = torch.eye(len(self.point), dtype=torch.float64)
        self.ggn = torch.einsum("nip,nij,njq->pq", jacobian, curvature, jacobian) / len(data) + weight_decay * identity
        residual = probabilities - nn.functional.one_hot(labels, probabilities.shape[1])
        gradients = torch.einsum("nip,ni->np", jacobian, residual)
        self.fisher = gradients.T @ gradients / len(data)


def _double(net: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(net).double().eval()
