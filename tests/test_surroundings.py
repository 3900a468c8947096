"""Names as markup, and a few of the hostile surroundings that `benchmarks/hostile_surroundings.py` tries in numbers."""

import importlib.util
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray

from landscape import command, pages, plotting, surface
from landscape.errors import printable

ROOT = Path(__file__).parents[1]
NAMES = [
    "@DATA@<img src=x onerror=alert(1)>",
    "<!--<script>",
    "</script><script>alert(1)</script>",
    "]]><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "a\u2028b\u2029c",
    "\x1b[31mred\x1b]0;title\x07",
    "a\nb\rc\x00d",
    "\udcff not UTF-8",
    "\u202egpj.exe",
    r"$\frac{1$_{",
    "$a$",
    "\"quotes' & ampersand",
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> object:
    name = "hostile_surroundings"
    specification = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    module.made = module.Bench(tmp_path_factory.mktemp("hostile"))
    return module


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("pipes", "--json | head -1"),
        ("terminals", "LC_ALL=C"),
        ("names", "not UTF-8, page"),
        ("environments", "WORLD_SIZE=x"),
        ("environments", "MPLBACKEND=no_such"),
        ("signals", "SIGINT after 1.0 s"),
        ("signals", "SIGTERM after 2.0 s"),
    ],
)
def test_nothing_goes_wrong_in(bench: object, group: str, name: str) -> None:
    (case,) = [each for each in bench.cases([group]) if each.name == name]  # type: ignore[attr-defined]
    assert bench.made.run(case) == ""  # type: ignore[attr-defined]


def test_a_case_that_goes_wrong_is_seen(bench: object) -> None:
    python = "{python} -c 'raise ValueError'"
    case = bench.Case("toy", "a traceback", python)  # type: ignore[attr-defined]
    assert "traceback" in bench.made.run(case)  # type: ignore[attr-defined]


class Tags(HTMLParser):
    """Tags, and what stands in the script of data."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.data = ""
        self._in_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_data = ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data
            self._in_data = False


def plane(name: str) -> xarray.Dataset:
    axis = np.linspace(-1, 1, 3)
    values = axis[:, None] ** 2 + axis**2
    return xarray.Dataset(
        {"loss": (("alpha", "beta"), values, {"long_name": name, "units": name})},
        {"alpha": axis, "beta": axis},
        {"name": name, "command": name},
    )


def test_names_in_the_page_of_a_surface_are_text(tmp_path: Path) -> None:
    plain = Tags()
    plain.feed(surface.html.write([plane("plain")], tmp_path / "plain.html").read_text())
    for name in NAMES:
        text = surface.html.write([plane(name)], tmp_path / "page.html").read_text()
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u2029\u202e]", text)
        page = Tags()
        page.feed(text)
        assert page.tags == plain.tags, f"{name!r} makes tags"
        (shown,) = json.loads(page.data)["surfaces"]
        assert shown["name"] == printable(name)
        assert shown["values"]["loss"][0] == [2.0, 1.0, 2.0]


def test_a_template_is_filled_once_and_misses_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.html").write_text("<p>{{ a }}</p><script>{{ b | tojson }}</script>")
    page = pages.render(tmp_path / "t.html", a="{{ b }}<b>", b={"z": "</script>", "a": 1})
    assert page == '<p>{{ b }}&lt;b&gt;</p><script>{"z": "\\u003c/script\\u003e", "a": 1}</script>'
    with pytest.raises(Exception, match=r"(?i)undefined"):
        pages.render(tmp_path / "t.html", a="x")
    with pytest.raises(ValueError, match="JSON"):
        pages.render(tmp_path / "t.html", a="x", b=float("nan"))


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_names_in_pictures_are_text(tmp_path: Path, ending: str) -> None:
    for name in NAMES:
        with plotting.style():
            made = plotting.figure()
            axes = made.subplots()
            axes.plot([1, 2], label=plotting.plain(plane(name).attrs["name"]))
            axes.legend()
            axes.set_title("raw \x1b[31m \x00 \ud800")
        file = plotting.save(made, tmp_path / f"p.{ending}", {"name": name})
        if ending == "svg":
            text = file.read_text()
            assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)
            assert "<img" not in text
            assert "onload" not in re.sub(r"&lt;.*?&gt;", "", text)


def test_dollars_of_names_are_shown(tmp_path: Path) -> None:
    with plotting.style():
        made = plotting.figure()
        made.subplots().set_title(plotting.plain("$a$b_{"))
    assert "$a$b_{" in plotting.save(made, tmp_path / "p.svg").read_text()


def test_tables_show_names_harmlessly() -> None:
    for name in NAMES:
        text = command.columns(["", name], [[name, "1"]])
        assert all(line.isprintable() for line in text.split("\n"))
        assert len(text.split("\n")) == 2
