"""What a user should know before believing the numbers: one line each on standard error, whatever else is printed."""

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from landscape.errors import printable

if TYPE_CHECKING:
    from landscape.data import Data


def caution(text: str) -> None:
    """Print ``warning: ...`` on standard error, on rank 0."""
    from landscape.compute import distributed

    if distributed.is_main():
        print(f"warning: {printable(text)}", file=sys.stderr)


def caution_about_images(images: "Data") -> None:
    """Warn when bytes are shown as they are: a network trained on normalised images then sees others than it knows."""
    import torch

    from landscape.data import Images

    if isinstance(images, Images) and images.images.dtype == torch.uint8 and images.mean is None and images.std is None:
        zeros, ones = (",".join([number] * images.shape[0]) for number in "01")
        caution(
            f"{images.title} holds uint8 images and no normalisation: they are only scaled to [0, 1]. If the network "
            f"was trained on normalised images give --mean and --std (--mean {zeros} --std {ones}: as they are)"
        )


def caution_about_fit(attributes: Mapping[str, Any]) -> None:
    """Warn when a result says that its network was no better than chance on the images it was measured on."""
    from landscape.objective.fit import Fit

    fit = Fit.of(attributes)
    if fit is not None and fit.is_near_chance:
        # A loss of another name is not of images.
        others = "images that differ from those it was trained on (--mean, --std, --data, order of the classes)"
        if fit.loss_name != "cross_entropy":
            others = "examples that differ from those it was trained on (--data)"
        caution(
            f"{attributes.get('name', 'the network')} has an accuracy of {fit.accuracy:.3g} on "
            f"{attributes.get('data', 'its images')}, the most frequent class alone gives {fit.chance:.3g}: an "
            f"untrained network, or {others}"
        )


def fit_in_words(attributes: Mapping[str, Any]) -> str:
    """Loss, its terms and accuracy of what was measured; empty for results of versions that did not keep them."""
    from landscape.objective.fit import Fit

    fit = Fit.of(attributes)
    if fit is None:
        return ""
    terms = f" = {fit.data_loss:.4g} + L2 {fit.l2:.3g}" if fit.l2 else ""
    accuracy = (
        f", accuracy {fit.accuracy:.4g}" if math.isfinite(fit.accuracy) or fit.loss_name == "cross_entropy" else ""
    )
    name = "" if fit.loss_name == "cross_entropy" else f" ({fit.loss_name})"
    return f"loss{name} {fit.loss:.4g}{terms}{accuracy}"
