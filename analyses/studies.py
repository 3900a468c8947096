"""What all studies share: which networks, which instruments, and a list of what was measured for the figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape import command
from landscape.errors import LandscapeError

PRESETS = ("digits", "cifar100-small", "paper")
# Kind of network -> recipe, by preset.
KINDS: dict[str, dict[str, str]] = {
    "digits": {
        "mcdo": "digits-plain",
        "mcdo-smooth": "digits-smooth",
        "dnn": "digits-deterministic",
        "dnn-smooth": "digits-deterministic-smooth",
    },
    "cifar100-small": {
        kind: f"cifar100-small-{kind}" for kind in ("mcdo", "mcdo-smooth", "dnn", "dnn-smooth", "mcdo-mlp")
    },
    "paper": {
        "mcdo": "cifar100-paper-resnet_mcdo_18",
        "mcdo-smooth": "cifar100-paper-resnet_mcdo_smoothing_18",
        "dnn": "cifar100-paper-resnet_dnn_18",
        "dnn-smooth": "cifar100-paper-resnet_dnn_smoothing_18",
        "mcdo-preact": "cifar100-paper-preresnet_mcdo_18",
    },
}
LABELS = {
    "mcdo": "MC dropout",
    "mcdo-smooth": "MC dropout + smooth",
    "dnn": "deterministic",
    "dnn-smooth": "deterministic + smooth",
    "mcdo-mlp": "MC dropout, MLP head",
    "mcdo-preact": "MC dropout, pre-activation",
}


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes
    ----------
    name
        Of its module.
    question
        In one sentence.
    kinds
        Of networks; those that a preset lacks are left out.
    instruments
        Names in `analyses.measuring.INSTRUMENTS`.
    changes
        Protocol variants by name, each the fields that it changes.
    """

    name: str
    question: str
    kinds: tuple[str, ...]
    instruments: tuple[str, ...]
    changes: Mapping[str, Mapping[str, Any]]


def study(
    name: str,
    question: str,
    kinds: Sequence[str],
    instruments: Sequence[str],
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Study:
    """A study, under one protocol unless `changes` names several."""
    return Study(name, question, tuple(kinds), tuple(instruments), changes or {"default": {}})


def listing(results: Path, name: str, preset: str) -> Path:
    """Where a study lists its results."""
    return results / "studies" / f"{name}-{preset}.json"


def run(chosen: Study, argv: Sequence[str]) -> int:
    """Train or find the networks, measure, and list what was measured."""
    parser = command.Parser(f"analyses.{chosen.name}", chosen.question)
    parser.add_argument("--preset", choices=PRESETS, default="digits")
    parser.add_argument("--seeds", type=command.positive, default=1, metavar="N")
    parser.add_argument("--trained-only", action="store_true", help="leave out networks that would have to be trained")
    parser.add_argument("--list", action="store_true", help="show networks and results, and stop")
    parser.add_argument("--cache", type=Path, default=Path("checkpoints"), help="folder of trained networks")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the CIFAR archives (default: data)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")
    parser.add_argument("--force", action="store_true", help="measure again what is cached")
    arguments = parser.parse_args(argv)
    from analyses import measuring
    from landscape import result, training
    from landscape.predictions.curves import curves

    recipes = {kind: KINDS[arguments.preset][kind] for kind in chosen.kinds if kind in KINDS[arguments.preset]}
    wanted = [(kind, name, seed) for seed in range(arguments.seeds) for kind, name in recipes.items()]
    if arguments.list or arguments.trained_only:
        found = {
            (kind, seed): training.find(training.recipe(name), seed=seed, cache=arguments.cache)
            for kind, name, seed in wanted
        }
    if arguments.list:
        shown = [
            [LABELS[kind], f"{name}@{seed}", "trained" if found[kind, seed] else "to be trained"]
            for kind, name, seed in wanted
        ]
        print(f"{chosen.question}\ninstruments: {', '.join(chosen.instruments)}")
        print(command.columns(["network", "recipe", "state"], shown))
        return 0
    if arguments.trained_only:
        wanted = [each for each in wanted if found[each[0], each[2]]]
        if not wanted:
            raise LandscapeError(f"no network of {arguments.preset} is trained yet: leave --trained-only out")
    device = command.device(arguments).type
    entries: list[dict[str, Any]] = []
    rows = []
    target = listing(Path("results"), chosen.name, arguments.preset)
    command.require_writable(target)
    for kind, name, seed in wanted:
        path = training.ensure(
            name, seed=seed, cache=arguments.cache, root=arguments.data_root, device=device, quiet=arguments.quiet
        )
        for instrument in chosen.instruments:
            for variant, fields in chosen.changes.items():
                asked = measuring.ask(
                    path,
                    instrument,
                    measuring.SCALES[arguments.preset],
                    root=arguments.data_root,
                    device=device,
                    changes=fields,
                )
                dataset = measuring.measured(asked, force=arguments.force)
                file = asked.path
                if instrument == "predictions":
                    # Figures need the curves alone, thousands of times smaller than the passes.
                    file = asked.path.with_name(f"curves-{asked.path.name}")
                    dataset = curves(dataset).assign_attrs(dataset.attrs)
                    result.save(dataset, file)
                entries.append(
                    {
                        "kind": kind,
                        "label": LABELS[kind],
                        "seed": seed,
                        "instrument": instrument,
                        "variant": variant,
                        "file": str(file),
                        "seconds": dataset.attrs.get("seconds"),
                    }
                )
                rows.append([LABELS[kind], str(seed), instrument, variant, str(file)])
                _keep(target, {"study": chosen.name, "question": chosen.question, "entries": entries})
    if not arguments.quiet:
        print(command.columns(["network", "seed", "instrument", "protocol", "result"], rows))
    return 0


def _keep(path: Path, facts: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-partial")
    temporary.write_text(json.dumps(facts, indent=1))
    temporary.replace(path)
