"""The scalar function of the weights that everything else measures."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from landscape.compute import workers
from landscape.compute.memory import total_memory
from landscape.compute.settings import measurement, outside_inference
from landscape.data import as_examples
from landscape.data.examples import Tree
from landscape.errors import LandscapeError
from landscape.objective import folding, losses, recomputing
from landscape.objective.l2 import L2Term
from landscape.objective.losses import called
from landscape.objective.mean_loss import MeanLoss, sum_of_outputs
from landscape.objective.network import frozen_randomness, in_precision, ranges, running_with
from landscape.objective.parameters import ParameterSpace, in_pairs, selection
from landscape.objective.preparation import loss_of_protocol, micro_batch_size
from landscape.objective.recalibration import Recalibration, tracked
from landscape.objective.terms import Terms, Weights
from landscape.store.protocol import Protocol

# Largest activation of a micro-batch below which nobody asks whether its graph fits the memory.
_SHORT_BYTES = 16 * 2**20
# Examples per batch whose statistics batch norm is recalibrated by: whatever the micro-batches are, as in training.
_RECALIBRATED_AT_ONCE = 128
# Examples at a time, where parameters are sought that none of them uses.
_EXAMPLES_OF_A_LOOK = 16
# Bytes that the graph of a second derivative holds, per byte that the forward pass alone saves: 2 to 6 were measured.
_GRAPH_PER_FORWARD = 4


class Objective(MeanLoss):
    r"""Mean loss plus L2 term over a fixed set of examples, as a function of a flat parameter vector.

    .. math:: L(w) = \frac1T \sum_{t=1}^T \ell_t(f_w(x)) + \mathrm{L2}(w)

    The mean is over terms (images, tokens that count, entries of a map), so that a micro-batch is weighted with the
    number of its terms. The network is copied: the user's model, its mode, gradients and buffers are never touched.

    Parameters
    ----------
    model
        Any network that takes the examples' inputs: a tensor, a tuple of arguments, or arguments by name.
    data
        Images or other examples, in any form that `landscape.data.as_examples` reads: tensors (inputs, targets), a
        mapping of arrays, a Dataset, a DataLoader. `protocol` selects which of them, and whether augmented.
    loss
        A name, or a function of one's own: see `landscape.objective.losses.resolved`. Default: the protocol's; one
        that is given becomes part of the objective's protocol.
    output
        Which output of the network the loss is of, see `landscape.objective.network.selected`. Default: the
        protocol's.
    weight_decay
        The coefficient *wd* of SGD; see :attr:`Protocol.l2` for the term it makes.
    protocol
        The definition of everything else.
    micro_batch
        Examples per forward pass, or None for as many as the cache holds on a CPU, and 256 on a GPU. It changes results
        by rounding only, except with ``batch_norm="batch"``, where it is the batch that is normalised (default: 128, as
        in the paper's training).
    device
        Where to compute. Default: the protocol's device class.
    memory
        Bytes that kept graphs may take, or None for half of what is available. Graphs that are built anew need one per
        core beside them.
    sharded
        Under torchrun, distribute the examples over processes, and sum over these.
    checkpointing
        Whether blocks that repeat (layers of a transformer, residual blocks) are computed again instead of keeping
        their activations, see `landscape.objective.recomputing`: for long sequences. None: where the graph of a product
        would not fit half of the device's memory otherwise. It changes results by rounding only.

    Attributes
    ----------
    space
        Which parameters count, and where they stand in the vector.
    point
        The network's own parameters, flat, (P,).
    images
        Number of examples *N*.
    terms
        Number of terms of the loss *T*: the examples' own number, unless an example has several terms or none.
    population
        Number of examples that they are a sample of; infinity when unknown, see :class:`landscape.data.Images`.
    l2
        The L2 term.

    Raises
    ------
    LandscapeError
        When the network cannot take the examples, outputs and targets do not match, the loss is not a mean of terms,
        the network is not deterministic under the protocol, or has parameters that are not finite.

    Examples
    --------
    >>> import torch
    >>> import landscape
    >>> x = torch.tensor([[1.0], [2.0], [3.0]])
    >>> objective = landscape.Objective(torch.nn.Linear(1, 1, bias=False), (x, 2 * x), loss="mse")
    >>> landscape.CurvatureOperator(objective)(torch.ones(1))  # 2 (1 + 4 + 9) / 3
    tensor([9.3333])
    """

    @measurement
    def __init__(
        self,
        model: nn.Module,
        data: Any,
        *,
        loss: str | Callable[..., Any] | None = None,
        output: str | int | None = None,
        weight_decay: float = 0.0,
        protocol: Protocol | None = None,
        micro_batch: int | None = None,
        device: torch.device | str | None = None,
        memory: int | None = None,
        sharded: bool = False,
        checkpointing: bool | None = None,
    ) -> None:
        protocol = protocol or Protocol()
        chosen_loss = loss_of_protocol(protocol.loss) if loss is None else losses.resolved(loss)
        output = protocol.output if output is None else str(output)
        protocol = protocol.replace(loss=chosen_loss.name, output=output)
        on = torch.device(device or protocol.device)
        super().__init__(model, as_examples(data), loss=chosen_loss, protocol=protocol, device=on, sharded=sharded)
        self.memory = memory
        self.weight_decay = weight_decay
        # Before batch norm is folded: the folded network has fewer modules.
        weight_bytes = sum(value.numel() * value.element_size() for value in self.network.module.parameters())
        largest = self.network.activation_bytes
        self.micro_batch = micro_batch or micro_batch_size(self.data, protocol, on, largest, weight_bytes)
        self._take_coordinates(checkpointing)
        # Rounding of curvature products, measured on first use.
        self.roundings: dict[str, float] = {}
        self._set_terms(self._count_terms())

    def __repr__(self) -> str:
        return (
            f"Objective({self.size:,} parameters, {self.images:,} {self.kind_of_examples} of {self.data.title}, "
            f"{'' if self.loss.name == 'cross_entropy' else f'loss {self.loss.name}, '}"
            f"weight_decay={self.weight_decay:g}, protocol={self.protocol.hash}, "
            f"{self.protocol.dtype} on {self.device})"
        )

    # Construction -----------------------------------------------------------------------------------------------------

    def _take_coordinates(self, checkpointing: bool | None) -> None:
        """Which parameters count, their names before and after batch norm is folded, and the point they are at."""
        module = self.network.module
        parameters = dict(module.named_parameters())
        # A tied parameter is selected by any of its names.
        known = dict(module.named_parameters(remove_duplicate=False))
        chosen_names = selection(
            known, self.protocol.parameters, lambda: self.network.last_layer(self.batch(0, 1), self.masks)
        )
        chosen_ids = {id(known[name]) for name in chosen_names}
        chosen = {name for name, value in parameters.items() if id(value) in chosen_ids}
        unused = self._unused({name: value for name, value in parameters.items() if name in chosen})
        self._prepare_batch_norm()
        self.checkpointing = self._prepare_checkpointing(checkpointing)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self.inner_names = {name: names[id(parameter)] for name, parameter in parameters.items()}
        self.space = ParameterSpace(parameters.items(), chosen=chosen, unused=unused)
        # The space, and all that is outside the network, is of real numbers.
        self._complex = {name for name, value in parameters.items() if value.is_complex()}
        trainable = {name: in_pairs(value) for name, value in parameters.items() if value.requires_grad}
        self.l2 = L2Term(self.protocol.l2, self.weight_decay, self.space, trainable)
        self.point = self.space.flatten(parameters[name].detach() for name in self.space.names)
        for parameter in parameters.values():
            parameter.requires_grad_(False)
        self._replicas = workers.Replicas(module)
        for name, value in self._statistics(self.point, 0).items():
            module.get_buffer(name).copy_(value)

    def _prepare_batch_norm(self) -> None:
        """Fold batch norm, or make it normalise by the batch, or have its statistics recalibrated."""
        module, statistics = self.network.module, tracked(self.network.module)
        self.has_batch_norm = bool(folding.batch_norms(module))
        recalibrates = self.protocol.batch_norm == "recalibrated" and statistics
        self._recalibration = Recalibration(module) if recalibrates else None
        with self._trial_masks():
            folding.prepare(
                module, lambda: called(module, self.batch(0, 2)), batch_statistics=self.protocol.batch_norm == "batch"
            )
        buffers = {id(buffer): name for name, buffer in module.named_buffers()}
        self._inner_statistics = {name: buffers.get(id(value), "") for name, value in statistics.items()}

    def _prepare_checkpointing(self, checkpointing: bool | None) -> bool:
        """Whether blocks are recomputed; prepares those of the private copy for it."""
        module = self.network.module
        if checkpointing is None:
            checkpointing = self._is_long()
        elif checkpointing and not recomputing.blocks(module):
            raise LandscapeError(
                "activation checkpointing recomputes blocks that repeat, and the network has none: members of one "
                "class in a ModuleList or Sequential; leave out --activation-checkpointing"
            )
        return checkpointing and bool(recomputing.prepare(module))

    def _is_long(self) -> bool:
        """Whether the graph of a micro-batch would not fit half of the memory, and there are blocks to recompute."""
        known = self.network.activation_bytes * self.micro_batch
        if known < _SHORT_BYTES or not recomputing.blocks(self.network.module):
            return False
        # It may differentiate in the inputs, and blocks that are computed again have no third derivative.
        if self.loss.needs_network and not isinstance(self.loss, losses.ModelLoss):
            return False
        total = 0

        def count(tensor: Tensor) -> None:
            nonlocal total
            total += tensor.numel() * tensor.element_size()

        # Tensors saved for the backward pass are counted, not kept.
        hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing)
        try:
            with self._trial_masks(), torch.enable_grad(), self.deferring(), hooks:
                self.network(self.batch(0, 1))
        except RuntimeError as error:
            # `torch.func.grad` in a network takes neither such hooks nor blocks that are computed again.
            if "saved tensor hooks" not in str(error):
                raise
            return False
        return _GRAPH_PER_FORWARD * total * self.micro_batch > total_memory(self.device) // 2

    def _count_terms(self) -> Tensor:
        """Terms of every example (N,), float64."""
        counts = self.loss.counts(self.data.target(0, self.images, self.dtype), self.images)
        if counts is None:
            counts = torch.zeros(self.images, dtype=torch.float64, device=self.device)
            weights = self.weights()
            for start, stop in self.micro_batches():
                with self._network_at(weights.parameters, start, 0, weights.statistics) as network:
                    counts[start:stop] = self._sums(network, self.batch(start, stop), start, stop)[1]
            counts = self.reduced(counts)
        return counts

    def _unused(self, parameters: dict[str, nn.Parameter]) -> list[str]:
        """Names of trainable parameters that the outputs do not depend on, for any example."""
        unused = {name: value for name, value in parameters.items() if value.requires_grad}
        # Two examples show nearly always that all are used; but a network may choose its parts by what it is given.
        for start, stop in [(0, 2), *ranges(2, self.images, _EXAMPLES_OF_A_LOOK)]:
            if not unused:
                break
            with frozen_randomness(self.device), torch.enable_grad():
                network = self._under_masks(self.network.module, self.network.module, start=start, sample=0)
                if self.loss.needs_network:
                    total = self.loss(*self._arguments(network, self.batch(start, stop), self.labels(start, stop)))
                else:
                    total = sum_of_outputs(called(network, self.batch(start, stop)))
                if total.requires_grad:
                    gradients = torch.autograd.grad(total, list(unused.values()), allow_unused=True)
                    pairs = zip(list(unused.items()), gradients, strict=True)
                    unused = {name: value for (name, value), gradient in pairs if gradient is None}
        return list(unused)

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
        """The same function of some of the parameters alone, the others held; shares the network."""
        chosen = set(names)
        tensors = dict(zip(self.space.names, self.space.split(self.point), strict=True))
        space = ParameterSpace([(name, nn.Parameter(tensors[name])) for name in self.space.names if name in chosen])
        point = space.flatten(tensors[name] for name in space.names)
        l2 = dataclasses.replace(self.l2, space=space)
        return self._changed(space=space, point=point, l2=l2, roundings={})

    def holding_statistics(self) -> "Objective":
        """The same function with batch-norm statistics held at the network's own point; shares the network."""
        return self._changed(_recalibration=None)

    def within(self, memory: int) -> "Objective":
        """The same function, with another budget for kept graphs, in bytes; shares the network."""
        return self._changed(memory=memory)

    @measurement
    def in_double(self) -> "Objective":
        """The same function, computed in float64 at the same weights; copies the network."""
        module = in_precision(self.private_module(), torch.float64)
        parameters = dict(module.named_parameters())
        trainable = {name: in_pairs(parameters[self.inner_names[name]]) for name in self.l2.trainable}
        return self._changed(
            protocol=self.protocol.replace(dtype="float64"),
            dtype=torch.float64,
            network=self.network.holding(module, torch.float64),
            point=self.point.double(),
            l2=dataclasses.replace(self.l2, trainable=trainable),
            _recalibration=None if self._recalibration is None else self._recalibration.in_double(),
            _replicas=workers.Replicas(module),
            roundings={},
        )

    def private_module(self) -> nn.Module:
        """A copy of the prepared network, with tensors of its own under the names of :attr:`inner_names`."""
        return self._replicas.apart()

    # Evaluation -------------------------------------------------------------------------------------------------------

    @measurement
    def outputs(
        self,
        parameters: Sequence[Tensor],
        start: int,
        stop: int,
        *,
        sample: int = 0,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Network outputs (stop - start, ...) for some examples; a tree of them where the protocol's output is all.

        Parameters
        ----------
        parameters
            One tensor per name in :attr:`names`; may require gradients.
        start, stop
            Which examples.
        sample
            Which draw of the dropout masks, when the protocol has any.
        statistics
            Batch-norm statistics that belong to the parameters (:attr:`Weights.statistics`). Default: those of the
            network's own point.
        """
        with self._network_at(parameters, start, sample, statistics) as network:
            return called(network, self.batch(start, stop))

    @contextmanager
    def _network_at(
        self, parameters: Sequence[Tensor], start: int, sample: int, statistics: Mapping[str, Tensor] | None
    ) -> Iterator[Callable[..., Any]]:
        """The network with some parameters, as a function of inputs whose first is example `start`."""
        inner = {self.inner_names[name]: value for name, value in self.in_network(parameters).items()}
        with self._replicas.one() as module, running_with(module, {**inner, **(statistics or {})}):

            def run(*arguments: Any, **named: Any) -> Any:
                with recomputing.recomputing(self.checkpointing):
                    return module(*arguments, **named)

            yield self._under_masks(module, run, start=start, sample=sample)

    def in_network(self, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        """Parameters by name, in the form in which the network has them: complex where it has complex ones."""
        named = zip(self.space.names, parameters, strict=True)
        return {name: torch.view_as_complex(value) if name in self._complex else value for name, value in named}

    @measurement
    def weights(self, point: Tensor | None = None, *, sample: int = 0) -> Weights:
        """What the network is run with at a point (P,), by default its own.

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
        parameters = self.in_network(self.space.split(point))
        bounds = ranges(0, self.images, _RECALIBRATED_AT_ONCE)
        if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
            bounds[-2:] = [(bounds[-2][0], self.images)]  # a single example may have no variance
        order = self.random_order()

        def batch(start: int, stop: int) -> Tree:
            if order is None:
                return self.batch(start, stop)
            return self.reordered(order[start:stop]).batch(0, stop - start)

        batches = ((start, stop, batch(start, stop)) for start, stop in bounds)
        statistics = self._recalibration.statistics(parameters, batches, self.masks, sample=sample)
        return {self._inner_statistics[name]: value for name, value in statistics.items()}

    @measurement
    @torch.no_grad()
    def value(self, point: Tensor | None = None, *, sample: int = 0) -> Terms:
        """The regularised loss at a point, and its terms; sums over examples are float64.

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

        def summed(bounds: tuple[int, int]) -> Tensor:
            return self.example_losses_at(weights, *bounds, sample=sample).sum()

        for part in workers.each(summed, batches, self.device):
            total += part
        mean = float(self.reduced(total) / self.images)
        l2 = float(self.l2(weights.parameters))
        return Terms(loss=mean + l2, data_loss=mean, l2=l2, loss_name=self.loss.name)

    @measurement
    def example_losses_at(self, weights: Weights, start: int, stop: int, *, sample: int = 0) -> Tensor:
        """What each of some examples contributes (n,), float64: see `example_losses`."""
        with self._network_at(weights.parameters, start, sample, weights.statistics) as network:
            return self._contributions(self._sums(network, self.batch(start, stop), start, stop)[0])

    @measurement
    def gradient(self, point: Tensor | None = None, *, sample: int = 0) -> Tensor:
        """Gradient (P,) of the regularised loss at a point."""
        total = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        weights = self.weights(point, sample=sample)
        leaves = [value.detach().requires_grad_() for value in weights.parameters]
        for start, stop in self.micro_batches():
            with torch.enable_grad():
                loss = self.batch_loss(leaves, start, stop, sample=sample, statistics=weights.statistics)
            total += self.space.flatten(torch.autograd.grad(loss, leaves, materialize_grads=True))
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
        if not self.fraction(start, stop):  # no target counts: there is no mean
            return torch.stack([value.sum() for value in parameters]).sum() * 0
        with self._network_at(parameters, start, sample, statistics) as network:
            return self._batch_loss(network, self.batch(start, stop), start, stop)
