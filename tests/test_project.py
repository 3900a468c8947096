"""The plan of the house, and what its papers say: imports go down, one version everywhere."""

import ast
import graphlib
import gzip
import operator
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import landscape

ROOT = Path(__file__).parents[1]
FLOORS = ("landscape", "analyses", "figures")
PAGES = [
    str(page.relative_to(ROOT))
    for folder in (".", "docs", "docs/understand", "figures", "reference", "examples")
    for page in sorted((ROOT / folder).glob("*.md"))
]


def modules(floor: str) -> dict[str, Path]:
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / floor).rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("floor", FLOORS)
def test_no_import_goes_up_a_floor(floor: str) -> None:
    above = FLOORS[FLOORS.index(floor) + 1 :]
    upward = {
        name: [target for target in imported(path) if target.partition(".")[0] in above]
        for name, path in modules(floor).items()
    }
    assert {name: targets for name, targets in upward.items() if targets} == {}


def test_the_floors_would_notice_an_import_that_goes_up(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("def late():\n    from analyses import kinds\n    return kinds\n")
    assert list(imported(tmp_path / "wrong.py")) == ["analyses.kinds"]


# The rooms of the ground floor, from the bottom up: numerics know vectors, the objective networks, instruments both.
ROOMS = [
    *("errors", "lazy", "__version__", "compute", "store", "tables"),
    *("metrics", "data", "eigen", "nets", "plotting", "pages"),
    *("objective", "look", "checkpoint"),
    *("surface", "connectivity", "hessian", "predictions", "robustness", "feature_maps", "fourier"),
    *("frequency_noise", "selfcheck", "series", "monitor"),
    *("training", "command", "cli", "__main__"),
]
# Command lines stand on top, wherever they are: these modules are parts of theirs.
COMMAND_LINES = ("cli", "__main__", "hessian.measurements", "feature_maps.tables", "surface.table")


def exports() -> dict[str, str]:
    """Where the names that packages export lazily come from."""
    return {
        f"{name.removesuffix('.__init__')}.{target.rpartition('.')[2]}": target
        for name, path in modules("landscape").items()
        if path.name == "__init__.py"
        for target in imported(path)
    }


def imports() -> dict[str, set[str]]:
    """Modules of the ground floor, each with those that it uses; what serves type checkers alone does not count."""
    known, exported = modules("landscape"), exports()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        if path.name == "__init__.py":
            continue
        tree = ast.parse(path.read_text())
        types = [
            each for each in ast.walk(tree) if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING"
        ]
        skipped = {id(inner) for each in types for inner in ast.walk(each)}
        used = set()
        packages = {}
        for node in ast.walk(tree):
            if id(node) not in skipped and isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    target = f"{node.module}.{alias.name}"
                    packages[alias.asname or alias.name] = target
                    used.add(target)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in packages:
                used.add(f"{packages[node.value.id]}.{node.attr}")
        graph[name] = {found for target in used if (found := origin(target, known, exported)) and found != name}
    return graph


def origin(target: str, known: Mapping[str, Path], exported: Mapping[str, str]) -> str | None:
    """The module that a dotted name comes from, None for a package."""
    while target in exported and exported[target] != target:
        target = exported[target]
    for name in (target, target.rpartition(".")[0]):
        if name in known:
            return name
    return None


def room(module: str) -> str:
    return module.split(".")[1]


def test_rooms_use_those_below_them_and_no_module_is_in_a_circle() -> None:
    graph = imports()
    assert {room(name) for name in graph} <= set(ROOMS), "a new room: say where it stands"
    upward = {
        (name, target)
        for name, targets in graph.items()
        for target in targets
        if not name.endswith(COMMAND_LINES) and ROOMS.index(room(name)) < ROOMS.index(room(target))
    }
    assert not upward
    list(graphlib.TopologicalSorter(graph).static_order())  # raises for a circle


def test_the_rooms_are_seen_through_lazy_packages() -> None:
    graph = imports()
    assert "landscape.eigen.solvers" in graph["landscape.hessian.spectrum"] | graph["landscape.hessian.over_masks"]
    assert "landscape.hessian.picture" in graph["landscape.hessian.cli"]


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [target for target in targets if target and not target.startswith(("http://", "https://"))]
    assert [target for target in local if not ((ROOT / page).parent / target).exists()] == []


def test_what_the_readme_shows_in_python_is_there() -> None:
    blocks = re.findall(r"```python\n(import landscape\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        tree = ast.parse(block)
        called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        ours = [name.removeprefix("landscape.") for name in called if name.startswith("landscape.")]
        assert all(callable(operator.attrgetter(name)(landscape)) for name in ours), ours
        files = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert files
        assert all((ROOT / file).is_file() for file in files)


def test_the_version_is_the_same_everywhere() -> None:
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    logged = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited is not None
    assert logged is not None
    assert cited[1] == logged[1] == landscape.__version__


def test_what_is_kept_names_no_folder_of_the_machine_it_was_measured_on() -> None:
    kept = {
        path: path.read_bytes() for what in ("reference/**/*.json", "docs/pictures/*.png") for path in ROOT.glob(what)
    }
    kept |= {path: gzip.decompress(path.read_bytes()) for path in ROOT.glob("reference/**/*.nc.gz")}
    assert len(kept) > 300
    named = [str(path) for path, content in kept.items() if re.search(rb"--[a-z-]+[ =]/\w+/", content)]
    assert not named
