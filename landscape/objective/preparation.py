"""What an objective chooses before it computes anything: examples, loss, and examples per micro-batch."""

import math
from typing import overload

import torch
from torch import Tensor

from landscape.compute.settings import outside_inference
from landscape.data import Data, Images
from landscape.data.examples import Examples
from landscape.errors import LandscapeError
from landscape.objective import losses
from landscape.objective.losses import Loss
from landscape.store.protocol import Protocol

# Largest activation of a micro-batch in bytes: what the last-level cache of a core or two holds beside its gradient
# (measured in benchmarks/hessian.py; within a factor of two the choice does not matter).
_CACHE_BYTES = 4 * 2**20
# Weights, in bytes, that one byte of a micro-batch's largest activation pays for, when they are more than the cache.
_WEIGHTS_PER_ACTIVATION = 3
# Examples on which a loss of the user's own is tried.
_TRIED = 8


@overload
def examples(data: Images, protocol: Protocol) -> Images: ...
@overload
def examples(data: Data, protocol: Protocol) -> Data: ...
def examples(data: Data, protocol: Protocol) -> Data:
    """The examples that a protocol selects: the seeded sample, normalised, augmented or not.

    Raises
    ------
    LandscapeError
        When it selects more examples than there are.
    """
    data = data.normalized_by(protocol.image_mean, protocol.image_std).with_each(outside_inference)
    if protocol.images is not None:
        data = data.subset(protocol.images, seed=protocol.subset_seed)
    return data.augmented(seed=protocol.augmentation_seed) if protocol.augmentation == "frozen" else data


def loss_of_protocol(name: str) -> Loss:
    """The loss that a protocol names. It may come from a file, so nothing is imported.

    Raises
    ------
    LandscapeError
        When the name is one of a function.
    """
    if ":" in name or name.partition(",")[0] not in losses.NAMES:
        raise LandscapeError(f"the protocol's loss is {name}, a function: give it with loss=")
    return losses.resolved(name)


def with_labels(data: Data) -> Examples:
    """Examples whose targets are among the network's inputs, as ``labels``."""
    if isinstance(data, Images):
        raise LandscapeError("--loss model is for networks that take labels among their inputs: name the loss instead")
    return data.with_targets_as_inputs("labels")


def trial_rows(data: Data) -> Tensor:
    """Indices of a few examples spread over the data, including those with fewest and most targets that count."""
    rows = torch.linspace(0, len(data) - 1, min(_TRIED, len(data))).round().long()
    targets = data.target(0, len(data))
    if isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dim() > 1:
        counts = (targets != losses.IGNORED).flatten(1).sum(1).cpu()
        rows = torch.cat([rows, counts.argmax()[None], counts.argmin()[None]]).unique()
    return rows


def micro_batch_size(
    data: Data, protocol: Protocol, device: torch.device, activation_bytes: int, weight_bytes: int
) -> int:
    """Examples per micro-batch, from the bytes of the largest activation of one example and of all weights."""
    if protocol.batch_norm == "batch":
        return 128
    if device.type != "cpu":
        return 256
    # Every micro-batch reads all weights and writes all their gradients, so that more images should share heavy weights
    # (a product of the ResNet-18 of width 64: 2.4 gradients in micro-batches of 16, 1.9 in those of 64).
    size = max(_CACHE_BYTES, weight_bytes // _WEIGHTS_PER_ACTIVATION) // max(activation_bytes, 1)
    # Powers of two from 16: below, the calls themselves cost more than the cache misses that they save. An example
    # whose activations fill the cache alone, such as a long sequence, keeps every call busy.
    fewest = 16 if isinstance(data, Images) or activation_bytes < _CACHE_BYTES else 1
    return int(min(max(2 ** round(math.log2(max(size, 1))), fewest), 128))
