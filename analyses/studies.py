"""What all studies share: which networks, which instruments, and a list of what was measured for the figures."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analyses.kinds import PRESETS
from landscape import command
from landscape.errors import LandscapeError
from landscape.store.files import write_json

# Readings of `changes` that are no field of the protocol.
MASKS = "masks"
# Trained networks, results and reports that come with the repository.
REFERENCE = Path("reference")


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes
    ----------
    name
        As in ``python -m analyses NAME``.
    question
        In one sentence.
    kinds
        Of networks, names in `analyses.kinds.KINDS`.
    instruments
        Names in `analyses.measuring.REQUESTS`.
    changes
        Protocol variants by name, each the fields that it changes; ``masks`` besides, draws of the masks that curvature
        and loss are the mean of.
    lighter
        Fields of the scale that it replaces, for a study of many variants.
    conclude
        What the listed results say together: facts for the listing, and text for the terminal.
    """

    name: str
    question: str
    kinds: tuple[str, ...]
    instruments: tuple[str, ...]
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"default": {}})
    lighter: Mapping[str, Any] = field(default_factory=dict)
    conclude: Callable[[Sequence[Mapping[str, Any]]], tuple[Mapping[str, Any], str]] | None = None


def listing(results: Path, name: str, preset: str) -> Path:
    """Where a study lists its results."""
    return results / "studies" / f"{name}-{preset}.json"


def kept(reference: Path, preset: str) -> Path:
    """Where the results of a preset are kept beside its reference checkpoints, in the shape of a results folder."""
    return reference / preset / "results"


def listed(name: str, results: Path) -> Path:
    """A file that a listing in `results` names, also where that folder has been moved since."""
    path = Path(name)
    return results / Path(*path.parts[1:]) if path.parts[:1] == ("results",) else path


def parser(chosen: Study) -> command.Parser:
    """Arguments of a study."""
    made = command.Parser(f"analyses {chosen.name}", chosen.question)
    made.add_argument("--preset", choices=PRESETS, default="digits")
    made.add_argument("--seeds", type=command.positive, default=1, metavar="N")
    made.add_argument("--trained-only", action="store_true", help="leave out networks that would have to be trained")
    made.add_argument("--list", action="store_true", help="show networks and results, and stop")
    made.add_argument("--cache", type=Path, default=Path("checkpoints"), help="folder of trained networks")
    made.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the CIFAR archives (default: data)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    made.add_argument("--quiet", action="store_true", help="no progress, no table")
    made.add_argument("--force", action="store_true", help="measure again what is cached")
    return made


def run(chosen: Study, argv: Sequence[str]) -> int:
    """Train or find the networks, measure, and list what was measured."""
    arguments = parser(chosen).parse_args(argv)
    from analyses import kinds, measuring
    from landscape import training
    from landscape.predictions.curves import curves
    from landscape.store import result

    recipes = {kind: kinds.recipe(kind, arguments.preset) for kind in chosen.kinds}
    labels = {kind: kinds.KINDS[kind].label for kind in chosen.kinds}
    wanted = [(kind, made, seed) for seed in range(arguments.seeds) for kind, made in recipes.items()]
    if arguments.list or arguments.trained_only:
        found = {(kind, seed): training.find(made, seed=seed, cache=arguments.cache) for kind, made, seed in wanted}
    if arguments.list:
        shown = [
            [labels[kind], f"{made.name}@{seed}", "trained" if found[kind, seed] else "to be trained"]
            for kind, made, seed in wanted
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
    scale = dataclasses.replace(measuring.SCALES[arguments.preset], **chosen.lighter)
    for kind, made, seed in wanted:
        path = training.ensure(
            made, seed=seed, cache=arguments.cache, root=arguments.data_root, device=device, quiet=arguments.quiet
        )
        for instrument in chosen.instruments:
            for variant, fields in chosen.changes.items():
                asked = measuring.ask(
                    path,
                    instrument,
                    scale,
                    origin=measuring.Origin(root=arguments.data_root),
                    device=device,
                    changes={name: value for name, value in fields.items() if name != MASKS},
                    masks=fields.get(MASKS, 1),
                )
                dataset, file = measuring.measured(asked, force=arguments.force)
                if instrument in ("predictions", "training"):
                    # Figures need the curves alone, thousands of times smaller than the passes.
                    file = file.with_name(f"curves-{file.name}")
                    dataset = curves(dataset).assign_attrs(dataset.attrs)
                    result.save(dataset, file)
                entries.append(
                    {
                        "kind": kind,
                        "label": labels[kind],
                        "seed": seed,
                        "instrument": instrument,
                        "variant": variant,
                        "file": str(file),
                        "seconds": dataset.attrs.get("seconds"),
                    }
                )
                rows.append([labels[kind], str(seed), instrument, variant, str(file)])
                write_json(target, {"study": chosen.name, "question": chosen.question, "entries": entries})
    if not arguments.quiet:
        print(command.columns(["network", "seed", "instrument", "protocol", "result"], rows))
    if chosen.conclude is not None:
        facts, text = chosen.conclude(entries)
        write_json(target, {"study": chosen.name, "question": chosen.question, "entries": entries, **facts})
        if not arguments.quiet:
            print(text)
    return 0
