"""Log-probabilities of Monte-Carlo dropout passes, made once and kept: everything else is computed from them."""

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from landscape import metrics
from landscape.compute.masks import BLOCK, Masks
from landscape.compute.settings import measurement
from landscape.data import Data
from landscape.data.examples import Tree
from landscape.errors import LandscapeError
from landscape.look import reuse
from landscape.objective.network import Network, ranges
from landscape.objective.objective import examples
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, pieces
from landscape.store.protocol import Protocol

# Largest feature map of a batch in bytes: what stays in the last-level cache of a core or two.
_CACHE_BYTES = 4 * 2**20
# Images of one piece of the journal: whole blocks of masks, seconds to a minute of work.
PIECE = 16 * BLOCK


class Predictor:
    """A network that predicts class probabilities, pass after pass, as fast as exact arithmetic allows.

    The network is copied; in the copy, batch norm is folded into the convolutions before it (exact but for rounding),
    convolutions run channels last, and what comes before the first dropout is computed once for all passes.

    Parameters
    ----------
    model
        Any classifier, of one row of scores (N, C) for N examples; left as it was.
    data
        Examples that it takes, to try it on.
    protocol
        Its `dropout` (``fresh``, or ``off`` for one deterministic pass), `mask_seed` and `dtype` count; batch norm must
        be ``running``.
    batch
        Images per forward pass; None: what the cache holds on a CPU, 256 on a GPU. It changes results by rounding only.
    device
        Where to compute; the protocol's device class unless given.

    Attributes
    ----------
    classes
        Number of outputs.
    stochastic
        Whether passes differ: dropout is on, and the network has some.

    Raises
    ------
    LandscapeError
        When the network cannot take the images or does not return (images, classes), has fewer outputs than the data
        have classes, holds values that are not finite, or when the protocol asks for what passes cannot give.
    """

    @measurement
    def __init__(
        self,
        model: nn.Module,
        data: Data,
        *,
        protocol: Protocol | None = None,
        batch: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.protocol = protocol = protocol or Protocol(dropout="fresh", split="test")
        if protocol.batch_norm != "running":
            raise LandscapeError(
                f"predictions use running batch-norm statistics, not {protocol.batch_norm!r}: give --batch-norm running"
            )
        if protocol.dropout == "fixed":
            raise LandscapeError(
                "an ensemble needs masks that differ from pass to pass: give --dropout fresh (or off for one pass)"
            )
        self.device = torch.device(device or protocol.device)
        self.dtype: torch.dtype = getattr(torch, protocol.dtype)
        self.network = Network(model, data, device=self.device, dtype=self.dtype, output=protocol.output)
        self.classes = self._require_scores(data)
        self.stochastic = protocol.dropout == "fresh" and self.network.dropout_calls > 0
        self.network.fold(data)
        self.batch = batch or self._choose_batch(self.network.activation_bytes)
        # What comes before the first dropout is kept on the network itself: one thread at a time.
        self._running = threading.RLock()

    def _require_scores(self, data: Data) -> int:
        """Number of classes of the scores that the network gives."""
        return self.network.require_class_scores(data)

    def images(self, data: Data, start: int, stop: int) -> Tree:
        """Examples `start` to `stop` as the network takes them."""
        return self.network.inputs(data, start, stop)

    def batches(self, first: int, last: int) -> list[tuple[int, int]]:
        """Ranges (start, stop) of the batches between two images."""
        return ranges(first, last, self.batch)

    def masks(self) -> Masks:
        """The dropout masks of the protocol; address them before each pass."""
        return Masks.addressed(seed=self.protocol.mask_seed) if self.stochastic else Masks.off()

    @measurement
    @torch.no_grad()
    def passes(self, images: Tree, first: int, samples: Sequence[int]) -> Tensor:
        """Log-probabilities (T, N, C), float64, of one pass for each of T mask draws.

        Parameters
        ----------
        images
            As `images` gives them.
        first
            Number of the first image, which decides its masks.
        samples
            Numbers of the mask draws; a deterministic network gives as many equal passes from one.
        """
        outputs = self.outputs(images, first, samples)
        if not self.stochastic:
            once = outputs[0].double().log_softmax(-1)
            return once.expand(len(samples), *once.shape)
        return torch.stack(outputs).double().log_softmax(-1)

    @torch.no_grad()
    def outputs(self, images: Tree, first: int, samples: Sequence[int]) -> list[Any]:
        """What the network returns in each pass; a deterministic one is passed once."""
        if not self.stochastic:
            with self._running, Masks.off():
                return [self.network(images)]
        outputs = []
        with self._running, self.masks() as masks, reuse.before_dropout(self.network.module, masks):
            for sample in samples:
                masks.address(first_example=first, sample=sample)
                outputs.append(self.network(images))
        return outputs

    def average(self, data: Data, first: int, last: int, samples: Sequence[int], *, offset: int = 0) -> Tensor:
        """Log-probabilities (last - first, C), float64, of the average over mask draws.

        Masks are those of images `offset` + `first` and on.
        """
        parts = [
            metrics.log_mean_exp(self.passes(self.images(data, start, stop), offset + start, samples))
            for start, stop in self.batches(first, last)
        ]
        return torch.cat(parts)

    def _choose_batch(self, largest: int) -> int:
        if self.device.type != "cpu":
            return 256
        # Whole blocks of masks: a block that is cut is drawn twice.
        return int(min(max(2 ** int(math.log2(max(_CACHE_BYTES // largest, 1))), BLOCK), 8 * BLOCK))


@measurement
def measure(
    model: nn.Module,
    data: Data,
    *,
    protocol: Protocol | None = None,
    passes: int = 50,
    batch: int | None = None,
    device: torch.device | str | None = None,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    """Log-probabilities of every pass over every image, the raw material of all curves and comparisons.

    Parameters
    ----------
    model, protocol, batch, device
        See `Predictor`.
    data
        Images; `protocol` says which of them.
    passes
        Monte-Carlo passes *T*, 50 as in the paper; a network without dropout is passed once.
    journal
        Keeps finished pieces.
    quiet
        Show no progress bar.

    Returns
    -------
    xarray.Dataset
        ``log_probability`` (pass, image, class), float32, nats; ``label`` (image,).

    Raises
    ------
    LandscapeError
        As `Predictor`.
    """
    protocol = protocol or Protocol(dropout="fresh", split="test")
    chosen = examples(data, protocol)
    predictor = Predictor(model, chosen, protocol=protocol, batch=batch, device=device)
    samples = range(passes if predictor.stochastic else 1)
    ranges = {
        f"piece {index}": (start, min(start + PIECE, len(chosen)))
        for index, start in enumerate(range(0, len(chosen), PIECE))
    }

    def compute(key: str) -> Arrays:
        parts = [
            predictor.passes(predictor.images(chosen, start, stop), start, samples).float().cpu()
            for start, stop in predictor.batches(*ranges[key])
        ]
        return {"log_probability": torch.cat(parts, dim=1).numpy()}

    whole = dict(
        pieces(
            list(ranges),
            compute,
            journal=journal,
            what=f"{len(samples)} passes",
            unit="image",
            steps=[last - first for first, last in ranges.values()],
            quiet=quiet,
        )
    )
    result = xarray.Dataset(
        {
            "log_probability": (
                ("pass", "image", "class"),
                np.concatenate([whole[key]["log_probability"] for key in ranges], axis=1),
                {"long_name": "log-probability", "units": "nats"},
            ),
            "label": ("image", _labels(chosen)),
        }
    )
    result.attrs |= {
        "images": len(chosen),
        "population": len(data),
        "passes": len(samples),
        "members": "passes",
        "images_sha256": chosen.sha256,
    }
    return result


def _labels(data: Data) -> np.ndarray:
    labels = data.target(0, len(data))
    assert isinstance(labels, Tensor)  # the predictor has seen to it
    return labels.cpu().numpy()


def deep_ensemble(members: Sequence[xarray.Dataset]) -> xarray.Dataset:
    """Independently trained networks as one ensemble, each the average of its own passes.

    Parameters
    ----------
    members
        What `measure` gives for each network, on the same images.

    Returns
    -------
    xarray.Dataset
        As `measure`, with networks in the place of passes: sizes of its curves count networks.

    Raises
    ------
    LandscapeError
        For fewer than two members, or members measured on different images.
    """
    if len(members) < 2:
        raise LandscapeError(f"a deep ensemble of {len(members)} network: give two checkpoints or more")
    require_same_images(members)
    averages = [
        metrics.log_mean_exp(torch.from_numpy(member["log_probability"].values)).float().numpy() for member in members
    ]
    first = members[0]
    names = [str(member.attrs.get("name", index)) for index, member in enumerate(members)]
    return xarray.Dataset(
        {"log_probability": (("pass", "image", "class"), np.stack(averages)), "label": first["label"]},
        attrs={
            **first.attrs,
            "passes": len(members),
            "members": "networks",
            "name": f"deep ensemble of {', '.join(names)}",
        },
    )


def require_same_images(results: Sequence[xarray.Dataset]) -> None:
    """Raise LandscapeError when results are of different images, which cannot be paired."""
    first = results[0]
    for other in results[1:]:
        if first.attrs["images_sha256"] != other.attrs["images_sha256"]:
            raise LandscapeError(
                "the networks were shown different images: give all of them the same --data and --images"
            )
