"""The mean loss of a network over a fixed set of examples, whatever weights the network is run with."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from landscape.compute import distributed
from landscape.compute.masks import Masks
from landscape.compute.randomness import generator
from landscape.compute.settings import measurement
from landscape.data import Data, Images
from landscape.data.examples import Tree, leaves, mapped
from landscape.errors import LandscapeError
from landscape.objective import losses
from landscape.objective.chunked import SMALLEST, Deferred, deferring
from landscape.objective.losses import Loss, called
from landscape.objective.network import ALL, Network, frozen_randomness, ranges
from landscape.objective.parameters import in_pairs
from landscape.objective.preparation import examples, trial_rows, with_labels
from landscape.store.protocol import Protocol

if TYPE_CHECKING:
    from xarray import Dataset


class MeanLoss:
    """The part of an `Objective` that knows its examples and a copy of its network, and nothing of coordinates.

    Examples are taken in ranges from `start` to `stop`; a range contributes the mean over its terms times its fraction
    of all terms. Parameters, other attributes and errors are those of `Objective`.

    Attributes
    ----------
    data, first, last
        The examples on the device, and which of them are this process's.
    network
        The private copy.
    classifies
        Whether the network gives one row of class scores per example.
    defers
        Whether scores of a large vocabulary are left to the loss (`landscape.objective.chunked`).
    """

    terms: float
    micro_batch: int

    def __init__(
        self, model: nn.Module, data: Data, *, loss: Loss, protocol: Protocol, device: torch.device, sharded: bool
    ) -> None:
        self.loss, self.protocol, self.device, self.sharded = loss, protocol, device, sharded
        self.dtype: torch.dtype = getattr(torch, protocol.dtype)
        self.population: float = math.inf if data.population is None else data.population
        self.data = examples(data, protocol)
        if isinstance(loss, losses.ModelLoss):
            self.data = with_labels(self.data)
        self.images = len(self.data)
        self.first, self.last = distributed.shard(self.images) if sharded else (0, self.images)
        self.data = self.data.to(device)
        # A network that computes its loss itself, or is differentiated by the loss, returns all its outputs.
        output = ALL if isinstance(loss, losses.ModelLoss) else protocol.output
        self.defers = False
        self.network = Network(model, self.data, device=device, dtype=self.dtype, masks=self.masks, output=output)
        self.classifies = self._require_fitting()
        self._defer_head()
        # Terms of each example (N,); None where each is one.
        self._counts: Tensor | None = None

    def _require_fitting(self) -> bool:
        """Check loss and targets against the network's outputs; whether it gives one row of class scores per image."""
        if isinstance(self.data, Images) and self.loss.name == "cross_entropy":
            self.network.require_class_scores(self.data)
            return True
        if self.data.target(0, 1) is None and not isinstance(self.loss, losses.UserLoss):
            raise LandscapeError(
                f"{self.data.title} holds no targets for {self.loss.name}: give (inputs, targets), or a mapping with "
                "labels, or another --loss"
            )
        if self.loss.needs_network and self.protocol.batch_norm == "batch":
            return False  # what such a network gives for an example depends on the others
        trial = self.data.select(trial_rows(self.data))
        network = self._under_masks(self.network.module, self.network.module, start=0, sample=0)
        inputs, targets = self.network.inputs(trial, 0, len(trial)), trial.target(0, len(trial), self.dtype)
        with frozen_randomness(self.device):
            with nullcontext() if self.loss.needs_network else torch.no_grad():
                arguments = self._arguments(network, inputs, targets)
            if isinstance(self.loss, losses.UserLoss):
                self.loss.determine_terms(*arguments)
                return False
        targets = self.data.target(0, self.images, self.dtype)
        self.loss.require(arguments[0], targets, self.data.title)
        assert isinstance(targets, Tensor)
        return self.loss.name == "cross_entropy" and targets.dim() == 1 and bool((targets != losses.IGNORED).all())

    def _defer_head(self) -> None:
        """Leave the last layer of a large vocabulary to the loss (`landscape.objective.chunked`)."""
        if not isinstance(self.loss, losses.Classification) or not self.network.output_shape:
            return
        last = self.loss.dimension == -1 or len(self.network.output_shape) == 1
        targets = self.data.target(0, 1)
        if isinstance(targets, Tensor) and targets.is_floating_point():  # probabilities of all classes
            return
        if last and self.network.output_shape[-1] >= SMALLEST:
            self.defers = self.network.defer_head(self.batch(0, 1), self.masks) is not None

    @contextmanager
    def _trial_masks(self) -> Iterator[None]:
        """The masks of the first examples, for a trial of the network; global generators are restored."""
        with frozen_randomness(self.device), self.masks() as masks:
            masks.address(first_example=0, sample=0)
            yield

    def _set_terms(self, counts: Tensor) -> None:
        """Say how many terms each example has, (N,) float64."""
        self._counts = None if bool((counts == 1).all()) else counts.to("cpu")
        total = float(self.images) if self._counts is None else float(self._counts.sum())
        # An integer where it is one: then sums are divided by the same number as without counting terms.
        self.terms = int(total) if total == int(total) else total
        if not self.terms > 0:
            raise LandscapeError(f"{self.data.name}: no target counts for {self.loss.name}: all are ignored")

    # Examples ---------------------------------------------------------------------------------------------------------

    @property
    def kind_of_examples(self) -> str:
        """``images`` or ``examples``, for messages."""
        return "images" if isinstance(self.data, Images) else "examples"

    def batch(self, start: int, stop: int) -> Tree:
        """Examples `start` to `stop`, as the network takes them."""
        return self.network.inputs(self.data, start, stop)

    def labels(self, start: int, stop: int) -> Any:
        """Targets of some examples: labels (n,) of images; None where there are none."""
        return self.data.target(start, stop, self.dtype)

    def count(self, start: int, stop: int) -> float:
        """Number of terms of the loss in examples `start` to `stop`."""
        return stop - start if self._counts is None else float(self._counts[start:stop].sum())

    def fraction(self, start: int, stop: int) -> float:
        """Fraction of the loss's terms that belong to examples `start` to `stop`."""
        return self.count(start, stop) / self.terms

    def micro_batches(
        self, first: int | None = None, last: int | None = None, *, size: int | None = None
    ) -> list[tuple[int, int]]:
        """Ranges (start, stop) of the micro-batches between two examples, those of this process unless given."""
        first = self.first if first is None else first
        last = self.last if last is None else last
        return ranges(first, last, size or self.micro_batch)

    def reordered(self, order: Tensor) -> Self:
        """The same function with its examples in another order (N,); shares the network."""
        counts = None if self._counts is None else self._counts[order.cpu()]
        return self._changed(data=self.data.select(order), _counts=counts)

    def random_order(self) -> Tensor | None:
        """Order (N,) in which groups of consecutive examples are random; None where they are as they come.

        Samples of a known population are drawn in random order. A user's own examples often come class by class, and
        groups of one class differ by more than chance.
        """
        if math.isfinite(self.population):
            return None
        return torch.randperm(self.images, generator=generator(0, "groups of examples"))

    def sampled(self, count: int, *, seed: int = 0) -> Self:
        """The same function of a random sample of its examples; shares the network."""
        rows = torch.randperm(self.images, generator=generator(seed, "sample"))[:count].sort().values
        first, last = distributed.shard(count) if self.sharded else (0, count)
        counts = None if self._counts is None else self._counts[rows]
        return self._changed(
            data=self.data.select(rows),
            images=count,
            first=first,
            last=last,
            _counts=counts,
            terms=count if counts is None else float(counts.sum()),
        )

    def _changed(self, **attributes: Any) -> Self:
        """A view with some attributes replaced; everything else is shared."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **attributes)
        return other

    # The network ------------------------------------------------------------------------------------------------------

    def masks(self) -> Masks:
        """The dropout masks of the protocol; address them before each pass."""
        return Masks.off() if self.protocol.dropout == "off" else Masks.addressed(seed=self.protocol.mask_seed)

    def _under_masks(
        self, module: nn.Module, run: Callable[..., Any], *, start: int, sample: int
    ) -> losses.RunningNetwork:
        """The selected output of a module, run by `run`, as a function of its inputs; all calls draw the same masks."""

        @contextmanager
        def masked(examples: int | None = None) -> Iterator[None]:
            with self.masks() as masks:
                masks.address(first_example=start, sample=sample, examples=examples)
                yield

        def selected(*arguments: Any, **named: Any) -> Any:
            given = (one for one in (*arguments, *named.values()) if isinstance(one, Tensor) and one.dim())
            with masked(next(map(len, given), None)):
                return self.network.select(run(*arguments, **named))

        return losses.RunningNetwork(module, selected, masked)

    def deferring(self) -> AbstractContextManager[None]:
        """Within it, outputs of a large vocabulary are `Deferred` ones."""
        return deferring() if self.defers else nullcontext()

    def _arguments(self, network: Callable[..., Any], inputs: Tree, targets: Any) -> tuple[Any, ...]:
        """What the loss is called with: outputs and targets, or the network, inputs and targets."""
        if self.loss.needs_network:
            # Losses that differentiate in the inputs make leaves of them.
            return network, mapped(Tensor.detach, inputs), targets
        with self.deferring():
            return called(network, inputs), targets

    # Losses -----------------------------------------------------------------------------------------------------------

    def example_losses(self, outputs: Any, labels: Any) -> Tensor:
        """What each example contributes (n,), float64, from outputs of any precision; without the L2 term.

        Sums of each example's terms times N / T: their mean over all examples is the mean over terms. Where each
        example is one term, its loss.
        """
        return self._contributions(self.loss.sums(outputs, labels)[0])

    @measurement
    def example_losses_of(self, module: nn.Module, inputs: Tree, start: int, stop: int, *, sample: int = 0) -> Tensor:
        """What each of some examples contributes (n,), float64, with another copy of the network."""
        network = self._under_masks(module, module, start=start, sample=sample)
        return self._contributions(self._sums(network, inputs, start, stop)[0])

    def _contributions(self, sums: Tensor) -> Tensor:
        return sums if self._counts is None else sums * (self.images / self.terms)

    def linearized(self, contributions: Tensor) -> Tensor:
        r"""Values of all examples (N,) with the mean of their contributions, and its standard error.

        A mean over terms is a ratio, of which both sides are sums over examples, :math:`\sum_i s_i / \sum_i n_i`: its
        error is that of the mean of :math:`s_i - L n_i` (Cochran, Sampling Techniques, 3rd ed., section 2.11), not of
        :math:`s_i`, which varies with the number of terms. The contributions themselves where each example is one term.
        """
        if self._counts is None:
            return contributions
        excess = self._counts.to(contributions) * (self.images / self.terms) - 1
        return contributions - contributions.mean() * excess

    def _sums(self, network: Callable[..., Any], inputs: Tree, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Sum and number of the loss's terms in each of some examples."""
        with torch.set_grad_enabled(self.loss.needs_network):
            return self.loss.sums(*self._arguments(network, inputs, self.labels(start, stop)))

    def mean_loss(self, outputs: Any, start: int, stop: int) -> Tensor:
        """What examples `start` to `stop` add to the mean loss, from their outputs."""
        fraction = self.fraction(start, stop)
        if not fraction:
            return sum_of_outputs(outputs) * 0
        return self.loss(outputs, self.labels(start, stop)) * fraction

    def batch_loss_of(self, module: nn.Module, inputs: Tree, start: int, stop: int) -> Tensor:
        """What examples `start` to `stop`, given as `inputs`, add to the mean loss, by another copy of the network."""
        return self._batch_loss(self._under_masks(module, module, start=start, sample=0), inputs, start, stop)

    def _batch_loss(self, network: Callable[..., Any], inputs: Tree, start: int, stop: int) -> Tensor:
        arguments = self._arguments(network, inputs, self.labels(start, stop))
        if self.loss.needs_network:
            return self.loss(*arguments) * self.fraction(start, stop)
        return self.mean_loss(arguments[0], start, stop)

    def reduced(self, tensor: Tensor) -> Tensor:
        """Sum over processes when the examples are sharded."""
        return distributed.all_reduce(tensor) if self.sharded else tensor

    def in_unit(self, result: "Dataset") -> "Dataset":
        """The result with the unit of this loss instead of nats; changed in place."""
        for variable in result.variables.values():
            unit = str(variable.attrs.get("units", ""))
            if unit.endswith("nats") and self.loss.unit != "nats":
                variable.attrs["units"] = self.loss.unit
        return result


def sum_of_outputs(outputs: Any) -> Tensor:
    """Sum of all floating-point outputs, for a derivative in which only zero or not counts."""
    if isinstance(outputs, Deferred):
        return outputs.hidden.sum() + outputs.weight.sum()
    real = [in_pairs(leaf) for _, leaf in leaves(outputs)]
    return torch.stack([leaf.sum() for leaf in real if leaf.is_floating_point()]).sum()
