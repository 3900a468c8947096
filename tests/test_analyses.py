"""Studies and the audit: decisions, resumption, reports."""

import dataclasses
import json
import math
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from scipy import stats

from analyses import claims as claims_page, kinds, measuring, protocol_sweep
from analyses.audit import claims, networks, panel, report
from analyses.audit.added_noise import AddedNoise
from analyses.audit.cli import main
from analyses.audit.networks import Network, Preset
from analyses.audit.verdict import LEVEL, Effect, Reading, decide, effect, holm, power, seeds_needed, weakest
from analyses.measuring import SampleSizes
from landscape import command, training
from landscape.compute.masks import Masks
from landscape.errors import LandscapeError
from landscape.predictions.efficiency import crossing

TINY = SampleSizes(32, 2, 3, 32, 5, 16, 2, 48, 4, 2, 16, 2)


def readings(values, replicates=None, images=400):
    if replicates is None:
        return [claims.exactly(value) for value in values]
    return [Reading(value, drawn, images) for value, drawn in zip(values, replicates, strict=True)]


def test_holm_is_the_textbook_example_and_keeps_unknown_apart():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.01, math.nan, 0.02])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])


def test_effect_is_the_paired_t_interval():
    from scipy import stats

    one, two = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.2, 4.9])
    made = effect(readings(one), readings(two))
    expected = stats.ttest_rel(two, one)
    low, high = expected.confidence_interval(0.95)
    assert (made.low, made.high, made.p) == pytest.approx((low, high, expected.pvalue))


def crossed(seeds, *, of_seed, shared, own, images=400, size=0.0, seed=0):
    """Readings of differences between pairs: standard deviations of a seed's, an image's and a pair's own effects."""
    source = np.random.default_rng(seed)
    of_image = (
        size
        + of_seed * source.normal(size=(seeds, 1))
        + np.sqrt(images) * (shared * source.normal(size=images) + own * source.normal(size=(seeds, images)))
    )
    weights = source.multinomial(images, np.full(images, 1 / images), size=2000) / images
    return [Reading(row.mean(), weights @ row, images) for row in of_image]


def zeros(count):
    return readings([0.0] * count, np.zeros((count, 2000)))


def test_the_variance_that_images_give_to_all_seeds_alike_is_told_from_that_of_each_seed():
    shared = effect(zeros(12), crossed(12, of_seed=0.0, shared=1.0, own=0.0))
    assert shared.shared == pytest.approx(1.0, rel=0.1)
    assert shared.stderr == pytest.approx(1.0, rel=0.1)
    degrees = 1 / (1 / 2000 + 1 / 399)
    assert shared.degrees == pytest.approx(degrees, rel=0.05)
    own = effect(zeros(12), crossed(12, of_seed=0.0, shared=0.0, own=1.0))
    assert own.shared < 0.15
    assert own.stderr == pytest.approx(own.of_seed.std(ddof=1) / math.sqrt(12), rel=0.1)
    assert 11 <= own.degrees < 12
    both = effect(zeros(12), crossed(12, of_seed=2.0, shared=1.0, own=0.0))
    assert both.stderr**2 == pytest.approx(both.spread**2 / 12 + both.shared**2)
    assert 11 < both.degrees < degrees


def test_one_pair_has_images_alone():
    single = effect(zeros(1), crossed(1, of_seed=0.0, shared=1.0, own=1.0))
    assert single.stderr == pytest.approx(math.sqrt(2), rel=0.1)
    assert math.isnan(effect(readings([0.0]), readings([1.0])).p)


def test_differences_that_agree_to_rounding_decide_nothing():
    one = readings([2.0, 3.0, 5.0, 7.0])
    other = readings([each.value - 4.3219280948873626 for each in one])
    assert math.isnan(effect(one, other).p)
    # Nor by chance, where the images tell how much they must differ at least.
    drawn = crossed(4, of_seed=0.0, shared=0.0, own=1.0)
    equal = [Reading(0.5, each.replicates, each.units) for each in drawn]
    made = effect(zeros(4), equal)
    assert made.spread == pytest.approx(math.sqrt(0.352 / 3), rel=0.1)
    assert made.p > 0.05


def test_the_rule_errs_in_5_percent_and_foretells_its_power():
    # The long run is benchmarks/type_one_error.py: 3.4 to 5.5 %.
    from benchmarks.type_one_error import Differences, measured

    for share, alike in ((0.5, 1.0), (0.9, 0.0)):
        source = Differences(share, alike, seed=1)
        wrong = np.mean([measured(source.draw(4)).p < LEVEL for _ in range(1500)])
        assert 0.025 < wrong < 0.07
    # Eight mini-batches: a variance over so few has 7 degrees of freedom, not those of 200 images.
    few = Differences(1.0, 1.0, seed=3, images=8)
    assert np.mean([measured(few.draw(4)).p < LEVEL for _ in range(1500)]) < 0.07
    source = Differences(0.0, 0.0, seed=2)
    assert seeds_needed(2.0) == 5
    found = np.mean([measured(source.draw(5, 2.0)).p < LEVEL for _ in range(400)])
    assert found == pytest.approx(power(2.0, 5), abs=0.06)


def test_a_claim_about_all_sizes_is_as_sure_as_its_weakest():
    strong = effect(readings([0.0] * 4), readings([1.0, 1.1, 0.9, 1.0]))
    weak = effect(readings([0.0] * 4), readings([1.0, 2.1, 0.3, 0.9]))
    assert weakest([strong, weak], ["1", "20"]).p == weak.p
    assert weakest([strong, weak], ["1", "20"]).at == "20"
    other = effect(readings([0.0] * 4), readings([-1.0, -1.1, -0.9, -1.0]))
    assert weakest([strong, other], ["1", "20"]).p == 1.0


def test_the_same_networks_are_undecided_and_nonfinite_seeds_are_left_out():
    same = effect(readings([1.0, 2.0]), readings([1.0, 2.0]))
    assert (same.estimate, same.p) == (0.0, 1.0)
    assert decide(same.estimate, same.p, claims.LOWER) == "undecided"
    assert len(effect(readings([1.0, 2.0, math.nan]), readings([1.0, 3.0, 1.0])).of_seed) == 2


def test_verdicts_follow_the_direction():
    assert decide(-1.0, 0.01, claims.LOWER) == "supported"
    assert decide(-1.0, 0.01, claims.HIGHER) == "against"
    assert decide(-1.0, 0.06, claims.LOWER) == "undecided"


def test_useless_variants_are_rarely_decided():
    # Familywise: at most 5 % of audits of 14 null claims with 3 seeds may decide anything; 400 audits bound it well.
    source = np.random.default_rng(1)
    decided = 0
    for _ in range(400):
        draws = source.normal(size=(14, 2, 3))
        p = holm([effect(readings(one), readings(two)).p for one, two in draws])
        decided += any(value < 0.05 for value in p)
    assert decided / 400 < 0.09


def test_added_noise_has_its_strength_and_follows_the_masks():
    layer, features = AddedNoise(0.7), torch.zeros(16, 4, 8, 8)
    with Masks.addressed(seed=0) as masks:
        masks.address(first_example=0, sample=0)
        noisy = layer(features)
    assert noisy.std().item() == pytest.approx(0.7, rel=0.05)
    assert abs(noisy.mean().item()) < 0.05
    with Masks.off():
        assert torch.equal(layer(features), features)


def test_recipes_name_the_layer_and_change_with_its_source(tmp_path):
    preset = Preset("digits-plain", epochs=1, width=2)
    plain, blurred = networks.recipe_of(preset, None), networks.recipe_of(preset, "blur(kernel=1-2-1)")
    assert plain.name != blurred.name
    assert "smoothing" not in plain.model
    file = tmp_path / "mine.py"
    text = "from torch import nn\n\n\nclass Mine(nn.Identity):\n    pass\n"
    file.write_text(text)
    first = networks.recipe_of(preset, f"{file}:Mine").name
    file.write_text(text + "\n")
    assert networks.recipe_of(preset, f"{file}:Mine").name != first
    assert networks.recipe_of(Preset("digits-plain"), None).name == "digits-plain"
    with pytest.raises(LandscapeError, match="unknown smoothing"):
        networks.recipe_of(preset, "blurr")


def test_checkpoints_are_paired_in_order():
    with pytest.raises(LandscapeError, match="2 of the baseline, 1 of the variant"):
        networks.given({"baseline": [Path("a"), Path("b")], "variant": [Path("c")], "placebo": []})


def test_a_checkpoint_is_no_second_training_of_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        Path(name).write_text("same" if name in "ad" else name)
    for twice in (["a", "a"], ["a", "./a"], ["a", "d"]):
        with pytest.raises(LandscapeError, match="are one training of the baseline"):
            networks.given({"baseline": [*map(Path, twice)], "variant": [Path("b"), Path("c")], "placebo": []})
    assert len(networks.given({"baseline": [Path("a"), Path("b")], "variant": [Path("c"), Path("a")]})) == 4


def test_presets_of_the_same_data_do_not_write_over_each_others_networks():
    names = [networks.recipe_of(preset, "blur").name for preset in networks.PRESETS.values()]
    assert len(set(names)) == len(names)


def test_a_share_of_outliers_above_a_median_that_is_not_positive_is_unknown():
    def results(largest):
        return {"mini_batches": xarray.Dataset({"eigenvalue": (("batch", "rank"), np.array(largest)[:, None])})}

    assert claims.outlier_share(results([1.0, 1.0, 1.0, 3.0]), {}).value == 25
    assert math.isnan(claims.outlier_share(results([-2.0, -1.0, -1.5, 3.0]), {}).value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    preset = Preset("digits-plain", epochs=1, width=2)
    made = networks.trained(preset, "tanh-blur", [0], cache=folder, root=None, device="cpu", quiet=True, placebo=False)
    return folder, made


def test_an_audit_goes_on_where_it_was_killed(trained, monkeypatch):
    folder, compared = trained
    monkeypatch.chdir(folder)
    chosen = [claim for claim in claims.CLAIMS if claim.needs[0] in ("predictions", "feature_maps")]
    measured, real = [], measuring.measured

    def counted(asked, *, force=False):
        if len(measured) == 2:
            raise KeyboardInterrupt
        before = set(Path("results").rglob("*.nc"))
        answer = real(asked, force=force)
        if answer[1] not in before:
            measured.append(answer[1])
        return answer

    monkeypatch.setattr(measuring, "measured", counted)
    with pytest.raises(KeyboardInterrupt):
        panel.run(compared, TINY, claims=chosen)
    measured.append(Path())
    made = panel.run(compared, TINY, claims=chosen)
    # Two before the interruption, one a marker, two after: four results in all, none twice.
    assert len(measured) == 5
    assert len(set(measured)) == 5
    assert [row.claim.name for row in made.rows] == [claim.name for claim in chosen]
    again = panel.run(compared, TINY, claims=chosen)
    assert [row.effect.estimate for row in again.rows] == [row.effect.estimate for row in made.rows]


def test_networks_of_earlier_looks_are_not_measured_again(trained, monkeypatch):
    folder, compared = trained
    monkeypatch.chdir(folder)
    chosen = [claim for claim in claims.CLAIMS if claim.needs[0] == "feature_maps"]
    forced, real = [], measuring.measured

    def recorded(asked, *, force=False):
        answer = real(asked, force=force)
        forced.append((asked.arguments.checkpoints, force))
        return answer

    monkeypatch.setattr(measuring, "measured", recorded)
    panel.run(compared, TINY, claims=chosen, force={compared[1].path})
    assert forced == [([str(compared[0].path)], False), ([str(compared[1].path)], True)]


def test_every_claim_reads_what_its_instruments_give(trained, monkeypatch):
    folder, compared = trained
    monkeypatch.chdir(folder)
    made = panel.run(compared, TINY)
    assert len(made.rows) == len(claims.CLAIMS)
    for row in made.rows:
        assert math.isfinite(row.baseline), row.claim
        assert math.isfinite(row.variant), row.claim
    assert made.costs["baseline"]["parameters"] == made.costs["variant"]["parameters"]
    text = report.page(made)
    assert "One pair of networks" in text
    assert all(row.claim.statement in text for row in made.rows)


def audit_of(verdicts):
    rows = []
    for place, verdict in enumerate(verdicts):
        found = Effect(np.array([-0.1, -0.3]), -0.2, 0.05, 1.0, -0.3, -0.1, 0.01)
        rows.append(panel.Row(claims.CLAIMS[place], 1.0, 0.8, found, 0.02, verdict, found, "undecided"))
    attributes = {"protocol": json.dumps(measuring.TRAINED.to_dict()), "protocol_hash": measuring.TRAINED.hash}
    curve = xarray.Dataset({"nll": ("size", [1.0, 0.9])}, coords={"size": [1, 2]}, attrs=attributes)
    compared = [Network(role, f"<{role}>", seed, Path(f"{role}-{seed}")) for role in networks.ROLES for seed in (0, 1)]
    costs = {role: dict.fromkeys(report.COSTS, 1.0) for role in networks.ROLES}
    return panel.Audit(compared, [{"curves": curve}] * len(compared), rows, costs)


def test_the_report_is_one_file_that_needs_nothing_else(tmp_path):
    page, facts = report.write(
        audit_of(["supported", "against", "undecided"]), tmp_path, command_line="python -m x <y>"
    )
    text = page.read_text()
    assert not re.search(r"<(script|link|iframe|img)\b", text)
    # The only addresses are names of XML dialects and licences inside the pictures, which nothing fetches.
    assert not re.search(r'(src|href)="(?!#)', text.replace("xlink:", ""))
    assert "&lt;variant&gt;" in text
    assert "<variant>" not in text
    identities = re.findall(r' id="([^"]+)"', text)
    assert len(identities) == len(set(identities))
    # A logarithm is shown as the value itself, an effect on it as a factor; the file keeps the logarithm.
    assert ">2.72<" in text
    assert "x 0.819 [0.741, 0.905]" in text
    assert text.count('role="img" aria-label=') == 2
    assert "<summary>The numbers</summary>" in text
    # C2's second measure is a share; its interval excludes zero and its verdict is open: the page says why.
    assert "corrected for 3 claims, chance is not ruled out" in text
    loaded = json.loads(facts.read_text())
    assert loaded["claims"][0]["effect"]["estimate"] == -0.2
    assert [claim["verdict"] for claim in loaded["claims"]] == ["supported", "against", "undecided"]


@pytest.mark.parametrize("verdict", ["no verdict", "undecided", "supported"])
def test_a_placebo_of_too_few_pairs_is_not_called_significant(verdict):
    made = audit_of(["undecided", "undecided"])
    rows = [dataclasses.replace(row, placebo_verdict=verdict) for row in made.rows]
    line = report.page(dataclasses.replace(made, rows=rows)).partition("placebo (<placebo>)")[2].splitlines()[0]
    assert f"2 {verdict}" in line
    assert "significant" not in line


@pytest.mark.parametrize(("kinds", "carries"), [("block smoothing block", True), ("block block smoothing", False)])
def test_a_report_says_where_maps_carry_on_what_a_smoothing_layer_did(kinds, carries):
    made = audit_of(["supported"])
    maps = xarray.Dataset({}, {"kind": ("point", kinds.split()), "stage": ("point", [0, 0, 0])})
    for results in made.results:
        results["feature_maps"] = maps
    assert any("free of arithmetic" in line for line in report.cautions(made)) is carries


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser installed")
def test_the_report_fits_a_phone(tmp_path):
    page, _ = report.write(audit_of(["supported", "against", "undecided"]), tmp_path, command_line="python -m x")
    picture = tmp_path / "phone.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=600,900", f"--screenshot={picture}"]
    subprocess.run(["chromium", *flags, page.as_uri()], check=True, capture_output=True, timeout=60)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (600, 900)
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("L"))
    # Nothing runs over the right edge, and something is there at all.
    assert (pixels[:, -6:] > 250).all()
    assert (pixels < 128).any()


def test_bad_usage_is_one_line(capsys):
    assert command.run("analyses.audit.cli", []) == 2
    assert capsys.readouterr().err.startswith("error: nothing to audit")
    assert command.run("analyses.audit.cli", ["--variant", "blurr"]) == 2
    assert "unknown smoothing" in capsys.readouterr().err
    both = ["--variant", "blur", "--baseline-checkpoints", "x"]
    assert command.run("analyses.audit.cli", both) == 2


def test_the_plan_starts_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["--variant", "identity", "--plan"]) == 0
    told = capsys.readouterr().out
    assert "12 trainings" in told
    assert "2: 5 (by the look at 8)" in told
    assert main(["--variant", "identity", "--plan", "--until-decided"]) == 0
    assert "12 to 36 trainings" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_claims_are_measured_where_networks_are_trained_and_written_from_reports(
    trained, tmp_path, capsys, monkeypatch
):
    folder, (baseline, variant) = trained
    monkeypatch.chdir(folder)
    monkeypatch.setitem(measuring.SAMPLE_SIZES, "digits", TINY)
    some = (claims_page.Comparison("smooth", "mcdo", "mcdo-smooth", ("C4", "C8")), *claims_page.COMPARISONS[1:])
    monkeypatch.setattr(claims_page, "COMPARISONS", some)
    paths = {"digits-plain": baseline.path, "digits-smooth": variant.path}
    monkeypatch.setattr(training, "find", lambda recipe, *, seed, cache: None if seed else paths.get(recipe.name))
    out, reports = tmp_path / "CLAIMS.md", tmp_path / "reports"
    asked = ["--preset", "digits", "--reports", str(reports), "--out", str(out)]
    assert command.run("analyses.claims", asked) == 2
    assert "no reports in" in capsys.readouterr().err
    assert command.run("analyses.claims", [*asked, "--measure", "--quiet"]) == 0
    assert [file.name for file in reports.iterdir()] == ["smooth.json"]
    text = out.read_text()
    assert "| C4 lower model uncertainty before the smoothing layers |" in text
    assert "n = 1. Command: `python -m analyses.claims --measure --preset digits --only smooth --seeds 1`" in text
    assert "| C13: deterministic nets gain too | not measured |" in text
    out.unlink()
    asked_for_more = [*asked, "--plot", str(tmp_path / "claims.svg"), "--only", "relu6"]
    assert command.run("analyses.claims", asked_for_more) == 2
    assert "no stage has verdicts of relu6" in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.setattr(claims_page, "measure", None)
    assert command.run("analyses.claims", asked) == 0
    assert out.read_text() == text
    (reports / "smooth.json").write_text("{}")
    assert command.run("analyses.claims", asked) == 2
    assert "JSON object with a sha256" in capsys.readouterr().err


def test_the_page_of_claims_is_what_the_kept_reports_say_stage_by_stage(tmp_path):
    out, picture = tmp_path / "CLAIMS.md", tmp_path / "claims.svg"
    assert command.run("analyses.claims", ["--out", str(out), "--plot", str(picture)]) == 0
    assert out.read_text() == Path("CLAIMS.md").read_text()
    drawn = picture.read_text()
    assert drawn.count("C1 lower top Hessian") == 1  # five columns: claims are on two lines
    assert "arithmetic" not in drawn
    assert command.run("analyses.claims", ["--measure", "--plot", str(tmp_path / "claims.gif")]) == 2
    kept = claims_page.reports_in(Path("reference/cifar100-small/claims"))
    lines = claims_page.page({"converged": kept, "digits": {"smooth": kept["smooth"]}}).splitlines()
    (c6,) = (line for line in lines if line.startswith("| C6: "))
    first, second = c6.removesuffix(" |").split(" | ")[1:]
    assert first == second == "**against**, n = 4; 0 of 1 measures move as claimed"
    (c13,) = (line for line in lines if line.startswith("| C13: "))
    assert c13.endswith(" | not measured |")
    assert [line for line in lines if line.startswith("## ")] == ["## Stage: converged", "## Stage: digits"]


def test_a_checkpoint_that_is_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "net.safetensors"
    for seed, kept in ((0, "reference/converged/converged-vit-seed0"), (1, "reference/converged/converged-vit-seed1")):
        shutil.copyfile(f"{kept}.safetensors", path)
        os.utime(path, ns=(seed, seed))
        assert measuring.Origin().checkpoint(path).recipe["seed"] == seed
    assert measuring.Origin().checkpoint(path) is measuring.Origin().checkpoint(path)


def test_every_preset_has_networks_and_a_scale():
    assert set(kinds.PRESETS) == set(kinds.BASELINES) == set(networks.PRESETS) == set(measuring.SAMPLE_SIZES)
    assert kinds.recipe("mcdo-relu6", "converged").name == "converged-mcdo-relu6"


def row_of(estimate, verdict, statement="lower NLL"):
    return {"statement": statement, "effect": {"estimate": estimate}, "verdict": verdict, "claimed": "lower"}


def test_an_explanation_is_held_against_what_smoothing_does_here():
    smoothing = [row_of(-1.0, "supported"), row_of(0.3, "undecided", "lower ECE")]
    assert claims_page.as_smoothing(row_of(-0.2, "supported"), smoothing) == "the same way"
    assert claims_page.as_smoothing(row_of(0.2, "undecided"), smoothing) == "the other way, undecided"
    assert claims_page.as_smoothing(row_of(0.2, "against", "lower ECE"), smoothing) == "smoothing itself undecided"


def test_looks_decide_at_one_percent_and_the_first_decision_stands():
    claim = claims.Claim("C8", "lower NLL", "NLL", claims.LOWER, ("predictions",), lambda own, other: own["x"])
    values = [-1.0, -1.02, -0.98, -1.01, 3.0, 4.0]
    compared = [Network(role, role, seed, Path()) for seed in range(6) for role in ("baseline", "variant")]
    results = [{"x": claims.exactly(part)} for value in values for part in (0.0, value)]
    (row,) = panel.decided(compared, results, [claim], sequential=True)
    assert (row.verdict, row.decided_at) == ("supported", 4)
    (fixed,) = panel.decided(compared, results, [claim])
    assert (fixed.verdict, fixed.decided_at) == ("undecided", None)
    # The effect is that of all pairs, p that of the look that decided.
    assert (row.effect.estimate, row.effect.p) == (fixed.effect.estimate, fixed.effect.p)
    assert row.adjusted < 0.01 < fixed.adjusted
    # p of 0.02 is enough for one look at 5 %, not for one of five.
    weak = [-1.0, -2.0, -3.1, -2.0]
    results = [{"x": claims.exactly(part)} for value in weak for part in (0.0, value)]
    assert panel.decided(compared[:8], results, [claim])[0].verdict == "supported"
    assert panel.decided(compared[:8], results, [claim], sequential=True)[0].verdict == "undecided"
    assert panel.decided(compared[:6], results[:6], [claim])[0].verdict == "no verdict"


def test_a_claim_with_few_finite_pairs_has_no_verdict_and_takes_no_part_in_the_correction():
    lower = claims.Claim("C8", "lower NLL", "NLL", claims.LOWER, (), lambda own, other: own["x"])
    seldom = claims.Claim("C3", "flatter", "rise", claims.LOWER, (), lambda own, other: own["y"])
    compared = [Network(role, role, seed, Path()) for seed in range(5) for role in ("baseline", "variant")]
    values = [-1.0, -2.0, -3.1, -2.0, -2.2]
    results = [{"x": claims.exactly(part), "y": claims.exactly(part)} for value in values for part in (0.0, value)]
    for one in (3, 7):
        results[one]["y"] = claims.exactly(math.nan)
    sure, unsure = panel.decided(compared, results, [lower, seldom])
    assert (sure.verdict, sure.adjusted) == ("supported", sure.effect.p)
    assert unsure.verdict == "no verdict"
    assert math.isnan(unsure.adjusted)
    assert (unsure.baseline, unsure.variant) == (0.0, pytest.approx(np.mean([values[0], values[2], values[4]])))


def law(a, b):
    """Results of a network whose NLL is a + b / passes."""
    sizes = np.array([1, 2, 4, 10, 50])
    nll = a + b / sizes
    curve = {"nll": ("size", nll), "nll_replicate": (("size", "replicate"), np.repeat(nll[:, None], 2, 1))}
    return {"curves": xarray.Dataset(curve, {"size": sizes}, {"images": 400})}


def test_passes_needed_move_with_the_lead_and_not_with_its_sign_alone():
    def lead(one, other):
        return claims.passes_needed(other, one).value - claims.passes_needed(one, other).value

    # Of networks of one b, the lead in NLL by b.
    for by in (0.001, 0.01, 0.05, 0.2):
        assert lead(law(0.5, 0.1), law(0.5 - by, 0.1)) == pytest.approx(by / 0.1)
        assert lead(law(0.5 - by, 0.1), law(0.5, 0.1)) == pytest.approx(-by / 0.1)
    # Equals whose leads agree in sign by chance are not called different: log2 of the passes errs in 12 %.
    source = np.random.default_rng(1)
    wrong = 0
    for _ in range(600):
        drawn = source.normal(0.5, 0.05, (4, 2)), source.lognormal(np.log(0.1), 0.15, (4, 2))
        leads = [lead(law(a[0], b[0]), law(a[1], b[1])) for a, b in zip(*drawn, strict=True)]
        wrong += effect(readings([0.0] * 4), readings(leads)).p < LEVEL
    assert wrong / 600 < 0.075


def test_arithmetic_is_corrected_apart():
    def reads(own, other):
        return own["x"]

    one = claims.Claim("C4", "a", "", claims.LOWER, (), reads)
    other = claims.Claim("C4", "b", "", claims.LOWER, (), reads, family=claims.ARITHMETIC)
    compared = [Network(role, role, seed, Path()) for seed in range(4) for role in ("baseline", "variant")]
    results = [{"x": claims.exactly(part)} for value in (-1.0, -2.0, -3.1, -2.0) for part in (0.0, value)]
    rows = panel.decided(compared, results, [one, other])
    assert [row.adjusted for row in rows] == [row.effect.p for row in rows]


def test_a_single_pass_that_is_good_enough_is_worth_less_than_one():
    sizes = np.array([1, 2, 4])
    curve = 1 + 0.4 / sizes[:, None]
    assert crossing(sizes, curve, np.array([1.8]))[0] == 1
    assert crossing(sizes, curve, np.array([1.8]), extrapolate=True)[0] == pytest.approx(0.5)
    assert crossing(sizes, curve, np.array([1.2]), extrapolate=True)[0] == pytest.approx(2)


def test_every_claim_of_the_list_has_a_comparison_that_measures_it():
    for name in claims_page.STATEMENTS:
        speak = [each for each in claims_page.COMPARISONS if name == each.stands_for or name in each.claims]
        assert speak
        assert all(claims_page.chosen_claims(each) for each in speak)
    families = {
        each.name: {claim.family for claim in claims_page.chosen_claims(each)} for each in claims_page.COMPARISONS
    }
    assert families["smooth"] == families["deterministic"] == {claims.NETWORK, claims.ARITHMETIC}
    assert families["pre-activation"] == families["gap-head"] == {claims.NETWORK}


def test_a_claims_verdict_says_what_all_its_measures_say():
    rows = [{"verdict": verdict} for verdict in ("supported", "supported")]
    assert claims_page.verdict(rows) == "supported"
    assert claims_page.verdict([*rows, {"verdict": "against"}]) == "2 supported, 1 against"
    assert claims_page.verdict([]) == "not measured"


def test_the_sweep_takes_the_l2_term_off_and_compares_seed_by_seed(monkeypatch):
    plain, smooth = (2.0, 4.0, 3.0), (1.0, 3.0, 2.0)
    numbers = {
        (kind, seed): values[seed] for kind, values in (("mcdo", plain), ("mcdo-smooth", smooth)) for seed in range(3)
    }

    def read(entry, *, l2):
        return {"C1": numbers[entry["kind"], entry["seed"]] + 10 * l2, "loss": 2.0 if entry["kind"] == "mcdo" else 1.0}

    monkeypatch.setattr(protocol_sweep, "_numbers", read)
    variant = next(iter(protocol_sweep.VARIANTS))
    rows = protocol_sweep.compared([{"kind": kind, "seed": seed, "variant": variant} for kind, seed in numbers])
    assert [(row["moment"], row["l2"]) for row in rows] == [("late", "on"), ("late", "off")]
    assert rows[1]["C1"] == pytest.approx([math.log(1 / 2), math.log(3 / 4), math.log(2 / 3)])
    assert rows[0]["C1"] == pytest.approx([math.log(11 / 12), math.log(13 / 14), math.log(12 / 13)])
    assert rows[1]["C1 loss-scaled"] == pytest.approx([math.log(1), math.log(3 / 2), math.log(4 / 3)])
    exact = stats.ttest_1samp(rows[1]["C1"], 0).confidence_interval()
    low, high = np.exp(exact)
    assert f"0.63 [{low:.2f}, {high:.2f}]*" in protocol_sweep.table(rows)
    two = protocol_sweep.table([{**rows[1], **{name: rows[1][name][:2] for name in protocol_sweep.COLUMNS}}])
    assert "0.61*" in two
    assert "[" not in two


def test_a_mean_over_masks_draws_them_afresh_on_surfaces_too(trained):
    _, (baseline, _) = trained
    fixed, averaged = (
        measuring.ask(baseline.path, "surface", TINY, changes={"dropout": "fixed"}, masks=masks) for masks in (1, 4)
    )
    assert (fixed.subject.protocol.dropout, averaged.subject.protocol.dropout) == ("fixed", "fresh")
    assert averaged.arguments.passes == 4


def test_curvature_tells_the_l2_term_apart_and_a_mean_of_masks_from_one(trained, monkeypatch):
    folder, (baseline, _) = trained
    monkeypatch.chdir(folder)
    one, mean, whole = (
        measuring.measured(measuring.ask(baseline.path, "curvature", TINY, changes=changes, masks=masks))[0]
        for changes, masks in (({}, 1), ({}, 3), ({"l2": "exact"}, 1))
    )
    wanted = one["eigenvalue"] + one["l2_shift"]
    assert whole["eigenvalue"].values == pytest.approx(wanted.values, rel=0.02)
    assert float(one["l2_shift"][0]) == pytest.approx(5e-4, rel=1e-4)
    assert float(mean["eigenvalue"][0]) != pytest.approx(float(one["eigenvalue"][0]), rel=0.02)


def test_a_study_and_a_command_share_one_cache_and_every_setting_is_in_the_address(trained, monkeypatch, capsys):
    folder, (baseline, _) = trained
    monkeypatch.chdir(folder)
    _, file = measuring.measured(measuring.ask(baseline.path, "hessian", TINY))
    asked = [str(baseline.path), "--images", "32", "--dropout", "fixed", "--augmentation", "frozen", "--device", "cpu"]
    flags = ["--image-groups", "4", "--top", "1", "--quiet"]
    before = file.stat().st_mtime_ns
    assert command.run("landscape.hessian.cli", [*asked, *flags, "--tolerance", str(measuring.TOLERANCE)]) == 0
    assert f"result: {file}" in capsys.readouterr().err
    assert file.stat().st_mtime_ns == before
    monkeypatch.setattr(measuring, "TOLERANCE", 0.5)
    assert measuring.measured(measuring.ask(baseline.path, "hessian", TINY))[1] != file


def test_a_layer_that_does_not_run_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(
        "import torch\n"
        "class Wide(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.cat([x, x], 1)\n"
        "class Wild(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x / 0\n"
        "class Flat(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.detach().round_() * torch.zeros(()).requires_grad_() if False else x.long()\n"
    )
    for layer, complaint in (("Wide", "does not run in"), ("Wild", "not finite"), ("Flat", "does not run in")):
        assert command.run("analyses.audit.cli", ["--variant", f"broken.py:{layer}", "--quiet", "--device", "cpu"]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        (line,) = shown.err.splitlines()
        assert line.startswith("error: ")
        assert complaint in line
    assert not list(tmp_path.rglob("*.safetensors*"))


def test_the_plan_of_an_audit_times_the_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--variant", "blur", "--seeds", "2", "--plan", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert re.match(r"6 trainings \(2 seeds\), 0 of them done; the others take about \d+ min: \d+ steps of ", shown)
    assert not list(tmp_path.iterdir())
    assert main(["--variant", "blur", "--seeds", "2", "--plan", "--device", "cpu", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["plan"]) == 3


def test_networks_of_strangers_are_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text(
        "from torch import nn\n"
        "def build(num_classes=3, blur=False):\n"
        "    smooth = [nn.AvgPool2d(3, 1, 1)] if blur else []\n"
        "    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.2), *smooth, nn.MaxPool2d(2)]\n"
        "    layers += [nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]\n"
        "    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))\n"
        "def smooth(num_classes=3):\n"
        "    return build(num_classes, blur=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import stranger  # type: ignore[import-not-found]  # just written

    for seed in range(2):
        torch.manual_seed(seed)
        torch.save(stranger.build().state_dict(), tmp_path / f"plain-{seed}.pt")
        torch.save({"state_dict": stranger.smooth().state_dict()}, tmp_path / f"smooth-{seed}.pth")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=rng.integers(0, 3, 80))
    monkeypatch.setitem(measuring.SAMPLE_SIZES, "digits", TINY)
    files = [
        "--baseline-checkpoints",
        "plain-0.pt",
        "plain-1.pt",
        "--variant-checkpoints",
        "smooth-0.pth",
        "smooth-1.pth",
    ]
    how = ["--model", "stranger.py:build", "--variant-model", "stranger.py:smooth", "--num-classes", "3"]
    data = ["--data", "images.npz", "--mean", "0.5", "--std", "0.25", "--device", "cpu", "--quiet", "--out", "report"]
    assert main([*files, *how, *data, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {network["file"] for network in facts["networks"]} >= {"plain-0.pt", "smooth-1.pth"}
    assert facts["protocols"]["predictions"]["image_mean"] == [0.5]
    assert (tmp_path / "report" / "report.html").is_file()
