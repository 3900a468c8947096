"""A private copy of a network that somebody trains, and a random state that is as it was afterwards."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from landscape.errors import LandscapeError

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class Mirror:
    """A copy of a network without its hooks, brought up to date by `refresh`; the network itself is only read.

    Hooks are left out because they would fire in measurements and change what they count or log; those of
    `torch.nn.utils` (weight and spectral normalisation), which belong to the network's function, are kept.

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
        self.network = _copy(self.source)

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """The copy with the parameters, buffers and trainable flags of this moment."""
        theirs, mine = _tensors(self.source), _tensors(self.network)
        if {name: value.shape for name, value in theirs.items()} != {name: value.shape for name, value in mine.items()}:
            self.network = _copy(self.source)  # parts were added or replaced
            return self.network
        for name, value in theirs.items():
            mine[name].copy_(value)
            if value.is_leaf and mine[name].requires_grad != value.requires_grad:
                mine[name].requires_grad_(value.requires_grad)
        return self.network


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside wrappers for several devices and for compilation."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model.module if parallel else compiled
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _copy(model: nn.Module) -> nn.Module:
    # deepcopy takes what the memo holds: an empty table in place of each table of hooks, which stay uncopied.
    memo: dict[int, object] = {}
    for module in model.modules():
        for name in _HOOKS:
            hooks = getattr(module, name, None)
            if hooks and not all(_of_torch(hook) for hook in hooks.values()):
                memo[id(hooks)] = type(hooks)()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # the copied modules are the user's: anything can be raised
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LandscapeError(
            f"the network cannot be copied ({reason}): make the monitor before the first forward pass"
        ) from None


def _of_torch(hook: object) -> bool:
    return type(hook).__module__.startswith("torch.nn.utils")


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Full precision and gradients inside, whatever surrounds it; global random states are as before afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  the user's, only put back
    devices = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices=devices),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
