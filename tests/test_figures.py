"""Figures: drawn from kept results alone, saying where they come from."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray
from PIL import Image
from scipy.stats import gmean

from analyses import cli, kinds, measuring, protocol_sweep, stage, studies
from analyses.catalogue import STUDIES
from analyses.kinds import NetworkKind
from analyses.measuring import SampleSizes
from figures import explain, fig2, sources, training_curvature
from figures.cli import FIGURES, main
from landscape import checkpoint, command, plotting, training
from landscape.errors import LandscapeError
from landscape.store.files import write_json
from landscape.training import recipes

TINY = SampleSizes(32, 2, 3, 32, 5, 16, 2, 32, 3, 2, 16, 2)
SHOWN = ("mcdo", "mcdo-smooth", "mcdo-early", "mcdo-smooth-early", "mcdo-relu6", "mcdo-max")
CHOSEN = ("augmentation frozen, masks fixed", "augmentation none, masks averaged")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """All studies on two networks of two channels, trained for one epoch."""
    folder = tmp_path_factory.mktemp("figures")
    base = recipes.RECIPES["digits-plain"]
    tiny = base.replace(name="tiny", epochs=2, model={**base.model, "width": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(recipes.RECIPES, tiny.name, tiny)
        patch.setitem(kinds.BASELINES, "digits", tiny.name)
        patch.setitem(measuring.SAMPLE_SIZES, "digits", TINY)
        # Networks and protocols enough to see everything.
        patch.setitem(kinds.KINDS, "mcdo-early", NetworkKind("early", fraction=0.5))
        patch.setitem(
            kinds.KINDS, "mcdo-smooth-early", NetworkKind("early smooth", {"name": kinds.SMOOTH}, fraction=0.5)
        )
        for kind in ("vit", "vit-smooth"):
            whole = kinds.KINDS[kind]
            patch.setitem(kinds.KINDS, kind, dataclasses.replace(whole, model={**whole.model, "width": 4}))
        some = {name: protocol_sweep.VARIANTS[name] for name in CHOSEN}
        patch.setattr(protocol_sweep, "VARIANTS", some)
        for name, study in STUDIES.items():
            chosen = dataclasses.replace(
                study,
                kinds=tuple(kind for kind in study.kinds if kind in SHOWN) or study.kinds,
                lighter={"curvature_images": 32, "mini_batches": 2, "surface_images": 32, "points": 5},
                changes=some if name == "protocol_sweep" else study.changes,
            )
            patch.setitem(STUDIES, name, chosen)
            assert cli.main([name, "--quiet"]) == 0
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


def test_a_study_that_ran_before_measures_nothing(measured, monkeypatch):
    monkeypatch.chdir(measured)
    base = recipes.RECIPES["digits-plain"]
    monkeypatch.setitem(recipes.RECIPES, "tiny", base.replace(name="tiny", epochs=2, model={**base.model, "width": 2}))
    monkeypatch.setitem(kinds.BASELINES, "digits", "tiny")
    monkeypatch.setitem(measuring.SAMPLE_SIZES, "digits", TINY)
    study = STUDIES["ensemble_size"]
    monkeypatch.setitem(STUDIES, study.name, dataclasses.replace(study, kinds=("mcdo", "mcdo-smooth")))
    listing = studies.listing(Path("results"), study.name, "digits")
    # A later study may have trained a network again, for its series: another file, with other seconds in it.
    assert cli.main([study.name, "--quiet"]) == 0
    before = json.loads(listing.read_text())

    def measured_again(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("landscape.predictions.measure", measured_again)
    assert cli.main([study.name, "--quiet"]) == 0
    assert json.loads(listing.read_text()) == before
    with pytest.raises(AssertionError, match="measured again"):
        cli.main([study.name, "--quiet", "--force"])


def test_kept_results_are_drawn_where_there_are_no_others(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = ["--preset", "digits", "--results", str(measured / "results")]
    assert command.run("analyses.keep", kept) == 0
    names = {file.name for file in (measured / "results" / "studies").iterdir()}
    assert {file.name for file in (tmp_path / "reference" / "digits" / "results" / "studies").iterdir()} == names
    assert command.run("figures.cli", ["fig2", "--preset", "digits"]) == 0
    assert (tmp_path / "figures" / "out" / "fig2-digits.pdf").is_file()
    # The sweep is drawn from its table; of its many results only the provenance is kept.
    results = {file.name for file in (tmp_path / "reference" / "digits" / "results" / "surface").iterdir()}
    swept = json.loads((measured / "results" / "studies" / "protocol_sweep-digits.json").read_text())
    alone = {Path(each["file"]).name for each in swept["entries"]}
    assert alone
    assert results.isdisjoint(alone)
    assert command.run("figures.cli", ["sweep", "--preset", "digits"]) == 0
    drawn = explain.provenance(tmp_path / "figures" / "out" / "sweep-digits.pdf")
    assert len(drawn["results"]) == len(swept["entries"])
    assert all(len(source["checkpoint_sha256"]) == 64 for source in drawn["results"])
    assert command.run("analyses.keep", ["--preset", "paper", "--results", str(measured / "results")]) == 2
    assert "no study of paper" in capsys.readouterr().err


def test_every_figure_says_on_which_networks_it_was_measured(measured):
    drawing = sources.read("hessian_spectra", "digits", measured / "results")
    about = {each["network"]: each for each in drawing.facts["kinds"]}
    last = checkpoint.load(measured / "checkpoints" / "tiny-seed0.safetensors").history[-1]
    assert about["MC dropout"]["epochs"] == 2
    assert about["MC dropout"]["test accuracy, %"] == pytest.approx(100 * last["test_accuracy"])
    assert about["MC dropout"]["training NLL, nats"] == pytest.approx(last["train_cross_entropy"])
    said = stage.caption("digits", drawing.facts["kinds"])
    assert said.startswith("digits, width 2, 2 epochs; MC dropout (n = 1): training NLL ")
    made = plotting.figure(plotting.ONE_COLUMN, 2)
    plotting.head(made, said)
    assert made.get_suptitle().replace("\n", " ") == said
    ranges = stage.caption("digits", [*drawing.facts["kinds"], {**about["MC dropout"], "test accuracy, %": 12.5}])
    assert f"networks of {len(about) + 1} kinds" in ranges
    assert "test accuracy 12.5 to" in ranges or "to 12.5 %" in ranges


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


def test_figure_2_draws_the_published_numbers_in_grey(measured):
    drawing = sources.read("ensemble_size", "digits", measured / "results")
    for axes, name in zip(fig2.draw(drawing).axes, fig2.PANELS, strict=True):
        grey = [line for line in axes.lines if line.get_color() == plotting.PUBLISHED]
        plain, smooth = (list(line.get_ydata()) for line in grey)
        assert plain == list(sources.PUBLISHED["mcdo"][name])
        assert smooth == list(sources.PUBLISHED["mcdo-smooth"][name])
        # The headline: two smooth passes are about as good as fifty plain ones.
        if name == "nll":
            assert abs(smooth[1] - plain[-1]) < 0.01 < plain[1] - smooth[1]


def series(kind, seed, times, factor):
    times = np.array(times)
    values = factor * np.exp(0.1 * seed) * times**0.5
    dataset = xarray.Dataset(
        {
            "eigenvalue": (("time", "rank"), values[:, None]),
            "residual": (("time", "rank"), 0.1 * values[:, None]),
            "trace": ("time", 10 * values),
            "trace_stderr": ("time", values),
            "loss": ("time", 1 / values),
        },
        {"time": times},
    )
    return sources.Entry(kind, kinds.KINDS[kind].label, seed, "series", "default", dataset)


@pytest.mark.parametrize("kind", ["mcdo", "dnn", "vit"])
@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_curvature_along_training_takes_however_many_trainings_there_are(seeds, kind):
    times = (1, 4, 11)
    plain_label, smooth_label = (kinds.KINDS[name].label for name in (kind, f"{kind}-smooth"))
    entries = [
        series(name, seed, times, of) for name, of in ((kind, 5), (f"{kind}-smooth", 1)) for seed in range(seeds)
    ]
    # One training has not come as far as the others.
    entries[-1] = series(f"{kind}-smooth", seeds - 1, times[:2], 1)
    made = training_curvature.draw(sources.Drawing(entries, "digits", None))
    lines = {line.get_label(): line for line in made.axes[0].lines}
    plain = lines[plain_label]
    assert plain.get_xdata().tolist() == list(times)
    # A mean as it is drawn, in logarithms.
    expected = [gmean([5 * np.exp(0.1 * seed) * time**0.5 for seed in range(seeds)]) for time in times]
    assert plain.get_ydata() == pytest.approx(expected)
    smooth = lines[smooth_label]
    reached = [np.exp(0.1 * seed) * 11**0.5 for seed in range(seeds - 1)]
    assert len(smooth.get_xdata()) == (2 if seeds == 1 else 3)
    if reached:
        assert smooth.get_ydata()[-1] == pytest.approx(gmean(reached))
    assert len(made.axes[0].collections) == (0 if seeds == 2 else 2)
    assert f"{plain_label}: n = {seeds}" in made.legends[0].get_title().get_text()
    # Smooth is a fifth of plain in every pair, at every time that both have come to.
    for name in ("eigenvalue", "trace"):
        found = training_curvature.ratios(entries, name)
        assert [len(found.get(time, [])) for time in times] == [seeds, seeds, seeds - 1]
        assert np.exp(np.concatenate([*found.values()])) == pytest.approx(0.2)


def test_missing_results_and_strange_pictures_are_told_in_one_line(tmp_path, capsys):
    assert command.run("figures.cli", ["fig2", "--results", str(tmp_path)]) == 2
    assert "run python -m analyses ensemble_size" in capsys.readouterr().err
    assert command.run("figures.cli", ["fig77"]) == 2
    assert "no figure fig77" in capsys.readouterr().err
    plain = tmp_path / "plain.png"
    Image.new("L", (4, 4)).save(plain)
    with pytest.raises(LandscapeError, match="does not say where it comes from"):
        explain.provenance(plain)


def test_a_study_that_was_not_finished_is_told_in_one_line(tmp_path, capsys):
    entry = {"kind": "mcdo", "label": "a", "seed": 0, "instrument": "curvature", "variant": "b", "provenance": {}}
    write_json(studies.listing(tmp_path, "protocol_sweep", "digits"), {"entries": [entry]})
    asked = ["--results", str(tmp_path), "--preset", "digits", "--out", str(tmp_path / "out")]
    for names in ([], ["sweep"]):
        assert command.run("figures.cli", [*names, *asked]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_listing_names_recipes_and_trains_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ensemble_size", "--preset", "cifar100-small", "--list", "--seeds", "2"]) == 0
    told = capsys.readouterr().out
    assert "cifar100-small-mcdo-smooth@1" in told
    assert not list(tmp_path.iterdir())


def test_studies_are_listed_and_a_misspelt_one_is_answered(capsys):
    assert cli.main([]) == 0
    listed = capsys.readouterr().out
    assert all(study.question in listed for study in STUDIES.values())
    assert command.run("analyses.cli", ["ensemblesize"]) == 2
    assert "did you mean ensemble_size?" in capsys.readouterr().err


def test_every_recipe_of_a_study_exists():
    for preset in kinds.PRESETS:
        made = {kind: kinds.recipe(kind, preset) for kind in kinds.KINDS}
        assert len({recipe.name for recipe in made.values()}) == len(made)
        assert made["mcdo"].name == kinds.BASELINES[preset]
    assert kinds.recipe("mcdo-smooth", "digits") is training.recipe("digits-smooth")
    assert kinds.recipe("dnn-smooth", "paper").name == "cifar100-paper-resnet_dnn_smoothing_18"
    assert kinds.recipe("mcdo-smooth-early", "cifar100-small").name == "cifar100-small-mcdo-smooth-after2"


def test_pictures_have_the_width_of_a_column_and_no_depth_beyond_one(measured):
    import importlib

    for name, (module, study) in FIGURES.items():
        drawn = importlib.import_module(f"figures.{module}")
        drawing = sources.read(study or drawn.STUDY, "digits", measured / "results")
        with plotting.using("screen"):
            made = drawn.draw(drawing)
        assert made.get_figwidth() == pytest.approx(1.5 * plotting.TWO_COLUMNS), name
        for axes in made.axes:
            if axes.get_xlabel() == "normalised depth":
                assert max(float(np.max(line.get_xdata())) for line in axes.lines if len(line.get_xdata())) <= 1
