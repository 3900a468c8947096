"""The measurements as commands, end to end, alone and on two processes."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nets_for_tests import Dense, small_images, small_net

from landscape import command
from landscape.objective import Objective
from landscape.store.protocol import Protocol
from landscape.surface import saved_directions

SUBJECT = ["net.pt", "--model", "stranger.py:small_net", "--data", "images.npz", "--dtype", "float64"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).with_name("nets_for_tests.py"), tmp_path / "stranger.py")
    torch.save(small_net().state_dict(), "net.pt")
    data = small_images()
    np.savez("images.npz", images=data.images.numpy(), labels=data.labels.numpy())
    return tmp_path


def hessian(*flags: str) -> int:
    return command.run("landscape.hessian.cli", [*SUBJECT, "--top", "2", "--quiet", *flags])


@pytest.mark.parametrize(
    ("flags", "keys"),
    [
        (["--blocks"], {"block_eigenvalue", "block_trace", "share"}),
        (["--ggn-split"], {"eigenvalues", "ggn_part", "residual_smallest"}),
        (["--scale-free", "--sharpness"], {"scale_free_eigenvalue", "rise", "epsilon_sharpness"}),
        (["--per-batch", "8", "--batches", "9"], {"eigenvalues", "quantile", "negative_share", "tail_index"}),
        (["--solver", "pyhessian", "--only", "trace"], {"trace", "trace_stderr"}),
    ],
)
def test_each_measurement_prints_one_json_object_and_a_table(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], keys: set[str]
) -> None:
    if "pyhessian" in flags:
        pytest.importorskip("pyhessian")
    assert hessian(*flags, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert keys <= set(facts)
    assert {"hvps", "seconds", "parameters", "images", "protocol", "checkpoint_sha256"} <= set(facts)
    assert command.run("landscape.hessian.cli", [*SUBJECT, "--top", "2", *flags]) == 0
    table = capsys.readouterr().out
    # The file holds no split, and nobody knows of what its images are a sample; what was fitted is said.
    if "--per-batch" not in flags:
        assert (
            "of the mean loss plus L2 term on all 37 images of images.npz, a sample of an unknown population" in table
        )
    assert re.search(r"\nnet: loss [\d.]+, accuracy [01][\d.]*\.", table)
    assert not list(Path("results/hessian").glob(".*"))


def test_mini_batches_take_more_images_than_there_are_epoch_by_epoch_and_augmented(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 9 mini-batches of 8 are nearly two epochs of the 37 images.
    assert hessian("--per-batch", "8", "--batches", "9", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert np.shape(facts["eigenvalues"]) == (9, 2)
    assert facts["images"] == 72
    assert facts["protocol"]["augmentation"] == "frozen"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--blocks", "--ggn-split"], "--blocks and --ggn-split are different measurements"),
        (["--ggn-split", "--plot", "a.png"], "there is no picture of --ggn-split"),
        (["--solver", "pyhessian", "--only", "density"], "PyHessian 0.1's density() calls torch.eig"),
        (["--masks", "3"], "dropout is off in this protocol: give --dropout fixed"),
        (["--along", "nothing.safetensors"], "no directions at nothing.safetensors"),
        (["--blocks", "--save-vectors", "v.safetensors"], "leave out --blocks"),
        (["--blocks", "--by-sample"], "leave out --blocks"),
        (["--by-sample", "--which", "SA"], "leave out --which SA"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert hessian(*flags) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_saved_eigenvectors_are_read_again_and_have_their_eigenvalues(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hessian("--only", "top", "--save-vectors", "v.safetensors", "--json", "--weight-decay", "0.1") == 0
    facts = json.loads(capsys.readouterr().out)
    function = Objective(small_net(), small_images(), protocol=Protocol(dtype="float64"))
    vectors = saved_directions.load("v.safetensors", function).vectors
    matrix = Dense(small_net(), small_images(), weight_decay=0.1).hessian
    assert torch.einsum("kp,pq,kq->k", vectors, matrix, vectors).tolist() == pytest.approx(facts["eigenvalues"])
    assert hessian("--along", "v.safetensors", "--json", "--weight-decay", "0.1") == 0
    along = json.loads(capsys.readouterr().out)
    assert along["rayleigh_quotient"][2:] == pytest.approx(facts["eigenvalues"])


def test_the_same_weights_in_another_network_are_measured_anew(folder: Path) -> None:
    """What has no weights, as a blur or a nonlinearity, is in the code alone, or in what that imports."""
    Path("parts.py").write_text("from torch import nn\n\ndef bend():\n    return nn.Tanh()\n")
    Path("own.py").write_text(
        "from parts import bend\nfrom torch import nn\n\n"
        "def one():\n    return nn.Sequential(nn.Flatten(), nn.Linear(72, 6), bend(), nn.Linear(6, 3))\n\n"
        "def other():\n    return nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.ReLU(), nn.Linear(6, 3))\n"
    )
    state = {"1.weight": (6, 72), "1.bias": (6,), "3.weight": (3, 6), "3.bias": (3,)}
    drawn = torch.Generator().manual_seed(0)
    torch.save({name: torch.randn(size, generator=drawn) / 6 for name, size in state.items()}, "own.pt")

    def largest(name: str) -> float:
        asked = ["own.pt", "--model", f"own.py:{name}", "--data", "images.npz", "--only", "top", "--top", "1", "--json"]
        done = subprocess.run([sys.executable, "-m", "landscape.hessian", *asked], capture_output=True, check=True)
        return float(json.loads(done.stdout)["eigenvalues"][0])

    first = largest("one")
    assert largest("one") == first
    assert largest("other") != first
    Path("parts.py").write_text("from torch import nn\n\ndef bend():\n    return nn.Sigmoid()\n")
    assert largest("one") != first


def test_plans_cost_a_product(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hessian("--blocks", "--plan", "--json") == 0
    assert "products of" in json.loads(capsys.readouterr().out)["plan"][0]
    assert not Path("results").exists()


def on_two_processes(folder: Path, *flags: str) -> dict[str, object]:
    """The JSON that rank 0 prints, with torchrun's environment by hand."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        arguments = [sys.executable, "-m", "landscape.hessian", *SUBJECT, "--top", "2", "--json", *flags]
        running.append(
            subprocess.Popen(
                arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    printed = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], printed
    assert printed[1][0] == ""
    return json.loads(printed[0][0])


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--only", "top", "--only", "trace"], ("eigenvalues", "trace")),
        (["--per-batch", "8", "--batches", "5"], ("eigenvalues", "quantile")),
    ],
)
def test_two_processes_give_the_result_of_one(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], names: tuple[str, ...]
) -> None:
    together = on_two_processes(folder, *flags, "--out", "two.nc")
    assert hessian(*flags, "--json", "--out", "one.nc") == 0
    alone = json.loads(capsys.readouterr().out)
    for name in names:
        assert np.ravel(together[name]) == pytest.approx(np.ravel(alone[name]), rel=1e-6)
