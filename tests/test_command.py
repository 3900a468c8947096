"""The main command, end to end, on files as strangers have them; every kind of bad input answered in one line."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nets_for_tests import Dense, small_images, small_net

import landscape.hessian.spectrum  # noqa: F401  looked up in sys.modules below
from landscape import command
from landscape.store import result

NETWORK = "stranger.py:small_net"
QUICK = ["--top", "2", "--trace-products", "8", "--probes", "2", "--steps", "6", "--quiet"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with somebody's weights, their network's source, and their images."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).with_name("nets_for_tests.py"), tmp_path / "stranger.py")
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in small_net().state_dict().items()}}, tmp_path / "net.pth.tar"
    )
    data = small_images()
    np.savez(tmp_path / "images.npz", images=data.images.numpy(), labels=data.labels.numpy())
    return tmp_path


def hessian(*arguments: str, network: str = NETWORK, data: str = "images.npz") -> int:
    return command.run("landscape.hessian.cli", [*arguments, "--model", network, "--data", data, *QUICK])


def test_a_strangers_checkpoint_gets_its_true_spectrum_as_one_json_object(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hessian("net.pth.tar", "--json", "--dtype", "float64", "--weight-decay", "0.1") == 0
    output = capsys.readouterr()
    facts = json.loads(output.out)
    truth = torch.linalg.eigvalsh(Dense(small_net(), small_images(), weight_decay=0.1).hessian).flip(0)
    assert facts["eigenvalues"] == pytest.approx(truth[:2].tolist(), rel=1e-4)
    assert facts["smallest_eigenvalue"] == pytest.approx(float(truth[-1]), rel=1e-3)
    assert abs(facts["trace"] - float(truth.sum())) < 4 * facts["trace_stderr"]
    assert facts["converged"] is True
    assert facts["images"] == 37
    assert facts["parameters"] == len(truth)
    assert [sum(row) for row in facts["density"]["weights"]] == pytest.approx([1.0, 1.0])
    assert facts["protocol"]["dtype"] == "float64"
    assert len(facts["checkpoint_sha256"]) == 64


def test_the_same_question_is_answered_from_the_cache_and_to_the_same_bits(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    for flags in ([], ["--force"]):
        assert hessian("net.pth.tar", "--json", *flags) == 0
        answers.append(json.loads(capsys.readouterr().out))
    first, second = answers
    assert first.pop("seconds") != second.pop("seconds")
    assert first == second

    def unexpected(*arguments: object, **settings: object) -> None:
        raise AssertionError("measured what was in the cache")

    monkeypatch.setattr("landscape.hessian.spectrum", unexpected)
    assert hessian("net.pth.tar", "--json") == 0
    assert json.loads(capsys.readouterr().out)["eigenvalues"] == first["eigenvalues"]


@pytest.mark.parametrize(
    ("facts", "flags"), [("population=60", []), ("crop_padding=2, flip=True", ["--augmentation", "frozen"])]
)
def test_what_examples_stand_for_and_how_they_are_augmented_is_in_the_address(
    folder: Path, capsys: pytest.CaptureFixture[str], facts: str, flags: list[str]
) -> None:
    def measured(given: str) -> dict[str, object]:
        # Not imported: a module of that name may be there, of another test.
        images = "runpy.run_path('stranger.py')['small_images']()"
        made = f"dataclasses.replace({images}, {given})"
        (folder / "own.py").write_text(f"import dataclasses, runpy\ndef own():\n    return {made}\n")
        assert hessian("net.pth.tar", "--images", "20", "--only", "top", "--json", *flags, data="own.py:own") == 0
        return json.loads(capsys.readouterr().out)

    assert measured("population=None") != measured(facts) == measured(facts)


def test_two_checkpoints_stand_side_by_side_in_a_table_and_a_picture(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(small_net(seed=1).state_dict(), folder / "other.pt")
    arguments = [argument for argument in QUICK if argument != "--quiet"]
    assert (
        command.run(
            "landscape.hessian.cli",
            ["net.pth.tar", "other.pt", "--model", NETWORK, "--data", "images.npz", "--plot", "both.pdf", *arguments],
        )
        == 0
    )
    table = capsys.readouterr().out
    head, first = table.splitlines()[:2]
    assert head.split() == ["net", "other"]
    values = [float(cell) for cell in first.split()[2:]]
    assert len(values) == 2
    # All images of a file are a sample of an unknown population, so that there is an error, if too few to say which.
    assert "a sample of an unknown population" in table
    assert "37 images are too few for an interval" in table
    assert values[0] != values[1]
    assert (folder / "both.pdf").read_bytes().startswith(b"%PDF")


def test_without_the_density_the_picture_is_of_eigenvalues_by_rank(folder: Path) -> None:
    assert hessian("net.pth.tar", "--plot", "top.svg", "--only", "top") == 0
    drawn = (folder / "top.svg").read_text()
    assert "bars: 95 % for the choice of images" in drawn
    assert "spectral density" not in drawn


def test_the_plan_costs_a_product_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        command.run("landscape.hessian.cli", ["net.pth.tar", "--model", NETWORK, "--data", "images.npz", "--plan"]) == 0
    )
    assert "products of" in capsys.readouterr().out
    assert not (folder / "results").exists()


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch executed",))


def bad_pickle(folder: Path) -> None:
    (folder / "net.pth.tar").write_bytes(pickle.dumps({"state_dict": Malicious()}))


def truncated(folder: Path) -> None:
    file = folder / "net.pth.tar"
    file.write_bytes(file.read_bytes()[:2000])


def garbage(folder: Path) -> None:
    (folder / "net.pth.tar").write_bytes(b"not a checkpoint at all")


def wrong_keys(folder: Path) -> None:
    state = small_net().state_dict()
    state["elsewhere.weight"] = state.pop("0.weight")
    torch.save(state, folder / "net.pth.tar")


def wrong_shape(folder: Path) -> None:
    state = small_net().state_dict()
    state["8.bias"] = torch.zeros(7)
    torch.save(state, folder / "net.pth.tar")


def not_a_number(folder: Path) -> None:
    state = small_net().state_dict()
    state["3.conv2.weight"][0] = torch.nan
    torch.save(state, folder / "net.pth.tar")


def images(**arrays: np.ndarray) -> object:
    def write(folder: Path) -> None:
        data = small_images()
        np.savez(folder / "images.npz", **{"images": data.images.numpy(), "labels": data.labels.numpy()} | arrays)

    return write


def unwritable(folder: Path) -> None:
    (folder / "results").write_text("a file where a folder is wanted")


@pytest.mark.parametrize(
    ("spoil", "arguments", "expected"),
    [
        (lambda folder: (folder / "net.pth.tar").unlink(), [], "no checkpoint net.pth.tar"),
        (truncated, [], "net.pth.tar"),
        (garbage, [], "net.pth.tar"),
        (bad_pickle, [], "net.pth.tar"),
        (wrong_keys, [], "0.weight"),
        (wrong_shape, [], "8.bias"),
        (not_a_number, [], "3.conv2.weight"),
        (images(labels=np.full(37, 9)), [], "9"),
        (images(labels=np.full(37, -1)), [], "-1"),
        (images(images=np.zeros((0, 2, 6, 6), np.float32), labels=np.zeros(0, np.int64)), [], "no images"),
        (images(images=np.zeros((37, 3, 6, 6), np.float32)), [], "cannot take images of shape (3, 6, 6)"),
        (None, ["--images", "38"], "38"),
        (None, ["--device", "cuda"], "cuda"),
        (None, ["--device", "nonsense"], "nonsense"),
        (None, ["--plot", "picture.jpeg"], ".pdf"),
        (None, ["--plot", "trace.pdf", "--only", "trace"], "a trace alone has no picture"),
        (None, ["--top", "0"], "--top"),
        (None, ["--seed", "9" * 20], "below 2^63"),
        (None, ["--memory", "inf"], "inf is not a number of bytes"),
        (None, ["--nonsense"], "--nonsense"),
        (unwritable, [], "results"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    folder: Path, capsys: pytest.CaptureFixture[str], spoil: object, arguments: list[str], expected: str
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    if spoil is not None:
        spoil(folder)
    before = sorted(folder.rglob("*"))
    assert hessian("net.pth.tar", *arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert not (folder / "executed").exists()
    after = [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts]
    assert after == [path for path in before if "__pycache__" not in path.parts]


def test_networks_of_one_name_do_not_share_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other").mkdir()
    shutil.copy("net.pth.tar", "other/net.pth.tar")
    for flag, file in (("--out", "r.nc"), ("--save-vectors", "v.safetensors")):
        assert hessian("net.pth.tar", "other/net.pth.tar", flag, file) == 2
        assert "two networks are called net" in capsys.readouterr().err
    assert not list(folder.glob("[rv]-*"))


def test_an_unknown_recipe_is_answered_with_the_near_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run("landscape.hessian.cli", ["digits-smoth"]) == 2
    assert "digits-smooth" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_leaves_no_half_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert hessian("net.pth.tar") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not [path for path in (folder / "results").rglob("*") if path.is_file()]


def test_ctrl_c_is_status_130_without_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["landscape.hessian.spectrum"], "eigenpairs", interrupted)
    assert hessian("net.pth.tar") == 130
    assert "Traceback" not in capsys.readouterr().err
    assert not [path for path in folder.rglob("*.nc*") if path.is_file()]


def test_results_of_unlike_protocols_are_not_laid_over_each_other(folder: Path) -> None:
    for name, flags in (("one.nc", []), ("two.nc", ["--l2", "none"])):
        assert hessian("net.pth.tar", "--out", name, *flags) == 0
    pair = [result.load(folder / name) for name in ("one.nc", "two.nc")]
    with pytest.raises(ValueError, match="l2: exact against none"):
        result.require_same_protocol(pair)
    assert result.require_same_protocol(pair, allow_mismatch=True) == ["l2: exact against none"]
