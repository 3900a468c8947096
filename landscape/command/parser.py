"""Arguments that all commands share."""

import argparse
from pathlib import Path
from typing import NoReturn

from landscape.errors import LandscapeError
from landscape.store.protocol import CHOICES, PRESETS

# Enough images for a spectrum whose sampling error is small against the differences people look for, few enough for a
# laptop; every number measured on a sample states its sampling error.
DEFAULT_IMAGES = 2000


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
