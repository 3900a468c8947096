"""What an objective takes and gives at one point of weight space: the network's tensors, and the loss in its terms."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """Tensors that the network is run with at one point of weight space.

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


class DataLoss:
    """A base of results that hold a `data_loss` and its name."""

    data_loss: float
    loss_name: str

    @property
    def cross_entropy(self) -> float:
        """The mean over the terms of the data, where it is a cross-entropy of classes; raises AttributeError."""
        if not is_cross_entropy(self.loss_name):
            raise AttributeError(f"the loss is {self.loss_name}, no cross-entropy of classes: read data_loss")
        return self.data_loss


@dataclass(frozen=True)
class Terms(DataLoss):
    """The regularised loss and its two terms.

    Attributes
    ----------
    loss
        The sum of both.
    data_loss, l2
        The mean over the terms of the data, and the L2 term.
    loss_name
        Name of the loss in the protocol (`landscape.objective.losses.resolved`).
    """

    loss: float
    data_loss: float
    l2: float
    loss_name: str = "cross_entropy"


def is_cross_entropy(name: str) -> bool:
    """Whether a loss of that name in a protocol is the cross-entropy of classes."""
    return name.partition(",")[0] == "cross_entropy"


def data_loss_name(name: str) -> str:
    """What the mean over the data is called in results: ``cross_entropy`` where it is one, else ``data_loss``."""
    return "cross_entropy" if is_cross_entropy(name) else "data_loss"
