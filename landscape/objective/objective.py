"""The scalar function of the weights that everything else measures."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape.compute import distributed, workers
from landscape.compute.masks import Masks
from landscape.compute.settings import measurement, outside_inference
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.objective import folding
from landscape.objective.network import Network, frozen_randomness, logits, ranges
from landscape.objective.parameters import ParameterSpace
from landscape.objective.recalibration import Recalibration, tracked
from landscape.store.protocol import Protocol

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {"cross_entropy": nn.functional.cross_entropy}

# Largest activation of a micro-batch in bytes: what the last-level cache of a core or two holds beside its gradient
# (measured in benchmarks/hessian.py; within a factor of two the choice does not matter).
_CACHE_BYTES = 4 * 2**20
# Weights, in bytes, that one byte of a micro-batch's largest activation pays for, when they are more than the cache.
_WEIGHTS_PER_ACTIVATION = 3


class Weights(NamedTuple):
    """Tensors that the network is run with at one point.

    Attributes
    ----------
    parameters
        In the order of :attr:`Objective.names`.
    statistics
        Recalibrated batch-norm statistics that belong there, by the name of their buffer; empty for those that the
        network holds.
    """

    parameters: list[Tensor]
    statistics: dict[str, Tensor]


@dataclass(frozen=True)
class Terms:
    """The regularised loss and its two terms, in nats."""

    loss: float
    cross_entropy: float
    l2: float


class Objective:
    r"""Mean loss plus L2 term over a fixed set of examples, as a function of a flat parameter vector.

    .. math:: L(w) = \frac1N \sum_{n=1}^N \ell(f_w(x_n), y_n) + \mathrm{L2}(w)

    The mean is over examples, so that a ragged last micro-batch weighs what its size says. The network is copied: the
    user's model, its mode, gradients and buffers are never touched.

    Parameters
    ----------
    model
        Any network that maps images (N, C, H, W) to outputs; an output object with ``logits`` is understood.
    data
        The images; `protocol` says which of them and whether augmented.
    loss
        ``"cross_entropy"``, or a function (outputs, labels) -> mean loss over the batch, itself the mean of a loss of
        each example.
    weight_decay
        The coefficient *wd* of SGD; see :attr:`Protocol.l2` for the term it makes.
    protocol
        How everything else is to be read.
    micro_batch
        Examples a forward pass, or None for as many as the cache holds on a CPU, and 256 on a GPU. It changes results
        by rounding only, except with ``batch_norm="batch"``, where it is the batch that is normalised (128 unless
        given, as in the paper's training).
    device
        Where to compute; the protocol's device class unless given.
    memory
        Bytes that kept graphs may take, or None for half of what is available.
    sharded
        Under torchrun, take only this process's share of the examples, and sum over processes.

    Attributes
    ----------
    space
        Which parameters count, and where they stand in the vector.
    point
        The network's own parameters, flat, (P,).
    images
        Number of examples *N*.
    population
        Number of images that they are a sample of; infinity when unknown, see :class:`landscape.data.Images`.

    Raises
    ------
    LandscapeError
        When the network cannot take the images, has fewer outputs than classes, is not deterministic under the
        protocol, or has parameters that are not finite.
    """

    @measurement
    def __init__(
        self,
        model: nn.Module,
        data: Images,
        *,
        loss: str | Loss = "cross_entropy",
        weight_decay: float = 0.0,
        protocol: Protocol | None = None,
        micro_batch: int | None = None,
        device: torch.device | str | None = None,
        memory: int | None = None,
        sharded: bool = False,
    ) -> None:
        self.protocol = protocol = protocol or Protocol()
        self.device = torch.device(device or protocol.device)
        self.dtype: torch.dtype = getattr(torch, protocol.dtype)
        self.memory = memory
        self.weight_decay = weight_decay
        self.loss = _named_loss(loss)
        self.classifies = self.loss is nn.functional.cross_entropy
        self.sharded = sharded

        self.population: float = math.inf if data.population is None else data.population
        self.data = examples(data, protocol)
        self.images = len(self.data)
        self.first, self.last = distributed.shard(self.images) if sharded else (0, self.images)
        self.data = self.data.to(self.device)

        self.network = Network(model, self.data, device=self.device, dtype=self.dtype, masks=self.masks)
        if self.classifies:
            self.network.require_class_scores(self.data)
        module = self.network.module
        parameters = dict(module.named_parameters())
        weight_bytes = sum(value.numel() * value.element_size() for value in parameters.values())
        self.micro_batch = micro_batch or self._choose_micro_batch(self.network.activation_bytes, weight_bytes)

        statistics = tracked(module)
        self.has_batch_norm = bool(folding.batch_norms(module))
        recalibrates = protocol.batch_norm == "recalibrated" and statistics
        self._recalibration = Recalibration(module) if recalibrates else None
        unused = self._unused(parameters)
        with frozen_randomness(self.device), self.masks() as masks:
            masks.address(first_example=0, sample=0)
            folding.prepare(module, lambda: module(self.batch(0, 2)), batch_statistics=protocol.batch_norm == "batch")
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self.inner_names = {name: names[id(parameter)] for name, parameter in parameters.items()}
        self.space = ParameterSpace(parameters.items(), selection=protocol.parameters, unused=unused)
        self._decayed = {name: value for name, value in parameters.items() if value.requires_grad}
        self.point = self.space.flatten(parameters[name].detach() for name in self.space.names)
        for parameter in parameters.values():
            parameter.requires_grad_(False)
        self._replicas = workers.Replicas(module)
        # Rounding of curvature products, measured when first asked for.
        self.roundings: dict[str, float] = {}
        buffers = {id(buffer): name for name, buffer in module.named_buffers()}
        self._inner_statistics = {name: buffers.get(id(value), "") for name, value in statistics.items()}
        for name, value in self._statistics(self.point, 0).items():
            module.get_buffer(name).copy_(value)

    def __repr__(self) -> str:
        return (
            f"Objective({self.size:,} parameters, {self.images:,} images of {self.data.name} ({self.data.split}), "
            f"weight_decay={self.weight_decay:g}, protocol={self.protocol.hash}, "
            f"{self.protocol.dtype} on {self.device})"
        )

    # Construction -----------------------------------------------------------------------------------------------------

    def _choose_micro_batch(self, activation_bytes: int, weight_bytes: int) -> int:
        if self.protocol.batch_norm == "batch":
            return 128
        if self.device.type != "cpu":
            return 256
        # Every micro-batch reads all weights and writes all their gradients: heavy weights want more images to share
        # them (a product of the ResNet-18 of width 64: 2.4 gradients in micro-batches of 16, 1.9 in those of 64).
        wanted = max(_CACHE_BYTES, weight_bytes // _WEIGHTS_PER_ACTIVATION) // max(activation_bytes, 1)
        # Powers of two from 16: below, the calls themselves cost more than the cache misses that they save.
        return int(min(max(2 ** round(math.log2(max(wanted, 1))), 16), 128))

    def _unused(self, parameters: dict[str, nn.Parameter]) -> list[str]:
        """Names of trainable parameters that the outputs do not depend on."""
        wanted = {name: value for name, value in parameters.items() if value.requires_grad}
        if not wanted:
            return []
        with frozen_randomness(self.device), self.masks() as masks, torch.enable_grad():
            masks.address(first_example=0, sample=0)
            total = self.network(self.batch(0, 2)).sum()
            if not total.requires_grad:
                return list(wanted)
            gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
        return [name for name, gradient in zip(wanted, gradients, strict=True) if gradient is None]

    def _changed(self, **attributes: Any) -> "Objective":
        """The same objective but for some attributes; shares everything else."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **attributes)
        return other

    # Coordinates ------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of coordinates *P*."""
        return self.space.size

    @property
    def names(self) -> list[str]:
        """Names of the parameters that count."""
        return self.space.names

    @property
    def left_out(self) -> dict[str, str]:
        """Parameters that do not count, each with the reason."""
        return self.space.left_out

    def restricted(self, names: Sequence[str]) -> "Objective":
        """The same function of some of the parameters alone, the others held where they are; shares the network."""
        chosen = set(names)
        tensors = dict(zip(self.space.names, self.space.split(self.point), strict=True))
        space = ParameterSpace([(name, nn.Parameter(tensors[name])) for name in self.space.names if name in chosen])
        point = space.flatten(tensors[name] for name in space.names)
        return self._changed(space=space, point=point, roundings={})

    def reordered(self, order: Tensor) -> "Objective":
        """The same function with its examples in another order (N,); shares the network."""
        return self._changed(data=self.data.select(order))

    def holding_statistics(self) -> "Objective":
        """The same function with batch-norm statistics held at the network's own point; shares the network."""
        return self._changed(_recalibration=None)

    def within(self, memory: int) -> "Objective":
        """The same function, its kept graphs in so many bytes; shares the network."""
        return self._changed(memory=memory)

    @measurement
    def in_double(self) -> "Objective":
        """The same function, computed in float64 at the same weights; copies the network."""
        module = self.private_module().double()
        parameters = dict(module.named_parameters())
        return self._changed(
            protocol=self.protocol.replace(dtype="float64"),
            dtype=torch.float64,
            network=self.network.holding(module, torch.float64),
            point=self.point.double(),
            _decayed={name: parameters[self.inner_names[name]] for name in self._decayed},
            _recalibration=None if self._recalibration is None else self._recalibration.in_double(),
            _replicas=workers.Replicas(module),
            roundings={},
        )

    def private_module(self) -> nn.Module:
        """A copy of the prepared network, with tensors of its own under the names of :attr:`inner_names`."""
        return self._replicas.apart()

    # Evaluation -------------------------------------------------------------------------------------------------------

    def masks(self) -> Masks:
        """The dropout masks of the protocol; address them before each pass."""
        return Masks.off() if self.protocol.dropout == "off" else Masks.addressed(seed=self.protocol.mask_seed)

    def batch(self, start: int, stop: int) -> Tensor:
        """Examples `start` to `stop`, as the network takes them."""
        return self.network.images(self.data, start, stop)

    def micro_batches(
        self, first: int | None = None, last: int | None = None, *, size: int | None = None
    ) -> list[tuple[int, int]]:
        """Ranges (start, stop) of the micro-batches between two examples, this process's share unless given."""
        first = self.first if first is None else first
        last = self.last if last is None else last
        return ranges(first, last, size or self.micro_batch)

    @measurement
    def outputs(
        self,
        parameters: Sequence[Tensor],
        start: int,
        stop: int,
        *,
        sample: int = 0,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Network outputs (stop - start, K) for some examples.

        Parameters
        ----------
        parameters
            One tensor for each name in :attr:`names`; may require gradients.
        start, stop
            Which examples.
        sample
            Which draw of the dropout masks, when the protocol has any.
        statistics
            Batch-norm statistics that belong to the parameters (:attr:`Weights.statistics`); those of the network's
            own point unless given.
        """
        inner = {self.inner_names[name]: value for name, value in zip(self.space.names, parameters, strict=True)}
        with self.masks() as masks, self._replicas.one() as network:
            masks.address(first_example=start, sample=sample)
            return logits(functional_call(network, {**inner, **(statistics or {})}, (self.batch(start, stop),)))

    def labels(self, start: int, stop: int) -> Tensor:
        """Labels of some examples."""
        return self.data.labels[start:stop]

    @measurement
    def weights(self, point: Tensor | None = None, *, sample: int = 0) -> Weights:
        """What the network is run with at a point (P,): its own unless given.

        `sample` is the draw of the dropout masks under which batch norm is recalibrated, if it is.
        """
        if point is None:
            return Weights(self.space.split(self.point), {})
        if point.shape != self.point.shape:
            raise LandscapeError(f"a point has {tuple(point.shape)} entries; this objective takes ({self.size},)")
        point = outside_inference(point.to(device=self.device, dtype=self.dtype))
        return Weights(self.space.split(point), self._statistics(point, sample))

    def _statistics(self, point: Tensor, sample: int) -> dict[str, Tensor]:
        """Recalibrated batch-norm statistics by name of the inner buffer; none unless the protocol has them."""
        if self._recalibration is None:
            return {}
        parameters = dict(zip(self.space.names, self.space.split(point), strict=True))
        bounds = ranges(0, self.images, max(128, self.micro_batch))
        batches = ((start, self.batch(start, stop)) for start, stop in bounds)
        found = self._recalibration.statistics(parameters, batches, self.masks, sample=sample)
        return {self._inner_statistics[name]: value for name, value in found.items()}

    @measurement
    @torch.no_grad()
    def value(self, point: Tensor | None = None, *, sample: int = 0) -> Terms:
        """The regularised loss at a point, and its terms apart; float64 sums over examples.

        Parameters
        ----------
        point
            Flat parameters (P,), or None for the network's own.
        sample
            Which draw of the dropout masks.
        """
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        batches = self.micro_batches()
        weights = self.weights(point, sample=sample)

        @torch.no_grad()
        def outputs(bounds: tuple[int, int]) -> Tensor:
            return self.outputs(weights.parameters, *bounds, sample=sample, statistics=weights.statistics)

        for bounds, found in zip(batches, workers.each(outputs, batches, self.device), strict=True):
            total += self.example_losses(found, self.labels(*bounds)).sum()
        mean = float(self.reduced(total) / self.images)
        l2 = float(self.l2(weights.parameters))
        return Terms(loss=mean + l2, cross_entropy=mean, l2=l2)

    def example_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of each example (N,), float64, from outputs of any precision; without the L2 term."""
        if self.classifies:
            return nn.functional.cross_entropy(outputs.double(), labels, reduction="none")
        single = [self.loss(outputs[n : n + 1], labels[n : n + 1]) for n in range(len(labels))]
        return torch.stack(single).double()

    @measurement
    def gradient(self, point: Tensor | None = None, *, sample: int = 0) -> Tensor:
        """Gradient (P,) of the regularised loss at a point."""
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        weights = self.weights(point, sample=sample)
        leaves = [value.detach().requires_grad_() for value in weights.parameters]
        for start, stop in self.micro_batches():
            with torch.enable_grad():
                loss = self.batch_loss(leaves, start, stop, sample=sample, statistics=weights.statistics)
            total += self.space.flatten(torch.autograd.grad(loss, leaves))
        total = self.reduced(total)
        l2_leaves = [value.detach().requires_grad_() for value in weights.parameters]
        with torch.enable_grad():
            l2 = self.l2(l2_leaves)
        if l2.requires_grad:
            total += self.space.flatten(torch.autograd.grad(l2, l2_leaves))
        return total

    @measurement
    def batch_loss(
        self,
        parameters: Sequence[Tensor],
        start: int,
        stop: int,
        *,
        sample: int = 0,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """What examples `start` to `stop` add to the mean loss: these sum to the whole, without the L2 term."""
        outputs = self.outputs(parameters, start, stop, sample=sample, statistics=statistics)
        return self.loss(outputs, self.labels(start, stop)) * ((stop - start) / self.images)

    def l2(self, parameters: Sequence[Tensor]) -> Tensor:
        """The L2 term by the protocol's reading, over every trainable parameter, counted as coordinate or not."""
        if self.protocol.l2 == "none" or self.weight_decay == 0:
            return torch.zeros((), dtype=self.dtype, device=self.device)
        tensors = self.decayed(parameters)
        if self.protocol.l2 == "exact":
            return self.weight_decay / 2 * torch.stack([value.double().square().sum() for value in tensors]).sum()
        return self.weight_decay * torch.stack([value.double().norm() for value in tensors]).sum()

    def decayed(self, parameters: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Every trainable parameter, counted as coordinate or not; coordinates as given, or at the network's point."""
        chosen = self.space.split(self.point) if parameters is None else parameters
        given = dict(zip(self.space.names, chosen, strict=True))
        return [given.get(name, value) for name, value in self._decayed.items()]

    def l2_product(self, parameters: Sequence[Tensor], vectors: Tensor) -> Tensor:
        r"""Hessian of the L2 term times flat vectors (P, k): wd v for the exact reading.

        For the unsquared reading, tensor by tensor, :math:`wd\,(v - \hat w \hat w^\top v) / \lVert w\rVert`. Nothing
        for a tensor of zeros, whose norm has no derivative there; its gradient is taken as zero, too.
        """
        if self.protocol.l2 == "none" or self.weight_decay == 0:
            return torch.zeros_like(vectors)
        if self.protocol.l2 == "exact":
            return self.weight_decay * vectors
        products = torch.empty_like(vectors)
        for place, value in zip(self.space.slices().values(), parameters, strict=True):
            weights, part = value.reshape(-1), vectors[place]
            length = weights.norm()
            if length == 0:
                products[place] = 0
                continue
            unit = weights / length
            products[place] = self.weight_decay * (part - unit[:, None] * (unit @ part)) / length
        return products

    def reduced(self, tensor: Tensor) -> Tensor:
        """Sum over processes when the examples are sharded."""
        return distributed.all_reduce(tensor) if self.sharded else tensor


def examples(data: Images, protocol: Protocol) -> Images:
    """The examples that a protocol names: the seeded sample, augmented or not, normalised as it says.

    Raises
    ------
    LandscapeError
        When more images are asked for than there are.
    """
    data = data.normalized_by(protocol.image_mean, protocol.image_std)
    if data.images.is_inference() or data.labels.is_inference():
        data = dataclasses.replace(data, images=outside_inference(data.images), labels=outside_inference(data.labels))
    if protocol.images is not None:
        data = data.subset(protocol.images, seed=protocol.subset_seed)
    return data.augmented(seed=protocol.augmentation_seed) if protocol.augmentation == "frozen" else data


def _named_loss(loss: str | Loss) -> Loss:
    if not isinstance(loss, str):
        return loss
    if loss not in LOSSES:
        raise LandscapeError(f"unknown loss {loss!r}: choose one of {', '.join(LOSSES)}, or give a function")
    return LOSSES[loss]
