"""Figures: drawn from kept results alone, saying where they come from."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analyses import kinds, measuring, protocol_sweep, studies
from analyses.kinds import Kind
from analyses.measuring import Scale
from figures import explain, sources
from figures.cli import FIGURES, main
from landscape import command, training
from landscape.errors import LandscapeError
from landscape.training import recipes

TINY = Scale(32, 2, 3, 32, 5, 16, 2, 32, 3, 2, 16, 2)
NAMES = ("hessian_spectra", "loss_surfaces", "feature_uncertainty", "fourier_analysis", "noise_robustness")
ABLATIONS = tuple(study for _, study in FIGURES.values() if study)
STUDIES = (*NAMES, "ensemble_size", "corruption_robustness", "protocol_sweep", "mlp_head", *ABLATIONS)
SHOWN = ("mcdo", "mcdo-smooth", "mcdo-early", "mcdo-smooth-early", "mcdo-relu6", "mcdo-max")
CHOSEN = ("augmentation frozen, masks fixed", "augmentation none, masks averaged")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """All studies on two networks of two channels, trained for one epoch."""
    import importlib

    folder = tmp_path_factory.mktemp("figures")
    base = recipes.RECIPES["digits-plain"]
    tiny = base.replace(name="tiny", epochs=2, model={**base.model, "width": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(recipes.RECIPES, tiny.name, tiny)
        patch.setitem(kinds.BASELINES, "digits", tiny.name)
        patch.setitem(measuring.SCALES, "digits", TINY)
        # Networks and protocols enough to see everything.
        patch.setitem(kinds.KINDS, "mcdo-early", Kind("early", share=0.5))
        patch.setitem(kinds.KINDS, "mcdo-smooth-early", Kind("early smooth", {"name": kinds.SMOOTH}, share=0.5))
        some = {name: protocol_sweep.VARIANTS[name] for name in CHOSEN}
        patch.setattr(protocol_sweep, "VARIANTS", some)
        for name in STUDIES:
            module = importlib.import_module(f"analyses.{name}")
            kept = tuple(kind for kind in module.STUDY.kinds if kind in SHOWN)
            lighter = {"curvature_images": 32, "mini_batches": 2, "surface_images": 32, "points": 5}
            changes = some if name == "protocol_sweep" else module.STUDY.changes
            chosen = dataclasses.replace(module.STUDY, kinds=kept, changes=changes, lighter=lighter)
            patch.setattr(module, "STUDY", chosen)
            assert module.main(["--quiet"]) == 0
    return folder


def test_every_figure_is_drawn_and_says_where_it_comes_from(measured, tmp_path, capsys):
    status = main(["--preset", "digits", "--results", str(measured / "results"), "--out", str(tmp_path), "--json"])
    assert status == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["drawn"]) == set(FIGURES)
    assert not facts["missing"]
    for files in facts["drawn"].values():
        for file in map(Path, files):
            found = explain.provenance(file)
            assert found["figure"] == file.stem.removesuffix("-digits")
            assert all(len(source["checkpoint_sha256"]) == 64 for source in found["results"])
            assert all(source["protocol_hash"] for source in found["results"])
        with Image.open(next(file for file in files if file.endswith(".png"))) as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_a_study_goes_on_from_what_is_kept(measured, monkeypatch):
    monkeypatch.chdir(measured)
    listed = json.loads(studies.listing(Path("results"), "ensemble_size", "digits").read_text())
    assert {entry["kind"] for entry in listed["entries"]} == {"mcdo", "mcdo-smooth"}
    assert all(Path(entry["file"]).is_file() for entry in listed["entries"])


def test_kept_results_are_drawn_where_there_are_no_others(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = ["--preset", "digits", "--results", str(measured / "results")]
    assert command.run("analyses.keep", kept) == 0
    names = {file.name for file in (measured / "results" / "studies").iterdir()}
    assert {file.name for file in (tmp_path / "reference" / "digits" / "results" / "studies").iterdir()} == names
    assert command.run("figures.cli", ["fig2", "--preset", "digits"]) == 0
    assert (tmp_path / "figures" / "out" / "fig2-digits.pdf").is_file()
    assert command.run("analyses.keep", ["--preset", "paper", "--results", str(measured / "results")]) == 2
    assert "no study of paper" in capsys.readouterr().err


def test_drawing_needs_no_torch(measured, tmp_path):
    program = (
        "import sys; from figures.cli import main; "
        "main(['fig2', '--preset', 'digits', '--results', sys.argv[1], '--out', sys.argv[2]]); "
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", program, str(measured / "results"), str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def test_published_numbers_are_those_of_the_paper():
    assert sources.PUBLISHED["mcdo"]["nll"][-1] == 0.850
    assert sources.PUBLISHED["mcdo-smooth"]["accuracy"][1] == 78.3
    # The headline: two smooth passes are about as good as fifty plain ones.
    assert sources.PUBLISHED["mcdo-smooth"]["nll"][1] - sources.PUBLISHED["mcdo"]["nll"][-1] == pytest.approx(0.006)


def test_missing_results_and_strange_pictures_are_told_in_one_line(tmp_path, capsys):
    assert command.run("figures.cli", ["fig2", "--results", str(tmp_path)]) == 2
    assert "run python -m analyses.ensemble_size" in capsys.readouterr().err
    assert command.run("figures.cli", ["fig77"]) == 2
    assert "no figure fig77" in capsys.readouterr().err
    plain = tmp_path / "plain.png"
    Image.new("L", (4, 4)).save(plain)
    with pytest.raises(LandscapeError, match="does not say where it comes from"):
        explain.provenance(plain)


def test_listing_names_recipes_and_trains_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from analyses import ensemble_size

    assert ensemble_size.main(["--preset", "cifar100-small", "--list", "--seeds", "2"]) == 0
    told = capsys.readouterr().out
    assert "cifar100-small-mcdo-smooth@1" in told
    assert not list(tmp_path.iterdir())


def test_every_recipe_of_a_study_exists():
    for preset in kinds.PRESETS:
        made = {kind: kinds.recipe(kind, preset) for kind in kinds.KINDS}
        assert len({recipe.name for recipe in made.values()}) == len(made)
        assert made["mcdo"].name == kinds.BASELINES[preset]
    assert kinds.recipe("mcdo-smooth", "digits") is training.recipe("digits-smooth")
    assert kinds.recipe("dnn-smooth", "paper").name == "cifar100-paper-resnet_dnn_smoothing_18"
    assert kinds.recipe("mcdo-smooth-early", "cifar100-small").name == "cifar100-small-mcdo-smooth-after2"
