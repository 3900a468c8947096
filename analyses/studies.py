"""What all studies share: which networks, which instruments, and a list of what was measured for the figures."""

import dataclasses
import itertools
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses import executors
from analyses.kinds import KINDS, PRESETS, recipe
from landscape import command
from landscape.errors import LandscapeError
from landscape.store.files import write_json

if TYPE_CHECKING:
    import xarray

# Readings of `changes` that are not fields of the protocol.
MASKS = "masks"
# Trained networks, results and reports that come with the repository.
REFERENCE = Path("reference")
_PROVENANCE = (
    "instrument",
    "protocol_hash",
    "checkpoint_sha256",
    "data_sha256",
    "settings",
    "landscape_version",
    "command",
)


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
        Fields of the sample sizes that it replaces, for a study of many variants.
    conclude
        What the listed results say together: facts for the listing, and text for the terminal.
    along_training
        Whether it measures the checkpoints along a training, of unfinished ones those that are there.
    """

    name: str
    question: str
    kinds: tuple[str, ...]
    instruments: tuple[str, ...]
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"default": {}})
    lighter: Mapping[str, Any] = field(default_factory=dict)
    conclude: Callable[[Sequence[Mapping[str, Any]]], tuple[Mapping[str, Any], str]] | None = None
    along_training: bool = False


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


def provenance(dataset: "xarray.Dataset") -> dict[str, Any]:
    """Where a result comes from: the network, the data, the protocol, the program, each as far as it is known."""
    return {name: dataset.attrs[name] for name in _PROVENANCE if name in dataset.attrs}


def parser(chosen: Study) -> command.Parser:
    """Arguments of a study."""
    parser = command.Parser(f"analyses {chosen.name}", chosen.question)
    parser.add_argument("--preset", choices=PRESETS, default="digits")
    parser.add_argument("--seeds", type=command.positive, default=1, metavar="N")
    parser.add_argument("--trained-only", action="store_true", help="leave out networks that would have to be trained")
    parser.add_argument("--list", action="store_true", help="show networks and results, and stop")
    parser.add_argument("--cache", type=Path, default=Path("checkpoints"), help="folder of trained networks")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the CIFAR archives (default: data)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    parser.add_argument("--executor", metavar="ENGINE", help=executors.HELP)
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")
    parser.add_argument("--force", action="store_true", help="measure again what is cached")
    return parser


@dataclass(frozen=True)
class _Network:
    """A network of a study: its kind, the recipe that trains it, and its seed."""

    kind: str
    recipe: Any
    seed: int

    @property
    def label(self) -> str:
        return KINDS[self.kind].label

    def checkpoints(self, chosen: Study, cache: Path) -> list[Path]:
        """What the study measures of it, as far as it is there: its checkpoint, or at least two along its training."""
        from landscape import training

        if chosen.along_training:
            found = training.find_series(self.recipe, seed=self.seed, cache=cache)
            return found if len(found) > 1 else []
        file = training.find(self.recipe, seed=self.seed, cache=cache)
        return [] if file is None else [file]


def run(chosen: Study, argv: Sequence[str]) -> int:
    """Train or find the networks, measure, and list what was measured."""
    arguments = parser(chosen).parse_args(argv)
    recipes = {kind: recipe(kind, arguments.preset) for kind in chosen.kinds}
    networks = [_Network(kind, of, seed) for seed in range(arguments.seeds) for kind, of in recipes.items()]
    if arguments.list or arguments.trained_only:
        trained = [bool(each.checkpoints(chosen, arguments.cache)) for each in networks]
    if arguments.list:
        rows = [
            [each.label, f"{each.recipe.name}@{each.seed}", "trained" if done else "to be trained"]
            for each, done in zip(networks, trained, strict=True)
        ]
        print(f"{chosen.question}\ninstruments: {', '.join(chosen.instruments)}")
        print(command.columns(["network", "recipe", "state"], rows))
        return 0
    if arguments.trained_only:
        networks = [each for each, done in zip(networks, trained, strict=True) if done]
        if not networks:
            raise LandscapeError(f"no network of {arguments.preset} is trained yet: leave --trained-only out")
    target = listing(Path("results"), chosen.name, arguments.preset)
    command.require_writable(target)
    facts: dict[str, Any] = {"study": chosen.name, "question": chosen.question, "entries": []}
    with executors.opened(arguments.executor) as executor:
        for entry in _measured(chosen, networks, arguments, executor):
            facts["entries"].append(entry)
            write_json(target, facts)
    facts["kinds"] = _stage(chosen, networks, arguments.cache)
    write_json(target, facts)
    if not arguments.quiet:
        names = ("label", "seed", "instrument", "variant", "file")
        rows = [[str(entry[name]) for name in names] for entry in facts["entries"]]
        print(command.columns(["network", "seed", "instrument", "protocol", "result"], rows))
    if chosen.conclude is not None:
        conclusions, text = chosen.conclude(facts["entries"])
        write_json(target, {**facts, **conclusions})
        if not arguments.quiet:
            print(text)
    return 0


def _stage(chosen: Study, networks: Sequence[_Network], cache: Path) -> list[dict[str, Any]]:
    """What the networks of each kind are, as figures say it."""
    from analyses import stage
    from landscape import checkpoint

    of_kind: dict[str, list[_Network]] = {}
    for network in networks:
        of_kind.setdefault(network.label, []).append(network)
    return [
        stage.facts(label, [checkpoint.load(network.checkpoints(chosen, cache)[-1]) for network in own])
        for label, own in of_kind.items()
    ]


def _measured(
    chosen: Study, networks: Sequence[_Network], arguments: Namespace, executor: Any
) -> Iterator[dict[str, Any]]:
    """Train each network if need be and measure it; one entry of the listing per result."""
    from analyses import measuring
    from landscape import training

    device = command.device(arguments).type
    sizes = dataclasses.replace(measuring.SAMPLE_SIZES[arguments.preset], **chosen.lighter)
    common = {"cache": arguments.cache, "root": arguments.data_root, "device": device, "quiet": arguments.quiet}
    trainings = [
        {"wanted": network.recipe, "seed": network.seed, "series": chosen.along_training, **common}
        for network in networks
    ]
    variants = list(itertools.product(chosen.instruments, chosen.changes.items()))

    def trained(network: _Network, wanted: Mapping[str, Any]) -> list[Path]:
        files = network.checkpoints(chosen, arguments.cache)
        if not files:
            training.ensure(**wanted)
            files = network.checkpoints(chosen, arguments.cache)
        return files

    def question(files: Sequence[Path], instrument: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "path": files[-1],
            "name": instrument,
            "sizes": sizes,
            "origin": measuring.Origin(root=arguments.data_root),
            "device": device,
            "changes": {name: value for name, value in fields.items() if name != MASKS},
            "masks": fields.get(MASKS, 1),
            "before": files[:-1],
        }

    force = arguments.force
    if executor is not None:
        missing = [
            (training.ensure, {**wanted, "quiet": True})
            for network, wanted in zip(networks, trainings, strict=True)
            if not network.checkpoints(chosen, arguments.cache)
        ]
        executors.ahead(executor, missing)
        series = [trained(network, wanted) for network, wanted in zip(networks, trainings, strict=True)]
        ahead = [
            (measuring.measure, {**question(files, instrument, fields), "force": force})
            for files, (instrument, (_, fields)) in itertools.product(series, variants)
        ]
        force = executors.ahead(executor, ahead, quiet=arguments.quiet) < len(ahead) and force
    for network, wanted in zip(networks, trainings, strict=True):
        files = trained(network, wanted)
        for instrument, (variant, fields) in variants:
            dataset, file = measuring.measured(measuring.ask(**question(files, instrument, fields)), force=force)
            yield _entry(network, instrument, variant, dataset, file)


def _entry(network: _Network, instrument: str, variant: str, dataset: "xarray.Dataset", file: Path) -> dict[str, Any]:
    """One entry of the listing."""
    from landscape.predictions.curves import curves
    from landscape.store import result

    if instrument in ("predictions", "training"):
        # Figures need the curves alone, thousands of times smaller than the passes.
        file = file.with_name(f"curves-{file.name}")
        dataset = curves(dataset).assign_attrs(dataset.attrs)
        result.save(dataset, file)
    return {
        "kind": network.kind,
        "label": network.label,
        "seed": network.seed,
        "instrument": instrument,
        "variant": variant,
        "file": str(file),
        "seconds": dataset.attrs.get("seconds"),
    }
