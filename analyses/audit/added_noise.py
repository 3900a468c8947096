"""The opposite of a smoothing layer, the control that an audit must speak against."""

import torch
from torch import Tensor, nn

from landscape.nets.dropout import MCDropout


class AddedNoise(nn.Module):
    r"""Adds independent noise of two values, :math:`x \pm \sigma`, to every entry of a feature map.

    The signs come from the dropout masks (rate 1/2), so that the noise is drawn, addressed and switched off with them.

    Parameters
    ----------
    strength
        Standard deviation :math:`\sigma` in the units of the map. The default is that of a map behind batch norm.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength
        self.signs = MCDropout(0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Add the noise to features (N, C, H, W)."""
        return features + self.strength * (self.signs(torch.ones_like(features)) - 1)


class FaintNoise(AddedNoise):
    """Noise of half that strength: an effect that takes several pairs of networks to find."""

    def __init__(self) -> None:
        super().__init__(0.5)
