"""How steady predictions are when an image changes slightly from frame to frame (CIFAR-10-P)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from landscape.compute.settings import measurement
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.metrics import confidence
from landscape.predictions import Predictor
from landscape.robustness.cifar_files import CifarP
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, pieces
from landscape.store.protocol import Protocol

# Sequences of one piece of the journal.
_PIECE = 64


def sequence_consistency(log_probabilities: Tensor) -> tuple[Tensor, Tensor]:
    r"""Consistency of each sequence of predictions.

    Parameters
    ----------
    log_probabilities
        (sequences, frames, C), float64.

    Returns
    -------
    consistency : Tensor
        (sequences,) share of consecutive frames with the same most probable class.
    cross_entropy : Tensor
        (sequences,) mean over consecutive frames of :math:`-\sum_c p_{t+1,c} \log p_{t,c}`, nats. (The code of Park &
        Kim takes the mean over classes in the place of the sum.)
    """
    before, after = log_probabilities[:, :-1], log_probabilities[:, 1:]
    same = (before.argmax(-1) == after.argmax(-1)).double().mean(1)
    same = same.masked_fill(log_probabilities.isnan().flatten(1).any(1), torch.nan)
    probabilities = after.exp()
    # Zero times minus infinity is zero here: a class that is impossible in both frames adds nothing.
    terms = torch.where(probabilities > 0, probabilities * before, 0.0)
    return same, -terms.sum(-1).mean(1)


@measurement
def measure(
    model: nn.Module,
    folder: Path | str,
    like: Images,
    *,
    protocol: Protocol | None = None,
    passes: int = 50,
    batch: int | None = None,
    device: torch.device | str | None = None,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    """Consistency of the Monte-Carlo average under each perturbation.

    Every frame gets masks of its own, as it would when frames arrive one by one.

    Parameters
    ----------
    model, protocol, batch, device
        See `landscape.predictions.Predictor`; ``protocol.images`` counts sequences, the first ones.
    folder, like
        See `CifarP`.
    passes
        Monte-Carlo passes that are averaged.
    journal
        Keeps finished pieces.
    quiet
        Show no progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``perturbation``: ``consistency``, ``cross_entropy`` (nats), and their ``_stderr`` over sequences. Over
        ``(perturbation, sequence)``: both ``_of_sequence``, for pairing networks; not a number behind the last one.

    Raises
    ------
    LandscapeError
        When files are missing or damaged, or as `Predictor`.
    """
    protocol = protocol or Protocol(dropout="fresh", split="test")
    source = CifarP(folder, like)
    predictor = Predictor(model, like, protocol=protocol, batch=batch, device=device)
    samples = range(passes if predictor.stochastic else 1)
    work = []
    for name in source.names:
        sequences, frames = source.shape(name)
        if frames < 2:
            raise LandscapeError(f"{name}.npy has sequences of {frames} frame: consistency needs two or more")
        sequences = min(sequences, protocol.images or sequences)
        work += [(name, frames, start, min(start + _PIECE, sequences)) for start in range(0, sequences, _PIECE)]
    ranges = {f"{name} {start}": (name, frames, start, stop) for name, frames, start, stop in work}

    def compute(key: str) -> Arrays:
        name, frames, start, stop = ranges[key]
        images = source.load(name, start, stop)
        average = predictor.average(images, 0, len(images), samples, offset=start * frames)
        return {"values": torch.stack(sequence_consistency(average.view(stop - start, frames, -1))).cpu().numpy()}

    whole = dict(pieces(list(ranges), compute, journal=journal, what="perturbations", quiet=quiet))
    of_sequence = {
        name: np.concatenate([whole[key]["values"] for key, (owner, *_) in ranges.items() if owner == name], axis=1)
        for name in source.names
    }
    return _dataset(of_sequence).assign_attrs(passes=len(samples), images_sha256=source.identity())


def _dataset(of_sequence: Mapping[str, np.ndarray]) -> xarray.Dataset:
    longest = max(values.shape[1] for values in of_sequence.values())
    padded = np.full((len(of_sequence), 2, longest), np.nan)
    for row, values in zip(padded, of_sequence.values(), strict=True):
        row[:, : values.shape[1]] = values
    dataset = xarray.Dataset(coords={"perturbation": list(of_sequence)})
    for index, name in enumerate(("consistency", "cross_entropy")):
        kept = [values[index] for values in of_sequence.values()]
        dataset[name] = "perturbation", [values.mean() for values in kept]
        dataset[f"{name}_stderr"] = "perturbation", [float(confidence.standard_error(values)) for values in kept]
        dataset[f"{name}_of_sequence"] = ("perturbation", "sequence"), padded[:, index]
    return dataset
