"""The plan of the house, and what its papers say: imports go down, one version everywhere."""

import ast
import operator
import re
from collections.abc import Iterator
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
