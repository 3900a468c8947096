"""Forward passes of a private copy of a network whose feature maps are looked at on the way."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape.compute.masks import BLOCK, Masks
from landscape.compute.settings import measurement
from landscape.data import Data, Images
from landscape.data.examples import Tree, count_of, leaves
from landscape.errors import LandscapeError
from landscape.look import depths, reuse
from landscape.objective.losses import called
from landscape.objective.network import Network, ranges
from landscape.objective.preparation import examples
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, joined, pieces
from landscape.store.protocol import Protocol

# Largest feature map of a batch in bytes: with its running sums it stays in the last-level cache of a core or two
# (benchmarks/feature_maps.py).
_CACHE_BYTES = 4 * 2**20

# Pieces of the journal that the images are cut into, at most.
PIECES = 20

Range = tuple[int, int]
Visit = Callable[[int, Tensor], None]
SampleVisit = Callable[[int, int, Tensor], None]


class Runner:
    """What `Passes` and `landscape.predictions.Predictor` share: forward passes in batches, one thread at a time."""

    batch: int

    def __init__(self, protocol: Protocol, device: torch.device | str | None, what: str) -> None:
        if protocol.batch_norm != "running":
            raise LandscapeError(
                f"{what} running batch-norm statistics, not {protocol.batch_norm!r}: give --batch-norm running"
            )
        self.protocol = protocol
        self.device = torch.device(device or protocol.device)
        self.dtype: torch.dtype = getattr(torch, protocol.dtype)
        # Hooks and what is kept between passes are on the network itself: one thread at a time.
        self._running = threading.RLock()

    def batches(self, first: int, last: int) -> list[Range]:
        """Ranges (start, stop) of the batches between two images."""
        return ranges(first, last, self.batch)

    def _choose_batch(self, largest: int) -> int:
        """Images per forward pass, from the bytes of the largest map of one."""
        if self.device.type != "cpu":
            return 256
        # Whole blocks of masks: a block that is cut is drawn twice.
        return int(min(max(2 ** int(math.log2(max(_CACHE_BYTES // largest, 1))), BLOCK), 8 * BLOCK))


class Passes(Runner):
    """A network, its points, and the images or other examples that are passed through it.

    The network is copied; in the copy, batch norm with running statistics is folded into the convolutions before it
    (exact but for rounding), except where a point lies between the two.

    Parameters
    ----------
    model
        Any network that takes the examples; left as it was.
    data
        Images, or any examples: outputs (N, T, C) of modules are then sequences of T tokens. Of padded ones, by an
        input called ``attention_mask``, the positions that count in every example are looked at. `protocol` says which
        of them.
    protocol
        Its `mask_seed`, `split`, `images`, `subset_seed`, `augmentation` and `dtype` count; batch norm must be
        ``running``.
    blocks
        Patterns of block names, or None to find them by structure; see `depths.find`.
    batch
        Images per forward pass; None: what the cache holds on a CPU, 256 on a GPU. It changes results by rounding only.
    device
        Where to compute; the protocol's device class unless given.

    Attributes
    ----------
    depths
        The points.
    dropout_calls
        Active dropout calls in one forward pass; 0 for a deterministic network.

    Raises
    ------
    LandscapeError
        When the network cannot take the examples, no block is found, no module returns a map or a sequence, a weight is
        not finite, or the protocol asks for other batch-norm statistics than the running ones.
    """

    @measurement
    def __init__(
        self,
        model: nn.Module,
        data: Data,
        *,
        protocol: Protocol | None = None,
        blocks: str | None = None,
        batch: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        protocol = protocol or Protocol()
        super().__init__(protocol, device, "feature maps are measured with")
        self.data = examples(data, protocol).to(self.device)
        self.network = Network(model, self.data, device=self.device, dtype=self.dtype, output=protocol.output)
        self.dropout_calls = self.network.dropout_calls
        self.depths = depths.find(
            self.network.module,
            self.images(0, 1),
            blocks=blocks,
            sequences=not isinstance(data, Images),
            counted=_counted(self.data),
        )
        self.network.fold(self.data, except_at={point.module_name for point in self.depths.points})
        largest = max(point.channels * point.height * point.width for point in self.depths.points)
        self.batch = batch or self._choose_batch(largest * self.dtype.itemsize)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def examples(self) -> str:
        """What is passed through, in a word."""
        return "images" if isinstance(self.data, Images) else "examples"

    def images(self, start: int, stop: int) -> Any:
        """Images or other examples `start` to `stop` as the network takes them."""
        return self.network.inputs(self.data, start, stop)

    @measurement
    @torch.no_grad()
    def deterministic(self, images: Tree, visit: Visit | None = None) -> Tensor:
        """Outputs (N, K) with every dropout the identity; `visit` sees the map at each point."""
        with self._running, Masks.off(), self._watched(visit):
            return self.network(images)

    @measurement
    @torch.no_grad()
    def stochastic(self, images: Tree, first: int, samples: Sequence[int], visit: SampleVisit | None = None) -> Tensor:
        """Outputs (T, N, K) of one pass for each of T mask draws; what comes before the first dropout is done once.

        With `visit`, maps are what is wanted, and no outputs are kept: (0,).

        Parameters
        ----------
        images
            The images from number `first` on, as `images` gives them (or changed by some noise).
        first
            Number of the first image, which decides its masks.
        samples
            Numbers of the mask draws.
        visit
            ``visit(sample, index, map)`` sees the map at each point; maps that no mask reaches are shown in the first
            pass alone.
        """
        outputs: list[Tensor] = []
        constant: set[int] = set()

        def seen(index: int, features: Tensor) -> None:
            if visit is not None and index not in constant:
                visit(sample, index, features)

        module, masked = self.network.module, Masks.addressed(seed=self.protocol.mask_seed)
        with self._running, masked as masks, reuse.before_dropout(module, masks) as kept, self._watched(visit and seen):
            for sample in samples:
                masks.address(first_example=first, sample=sample, examples=count_of(images))
                output = called(module, images) if visit is not None else self.network(images)
                if visit is None:
                    outputs.append(output)
                if not constant:
                    constant |= {
                        index for index, point in enumerate(self.depths.points) if kept.covers(point.module_name)
                    }
        return torch.stack(outputs) if outputs else torch.empty(0)

    @contextmanager
    def _watched(self, visit: Visit | None) -> Iterator[None]:
        if visit is None:
            yield
        else:
            with depths.watch(self.network.module, self.depths, visit):
                yield


def _counted(data: Data) -> dict[int, tuple[int, int]]:
    """First and last + 1 of the positions that no example pads, by the length of the padded sequences."""
    counted: dict[int, tuple[int, int]] = {}
    for path, mask in [] if isinstance(data, Images) else leaves(data.inputs, "inputs"):
        if path.endswith("attention_mask") and mask.dim() == 2:
            everywhere = (mask != 0).all(0).cpu().numpy()
            edges = np.flatnonzero(np.diff(np.concatenate([[0], everywhere.astype(np.int8), [0]])))
            runs = edges.reshape(-1, 2)
            start, stop = max(runs.tolist(), key=lambda run: run[1] - run[0], default=(0, 0))
            if stop - start < 2:
                raise LandscapeError(
                    f"{data.title}: fewer than 2 positions in a row count in every example by {path}: leave out the "
                    "shortest examples"
                )
            counted[len(everywhere)] = (start, stop)
    return counted


def in_pieces(
    runs: Passes, compute: Callable[[Sequence[Range]], Arrays], *, journal: Journal | None, what: str, quiet: bool
) -> list[Arrays]:
    """What `compute` gives for the batches of each piece of the images, in order; at most `PIECES` of them."""
    batches = runs.batches(0, len(runs))
    count = min(PIECES, len(batches))
    batches_of = {
        f"share {piece}": batches[len(batches) * piece // count : len(batches) * (piece + 1) // count]
        for piece in range(count)
    }
    computed = dict(
        pieces(
            list(batches_of),
            lambda key: compute(batches_of[key]),
            journal=journal,
            what=what,
            unit="image",
            steps=[some[-1][1] - some[0][0] for some in batches_of.values()],
            quiet=quiet,
        )
    )
    return [computed[key] for key in batches_of]


def of_images(
    runs: Passes, compute: Callable[[int, int], Arrays], *, journal: Journal | None, what: str, quiet: bool
) -> dict[str, np.ndarray]:
    """Arrays over all images, by name, of what ``compute(start, stop)`` gives for the images of a batch."""

    def of_batches(batches: Sequence[Range]) -> Arrays:
        return joined([compute(*batch) for batch in batches])

    return joined(in_pieces(runs, of_batches, journal=journal, what=what, quiet=quiet))
