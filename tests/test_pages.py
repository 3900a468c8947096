"""What the pages say is so: their Python runs, their flags are the parsers', and a search finds what people ask for."""

import functools
import importlib
import json
import math
import os
import re
import runpy
import subprocess
import sys
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from landscape.compute.randomness import generator
from landscape.monitor import Monitor

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\w+\.py)\b")
# Side by side on pages that compare libraries.
CLOSE = 2e-2
pytestmark = pytest.mark.filterwarnings("ignore")


def network(seed: int) -> nn.Module:
    """A classifier of eight-pixel digits that takes no time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, 2, 1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(12, 4),
        ).eval()


def given() -> dict[str, Any]:
    """What pages speak of without making it."""
    images = torch.randn(48, 1, 8, 8, generator=generator(0))
    labels = torch.randint(0, 4, (48,), generator=generator(1))
    model, other = network(0), network(1)
    return {
        "torch": torch,
        "model": model,
        "other": other,
        "images": images,
        "labels": labels,
        "inputs": images,
        "targets": labels,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loader": [(images, labels)] * 100,
        "batch_with_labels": {"pixel_values": images, "labels": labels},
        "lightning": types.SimpleNamespace(Trainer=lambda *_, **__: None),
        "transformers": types.SimpleNamespace(Trainer=lambda *_, **__: None),
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; modules made there are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: str(page.relative_to(DOCS))
)
def test_every_snippet_of_python_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", types.SimpleNamespace(Callback=object))
    # A hundred steps here take less than a second, of which a share of 1 % pays for no measurement.
    monkeypatch.setattr(Monitor, "__init__", functools.partialmethod(Monitor.__init__, budget=None))
    known, compared = given(), 0
    for block in BLOCK.findall(page.read_text()):
        named = NAMED.match(block)
        if named:
            (folder / named[1]).write_text(block)
        exec(compile(block, f"{page.name}", "exec"), known)
        if {"theirs", "ours"} <= set(known):
            theirs, ours = (np.asarray(known.pop(name), dtype=float).ravel() for name in ("theirs", "ours"))
            assert np.linalg.norm(np.sort(theirs) - np.sort(ours)) < CLOSE * np.linalg.norm(ours), block
            compared += 1
    if page.name == "switching.md":
        assert compared == 4


@pytest.mark.parametrize("script", sorted((ROOT / "examples" / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_every_notebook_runs_and_draws(script: Path, folder: Path) -> None:
    runpy.run_path(str(script), run_name="__main__")
    assert (folder / f"{script.stem}.png").stat().st_size > 5000
    # The picture that its page shows.
    assert (DOCS / "pictures" / f"notebook-{script.stem}.png").is_file()


def test_every_flag_of_every_command_stands_on_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    hooks = importlib.import_module("site_hooks")
    try:
        shared = hooks.filled((DOCS / "howto" / "index.md").read_text())
        assert {"--plot", "--style", "--protocol", "--seed"} <= set(re.findall(r"--[a-z-]+", shared))
        for name, page in hooks.COMMANDS.items():
            text = (DOCS / page).read_text()
            assert f"<!-- flags: {name} -->" in text, f"{page} lacks the flags of {name}"
            table = hooks.filled(text) + shared
            flags = {
                flag for group in hooks.flags(name).values() for action in group for flag in action.option_strings[-1:]
            }
            assert {flag for flag in flags if f"`{flag}" not in table} <= {"--help"}, name
    finally:
        del sys.modules["site_hooks"]


def test_tables_of_effects_are_what_reports_and_results_say() -> None:
    tables = runpy.run_path(str(DOCS / "write_tables.py"))
    blurs = (DOCS / "understand" / "blurs.md").read_text()
    assert len(tables["TABLE"].findall(blurs)) == blurs.count("<!-- effects:") + blurs.count("<!-- by depth:") == 6
    for page in PAGES:
        assert tables["written"](page.read_text()) == page.read_text(), f"run docs/write_tables.py: {page.name}"
    rise = {
        "measure": "log of the roughness",
        "verdict": "against",
        "effect": {"estimate": 0.1, "low": 0.05, "high": 0.15},
    }
    assert tables["cell"](rise) == "+11 % [5, 16] **against**"
    accuracy = {"measure": "accuracy, %, every ensemble size", "verdict": "undecided"}
    assert (
        tables["cell"]({**accuracy, "effect": {"estimate": -0.04, "low": -0.5, "high": -0.01}}) == "0.0 [-0.5, 0.0] \\*"
    )


# What people ask for, in their words, and the page that answers.
ASKED = {
    "loss surface of my model": "howto/surface.md",
    "eigenvalues sharpness": "howto/hessian.md",
    "language model LoRA": "own_networks.md",
    "regression loss of one's own": "own_networks.md",
    "sharpness while training": "monitor.md",
    "trajectory checkpoints series": "howto/series.md",
    "barrier between two networks": "connectivity.md",
    "stage layer block": "howto/hessian.md",
    "hessian diagonal activations": "howto/hessian.md",
    "what the axes are": "understand/surfaces.md",
    "how is robustness defined": "understand/robustness.md",
    "why two papers disagree": "understand/protocols.md",
}


@pytest.mark.parametrize("words", ASKED)
def test_a_search_finds_the_page_that_answers(words: str) -> None:
    page = DOCS / ASKED[words]
    text = page.read_text().lower()
    missing = [
        word for word in words.lower().split() if word not in text and word not in ("is", "of", "the", "how", "what")
    ]
    assert missing == []


# The same in words that do not stand in a title, as somebody types them who does not know ours.
SEARCHED = {
    "plot the landscape of my own network": {"howto/surface.html"},
    "largest eigenvalue of my checkpoint": {"howto/hessian.html", "start.html", "numbers.html"},
    "GPT tokens LoRA adapters": {"own_networks.html"},
    "curvature in a training loop": {"monitor.html"},
    "trajectory of checkpoints": {"howto/series.html", "howto/surface.html"},
    "mode connectivity permutation barrier": {"connectivity.html"},
    "PINN regression custom loss": {"own_networks.html"},
    "diagonal of the Hessian, activations": {"howto/hessian.html", "own_networks.html"},
    "eigenvalues layer by layer": {"howto/hessian.html"},
    "meaning of the axes": {"understand/surfaces.html", "numbers.html"},
    "definition of robustness": {"understand/robustness.html", "howto/robustness.html"},
    "papers disagree vision transformer": {"understand/protocols.html"},
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Entries of the search index of the site as it is built: one per section of a page."""
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings_handlers.python")
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True)
    entries: list[dict[str, str]] = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    return entries


def _words(text: str) -> list[str]:
    """Words without markup and endings."""
    found = re.findall(r"[a-z]+", re.sub(r"<[^>]*>", " ", text).lower())
    return [re.sub(r"(ies|es|s|ing|ed)$", "", word) for word in found if len(word) > 2]


def test_the_sites_own_index_finds_what_people_ask_for(index: list[dict[str, str]]) -> None:
    """Ranked as the site's search ranks, by BM25 with titles weighing more: among the first five pages is an answer."""
    sections = [
        (entry["location"].partition("#")[0], Counter(_words(f"{entry['title']} " * 5 + entry["text"])))
        for entry in index
    ]
    length = sum(words.total() for _, words in sections) / len(sections)
    missed = {}
    for asked, answers in SEARCHED.items():
        scores: dict[str, float] = {}
        for page, words in sections:
            score = 0.0
            for word in _words(asked):
                matching = sum(word in other for _, other in sections)
                rarity = math.log(1 + (len(sections) - matching + 0.5) / (matching + 0.5))
                score += rarity * words[word] * 2.2 / (words[word] + 1.2 * (0.25 + 0.75 * words.total() / length))
            scores[page] = max(score, scores.get(page, 0.0))
        first = sorted(scores, key=lambda page: -scores[page])[:5]
        if not answers & set(first):
            missed[asked] = first
    assert missed == {}
