"""Feature maps of one image, for pictures: several Monte-Carlo passes, their mean and their standard deviation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from landscape.compute.settings import measurement
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.feature_maps.uncertainty import Streams, require_fresh_masks
from landscape.look.forward import Passes
from landscape.store.protocol import Protocol
from landscape.tables import columns

# Number of passes whose maps are kept for the picture.
SHOWN = 3


@measurement
def measure(
    model: nn.Module,
    data: Images,
    image: int,
    *,
    protocol: Protocol | None = None,
    passes: int = 50,
    blocks: str | None = None,
    device: torch.device | str | None = None,
) -> xarray.Dataset:
    """Maps of one image at the end of each stage, of the channel whose mean map varies most over positions.

    Parameters
    ----------
    model
        Any network.
    data
        The images of the split, in their order.
    image
        Index of the image.
    protocol, blocks, device
        See `Passes`; the protocol's sample of images is ignored, and masks are fresh.
    passes
        Monte-Carlo passes for mean and standard deviation.

    Returns
    -------
    xarray.Dataset
        For each stage *s*, ``pass_s`` (pass, row_s, column_s), ``mean_s`` and ``std_s`` (row_s, column_s); over
        ``stage``: ``point`` (name), ``channel``; and ``picture`` (channel_of_image, row, column), the image as the
        network takes it.

    Raises
    ------
    LandscapeError
        When there is no such image, for fixed or no masks, or what `Passes` refuses.
    """
    if not 0 <= image < len(data):
        raise LandscapeError(f"there is no image {image}: {data.title} has images 0 to {len(data) - 1}")
    protocol = (protocol or Protocol(dropout="fresh", split="test")).replace(images=None)
    require_fresh_masks(protocol)
    runs = Passes(model, data.select(torch.tensor([image])), protocol=protocol, blocks=blocks, device=device)
    streams, kept = Streams(), dict[int, list[Tensor]]()
    ends = runs.depths.stage_ends

    def visit(sample: int, index: int, features: Tensor) -> None:
        if index in ends:
            streams.add(sample, index, features)
            if sample < SHOWN:
                kept.setdefault(index, []).append(features[0].clone())

    samples = range(passes if runs.dropout_calls else 1)
    pixels = runs.images(0, 1)
    runs.stochastic(pixels, 0, samples, visit)
    variables: dict[str, Any] = {"picture": (("channel_of_image", "row", "column"), pixels[0].cpu().numpy())}
    channels = []
    for stage, index in enumerate(ends):
        mean, variance = (moment[0] for moment in streams.moments(index, len(samples)))
        channel = int(mean.var(dim=(1, 2)).argmax())
        channels.append(channel)
        grid = (f"row_{stage}", f"column_{stage}")
        # A map that no mask reaches is visited once: it is the same in every pass.
        shown = [features[channel] for features in kept[index]]
        shown += shown[:1] * (min(SHOWN, len(samples)) - len(shown))
        variables[f"pass_{stage}"] = (("pass", *grid), torch.stack(shown).cpu().numpy())
        variables[f"mean_{stage}"] = (grid, mean[channel].cpu().numpy())
        variables[f"std_{stage}"] = (grid, variance[channel].sqrt().cpu().numpy())
    variables |= {
        "point": ("stage", [runs.depths.points[index].name for index in ends]),
        "channel": ("stage", channels),
    }
    result = xarray.Dataset(variables, coords={"stage": np.arange(len(ends))})
    result.attrs |= {"image": image, "label": int(data.labels[image]), "images": 1, "passes": len(samples)}
    return result


def table(results: Sequence[xarray.Dataset]) -> str:
    """What the pictures show, in numbers."""
    head = ["network", "after", "channel", "map", "mean", "std over positions", "std over masks"]
    rows = []
    for result in results:
        for stage in range(result.sizes["stage"]):
            mean, std = result[f"mean_{stage}"].values, result[f"std_{stage}"].values
            size = "x".join(str(side) for side in mean.shape)
            rows.append(
                [
                    str(result.attrs["name"]),
                    str(result["point"].values[stage]),
                    str(int(result["channel"][stage])),
                    size,
                    *(f"{value:.3g}" for value in (mean.mean(), mean.std(), std.mean())),
                ]
            )
    return columns(head, rows)
