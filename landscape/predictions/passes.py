"""Log-probabilities of Monte-Carlo dropout passes, made once and kept: everything else is computed from them."""

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from landscape import metrics
from landscape.compute import distributed
from landscape.compute.masks import BLOCK, Masks
from landscape.compute.progress import Progress
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.look import prefix
from landscape.look.forward import fold_in_place, gathered
from landscape.objective import require_finite
from landscape.objective.objective import examples, logits
from landscape.store.journal import Journal
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
        Any classifier of images (N, C, H, W); left as it was.
    data
        Images that it takes, to try it on.
    protocol
        Its `dropout` (``fresh``, or ``off`` for one deterministic pass), `mask_seed` and `dtype` count; batch norm must
        be ``running``.
    batch
        Images a forward pass; None: what the cache holds on a CPU, 256 on a GPU. It changes results by rounding only.
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

    def __init__(
        self,
        model: nn.Module,
        data: Images,
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
        require_finite(model)
        network = copy.deepcopy(model).eval().requires_grad_(False).to(device=self.device, dtype=self.dtype)
        self.network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        largest, calls = self._try(data)
        self.stochastic = protocol.dropout == "fresh" and calls > 0
        with torch.no_grad():
            fold_in_place(self.network, lambda: self.network(self.images(data, 0, 1)), set())
        self.batch = batch or self._choose_batch(largest)

    def images(self, data: Images, start: int, stop: int) -> Tensor:
        """Images `start` to `stop` as the network takes them."""
        batch = data.batch(start, stop, dtype=self.dtype, device=self.device)
        return batch.contiguous(memory_format=torch.channels_last)

    def batches(self, first: int, last: int) -> list[tuple[int, int]]:
        """Ranges (start, stop) of the batches between two images."""
        return [(start, min(start + self.batch, last)) for start in range(first, last, self.batch)]

    def masks(self) -> AbstractContextManager[Masks]:
        """The dropout masks of the protocol; address them before each pass."""
        return Masks.addressed(seed=self.protocol.mask_seed) if self.stochastic else Masks.off()

    @torch.no_grad()
    def passes(self, images: Tensor, first: int, samples: Sequence[int]) -> Tensor:
        """Log-probabilities (T, N, C), float64, of one pass for each of T mask draws.

        Parameters
        ----------
        images
            (N, channels, height, width), as `images` gives them.
        first
            Number of the first image, which decides its masks.
        samples
            Numbers of the mask draws; a deterministic network gives as many equal passes from one.
        """
        if not self.stochastic:
            with Masks.off():
                once = logits(self.network(images)).double().log_softmax(-1)
            return once.expand(len(samples), *once.shape)
        outputs = []
        with self.masks() as masks, prefix.shared(self.network, masks):
            for sample in samples:
                masks.address(first_example=first, sample=sample)
                outputs.append(logits(self.network(images)))
        return torch.stack(outputs).double().log_softmax(-1)

    def average(self, data: Images, first: int, last: int, samples: Sequence[int], *, offset: int = 0) -> Tensor:
        """Log-probabilities (last - first, C), float64, of the average over mask draws.

        Masks are those of images `offset` + `first` and on.
        """
        parts = [
            metrics.log_mean_exp(self.passes(self.images(data, start, stop), offset + start, samples))
            for start, stop in self.batches(first, last)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def _try(self, data: Images) -> tuple[int, int]:
        """Bytes of the largest activation of one image, and the number of dropout calls in a pass."""
        largest = 0

        def watch(module: nn.Module, arguments: Any, output: Any) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.numel() * output.element_size())

        handles = [module.register_forward_hook(watch) for module in self.network.modules()]
        try:
            with Masks.addressed() as masks:
                output = logits(self.network(self.images(data, 0, 1)))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if isinstance(error, (LandscapeError, torch.OutOfMemoryError)):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise LandscapeError(
                f"the network cannot take images of shape {data.shape}: {reason}; give --data that fits the network"
            ) from None
        finally:
            for handle in handles:
                handle.remove()
        if output.dim() != 2:
            raise LandscapeError(
                f"the network's output has shape {tuple(output.shape)}, not (images, classes): wrap it"
            )
        self.classes = output.shape[1]
        data.require_labels_below(self.classes)
        return largest, masks.calls

    def _choose_batch(self, largest: int) -> int:
        if self.device.type != "cpu":
            return 256
        # Whole blocks of masks: a block that is cut is drawn twice.
        return int(min(max(2 ** int(math.log2(max(_CACHE_BYTES // largest, 1))), BLOCK), 8 * BLOCK))


def measure(
    model: nn.Module,
    data: Images,
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
    pieces = [(start, min(start + PIECE, len(chosen))) for start in range(0, len(chosen), PIECE)]
    finished: dict[int, np.ndarray] = {}
    with Progress(len(chosen), f"{len(samples)} passes", unit="image", quiet=quiet or not distributed.is_main()) as bar:
        for place in distributed.share(range(len(pieces))):
            key, (first, last) = f"piece {place}", pieces[place]
            if journal is None or key not in journal:
                parts = [
                    predictor.passes(predictor.images(chosen, start, stop), start, samples).float().cpu()
                    for start, stop in predictor.batches(first, last)
                ]
                made = torch.cat(parts, dim=1).numpy()
                if journal is not None:
                    journal.write(key, {"log_probability": made})
            else:
                made = journal[key]["log_probability"]
            finished[place] = made
            bar.update(last - first)
    whole = gathered(finished)
    result = xarray.Dataset(
        {
            "log_probability": (
                ("pass", "image", "class"),
                np.concatenate([whole[place] for place in range(len(pieces))], axis=1),
                {"long_name": "log-probability", "units": "nats"},
            ),
            "label": ("image", chosen.labels.cpu().numpy()),
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
    names = [str(member.attrs.get("name", place)) for place, member in enumerate(members)]
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
