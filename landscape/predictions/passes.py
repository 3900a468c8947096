"""Log-probabilities of Monte-Carlo dropout passes, computed once and saved: everything else follows from them."""

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
from landscape.data.examples import Tree, count_of
from landscape.errors import LandscapeError
from landscape.look import reuse
from landscape.look.forward import Runner
from landscape.objective.network import Network, ranges
from landscape.objective.preparation import examples
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, pieces
from landscape.store.protocol import Protocol

# Images of one piece of the journal: whole blocks of masks, seconds to a minute of work.
PIECE = 16 * BLOCK


class Predictor(Runner):
    """A network prepared for Monte-Carlo passes that predict class probabilities.

    The network is copied; in the copy, batch norm is folded into the convolutions before it (exact but for rounding),
    convolutions run channels last, and what comes before the first dropout is computed once for all passes.

    Parameters
    ----------
    model
        Any classifier, of one row of scores (N, C) for N examples; left as it was.
    data
        Examples that it takes; it is tried on the first two.
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
        have classes, or has values that are not finite; for negative labels, fixed masks, or batch norm that is not
        ``running``.
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
        protocol = protocol or Protocol(dropout="fresh", split="test")
        super().__init__(protocol, device, "predictions use")
        if protocol.dropout == "fixed":
            raise LandscapeError(
                "an ensemble needs masks that differ from pass to pass: give --dropout fresh (or off for one pass)"
            )
        self.network = Network(model, data, device=self.device, dtype=self.dtype, output=protocol.output)
        self.classes = self._require_scores(data)
        self.stochastic = protocol.dropout == "fresh" and self.network.dropout_calls > 0
        self.network.fold(data)
        self.batch = batch or self._choose_batch(self.network.activation_bytes)

    def _require_scores(self, data: Data) -> int:
        """Number of classes of the scores that the network gives."""
        classes = self.network.require_class_scores(data)
        labels = data.target(0, len(data))
        assert isinstance(labels, Tensor)  # checked by now
        if int(labels.min()) < 0:
            raise LandscapeError(
                f"label {int(labels.min())} in {data.name} is not a class: leave out the examples without one"
            )
        return classes

    def images(self, data: Data, start: int, stop: int) -> Tree:
        """Examples `start` to `stop` as the network takes them."""
        return self.network.inputs(data, start, stop)

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
            Index of the first image, which decides its masks.
        samples
            Indices of the mask draws; a deterministic network runs once, and its output is repeated.
        """
        outputs = self.outputs(images, first, samples)
        if not self.stochastic:
            logs: Tensor = outputs[0].double().log_softmax(-1)
            return logs.expand(len(samples), *logs.shape)
        return torch.stack(outputs).double().log_softmax(-1)

    @torch.no_grad()
    def outputs(self, images: Tree, first: int, samples: Sequence[int]) -> list[Any]:
        """What the network returns in each pass; a deterministic one runs once."""
        if not self.stochastic:
            with self._running, Masks.off():
                return [self.network(images)]
        outputs = []
        with self._running, self.masks() as masks, reuse.before_dropout(self.network.module, masks):
            for sample in samples:
                masks.address(first_example=first, sample=sample, examples=count_of(images))
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
        Monte-Carlo passes *T*, 50 as in the paper; a network without dropout runs once.
    journal
        Saves finished pieces.
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

    Examples
    --------
    >>> import landscape
    >>> model = landscape.build("resnet_mcdo_18", num_classes=10, width=2)
    >>> images = landscape.data.load("digits", "test")
    >>> passes = measure(model, images, protocol=landscape.Protocol(dropout="fresh", split="test", images=8), passes=3)
    >>> passes["log_probability"].shape
    (3, 8, 10)
    """
    protocol = protocol or Protocol(dropout="fresh", split="test")
    chosen = examples(data, protocol)
    predictor = Predictor(model, chosen, protocol=protocol, batch=batch, device=device)
    samples = range(passes if predictor.stochastic else 1)
    bounds = {f"piece {index}": part for index, part in enumerate(ranges(0, len(chosen), PIECE))}

    def compute(key: str) -> Arrays:
        parts = [
            predictor.passes(predictor.images(chosen, start, stop), start, samples).float().cpu()
            for start, stop in predictor.batches(*bounds[key])
        ]
        return {"log_probability": torch.cat(parts, dim=1).numpy()}

    steps = [last - first for first, last in bounds.values()]
    what = f"{len(samples)} passes"
    computed = dict(pieces(list(bounds), compute, journal=journal, what=what, unit="image", steps=steps, quiet=quiet))
    logs = np.concatenate([computed[key]["log_probability"] for key in bounds], axis=1)
    labels = chosen.target(0, len(chosen))
    assert isinstance(labels, Tensor)  # the predictor has checked it
    return xarray.Dataset(
        {
            "log_probability": (
                ("pass", "image", "class"),
                logs,
                {"long_name": "log-probability", "units": "nats"},
            ),
            "label": ("image", labels.cpu().numpy()),
        },
        attrs=attributes_of(chosen, data, len(samples)),
    )


def attributes_of(chosen: Data, data: Data, passes: int) -> dict[str, Any]:
    """What was passed through the network, as attributes of a result: some examples of the data."""
    return {
        "images": len(chosen),
        "population": len(data),
        "passes": passes,
        "members": "passes",
        "images_sha256": chosen.sha256,
    }


def deep_ensemble(members: Sequence[xarray.Dataset]) -> xarray.Dataset:
    """Independently trained networks as one ensemble, each the average of its own passes.

    Parameters
    ----------
    members
        What `measure` gives for each network, on the same images.

    Returns
    -------
    xarray.Dataset
        As `measure`, with networks instead of passes: sizes of its curves are numbers of networks.

    Raises
    ------
    LandscapeError
        For fewer than two members, or members measured on different images or with different numbers of classes.
    """
    if len(members) < 2:
        raise LandscapeError(f"a deep ensemble of {len(members)} network: give two checkpoints or more")
    require_same_images(members)
    classes = sorted({member.sizes["class"] for member in members})
    if len(classes) > 1:
        raise LandscapeError(
            f"a deep ensemble of networks with {' and '.join(map(str, classes))} outputs: give ones of the same classes"
        )
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
