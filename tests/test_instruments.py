"""What every instrument promises, asked of each of them alike: adding one adds it here, by `python -m landscape`."""

import contextlib
import dataclasses
import io
import json
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_instrument
import xarray
from nets_for_tests import small_images, small_net

import landscape
from landscape import cli, command
from landscape.store import result

INSTRUMENTS = {each.name: each for each in (*cli.instruments(), toy_instrument.INSTRUMENT)}
KEPT = [name for name, each in INSTRUMENTS.items() if each.kept]
SEVERAL = ("landscape.series", "landscape.connectivity")
# The cheapest settings; then a setting that changes the numbers.
QUICK: dict[str, list[str]] = {
    "landscape.hessian": ["--top", "1", "--trace-products", "4", "--probes", "2", "--steps", "4"],
    "landscape.surface": ["--points", "3"],
    "landscape.connectivity": ["--points", "3"],
    "landscape.robustness": ["--only", "adversarial", "--attack", "fgsm", "--epsilon", "0.1"],
}
CHANGED = {
    "landscape.hessian": ["--trace-products", "5"],
    "landscape.surface": ["--span", "0.3"],
    "landscape.series": ["--tolerance", "0.1"],
    "landscape.connectivity": ["--points", "4"],
    "landscape.feature_maps": ["--blocks", "3"],
    "landscape.fourier": ["--window", "hann"],
    "landscape.frequency_noise": ["--matched", "0.3"],
    "landscape.predictions": ["--resamples", "3"],
    "landscape.robustness": ["--epsilon", "0.2"],
    "landscape.toy": ["--factor", "2"],
}
ERRORS = ("stderr", "residual", "error", "low", "high", "spread", "bias", "probability")
# Numbers without an error of their own, and why. A new number must be here or have one.
WITHOUT_ERROR = {
    "landscape.hessian": {
        "l2_trace": "known exactly",
        "weight": "of a quadrature: the probes differ by its error",
    },
    "landscape.surface": {
        "l2": "known exactly",
        "cross_entropy": "the loss without its exact term: loss_stderr",
        "axis_curvature": "exact on these images",
        "rayleigh": "exact on these images",
        "evaluated": "a flag",
    },
    "landscape.series": {
        **dict.fromkeys(("loss", "cross_entropy", "accuracy"), "exact on these images"),
        "l2": "known exactly",
    },
    "landscape.connectivity": {
        "loss": "the cross-entropy with its exact L2 term: cross_entropy_stderr",
        "barrier_at": "an axis",
        "function_deviation": "a check: zero but for rounding",
        **dict.fromkeys(("distance", "weight_match_before", "weight_match_after"), "weights are known exactly"),
    },
    "landscape.fourier": {"frequency": "an axis"},
    "landscape.frequency_noise": {"noise_rms": "of the noise as it was drawn"},
    "landscape.predictions": {
        "ece_debiased": "the ECE less its bias: ece_stderr",
        **dict.fromkeys(("bin_share", "bin_confidence", "bin_accuracy"), "of a diagram, in bins of few images"),
    },
}


@dataclasses.dataclass
class Session:
    """A folder with checkpoints and images in which an instrument is run."""

    name: str
    folder: Path

    def run(self, *flags: str, checkpoints: Sequence[str] | None = None) -> tuple[int, str, str]:
        """Status, standard output and standard error of the command."""
        if checkpoints is None:
            checkpoints = ["run-1.pt", "run-2.pt"] if self.name in SEVERAL else ["run-2.pt"]
        arguments = [*checkpoints, "--model", "stranger.py:small_net", "--data", "images.npz", "--images", "12"]
        module = "toy_instrument" if self.name == "landscape.toy" else f"{self.name}.cli"
        out, error = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            status = command.run(module, [*arguments, *QUICK.get(self.name, []), *flags])
        return status, out.getvalue(), error.getvalue()

    def files(self) -> dict[Path, int]:
        """Everything there, with the time of its last change."""
        return {
            path: path.stat().st_mtime_ns
            for path in self.folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    def answers(self) -> list[xarray.Dataset]:
        return [result.load(file) for file in sorted(self.folder.glob("results/*/*.nc"))]


@pytest.fixture(scope="module", params=INSTRUMENTS)
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copy(Path(__file__).with_name("nets_for_tests.py"), folder / "stranger.py")
    for number in (1, 2):
        torch.save(small_net(seed=number).state_dict(), folder / f"run-{number}.pt")
    data = small_images()
    np.savez(folder / "images.npz", images=data.images.numpy(), labels=data.labels.numpy())
    yield Session(request.param, folder)
    sys.modules.pop("stranger", None)


def finite(constant: str) -> float:
    raise AssertionError(f"{constant} is no JSON")


def test_a_plan_measures_nothing(session: Session) -> None:
    before = session.files()
    status, out, error = session.run("--plan", "--json")
    if session.name in KEPT:
        (line,) = json.loads(out)["plan"]
        assert line.startswith("run")
        assert status == 0
    else:
        assert status == 2
        assert "--plan" in error
    assert session.files() == before


@pytest.mark.parametrize(
    ("flags", "checkpoints", "complaint"),
    [
        ([], ["nowhere.pt", "run-2.pt"], "nowhere.pt"),
        (["--images", "999"], None, "999"),
        (["--nonsense"], None, "--nonsense"),
        (["--plot", "picture.jpeg"], None, "picture.jpeg"),
        (["--out", "images.npz/result.nc"], None, "images.npz"),
        (["--split", "validation"], None, "--split"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    session: Session, flags: list[str], checkpoints: list[str] | None, complaint: str
) -> None:
    before = session.files()
    status, out, error = session.run(*flags, checkpoints=checkpoints)
    assert (status, out) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert complaint in error
    assert session.files() == before


def test_json_is_strict_and_the_same_question_is_answered_from_the_cache(session: Session) -> None:
    status, out, _ = session.run("--json", "--quiet")
    assert status == 0
    facts = json.loads(out, parse_constant=finite)
    assert out.count("\n") == 1
    before = session.files()
    again = json.loads(session.run("--json", "--quiet")[1])
    assert again == facts
    if session.name in KEPT:
        assert session.files() == before
        assert session.answers()
        status, out, _ = session.run("--json", "--quiet", *CHANGED[session.name])
        assert status == 0
        changed = set(session.files()) - set(before)
        assert len(changed) == 1, "a setting that changes the numbers is part of the address"
        changed.pop().unlink()


def test_a_result_is_labelled_and_says_what_it_is(session: Session) -> None:
    if session.name not in KEPT:
        assert not (session.folder / "results").exists()
        return
    session.run("--quiet")
    for dataset in session.answers():
        attributes = dataset.attrs
        assert attributes["instrument"].startswith(session.name)
        assert attributes["name"] in ("run-1", "run-2")
        assert len(attributes["checkpoint_sha256"]) == len(attributes["data_sha256"]) == 64
        assert json.loads(attributes["protocol"])["images"] == 12
        assert {"protocol_hash", "settings", "seed", "seconds", "landscape_version", "torch_version", "command"} <= set(
            attributes
        )
        assert not [name for name in dataset.dims if str(name).startswith("dim_")]
        assert all(math.isfinite(float(attributes[name])) for name in ("seconds", "weight_decay"))


def test_an_error_stands_beside_every_estimate(session: Session) -> None:
    if session.name not in KEPT:
        return
    session.run("--quiet")
    without = set()
    # The passes that curves are made of are predictions, not estimates.
    for dataset in (each for each in session.answers() if not each.attrs["instrument"].endswith(".passes")):
        names = {str(name) for name in dataset.data_vars}
        for name in names:
            values = dataset[name]
            if values.dtype.kind == "f" and not {"image", "replicate"} & set(values.dims) and not name.endswith(ERRORS):
                errors = {f"{name}_{error}" for error in ERRORS} | {name.replace("eigenvalue", "residual")}
                without |= {name} if not errors & names - {name} else set()
    assert without == set(WITHOUT_ERROR.get(session.name, {}))


def test_a_table_and_a_picture(session: Session) -> None:
    status, out, _ = session.run()
    assert status == 0
    assert len(out.splitlines()) > 1
    assert "run" in out
    status, _, error = session.run("--plot", "picture.png", "--quiet")
    if session.name not in KEPT:
        assert status == 2
        return
    assert status == 0
    assert (session.folder / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "picture: picture.png" in error


def test_an_instrument_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").touch()
    shutil.copy(toy_instrument.__file__, tmp_path / "toy" / "cli.py")
    monkeypatch.setattr(landscape, "__path__", [*landscape.__path__, str(tmp_path)])
    assert cli.main([]) == 0
    assert "python -m landscape.toy              mean score of each class" in capsys.readouterr().out
