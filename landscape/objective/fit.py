"""How well the measured network fits the examples it is measured on: the first check of any curvature or surface."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from landscape.compute import workers
from landscape.objective.objective import Objective

# From chance (0) to perfect (1): below a tenth a network has learned next to nothing of these images.
_NEXT_TO_NOTHING = 0.1
_PREFIX = "fit_"


@dataclass(frozen=True)
class Fit:
    """Loss and accuracy at the network's own weights, over the objective's examples.

    Attributes
    ----------
    loss, cross_entropy, l2
        The regularised loss and its terms in nats, as :meth:`Objective.value` gives them.
    accuracy
        Share of examples whose largest output is that of their label; not a number when outputs are not finite or are
        not one row of class scores per image.
    chance
        Accuracy of always answering the most frequent label.
    images
        Number of examples.
    """

    loss: float
    cross_entropy: float
    l2: float
    accuracy: float
    chance: float
    images: int

    @property
    def is_near_chance(self) -> bool:
        """Whether the accuracy is within three standard errors, or a tenth of the way to 1, of `chance`."""
        error = math.sqrt(max(self.chance * (1 - self.chance), 0.0) / self.images)
        return self.accuracy < self.chance + max(3 * error, _NEXT_TO_NOTHING * (1 - self.chance))

    def attributes(self) -> dict[str, float]:
        """As attributes of a result, named so that they hide none of an instrument's own."""
        return {f"{_PREFIX}{name}": value for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Fit | None":
        """What a result's attributes say, or None when they say nothing."""
        names = [field.name for field in dataclasses.fields(cls)]
        if any(f"{_PREFIX}{name}" not in attributes for name in names):
            return None
        return cls(**{name: attributes[f"{_PREFIX}{name}"] for name in names})


@torch.no_grad()
def fit(objective: Objective, *, sample: int = 0) -> Fit:
    """Loss and accuracy of an objective's network; costs one forward pass of the examples.

    Parameters
    ----------
    objective
        The function; when it is sharded, every process must call.
    sample
        Which draw of the dropout masks.
    """
    parameters = objective.space.split(objective.point)
    ranges = objective.micro_batches()
    # Sum of losses, right answers, examples whose outputs are finite rows of class scores.
    sums = torch.zeros(3, dtype=torch.float64, device=objective.device)

    @torch.no_grad()
    def outputs(bounds: tuple[int, int]) -> torch.Tensor:
        return objective.outputs(parameters, *bounds, sample=sample)

    for bounds, found in zip(ranges, workers.each(outputs, ranges, objective.device), strict=True):
        labels = objective.labels(*bounds)
        sums[0] += objective.example_losses(found, labels).sum()
        if found.dim() == 2 and labels.dim() == 1:
            sums[1] += (found.argmax(1) == labels).sum()
            sums[2] += found.isfinite().all(1).sum()
    sums = objective.reduced(sums)
    mean, l2 = float(sums[0] / objective.images), float(objective.l2(parameters))
    labels = objective.data.labels
    return Fit(
        loss=mean + l2,
        cross_entropy=mean,
        l2=l2,
        accuracy=float(sums[1] / objective.images) if int(sums[2]) == objective.images else math.nan,
        chance=float(labels.unique(return_counts=True)[1].max()) / len(labels) if labels.dim() == 1 else math.nan,
        images=objective.images,
    )
