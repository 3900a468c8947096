"""How much feature maps vary: over Monte-Carlo dropout passes, over positions, over images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from landscape.compute.settings import measurement
from landscape.data import Data
from landscape.eigen.estimate import widening
from landscape.errors import LandscapeError
from landscape.look.forward import Passes, Range, in_pieces
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays
from landscape.store.protocol import Protocol

# Passes over which data uncertainty is averaged: it differs little between passes, much less than between images, and
# costs as much per pass as the variance over masks.
DATA_PASSES = 10
# Groups of the delete-a-group jackknife that gives the standard error of the variance between images.
GROUPS = 10
# Between-image values are averages over channels, positions and (where there are any) passes.
PER_IMAGE = {
    "model_std": "standard deviation over masks",
    "model_variance": "variance over masks",
    "data_std": "standard deviation over positions within a pass",
    "data_variance": "variance over positions within a pass",
    "power": "mean square of the map",
}


@measurement
def measure(
    model: nn.Module,
    data: Data,
    *,
    protocol: Protocol | None = None,
    passes: int = 50,
    blocks: str | None = None,
    batch: int | None = None,
    device: torch.device | str | None = None,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Model and data uncertainty of feature maps by depth.

    For a map :math:`x_{ntcp}` over images *n*, passes *t*, channels *c* and positions *p*, with the variance over *t*
    unbiased (divisor T - 1) and the variance over *p* that of the map as it is (divisor P):

    .. math::

       \text{model\_std} = \langle \sqrt{\mathrm{Var}_t x} \rangle_{ncp}, \qquad
       \text{data\_std} = \langle \sqrt{\mathrm{Var}_p x} \rangle_{ntc}

    and likewise the variances; data uncertainty is over the first 10 passes only. A smaller map varies less:
    ``relative_model_std`` and ``relative_data_std`` are divided by the map's own root mean square over everything. The
    law of total variance splits the variance of a map's entry over images and masks, averaged over channels and
    positions, into ``variance_between_masks`` (:math:`\mathrm{E}_n \mathrm{Var}_t`) and ``variance_between_images``
    (:math:`\mathrm{Var}_n \mathrm{E}_t`), both unbiased, so that the latter may come out slightly negative where there
    is none.

    One streaming pass: memory does not depend on the number of passes.

    Parameters
    ----------
    model
        Any network; dropout may be a module or a function call.
    data
        Images or sequences; `protocol` selects which of them. Positions of a sequence are its tokens.
    protocol
        See `Passes`; default: fresh masks, all test images.
    passes
        Monte-Carlo passes *T*, 50 as in the paper. A network without dropout runs once, and its model uncertainty is
        zero. The standard deviation of T values is biased by a factor of about 1 - 1 / (4 T - 4), the same for all
        networks.
    blocks, batch, device
        See `Passes`.
    journal
        Saves finished parts of the images.
    quiet
        Show no progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``point`` (in order of execution; coordinates ``kind``, ``stage``, ``depth``, ``channels``, ``height``,
        ``width``, ``subsampled``): each quantity with ``_stderr``, its standard error over images; and over
        ``(point, image)`` the values of single images (``model_std_of_image`` and so on), for pairing networks.

    Raises
    ------
    LandscapeError
        For less than 2 passes, fixed or no masks, or what `Passes` refuses.

    Notes
    -----
    N. Park and S. Kim, "Blurs Behave Like Ensembles", ICML 2022 (arXiv 2105.12639), figure 4.

    Examples
    --------
    >>> import landscape
    >>> model = landscape.build("resnet_mcdo_18", num_classes=10, width=2)
    >>> images = landscape.data.load("digits", "test")
    >>> result = measure(model, images, protocol=landscape.Protocol(dropout="fresh", split="test", images=8), passes=2)
    >>> bool((result["model_std"] >= 0).all())
    True
    """
    protocol = protocol or Protocol(dropout="fresh", split="test")
    require_fresh_masks(protocol)
    if passes < 2:
        raise LandscapeError(f"a variance over {passes} pass is none: give --passes 2 or more")
    runs = Passes(model, data, protocol=protocol, blocks=blocks, batch=batch, device=device)

    def of_batches(batches: Sequence[Range]) -> Arrays:
        return _values(runs, batches, passes=passes)

    result = _dataset(runs, in_pieces(runs, of_batches, journal=journal, what="feature maps", quiet=quiet), passes)
    result.attrs |= {
        "images": len(runs),
        "examples": runs.examples,
        "population": len(data),
        "passes": passes if runs.dropout_calls else 1,
        "dropout_calls": runs.dropout_calls,
        "images_sha256": runs.data.sha256,
    }
    return result


def require_fresh_masks(protocol: Protocol) -> None:
    """Raise LandscapeError when the protocol holds masks, or switches them off."""
    if protocol.dropout != "fresh":
        raise LandscapeError(f"model uncertainty needs fresh masks, not {protocol.dropout!r}: give --dropout fresh")


class Streams:
    """Running sums of the maps of one batch, point by point, about the first pass."""

    def __init__(self) -> None:
        self.first: dict[int, Tensor] = {}
        self.sum: dict[int, Tensor] = {}
        self.square: dict[int, Tensor] = {}
        self.spatial: dict[int, list[Tensor]] = {}

    def add(self, sample: int, index: int, features: Tensor) -> None:
        """Add the map of one pass."""
        if sample < DATA_PASSES:
            # Written out, since torch's own variance over positions is ten times slower on channels-last maps.
            positions = features.permute(0, 2, 3, 1).flatten(1, 2)
            centred = positions - positions.mean(1, keepdim=True)
            variance = centred.square_().mean(1).double()
            of_image = torch.stack([variance.sqrt().mean(1), variance.mean(1)])
            self.spatial.setdefault(index, []).append(of_image)
        if index not in self.first:
            # Later layers may change a map in place.
            self.first[index] = features.clone()
            return
        difference = features - self.first[index]
        if index in self.sum:
            self.sum[index] += difference
            self.square[index].addcmul_(difference, difference)
        else:
            self.sum[index], self.square[index] = difference, difference.square()

    def moments(self, index: int, passes: int) -> tuple[Tensor, Tensor]:
        """Mean over passes, and unbiased variance, (N, C, H, W). About the first pass, float32 sums lose nothing."""
        first = self.first[index]
        if index not in self.sum:
            return first, torch.zeros_like(first)
        total = self.sum[index]
        variance = (self.square[index] - total.square() / passes) / (passes - 1)
        return first + total / passes, variance.clamp_(min=0)


def _mean(features: Tensor) -> Tensor:
    """Mean of each image's map, (N,) float64."""
    rows = features if features.is_contiguous() else features.permute(0, 2, 3, 1)
    return rows.flatten(1).mean(1).double()


def _values(runs: Passes, batches: Sequence[Range], *, passes: int) -> dict[str, np.ndarray]:
    """Values of each image, and the sum over images of the mean map of each point, by group of the jackknife."""
    points, first, last = len(runs.depths), batches[0][0], batches[-1][1]
    of_image = {name: torch.empty(points, last - first, dtype=torch.float64) for name in (*PER_IMAGE, "square_of_mean")}
    sums: dict[str, Tensor] = {}
    group_of = group(np.arange(len(runs)), len(runs))
    samples = range(passes if runs.dropout_calls else 1)
    for start, stop in batches:
        streams = Streams()
        runs.stochastic(runs.images(start, stop), start, samples, streams.add)
        columns = slice(start - first, stop - first)
        for index in range(points):
            mean, variance = streams.moments(index, len(samples))
            spatial = torch.stack(streams.spatial[index]).mean(0)
            # Of a mean square, the divisor is T; of an unbiased variance, T - 1.
            model_variance, square_of_mean = _mean(variance), _mean(mean.square())
            values = {
                "model_std": _mean(variance.sqrt()),
                "model_variance": model_variance,
                "data_std": spatial[0],
                "data_variance": spatial[1],
                "power": square_of_mean + model_variance * ((len(samples) - 1) / len(samples)),
                "square_of_mean": square_of_mean,
            }
            for name, value in values.items():
                of_image[name][index, columns] = value.cpu()
            for member in range(group_of[start], group_of[stop - 1] + 1):
                inside = torch.from_numpy(group_of[start:stop] == member).to(mean.device)
                key, total = f"sum of {index} in {member}", mean[inside].sum(0).double().cpu()
                sums[key] = sums[key] + total if key in sums else total
    return {name: value.numpy() for name, value in (of_image | sums).items()}


def _dataset(runs: Passes, pieces: Sequence[Mapping[str, np.ndarray]], passes: int) -> xarray.Dataset:
    """The result, from what `_values` gives for consecutive parts of the images."""
    of_image = {
        name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in (*PER_IMAGE, "square_of_mean")
    }
    images = of_image["power"].shape[1]
    variables: dict[str, Any] = {}

    def add(name: str, value: np.ndarray, stderr: np.ndarray, label: str) -> None:
        variables[name] = ("point", value, {"long_name": label})
        variables[f"{name}_stderr"] = ("point", stderr, {"long_name": f"standard error over images of: {label}"})

    for name, label in PER_IMAGE.items():
        values = of_image[name]
        add(name, values.mean(1), _stderr(values), label)
        variables[f"{name}_of_image"] = (("point", "image"), values, {"long_name": label})
    # A map that is zero everywhere has no relative values.
    root = np.sqrt(of_image["power"].mean(1))
    root[root == 0] = np.nan
    for name in ("model_std", "data_std"):
        ratio = of_image[name].mean(1) / root
        # Delta method for a ratio of a mean to the root of a mean.
        influence = of_image[name] / root[:, None] - ratio[:, None] * of_image["power"] / (2 * root[:, None] ** 2)
        label = f"{PER_IMAGE[name]}, relative to the map's root mean square"
        add(f"relative_{name}", ratio, _stderr(influence), label)
    draws = passes if runs.dropout_calls else 1
    add("variance_between_masks", variables["model_variance"][1], variables["model_variance_stderr"][1], "E_n Var_t")
    add("variance_between_images", *_between_images(pieces, of_image, draws), "Var_n E_t")
    coordinates = runs.depths.coordinates() | {"image": np.arange(images)}
    return xarray.Dataset(variables, coords=coordinates)


def _stderr(values: np.ndarray) -> np.ndarray:
    images = values.shape[1]
    return values.std(1, ddof=1) / np.sqrt(images) if images > 1 else np.full(len(values), np.nan)


def group(image: np.ndarray, images: int) -> np.ndarray:
    """Jackknife group of an image: groups are contiguous, and their sizes differ by at most one."""
    return image * min(GROUPS, images) // images


def _between_images(
    pieces: Sequence[Mapping[str, np.ndarray]], of_image: Mapping[str, np.ndarray], passes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased variance between images of the mean over masks, and its standard error by a delete-a-group jackknife."""
    points, images = of_image["power"].shape
    group_of = group(np.arange(images), images)
    groups = group_of[-1] + 1
    # The last row leaves nothing out.
    rows = range(groups + 1) if groups > 2 else [groups]
    replicates = np.empty((groups + 1, points))
    for index in range(points):
        names = [f"sum of {index} in {member}" for member in range(groups)]
        sums = [np.sum([piece[name] for piece in pieces if name in piece], axis=0) for name in names]
        total_sum = np.sum(sums, axis=0)
        for left_out in rows:
            kept = group_of != left_out
            count = kept.sum()
            total = total_sum if left_out == groups else total_sum - sums[left_out]
            spread = of_image["square_of_mean"][index, kept].mean() - np.square(total / count).mean()
            unbiased = spread * count / (count - 1) if count > 1 else np.nan
            replicates[left_out, index] = unbiased - of_image["model_variance"][index, kept].mean() / passes
    if groups < 3:
        return replicates[-1], np.full(points, np.nan)
    deviations = replicates[:-1] - replicates[:-1].mean(0)
    # The spread of few groups is itself uncertain.
    return replicates[-1], widening(groups) * np.sqrt((groups - 1) / groups * np.square(deviations).sum(0))
