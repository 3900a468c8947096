"""Where in a network to look: blocks, stages, subsampling and smoothing layers of any module, found by running it."""

import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from landscape.compute.masks import Masks
from landscape.data.examples import Tree, leaves, mapped
from landscape.errors import LandscapeError
from landscape.objective.losses import called

PointKind = Literal["block", "smoothing", "subsampling"]
Layout = Literal["NCHW", "NHWC", "tokens", "NLC", "NCL"]

# A map that is less than 3/4 as long as the one before was subsampled; one that lost or gained a border was not.
_SUBSAMPLED = 0.75
# Class token, distillation token and up to four registers, and room for more.
_EXTRA_TOKENS = 8
# How many of them stand before a square grid that nothing but the number of tokens tells: none, a class token, one and
# a distillation token, one and four registers. Any number would make a square of any sequence.
_USUAL_EXTRA_TOKENS = (0, 1, 2, 5)
_NAMES_OF_SMOOTHING = ("smooth", "blur")


@dataclass(frozen=True)
class Point:
    """One point in a network where a feature map is measured.

    Attributes
    ----------
    name
        Of the module whose output it is; ``name:2`` for the second call of a module that is called again.
    kind
        ``block``, ``smoothing`` (a layer of its own that blurs), or ``subsampling`` (a pooling or strided layer of its
        own).
    stage
        Number of subsamplings so far, from 0.
    depth
        Normalised depth: 0 after the first block, 1 after the last; layers between two blocks lie evenly between them.
    channels, height, width
        Of the feature map (N, channels, height, width); patches of images are on their grid, sequences have height 1.
    subsampled
        Whether the map is smaller than the one before.
    layout
        Of the module's output: which of its dimensions are channels.
    extra_tokens
        Class tokens and the like before the grid.
    sequence_first
        Whether tokens come before examples, (L, N, C), as torch's own transformers have them unless told otherwise.
    """

    name: str
    kind: PointKind
    stage: int
    depth: float
    channels: int
    height: int
    width: int
    subsampled: bool
    layout: Layout = "NCHW"
    extra_tokens: int = 0
    sequence_first: bool = False

    @property
    def module_name(self) -> str:
        """Name of the module, without the number of the call."""
        return self.name.partition(":")[0]

    def as_map(self, output: Any) -> Tensor:
        """What the module returned, as a map (N, channels, height, width): class tokens dropped, the grid recovered."""
        features = self._batch_first(output)
        if self.layout == "NHWC":
            return features.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            grid = features[:, self.extra_tokens :]
            return grid.reshape(len(grid), self.height, self.width, self.channels).permute(0, 3, 1, 2)
        if self.layout in ("NLC", "NCL"):
            sequence = features.mT if self.layout == "NLC" else features
            return sequence[:, :, None, self.extra_tokens : self.extra_tokens + self.width]
        return features

    def as_output(self, feature_map: Tensor, output: Any) -> Tensor:
        """The inverse of `as_map`: a tensor shaped like the module's output, what was left out zero."""
        shaped = self._as_batch_first(feature_map, self._batch_first(output))
        return shaped.transpose(0, 1) if self.sequence_first else shaped

    def _batch_first(self, output: Any) -> Tensor:
        features = first_tensor(output)
        assert features is not None
        return features.transpose(0, 1) if self.sequence_first else features

    def _as_batch_first(self, feature_map: Tensor, features: Tensor) -> Tensor:
        last = feature_map.permute(0, 2, 3, 1)
        if self.layout == "NHWC":
            return last
        if self.layout == "tokens":
            tokens = last.reshape(len(last), self.height * self.width, self.channels)
            return torch.cat([torch.zeros_like(features[:, : self.extra_tokens]), tokens], dim=1)
        if self.layout in ("NLC", "NCL"):
            sequence = torch.zeros_like(features.mT if self.layout == "NLC" else features)
            sequence[:, :, self.extra_tokens : self.extra_tokens + self.width] = feature_map[:, :, 0]
            return sequence.mT if self.layout == "NLC" else sequence
        return feature_map


@dataclass(frozen=True)
class Depths:
    """The points of a network in the order in which it runs through them."""

    points: tuple[Point, ...]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def blocks(self) -> list[int]:
        """Indices of the points that are blocks."""
        return [number for number, point in enumerate(self.points) if point.kind == "block"]

    @property
    def stage_ends(self) -> list[int]:
        """Index of the last point of each stage that is a block or a smoothing layer."""
        ends: dict[int, int] = {}
        for number, point in enumerate(self.points):
            if point.kind != "subsampling":
                ends[point.stage] = number
        return list(ends.values())

    def coordinates(self) -> dict[str, tuple[str, Any]]:
        """What an xarray dataset over the dimension ``point`` carries beside the names."""
        names = ("kind", "stage", "depth", "channels", "height", "width", "subsampled")
        return {
            "point": ("point", [point.name for point in self.points]),
            **{name: ("point", [getattr(point, name) for point in self.points]) for name in names},
        }


def first_tensor(output: Any) -> Tensor | None:
    """The tensor in what a module returned: itself, the first of a sequence, or an output object's hidden state."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    elif hasattr(output, "last_hidden_state"):
        output = [output.last_hidden_state]
    if isinstance(output, (tuple, list)) and output:
        return first_tensor(output[0])
    return None


@dataclass
class _Call:
    """One call of one module, as watched."""

    name: str
    module: nn.Module
    given: Tensor | None
    returned: Tensor | None
    index: int

    @property
    def label(self) -> str:
        return self.name if self.index == 0 else f"{self.name}:{self.index + 1}"


def find(
    model: nn.Module,
    inputs: Tree,
    *,
    blocks: str | None = None,
    sequences: bool = False,
    counted: Mapping[int, tuple[int, int]] | None = None,
) -> Depths:
    """Find the points of a network by its structure and by what it does to an example.

    A *block* is the outermost module that repeats with its siblings and holds weights: a residual block, a transformer
    layer, a convolution-norm-activation group; indexed containers (stages) are gone into. A *smoothing layer* is a
    module without weight matrices that damps the highest frequency of a map and leaves its size and channels (or one
    that is named so). A *subsampling layer* is one without blocks inside whose map is shorter by a quarter or more.

    Parameters
    ----------
    model
        Any network; left as it was.
    inputs
        Images (N, C, H, W), or whatever the network takes, one is enough, on the model's device.
    blocks
        Patterns of module names, separated by commas, instead of the structural search for blocks: ``layer*.*``; a
        ``*`` stands for any text without a dot. Smoothing and pooling layers are detected as always.
    sequences
        Whether outputs (N, L, C) are sequences of tokens. Otherwise they are patches of images where they can be: on
        the grid of a convolution, or, behind 0, 1, 2 or 5 other tokens, on a square whose side divides height and width
        of the images.
    counted
        First and last + 1 of the positions that count, by the length of a sequence; all unless given.

    Returns
    -------
    Depths
        In the order of execution.

    Raises
    ------
    LandscapeError
        When nothing is found, or a pattern matches nothing that returns a map.
    """
    calls = _watched(model, inputs)
    shapes = _Shapes(calls, None if sequences else _pictures(inputs), counted or {})
    maps = [call for call in calls if shapes.layout(call.module, call.returned) is not None]
    if not maps:
        raise LandscapeError(
            "no module of this network returns a feature map (N, C, H, W) or tokens, (N, T, C) or (T, N, C): what is "
            "measured here varies over positions, and there is no axis of positions; landscape.hessian needs none"
        )
    names = _matching(maps, blocks) if blocks else set(_block_names(model, {call.name for call in maps}))
    inside = tuple(f"{name}." for name in names)
    points: list[tuple[_Call, PointKind]] = []
    taken: tuple[str, ...] = ()
    for call in maps:
        if call.name in names:
            points.append((call, "block"))
        elif call.name and not call.name.startswith((*inside, *taken)):
            kind = _other_kind(call, shapes, [name for name in names if name.startswith(f"{call.name}.")])
            # Whoever names blocks does not want those left unnamed, strided as they may be.
            if kind is not None and not (blocks and _has_weights(call.module)):
                points.append((call, kind))
    # Modules report when they return, children first: keep the outermost of nested layers that are not blocks.
    labels = {call.name for call, kind in points if kind != "block"}
    points = [
        (call, kind)
        for call, kind in points
        if kind == "block" or not any(call.name.startswith(f"{other}.") for other in labels)
    ]
    if not any(kind == "block" for _, kind in points):
        raise LandscapeError(
            "no block of this network returns a feature map, a grid of tokens or a sequence of them: name some by "
            "--blocks PATTERN"
        )
    return Depths(tuple(_placed(points, shapes)))


@contextmanager
def watch(model: nn.Module, depths: Depths, visit: Callable[[int, Tensor], None]) -> Iterator[None]:
    """While this holds, every forward pass calls ``visit(place, map)`` at each point, map (N, C, H, W), detached."""
    numbers = {point.name: number for number, point in enumerate(depths.points)}
    calls: dict[str, int] = {}
    modules = dict(model.named_modules(remove_duplicate=False))

    def hook(name: str) -> Callable[..., None]:
        def after(module: nn.Module, arguments: Any, output: Any) -> None:
            index = calls.get(name, 0)
            calls[name] = index + 1
            number = numbers.get(name if index == 0 else f"{name}:{index + 1}")
            if number is not None:
                features = first_tensor(output)
                assert features is not None
                visit(number, depths.points[number].as_map(features.detach()))

        return after

    def start(module: nn.Module, arguments: Any) -> None:
        calls.clear()

    handles = [model.register_forward_pre_hook(start)]
    for name in dict.fromkeys(point.module_name for point in depths.points):
        handles.append(modules[name].register_forward_hook(hook(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _watched(model: nn.Module, inputs: Tree) -> list[_Call]:
    """Every call of every named module in one forward pass without dropout, in the order in which they return."""
    calls: list[_Call] = []
    count: dict[str, int] = {}

    def hook(name: str) -> Callable[..., None]:
        def after(module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
            given = first_tensor(arguments) if arguments else first_tensor(keywords)
            calls.append(_Call(name, module, given, first_tensor(output), count.get(name, 0)))
            count[name] = count.get(name, 0) + 1

        return after

    handles = [
        module.register_forward_hook(hook(name), with_kwargs=True) for name, module in model.named_modules() if name
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with Masks.off():
            called(model, mapped(lambda tensor: tensor[:1], inputs))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return calls


def _pictures(inputs: Tree) -> Tensor | None:
    """One picture (1, C, H, W) among what a network takes."""
    return next((tensor[:1] for _, tensor in leaves(inputs) if tensor.dim() == 4), None)


def _by_lines(maps: Sequence[Tensor], calls: Sequence[_Call]) -> bool:
    """Whether a module is given the rows, or the columns, of a map (1, C, H, W) as its tokens."""
    given = [call.given for call in calls if call.given is not None and call.given.dim() == 3]
    for lines in (each for pixels in maps for each in (pixels.transpose(1, 2), pixels.permute(0, 3, 1, 2))):
        alike = [tokens for tokens in given if tokens.shape == lines.flatten(2).shape and tokens.dtype == lines.dtype]
        # In any order of channels and pixels within a line.
        if any(torch.equal(tokens.sort().values, lines.flatten(2).sort().values) for tokens in alike):
            return True
    return False


class _Shapes:
    """How the outputs of a network are to be read as maps."""

    def __init__(self, calls: Sequence[_Call], pictures: Tensor | None, counted: Mapping[int, tuple[int, int]]) -> None:
        self._counted = counted
        # What the side of a grid of patches divides; 0 where tokens are no patches, but lines of a map.
        self._divided = 0 if pictures is None else math.gcd(*pictures.shape[2:])
        maps = [call.returned for call in calls if call.returned is not None and call.returned.dim() == 4]
        if pictures is not None and _by_lines([pictures, *maps], calls):
            self._divided = 0
        # Keeps the tensors alive through `calls`, so that ids stay theirs.
        self._calls = calls
        self._known: dict[int, Layout] = {}
        # A patch embedding says what grid the tokens stand on, square or not.
        self._grids = [
            (call.returned.shape[2], call.returned.shape[3])
            for call in calls
            if isinstance(call.module, nn.Conv2d) and call.returned is not None and call.returned.dim() == 4
        ]
        for call in calls:
            layout = self.layout(call.module, call.returned)
            if layout is not None:
                self._known[id(call.returned)] = layout[0]

    def known(self, tensor: Tensor) -> Layout:
        """Layout of a tensor by what the module that made it is like."""
        return self._known.get(id(tensor), "NCHW")

    def layout(self, module: nn.Module, output: Tensor | None) -> tuple[Layout, int, int, int, int] | None:
        """Layout, extra tokens, channels, height and width; None for what is not a map of 2 x 2 or more."""
        if output is None or not output.is_floating_point():
            return None
        if output.dim() == 4:
            _, *rest = output.shape
            last = _channels_last(module, rest)
            channels, height, width = (rest[2], rest[0], rest[1]) if last else (rest[0], rest[1], rest[2])
            return ("NHWC" if last else "NCHW", 0, channels, height, width) if min(height, width) > 1 else None
        if output.dim() == 3:
            if sequence_first(output):
                output = output.transpose(0, 1)
            if (grid := self._grid(output.shape[1])) is not None:
                extra, height, width = grid
                return "tokens", extra, output.shape[2], height, width
            first = _channels_first(module, output.shape[1])
            channels, length = output.shape[1:] if first else (output.shape[2], output.shape[1])
            start, stop = self._counted.get(length, (0, length))
            # One example was shown: a first dimension of another size does not count examples.
            fits = len(output) == 1 and stop - start > 1
            return ("NCL" if first else "NLC", start, channels, 1, stop - start) if fits else None
        return None

    def _grid(self, tokens: int) -> tuple[int, int, int] | None:
        """Extra tokens, height and width of the grid that tokens stand on; None for a sequence."""
        if not self._divided:
            return None
        # A grid that is known goes before a square that happens to fit with some other number of extra tokens.
        for height, width in self._grids:
            if tokens - height * width in range(_EXTRA_TOKENS) and min(height, width) > 1:
                return tokens - height * width, height, width
        for extra in _USUAL_EXTRA_TOKENS:
            side = math.isqrt(max(tokens - extra, 0))
            if side > 1 and side**2 == tokens - extra and self._divided % side == 0:
                return extra, side, side
        return None


def sequence_first(output: Tensor | None) -> bool:
    """Whether tokens of the one example that was shown come first, (L, 1, C)."""
    return output is not None and output.dim() == 3 and output.shape[1] == 1 < len(output)


def _channels_last(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a block that returns (N, a, b, c) has its channels at the end: where its layers work."""
    last: set[int] = set()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            return False
        if isinstance(child, nn.LayerNorm):
            last.add(child.normalized_shape[-1])
        elif isinstance(child, nn.Linear):
            last.add(child.out_features)
    return shape[2] in last and shape[0] not in last


def _channels_first(module: nn.Module, channels: int) -> bool:
    """Whether a module that returns (N, a, b) has its channels before its positions: where its layers work."""
    first = (
        child.out_channels if isinstance(child, nn.Conv1d) else child.num_features
        for child in module.modules()
        if isinstance(child, (nn.Conv1d, nn.BatchNorm1d))
    )
    return channels in first


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters())


def _weight_layers(module: nn.Module) -> int:
    return sum(_has_weights(inner) and not any(True for _ in inner.children()) for inner in module.modules())


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))


def _is_group(module: nn.Module) -> bool:
    """A container of single layers, such as convolution, norm, activation."""
    return _is_container(module) and not any(_is_compound(child) for child in module.children())


def _is_compound(module: nn.Module) -> bool:
    return _has_weights(module) and any(True for _ in module.children())


def _holds_blocks(module: nn.Module) -> bool:
    """Whether there is, somewhere inside, a container with two or more members of one class that could be blocks."""
    for inner in module.modules():
        if inner is not module and _is_container(inner):
            classes = [type(child) for child in inner.children() if not _is_group(child) and _weight_layers(child) > 1]
            if len(classes) > len(set(classes)):
                return True
    return False


def _block_names(model: nn.Module, mapped: set[str], name: str = "") -> Iterator[str]:
    """Names of the blocks, outermost first; only modules that return maps count."""
    module = model.get_submodule(name)
    children = {f"{name}.{child}" if name else child: inner for child, inner in module.named_children()}
    compound = {child: inner for child, inner in children.items() if _is_compound(inner)}
    groups = _layer_groups(children) if _is_group(module) or not (name or compound) else []
    if len(groups) > 2 or not (name or compound):
        yield from groups
    elif name in mapped and not (_is_container(module) and compound) and not _holds_blocks(module):
        yield name
    else:
        for child in compound:
            yield from _block_names(model, mapped, child)


def _layer_groups(children: Mapping[str, nn.Module]) -> list[str]:
    """The last layer of each convolution-norm-activation group in a flat sequence of layers."""
    ends: list[str] = []
    for child, module in children.items():
        pools = "pool" in type(module).__name__.lower() or isinstance(module, (nn.Flatten, nn.Dropout, nn.Identity))
        if _has_weights(module):
            ends.append(child)
        elif ends and not pools and not any(word in type(module).__name__.lower() for word in _NAMES_OF_SMOOTHING):
            ends[-1] = child
    return ends


def _matching(mapped: Sequence[_Call], patterns: str) -> set[str]:
    """Names of modules that return maps and match; a star does not match a dot."""
    names: set[str] = set()
    for pattern in patterns.split(","):
        parts = pattern.strip().split(".")
        matches = {
            call.name
            for call in mapped
            if len(call.name.split(".")) == len(parts)
            and all(fnmatch.fnmatchcase(*pair) for pair in zip(call.name.split("."), parts, strict=True))
        }
        if not matches:
            some = ", ".join(dict.fromkeys(call.name for call in mapped[:8] if call.name))
            raise LandscapeError(f"--blocks {pattern}: no module of that name returns a map; there are {some}, ...")
        names |= matches
    return names


def _other_kind(call: _Call, shapes: _Shapes, blocks_inside: Sequence[str]) -> PointKind | None:
    """Whether a module that is not a block is a smoothing or a subsampling layer of its own."""
    if blocks_inside or call.given is None or call.returned is call.given:
        return None
    before, after = shapes.layout(call.module, call.given), shapes.layout(call.module, call.returned)
    if before is None or after is None or call.given.dim() != 4 or shapes.known(call.given) != "NCHW":
        return None
    # A map that is laid out as a sequence has lost its rows, not its resolution.
    if after[0] in ("NLC", "NCL"):
        return None
    if min(after[3] / before[3], after[4] / before[4]) < _SUBSAMPLED:
        return "subsampling"
    # Adaptive pools in front of a head may enlarge a small map: that is not a filter.
    if _has_weights(call.module) or before[2] != after[2] or isinstance(call.module, nn.AdaptiveAvgPool2d):
        return None
    named = any(word in f"{call.name} {type(call.module).__name__}".lower() for word in _NAMES_OF_SMOOTHING)
    return "smoothing" if named or _damps(call.module, call.given) else None


def _damps(module: nn.Module, given: Tensor) -> bool:
    """Whether a layer lets a constant change of its input pass better than a checkerboard, which is at frequency pi."""
    if any(isinstance(child, nn.modules.dropout._DropoutNd) for child in module.modules()):
        return False
    generator = torch.Generator(given.device).manual_seed(0)
    height, width = given.shape[2:]
    rows, columns = torch.arange(height, device=given.device)[:, None], torch.arange(width, device=given.device)
    checkerboard = (1 - 2 * ((rows + columns) % 2)).to(given.dtype)
    # Around a positive map every rectifier is open, so that what is seen is the filter.
    base = 1 + 0.01 * torch.rand(given.shape, generator=generator, device=given.device, dtype=given.dtype)
    with Masks.off():
        here = module(base)
        constant, alternating = (
            (module(base + 1e-3 * change) - here).square().mean().sqrt()
            for change in (torch.ones_like(checkerboard), checkerboard)
        )
    return bool(constant > 0) and bool(alternating < 0.9 * constant)


def _placed(points: Sequence[tuple[_Call, PointKind]], shapes: _Shapes) -> Iterator[Point]:
    """Points with stage and normalised depth."""
    blocks = sum(kind == "block" for _, kind in points)
    gaps: list[int] = [0]
    for _, kind in points:
        if kind == "block":
            gaps.append(0)
        else:
            gaps[-1] += 1
    stage, block, between, previous = 0, -1, 0, None
    for call, kind in points:
        found = shapes.layout(call.module, call.returned)
        assert found is not None
        layout, extra, channels, height, width = found
        before = previous
        if before is None and call.given is not None:
            given = shapes.layout(call.module, call.given)
            before = None if given is None else (given[3], given[4])
        subsampled = before is not None and min(height / before[0], width / before[1]) < _SUBSAMPLED
        if subsampled and previous is not None:
            stage += 1
        if kind == "block":
            block, between = block + 1, 0
        else:
            between += 1
        position = block + (0 if kind == "block" else between / (gaps[block + 1] + 1))
        yield Point(
            name=call.label,
            kind=kind,
            stage=stage,
            depth=position / max(blocks - 1, 1),
            channels=channels,
            height=height,
            width=width,
            subsampled=subsampled,
            layout=layout,
            extra_tokens=extra,
            sequence_first=sequence_first(call.returned),
        )
        previous = (height, width)
