"""A private copy of a network that somebody trains, and a random state that is as it was afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from landscape.compute.randomness import untouched_states
from landscape.compute.settings import own_settings
from landscape.objective.network import frozen_randomness, private_copy, unwrapped


class Mirror:
    """A copy of a network without its hooks, brought up to date by `refresh`; the network itself is only read.

    Parameters
    ----------
    model
        The network, also inside ``DataParallel``, ``DistributedDataParallel`` or ``torch.compile``.

    Raises
    ------
    LandscapeError
        When the network cannot be copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.source = unwrapped(model)
        self.network = private_copy(self.source)

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """The copy with the parameters, buffers and trainable flags of this moment."""
        theirs, mine = _tensors(self.source), _tensors(self.network)
        if {name: value.shape for name, value in theirs.items()} != {name: value.shape for name, value in mine.items()}:
            self.network = private_copy(self.source)  # parts were added or replaced
            return self.network
        for name, value in theirs.items():
            mine[name].copy_(value)
            if value.is_leaf and mine[name].requires_grad != value.requires_grad:
                mine[name].requires_grad_(value.requires_grad)
        return self.network


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Our own settings and gradients inside; the global random states are as before afterwards."""
    with untouched_states(), own_settings(), torch.enable_grad(), frozen_randomness(device):
        yield
