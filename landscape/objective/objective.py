"""The scalar function of the weights that everything else measures."""

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape.compute import distributed, workers
from landscape.compute.masks import Masks
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.objective import folding
from landscape.objective.parameters import ParameterSpace
from landscape.store.protocol import Protocol

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {"cross_entropy": nn.functional.cross_entropy}

# Largest activation of a micro-batch in bytes: what the last-level cache of a core or two holds beside its gradient
# (measured in benchmarks/hessian.py; within a factor of two the choice does not matter).
_CACHE_BYTES = 4 * 2**20
# Weights, in bytes, that one byte of a micro-batch's largest activation pays for, when they are more than the cache.
_WEIGHTS_PER_ACTIVATION = 3


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
        self._cross_entropy = self.loss is nn.functional.cross_entropy
        self.sharded = sharded

        self.population: float = math.inf if data.population is None else data.population
        self.data = examples(data, protocol)
        self.images = len(self.data)
        self.first, self.last = distributed.shard(self.images) if sharded else (0, self.images)
        self.data = self.data.to(self.device)

        require_finite(model)
        network = copy.deepcopy(model).eval().to(device=self.device, dtype=self.dtype)
        if self.data.images.dim() == 4:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parameters = dict(network.named_parameters())
        activation_bytes = self._check(network)
        weight_bytes = sum(value.numel() * value.element_size() for value in parameters.values())
        self.micro_batch = micro_batch or self._choose_micro_batch(activation_bytes, weight_bytes)

        self._network = network
        self._norms = list(folding.batch_norms(network).values())
        self._statistics: nn.Module | None = None
        if protocol.batch_norm == "recalibrated" and self._norms:
            self._statistics = copy.deepcopy(network)
        unused = self._unused(network, parameters)
        with self._frozen_randomness() as masks:
            masks.address(first_example=0, sample=0)
            folding.prepare(network, lambda: network(self.batch(0, 2)), batch_statistics=protocol.batch_norm == "batch")
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        self._inner_names = {name: names[id(parameter)] for name, parameter in parameters.items()}
        self.space = ParameterSpace(parameters.items(), selection=protocol.parameters, unused=unused)
        self._decayed = {name: value for name, value in parameters.items() if value.requires_grad}
        self.point = self.space.flatten(parameters[name].detach() for name in self.space.names)
        for parameter in parameters.values():
            parameter.requires_grad_(False)
        self._replicas = workers.Replicas(network)
        if self._statistics is not None:
            self._recalibrate(self.point, sample=0)

    def __repr__(self) -> str:
        return (
            f"Objective({self.size:,} parameters, {self.images:,} images of {self.data.name} ({self.data.split}), "
            f"weight_decay={self.weight_decay:g}, protocol={self.protocol.hash}, "
            f"{self.protocol.dtype} on {self.device})"
        )

    # Construction -----------------------------------------------------------------------------------------------------

    def _check(self, network: nn.Module) -> int:
        """Run two examples, refuse what would be silently wrong; bytes of the largest activation of one example."""
        shape = tuple(self.data.images.shape[1:])
        count = min(2, self.images)
        largest = 0

        def watch(module: nn.Module, arguments: Any, output: Any) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.numel() * output.element_size() // count)

        handles = [module.register_forward_hook(watch) for module in network.modules()]
        try:
            outputs = self._twice(network, count)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if isinstance(error, (LandscapeError, torch.OutOfMemoryError)):
                raise
            lines = str(error).splitlines() or [type(error).__name__]
            raise LandscapeError(
                f"the network cannot take images of shape {shape}: {lines[0]}; give --data that fits the network"
            ) from None
        finally:
            for handle in handles:
                handle.remove()
        if self._cross_entropy:
            if outputs[0].dim() != 2:
                raise LandscapeError(
                    f"the network's output has shape {tuple(outputs[0].shape)}, not (images, classes): "
                    "wrap it, or give a loss of your own"
                )
            highest = int(self.data.labels.max())
            if highest >= outputs[0].shape[1]:
                raise LandscapeError(
                    f"label {highest} in {self.data.name} is beyond the network's {outputs[0].shape[1]} outputs: "
                    "give the data that the network was trained on"
                )
        if not torch.equal(outputs[0], outputs[1]) and not outputs[0].isnan().any():
            raise LandscapeError(
                "the network gives different outputs for the same images: it draws random numbers that are not "
                "dropout's; switch them off, or draw them from a fixed torch.Generator"
            )
        return largest

    @torch.no_grad()
    def _twice(self, network: nn.Module, count: int) -> list[Tensor]:
        """Outputs of the same examples, twice over, with the same dropout masks."""
        outputs = []
        with self._frozen_randomness() as masks:
            for _ in range(2):
                masks.address(first_example=0, sample=0)
                outputs.append(logits(network(self.batch(0, count))))
        return outputs

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

    def _unused(self, network: nn.Module, parameters: dict[str, nn.Parameter]) -> list[str]:
        wanted = {name: value for name, value in parameters.items() if value.requires_grad}
        if not wanted:
            return []
        with self._frozen_randomness() as masks, torch.enable_grad():
            masks.address(first_example=0, sample=0)
            total = logits(network(self.batch(0, min(2, self.images)))).sum()
            if not total.requires_grad:
                return list(wanted)
            gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
        return [name for name, gradient in zip(wanted, gradients, strict=True) if gradient is None]

    @contextmanager
    def _frozen_randomness(self) -> Iterator[Masks]:
        """Masks by protocol; whatever else a network draws comes from a forked global generator."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self._masks() as masks:
            yield masks

    def _masks(self) -> AbstractContextManager[Masks]:
        if self.protocol.dropout == "off":
            return Masks.off()
        return Masks.addressed(seed=self.protocol.mask_seed)

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
        part = copy.copy(self)
        chosen = set(names)
        tensors = dict(zip(self.space.names, self.space.split(self.point), strict=True))
        part.space = ParameterSpace(
            [(name, nn.Parameter(tensors[name])) for name in self.space.names if name in chosen]
        )
        part.point = part.space.flatten(tensors[name] for name in part.space.names)
        return part

    # Evaluation -------------------------------------------------------------------------------------------------------

    def batch(self, start: int, stop: int) -> Tensor:
        """Examples `start` to `stop`, normalised, in the memory format that convolutions like best."""
        images = self.data.batch(start, min(stop, self.images), dtype=self.dtype)
        return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images

    def micro_batches(
        self, first: int | None = None, last: int | None = None, *, size: int | None = None
    ) -> list[tuple[int, int]]:
        """Ranges (start, stop) of the micro-batches between two examples, this process's share unless given."""
        first = self.first if first is None else first
        last = self.last if last is None else last
        size = size or self.micro_batch
        return [(start, min(start + size, last)) for start in range(first, last, size)]

    def outputs(self, parameters: Sequence[Tensor], start: int, stop: int, *, sample: int = 0) -> Tensor:
        """Network outputs (stop - start, K) for some examples.

        Parameters
        ----------
        parameters
            One tensor for each name in :attr:`names`; may require gradients.
        start, stop
            Which examples.
        sample
            Which draw of the dropout masks, when the protocol has any.
        """
        inner = {self._inner_names[name]: value for name, value in zip(self.space.names, parameters, strict=True)}
        with self._masks() as masks, self._replicas.one() as network:
            masks.address(first_example=start, sample=sample)
            return logits(functional_call(network, inner, (self.batch(start, stop),)))

    def labels(self, start: int, stop: int) -> Tensor:
        """Labels of some examples."""
        return self.data.labels[start:stop]

    def _recalibrate(self, point: Tensor, *, sample: int) -> None:
        """Set the running statistics to the examples' own at `point`: the mean over batches of 128, as SWA does."""
        statistics = self._statistics
        assert statistics is not None
        source = folding.batch_norms(statistics)
        parameters = dict(zip(self.space.names, self.space.split(point), strict=True))
        for norm in source.values():
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        batch = max(128, self.micro_batch)
        with torch.no_grad():
            for start in range(0, self.images, batch):
                with self._masks() as masks:
                    masks.address(first_example=start, sample=sample)
                    functional_call(statistics, parameters, (self.batch(start, start + batch),))
        for origin, copied in zip(source.values(), self._norms, strict=True):
            assert origin.running_mean is not None
            assert origin.running_var is not None
            assert copied.running_mean is not None
            assert copied.running_var is not None
            copied.running_mean.copy_(origin.running_mean)
            copied.running_var.copy_(origin.running_var)

    def _at(self, point: Tensor | None) -> Tensor:
        if point is None:
            return self.point
        if point.shape != self.point.shape:
            raise LandscapeError(f"a point has {tuple(point.shape)} entries; this objective takes ({self.size},)")
        return point.to(device=self.device, dtype=self.dtype)

    def _prepared(self, point: Tensor | None, sample: int) -> AbstractContextManager[list[Tensor]]:
        """The parameters at a point, with the batch-norm statistics that belong there."""
        at = self._at(point)
        if self._statistics is not None and point is not None:
            return self._recalibrated(at, sample)
        return nullcontext(self.space.split(at))

    @contextmanager
    def _recalibrated(self, point: Tensor, sample: int) -> Iterator[list[Tensor]]:
        self._recalibrate(point, sample=sample)
        try:
            yield self.space.split(point)
        finally:
            self._recalibrate(self.point, sample=0)

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
        ranges = self.micro_batches()
        with self._prepared(point, sample) as parameters:

            @torch.no_grad()
            def outputs(bounds: tuple[int, int]) -> Tensor:
                return self.outputs(parameters, *bounds, sample=sample)

            for bounds, found in zip(ranges, workers.each(outputs, ranges, self.device), strict=True):
                total += self.example_losses(found, self.labels(*bounds)).sum()
        mean = float(self.reduced(total) / self.images)
        l2 = float(self.l2(parameters))
        return Terms(loss=mean + l2, cross_entropy=mean, l2=l2)

    def example_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of each example (N,), float64, from outputs of any precision; without the L2 term."""
        if self._cross_entropy:
            return nn.functional.cross_entropy(outputs.double(), labels, reduction="none")
        single = [self.loss(outputs[n : n + 1], labels[n : n + 1]) for n in range(len(labels))]
        return torch.stack(single).double()

    def gradient(self, point: Tensor | None = None, *, sample: int = 0) -> Tensor:
        """Gradient (P,) of the regularised loss at a point."""
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        with self._prepared(point, sample) as parameters:
            leaves = [value.detach().requires_grad_() for value in parameters]
            for start, stop in self.micro_batches():
                with torch.enable_grad():
                    loss = self.batch_loss(leaves, start, stop, sample=sample)
                total += self.space.flatten(torch.autograd.grad(loss, leaves))
        total = self.reduced(total)
        l2_leaves = [value.detach().requires_grad_() for value in parameters]
        with torch.enable_grad():
            l2 = self.l2(l2_leaves)
        if l2.requires_grad:
            total += self.space.flatten(torch.autograd.grad(l2, l2_leaves))
        return total

    def batch_loss(self, parameters: Sequence[Tensor], start: int, stop: int, *, sample: int = 0) -> Tensor:
        """What examples `start` to `stop` add to the mean loss: these sum to the whole, without the L2 term."""
        outputs = self.outputs(parameters, start, stop, sample=sample)
        return self.loss(outputs, self.labels(start, stop)) * ((stop - start) / self.images)

    def l2(self, parameters: Sequence[Tensor]) -> Tensor:
        """The L2 term by the protocol's reading, over every trainable parameter, counted as coordinate or not."""
        if self.protocol.l2 == "none" or self.weight_decay == 0:
            return torch.zeros((), dtype=self.dtype, device=self.device)
        given = dict(zip(self.space.names, parameters, strict=True))
        tensors = [given.get(name, value) for name, value in self._decayed.items()]
        if self.protocol.l2 == "exact":
            return self.weight_decay / 2 * torch.stack([value.double().square().sum() for value in tensors]).sum()
        return self.weight_decay * torch.stack([value.double().norm() for value in tensors]).sum()

    def l2_product(self, parameters: Sequence[Tensor], vectors: Tensor) -> Tensor | float:
        r"""Hessian of the L2 term times flat vectors (P, k): wd v for the exact reading.

        For the unsquared reading, tensor by tensor, :math:`wd\,(v - \hat w \hat w^\top v) / \lVert w\rVert`.
        """
        if self.protocol.l2 == "none" or self.weight_decay == 0:
            return 0.0
        if self.protocol.l2 == "exact":
            return self.weight_decay * vectors
        products = torch.empty_like(vectors)
        for place, value in zip(self.space.slices().values(), parameters, strict=True):
            weights, part = value.reshape(-1), vectors[place]
            length = weights.norm()
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
    if protocol.images is not None:
        data = data.subset(protocol.images, seed=protocol.subset_seed)
    return data.augmented(seed=protocol.augmentation_seed) if protocol.augmentation == "frozen" else data


def logits(output: Any) -> Tensor:
    """The tensor of outputs, out of whatever a network returns."""
    found = getattr(output, "logits", output)
    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        raise LandscapeError(f"the network returns a {type(output).__name__}: wrap it so that it returns a tensor")
    return found


def require_finite(model: nn.Module) -> None:
    """Raise LandscapeError that names the first tensor of the model with a value that is not finite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise LandscapeError(
                f"{name} holds {bad} values that are not finite: the checkpoint is damaged or diverged"
            )


def available_memory(device: torch.device) -> int:
    """Bytes of memory that are free on a device, or to this process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    information = Path("/proc/meminfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _named_loss(loss: str | Loss) -> Loss:
    if not isinstance(loss, str):
        return loss
    if loss not in LOSSES:
        raise LandscapeError(f"unknown loss {loss!r}: choose one of {', '.join(LOSSES)}, or give a function")
    return LOSSES[loss]
