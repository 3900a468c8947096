"""What all commands share: arguments, checkpoints and data, errors in one line, results that are measured once.

Importing this module imports no numerics, so that a command answers ``--help`` and Ctrl-C from the first moment.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from landscape.errors import LandscapeError
from landscape.protocol import CHOICES, PRESETS, Protocol, preset

if TYPE_CHECKING:
    import torch
    import xarray

    from landscape.checkpoint import Checkpoint
    from landscape.data import Images
    from landscape.journal import Journal
    from landscape.objective import Objective

INTERRUPTED = 130
BAD_INPUT = 2
# Enough images for a spectrum whose sampling error is small against the differences people look for, few enough for a
# laptop; every number measured on a sample states its sampling error.
DEFAULT_IMAGES = 2000


def launch(module: str) -> NoReturn:
    """Run the ``main(argv) -> int`` of a module on this process's arguments and leave with its status."""
    sys.exit(run(module, sys.argv[1:]))


def run(module: str, argv: Sequence[str]) -> int:
    """Status of the ``main(argv)`` of a module.

    Bad input is one line ``error: ...`` and status 2; Ctrl-C is status 130 without a traceback. Any other exception is
    a defect of ours and keeps its traceback.
    """
    try:
        try:
            return int(importlib.import_module(module).main(argv))
        finally:
            if "torch" in sys.modules:
                from landscape import distributed

                distributed.stop()
    except LandscapeError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; the same command goes on from there", file=sys.stderr)
        return INTERRUPTED


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def __init__(self, instrument: str, description: str) -> None:
        super().__init__(
            prog=f"python -m {instrument}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise LandscapeError instead of printing the usage."""
        raise LandscapeError(f"{message}; see {self.prog} --help")


def instrument_parser(instrument: str, description: str) -> Parser:
    """A parser with the arguments that every instrument takes."""
    parser = Parser(instrument, description)
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CKPT", help="checkpoint file, or a recipe's name (trained once, then cached)"
    )
    subject = parser.add_argument_group("what is measured")
    subject.add_argument("--model", metavar="NAME|MODULE:FACTORY", help="network of weights that carry no recipe")
    subject.add_argument("--num-classes", type=positive, metavar="N", help="classes of that network")
    subject.add_argument("--data", metavar="NAME|PATH|MODULE:FACTORY", help="images; default: those trained on")
    subject.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the CIFAR archives (default: data)")
    subject.add_argument("--mean", type=numbers, metavar="R,G,B", help="mean of each channel, for uint8 images")
    subject.add_argument("--std", type=numbers, metavar="R,G,B", help="standard deviation of each channel")
    subject.add_argument(
        "--images",
        type=count_or_all,
        default=None,
        metavar="N|all",
        help=f"a seeded sample (default: {DEFAULT_IMAGES})",
    )
    subject.add_argument(
        "--batch", type=positive, metavar="N", help="images a forward pass (default: what fits the cache)"
    )
    subject.add_argument("--weight-decay", type=float, metavar="X", help="default: the recipe's; 0 without one")
    subject.add_argument("--cache", type=Path, default=Path("checkpoints"), help="folder of trained recipes")

    protocol = parser.add_argument_group("protocol: how the numbers are to be read; hashed into every result")
    protocol.add_argument("--protocol", choices=list(PRESETS), default="exact", help="preset; single fields below")
    for name, values in CHOICES.items():
        if name not in ("dtype", "device"):
            protocol.add_argument(f"--{name.replace('_', '-')}", choices=values, default=None)
    protocol.add_argument("--parameters", metavar="all|weights|PATTERN", help="which parameters are coordinates")
    for name in ("mask_seed", "augmentation_seed", "subset_seed"):
        protocol.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="S")
    protocol.add_argument("--dtype", choices=CHOICES["dtype"], default=None)

    run = parser.add_argument_group("how it is computed and kept")
    run.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the instrument's own random numbers")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    run.add_argument("--memory", type=byte_count, metavar="BYTES", help="budget of kept graphs, e.g. 4G")
    run.add_argument("--out", type=Path, metavar="FILE", help="result (default: results/<what>/<checkpoint>-<hash>.nc)")
    run.add_argument("--plot", type=Path, metavar="FILE", help="picture: .pdf, .png or .svg")
    run.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    run.add_argument("--quiet", action="store_true", help="no progress bar, no table")
    run.add_argument("--force", action="store_true", help="measure again what is cached")
    run.add_argument("--plan", action="store_true", help="print the cost and stop")
    run.add_argument("--allow-protocol-mismatch", action="store_true", help="lay unlike measurements over each other")
    run.add_argument("--verbose", action="store_true", help="log what was chosen and why")
    return parser


def positive(text: str) -> int:
    """A whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between."""
    return tuple(float(part) for part in text.split(","))


def count_or_all(text: str) -> int | str:
    """A positive number, or ``all``."""
    return text if text == "all" else positive(text)


def byte_count(text: str) -> int:
    """A number of bytes, with K, M or G (powers of 1024) behind it if wanted."""
    factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:].upper(), 1)
    return int(float(text[:-1] if factor > 1 else text) * factor)


def device(arguments: argparse.Namespace) -> "torch.device":
    """The device that was asked for, or the best there is; joins torchrun's process group.

    Raises
    ------
    LandscapeError
        When a GPU is asked for and absent, or the name is no device.
    """
    import torch

    from landscape import distributed

    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
    except RuntimeError:
        raise LandscapeError(f"unknown device {name!r}: give auto, cpu, cuda or cuda:i") from None
    if found.type not in CHOICES["device"]:
        raise LandscapeError(f"device {name!r} is not supported: give auto, cpu, cuda or cuda:i")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise LandscapeError(f"there is no device {name} here ({torch.cuda.device_count()} GPUs): give --device cpu")
    return distributed.start(found)


@dataclass(frozen=True)
class Subject:
    """A network with the images and the protocol under which it is measured."""

    checkpoint: "Checkpoint"
    data: "Images"
    protocol: Protocol
    weight_decay: float

    @property
    def name(self) -> str:
        """Name of the checkpoint, for tables and files."""
        return self.checkpoint.name


def subjects(arguments: argparse.Namespace) -> list[Subject]:
    """Load every checkpoint named on the command line, with its images; raises LandscapeError."""
    if arguments.verbose:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
        logging.getLogger("matplotlib").setLevel(logging.WARNING)
    on = device(arguments)
    if arguments.plot is not None and arguments.plot.suffix.lower() not in (".pdf", ".png", ".svg"):
        raise LandscapeError(f"cannot draw to {arguments.plot}: the name must end in .pdf, .png or .svg")
    for path in (arguments.out, arguments.plot):
        if path is not None:
            require_writable(path)
    return [_subject(arguments, name, on) for name in arguments.checkpoints]


def _subject(arguments: argparse.Namespace, name: str, on: "torch.device") -> Subject:
    from landscape import checkpoint, data

    loaded = checkpoint.load(checkpoint_path(name, arguments), model=arguments.model, num_classes=arguments.num_classes)
    recipe = loaded.recipe or {}
    source = arguments.data or recipe.get("data", {}).get("name")
    if source is None:
        raise LandscapeError(f"{name} does not say what it was trained on: give --data")
    protocol = preset(arguments.protocol)
    given = {
        field: getattr(arguments, field)
        for field in (*CHOICES, "parameters", "mask_seed", "augmentation_seed", "subset_seed")
        if field != "device" and getattr(arguments, field) is not None
    }
    protocol = protocol.replace(**given, device=on.type)
    images = data.load(source, protocol.split, root=arguments.data_root, mean=arguments.mean, std=arguments.std)
    if arguments.images != "all":
        protocol = protocol.replace(images=arguments.images or min(DEFAULT_IMAGES, len(images)))
    if protocol.images is not None and protocol.images > len(images):
        raise LandscapeError(
            f"--images {protocol.images} is beyond the {len(images)} images of {images.name} ({images.split})"
        )
    weight_decay = arguments.weight_decay
    if weight_decay is None:
        weight_decay = float(recipe.get("training", {}).get("weight_decay", 0.0))
    return Subject(checkpoint=loaded, data=images, protocol=protocol, weight_decay=weight_decay)


def checkpoint_path(name: str, arguments: argparse.Namespace) -> Path:
    """The file of that name, or the cached checkpoint of the recipe of that name, trained if need be."""
    path = Path(name)
    if path.exists() or path.suffix or "/" in name:
        return path
    from landscape import training

    return training.ensure(name, cache=arguments.cache, root=arguments.data_root, quiet=arguments.quiet)


def objective(arguments: argparse.Namespace, subject: Subject, *, sharded: bool = False) -> "Objective":
    """The objective of a subject on the device that was asked for."""
    from landscape.objective import Objective

    return Objective(
        subject.checkpoint.model,
        subject.data,
        weight_decay=subject.weight_decay,
        protocol=subject.protocol,
        micro_batch=arguments.batch,
        device=device(arguments),
        memory=arguments.memory,
        sharded=sharded,
    )


def require_writable(path: Path) -> None:
    """Raise LandscapeError, before anything long starts, when a file cannot be made at `path`."""
    import os

    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if path.is_dir():
        raise LandscapeError(f"cannot write {path}: it is a folder; give a file name")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise LandscapeError(f"cannot write {path}: {folder} is not a folder that can be written; choose another")


@dataclass(frozen=True)
class Question:
    """What is asked of a subject: the content address under which the answer is found again."""

    instrument: str
    subject: Subject
    settings: Mapping[str, Any]
    seed: int
    out: Path | None = None

    @property
    def key(self) -> str:
        """Content address."""
        from landscape import result

        return result.key(
            self.instrument,
            protocol=self.subject.protocol,
            settings={**self.settings, "weight_decay": self.subject.weight_decay},
            checkpoint_sha256=self.subject.checkpoint.sha256,
            data_sha256=self.subject.data.sha256,
            seed=self.seed,
        )

    @property
    def path(self) -> Path:
        """Where the result is kept."""
        what = self.instrument.removeprefix("landscape.")
        return self.out or Path("results") / what / f"{self.subject.name}-{self.key}.nc"

    @property
    def journal(self) -> Path:
        """Where finished pieces are kept until the result is whole."""
        return self.path.with_name(f".{self.path.name}.journal")


def question(arguments: argparse.Namespace, instrument: str, subject: Subject, settings: Mapping[str, Any]) -> Question:
    """The question that a command line asks of a subject."""
    out = arguments.out
    if out is not None and len(arguments.checkpoints) > 1:
        out = out.with_name(f"{out.stem}-{subject.name}{out.suffix}")
    settings = {**settings, "batch": arguments.batch}
    return Question(instrument=instrument, subject=subject, settings=settings, seed=arguments.seed, out=out)


def answer(asked: Question, measure: Callable[[], "xarray.Dataset"], *, force: bool = False) -> "xarray.Dataset":
    """The result from the cache, or measured now and kept; under torchrun rank 0 writes.

    Parameters
    ----------
    asked
        The question.
    measure
        Measures; its result gets the provenance attributes here. An attribute ``seconds_before``, what a killed run
        had spent on what was found again, goes into the seconds.
    force
        Measure even when the answer is known.
    """
    from landscape import distributed, result

    require_writable(asked.path)
    if asked.path.is_file() and not force:
        known = result.load(asked.path)
        if known.attrs.get("key") == asked.key:
            return known
    distributed.barrier()
    started = time.perf_counter()
    dataset = measure()
    dataset.attrs |= result.provenance(
        instrument=asked.instrument,
        protocol=asked.subject.protocol,
        settings=asked.settings,
        checkpoint_sha256=asked.subject.checkpoint.sha256,
        data_sha256=asked.subject.data.sha256,
        seed=asked.seed,
        seconds=time.perf_counter() - started + dataset.attrs.pop("seconds_before", 0.0),
    )
    dataset.attrs |= {
        "key": asked.key,
        "name": asked.subject.name,
        "data": f"{asked.subject.data.name} ({asked.subject.data.split})",
        "weight_decay": asked.subject.weight_decay,
    }
    if distributed.is_main():
        result.save(dataset, asked.path)
    distributed.barrier()
    return dataset


def journaled(asked: Question, measure: "Callable[[Journal], xarray.Dataset]", *, force: bool) -> "xarray.Dataset":
    """The answer to a question, measured piece by piece with a journal that is removed when the result is stored."""
    from landscape import distributed
    from landscape.journal import Journal

    journals: list[Journal] = []

    def begin() -> "xarray.Dataset":
        journals.append(Journal(asked.journal, {"key": asked.key}, process=distributed.rank()))
        try:
            return measure(journals[0])
        finally:
            journals[0].close()

    result = answer(asked, begin, force=force)
    if journals and distributed.is_main():
        journals[0].remove()
    return result


def report(arguments: argparse.Namespace, *, table: Callable[[], str], facts: Callable[[], Any]) -> None:
    """Print the table, or with ``--json`` the one JSON object, on rank 0; with ``--quiet`` no table."""
    from landscape import distributed

    if not distributed.is_main():
        return
    if arguments.json:
        print(json.dumps(facts(), allow_nan=True))
    elif not arguments.quiet:
        print(table())


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text: the first column to the left, the others to the right."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
