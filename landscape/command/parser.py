"""Arguments that all commands share."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from landscape.errors import LandscapeError
from landscape.store.protocol import CHOICES, DEFAULT_IMAGES, PRESETS

Part = TypeVar("Part", bound=str)


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


# Looks of pictures, see `landscape.plotting`, which is not imported here: it brings matplotlib.
STYLES = ("paper", "screen", "dark")
# What each field of the protocol decides; a preset sets all of them, a flag one.
_FIELDS = {
    "l2": "reading of the L2 term: exact (what weight decay minimises), unsquared (the authors' code), or none",
    "dropout": "off, fixed (masks drawn once, from --mask-seed) or fresh (new masks in every evaluation)",
    "batch_norm": "statistics: running (as at test time), batch (as in training) or recalibrated at every point",
    "augmentation": "none, or frozen: a random crop and flip per image, drawn once from --augmentation-seed",
    "normalization": "scale of random directions: filter (Li et al.), first_axis (the authors' code), layer or none",
    "one_dimensional": "biases and normalisation parameters in random directions: zero or random",
    "split": "train or test images",
    "mask_seed": "seed of the dropout masks (default: 0)",
    "augmentation_seed": "seed of --augmentation frozen (default: 0)",
    "subset_seed": "seed of the sample of images (default: 0)",
    "dtype": "of parameters and images; sums over images are float64 always",
}


def instrument_parser(
    instrument: str,
    description: str,
    add_arguments: Callable[[Parser], None] | None = None,
    *,
    kept: bool = True,
) -> Parser:
    """A parser with the arguments that every instrument takes, those that most people need first.

    Parameters
    ----------
    instrument, description
        See `Parser`.
    add_arguments
        Adds the instrument's own, which stand in between.
    kept
        Whether there is a result to plan, keep and draw; without one there are no flags for it.
    """
    parser = Parser(instrument, description)
    parser.usage = f"{parser.prog} CKPT [CKPT ...] [options]"
    parser.add_argument(
        "checkpoints",
        nargs="*",
        metavar="CKPT",
        help="checkpoint file or folder, or a recipe's name (trained once, then cached); none if --model has weights",
    )
    _add_basic(parser, kept)
    if add_arguments is not None:
        add_arguments(parser)
    _add_subject(parser)
    _add_protocol(parser)
    _add_run(parser, kept)
    if not kept:
        parser.set_defaults(plot=None, style="paper", plan=False, out=None, force=False, allow_protocol_mismatch=False)
    return parser


def _add_basic(parser: Parser, kept: bool) -> None:
    basic = parser.add_argument_group("basic")
    basic.add_argument(
        "--model",
        metavar="NAME|FILE.py:FACTORY|hf:auto",
        help="network of weights that do not say which they belong to",
    )
    basic.add_argument(
        "--data", metavar="NAME|PATH|FILE.py:FACTORY", help="images or other examples; default: those trained on"
    )
    basic.add_argument(
        "--loss",
        metavar="NAME|FILE.py:FUNCTION",
        help="cross_entropy (default), causal_lm, masked_lm, mse, bce, model (the network's own), or a function",
    )
    basic.add_argument(
        "--images", type=count_or_all, metavar="N|all", help=f"a seeded sample (default: {DEFAULT_IMAGES})"
    )
    basic.add_argument("--protocol", choices=list(PRESETS), default="exact", help="preset of what is measured")
    basic.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i (default: auto)")
    if kept:
        basic.add_argument("--plot", type=Path, metavar="FILE", help="picture: .pdf, .png or .svg")
        basic.add_argument(
            "--style", choices=STYLES, default="paper", help="of pictures: for print (default), screen or a dark page"
        )
    basic.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    if kept:
        basic.add_argument("--plan", action="store_true", help="print the cost and stop")


def _add_subject(parser: Parser) -> None:
    subject = parser.add_argument_group("advanced: network and images")
    subject.add_argument("--num-classes", type=positive, metavar="N", help="classes of the network that --model names")
    subject.add_argument(
        "--smoothing", metavar="NAME|FILE.py:CLASS", help="smoothing layer, where a checkpoint has one of your own"
    )
    subject.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the CIFAR archives (default: data)")
    subject.add_argument("--mean", type=numbers, metavar="R,G,B", help="mean of each channel, for uint8 images")
    subject.add_argument("--std", type=numbers, metavar="R,G,B", help="standard deviation of each channel")
    subject.add_argument("--resize", type=image_size, metavar="N|HxW", help="size of a folder's pictures, cut to it")
    subject.add_argument(
        "--batch", type=positive, metavar="N", help="images per forward pass (default: what fits the cache)"
    )
    subject.add_argument(
        "--weight-decay", type=float, metavar="X", help="of the L2 term (default: the recipe's; 0 without one)"
    )
    subject.add_argument(
        "--cache", type=Path, default=Path("checkpoints"), metavar="DIR", help="folder of trained recipes"
    )


def _add_protocol(parser: Parser) -> None:
    protocol = parser.add_argument_group("advanced: single fields of the protocol, hashed into every result")
    for name, values in CHOICES.items():
        if name not in ("dtype", "device"):
            protocol.add_argument(f"--{name.replace('_', '-')}", choices=values, help=_FIELDS[name])
    protocol.add_argument(
        "--parameters",
        metavar="all|weights|lora|last-layer|PATTERN",
        help="which parameters are coordinates, with commas: all, weights (no biases, no norms), or globs of names",
    )
    protocol.add_argument(
        "--output", metavar="NAME|INDEX|all", help="which of several outputs of the network the loss is of"
    )
    for name in ("mask_seed", "augmentation_seed", "subset_seed"):
        protocol.add_argument(f"--{name.replace('_', '-')}", type=seed, metavar="S", help=_FIELDS[name])
    protocol.add_argument("--dtype", choices=CHOICES["dtype"], help=_FIELDS["dtype"])


def _add_run(parser: Parser, kept: bool) -> None:
    run = parser.add_argument_group("advanced: how it is computed and saved")
    run.add_argument(
        "--seed", type=seed, default=0, metavar="S", help="seed of the instrument's own random numbers (default: 0)"
    )
    run.add_argument("--memory", type=byte_count, metavar="BYTES", help="budget of graphs kept in memory, e.g. 4G")
    run.add_argument(
        "--activation-checkpointing",
        choices=("auto", "on", "off"),
        default="auto",
        help="compute blocks again instead of keeping their activations, for long sequences (default: where they would "
        "not fit half of the memory)",
    )
    if kept:
        run.add_argument(
            "--out", type=Path, metavar="FILE", help="result (default: results/<what>/<checkpoint>-<hash>.nc)"
        )
        run.add_argument("--force", action="store_true", help="measure again what is cached")
        run.add_argument(
            "--allow-protocol-mismatch", action="store_true", help="lay unlike measurements over each other"
        )
    run.add_argument("--quiet", action="store_true", help="no progress, no table")
    run.add_argument("--verbose", action="store_true", help="log what was chosen and why")


def add_parts(
    group: argparse._ArgumentGroup, known: Sequence[str], usual: Sequence[str], metavar: str = "PART"
) -> None:
    """``--only`` for an instrument that measures several things; `parts` reads it."""
    text = f"{', '.join(known)}; may repeat (default: {', '.join(usual)})"
    group.add_argument("--only", choices=known, action="append", metavar=metavar, help=text)


def parts(arguments: argparse.Namespace, known: Sequence[Part], usual: Sequence[Part]) -> list[Part]:
    """What ``--only`` names, in the instrument's order."""
    return [part for part in known if part in (arguments.only or usual)]


def positive(text: str) -> int:
    """A whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def seed(text: str) -> int:
    """A whole number from 0 that NetCDF attributes and headers of checkpoints can hold."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a seed: give a whole number from 0, below 2^63")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between."""
    return tuple(float(part) for part in text.split(","))


def image_size(text: str) -> tuple[int, int]:
    """Height and width: ``N`` or ``HxW``."""
    height, _, width = text.lower().partition("x")
    return positive(height), positive(width or height)


def count_or_all(text: str) -> int | str:
    """A positive number, or ``all``."""
    return text if text == "all" else positive(text)


def byte_count(text: str) -> int:
    """A number of bytes, with K, M or G (powers of 1024) behind it if wanted."""
    factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:].upper(), 1)
    value = float(text[:-1] if factor > 1 else text) * factor
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of bytes")
    return int(value)
