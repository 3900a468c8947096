"""A small vision transformer out of the blocks of ``transformers``, whose grid of tokens can be smoothed."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from landscape.errors import LandscapeError

if TYPE_CHECKING:
    from transformers import ViTConfig


class SmoothedTokens(nn.Module):
    """A smoothing layer on the grid that an image's tokens form; the class token before them passes by.

    Parameters
    ----------
    layer
        Smooths maps (N, C, H, W). A map that it enlarges is cut: positions were given to so many tokens.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor) -> Tensor:
        """Smooth tokens (N, 1 + H W, C) of a square grid."""
        first, grid = tokens[:, :1], tokens[:, 1:].mT
        side = math.isqrt(grid.shape[2])
        smoothed = self.layer(grid.unflatten(2, (side, side)))[..., :side, :side]
        return torch.cat([first, smoothed.flatten(2).mT], dim=1)


class VisionTransformer(nn.Module):
    """Patches, blocks of attention in stages, the class token through a dense layer (Dosovitskiy et al. 2021).

    Blocks and embeddings are those of ``transformers.ViTModel``.

    Parameters
    ----------
    depths
        Blocks in each stage.
    width
        Channels of a token; a head of attention has 16 of them, or all where 16 does not divide their number.
    side, patch
        Of the images and of the patches, pixels; for square images of another side, positions are interpolated.
    dropout
        Rate in the embeddings and behind attention and dense layers.
    smoothing
        What follows each stage: a smoothing layer of maps, or an empty module.
    classes
        Number of classes.

    Raises
    ------
    LandscapeError
        Where ``transformers`` is not installed.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        width: int,
        side: int,
        patch: int,
        dropout: float,
        smoothing: Sequence[nn.Module],
        classes: int,
    ) -> None:
        super().__init__()
        config = _config(sum(depths), width, side, patch, dropout)
        from transformers import ViTModel

        whole = ViTModel(config, add_pooling_layer=False)
        blocks = iter(whole.layers)
        self.embeddings = whole.embeddings
        self.stages = nn.Sequential()
        for depth, layer in zip(depths, smoothing, strict=True):
            smoothed = [SmoothedTokens(layer)] if len(list(layer.children())) else []
            self.stages.append(nn.Sequential(*[next(blocks) for _ in range(depth)], *smoothed))
        self.norm = whole.layernorm
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (N, classes) of images (N, 3, H, W)."""
        tokens = self.embeddings(images, interpolate_pos_encoding=True)
        return self.classifier(self.norm(self.stages(tokens))[:, 0])


def _config(blocks: int, width: int, side: int, patch: int, dropout: float) -> "ViTConfig":
    try:
        from transformers import ViTConfig
    except ImportError as error:
        raise LandscapeError("a vision transformer needs its blocks: pip install transformers") from error
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=width // 16 if width % 16 == 0 else 1,
        intermediate_size=2 * width,
        hidden_dropout_prob=dropout,
        image_size=side,
        patch_size=patch,
        attn_implementation="eager",  # type: ignore[call-arg]
    )
