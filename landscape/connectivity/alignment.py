"""One network's channels permuted to match another's, the function as it was."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.compute.masks import Masks
from landscape.compute.settings import measurement
from landscape.connectivity.matching import Match, match
from landscape.connectivity.permutations import Symmetries
from landscape.data.examples import Tree, converted
from landscape.errors import LandscapeError
from landscape.objective.losses import called
from landscape.objective.network import frozen_randomness, in_precision, logits, private_copy, unwrapped

# Outputs before and after may differ by rounding alone: this fraction of the largest one, in float64.
_SAME = 1e-6


class NothingToPermuteError(LandscapeError):
    """No channel of a network can be permuted: it has one alignment, itself."""


@dataclass(frozen=True)
class Alignment:
    """A network permuted to match another.

    Attributes
    ----------
    network
        A copy of the second network, permuted; it computes what that one does.
    match
        The permutations, and the objective on the way to them.
    symmetries
        All permutations that there are.
    deviation
        Largest difference of its outputs from the second network's, relative to the largest output, float64.
    """

    network: nn.Module
    match: Match
    symmetries: Symmetries
    deviation: float


def symmetries(model: nn.Module, inputs: Tree) -> Symmetries:
    """The permutations of channels under which a network computes the same.

    Parameters
    ----------
    model
        Any network; it is left as it is. What cannot be followed in it (recurrent layers, operations of one's own) is
        not permuted.
    inputs
        A few examples as the network takes them: a tensor, a tuple or a mapping of tensors.

    Examples
    --------
    >>> import torch
    >>> from landscape.connectivity import symmetries
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> symmetries(model, torch.randn(2, 4))
    Symmetries(1 groups of channels, 0 inside the blocks of another)
    """
    network = in_precision(private_copy(model).eval(), torch.float64)
    with frozen_randomness(_device(network)), Masks.off():
        return Symmetries(network, lambda: _outputs(network, converted(inputs, torch.float64)))


@measurement
def align(model: nn.Module, other: nn.Module, inputs: Tree, *, seed: int = 0) -> Alignment:
    """Permute the channels of `other` so that its weights are nearest to those of `model`; both are left as they are.

    Parameters
    ----------
    model, other
        Networks of one kind.
    inputs
        A few examples as the networks take them: the permuted network is compared with `other` on them.
    seed
        Of the order in which groups of channels are assigned, see :func:`landscape.connectivity.match`.

    Raises
    ------
    LandscapeError
        When the networks differ in kind, or the permuted one does not compute the same, because something in it acts
        on channels by their number unseen.

    Examples
    --------
    >>> import copy, torch
    >>> from landscape.connectivity import align, symmetries
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> shuffled, inputs = copy.deepcopy(model), torch.randn(5, 4)
    >>> permutable = symmetries(model, inputs)
    >>> permutable.apply(shuffled, permutable.random(seed=1))
    >>> torch.equal(align(model, shuffled, inputs).network[0].weight, model[0].weight)
    True
    """
    model, other = unwrapped(model), unwrapped(other)
    parameters, others = dict(model.named_parameters()), dict(other.named_parameters())
    shapes = {name: value.shape for name, value in parameters.items()}
    if shapes != {name: value.shape for name, value in others.items()}:
        raise LandscapeError("the networks differ in their parameters: give two of one kind")
    permutable = symmetries(model, inputs)
    if not permutable.groups:
        raise NothingToPermuteError(
            "no channel of this network can be permuted, so that there is nothing to align: connect it as it is "
            "(--only line)"
        )
    best = match(permutable, parameters, others, seed=seed)
    network = private_copy(other).eval()
    permutable.apply(network, best.permutations)
    before, after = (_in_double(each, inputs) for each in (other, network))
    deviation = float((after - before).abs().max() / before.abs().max().clamp(min=1e-300))
    if not deviation <= _SAME:
        raise LandscapeError(
            f"the permuted network's outputs differ by {deviation:.1e}: something in it acts on single channels "
            "unseen (a scripted or compiled part?); leave the alignment out"
        )
    return Alignment(network, best, permutable, deviation)


@torch.no_grad()
def _in_double(model: nn.Module, inputs: Tree) -> Tensor:
    network = in_precision(private_copy(model).eval(), torch.float64)
    with frozen_randomness(_device(network)), Masks.off():
        return _outputs(network, converted(inputs, torch.float64))


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _outputs(network: nn.Module, inputs: Tree) -> Tensor:
    return logits(called(network, inputs))
