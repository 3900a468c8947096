import argparse
import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from landscape import checkpoint, nets
from landscape.command import instrument_parser, load_checkpoint
from landscape.errors import LandscapeError

MODEL = {"name": "resnet_mcdo_smoothing_18", "num_classes": 7, "width": 4}
RECIPE = {"recipe": "made", "model": MODEL, "data": {"name": "digits"}, "training": {"epochs": 2}, "seed": 3}
HISTORY = [{"epoch": 1, "test_accuracy": 0.5}]

FACTORY = """
from torch import nn
def make(num_classes=5):
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, num_classes))
def no_network():
    return 3
def wants_width(width):
    return nn.Linear(width, width)
def fails():
    raise RuntimeError("first\\nsecond")
class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = nn.Linear(2, 2)
"""


@pytest.fixture
def own():
    return nets.build(**MODEL)


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    return f"{tmp_path}/mine.py"


def small():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5))


def refused(*words):
    return pytest.raises(LandscapeError, match="(?s)" + ".*".join(words))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestOwnFiles:
    def test_weights_recipe_and_history_come_back(self, tmp_path, own):
        path = checkpoint.save(tmp_path / "new" / "net.safetensors", own.state_dict(), recipe=RECIPE, history=HISTORY)
        loaded = checkpoint.load(path)
        assert equal(loaded.model.state_dict(), own.state_dict())
        assert (loaded.recipe, loaded.history, loaded.name) == (RECIPE, HISTORY, "net")
        assert not loaded.model.training
        assert checkpoint.read_recipe(path) == RECIPE
        assert checkpoint.read_history(path) == HISTORY
        assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]

    def test_half_precision_is_half_the_size_and_loads_as_float32(self, tmp_path, own):
        full = checkpoint.save(tmp_path / "full.safetensors", own.state_dict(), recipe=RECIPE)
        half = checkpoint.save(tmp_path / "half.safetensors", own.state_dict(), recipe=RECIPE, dtype=torch.float16)
        assert half.stat().st_size < 0.6 * full.stat().st_size
        loaded = checkpoint.load(half)
        for name, value in loaded.model.state_dict().items():
            expected = own.state_dict()[name]
            assert value.dtype == expected.dtype
            assert torch.equal(value, expected.half().float() if expected.is_floating_point() else expected)
        assert loaded.sha256 != checkpoint.load(full).sha256

    def test_numbers_beyond_half_precision_are_refused(self, tmp_path):
        with refused("big", "float16"):
            checkpoint.save(
                tmp_path / "a.safetensors", {"big": torch.tensor([1e6])}, recipe=RECIPE, dtype=torch.float16
            )
        assert not list(tmp_path.iterdir())

    def test_an_unwritable_folder_leaves_nothing(self, tmp_path, own):
        (tmp_path / "file").write_text("")
        with refused("cannot write"):
            checkpoint.save(tmp_path / "file" / "net.safetensors", own.state_dict(), recipe=RECIPE)

    def test_a_full_disk_leaves_the_old_file_and_no_half_one(self, tmp_path, own, monkeypatch):
        path = tmp_path / "net.safetensors"
        path.write_bytes(b"old")

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with refused("No space left"):
            checkpoint.save(path, own.state_dict(), recipe=RECIPE)
        assert path.read_bytes() == b"old"
        assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


class TestForeignFiles:
    @pytest.mark.parametrize("ending", [".pt", ".pth", ".th", ".pth.tar"])
    @pytest.mark.parametrize("entry", [None, "state_dict", "model", "net", "ema"])
    def test_wherever_the_state_dict_is(self, tmp_path, factory, ending, entry):
        network = small()
        state = {f"module._orig_mod.{name}": value for name, value in network.state_dict().items()}
        content = state if entry is None else {"epoch": 3, "args": argparse.Namespace(lr=0.1), entry: state}
        torch.save(content, tmp_path / f"net{ending}")
        loaded = checkpoint.load(tmp_path / f"net{ending}", model=f"{factory}:make")
        assert equal(loaded.model.state_dict(), network.state_dict())
        assert (loaded.recipe, loaded.name) == (None, "net")

    def test_scores_kept_as_numpy_numbers_do_no_harm(self, tmp_path, factory):
        torch.save({"best": np.float64(0.9), "state_dict": small().state_dict()}, tmp_path / "net.pt")
        checkpoint.load(tmp_path / "net.pt", model=f"{factory}:make")

    def test_safetensors_without_a_recipe(self, tmp_path, factory):
        network = small()
        safetensors.torch.save_file(network.state_dict(), tmp_path / "net.safetensors")
        loaded = checkpoint.load(tmp_path / "net.safetensors", model=f"{factory}:make")
        assert equal(loaded.model.state_dict(), network.state_dict())
        with refused("does not say which network", "--model"):
            checkpoint.load(tmp_path / "net.safetensors")

    def test_a_part_really_called_module_keeps_its_name(self, tmp_path, factory):
        torch.save({"module.weight": torch.eye(2), "module.bias": torch.zeros(2)}, tmp_path / "net.pt")
        loaded = checkpoint.load(tmp_path / "net.pt", model=f"{factory}:Wrapped")
        assert torch.equal(loaded.model.module.weight, torch.eye(2))

    def test_width_and_classes_of_our_networks_are_read_off_the_weights(self, tmp_path, own):
        torch.save({"state_dict": own.state_dict()}, tmp_path / "net.pth.tar")
        loaded = checkpoint.load(tmp_path / "net.pth.tar", model=MODEL["name"])
        assert equal(loaded.model.state_dict(), own.state_dict())

    def test_a_smoothing_layer_that_would_not_be_placed_is_refused(self, tmp_path, factory):
        torch.save(small().state_dict(), tmp_path / "net.pt")
        for path in (tmp_path / "net.pt", None):
            with refused("--smoothing is for networks of ours"):
                checkpoint.load(path, model=f"{factory}:make", smoothing="blur")

    def test_double_and_half_weights_load_as_float32(self, tmp_path, factory):
        for dtype in (torch.float64, torch.float16):
            torch.save(small().to(dtype).state_dict(), tmp_path / "net.pt")
            loaded = checkpoint.load(tmp_path / "net.pt", model=f"{factory}:make")
            assert {value.dtype for value in loaded.model.parameters()} == {torch.float32}

    def test_double_weights_stay_as_they_are_where_float64_is_asked_for(self, tmp_path, factory):
        state = {name: value.double() * (1 + 1e-10) for name, value in small().state_dict().items()}
        torch.save(state, tmp_path / "net.pt")
        given = [str(tmp_path / "net.pt"), "--model", f"{factory}:make"]
        for more, exact in (([], False), (["--dtype", "float64"], True)):
            arguments = instrument_parser("hessian", "").parse_args([*given, *more])
            loaded = load_checkpoint(arguments, given[0]).model.state_dict()
            assert equal({name: value.double() for name, value in loaded.items()}, state) == exact

    def test_the_global_generator_is_not_moved(self, tmp_path, factory):
        torch.save(small().state_dict(), tmp_path / "net.pt")
        before = torch.get_rng_state()
        checkpoint.load(tmp_path / "net.pt", model=f"{factory}:make")
        assert torch.equal(before, torch.get_rng_state())


class TestBadFiles:
    def test_missing(self, tmp_path):
        with refused("no checkpoint"):
            checkpoint.load(tmp_path / "absent.pt")

    @pytest.mark.parametrize("ending", [".pt", ".safetensors"])
    @pytest.mark.parametrize("content", [b"", b"garbage, not weights", "half"])
    def test_truncated_or_garbage(self, tmp_path, factory, ending, content):
        path = tmp_path / f"net{ending}"
        if content == "half":
            save = torch.save if ending == ".pt" else safetensors.torch.save_file
            save(small().state_dict(), path)
            content = path.read_bytes()[: path.stat().st_size // 2]
        path.write_bytes(content)
        with refused("is not a complete", "checkpoint" if ending == ".pt" else "safetensors") as caught:
            checkpoint.load(path, model=f"{factory}:make")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
    def test_a_pickle_that_would_execute_code_does_not(self, tmp_path, factory, write):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "executed"), "w"))

        write({"state_dict": Evil()}, tmp_path / "evil.pt")
        with refused("evil.pt"):
            checkpoint.load(tmp_path / "evil.pt", model=f"{factory}:make")
        assert not (tmp_path / "executed").exists()

    def test_a_whole_pickled_network(self, tmp_path, factory):
        torch.save(small(), tmp_path / "net.pt")
        with refused("whole network", r"torch\.nn", "more than weights", "state_dict"):
            checkpoint.load(tmp_path / "net.pt", model=f"{factory}:make")

    def test_no_state_dict_inside(self, tmp_path, factory):
        torch.save({"epoch": 3}, tmp_path / "net.pt")
        with refused("holds no state dict", "epoch"):
            checkpoint.load(tmp_path / "net.pt", model=f"{factory}:make")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda state: state.pop("2.bias"), ["has no 2.bias", "1 of 9"]),
            (lambda state: state.update({"3.weight": torch.zeros(1)}), [r"has 3\.weight, which the network lacks"]),
            (lambda state: state.update({"0.weight": torch.zeros(4, 2)}), ["0.weight", r"\(4, 2\)", r"\(4, 3\)"]),
            (lambda state: state["2.weight"].fill_(torch.nan), ["2.weight", "20 non-finite of 20"]),
            (lambda state: state["1.running_var"][0].fill_(torch.inf), ["1.running_var", "1 non-finite of 4"]),
        ],
    )
    def test_weights_that_do_not_fit(self, tmp_path, factory, change, words):
        state = small().state_dict()
        change(state)
        torch.save(state, tmp_path / "net.pt")
        with refused(*words):
            checkpoint.load(tmp_path / "net.pt", model=f"{factory}:make")

    def test_bad_models(self, tmp_path, factory):
        torch.save(small().state_dict(), tmp_path / "net.pt")
        for name, words in {"no_network": ["returned a int"], "fails": ["first second"], "absent": ["has no"]}.items():
            with refused(*words):
                checkpoint.load(tmp_path / "net.pt", model=f"{factory}:{name}")
        with refused("TypeError", "called without arguments"):
            checkpoint.load(tmp_path / "net.pt", model=f"{factory}:wants_width")
        with refused("no convolution"):
            checkpoint.load(tmp_path / "net.pt", model="resnet_dnn_18")
        with refused("2.weight", r"\(5, 4\)", r"\(6, 4\)", "--num-classes"):
            checkpoint.load(tmp_path / "net.pt", model=f"{factory}:make", num_classes=6)

    def test_a_damaged_recipe(self, tmp_path, own):
        for recipe in ("{", json.dumps({"model": 3}), json.dumps([])):
            safetensors.torch.save_file(own.state_dict(), tmp_path / "net.safetensors", {"recipe": recipe})
            with refused("damaged recipe"):
                checkpoint.load(tmp_path / "net.safetensors")
