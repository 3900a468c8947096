"""Reading checkpoints: ours, which say what they are, and everybody else's."""

import hashlib
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from torch import nn

from landscape import data, nets
from landscape.checkpoint import building, formats, header, identify, matching
from landscape.checkpoint.content import ENDINGS, Content, StateDict, one_line, whole_network
from landscape.checkpoint.saving import content_sha256
from landscape.errors import LandscapeError, printable
from landscape.store.importing import code_sha256, named_object
from landscape.store.protocol import DEFAULT_IMAGES, Protocol

if TYPE_CHECKING:
    from landscape.data import Images
    from landscape.objective import Objective

_LOG = logging.getLogger("landscape.checkpoint")


@dataclass(frozen=True)
class Checkpoint:
    """A network as loaded.

    Parameters
    ----------
    model
        The network, in eval mode, float32 unless it was loaded otherwise.
    recipe
        How it was trained, JSON-ready: ``recipe`` (name), ``model`` (arguments of `nets.build`), ``data``,
        ``training``, ``seed``; None for weights that carry none. It comes from the file: checked, but not vouched for.
    history
        One dictionary per epoch; empty for weights that carry none.
    sha256
        SHA-256 of the file, or of the weights where a factory brought them.
    path
        The file or folder; the factory's name where there is none.
    network
        What beside the file says which network it is: names given for it, with a digest of the code behind them; empty
        where the file says all. The same weights under other names are another network.
    """

    model: nn.Module
    recipe: dict[str, Any] | None
    history: list[dict[str, Any]] = field(repr=False)
    sha256: str
    path: Path
    network: str = ""

    @property
    def name(self) -> str:
        """The file's name without folder and ending."""
        return ENDINGS.sub("", self.path.name)

    def trained_on(self) -> str:
        """Name of the data set that the file says it was trained on: one that is known by name, and nothing else.

        Raises
        ------
        LandscapeError
            When it says nothing, or names a file or code, which a file may not.
        """
        name = (self.recipe or {}).get("data", {}).get("name")
        if name is None:
            raise LandscapeError(f"{self.path} does not say what it was trained on: give --data")
        if name not in data.NAMES:
            raise LandscapeError(
                f"{self.path} was trained on {printable(name, 100)!r}, which is not a data set known by name, and a "
                "file may not name code or other files: give --data yourself"
            )
        return str(name)

    @property
    def weight_decay(self) -> float:
        """The weight decay that the file says it was trained with; 0 where it says nothing."""
        return float((self.recipe or {}).get("training", {}).get("weight_decay", 0.0))

    def data(self, split: str = "train", *, root: Path | str | None = None) -> "Images":
        """The images that it was trained on, or the test images of that set (`landscape.data.load`).

        Raises
        ------
        LandscapeError
            When the file does not say which (`trained_on`), or they are not there.
        """
        return data.named(self.trained_on(), split, root=root)

    def objective(
        self,
        images: Any = None,
        *,
        protocol: Protocol | None = None,
        weight_decay: float | None = None,
        **settings: Any,
    ) -> "Objective":
        """Its loss as a function of its weights, ready for `landscape.hessian.spectrum` and `landscape.surface.plane`.

        Parameters
        ----------
        images
            Examples of any kind (`landscape.data.as_examples`); by default `data`, the split that `protocol` says.
        protocol
            By default that of the commands: deterministic, on a seeded sample of 2000 images.
        weight_decay
            Of the L2 term; by default what it was trained with.
        settings
            Others of `landscape.Objective`, e.g. ``device`` and ``memory``.
        """
        from landscape.objective import Objective

        images = self.data((protocol or Protocol()).split) if images is None else data.as_examples(images)
        protocol = protocol or Protocol(images=min(DEFAULT_IMAGES, len(images)))
        decay = self.weight_decay if weight_decay is None else weight_decay
        return Objective(self.model, images, weight_decay=decay, protocol=protocol, **settings)


def load(
    path: Path | str | None = None,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    smoothing: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Read a network.

    Files written by `save` say which network they are. Others hold a state dict, bare or anywhere within what
    ``torch.save`` wrote (``.pt .pth .th .ckpt .bin .pth.tar``), as safetensors, or in a folder that ``save_pretrained``
    wrote; wrappers around names are recognised by comparing them with the network's. Weights of a network of ours need
    no `model`: it is recognised, as the deterministic kind without smoothing unless the file names another.

    Nothing in a file is executed, imported or looked up: pickles are read as data
    (`landscape.store.pickles`), headers against closed lists (`landscape.checkpoint.header`).

    Parameters
    ----------
    path
        The file or folder; None when `model` is a factory that brings its own weights.
    model
        A name of `nets.names`, whose width, stem, head and number of classes are read off the weights;
        ``MODULE:FACTORY`` or ``FILE.py:FACTORY``, called with ``num_classes`` when it takes it and it is given; or
        ``hf:auto``, for folders with a ``config.json``.
    num_classes
        For `model`.
    smoothing
        The smoothing layer, as `nets.build` takes it. A file whose layer is the user's own needs it, unless it was
        trained on this machine (`landscape.store.registry`).
    device
        Where the network goes.
    dtype
        float32, or float64 for weights that are stored so and measured so.

    Returns
    -------
    Checkpoint
        In eval mode.

    Raises
    ------
    LandscapeError
        When the file is missing, damaged or more than weights, when names, shapes or types do not fit the network, or
        when a weight is not finite; the message names the first offender and, where it can be told, the network that
        the weights belong to.
    """
    if smoothing is not None and model is not None and (building.is_code(model) or model == building.HUGGING_FACE):
        raise LandscapeError(
            f"--smoothing is for networks of ours, and {model} is none: let a factory return landscape.smooth(network)"
        )
    if path is None:
        return _without_file(model, num_classes, device, dtype)
    path = Path(path)
    content = formats.read(path)
    recipe, history = header.parse(content.metadata, path)
    _require_unchanged(content)
    if model == building.HUGGING_FACE:
        return _loaded(building.from_folder(content, dtype), None, [], content, device, dtype)
    if model is not None:
        build = _named(model, num_classes, smoothing, content)
        recipe, history = (recipe, history) if recipe and recipe["model"]["name"] == model else (None, [])
    elif recipe is not None:
        build = _of_recipe(recipe, smoothing, content)
    else:
        build = _recognised(content, num_classes, smoothing)
    network = _in(dtype, build())
    try:
        matching.fill(network, content, likeliest=_likeliest, again=lambda: _in(dtype, build()))
    except LandscapeError:
        if content.network is not None:
            raise whole_network(path, content.network) from None
        raise
    identity = _identity(network, model, num_classes, smoothing)
    return _loaded(network, recipe, history, content, device, dtype, identity)


def _in(dtype: torch.dtype, network: nn.Module) -> nn.Module:
    # `to` would take complex weights for real ones.
    return network.double() if dtype == torch.float64 else network.float()


def _identity(network: nn.Module, model: str | None, num_classes: int | None, smoothing: str | None) -> str:
    """See `Checkpoint.network`."""
    said = {"model": model, "smoothing": smoothing, "num_classes": num_classes}
    parts = [f"{name}={value}" for name, value in said.items() if value is not None]
    code = [str(value) for value in (model, smoothing) if value is not None and building.is_code(str(value))]
    if code:
        # A factory may also read its numbers from elsewhere. Addresses of functions differ from run to run.
        content = " ".join([*map(code_sha256, code), re.sub(r"\b0x[0-9a-f]+", "", repr(network))])
        parts.append(f"code={hashlib.sha256(content.encode()).hexdigest()[:16]}")
    return " ".join(parts)


def _loaded(
    network: nn.Module,
    recipe: dict[str, Any] | None,
    history: list[dict[str, Any]],
    content: Content,
    device: torch.device | str,
    dtype: torch.dtype,
    named: str = "",
) -> Checkpoint:
    return Checkpoint(
        model=_in(dtype, network).eval().to(device),
        recipe=recipe,
        history=history,
        sha256=content.sha256,
        path=content.path,
        network=named,
    )


def read_recipe(path: Path | str) -> dict[str, Any] | None:
    """The recipe in the header of a file written by `save`, without reading the weights; None where there is none."""
    return _read_header(Path(path))[0]


def read_history(path: Path | str) -> list[dict[str, Any]]:
    """The history in the header of a file written by `save`, without reading the weights; empty where there is none."""
    return _read_header(Path(path))[1]


def _read_header(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return header.parse(file.metadata() or {}, path)
    except Exception as error:  # damaged files raise nearly anything; they have no recipe that counts
        _LOG.info("%s has no readable recipe: %s", path, printable(one_line(error), 200))
        return None, []


def _require_unchanged(content: Content) -> None:
    """Raise LandscapeError when a file of ours no longer says what was written."""
    stated = content.metadata.get("content_sha256")
    if stated is None:
        return
    state = content.states[0]
    if content_sha256({name: state.tensor(name) for name in state.shapes}, content.metadata) != stated:
        raise LandscapeError(f"{content.path} has changed since it was written: copy it again or train it anew")


def _of_recipe(recipe: dict[str, Any], smoothing: str | None, content: Content) -> Callable[[], nn.Module]:
    """Builds the network of a header, whose sizes are first compared with the weights'."""
    path = content.path
    if nets.revision(recipe["model"]) > recipe.get("revision", 1):
        raise LandscapeError(
            f"{path} was trained under an earlier definition of its network, which has been corrected to the authors': "
            "train it anew"
        )
    layer = header.smoothing_of(recipe, smoothing, path)
    arguments = {name: value for name, value in recipe["model"].items() if name != "smoothing"}
    # A layer of the user's own cannot be described without running it; the network around it can.
    plain = "identity" if _is_own(layer) else layer
    _require_shapes({**arguments, **({} if plain is None else {"smoothing": plain})}, content, own=_is_own(layer))
    return partial(nets.build, **arguments, smoothing=layer)


def _is_own(layer: Any) -> bool:
    return layer is not None and (not isinstance(layer, str) or ":" in layer)


def _require_shapes(arguments: dict[str, Any], content: Content, *, own: bool) -> None:
    """Raise LandscapeError when a header describes a larger network than the file has weights for."""
    expected = identify.shapes_of(arguments)
    match = matching.best(content.states, expected)
    for name, shape in expected.items():
        held = match.state.shapes.get(match.names.get(name, ""))
        if name.endswith("num_batches_tracked") or held == shape or (own and name.startswith("smooth")):
            continue
        problem = f"has shape {held}" if held is not None else "is missing"
        raise LandscapeError(
            f"{content.path} is damaged: {name} {problem}, where its header describes {shape}: copy it again"
        )


def _named(model: str, num_classes: int | None, smoothing: str | None, content: Content) -> Callable[[], nn.Module]:
    if building.is_code(model):
        return partial(building.from_factory, model, num_classes)
    arguments = identify.arguments_for(model, _largest(content), num_classes)
    if smoothing is not None:
        arguments["smoothing"] = _checked_layer(smoothing)
    if not _is_own(smoothing):
        # Too large for memory is told as a wrong network, by the comparison that follows.
        expected = identify.shapes_of(arguments)
        match = matching.best(content.states, expected)
        if sum(map(math.prod, expected.values())) > 4 * sum(map(math.prod, match.state.shapes.values())) + 2**24:
            return partial(_unlike, model, match.state)
    return partial(nets.build, **arguments)


def _unlike(model: str, state: StateDict) -> nn.Module:
    other = _likeliest(state)
    hint = f"these are the weights of {other}" if other else "name the network that they belong to with --model"
    raise LandscapeError(f"these weights are far fewer than those of {model}: {hint}")


def _checked_layer(smoothing: str) -> str:
    if ":" in smoothing:
        named_object(smoothing)
    return smoothing


def _recognised(content: Content, num_classes: int | None, smoothing: str | None) -> Callable[[], nn.Module]:
    """Builds the network of ours that weights without a recipe belong to."""
    path = content.path
    if content.config is not None:
        raise LandscapeError(f"{path} is a folder that save_pretrained wrote: give --model {building.HUGGING_FACE}")
    state = _largest(content)
    if content.name in nets.names():
        arguments = identify.arguments_for(content.name, state, num_classes)
        _LOG.info("%s says that it is %s", path, content.name)
    else:
        identity = identify.identify(state)
        if identity is None or not identity.whole:
            if content.network is not None:
                raise whole_network(path, content.network)
            near = f"nearest is {identity}; " if identity is not None else ""
            raise LandscapeError(
                f"{path} does not say which network it is: {near}give --model NAME (e.g. resnet_dnn_18) or "
                "--model FILE.py:FACTORY"
            )
        arguments = identity.arguments
        others = ", ".join(name for name in identity.kinds if name != arguments["name"])
        _LOG.warning(
            "%s: recognised as %s; dropout and smoothing have no weights, so if it is %s, say so with --model",
            path,
            identity,
            others,
        )
    if smoothing is not None:
        arguments["smoothing"] = _checked_layer(smoothing)
    return partial(nets.build, **arguments)


def _largest(content: Content) -> StateDict:
    """The part of a file with most tensors, the first of equals."""
    return max(content.states, key=lambda state: len(state.shapes))


def _likeliest(state: StateDict) -> str | None:
    """Which of our networks weights belong to, for a message."""
    identity = identify.identify(state)
    if identity is None:
        return None
    return f"{identity}: give --model {identity.arguments['name']}" if identity.whole else f"a network like {identity}"


def _without_file(
    model: str | None, num_classes: int | None, device: torch.device | str, dtype: torch.dtype
) -> Checkpoint:
    """A network that a factory returns with its weights."""
    if model is None or not building.is_code(model):
        raise LandscapeError(
            "no checkpoint: give a file, or --model FILE.py:FACTORY of a network that brings its weights"
        )
    network = building.from_factory(model, num_classes)
    state = network.state_dict()
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise LandscapeError(f"{name} of {model} is not finite: give a network whose weights are")
    file, _, name = model.rpartition(":")
    return Checkpoint(
        model=_in(dtype, network).eval().to(device),
        recipe=None,
        history=[],
        sha256=content_sha256(state, {}),
        path=Path(f"{Path(file).stem}-{name}"),
        network=_identity(network, model, num_classes, None),
    )
