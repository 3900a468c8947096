"""How well the measured network fits the examples it is measured on: the first check of any curvature or surface."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from landscape.compute import distributed, workers
from landscape.objective.chunked import Deferred
from landscape.objective.objective import Objective
from landscape.objective.terms import DataLoss, data_loss_name

# From chance (0) to perfect (1): below a tenth a network has learned next to nothing of these images.
_NEXT_TO_NOTHING = 0.1
_PREFIX = "fit_"


@dataclass(frozen=True)
class Fit(DataLoss):
    """Loss and accuracy at the network's own weights, over the objective's examples.

    Attributes
    ----------
    loss, data_loss, l2
        The regularised loss and its terms, as :meth:`Objective.value` gives them.
    accuracy
        Share of terms (images, tokens) whose largest output is that of their label; not a number when outputs are not
        finite or not class scores.
    chance
        Accuracy of always answering the most frequent label.
    images
        Number of terms that the accuracy is of: examples, unless an example has several.
    loss_name
        Which loss it is.
    """

    loss: float
    data_loss: float
    l2: float
    accuracy: float
    chance: float
    images: int
    loss_name: str = "cross_entropy"

    @property
    def is_near_chance(self) -> bool:
        """Whether the accuracy is within three standard errors, or a tenth of the way to 1, of `chance`."""
        error = math.sqrt(max(self.chance * (1 - self.chance), 0.0) / self.images)
        return self.accuracy < self.chance + max(3 * error, _NEXT_TO_NOTHING * (1 - self.chance))

    def facts(self) -> dict[str, float]:
        """Loss, its terms and the accuracy by name; `cross_entropy` only where the loss is one of classes."""
        mean = data_loss_name(self.loss_name)
        return {"loss": self.loss, mean: self.data_loss, "l2": self.l2, "accuracy": self.accuracy}

    def attributes(self) -> dict[str, Any]:
        """As attributes of a result, named so that they hide none of an instrument's own."""
        facts: dict[str, Any] = {**self.facts(), "chance": self.chance, "images": self.images}
        if self.loss_name != "cross_entropy":
            facts["loss_name"] = self.loss_name
        return {f"{_PREFIX}{name}": value for name, value in facts.items()}

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Fit | None":
        """What a result's attributes say, or None when they say nothing."""
        loss_name = str(attributes.get(f"{_PREFIX}loss_name", "cross_entropy"))
        names = {name: name for name in ("loss", "l2", "accuracy", "chance", "images")}
        names |= {"data_loss": data_loss_name(loss_name)}
        if any(f"{_PREFIX}{name}" not in attributes for name in names.values()):
            return None
        known: dict[str, Any] = {field: attributes[f"{_PREFIX}{name}"] for field, name in names.items()}
        return cls(loss_name=loss_name, **known)


@torch.no_grad()
def fit(objective: Objective, *, sample: int = 0) -> Fit:
    """Loss and accuracy of an objective's network; costs one forward pass over the examples.

    Parameters
    ----------
    objective
        The function; when it is sharded, every process must call.
    sample
        Which draw of the dropout masks.
    """
    weights = objective.weights()
    ranges = objective.micro_batches()
    # Sum of losses, correct predictions, finite rows of class scores, rows.
    sums = torch.zeros(4, dtype=torch.float64, device=objective.device)
    counts = torch.zeros(1, dtype=torch.int64, device=objective.device)

    @torch.no_grad()
    def measured(bounds: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if objective.loss.needs_network:
            return objective.example_losses_at(weights, *bounds, sample=sample), None, None
        with objective.deferring():
            outputs = objective.outputs(weights.parameters, *bounds, sample=sample)
        labels = objective.labels(*bounds)
        losses = objective.example_losses(outputs, labels)
        scores, classes = _rows(objective, outputs, labels) or (None, None)
        if scores is None or classes is None:
            return losses, None, None
        if isinstance(scores, Deferred):
            return losses, torch.stack(scores.right(classes)), classes
        right = torch.stack([(scores.argmax(1) == classes).sum(), scores.isfinite().all(1).sum()])
        return losses, right, classes

    for losses, right, classes in workers.each(measured, ranges, objective.device):
        sums[0] += losses.sum()
        if right is not None and classes is not None:
            sums[1:3] += right
            sums[3] += len(classes)
            more = torch.bincount(classes, minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
    sums, counts = objective.reduced(sums), _summed(objective, counts)
    mean, l2 = float(sums[0] / objective.images), float(objective.l2(weights.parameters))
    rows = int(sums[3])
    return Fit(
        loss=mean + l2,
        data_loss=mean,
        l2=l2,
        accuracy=float(sums[1] / rows) if rows and int(sums[2]) == rows else math.nan,
        chance=float(counts.max()) / rows if rows else math.nan,
        images=rows or objective.images,
        loss_name=objective.loss.name,
    )


def _summed(objective: Objective, counts: torch.Tensor) -> torch.Tensor:
    """Counts of classes over all processes, which may have seen different ones."""
    if not objective.sharded or distributed.world_size() == 1:
        return counts
    lengths = torch.zeros(distributed.world_size(), dtype=torch.int64, device=counts.device)
    lengths[distributed.rank()] = len(counts)
    longest = int(objective.reduced(lengths).max())
    return objective.reduced(torch.nn.functional.pad(counts, (0, longest - len(counts))))


def _rows(objective: Objective, outputs: Any, labels: Any) -> tuple[Any, torch.Tensor] | None:
    """Class scores (T, K) and classes (T,) of the loss's terms, or of examples where the loss does not say."""
    known = objective.loss.rows(outputs, labels)
    if known is not None or not isinstance(outputs, torch.Tensor) or not isinstance(labels, torch.Tensor):
        return known
    plain = outputs.dim() == 2 and labels.dim() == 1 and not labels.is_floating_point() and int(labels.min()) >= 0
    return (outputs, labels) if plain and outputs.shape[1] > 1 else None
