"""The one look: a kind has one colour, trainings share a curve, styles change nothing but the look."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray
from matplotlib.colors import to_rgb

from analyses.kinds import KINDS
from landscape import plotting
from landscape.command.parser import STYLES
from landscape.errors import LandscapeError
from landscape.hessian import picture as hessian_picture
from landscape.predictions import picture as predictions_picture


def named(*names: str) -> list[xarray.Dataset]:
    return [xarray.Dataset(attrs={"name": name}) for name in names]


def test_a_kind_has_its_own_label_and_colour_wherever_it_stands() -> None:
    smooth, plain, seed, other = plotting.labels(
        named("cifar100-small-mcdo-smooth-seed0", "digits-plain", "cifar100-small-mcdo-smooth-seed1", "resnet50.pth")
    )
    assert smooth.label == "MC dropout + smooth (cifar100-small), seed 0"
    assert smooth.color == seed.color == plotting.COLORS[1]
    assert plain.color == plotting.kind_color("mcdo") == plotting.COLORS[0]
    assert (other.label, other.color in (smooth.color, plain.color)) == ("resnet50.pth", False)
    (both, alone) = plotting.groups(named("digits-smooth-seed0", "digits-smooth-seed1", "mine"))
    assert (both.label, len(both.results), alone.label) == ("MC dropout + smooth", 2, "mine")
    assert {kind: label for kind, (label, _) in plotting.KINDS.items()} == {
        kind: KINDS[kind].label for kind in plotting.KINDS
    }


def test_trainings_are_a_mean_with_a_t_interval_and_thin_lines() -> None:
    group = plotting.Group("kind", plotting.COLORS[0], "o")
    with plotting.style():
        axes = plotting.figure().add_subplot()
        curves = [np.array([1.0, 4.0]), np.array([2.0, 4.0]), np.array([3.0, 4.0])]
        mean = plotting.curve(axes, group, np.array([0.0, 1.0]), curves)
    assert mean.tolist() == [2, 4]
    assert [line.get_linewidth() < 1 for line in axes.lines] == [True, True, True, False]
    band = axes.collections[0].get_paths()[0].vertices
    # t of two degrees of freedom times the standard error 1 / sqrt(3).
    assert band[band[:, 0] == 1, 1].max() == pytest.approx(4)
    assert band[band[:, 0] == 0, 1].min() == pytest.approx(2 - 4.302653 / 3**0.5)


def test_styles_are_those_of_the_command_line_and_leave_nothing_behind(tmp_path: Path) -> None:
    assert plotting.STYLES == STYLES
    before = dict(matplotlib.rcParams)
    pages = {}
    for name in STYLES:
        with plotting.using(name), plotting.style():
            made = plotting.figure()
            made.add_subplot().plot([1, 2])
            pages[name] = made.get_facecolor()
            plotting.save(made, tmp_path / f"{name}.png")
    assert dict(matplotlib.rcParams) == before
    assert pages["paper"] == pages["screen"] != pages["dark"]
    with pytest.raises(LandscapeError, match="no style 'sepia' of pictures: choose one of paper, screen, dark"):
        plotting.using("sepia").__enter__()


def spectrum(name: str) -> xarray.Dataset:
    """A bulk of 9 995 small eigenvalues and five outliers, as quadrature of two probes sees them."""
    bulk = np.linspace(-0.5, 0.5, 21)
    nodes = np.concatenate([bulk, [20, 40, 80, 160, 320]])
    weights = np.concatenate([np.full(21, (1 - 5e-4) / 21), np.full(5, 1e-4)])
    return xarray.Dataset(
        {
            "node": (("probe", "step"), np.array([nodes, nodes])),
            "weight": (("probe", "step"), np.array([weights, weights])),
            "node_residual": (("probe", "step"), np.full((2, 26), 0.05)),
            "eigenvalue": ("rank", np.array([320.0, 160.0, 80.0])),
            "smallest_eigenvalue": -0.5,
        },
        attrs={"name": name, "parameters": 10_000, "products": 52, "density_points": 0},
    )


def test_the_density_shows_its_bulk_and_both_ends(tmp_path: Path) -> None:
    made = hessian_picture.draw([spectrum("digits-plain"), spectrum("digits-smooth")], tmp_path / "density.png")
    (axes,) = made.axes
    made.canvas.draw()
    at = axes.transAxes.inverted().transform(axes.transData.transform([[-0.5, 1.0], [0.5, 1.0], [320.0, 1.0]]))[:, 0]
    # A quarter of the width is the bulk's, which is a thousandth of the range.
    assert at[1] - at[0] > 0.2
    assert 0 < at[0] < at[2] < 1
    (marks,) = [line for line in axes.lines if line.get_marker() == "o" and line.get_fillstyle() == "none"]
    assert sorted(marks.get_xdata()) == [-0.5, 80, 160, 320]
    explained = [text.get_text() for text in axes.get_legend().get_texts()]
    assert explained[:2] == ["MC dropout", "MC dropout + smooth"]
    assert "top 3 eigenvalues and the smallest, one row for each network" in explained


def test_reliability_leaves_out_nearly_empty_bins() -> None:
    share = np.full(10, 0.1)
    share[0] = 0.001
    result = xarray.Dataset(
        {
            name: (("size", "bin"), values[None])
            for name, values in {
                "bin_confidence": np.arange(0.05, 1, 0.1),
                "bin_accuracy": np.r_[1.0, np.arange(0.15, 1, 0.1)],
                "bin_share": share,
            }.items()
        },
        {"size": [1]},
        attrs={"name": "net", "images": 1000},
    )
    with plotting.style():
        axes = plotting.figure().add_subplot()
        predictions_picture.reliability(axes, [result])
    assert len(axes.lines[1].get_xdata()) == 9


def luminance(color):
    """Relative luminance of WCAG 2.1."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["analyses/audit/report.html", "landscape/surface/page.html"])
def test_text_of_pages_stands_out_as_level_aa_asks(page):
    text = Path(page).read_text()
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.005)  # the grey that famously fails
    styles = text[text.index("<style>") : text.index("</style>")]
    assert set(re.findall(r"background: (#\w+)", styles)) == {"#fff"}
    colors = set(re.findall(r"(?<![-\w])color: (#\w+)", styles))
    assert len(colors) > 1
    assert [color for color in colors if contrast(color, "white") < 4.5] == []


def test_text_of_pictures_stands_out_in_every_style():
    for name in plotting.STYLES:
        with plotting.using(name), plotting.style():
            assert contrast(plotting.ink(), plotting.page()) > 7


def test_trainings_of_a_foreign_network_share_a_group_too() -> None:
    first, other = plotting.groups(named("mine-seed1", "mine_seed2", "mine", "other-seed0")[:2] + named("other"))
    assert (first.label, len(first.results), other.label) == ("mine", 2, "other")
