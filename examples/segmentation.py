"""A U-Net that finds discs in noise, with a dice loss of one's own.

python -m landscape.hessian --model examples/segmentation.py:network --data examples/segmentation.py:data \
        --loss examples/segmentation.py:dice
"""

import torch
from torch import Tensor, nn
from trained import trained


class UNet(nn.Module):
    """One step down, one step up, a shortcut; batch norm behind every convolution."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down, self.bottom = block(1, width), block(width, 2 * width)
        self.up, self.head = block(3 * width, width), nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, 1, H, W)."""
        fine = self.down(images)
        coarse = self.bottom(nn.functional.max_pool2d(fine, 2))
        coarse = nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
        return self.head(self.up(torch.cat([fine, coarse], dim=1)))


def block(inputs: int, outputs: int) -> nn.Module:
    """Convolution, batch norm, SiLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())


def network(steps: int = 100, width: int = 8) -> nn.Module:
    """A network trained on its data."""
    images, discs = data()
    return trained(lambda: UNet(width), lambda model: dice(model(images), discs).mean(), steps)


# The user's own lines begin here.
def dice(outputs: Tensor, targets: Tensor) -> Tensor:
    """One minus the overlap, image by image (N,): a dice over the whole batch is no mean over images."""
    found, wanted = outputs.sigmoid().flatten(1), targets.flatten(1)
    return 1 - (2 * (found * wanted).sum(1) + 1) / (found.sum(1) + wanted.sum(1) + 1)


def data(count: int = 64, side: int = 16) -> tuple[Tensor, Tensor]:
    """Discs (N, 1, side, side) in noise, and where they are."""
    source = torch.Generator().manual_seed(0)
    centres, noise = torch.rand(count, 2, 1, 1, generator=source), torch.randn(count, 1, side, side, generator=source)
    grid = torch.linspace(0, 1, side)
    discs = ((grid[:, None] - centres[:, :1]).hypot(grid - centres[:, 1:]) < 0.25).float()
    return discs + 0.5 * noise, discs
