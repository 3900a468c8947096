"""What figures are drawn from: the lists that studies keep, and published numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray

from analyses import studies
from landscape import plotting
from landscape.errors import LandscapeError
from landscape.store import files, result

# Park & Kim, ICML 2022 (arXiv 2105.12639): ResNet-18 on CIFAR-100, read off the authors' figure by eye.
PUBLISHED_SIZES = (1, 2, 5, 10, 50)
PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "mcdo": {
        "nll": (1.02, 0.94, 0.885, 0.867, 0.850),
        "accuracy": (75.0, 76.3, 76.9, 77.0, 77.4),
        "ece": (7.8, 5.1, 3.8, 3.3, 2.85),
    },
    "mcdo-smooth": {
        "nll": (0.909, 0.856, 0.822, 0.811, 0.800),
        "accuracy": (77.4, 78.3, 78.7, 78.9, 79.0),
        "ece": (5.2, 3.5, 2.9, 2.7, 2.5),
    },
}


@dataclass(frozen=True)
class Entry:
    """One kept result.

    Attributes
    ----------
    kind, label, seed
        Of the network.
    instrument, variant
        What was measured, and under which named protocol.
    dataset
        The result, or its provenance alone (`analyses.keep`).
    """

    kind: str
    label: str
    seed: int
    instrument: str
    variant: str
    dataset: xarray.Dataset

    @property
    def name(self) -> str:
        """For legends: the seed is told only where it is not the first."""
        return self.label if self.seed == 0 else f"{self.label}, seed {self.seed}"

    @property
    def color(self) -> str:
        """Of the kind."""
        return plotting.kind_color(self.kind)


@dataclass(frozen=True)
class Drawing:
    """What a figure is drawn from.

    Attributes
    ----------
    entries
        Results of its study.
    preset
        Whose networks they are.
    published
        Folder of the authors' CSV files, if there is one.
    facts
        What else its study has listed.
    """

    entries: Sequence[Entry]
    preset: str
    published: Path | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def of(self, instrument: str) -> list[Entry]:
        """Results of one instrument."""
        return [entry for entry in self.entries if entry.instrument == instrument]

    def groups(self, instrument: str) -> list[plotting.Group]:
        """Results of one instrument by kind of network, trainings in the order of their seeds."""
        kinds: dict[str, plotting.Group] = {}
        for entry in sorted(self.of(instrument), key=lambda entry: entry.seed):
            marker = plotting.MARKERS[len(kinds) % len(plotting.MARKERS)]
            group = kinds.setdefault(entry.kind, plotting.Group(entry.label, entry.color, marker))
            group.results.append(entry.dataset)
        order = list(dict.fromkeys(entry.kind for entry in self.of(instrument)))
        return [kinds[kind] for kind in order]

    def explained(self, instrument: str, of_one: str) -> str:
        """What bands and thin lines are, for a legend's title."""
        return plotting.seeds_explained([len(group.results) for group in self.groups(instrument)], of_one)


def read(study: str, preset: str, results: Path, published: Path | None = None) -> Drawing:
    """What a study has listed.

    Raises
    ------
    LandscapeError
        When the study was not run, or a result is missing.
    """
    path = studies.listing(results, study, preset)
    if not path.is_file():
        raise LandscapeError(f"no results at {path}: run python -m analyses {study} --preset {preset} first")
    facts = files.read_json(path)
    try:
        entries = [Entry(**_known(each), dataset=_result(each, results)) for each in facts["entries"]]
    except (KeyError, TypeError, AttributeError):
        raise LandscapeError(f"{path} is no listing of a study: run python -m analyses {study} again") from None
    return Drawing(entries, preset, published, facts)


def _known(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("kind", "label", "seed", "instrument", "variant")}


def _result(entry: Mapping[str, Any], results: Path) -> xarray.Dataset:
    """What was measured; of a kept study that is drawn from its conclusion, the provenance alone."""
    if "provenance" in entry:
        return xarray.Dataset(attrs=dict(entry["provenance"]))
    return result.load(studies.listed(entry["file"], results))


def provenance(drawing: Drawing, figure: str, command: str) -> dict[str, Any]:
    """What goes into the file's metadata."""
    return {
        "figure": figure,
        "command": command,
        "preset": drawing.preset,
        "results": list(_sources(drawing.entries)),
    }


def _sources(entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        yield {"network": entry.name, "protocol": entry.variant, **studies.provenance(entry.dataset)}
