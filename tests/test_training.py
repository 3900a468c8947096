import copy
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from landscape import checkpoint, data, nets, training
from landscape.command import STOPPED_IN_TIME
from landscape.errors import LandscapeError
from landscape.monitor.record import read_table
from landscape.training import OneCycle, Recipe, Steps, trainer
from landscape.training.cli import main

SET = """
import torch
from landscape.data import Images
from landscape.compute.randomness import generator
def tiny(split):
    stream = generator(5, split)
    labels = torch.arange(52) % 3
    pixels = torch.randint(0, 120, (52, 3, 8, 8), generator=stream) + 60 * labels[:, None, None, None]
    return Images(images=pixels.to(torch.uint8), labels=labels, classes=3, name="tiny", split=split,
                  mean=(0.5,) * 3, std=(0.25,) * 3, crop_padding=1, flip=True)
def wrong(split):
    return torch.zeros(8, 3, 8, 8), torch.arange(8)
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "set.py").write_text(SET)
    return Recipe(
        name="tiny",
        summary="a test",
        model={"name": "resnet_mcdo_smoothing_18", "num_classes": 3, "width": 2},
        data=f"{tmp_path}/set.py:tiny",
        epochs=3,
        batch=16,
        learning_rate=0.05,
        schedule=OneCycle(),
    )


def weights(path):
    return checkpoint.load(path).model.state_dict()


def same_bits(one, other):
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestSchedules:
    def test_paper_steps(self):
        steps = training.recipe("cifar100-paper-resnet_mcdo_18").schedule
        rates = [0.1 * steps.multiplier(step, 10, 200) for step in range(2010)]
        assert rates[:10] == pytest.approx([0.01 * step for step in range(10)])
        for epoch, rate in {
            1: 0.1,
            60: 0.1,
            61: 0.02,
            120: 0.02,
            121: 0.004,
            160: 0.004,
            161: 0.0008,
            200: 0.0008,
        }.items():
            assert rates[epoch * 10 : epoch * 10 + 10] == pytest.approx([rate] * 10), epoch

    def test_a_shorter_run_keeps_the_shape(self):
        steps = Steps(shares=(0.5,), factor=0.1, warmup_epochs=0)
        assert [round(steps.multiplier(epoch, 1, 4), 3) for epoch in range(4)] == [1, 1, 0.1, 0.1]

    def test_one_cycle_rises_to_one_and_falls_to_zero(self):
        shares = [OneCycle(rise=0.25).multiplier(step, 100, 4) for step in range(400)]
        peak = shares.index(max(shares))
        assert 95 <= peak <= 105
        assert max(shares) == pytest.approx(1, abs=1e-2)
        assert shares[:peak] == sorted(shares[:peak])
        assert shares[peak:] == sorted(shares[peak:], reverse=True)
        assert shares[0] < 0.01
        assert shares[-1] < 1e-4


class TestRecipes:
    def test_names(self):
        assert {"digits-plain", "digits-smooth", "cifar100-small-mcdo-mlp"} <= set(training.RECIPES)
        paper = training.recipe("cifar100-paper-resnet_dnn_smoothing_18")
        assert (paper.data, paper.total_epochs, paper.model["num_classes"]) == ("cifar100", 201, 100)
        assert training.parse("digits-plain@4", seed=1)[1] == 4
        assert training.parse("digits-plain", seed=1)[1] == 1

    @pytest.mark.parametrize(
        ("name", "near"),
        [("digit-plain", "digits-plain"), ("cifar100-paper-resnet_mcdo_19", "cifar100-paper-resnet_mcdo_18")],
    )
    def test_unknown_names_are_told_the_near_ones(self, name, near):
        with pytest.raises(LandscapeError, match=f"no recipe {name!r}.*{near}"):
            training.recipe(name)

    def test_a_seed_must_be_a_number(self):
        with pytest.raises(LandscapeError, match="no seed behind"):
            training.parse("digits-plain@x")

    @pytest.mark.parametrize("seed", [-1, 2**63])
    def test_a_seed_that_no_checkpoint_is_read_with_is_refused_before_it_is_trained(self, tmp_path, recipe, seed):
        with pytest.raises(LandscapeError, match="give a whole number from 0"):
            training.ensure(recipe, seed=seed, cache=tmp_path / "cache", quiet=True)
        assert not (tmp_path / "cache").exists()

    def test_a_changed_length_has_a_name_of_its_own(self):
        assert training.recipe("digits-plain").replace(epochs=2).name == "digits-plain-epochs2"
        early = training.recipe("digits-plain-after5")
        assert (early.stop_after, early.epochs, early.name) == (5, 20, "digits-plain-after5")
        with pytest.raises(LandscapeError, match="it can stop after 1 to 19, not after 20"):
            training.recipe("digits-plain-after20")

    def test_the_optimizer_is_part_of_the_recipe(self, recipe):
        by_adam = recipe.replace(optimizer="adam")
        assert by_adam.header(0)["training"]["optimizer"] == "adam"
        assert "optimizer" not in recipe.header(0)["training"]
        with pytest.raises(LandscapeError, match="no optimizer 'lion': choose one of sgd, adam"):
            recipe.replace(optimizer="lion")


class TestTraining:
    def test_header_history_and_seed(self, tmp_path, recipe):
        path = training.train(recipe, tmp_path / "a.safetensors", seed=2, quiet=True)
        loaded = checkpoint.load(path)
        assert loaded.recipe["model"] == recipe.model
        assert loaded.recipe["seed"] == 2
        assert loaded.recipe["training"]["schedule"] == {"kind": "OneCycle", "rise": 0.25, "warmup_epochs": 0}
        assert [epoch["epoch"] for epoch in loaded.history] == [1, 2, 3]
        last = loaded.history[-1]
        squares = sum(float(value.detach().double().square().sum()) for value in loaded.model.parameters())
        assert last["train_l2"] == pytest.approx(recipe.weight_decay / 2 * squares)
        assert last["train_cross_entropy"] < loaded.history[0]["train_cross_entropy"]
        assert 0 <= last["test_accuracy"] <= 1
        again = training.train(recipe, tmp_path / "b.safetensors", seed=2, quiet=True)
        other = training.train(recipe, tmp_path / "c.safetensors", seed=3, quiet=True)
        assert same_bits(path, again)
        assert not same_bits(path, other)

    def test_adam_takes_adams_steps(self, tmp_path, recipe):
        # Its first step moves every weight that has a gradient by the rate, whatever the gradient's size.
        one = recipe.replace(optimizer="adam", batch=52, epochs=1, weight_decay=0.0, schedule=Steps((), 1, 0))
        path = training.train(one, tmp_path / "a.safetensors", compute="float32", quiet=True)
        before = {name: value.detach() for name, value in nets.build(**recipe.model, seed=0).named_parameters()}
        moved = torch.cat(
            [(value - before[name]).abs().flatten() for name, value in weights(path).items() if name in before]
        )
        assert float(moved.max()) == pytest.approx(one.learning_rate, rel=1e-3)
        assert float((moved > 0.9 * one.learning_rate).double().mean()) > 0.5

    def test_a_stopped_training_is_the_whole_one_at_an_earlier_moment(self, tmp_path, recipe):
        early = training.train(recipe.replace(stop_after=2), tmp_path / "early.safetensors", quiet=True)
        assert training.find(recipe, cache=tmp_path) is None
        training.train(recipe, tmp_path / recipe.file_name(0), series=True, quiet=True)
        assert recipe.series == (1, 2)
        kept = training.find(recipe.replace(stop_after=2), cache=tmp_path)
        assert kept == tmp_path / "tiny-after2-seed0.safetensors"
        assert same_bits(early, kept)
        assert training.find(recipe, cache=tmp_path) == tmp_path / "tiny-seed0.safetensors"

    def test_a_watched_training_has_the_same_bits(self, tmp_path, recipe, monkeypatch):
        monkeypatch.setattr("landscape.training.trainer._EVERY", 3)
        monkeypatch.setattr("landscape.training.trainer._BUDGET", None)
        alone = training.train(recipe, tmp_path / "alone.safetensors", quiet=True)
        path = tmp_path / "watched.safetensors"
        steps = []
        while training.train(recipe, path, monitor=True, max_seconds=0, quiet=True) is None:
            steps.append([int(row["step"]) for row in read_table(tmp_path / "watched.curvature.csv")])
        assert same_bits(alone, path)
        # Four steps per epoch; what was measured before an interruption is kept.
        assert steps == [[3], [3, 6]]
        rows = read_table(tmp_path / "watched.curvature.csv")
        assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
        assert all(row["largest_eigenvalue"] > 0 and row["l2"] > 0 for row in rows)

    def test_the_global_generator_is_neither_read_nor_moved(self, tmp_path, recipe):
        before = torch.get_rng_state()
        one = training.train(recipe.replace(epochs=1), tmp_path / "a.safetensors", quiet=True)
        assert torch.equal(before, torch.get_rng_state())
        torch.rand(3)
        assert same_bits(one, training.train(recipe.replace(epochs=1), tmp_path / "b.safetensors", quiet=True))

    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    def test_stopped_in_time_and_continued_gives_the_same_bits(self, tmp_path, recipe, optimizer):
        recipe = recipe.replace(optimizer=optimizer)
        whole = training.train(recipe, tmp_path / "whole.safetensors", quiet=True)
        path = tmp_path / "parts.safetensors"
        calls = [training.train(recipe, path, max_seconds=0, quiet=True) for _ in range(3)]
        assert calls == [None, None, path]
        assert same_bits(whole, path)
        assert sorted(file.name for file in tmp_path.glob("parts*")) == ["parts.safetensors"]

    def test_killed_and_started_again_gives_the_same_bits(self, tmp_path, recipe):
        whole = training.train(recipe, tmp_path / "whole.safetensors", quiet=True)
        path, state = tmp_path / "killed.safetensors", tmp_path / "killed.safetensors.state"
        program = (
            "import sys, torch; torch.set_num_threads(int(sys.argv[2]))\n"
            "from landscape import training; from landscape.training import OneCycle, Recipe\n"
            f"training.train({recipe!r}, __import__('pathlib').Path(sys.argv[1]), quiet=True)\n"
        )
        command = [sys.executable, "-c", program, str(path), str(torch.get_num_threads())]
        process = subprocess.Popen(command)
        while not state.exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the training ended before it could be killed"
        assert not path.exists()
        subprocess.run(command, check=True)
        assert same_bits(whole, path)

    def test_a_state_of_another_training_is_not_continued(self, tmp_path, recipe):
        path = tmp_path / "a.safetensors"
        assert training.train(recipe, path, seed=1, max_seconds=0, quiet=True) is None
        training.train(recipe, path, seed=2, quiet=True)
        assert same_bits(path, training.train(recipe, tmp_path / "b.safetensors", seed=2, quiet=True))

    def test_a_damaged_state_is_told(self, tmp_path, recipe):
        (tmp_path / "a.safetensors.state").write_bytes(b"garbage")
        with pytest.raises(LandscapeError, match=r"a\.safetensors\.state is damaged.*delete it"):
            training.train(recipe, tmp_path / "a.safetensors", quiet=True)

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.6, 0.85, 0.999])
    def test_one_flipped_bit_of_a_state_is_told(self, tmp_path, recipe, share):
        path, state = tmp_path / "a.safetensors", tmp_path / "a.safetensors.state"
        training.train(recipe.replace(model={**recipe.model, "width": 1}), path, max_seconds=0, quiet=True)
        content = bytearray(state.read_bytes())
        content[int(share * len(content))] ^= 4
        state.write_bytes(content)
        with pytest.raises(LandscapeError, match=r"a\.safetensors\.state is damaged.*delete it"):
            training.train(recipe.replace(model={**recipe.model, "width": 1}), path, quiet=True)

    def test_a_state_of_another_precision_is_refused(self, tmp_path, recipe):
        path = tmp_path / "a.safetensors"
        training.train(recipe, path, max_seconds=0, compute="float32", quiet=True)
        with pytest.raises(LandscapeError, match="begun with precision float32, not bfloat16"):
            training.train(recipe, path, compute="bfloat16", quiet=True)

    def test_a_diverging_training_says_so_and_leaves_no_checkpoint(self, tmp_path, recipe):
        with pytest.raises(LandscapeError, match="diverged in epoch"):
            training.train(recipe.replace(learning_rate=1e12), tmp_path / "a.safetensors", quiet=True)
        assert not list(tmp_path.glob("a.*"))

    def test_labels_beyond_the_network(self, tmp_path, recipe):
        wrong = recipe.replace(data=recipe.data.replace(":tiny", ":wrong"))
        with pytest.raises(LandscapeError, match="label 3 of image 3"):
            training.train(wrong, tmp_path / "a.safetensors", quiet=True)

    def test_it_learns_digits(self, tmp_path):
        recipe = training.recipe("digits-deterministic").replace(
            epochs=3, model={"name": "resnet_dnn_18", "num_classes": 10, "width": 8}
        )
        path = training.train(recipe, tmp_path / "a.safetensors", quiet=True)
        assert checkpoint.read_history(path)[-1]["test_accuracy"] > 0.85
        # The stored network, in float32, is the one that was scored.
        test = data.load("digits", "test")
        with torch.no_grad():
            outputs = checkpoint.load(path).model(test.batch(0, len(test)))
        accuracy = (outputs.argmax(1) == test.labels).double().mean()
        assert float(accuracy) == pytest.approx(checkpoint.read_history(path)[-1]["test_accuracy"], abs=0.02)


class TestCache:
    def test_trained_once(self, tmp_path, recipe):
        path = training.ensure(recipe.replace(epochs=1), cache=tmp_path, quiet=True)
        stamp = path.stat().st_mtime_ns
        assert training.ensure(recipe.replace(epochs=1), cache=tmp_path, quiet=True) == path
        assert path.stat().st_mtime_ns == stamp

    def test_a_file_of_another_recipe_or_seed_does_not_count(self, tmp_path, recipe):
        short = recipe.replace(epochs=1)
        path = training.ensure(short, cache=tmp_path, quiet=True)
        assert training.find(short, cache=tmp_path) == path
        assert training.find(short.replace(weight_decay=1e-3), cache=tmp_path) is None
        assert training.find(short, seed=1, cache=tmp_path) is None
        path.write_bytes(b"cut off")
        assert training.find(short, cache=tmp_path) is None

    def test_the_repositorys_own_are_found(self, tmp_path, recipe, monkeypatch):
        short = recipe.replace(epochs=1)
        kept = training.train(short, tmp_path / "reference" / "some" / "tiny-epochs1-seed0.safetensors", quiet=True)
        monkeypatch.setattr("landscape.training.cache.REFERENCE", tmp_path / "reference")
        assert training.find(short, cache=tmp_path / "cache") == kept

    @pytest.mark.skipif(not training.REFERENCE.is_dir(), reason="this installation has no reference checkpoints")
    def test_the_repositorys_own_are_of_todays_recipes(self):
        for file in training.REFERENCE.glob("**/*.safetensors"):
            made_by = checkpoint.read_recipe(file)
            assert training.find(training.recipe(made_by["recipe"]), seed=made_by["seed"], cache="absent") == file


class TestCommand:
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (["digits-plane"], "no recipe 'digits-plane'.*digits-plain"),
            ([], "no recipe named"),
            (["digits-plain", "--device", "cuda:77"], "cuda:77"),
            (["cifar100-small-mcdo@77", "--data-root", "FOLDER", "--cache", "FOLDER"], "no cifar100 under"),
            (["digits-plain", "--epochs", "0"], "epochs.*0 is not"),
            (["digits-plain", "--cache", "FOLDER/file", "--epochs", "1"], "cannot write"),
        ],
    )
    def test_bad_input(self, tmp_path, given, words):
        (tmp_path / "file").write_text("")
        given = [argument.replace("FOLDER", str(tmp_path)) for argument in given]
        with pytest.raises(LandscapeError, match=words) as caught:
            main([*given, "--quiet"])
        assert "\n" not in str(caught.value)
        assert [file.name for file in tmp_path.iterdir()] == ["file"]

    def test_bad_input_leaves_with_status_2_and_one_line(self):
        done = subprocess.run(
            [sys.executable, "-m", "landscape.training", "digits-plane"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: no recipe")
        assert done.stderr.count("\n") == 1

    def test_stop_in_time_then_json(self, tmp_path, recipe, monkeypatch, capsys):
        monkeypatch.setitem(training.RECIPES, "tiny", recipe)
        common = ["tiny@1", "--epochs", "2", "--cache", str(tmp_path / "cache"), "--quiet", "--json", "--half"]
        # One deadline for all: the second network is not begun.
        assert main(["tiny@1", "tiny@2", *common[1:], "--max-seconds", "0"]) == STOPPED_IN_TIME
        assert [file.name for file in (tmp_path / "cache").iterdir()] == ["tiny-epochs2-seed1.safetensors.state"]
        shown = capsys.readouterr()
        assert json.loads(shown.out) == {"checkpoints": [], "finished": False}
        assert "the same command resumes" in shown.err
        assert main(common) == 0
        (row,) = json.loads(capsys.readouterr().out)["checkpoints"]
        assert (row["recipe"], row["seed"], row["epoch"]) == ("tiny-epochs2", 1, 2)
        assert os.path.getsize(row["checkpoint"]) < 60_000

    def test_list(self, capsys):
        assert main(["--list"]) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in ("digits-plain", "cifar100-paper-MODEL"))


class TestRecordedSteps:
    """Recordings are CUDA's: here each replay is the step, taken by a stand-in, so that all around it is tested."""

    @pytest.fixture
    def graphs(self, monkeypatch):
        """Stand-ins for CUDA graphs, of which nothing happens while they are recorded."""
        made = []

        class Graph:
            def register_generator_state(self, masks):
                self.masks = masks

            def replay(self):
                self.replays += 1
                found = self.recording._update(self.recording._raw, self.recording._labels, self.masks)
                for kept, value in zip(self.recording._found, found, strict=True):
                    kept.copy_(value)

        class Capture:
            def __init__(self, graph):
                self.graph = graph

            def __enter__(self):
                # The recording is what this context is entered in.
                self.graph.recording = sys._getframe(1).f_locals["self"]
                self.graph.replays = 0
                made_of = self.graph.recording
                self.state = copy.deepcopy((made_of._model.state_dict(), made_of._optimizer.state_dict()))

            def __exit__(self, *error):
                self.graph.recording._model.load_state_dict(self.state[0])
                self.graph.recording._optimizer.load_state_dict(self.state[1])
                made.append(self.graph)

        monkeypatch.setattr(trainer, "_records", lambda device: True)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Capture)
        monkeypatch.setattr(trainer, "_BEFORE_RECORDING", 2)
        return made

    def test_a_training_of_replays_has_the_bits_of_one_of_steps(self, tmp_path, recipe, graphs, monkeypatch):
        recorded = training.train(recipe, tmp_path / "recorded.safetensors", quiet=True)
        (graph,) = graphs
        # Of 12 steps, three are smaller batches and two come before it; once it is compared with a step.
        assert graph.replays == 12 - 3 - 2 + 1
        monkeypatch.setattr(trainer, "_records", lambda device: False)
        # The rate of a recording is a number in float32.
        set_rate = trainer._Run.set_rate
        monkeypatch.setattr(trainer._Run, "set_rate", lambda run, rate: set_rate(run, float(torch.tensor(rate))))
        stepped = training.train(recipe, tmp_path / "stepped.safetensors", quiet=True)
        first, second = weights(recorded), weights(stepped)
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-5)

    def test_a_recording_that_is_not_the_step_is_not_used(self, tmp_path, recipe, graphs, monkeypatch, caplog):
        monkeypatch.setattr(trainer.Recording, "difference", lambda self: 0.5)
        caplog.set_level("INFO")
        training.train(recipe, tmp_path / "a.safetensors", quiet=True)
        assert graphs[0].replays == 0
        assert "not recorded: a recorded one is off by 50.0%" in caplog.text

    def test_the_comparison_sees_other_masks_and_takes_no_step(self, recipe, graphs):
        images, test = (data.load(recipe.data, split) for split in ("train", "test"))
        run = trainer._Run.begun(recipe, 0, images, test, torch.float32)
        for step in range(3):
            run.set_rate(0.05)
            run.step(images.images[:16], images.labels[:16], 0, step)
        before = copy.deepcopy(run.model.state_dict())
        assert run.recording.difference() < 1e-6
        run.recording._graph.masks = torch.Generator().manual_seed(77)
        assert run.recording.difference() > trainer._SAME_STEP
        assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())

    def test_what_cannot_be_recorded_is_stepped(self, tmp_path, recipe, graphs, monkeypatch, caplog):
        def refuse(graph):
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

        monkeypatch.setattr(torch.cuda, "graph", refuse)
        caplog.set_level("INFO")
        assert training.train(recipe, tmp_path / "a.safetensors", quiet=True)
        assert caplog.text.count("not recorded: operation not permitted") == 1
