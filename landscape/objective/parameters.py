"""The parameters of a network as one flat vector, and back."""

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from landscape.errors import LandscapeError


class ParameterSpace:
    """Which parameters count as coordinates, and where each of them stands in the flat vector.

    Parameters
    ----------
    named_parameters
        Names and parameters, in the order of the model.
    chosen
        Names of the parameters that are selected; all unless given.
    unused
        Names of parameters that the output does not depend on.

    Attributes
    ----------
    names, shapes, sizes
        Of the parameters that count; a complex one is its pairs of real numbers, (..., 2).
    size
        Their number of elements together, the dimension of the space.
    left_out
        Name of every parameter that does not count, with the reason: ``frozen``, ``unused``, ``not selected``.

    Raises
    ------
    LandscapeError
        When no parameter is left.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        chosen: Collection[str] | None = None,
        unused: Sequence[str] = (),
    ) -> None:
        self.names: list[str] = []
        self.shapes: list[torch.Size] = []
        self.left_out: dict[str, str] = {}
        pairs = list(named_parameters)
        for name, parameter in pairs:
            if not parameter.requires_grad:
                self.left_out[name] = "frozen"
            elif name in unused:
                self.left_out[name] = "unused"
            elif chosen is not None and name not in chosen:
                self.left_out[name] = "not selected"
            else:
                self.names.append(name)
                self.shapes.append(in_pairs(parameter).shape)
        self.sizes = [shape.numel() for shape in self.shapes]
        self.size = sum(self.sizes)
        if not self.names:
            raise LandscapeError(
                f"no parameter counts as a coordinate: of {len(pairs)}, {_reasons(self.left_out)}; "
                "check requires_grad and --parameters"
            )

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a flat vector (P,), one a parameter, in the parameters' shapes.

        Pairs of real numbers are copied where that is needed to look at them as complex ones.
        """
        parts = [part.view(shape) for part, shape in zip(vector.split(self.sizes), self.shapes, strict=True)]
        # Complex numbers begin at even places in memory (`torch.view_as_complex`).
        return [part.clone() if part.shape[-1:] == (2,) and part.storage_offset() % 2 else part for part in parts]

    def flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """One flat vector (P,) from a tensor a parameter."""
        return torch.cat([in_pairs(tensor).reshape(-1) for tensor in tensors])

    def slices(self) -> dict[str, slice]:
        """Where each parameter stands in the flat vector."""
        ends = torch.tensor([0, *self.sizes]).cumsum(0).tolist()
        return {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(self.names)}


def in_pairs(tensor: Tensor) -> Tensor:
    """A complex tensor as its pairs of real numbers (..., 2), a view; any other as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def selection(parameters: Mapping[str, Tensor], wanted: str, last_layer: Callable[[], str]) -> set[str]:
    """Names of the parameters that a protocol's `parameters` selects.

    Parameters
    ----------
    parameters
        All of the network, by name; tied ones by each of theirs.
    wanted
        ``all``, ``trainable``, ``weights``, ``lora``, ``last-layer`` or glob patterns, with commas between them.
    last_layer
        Name of the network's last layer.

    Raises
    ------
    LandscapeError
        When a part selects nothing.
    """
    names: set[str] = set()
    for part in wanted.split(","):
        if part in ("all", "trainable"):
            matches = set(parameters)
        elif part == "weights":
            matches = {name for name, value in parameters.items() if value.dim() >= 2}
        elif part == "lora":
            matches = {name for name in parameters if "lora_" in name}
        elif part == "last-layer":
            layer = last_layer()
            matches = {name for name in parameters if name.rpartition(".")[0] == layer}
        else:
            matches = set(fnmatch.filter(parameters, part))
        if not matches and len(parameters):
            some = ", ".join(list(parameters)[:4])
            hint = "no parameter has lora_ in its name; " if part == "lora" else ""
            raise LandscapeError(f"--parameters {part} selects none of {len(parameters)}: {hint}they are {some}, ...")
        names |= matches
    return names


def _reasons(left_out: dict[str, str]) -> str:
    reasons = sorted(set(left_out.values()))
    return ", ".join(f"{list(left_out.values()).count(reason)} are {reason}" for reason in reasons)
