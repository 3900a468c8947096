"""Monte-Carlo dropout."""

from torch import Tensor, nn

from landscape.compute import masks
from landscape.errors import LandscapeError


class MCDropout(nn.Module):
    """Elementwise dropout that is on in evaluation mode too; its masks come from :mod:`landscape.compute.masks`.

    Parameters
    ----------
    rate
        Probability of zeroing an element; what is kept is scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise LandscapeError(f"dropout rate {rate} is not in [0, 1): give the probability of zeroing")
        self.rate = rate

    def forward(self, features: Tensor) -> Tensor:
        """Mask features (N, ...)."""
        return masks.dropout(features, self.rate)

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate}"


class TrainingDropout(nn.Dropout):
    """Dropout that is the identity in evaluation mode whatever masks are in force.

    Masks by address turn torch's own dropout on in every mode; a deterministic network must stay deterministic.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Mask features (N, ...) in training mode."""
        return super().forward(input) if self.training else input


def mc_dropout(rate: float) -> nn.Module:
    """Dropout of that rate, or nothing at all for rate 0."""
    return MCDropout(rate) if rate > 0 else nn.Identity()
