"""Smoothing layers put into any network before whatever subsamples, and taken out again."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from landscape.compute.masks import Masks
from landscape.compute.randomness import generator
from landscape.errors import LandscapeError
from landscape.nets.insertion import LeftOut, Side, insertion_points, label
from landscape.nets.smoothing import LayerFactory, Smoothing, factory
from landscape.nets.tracing import Node, Trace, first_tensor

# Sides of the images with which a network is tried when none are given: first one that is large enough for the last
# maps of deep networks to be maps still, then those that networks with dense layers are made for.
_SIDES = (64, 32, 28, 224, 96, 128, 256, 299, 384, 16, 8)
# Where the copy keeps what was done to it.
_REPORT = "_landscape_smoothing_report"
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Placement:
    """One smoothing layer that was placed.

    Attributes
    ----------
    name
        The new layer's, in the network.
    side, module
        It stands ``before`` or ``after`` that module.
    subsampling
        What it stands before: module and operation.
    channels, height, width
        Of the map that it smooths.
    """

    name: str
    side: Side
    module: str
    subsampling: tuple[str, ...]
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        size = f"{self.channels} x {self.height} x {self.width}"
        return f"{self.name}: {self.side} {self.module} ({size}), for {', '.join(self.subsampling)}"


@dataclass(frozen=True)
class Report:
    """What `smooth` did to a network.

    Attributes
    ----------
    placed, left_out
        In the order of execution.
    kept_size
        Whether layers that enlarge a map by a border are cut to its size, because the network needs its sizes.
    """

    placed: tuple[Placement, ...]
    left_out: tuple[LeftOut, ...]
    kept_size: bool

    def __str__(self) -> str:
        lines = [str(each) for each in (*self.placed, *self.left_out)]
        if self.kept_size:
            lines.append("layers are cut to the size of the map before them: the network needs its sizes")
        return "\n".join(lines)


class PlacedSmoothing(nn.Module):
    """A smoothing layer that `smooth` has placed.

    Parameters
    ----------
    layer
        The layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.keep_size = False

    def forward(self, features: Tensor) -> Tensor:
        """Smooth features (N, C, H, W)."""
        smoothed = self.layer(features)
        return smoothed[..., : features.shape[2], : features.shape[3]] if self.keep_size else smoothed


# Hooks are objects, not closures, so that a copy of a network calls the copy's layer.
class _Before:
    part_of_network = True

    def __init__(self, layer: PlacedSmoothing) -> None:
        self.layer = layer

    def __call__(
        self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = first_tensor(arguments, keywords)
        assert given is not None
        smoothed = self.layer(given)
        return (
            tuple(smoothed if value is given else value for value in arguments),
            {name: smoothed if value is given else value for name, value in keywords.items()},
        )


class _After:
    part_of_network = True

    def __init__(self, layer: PlacedSmoothing) -> None:
        self.layer = layer

    def __call__(self, module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        return self.layer(output)


def smooth(model: nn.Module, layer: Smoothing = None, *, images: Tensor | None = None) -> nn.Module:
    """A copy of a network with a smoothing layer before every subsampling; the network itself is not touched.

    Strided convolutions, poolings and global poolings, as modules or as functions, are found by running the copy once.
    The weights keep their names and values; what was placed where is in the copy's `report`. Parallel subsamplings
    whose results meet, such as a residual block's strided convolution and its strided shortcut, get one layer together,
    where their paths part: in a residual network that is the end of the stage, so that a plain network of ours becomes
    the smoothed one of the same family (VGG, AlexNet, ResNet without stem; the pre-activation ResNet's last stage,
    which the paper leaves to global average pooling, and the max pooling of an ImageNet stem get a layer too).

    A layer stands where the module that subsamples begins or, where a function does it, where the module before ends;
    if that is not right there, it moves up past pointwise operations, such as a ReLU that was called as a function.
    Subsamplings of the images themselves get none, nor do adaptive poolings that fit to a dense head what was pooled
    just before, nor gates (pooled values that are spread over a map again, as in squeeze-and-excitation).

    Parameters
    ----------
    model
        Any network of images (N, C, H, W).
    layer
        As `build`'s ``smoothing`` (default: the paper's), or a module, of which every place gets a copy.
    images
        What to run the network on, one is enough; default: noise, of the first convolution's channels and the first
        size that the network takes.

    Returns
    -------
    Module
        The smoothed copy.

    Raises
    ------
    LandscapeError
        When the network is smoothed already, cannot be copied, does not run, has nothing that subsamples, or does not
        run with the layers.

    Examples
    --------
    >>> import torch
    >>> plain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> smoothed = smooth(plain, images=torch.zeros(1, 3, 16, 16))
    >>> len(report(smoothed).placed), smoothed(torch.zeros(1, 3, 16, 16)).shape
    (1, torch.Size([1, 8, 7, 7]))
    """
    if any(isinstance(module, PlacedSmoothing) for module in model.modules()):
        raise LandscapeError("this network has smoothing layers placed already: take them out with unsmooth first")
    model = _copy(model)
    make = factory(layer)
    trace, images = _traced(model, images)
    points, left_out = insertion_points(trace)
    if not points:
        reasons = f" ({left_out[0]})" if left_out else ""
        raise LandscapeError(f"nothing in this network subsamples a feature map{reasons}: there is nothing to smooth")
    placed = []
    for (side, name), (node, operations) in points.items():
        inserted = _inserted(model, trace, side, name, trace.nodes[node], make)
        _, channels, height, width = trace.nodes[node].shape
        subsampling = tuple(label(trace.nodes[each]) for each in operations)
        placed.append(Placement(inserted, side, name, subsampling, channels, height, width))
    kept_size = _settled(model, images)
    setattr(model, _REPORT, Report(tuple(placed), tuple(left_out), kept_size))
    return model


def report(model: nn.Module) -> Report:
    """What `smooth` placed where in a network that it returned, and what it left out; printed, one line for each.

    Raises
    ------
    LandscapeError
        For a network that it did not return.
    """
    report = getattr(model, _REPORT, None)
    if not isinstance(report, Report):
        raise LandscapeError("this network was not returned by landscape.smooth: there is nothing to report")
    return report


def unsmooth(model: nn.Module) -> nn.Module:
    """A copy of a network that `smooth` returned, without the smoothing layers; the network itself is not touched."""
    model = _copy(model)
    if hasattr(model, _REPORT):
        delattr(model, _REPORT)
    for module in list(model.modules()):
        for hooks, marks in (
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
            (module._forward_hooks, module._forward_hooks_with_kwargs),
        ):
            for key, hook in list(hooks.items()):
                if isinstance(hook, (_Before, _After)):
                    del hooks[key]
                    marks.pop(key, None)
        for child, inner in list(module._modules.items()):
            if isinstance(inner, PlacedSmoothing):
                del module._modules[child]
    return model


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a module can hold anything
        raise LandscapeError(
            f"this network cannot be copied ({type(error).__name__}: {' '.join(str(error).split())[:200]}): "
            "make copy.deepcopy(model) work, e.g. detach tensors that are kept in it"
        ) from error


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without dropout, and the global generator as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)), Masks.off():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _traced(model: nn.Module, images: Tensor | None) -> tuple[Trace, Tensor]:
    """A trace of the network, and the images that it was made with."""
    candidates = [images[:1]] if images is not None else list(_noise(model))
    first: Exception | None = None
    for candidate in candidates:
        try:
            with _quiet(model):
                return Trace(model).run(candidate), candidate
        except Exception as error:  # a network can fail in any way on images that do not suit it
            first = first or error
    what = f"images of shape {tuple(images.shape)}" if images is not None else "noise of any usual size"
    lines = str(first).splitlines() or [type(first).__name__]
    raise LandscapeError(f"the network does not run on {what} ({lines[0]}): give images= that suit it") from first


def _noise(model: nn.Module) -> Iterator[Tensor]:
    weights = next(model.parameters(), torch.empty(0))
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    for side in _SIDES:
        noise = torch.randn(1, channels, side, side, generator=generator(0, "smooth"))
        yield noise.to(device=weights.device, dtype=weights.dtype)


def _inserted(model: nn.Module, trace: Trace, side: Side, name: str, node: Node, make: LayerFactory) -> str:
    """Put a layer at its place; its name."""
    module = model.get_submodule(name)
    layer = PlacedSmoothing(make(node.shape[1]))
    weights = next(model.parameters())
    layer.to(device=weights.device, dtype=node.dtype)
    layer.train(model.training)
    parent_name, _, child = name.rpartition(".")
    for owner_name, anchor in ((parent_name, child), (name, None)):
        owner = model.get_submodule(owner_name)
        if type(owner).forward is nn.Sequential.forward and trace.calls[owner_name]:
            return _inserted_in_order(owner, owner_name, layer, side, anchor)
    # Elsewhere a hook calls it. It is registered where no container runs or counts it as one of its own.
    owner_name, below = parent_name, child
    while owner_name and isinstance(model.get_submodule(owner_name), _CONTAINERS):
        owner_name, _, part = owner_name.rpartition(".")
        below = f"{part}_{below}"
    owner = model.get_submodule(owner_name)
    if isinstance(owner, _CONTAINERS):
        raise LandscapeError(
            f"no place for a layer {side} {name}: wrap the network in a module with a forward of its own"
        )
    key = _free(owner, f"smooth_{side}_{below}")
    owner.add_module(key, layer)
    if side == "before":
        module.register_forward_pre_hook(_Before(layer), with_kwargs=True)
    else:
        module.register_forward_hook(_After(layer))
    return f"{owner_name}.{key}" if owner_name else key


def _inserted_in_order(
    sequence: nn.Module, sequence_name: str, layer: PlacedSmoothing, side: Side, anchor: str | None
) -> str:
    """Put a layer beside a member of a Sequential, or at its beginning or end; the members keep their names."""
    key = _free(sequence, f"smooth_{side}_{anchor}" if anchor else "smooth")
    members = list(sequence._modules.items())
    index = [name for name, _ in members].index(anchor) if anchor else (0 if side == "before" else len(members) - 1)
    members.insert(index + (side == "after"), (key, layer))
    sequence._modules.clear()
    sequence._modules.update(members)
    return f"{sequence_name}.{key}" if sequence_name else key


def _free(owner: nn.Module, key: str) -> str:
    while hasattr(owner, key):
        key += "_"
    return key


def _settled(model: nn.Module, images: Tensor) -> bool:
    """Whether the layers must keep sizes for the network to run; they do so from here on."""
    layers = [module for module in model.modules() if isinstance(module, PlacedSmoothing)]
    error: Exception | None = None
    for keep_size in (False, True):
        for layer in layers:
            layer.keep_size = keep_size
        try:
            with _quiet(model):
                model(images)
        except Exception as failed:  # a network can fail in any way on sizes that do not suit it
            error = failed
        else:
            return keep_size
    lines = str(error).splitlines() or [type(error).__name__]
    raise LandscapeError(
        f"the network does not run with these layers ({lines[0]}): give a layer that keeps shapes"
    ) from error
