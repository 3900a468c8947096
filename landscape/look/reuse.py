"""Work before the first dropout, done once: Monte-Carlo passes over the same images reuse what no mask reaches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from landscape.compute.masks import Masks


class Reuse:
    """Keeps what modules returned before the first active dropout of a pass, and returns it again in later passes.

    Only the outermost such modules are kept. A module that is called twice, or whose output is changed in place
    afterwards, is computed anew every time. Made by `before_dropout`.
    """

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        self._model = model
        self._masks = masks
        self._kept: dict[str, tuple[Any, list[tuple[Tensor, int]]]] = {}
        self._called: set[str] = set()
        self._recording = True

    def restart(self) -> None:
        """The next pass is over other images: forget what was kept."""
        self._release()
        self._recording = True

    def covers(self, name: str) -> bool:
        """Whether the output of that module is reused, itself or within another."""
        return name in self._kept or any(outer in self._kept for outer in _outer(name))

    def _release(self) -> None:
        for name in self._kept:
            self._model.get_submodule(name).__dict__.pop("forward", None)
        self._kept.clear()
        self._called.clear()

    def _after(self, name: str, output: Any) -> None:
        if not self._recording:
            return
        repeated, before_dropout = name in self._called, self._masks.calls == 0
        self._called.add(name)
        if repeated:
            self._kept.pop(name, None)
        elif before_dropout:
            tensors = _tensors(output)
            if tensors is not None:
                self._kept[name] = (output, [(tensor, tensor._version) for tensor in tensors])

    def _end(self) -> None:
        """After the first pass: drop what was changed in place, keep the outermost of the rest, and reuse them."""
        if not self._recording:
            return
        self._recording = False
        whole = {
            name: kept for name, kept in self._kept.items() if all(tensor._version == seen for tensor, seen in kept[1])
        }
        self._kept = {name: kept for name, kept in whole.items() if not any(outer in whole for outer in _outer(name))}
        for name, (output, _) in self._kept.items():
            self._model.get_submodule(name).forward = lambda *_, kept=output, **__: kept


def _outer(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _tensors(output: Any) -> list[Tensor] | None:
    """The tensors of an output, or None when it holds anything else."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, (tuple, list)):
        parts = [_tensors(part) for part in output]
        return None if any(part is None for part in parts) else [tensor for part in parts for tensor in part or []]
    return None


@contextmanager
def before_dropout(model: nn.Module, masks: Masks) -> Iterator[Reuse]:
    """While this holds, passes of `model` over the same images compute what comes before the first dropout once.

    Parameters
    ----------
    model
        The network, in eval mode and under ``torch.no_grad`` (not ``inference_mode``, which does not count changes in
        place).
    masks
        The masks in force, addressed anew before every pass.

    Yields
    ------
    Reuse
        Call its `restart` before the first pass over other images.
    """
    reuse = Reuse(model, masks)

    def hook(name: str) -> Any:
        return lambda module, arguments, output: reuse._after(name, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    handles.append(model.register_forward_hook(lambda module, arguments, output: reuse._end()))
    try:
        with torch.no_grad():
            yield reuse
    finally:
        reuse._release()
        for handle in handles:
            handle.remove()
