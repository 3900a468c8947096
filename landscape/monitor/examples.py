"""The fixed examples that a monitor looks at, in whatever form a training loop has them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.monitor.mirror import undisturbed
from landscape.objective.objective import Loss

_LOSSES: dict[str, Loss] = {"cross_entropy": nn.functional.cross_entropy, "mse": nn.functional.mse_loss}


@dataclass(frozen=True)
class Arranged:
    """Examples, loss and network as an `Objective` takes them.

    Attributes
    ----------
    images
        Pictures with labels; or, for any other kind of input, numbers of examples.
    loss
        Of the network's outputs and the labels, or the numbers of examples.
    wrap
        Makes of the network one that takes `images`.
    """

    images: Images
    loss: str | Loss
    wrap: Callable[[nn.Module], nn.Module]


def arranged(examples: Any, loss: str | Loss) -> Arranged:
    """Arrange examples for an `Objective`.

    Parameters
    ----------
    examples
        `Images`; a pair (inputs, targets); a mapping of tensors with ``labels`` among them, passed to the network by
        name (Hugging Face); a `Dataset` or `DataLoader` of pairs or mappings, which is read once. Inputs are a tensor,
        a tuple or a mapping of tensors whose first dimension counts examples.
    loss
        ``cross_entropy``, ``mse``, or a function (outputs, targets) -> mean over examples.

    Raises
    ------
    LandscapeError
        For an unknown loss, or examples in none of these forms or of unequal numbers.
    """
    if isinstance(loss, str) and loss not in _LOSSES:
        raise LandscapeError(f"unknown loss {loss!r}: choose one of {', '.join(_LOSSES)}, or give a function")
    if isinstance(examples, Images):
        return Arranged(examples, _LOSSES[loss] if isinstance(loss, str) else loss, lambda network: network)
    inputs, targets = _pair(_read(examples))
    tensors = _leaves(inputs) + _leaves(targets)
    counts = {len(tensor) for tensor in tensors if tensor.dim()}
    if not tensors or len(counts) != 1 or 0 in counts:
        raise LandscapeError(
            f"examples: first dimensions are {sorted(counts)}: give equal, positive numbers of inputs and targets"
        )
    (count,) = counts
    pictures = isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.is_floating_point()
    labels = isinstance(targets, Tensor) and targets.dim() == 1 and targets.dtype == torch.int64
    function = _LOSSES[loss] if isinstance(loss, str) else loss
    if pictures and labels and int(targets.min()) >= 0:
        images = Images(inputs.detach(), targets, int(targets.max()) + 1, "examples", "train")
        return Arranged(images, function, lambda network: network)
    numbers = Images(
        torch.arange(count, dtype=torch.float64).view(count, 1, 1, 1), torch.arange(count), count, "examples", "train"
    )

    def looked_up(outputs: Tensor, rows: Tensor) -> Tensor:
        return function(outputs, _rows(targets, rows, outputs))

    return Arranged(numbers, looked_up, lambda network: _LookUp(network, _Held(inputs)))


class _Held:
    """Tensors that copies of a network share."""

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Held":
        return self


class _LookUp(nn.Module):
    """A network called with numbers of examples, (n, 1, 1, 1), in place of the examples."""

    def __init__(self, network: nn.Module, held: _Held) -> None:
        super().__init__()
        self.network = network
        self._held = held

    def forward(self, numbers: Tensor) -> Any:
        """Outputs for these examples."""
        rows = numbers.flatten().round().long()
        given = _rows(self._held.inputs, rows, numbers)
        if isinstance(given, Mapping):
            return self.network(**given)
        return self.network(*given) if isinstance(given, tuple) else self.network(given)


def _rows(tree: Any, rows: Tensor, like: Tensor) -> Any:
    """Rows of every tensor, on the device and, if floating, in the precision of `like`."""
    if isinstance(tree, Tensor):
        chosen = tree[rows.to(tree.device)].to(like.device)
        return chosen.to(like.dtype) if chosen.is_floating_point() else chosen
    if isinstance(tree, Mapping):
        return {name: _rows(value, rows, like) for name, value in tree.items()}
    return tuple(_rows(value, rows, like) for value in tree)


def _leaves(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in _leaves(value)]
    if isinstance(tree, (tuple, list)):
        return [leaf for value in tree for leaf in _leaves(value)]
    raise LandscapeError(f"examples hold a {type(tree).__name__}: give tensors, or tuples or mappings of them")


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Mapping):
        if "labels" not in batch:
            raise LandscapeError(f"examples have {', '.join(map(str, batch))} but no labels: add them")
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    raise LandscapeError(
        f"examples are a {type(batch).__name__}: give Images, a pair (inputs, targets), a mapping with labels, or a "
        "Dataset or DataLoader of these"
    )


def _read(examples: Any) -> Any:
    """One batch of everything that a data set or loader yields; the loader's random state is put back."""
    if isinstance(examples, DataLoader):
        source = examples.generator
        state = None if source is None else source.get_state()
        with undisturbed(torch.device("cpu")):
            batches = list(examples)
        if source is not None and state is not None:
            source.set_state(state)
        if not batches:
            raise LandscapeError("examples: the loader is empty")
        return _joined(batches)
    if isinstance(examples, Dataset):
        with undisturbed(torch.device("cpu")):
            return default_collate([examples[n] for n in range(len(examples))])  # type: ignore[arg-type]
    return examples


def _joined(batches: Sequence[Any]) -> Any:
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        return {name: _joined([batch[name] for batch in batches]) for name in first}
    return tuple(_joined(parts) for parts in zip(*batches, strict=True))
