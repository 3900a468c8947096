"""Examples of any shape: whatever tensors a network takes, and whatever tensors a loss compares its outputs with."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Union

import torch
from torch import Tensor

from landscape.compute.randomness import generator
from landscape.errors import LandscapeError

# A tensor, or tensors in tuples and dictionaries, however deep; the first dimension of each counts examples.
Tree = Union[Tensor, tuple["Tree", ...], dict[str, "Tree"]]  # noqa: UP007  it names itself


def leaves(tree: Tree, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a tree with its path, such as ``inputs.input_ids`` or ``inputs[0]``."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{name}.{key}" if name else key)
    else:
        for position, value in enumerate(tree):
            yield from leaves(value, f"{name}[{position}]")


def count_of(tree: Tree) -> int | None:
    """Number of examples in a batch; None of one without tensors."""
    return next((len(tensor) for _, tensor in leaves(tree) if tensor.dim()), None)


def mapped(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The tree with `function` of every tensor in its place."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {name: mapped(function, value) for name, value in tree.items()}
    return tuple(mapped(function, value) for value in tree)


def converted(tree: Tree, dtype: torch.dtype, device: torch.device | str | None = None) -> Tree:
    """The tree on a device, its floating-point tensors in `dtype`; whole numbers stay what they are."""
    return mapped(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None), tree)


def content(tensor: Tensor) -> bytes:
    """The bytes of a tensor, of any type: NumPy has no bfloat16."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True)
class Examples:
    """Inputs of any shape with targets of any shape, or none, whole in memory or mapped from a file.

    Parameters
    ----------
    inputs
        What a network is called with: one tensor, a tuple of tensors (positional arguments), or a dictionary of them
        (arguments by name). Floating-point tensors are given in the precision of the measurement.
    targets
        What a loss compares outputs with, in any of these forms; None where it needs nothing.
    name, split
        What they are, for results and messages; an empty `split` when there is none.
    population
        Number of examples that these are a random sample of; None when unknown.

    Raises
    ------
    LandscapeError
        When there are none, or first dimensions differ.

    Examples
    --------
    >>> import torch
    >>> from landscape.data import Examples
    >>> text = Examples({"input_ids": torch.zeros(8, 16, dtype=torch.int64)}, None, name="text")
    >>> len(text), text.batch(0, 2)["input_ids"].shape
    (8, torch.Size([2, 16]))
    """

    inputs: Tree
    targets: Tree | None
    name: str = "examples"
    split: str = ""
    population: int | None = None

    def __post_init__(self) -> None:
        lengths: dict[str, int] = {}
        for path, tensor in self.leaves():
            if tensor.dim() == 0:
                raise LandscapeError(f"{self.title}: {path} is one number: its first dimension must count examples")
            lengths[path] = len(tensor)
        if not lengths or 0 in lengths.values():
            raise LandscapeError(f"{self.title} holds no examples: give at least one")
        if len(set(lengths.values())) > 1:
            sizes = ", ".join(f"{path} {length}" for path, length in lengths.items())
            raise LandscapeError(f"{self.title}: first dimensions differ ({sizes}): each must count the same examples")

    def leaves(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its path."""
        yield from leaves(self.inputs, "inputs")
        if self.targets is not None:
            yield from leaves(self.targets, "targets")

    def with_each(self, function: Callable[[Tensor], Tensor]) -> "Examples":
        """The same with `function` of every tensor."""
        targets = None if self.targets is None else mapped(function, self.targets)
        return dataclasses.replace(self, inputs=mapped(function, self.inputs), targets=targets)

    def __len__(self) -> int:
        return len(next(self.leaves())[1])

    def __repr__(self) -> str:
        shapes = ", ".join(f"{path} {tuple(tensor.shape)}" for path, tensor in self.leaves())
        return f"Examples({self.title}: {shapes})"

    @property
    def title(self) -> str:
        """Name, with the split in brackets where there is one."""
        return f"{self.name} ({self.split})" if self.split else self.name

    @property
    def classes(self) -> int:
        """Number of classes, where targets are one whole number per example; 0 for anything else."""
        targets = self.targets
        if isinstance(targets, Tensor) and targets.dim() == 1 and targets.dtype == torch.int64:
            return max(int(targets.max()) + 1, 0)
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self.leaves())

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return next(self.leaves())[1].device

    def described(self, count: int | None = None) -> str:
        """Of what population these examples, or `count` of them, are a sample, in words."""
        count = len(self) if count is None else count
        whole = self.population or len(self)
        part = "all" if count == whole else f"{count:,} of the"
        unknown = ", a sample of an unknown population" if self.population is None else ""
        return f"{part} {whole:,} examples of {self.title}{unknown}"

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of every tensor by name, type and shape, in this order of examples."""
        digest = hashlib.sha256()
        for path, tensor in self.leaves():
            digest.update(f"{path} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # In parts: what is mapped from a file need not be in memory at once.
            for part in tensor.split(1024):
                digest.update(content(part))
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Examples":
        """The same with every tensor on `device`."""
        return self.with_each(lambda tensor: tensor.to(device))

    def select(self, indices: Tensor) -> "Examples":
        """The examples at `indices` ((n,) int64), in that order."""
        return self.with_each(lambda tensor: tensor[indices.to(tensor.device)])

    def subset(self, count: int, seed: int) -> "Examples":
        """A random sample without replacement: the first `count` of the permutation that `seed` names.

        Raises
        ------
        LandscapeError
            When `count` is not in 1..N.
        """
        if not 1 <= count <= len(self):
            raise LandscapeError(f"{self.title} has {len(self)} examples, not {count}: give up to {len(self)}")
        if count == len(self):
            return self
        return self.select(torch.randperm(len(self), generator=generator(seed, "subset"))[:count])

    def normalized_by(self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> "Examples":
        """The same examples; raises LandscapeError where a normalisation is given, which is for uint8 images alone."""
        if mean is not None or std is not None:
            raise LandscapeError(f"--mean and --std are for uint8 images: {self.title} is used as it is")
        return self

    def augmented(self, seed: int) -> "Examples":
        """Raises LandscapeError: crops and flips are for images."""
        raise LandscapeError(f"--augmentation frozen is for images: {self.title} has none; augment it yourself")

    def batch(
        self, start: int, stop: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> Tree:
        """Inputs of examples start..stop-1, floating-point ones in `dtype`, on `device`."""
        return converted(mapped(lambda tensor: tensor[start:stop], self.inputs), dtype, device)

    def target(self, start: int, stop: int, dtype: torch.dtype = torch.float32) -> Tree | None:
        """Targets of examples start..stop-1, floating-point ones in `dtype`."""
        if self.targets is None:
            return None
        return converted(mapped(lambda tensor: tensor[start:stop], self.targets), dtype)

    def with_targets_as_inputs(self, name: str) -> "Examples":
        """The same with the targets among the inputs, for a network that computes its loss itself.

        By that `name` where inputs have names, as the last argument otherwise.
        """
        if self.targets is None:
            return self
        if isinstance(self.inputs, Tensor):
            return dataclasses.replace(self, inputs=(self.inputs, self.targets))
        if isinstance(self.inputs, tuple):
            return dataclasses.replace(self, inputs=(*self.inputs, self.targets))
        return dataclasses.replace(self, inputs={**self.inputs, name: self.targets})


# Numbers that are looked at together.
_PART = 2**22


def require_finite(examples: Examples) -> Examples:
    """The examples, of which every number is finite; raises LandscapeError otherwise."""
    for path, tensor in examples.leaves():
        if not tensor.is_floating_point():
            continue
        # In parts: what is mapped from a file need not be in memory at once.
        rows = max(1, _PART // max(tensor[0].numel(), 1))
        for start in range(0, len(tensor), rows):
            bad = ~tensor[start : start + rows].isfinite()
            if bool(bad.any()):
                first = start + int(bad.flatten(1).any(1).nonzero()[0] if bad.dim() > 1 else bad.nonzero()[0])
                raise LandscapeError(f"{examples.title}: {path} is not finite in example {first}: repair or remove it")
    return examples
