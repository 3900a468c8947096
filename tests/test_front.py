"""What is seen first: --help at once, names under a dot, objects that print usefully."""

import argparse
import importlib
import inspect
import os
import pkgutil
import re
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest

import landscape
from landscape import cli, command, lazy
from landscape.errors import LandscapeError

PACKAGES = sorted(file.parent.name for file in Path(landscape.__path__[0]).glob("*/cli.py"))
COMMANDS = [f"landscape.{name}.cli" for name in PACKAGES]
COMMANDS += ["analyses.audit.cli", "analyses.keep", "analyses.claims", "figures.cli"]
HEAVY = ("torch", "numpy", "scipy", "xarray", "matplotlib", "h5py", "sklearn")


def parser_of(module: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that a command line goes through, caught before it parses anything."""
    caught: list[argparse.ArgumentParser] = []

    def catch(parser: argparse.ArgumentParser, *arguments: object, **settings: object) -> None:
        caught.append(parser)
        raise LandscapeError("caught")

    monkeypatch.setattr(command.Parser, "parse_args", catch)
    with pytest.raises(LandscapeError, match="caught"):
        importlib.import_module(module).main(["name"])
    return caught[0]


@pytest.mark.parametrize("module", COMMANDS)
def test_the_help_names_and_describes_every_flag(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = parser_of(module, monkeypatch)
    text = parser.format_help()
    for action in parser._actions:
        assert action.help not in (None, "", argparse.SUPPRESS), action.dest
        assert all(re.search(rf"^ +.*{flag}\b", text, re.MULTILINE) for flag in action.option_strings), action.dest


@pytest.mark.parametrize("module", [f"{instrument.name}.cli" for instrument in cli.instruments()])
def test_the_help_of_an_instrument_puts_advanced_flags_last(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = parser_of(module, monkeypatch).format_help()
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[:3] == ["positional arguments:", "options:", "basic:"]
    advanced = [heading.startswith("advanced: ") for heading in headings]
    assert sum(advanced) >= 3
    assert advanced[-3:] == [True] * 3


@pytest.mark.parametrize("module", COMMANDS)
def test_help_answers_before_the_numerics_are_loaded(module: str) -> None:
    code = (
        "import sys\n"
        "from landscape.command import run\n"
        f"try: run({module!r}, ['--help'])\n"
        "except SystemExit as left: status = left.code\n"
        f"print('loaded:', *[name for name in {HEAVY} if name in sys.modules], status)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith("usage: ")
    assert done.stdout.splitlines()[-1] == "loaded: 0"
    # Of the processor, since other processes may be busy: it takes 0.1 s, and 3 s with torch.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def packages() -> list[types.ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(landscape.__path__, "landscape.") if module.ispkg]
    return [landscape, *map(importlib.import_module, names)]


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.__name__)
def test_what_a_package_exports_is_there_and_seen(package: types.ModuleType) -> None:
    exported = getattr(package, "__all__", [])
    assert exported, f"{package.__name__} exports nothing"
    assert set(exported) <= set(dir(package))
    for name in exported:
        assert getattr(package, name) is not None


def test_importing_a_module_does_not_hide_the_function_of_its_name() -> None:
    # In a process of its own: here everything is imported already.
    code = (
        "import landscape.hessian.spectrum, landscape.eigen.trace, landscape\n"
        "print(callable(landscape.hessian.spectrum), callable(landscape.eigen.trace))\n"
        "from landscape.hessian import spectrum\n"
        "print(callable(spectrum), 'spectrum' in vars(landscape.hessian))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4


def test_a_face_shows_the_instruments_before_anything_is_loaded() -> None:
    code = (
        "import landscape, sys\n"
        "print(*[name for name in dir(landscape) if not name.startswith('_')])\n"
        "print('torch' in sys.modules, landscape.surface.plane.__name__, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, loaded = done.stdout.splitlines()
    wanted = ("load", "Objective", "Protocol", "build", "smooth", "unsmooth", "hessian", "surface", "feature_maps")
    assert set(wanted) <= set(names.split())
    assert loaded == "False plane True"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'landscape\.hessian' has no attribute 'spektrum'"):
        landscape.hessian.spektrum  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(landscape, "nothing")
    assert inspect.ismodule(landscape.hessian)
    assert isinstance(landscape, lazy.LazyPackage)


def test_a_defect_inside_a_module_is_not_hidden_as_a_missing_name(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "face"  # type: ignore[operator]
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from typing import TYPE_CHECKING\nfrom landscape import lazy\n"
        "if TYPE_CHECKING:\n    from face.inner import thing\nlazy.attach(__name__)\n"
    )
    (folder / "inner.py").write_text("import a_module_that_is_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    face = importlib.import_module("face")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
        face.thing  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
        face.inner  # noqa: B018


def test_a_checkpoint_knows_its_network_its_images_and_its_loss(tmp_path: Path) -> None:
    model = landscape.build("resnet_dnn_18", num_classes=10, width=4)
    recipe = {
        "recipe": "toy",
        "model": {"name": "resnet_dnn_18", "num_classes": 10, "width": 4},
        "data": {"name": "digits"},
        "training": {"weight_decay": 0.01},
        "seed": 0,
    }
    landscape.checkpoint.save(tmp_path / "toy.safetensors", model.state_dict(), recipe=recipe)
    loaded = landscape.load(tmp_path / "toy.safetensors")
    assert repr(loaded.model) == repr(model.eval())
    assert (len(loaded.data()), loaded.data("test").split) == (1438, "test")
    objective = loaded.objective()
    assert (objective.images, objective.weight_decay) == (1438, 0.01)
    assert objective.value().loss > 0
    few = loaded.objective(protocol=landscape.Protocol(images=32, l2="none"), weight_decay=0.5)
    assert repr(few).startswith("Objective(")
    assert "32 images of digits (train), weight_decay=0.5" in repr(few)
    operator = landscape.CurvatureOperator(few)
    assert re.fullmatch(r"CurvatureOperator\(hessian, [\d,]+ x [\d,]+, 32 images, 0 products so far\)", repr(operator))


def test_eigenpairs_print_their_numbers() -> None:
    import torch

    matrix = torch.diag(torch.arange(1.0, 9, dtype=torch.float64))
    pairs = landscape.eigen.eigenpairs(landscape.eigen.dense(matrix), 2)
    lines = repr(pairs).splitlines()
    assert lines[0].startswith("Eigenpairs(2 of 8 dimensions, ")
    assert lines[1].startswith("  8 within ")
    assert lines[-1].startswith("  smallest 1 within ")


def test_one_name_for_all_commands_completes_and_answers_a_misspelt_one(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    pytest.importorskip("argcomplete")
    line = "netlandscape hessian --oper"
    answer = tmp_path / "answer"
    subprocess.run(
        [sys.executable, "-c", "from landscape.cli import script; script()"],
        env={
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
            "_ARGCOMPLETE_IFS": "\n",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "COMP_TYPE": "9",
        },
        check=True,
    )
    assert answer.read_text().split() == ["--operator"]
    assert command.run("landscape.cli", ["hessain"]) == 2
    assert capfd.readouterr().err == "error: no command 'hessain': did you mean hessian?\n"
    with pytest.raises(SystemExit):
        command.run("landscape.cli", ["hessian", "--help"])
    assert "--per-batch" in capfd.readouterr().out
