"""Arguments and output of ``python -m landscape.training``."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from landscape import command
from landscape.errors import LandscapeError

DESCRIPTION = """Train networks by recipe, unless they are trained already.

Interrupted at any moment, the same command resumes from the last finished epoch: to the same bits, on the same machine
with the same number of threads (OMP_NUM_THREADS).

Exit status: 0 all are trained; 75 stopped in time (--max-seconds), the same command resumes; 2 invalid input; 130
interrupted."""


def _parser() -> command.Parser:
    parser = command.Parser("landscape.training", DESCRIPTION)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE[@SEED]", help="names; --list shows them")
    parser.add_argument("--list", action="store_true", help="show the recipes and leave")
    parser.add_argument(
        "--seed", type=command.seed, default=0, metavar="S", help="of recipes without @SEED (default: 0)"
    )
    parser.add_argument("--epochs", type=command.positive, metavar="N", help="another length, kept under its own name")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the CIFAR archives (default: data)")
    parser.add_argument("--cache", type=Path, default=Path("checkpoints"), help="folder of trained recipes")
    parser.add_argument(
        "--max-seconds",
        type=float,
        metavar="S",
        help="one deadline for all recipes together: stop behind the last epoch in time, with status 75",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of convolutions (default: bfloat16 where the processor has it)",
    )
    parser.add_argument(
        "--series", action="store_true", help="keep about ten checkpoints on the way, named RECIPE-afterEPOCH"
    )
    parser.add_argument(
        "--monitor",
        action="store_true",
        help="measure the curvature on the way, in at most 5 %% of the time, kept as RECIPE.curvature.csv",
    )
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no table")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    return parser


def main(argv: Sequence[str]) -> int:
    """Train, and say where the checkpoints are."""
    arguments = _parser().parse_args(argv)
    import torch

    from landscape import checkpoint, training

    if arguments.list:
        rows = [[recipe.name, recipe.summary] for recipe in training.RECIPES.values()]
        rows += [
            [f"{data}-paper-MODEL", f"any network by name on {data}, the paper's recipe"]
            for data in ("cifar10", "cifar100")
        ]
        print(command.columns(["recipe", "what it is"], rows))
        return 0
    if not arguments.recipes:
        raise LandscapeError("no recipe named: give one, or --list to see them")
    began = time.perf_counter()
    device = command.device(arguments)
    wanted = [training.parse(name, arguments.seed) for name in arguments.recipes]
    finished: list[dict] = []
    longest, begun = 0.0, False
    for recipe, seed in wanted:
        if arguments.epochs is not None:
            recipe = recipe.replace(epochs=arguments.epochs)
        path = training.find(recipe, seed=seed, cache=arguments.cache)
        left = None if arguments.max_seconds is None else arguments.max_seconds - (time.perf_counter() - began)
        # The first network gets an epoch in any case, so that each call makes progress; another one whose first epoch
        # would end too late is not begun.
        if path is None and (left is None or not begun or left > longest):
            begun = True
            target = training.file_of(recipe, seed, arguments.cache)
            command.require_writable(target)
            if arguments.device == "auto" and not arguments.quiet:
                command.remark(f"on {command.described(device)}")
            path = training.train(
                recipe,
                target,
                seed=seed,
                root=arguments.data_root,
                device=device,
                compute=arguments.precision,
                dtype=torch.float16 if arguments.half else None,
                max_seconds=left,
                series=arguments.series,
                monitor=arguments.monitor,
                quiet=arguments.quiet,
            )
        if path is None:
            print(f"{recipe.name}, seed {seed}: stopped in time; the same command resumes", file=sys.stderr)
        else:
            history = checkpoint.read_history(path) or [{}]
            last = history[-1]
            longest = max(longest, *(epoch.get("seconds", 0.0) for epoch in history))
            finished.append({"recipe": recipe.name, "seed": seed, "checkpoint": str(path), **last})
    if arguments.json:
        print(command.to_strict_json({"checkpoints": finished, "finished": len(finished) == len(wanted)}))
    elif not arguments.quiet and finished:
        print(_table(finished))
        print("test accuracy and NLL (nats) are of one dropout sample per image")
    return 0 if len(finished) == len(wanted) else command.STOPPED_IN_TIME


def _table(finished: list[dict]) -> str:
    return command.columns(
        ["recipe", "seed", "epochs", "train accuracy", "test accuracy", "test NLL", "checkpoint"],
        [
            [
                row["recipe"],
                str(row["seed"]),
                str(row.get("epoch", "-")),
                *(
                    f"{row[name]:{form}}" if name in row else "-"
                    for name, form in (("train_accuracy", ".2%"), ("test_accuracy", ".2%"), ("test_nll", ".3f"))
                ),
                row["checkpoint"],
            ]
            for row in finished
        ],
    )
