"""What a filter is: the groups of coordinates that directions and sharpness are scaled by."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from landscape.objective.objective import Objective


def norms(objective: Objective, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    r"""Norms of the groups that the coordinates of each parameter are in, by the objective's protocol.

    ``filter``: a group is what makes one output channel or unit (Li et al. 2018, arXiv 1712.09913, section 4): an index
    of the first axis, but of the second in transposed convolutions (within their groups) and in the ``Conv1D`` of
    transformers; ``first_axis``: an index of all other axes (the code of Park & Kim); ``layer``: the tensor; ``none``
    has no groups, and gives 1. One-dimensional tensors are one group with ``one_dimensional="random"``, and give 0 with
    ``"zero"``: they do not move.

    Parameters
    ----------
    objective
        Says which parameters there are, of which layers, and the protocol.
    tensors
        One of each parameter's shape: the weights, or a step.

    Yields
    ------
    Tensor
        Broadcasts to the parameter's shape.
    """
    protocol = objective.protocol
    transposed = dict(_transposed(objective.network.module))
    parameters = dict(objective.network.module.named_parameters(remove_duplicate=False))
    for name, tensor in zip(objective.space.names, tensors, strict=True):
        if tensor.dim() < 2 and protocol.one_dimensional == "zero":
            yield torch.zeros_like(tensor)
        elif protocol.normalization == "none":
            yield torch.ones_like(tensor)
        elif tensor.dim() < 2 or protocol.normalization == "layer":
            yield torch.linalg.vector_norm(tensor, dim=list(range(tensor.dim())), keepdim=True)
        elif protocol.normalization == "first_axis":
            yield torch.linalg.vector_norm(tensor, dim=0, keepdim=True)
        elif (groups := transposed.get(id(parameters[objective.inner_names[name]]))) is not None:
            parts = tensor.unflatten(0, (groups, -1))
            of_part = torch.linalg.vector_norm(parts, dim=[1, *range(3, parts.dim())], keepdim=True)
            yield of_part.expand(-1, parts.shape[1], *of_part.shape[2:]).flatten(0, 1)
        else:
            yield torch.linalg.vector_norm(tensor, dim=list(range(1, tensor.dim())), keepdim=True)


def _transposed(network: nn.Module) -> Iterator[tuple[int, int]]:
    """Weights whose outputs are along the second axis, by identity, and how many groups the first is in."""
    for module in network.modules():
        if isinstance(module, _ConvTransposeNd):
            yield id(module.weight), module.groups
        elif type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers."):
            yield id(module.weight), 1
