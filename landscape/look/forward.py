"""Forward passes of a private copy of a network whose feature maps are looked at on the way."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from landscape.compute import distributed
from landscape.compute.masks import BLOCK, Masks
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.look import depths, prefix
from landscape.objective import folding, require_finite
from landscape.objective.objective import examples, logits
from landscape.store.protocol import Protocol

# Largest feature map of a micro-batch in bytes: with its running sums it stays in the last-level cache of a core or two
# (benchmarks/feature_maps.py).
_CACHE_BYTES = 4 * 2**20

Piece = TypeVar("Piece")
Visit = Callable[[int, Tensor], None]
SampleVisit = Callable[[int, int, Tensor], None]


class Passes:
    """A network, its points, and the images that are passed through it.

    The network is copied; in the copy, batch norm with running statistics is folded into the convolutions before it
    (exact but for rounding), except where a point lies between the two.

    Parameters
    ----------
    model
        Any network that maps images (N, C, H, W) to outputs; left as it was.
    data
        The images; `protocol` says which of them.
    protocol
        Its `mask_seed`, `split`, `images`, `subset_seed`, `augmentation` and `dtype` count; batch norm must be
        ``running``.
    blocks
        Patterns of block names, or None to find them by structure; see `depths.find`.
    batch
        Images a forward pass; None: what the cache holds on a CPU, 256 on a GPU. It changes results by rounding only.
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
        When the network cannot take the images, no block is found, a weight is not finite, or the protocol asks for
        other batch-norm statistics than the running ones.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Images,
        *,
        protocol: Protocol | None = None,
        blocks: str | None = None,
        batch: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.protocol = protocol = protocol or Protocol()
        if protocol.batch_norm != "running":
            raise LandscapeError(
                f"feature maps are measured with running batch-norm statistics, not {protocol.batch_norm!r}: "
                "give --batch-norm running"
            )
        self.device = torch.device(device or protocol.device)
        self.dtype: torch.dtype = getattr(torch, protocol.dtype)
        self.data = examples(data, protocol).to(self.device)
        require_finite(model)
        network = copy.deepcopy(model).eval().requires_grad_(False).to(device=self.device, dtype=self.dtype)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.depths = self._find(blocks)
        self.dropout_calls = self._count_dropout()
        fold_in_place(
            self.network, lambda: self.network(self.images(0, 1)), {point.module_name for point in self.depths.points}
        )
        self.batch = batch or self._choose_batch()

    def __len__(self) -> int:
        return len(self.data)

    def images(self, start: int, stop: int) -> Tensor:
        """Images `start` to `stop` as the network takes them."""
        images = self.data.batch(start, min(stop, len(self)), dtype=self.dtype)
        return images.contiguous(memory_format=torch.channels_last)

    def batches(self, first: int, last: int) -> list[tuple[int, int]]:
        """Ranges (start, stop) of the batches between two images."""
        return [(start, min(start + self.batch, last)) for start in range(first, last, self.batch)]

    @torch.no_grad()
    def deterministic(self, images: Tensor, visit: Visit | None = None) -> Tensor:
        """Outputs (N, K) with every dropout the identity; `visit` sees the map at each point."""
        with Masks.off(), self._watched(visit):
            return logits(self.network(images))

    @torch.no_grad()
    def stochastic(
        self, images: Tensor, first: int, samples: Sequence[int], visit: SampleVisit | None = None
    ) -> Tensor:
        """Outputs (T, N, K) of one pass for each of T mask draws; what comes before the first dropout is done once.

        Parameters
        ----------
        images
            (N, C, H, W), the images from number `first` on, as `images` gives them (or changed by some noise).
        first
            Number of the first image, which decides its masks.
        samples
            Numbers of the mask draws.
        visit
            ``visit(sample, place, map)`` sees the map at each point; maps that no mask reaches are shown in the first
            pass alone.
        """
        outputs: list[Tensor] = []
        constant: set[int] = set()

        def seen(place: int, features: Tensor) -> None:
            if visit is not None and place not in constant:
                visit(sample, place, features)

        masked = Masks.addressed(seed=self.protocol.mask_seed)
        with masked as masks, prefix.shared(self.network, masks) as kept, self._watched(visit and seen):
            for sample in samples:
                masks.address(first_example=first, sample=sample)
                outputs.append(logits(self.network(images)))
                if not constant:
                    constant |= {
                        place for place, point in enumerate(self.depths.points) if kept.covers(point.module_name)
                    }
        return torch.stack(outputs)

    @contextmanager
    def _watched(self, visit: Visit | None) -> Iterator[None]:
        if visit is None:
            yield
        else:
            with depths.watch(self.network, self.depths, visit):
                yield

    def _find(self, blocks: str | None) -> depths.Depths:
        try:
            return depths.find(self.network, self.images(0, 1), blocks=blocks)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if isinstance(error, (LandscapeError, torch.OutOfMemoryError)):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise LandscapeError(
                f"the network cannot take images of shape {self.data.shape}: {reason}; give --data that fits it"
            ) from None

    @torch.no_grad()
    def _count_dropout(self) -> int:
        with Masks.addressed(seed=0) as masks:
            masks.address(first_example=0, sample=0)
            self.network(self.images(0, 1))
            return masks.calls

    def _choose_batch(self) -> int:
        if self.device.type != "cpu":
            return 256
        width = torch.finfo(self.dtype).bits // 8
        largest = max(point.channels * point.height * point.width for point in self.depths.points) * width
        # Whole blocks of masks: a block that is cut is drawn twice.
        return int(min(max(2 ** int(math.log2(max(_CACHE_BYTES // largest, 1))), BLOCK), 8 * BLOCK))


def fold_in_place(network: nn.Module, forward: Callable[[], Tensor], points: set[str]) -> None:
    """Put the folded weights in place, once and for all, wherever the convolution's own output is not a point."""
    with Masks.off():
        pairs = folding.pairs(network, forward)
    for convolution_name, norm_name in pairs:
        norm = network.get_submodule(norm_name)
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        if convolution_name in points or norm.running_mean is None or norm.running_var is None:
            continue
        convolution = network.get_submodule(convolution_name)
        assert isinstance(convolution, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        weight, bias = folding.FoldedConvolution(convolution, norm).weight_and_bias()
        layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        convolution.weight = nn.Parameter(weight.contiguous(memory_format=layout), requires_grad=False)
        convolution.bias = nn.Parameter(bias, requires_grad=False)
        folding.replace(network, norm_name, nn.Identity())


def gathered(pieces: Mapping[int, Piece]) -> dict[int, Piece]:
    """The pieces of all processes, by number, on every process."""
    everything = dict(pieces)
    if distributed.world_size() > 1:
        received: list[Any] = [None] * distributed.world_size()
        torch.distributed.all_gather_object(received, everything)
        for part in received:
            everything |= part
    return everything
