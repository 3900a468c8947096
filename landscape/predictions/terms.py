"""Predictions of every token of a sequence, or pixel of a map: metrics against ensemble size, errors over sequences.

Log-probabilities of all passes for all tokens and a whole vocabulary would not fit into memory. What each token adds to
the metrics, for every ensemble size, is computed for some tokens at a time, and kept instead.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn
from torch.nn import functional

from landscape import metrics
from landscape.compute.masks import Masks
from landscape.compute.settings import measurement
from landscape.data import Data, Images, as_examples
from landscape.data.examples import count_of
from landscape.errors import LandscapeError
from landscape.metrics import Examples
from landscape.metrics.choices import Binning
from landscape.objective.chunked import SMALLEST, Deferred, deferring
from landscape.objective.losses import Classification, resolved
from landscape.objective.network import frozen_randomness
from landscape.objective.preparation import examples
from landscape.predictions.choices import RESAMPLES, SIZES
from landscape.predictions.curves import choices_of, ensembles, summary
from landscape.predictions.passes import Predictor, attributes_of
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays, pieces
from landscape.store.protocol import Protocol

# Bytes that the outputs of all passes over one batch may take, and log-probabilities that are computed together.
_OUTPUT_BYTES = 256 * 2**20
_TOGETHER = 2**22
# Parts of the examples, each a piece of the journal.
_PARTS = 20
# What is kept of every token, for every order of the passes and every size.
_KEPT = {"nll": torch.float32, "brier": torch.float32, "confidence": torch.float32, "in_top": torch.bool}


def several(data: Data, loss: str) -> bool:
    """Whether examples hold several predictions each, such as tokens or pixels, under the loss of that name."""
    if isinstance(data, Images):
        return False
    targets = data.targets
    return loss.partition(",")[0] in ("causal_lm", "masked_lm") or (isinstance(targets, Tensor) and targets.dim() > 1)


class TermPredictor(Predictor):
    """A `Predictor` of several predictions per example, aligned with their targets as the protocol's loss says.

    Raises
    ------
    LandscapeError
        When the loss is not one of classes, or outputs and targets do not match.
    """

    def _require_scores(self, data: Data) -> int:
        name = self.protocol.loss
        loss = resolved(name) if name.partition(",")[0] in ("cross_entropy", "causal_lm", "masked_lm") else None
        if not isinstance(loss, Classification):
            raise LandscapeError(
                f"predictions are of classes, and --loss {name} does not say which target belongs to which output: "
                "give --loss causal_lm, masked_lm or cross_entropy"
            )
        self.loss = loss
        inputs = self.network.inputs(data, 0, 2)
        with frozen_randomness(self.device), Masks.addressed() as masks, torch.no_grad():
            masks.address(examples=count_of(inputs))
            outputs = self.network(inputs)
        targets = data.target(0, len(data))
        self.loss.require(outputs, targets, data.title)
        if isinstance(targets, Tensor) and targets.is_floating_point():
            raise LandscapeError(f"{data.name} has probabilities for targets: predictions are judged by classes")
        classes = int(outputs.shape[loss.dimension])
        self.output_bytes = outputs[0].numel() * outputs.element_size()
        large = loss.dimension == -1 and classes >= SMALLEST
        head = self.network.defer_head(inputs, Masks.addressed) if large else None
        if head is not None:
            self.output_bytes = outputs[0].numel() // classes * head.in_features * outputs.element_size()
        return classes

    @measurement
    @torch.no_grad()
    def rows(self, data: Data, start: int, stop: int, samples: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Log-probabilities (T, n, C), float64, and classes (n,) of some terms at a time, in the order of the data."""
        targets = data.target(start, stop)
        assert isinstance(targets, Tensor)
        targets = targets.to(self.device)
        with deferring():
            passes = self.outputs(self.images(data, start, stop), start, samples)
        scores, classes = [], targets
        for outputs in passes:
            known = self.loss.rows(outputs, targets)
            assert known is not None  # targets are classes
            of_pass, classes = known
            scores.append(of_pass)
        if not len(classes):
            return
        for chosen in torch.arange(len(classes)).split(max(1, _TOGETHER // (len(scores) * self.classes))):
            logs = torch.stack([_selected(of_pass, chosen) for of_pass in scores]).double().log_softmax(-1)
            yield logs, classes[chosen]

    def examples_of_terms(self, data: Data) -> Tensor:
        """Number (T,) of the example that each term is of, among those that have any, counted from 0."""
        targets = data.target(0, len(data))
        assert isinstance(targets, Tensor)
        # Nothing is known about examples without any target that counts.
        numbers = self.loss.examples_of(targets).unique(return_inverse=True)[1].cpu()
        if not len(numbers):
            raise LandscapeError(f"{data.title}: no target counts for {self.loss.name}: all are ignored")
        return numbers


def _selected(scores: Any, chosen: Tensor) -> Tensor:
    if isinstance(scores, Deferred):
        return functional.linear(scores.hidden[chosen], scores.weight, scores.bias)
    rows: Tensor = scores[chosen]
    return rows


@measurement
def per_term(
    model: nn.Module,
    data: Any,
    *,
    protocol: Protocol,
    passes: int = 50,
    sizes: Sequence[int] = SIZES,
    resamples: int = RESAMPLES,
    replicates: int = metrics.REPLICATES,
    binning: Binning = "right",
    batch: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Metrics of predicted tokens (or pixels) against ensemble size, with errors over sequences.

    Tokens of one sequence depend on each other: sequences are what was sampled, and standard errors, intervals and
    bootstrap samples are over sequences. A mean over tokens is then a ratio of sums over sequences. Targets that the
    loss ignores do not count.

    Parameters
    ----------
    model
        Any network of scores (N, L, V), or (N, C, ...) for ``cross_entropy``; left as it was.
    data
        Examples with targets, in any form that `landscape.data.as_examples` reads; `protocol` says which of them.
    protocol
        Its `loss` says how outputs and targets are aligned (``causal_lm``, ``masked_lm``, ``cross_entropy``); otherwise
        see `Predictor`.
    passes, sizes, resamples, replicates, binning, seed
        See `landscape.predictions.measure` and `landscape.predictions.curves`. For vocabularies of more than 1,000
        words there is no IoU.
    batch
        Examples per forward pass; None: as many as keep the outputs of all passes within 256 MiB.
    device, journal, quiet
        See `landscape.predictions.measure`.

    Returns
    -------
    xarray.Dataset
        As `landscape.predictions.curves`; attributes ``images`` (number of examples), ``terms`` (of predictions that
        count), ``term`` (``token`` or ``pixel``), ``classes``.

    Raises
    ------
    LandscapeError
        As `TermPredictor`, and when no target counts.
    """
    data = as_examples(data)
    chosen = examples(data, protocol)
    predictor = TermPredictor(model, chosen, protocol=protocol, batch=batch, device=device)
    samples = range(passes if predictor.stochastic else 1)
    if batch is None:
        predictor.batch = max(1, min(predictor.batch, _OUTPUT_BYTES // (len(samples) * predictor.output_bytes)))
    usable, orders = choices_of(len(samples), sizes, resamples, seed)
    group = predictor.examples_of_terms(chosen)
    kept = _contributions(predictor, chosen, samples, usable, orders, journal=journal, quiet=quiet)
    by_order = (
        [_restored(kept, order, size, group, predictor.classes) for size in range(len(usable))]
        for order in range(len(orders))
    )
    attributes = attributes_of(chosen, data, len(samples))
    attributes |= {"term": predictor.loss.term, "terms": len(group), "classes": predictor.classes}
    return summary(by_order, usable, attributes, len(orders), replicates=replicates, binning=binning, seed=seed)


def _contributions(
    predictor: TermPredictor,
    data: Data,
    samples: Sequence[int],
    sizes: Sequence[int],
    orders: Sequence[Tensor],
    *,
    journal: Journal | None,
    quiet: bool,
) -> dict[str, np.ndarray]:
    """What every term adds to the metrics, as `_of_chunk` gives it, in the order of the data."""
    parts = torch.arange(len(data)).tensor_split(min(_PARTS, len(data)))
    bounds = {f"part {number}": (int(part[0]), int(part[-1]) + 1) for number, part in enumerate(parts)}

    def compute(key: str) -> Arrays:
        values_of: dict[str, list[Tensor]] = {}
        for start, stop in predictor.batches(*bounds[key]):
            for logs, classes in predictor.rows(data, start, stop, samples):
                for name, value in _of_chunk(logs.cpu(), classes.cpu(), sizes, orders).items():
                    values_of.setdefault(name, []).append(value)
        return {name: torch.cat(values, dim=-1).numpy() for name, values in values_of.items()}

    steps = [stop - start for start, stop in bounds.values()]
    what = f"{len(samples)} passes"
    computed = dict(pieces(list(bounds), compute, journal=journal, what=what, unit="example", steps=steps, quiet=quiet))
    return {
        name: np.concatenate([computed[key][name] for key in bounds if name in computed[key]], axis=-1)
        for name in (*_KEPT, "predicted", "label", "excess")
    }


def _of_chunk(logs: Tensor, classes: Tensor, sizes: Sequence[int], orders: Sequence[Tensor]) -> dict[str, Tensor]:
    """What some tokens add to the metrics: (orders, sizes, n), and labels (n,)."""
    by_order = [ensembles(logs[order], classes, sizes) for order in orders]

    def all_of(name: str) -> Tensor:
        return torch.stack([torch.stack([getattr(one, name) for one in of_sizes]) for of_sizes in by_order])

    kept = {name: all_of(name).to(dtype) for name, dtype in _KEPT.items()}
    return {**kept, "predicted": all_of("predicted").int(), "label": classes, "excess": all_of("excess").amax((0, 1))}


def _restored(kept: dict[str, np.ndarray], order: int, size: int, group: Tensor, classes: int) -> Examples:
    """The predictions of one order and size."""
    values = {name: torch.from_numpy(kept[name][order, size]) for name in (*_KEPT, "predicted")}
    return Examples(
        nll=values["nll"].double(),
        brier=values["brier"].double(),
        confidence=values["confidence"].double(),
        predicted=values["predicted"].long(),
        labels=torch.from_numpy(kept["label"]),
        in_top=values["in_top"],
        excess=torch.from_numpy(kept["excess"]),
        classes=classes,
        group=group,
    )
