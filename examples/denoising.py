"""A diffusion model of scikit-learn's digits: it tells the noise in an image of any noise level.

Such a loss is random. What is measured is its mean over noise that is drawn once and given with the examples: the same
noise in every product and at every point, as a Hessian and a surface need it.

python -m landscape.hessian --model examples/denoising.py:network --data examples/denoising.py:data --loss mse
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from trained import trained


class Denoiser(nn.Module):
    """Convolutions that know the noise level."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.level = nn.Linear(1, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, images: Tensor, levels: Tensor) -> Tensor:
        """The noise (N, 1, H, W) in images (N, 1, H, W) of noise levels (N,)."""
        features = self.first(images) + self.level(levels[:, None])[:, :, None, None]
        return self.last(nn.functional.silu(self.second(nn.functional.silu(features))))


def network(steps: int = 200, width: int = 16) -> nn.Module:
    """A network trained on its data."""
    given = data()
    return trained(
        lambda: Denoiser(width),
        lambda model: nn.functional.mse_loss(model(given["images"], given["levels"]), given["targets"]),
        steps,
    )


# The user's own lines begin here.
def data(count: int = 256) -> dict[str, Tensor]:
    """Digits (N, 1, 8, 8) between -1 and 1, each with a noise level (N,) and noise of its own, which is the target."""
    source = torch.Generator().manual_seed(0)
    digits = torch.from_numpy(load_digits().images[:count, None]).float() / 8 - 1
    levels, noise = torch.rand(count, generator=source), torch.randn(digits.shape, generator=source)
    level = levels[:, None, None, None]
    return {"images": (1 - level**2).sqrt() * digits + level * noise, "levels": levels, "targets": noise}
