"""What a command line names: a device, networks with their images, and the protocol they are measured under."""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from landscape.command.cautions import caution_about_images
from landscape.command.output import remark
from landscape.errors import LandscapeError, printable
from landscape.store.files import require_file_name
from landscape.store.protocol import CHOICES, DEFAULT_IMAGES, Protocol, preset

if TYPE_CHECKING:
    import torch
    import xarray

    from landscape.checkpoint import Checkpoint
    from landscape.data import Data, Images
    from landscape.objective import Objective


def device(arguments: argparse.Namespace) -> "torch.device":
    """The device that ``--device`` names, or the best there is; joins torchrun's process group.

    Raises
    ------
    LandscapeError
        When there is no such GPU, or the name is not a device.
    """
    import torch

    from landscape.compute import distributed

    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise LandscapeError(f"unknown device {name!r}: give auto, cpu, cuda or cuda:i") from None
    if chosen.type not in CHOICES["device"]:
        raise LandscapeError(f"device {name!r} is not supported: give auto, cpu, cuda or cuda:i")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise LandscapeError(f"there is no device {name} here ({torch.cuda.device_count()} GPUs): give --device cpu")
    return distributed.start(chosen)


def described(on: "torch.device") -> str:
    """What a device is, in words."""
    import torch

    if on.type == "cuda":
        return str(torch.cuda.get_device_name(on))
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads != 1)}"


def log_to_standard_error() -> None:
    """Show what this package logs, and nothing of other packages."""
    import logging
    import sys

    logger = logging.getLogger("landscape")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.handlers = [handler]


@dataclass(frozen=True)
class Subject:
    """A network with the examples and the protocol under which it is measured."""

    checkpoint: "Checkpoint"
    data: "Data"
    protocol: Protocol
    weight_decay: float

    @property
    def name(self) -> str:
        """Name of the checkpoint, for tables and files."""
        return printable(self.checkpoint.name)

    @property
    def images(self) -> "Images":
        """The examples, for instruments that look at images with one class each; raises LandscapeError for others."""
        from landscape.data import Images

        if not isinstance(self.data, Images):
            raise LandscapeError(
                f"this instrument looks at images with one class each, {self.data.title} holds other examples: "
                "landscape.hessian, surface, series and selfcheck measure any examples, predictions those with "
                "classes, feature_maps and fourier those with sequences or maps"
            )
        return self.data


def subjects(arguments: argparse.Namespace) -> list[Subject]:
    """Load every checkpoint named on the command line, with its examples; raises LandscapeError."""
    if arguments.verbose:
        log_to_standard_error()
    on = device(arguments)
    if arguments.device == "auto" and not arguments.quiet:
        # Said when a measurement starts: an answer that is known, or an error, needs no device.
        arguments.remarks = [f"on {described(on)}"]
    if arguments.plot is not None:
        require_picture_name(arguments.plot)
    for path in (arguments.out, arguments.plot):
        if path is not None:
            require_writable(path)
    # A network without a file is one that --model brings; a surface may come from a table alone.
    alone = [] if getattr(arguments, "from_csv", None) else [None]
    chosen = [_subject(arguments, name, on) for name in arguments.checkpoints or alone]
    names = [subject.name for subject in chosen]
    same = next((name for name in names if names.count(name) > 1), None)
    if same is not None and (arguments.out or getattr(arguments, "save_vectors", None)):
        raise LandscapeError(f"two networks are called {same}, and what is saved of them would be: rename one")
    return chosen


def load_checkpoint(arguments: argparse.Namespace, name: str | None) -> "Checkpoint":
    """The checkpoint of that name, with the network that the command line names; None for a network without a file."""
    import torch

    from landscape import checkpoint

    return checkpoint.load(
        None if name is None else checkpoint_path(name, arguments),
        model=arguments.model,
        num_classes=arguments.num_classes,
        smoothing=arguments.smoothing,
        dtype=torch.float64 if arguments.dtype == "float64" else torch.float32,
    )


def _subject(arguments: argparse.Namespace, name: str | None, on: "torch.device") -> Subject:
    from landscape import data
    from landscape.objective import losses

    loaded = load_checkpoint(arguments, name)
    source = arguments.data or loaded.trained_on()
    protocol = preset(arguments.protocol)
    given = {
        field: getattr(arguments, field)
        for field in (*CHOICES, "parameters", "output", "mask_seed", "augmentation_seed", "subset_seed")
        if field != "device" and getattr(arguments, field) is not None
    }
    protocol = protocol.replace(**given, device=on.type)
    if arguments.loss is not None:
        protocol = protocol.replace(loss=losses.resolved(arguments.loss).name)
    images = data.load_any(
        source,
        protocol.split,
        root=arguments.data_root,
        resize=arguments.resize,
        channels=partial(_channels, loaded.model),
    )
    for field in ("mean", "std"):
        value = getattr(arguments, field)
        if value is not None and value != getattr(images, field, None):
            protocol = protocol.replace(**{f"image_{field}": value})
    images = images.normalized_by(protocol.image_mean, protocol.image_std)
    if arguments.augmentation is None and isinstance(images, data.Images):
        protocol = protocol.replace(augmentation=getattr(arguments, "default_augmentation", protocol.augmentation))
    caution_about_images(images)
    if arguments.images != "all":
        few = min(getattr(arguments, "default_images", DEFAULT_IMAGES), len(images))
        protocol = protocol.replace(images=arguments.images or few)
    if protocol.images is not None and protocol.images > len(images):
        raise LandscapeError(f"--images {protocol.images} is beyond the {len(images)} of {images.title}")
    weight_decay = arguments.weight_decay
    if weight_decay is None:
        weight_decay = loaded.weight_decay
    if not 0 <= weight_decay < float("inf"):
        raise LandscapeError(f"--weight-decay {weight_decay} is not a weight decay: give a number from 0")
    return Subject(checkpoint=loaded, data=images, protocol=protocol, weight_decay=weight_decay)


def _channels(model: "torch.nn.Module", height: int, width: int) -> int:
    """Channels of the pictures that a network takes, by its first layer: 1 or 3."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return 1 if module.in_channels == 1 else 3
        if isinstance(module, nn.Linear):
            return 1 if module.in_features == height * width else 3
    return 3


def checkpoint_path(name: str, arguments: argparse.Namespace) -> Path:
    """The file of that name, or the cached checkpoint of the recipe of that name, trained if need be."""
    path = Path(name)
    if path.exists() or path.suffix or "/" in name:
        return path
    from landscape import training

    recipe, seed = training.parse(name)
    trained = training.find(recipe, seed=seed, cache=arguments.cache)
    if trained is not None:
        return trained
    target = training.file_of(recipe, seed, arguments.cache)
    if getattr(arguments, "plan", False):
        raise LandscapeError(
            f"{name} is not trained yet, and a plan trains nothing: python -m landscape.training {name}"
        )
    remark(f"training {recipe.name}, seed {seed}, {recipe.trained_epochs} epochs: it is not in {arguments.cache} yet")
    training.ensure(recipe, seed=seed, cache=arguments.cache, root=arguments.data_root, quiet=arguments.quiet)
    remark(f"checkpoint: {target}")
    return target


def objective(arguments: argparse.Namespace, subject: Subject, *, sharded: bool = False) -> "Objective":
    """The objective of a subject on the device that ``--device`` names."""
    from landscape.objective import Objective

    return Objective(
        subject.checkpoint.model,
        subject.data,
        loss=arguments.loss,
        weight_decay=subject.weight_decay,
        protocol=subject.protocol,
        micro_batch=arguments.batch,
        device=device(arguments),
        memory=arguments.memory,
        sharded=sharded,
        checkpointing={"on": True, "off": False}.get(arguments.activation_checkpointing),
    )


def pass_settings(arguments: argparse.Namespace, subject: Subject) -> dict[str, Any]:
    """Keywords of `landscape.look.forward.Passes` and `landscape.predictions.Predictor`: protocol, batch, device."""
    return {"protocol": subject.protocol, "batch": arguments.batch, "device": device(arguments)}


def with_fit(arguments: argparse.Namespace, subject: Subject, result: "xarray.Dataset") -> "xarray.Dataset":
    """A result with the loss and accuracy of what was measured, where the network has class scores of these labels."""
    from landscape.objective.fit import fit

    try:
        return result.assign_attrs(fit(objective(arguments, subject)).attributes())
    except LandscapeError:  # an instrument that needs no labels also measures what has no loss
        return result


def require_picture_name(path: Path) -> None:
    """Raise LandscapeError, before anything long starts, when a picture cannot have that name."""
    if path.suffix.lower() not in (".pdf", ".png", ".svg"):
        raise LandscapeError(f"cannot draw to {path}: the name must end in .pdf, .png or .svg")


def require_writable(path: Path) -> None:
    """Raise LandscapeError, before anything long starts, when a file cannot be made at `path`."""
    import os

    require_file_name(path)
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise LandscapeError(f"cannot write {path}: {folder} is not a folder that can be written; choose another")
