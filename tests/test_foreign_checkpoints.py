"""Checkpoints as other tools write them, each built the way its tool does."""

import argparse
import json
import logging
import re
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from landscape import checkpoint, nets
from landscape.checkpoint.building import from_factory
from landscape.compute.randomness import generator
from landscape.errors import LandscapeError
from landscape.hessian.cli import main as hessian

NETWORK = """
import torch
from torch import nn
from torch.nn import functional

class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return functional.relu(self.bn1(self.conv1(x)))

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.layer1 = nn.Sequential(Block(3, 4, 1), Block(4, 4, 2))
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.layer1(x).mean((2, 3)))

def make():
    return Net()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    return tmp_path


@pytest.fixture
def network(folder):
    """Weights away from their initial values, statistics too."""
    model = from_factory("net.py:make", None)
    source = generator(0, "foreign")
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=source) + 0.1)
    return model.eval()


def outputs(model):
    images = torch.randn(3, 3, 8, 8, generator=generator(0, "images"))
    with torch.no_grad():
        return model(images)


def same(loaded, network):
    return torch.equal(outputs(loaded.model), outputs(network))


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def optimizer_of(network):
    optimizer = torch.optim.AdamW(network.parameters())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.zeros(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    network.load_state_dict(before)
    return optimizer.state_dict()


class TestLayouts:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda net: nn.DataParallel(net).state_dict(),
            lambda net: torch.compile(net).state_dict(),
            lambda net: nn.DataParallel(torch.compile(net)).state_dict(),
            lambda net: AveragedModel(net).state_dict(),
            lambda net: prefixed("model.", net.state_dict()),
            lambda net: prefixed("module.model.backbone.net.", net.state_dict()),
            lambda net: prefixed("any name of theirs.", net.state_dict()),
            lambda net: {
                re.sub(r"(layer1\.\d)\.", r"\1._orig_mod.", name): value for name, value in net.state_dict().items()
            },
        ],
    )
    def test_wrappers_of_any_name(self, network, wrap):
        torch.save(wrap(network), "net.pth")
        assert same(checkpoint.load("net.pth", model="net.py:make"), network)

    def test_a_network_that_wraps_what_the_file_has_bare(self, network, folder):
        (folder / "outer.py").write_text(
            "from torch import nn\nfrom net import Net\nclass Outer(nn.Module):\n    def __init__(self):\n"
            "        super().__init__()\n        self.inner = Net()\n"
            "    def forward(self, x):\n        return self.inner(x)\n"
        )
        torch.save(network.state_dict(), "net.pth")
        assert same(checkpoint.load("net.pth", model="outer.py:Outer"), network)

    def test_lightning(self, network, caplog):
        state = {**prefixed("model.", network.state_dict()), "criterion.weight": torch.ones(10)}
        content = {
            "epoch": 3,
            "global_step": 1200,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": state,
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 4}}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.3)}},
            "optimizer_states": [optimizer_of(network)],
            "lr_schedulers": [{"last_epoch": 3}],
            "hparams_name": "kwargs",
            "hyper_parameters": {"lr": 0.1, "space": argparse.Namespace(a=1)},
        }
        torch.save(content, "epoch=3.ckpt")
        with caplog.at_level(logging.INFO, "landscape.checkpoint"):
            loaded = checkpoint.load("epoch=3.ckpt", model="net.py:make")
        assert same(loaded, network)
        (line,) = [record.getMessage() for record in caplog.records if "not used" in record.getMessage()]
        assert "1 tensors that the network has no place for (criterion.weight)" in line
        assert re.search(r"\d other entries \(epoch, global_step", line)

    def test_timm_with_an_average_takes_the_plain_weights(self, network):
        average = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
        content = {
            "epoch": 9,
            "arch": "resnet18",
            "state_dict_ema": average,
            "state_dict": network.state_dict(),
            "optimizer": optimizer_of(network),
            "version": 2,
            "args": argparse.Namespace(model="resnet18", lr=0.1),
            "amp_scaler": {"scale": 65536.0},
            "metric": np.float64(77.1),
        }
        torch.save(content, "checkpoint-9.pth.tar")
        assert same(checkpoint.load("checkpoint-9.pth.tar", model="net.py:make"), network)
        del content["state_dict"]
        torch.save(content, "checkpoint-9.pth.tar")
        assert not outputs(checkpoint.load("checkpoint-9.pth.tar", model="net.py:make").model).any()

    def test_an_average_in_the_same_dictionary(self, network):
        average = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
        torch.save(
            {
                "initted": torch.tensor(True),
                **prefixed("online_model.", network.state_dict()),
                **prefixed("ema_model.", average),
            },
            "ema.pt",
        )
        assert same(checkpoint.load("ema.pt", model="net.py:make"), network)

    def test_accelerate_folders(self, network, folder):
        state = network.state_dict()
        (folder / "whole").mkdir()
        safetensors.torch.save_file(state, folder / "whole" / "model.safetensors", {"format": "pt"})
        torch.save(optimizer_of(network), folder / "whole" / "optimizer.bin")
        assert same(checkpoint.load("whole", model="net.py:make"), network)
        (folder / "shards").mkdir()
        names = list(state)
        files = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
        for file, part in files.items():
            safetensors.torch.save_file({name: state[name] for name in part}, folder / "shards" / file)
        index = {
            "metadata": {"total_size": 1},
            "weight_map": {name: file for file, part in files.items() for name in part},
        }
        (folder / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
        loaded = checkpoint.load("shards", model="net.py:make")
        assert same(loaded, network)
        assert loaded.name == "shards"
        assert loaded.sha256 != checkpoint.load("whole", model="net.py:make").sha256

    @pytest.mark.parametrize("shard", ["../net.safetensors", "/etc/passwd", 3, "absent.safetensors"])
    def test_an_index_cannot_lead_elsewhere(self, network, folder, shard):
        (folder / "shards").mkdir()
        safetensors.torch.save_file(network.state_dict(), folder / "net.safetensors")
        (folder / "shards" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"fc.bias": shard}}))
        with pytest.raises(LandscapeError, match="is not in"):
            checkpoint.load("shards", model="net.py:make")

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_all_versions_of_torch_save(self, network, zipped, protocol):
        content = {
            "model": network.state_dict(),
            "rng": torch.get_rng_state(),
            "best": np.float64(0.3),
            "tags": {"a", "b"},
        }
        torch.save(content, "net.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        assert same(checkpoint.load("net.pt", model="net.py:make"), network)

    def test_parameters_views_and_non_contiguous_tensors(self, network):
        state = dict(network.named_parameters()) | dict(network.named_buffers())
        state = {name: value.detach().mT.contiguous().mT if value.ndim > 1 else value for name, value in state.items()}
        state["fc.weight"] = nn.Parameter(torch.stack([network.fc.weight.detach()] * 3)[1])
        torch.save(state, "net.pt")
        assert same(checkpoint.load("net.pt", model="net.py:make"), network)


class TestWhatIsMissingOrMore:
    def test_counters_of_old_batch_norms_are_filled_and_said(self, network, caplog):
        state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
        torch.save(state, "net.pth")
        with caplog.at_level(logging.INFO, "landscape.checkpoint"):
            assert same(checkpoint.load("net.pth", model="net.py:make"), network)
        assert "lacks 2 buffers" in caplog.text

    def test_statistics_are_never_filled(self, network):
        state = network.state_dict()
        del state["layer1.1.bn1.running_var"]
        torch.save(state, "net.pth")
        with pytest.raises(LandscapeError, match=r"has no layer1\.1\.bn1\.running_var.*1 of 14"):
            checkpoint.load("net.pth", model="net.py:make")

    def test_buffers_that_follow_from_the_network_are_filled_and_others_not(self, folder):
        (folder / "buffers.py").write_text(
            "import torch\nfrom torch import nn\n"
            "class Fixed(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2)\n"
            "        self.register_buffer('mean', torch.tensor([0.5, 0.25]))\n"
            "        self.register_buffer('index', torch.arange(3))\n"
            "class Drawn(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2)\n"
            "        self.register_buffer('u', torch.randn(2))\n"
        )
        torch.save(nn.Linear(2, 2).state_dict(), "net.pt")
        loaded = checkpoint.load("net.pt", model="buffers.py:Fixed").model
        assert loaded.mean.tolist() == [0.5, 0.25]
        with pytest.raises(LandscapeError, match="has no u"):
            checkpoint.load("net.pt", model="buffers.py:Drawn")

    def test_tied_weights(self, folder):
        (folder / "tied.py").write_text(
            "from torch import nn\nclass Tied(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.embed = nn.Embedding(7, 3)\n        self.head = nn.Linear(3, 7, bias=False)\n"
            "        self.head.weight = self.embed.weight\n"
        )
        weight = torch.arange(21.0).view(7, 3)
        for state in (
            {"embed.weight": weight},
            {"head.weight": weight},
            {"embed.weight": weight, "head.weight": weight},
        ):
            torch.save(state, "net.pt")
            loaded = checkpoint.load("net.pt", model="tied.py:Tied").model
            assert torch.equal(loaded.embed.weight, weight)
            assert loaded.head.weight is loaded.embed.weight
        torch.save({"embed.weight": weight, "head.weight": weight + 1}, "net.pt")
        with pytest.raises(LandscapeError, match="one tensor in the network and two in"):
            checkpoint.load("net.pt", model="tied.py:Tied")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions(self, network, dtype):
        torch.save(network.to(dtype).state_dict(), "net.pt")
        loaded = checkpoint.load("net.pt", model="net.py:make").model
        assert {value.dtype for value in loaded.parameters()} == {torch.float32}
        assert torch.equal(loaded.fc.weight, network.fc.weight.float())

    @pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool, torch.float8_e4m3fn])
    def test_types_that_are_no_weights(self, network, dtype):
        state = network.state_dict()
        state["fc.weight"] = state["fc.weight"].to(dtype)
        torch.save(state, "net.pt")
        with pytest.raises(LandscapeError, match=str(dtype).removeprefix("torch.")):
            checkpoint.load("net.pt", model="net.py:make")

    def test_an_auxiliary_head_is_counted_and_a_deeper_network_refused(self, network, caplog):
        state = network.state_dict()
        torch.save({**state, "aux.0.weight": torch.zeros(3, 3), "aux.0.bias": torch.zeros(3)}, "net.pt")
        assert same(checkpoint.load("net.pt", model="net.py:make"), network)
        assert "2 tensors that the network has no place for (aux.0.weight, aux.0.bias)" in caplog.text
        for name in ("layer1.2.conv1.weight", "layer2.0.conv1.weight"):
            torch.save({**state, name: torch.zeros(4, 4, 3, 3)}, "net.pt")
            with pytest.raises(LandscapeError, match=re.escape(name)):
                checkpoint.load("net.pt", model="net.py:make")

    def test_a_deeper_sequential_is_refused(self, folder):
        (folder / "plain.py").write_text(
            "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(2, 2))\n"
        )
        torch.save(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict(), "net.pt")
        with pytest.raises(LandscapeError, match=r"has 1\.weight, which the network lacks"):
            checkpoint.load("net.pt", model="plain.py:make")


RESNET20 = """
import torch.nn as nn
import torch.nn.functional as F

class LambdaLayer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)

class BasicBlock(nn.Module):
    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = LambdaLayer(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4)))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return F.relu(out)

class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, planes in enumerate((16, 32, 64), start=1):
            blocks = []
            for place in range(3):
                blocks.append(BasicBlock(inputs, planes, 2 if stage > 1 and place == 0 else 1))
                inputs = planes
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))

def resnet20():
    return ResNet()
"""


def test_the_public_resnet20_as_its_tool_writes_it(folder, capsys):
    """DataParallel's names, batch norms that do not count, the entries of its trainer, torch's old format, ``.th``."""
    (folder / "resnet.py").write_text(RESNET20)
    model = from_factory("resnet.py:resnet20", None)
    state = {name: value for name, value in nn.DataParallel(model).state_dict().items() if "num_batches" not in name}
    assert len(state) == 97
    torch.save({"state_dict": state, "best_prec1": 91.25}, "resnet20.th", _use_new_zipfile_serialization=False)
    torch.save(model.state_dict(), "converted.pth")
    images = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    np.savez("images.npz", images=images, labels=np.arange(4))
    found = []
    for file in ("resnet20.th", "converted.pth"):
        common = ["--model", "resnet.py:resnet20", "--data", "images.npz", "--top", "1", "--only", "top"]
        assert hessian([file, *common, "--json", "--quiet"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["eigenvalues"] == found[1]["eigenvalues"]


class TestOurs:
    @pytest.mark.parametrize(
        "name", ["resnet_dnn_18", "resnext_dnn_50", "preresnet_dnn_50", "vgg_dnn_11", "alexnet_dnn"]
    )
    def test_weights_alone_are_recognised(self, folder, name, caplog):
        model = nets.build(name, num_classes=7, width=2)
        torch.save(prefixed("module.", model.state_dict()), "net.pth")
        loaded = checkpoint.load("net.pth").model
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert f"recognised as {name}, width 2, 7 classes" in caplog.text
        assert name.replace("dnn", "dnn_smoothing") in caplog.text

    @pytest.mark.parametrize(("head", "stem"), [("mlp", True), ("gap-mlp", False)])
    def test_heads_and_stems_are_recognised(self, folder, head, stem):
        model = nets.build("resnet_dnn_18", num_classes=7, width=2, head=head, stem=stem)
        torch.save(model.state_dict(), "net.pth")
        assert {name: value.shape for name, value in checkpoint.load("net.pth").model.state_dict().items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }

    def test_the_authors_files_say_their_network(self, folder):
        model = nets.build("resnet_mcdo_smoothing_18", num_classes=7, width=2)
        torch.save({"name": "resnet_mcdo_smoothing_18", "state_dict": model.state_dict()}, "net.pth.tar")
        loaded = checkpoint.load("net.pth.tar").model
        assert any(isinstance(module, nets.MCDropout) for module in loaded.modules())
        assert len(loaded.smooth1) == 1
        torch.save({"name": "os:_exit", "state_dict": model.state_dict()}, "net.pth.tar")
        assert len(checkpoint.load("net.pth.tar").model.smooth1) == 0

    @pytest.mark.parametrize("name", ["resnet_dnn_18", "resnet_dnn_50", "resnext_mcdo_50"])
    def test_the_follow_up_papers_blocks(self, folder, name):
        model = nets.build(name, num_classes=7, width=2)
        state = {}
        for key, value in model.state_dict().items():
            key = re.sub(r"(layer\d\.\d+)\.conv(\d)\.", r"\1.conv\2.0.", key)
            state[re.sub(r"(layer\d\.\d+)\.bn(\d)\.", r"\1.conv\2.1.", key)] = value
        torch.save(state, "net.pth")
        for given in (name, None):
            loaded = checkpoint.load("net.pth", model=given).model.state_dict()
            assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())

    def test_a_wrong_network_is_named(self, network, folder):
        torch.save(nets.build("resnet_dnn_18", num_classes=100, width=16).state_dict(), "net.pth")
        for model in ("resnet_dnn_34", "vgg_dnn_11", "net.py:make"):
            with pytest.raises(LandscapeError, match="these are the weights of resnet_dnn_18, width 16, 100 classes"):
                checkpoint.load("net.pth", model=model)
        torch.save(network.state_dict(), "net.pth")
        with pytest.raises(LandscapeError, match="does not say which network"):
            checkpoint.load("net.pth")

    def test_a_damaged_one_is_not_recognised(self, folder):
        state = nets.build("resnet_dnn_18", num_classes=100, width=16).state_dict()
        state["layer2.0.conv1.weight"] = torch.zeros(3)
        torch.save(state, "net.pth")
        with pytest.raises(LandscapeError, match="nearest is resnet_dnn_18, width 16, 100 classes"):
            checkpoint.load("net.pth")


class TestOwnCode:
    def test_a_repository_with_its_imports(self, network, folder):
        repo = folder / "repo"
        (repo / "models").mkdir(parents=True)
        (repo / ".git").mkdir()
        (repo / "models" / "__init__.py").write_text("")
        (repo / "models" / "blocks.py").write_text(NETWORK)
        (repo / "utils.py").write_text("from models.blocks import Net\n")
        (repo / "models" / "absolute.py").write_text("from models.blocks import Net\ndef f():\n    return Net()\n")
        (repo / "models" / "sibling.py").write_text("import blocks\ndef f():\n    return blocks.Net()\n")
        (repo / "models" / "relative.py").write_text(
            "from .blocks import Net\nfrom . import blocks\ndef f():\n    return Net()\n"
        )
        (repo / "models" / "root.py").write_text("import utils\ndef f():\n    return utils.Net()\n")
        torch.save(network.state_dict(), "net.pth")
        path, modules = list(sys.path), set(sys.modules)
        for name in ("absolute", "sibling", "relative", "root"):
            assert same(checkpoint.load("net.pth", model=f"repo/models/{name}.py:f"), network), name
        assert sys.path == path
        assert all(
            name.split(".")[0] in ("models", "blocks", "utils") or "user" in name for name in set(sys.modules) - modules
        )

    def test_two_repositories_with_modules_of_one_name(self, folder):
        for number in (1, 2):
            repo = folder / f"repo{number}"
            (repo / "models").mkdir(parents=True)
            (repo / "pyproject.toml").write_text("")
            (repo / "models" / "parts.py").write_text(f"from torch import nn\nSIZE = {number}\n")
            (repo / "models" / "net.py").write_text(
                "from models.parts import SIZE\nfrom torch import nn\ndef f():\n    return nn.Linear(SIZE, SIZE)\n"
            )
            (repo / "models" / "rel.py").write_text(
                "from .parts import SIZE\nfrom torch import nn\nf = lambda: nn.Linear(SIZE, SIZE)\n"
            )
        for number in (1, 2, 1):
            for file in ("net", "rel"):
                model = checkpoint.load(None, model=f"repo{number}/models/{file}.py:f").model
                assert model.in_features == number

    def test_a_file_without_a_name_or_with_a_wrong_one_lists_what_it_offers(self, folder, network):
        torch.save(network.state_dict(), "net.pth")
        with pytest.raises(LandscapeError, match=r"write net\.py:NAME \(it offers Block, Net, make\)"):
            checkpoint.load("net.pth", model="net.py")
        with pytest.raises(LandscapeError, match=r"has no 'Nett'.*it offers Block, Net, make"):
            checkpoint.load("net.pth", model="net.py:Nett")
        with pytest.raises(LandscapeError, match=r"no file absent\.py"):
            checkpoint.load("net.pth", model="absent.py")

    def test_a_factory_with_weights_needs_no_checkpoint(self, folder, network, capsys):
        torch.save(network.state_dict(), "weights.pth")
        (folder / "trained.py").write_text(
            "import torch\nfrom net import Net\ndef best():\n    model = Net()\n"
            "    model.load_state_dict(torch.load('weights.pth', weights_only=True))\n    return model\n"
        )
        loaded = checkpoint.load(model="trained.py:best")
        assert same(loaded, network)
        assert loaded.name == "trained-best"
        np.savez("images.npz", images=np.zeros((4, 3, 8, 8), np.float32), labels=np.arange(4))
        assert hessian(["--model", "trained.py:best", "--data", "images.npz", "--plan"]) == 0
        for arguments in ({}, {"model": "resnet_dnn_18"}):
            with pytest.raises(LandscapeError, match="no checkpoint: give a file"):
                checkpoint.load(**arguments)

    def test_a_whole_pickled_network_is_refused_with_two_lines_that_work(self, folder):
        model = nn.Sequential(nn.Linear(2, 3))
        for content in (model, {"epoch": 3, "model": model}, {"model": model, "optimizer": optimizer_state(model)}):
            torch.save(content, "whole.pt")
            with pytest.raises(LandscapeError, match="holds a whole network") as caught:
                checkpoint.load("whole.pt", model="net.py:make")
            first, second = re.search(r"(model = torch\.load.*?\)); (torch\.save\(.*?'\))", str(caught.value)).groups()
            assert first == "model = torch.load('whole.pt', weights_only=False)"
            assert second == "torch.save(model.state_dict(), 'whole-weights.pth')"


def optimizer_state(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


class TestTransformers:
    @pytest.fixture
    def transformers(self):
        return pytest.importorskip("transformers")

    @pytest.fixture
    def saved(self, transformers, folder):
        config = transformers.ViTConfig(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
            num_labels=5,
        )
        model = transformers.ViTForImageClassification(config).eval()
        model.save_pretrained(folder / "vit")
        return model

    def test_a_folder_that_save_pretrained_wrote(self, saved, folder):
        loaded = checkpoint.load("vit", model="hf:auto")
        images = torch.randn(2, 3, 8, 8, generator=generator(0, "images"))
        with torch.no_grad():
            assert torch.allclose(loaded.model(images).logits, saved(images).logits, atol=1e-6)
        with pytest.raises(LandscapeError, match="--model hf:auto"):
            checkpoint.load("vit")
        np.savez("images.npz", images=images.numpy(), labels=np.arange(2))
        assert hessian(["vit", "--model", "hf:auto", "--data", "images.npz", "--plan"]) == 0

    def test_sharded_and_half(self, saved, folder):
        saved.half().save_pretrained(folder / "parts", max_shard_size="2KB")
        assert len(list((folder / "parts").glob("*.safetensors"))) > 1
        loaded = checkpoint.load("parts", model="hf:auto").model
        assert torch.equal(loaded.classifier.weight, saved.classifier.weight.float())

    def test_tied_language_model(self, transformers, folder):
        config = transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=50, n_positions=16)
        model = transformers.GPT2LMHeadModel(config).eval()
        model.save_pretrained(folder / "gpt")
        loaded = checkpoint.load("gpt", model="hf:auto").model
        tokens = torch.arange(6)[None]
        with torch.no_grad():
            assert torch.allclose(loaded(tokens).logits, model(tokens).logits, atol=1e-6)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
            ({"hidden_size": 10**9}, "hidden_size"),
            ({"hidden_size": 2**20, "intermediate_size": 2**20}, "describes"),
            ({"model_type": "mine", "auto_map": {"AutoConfig": "payload.Config"}}, "does not have"),
            ({"architectures": ["Payload"]}, "does not have"),
            ({"architectures": ["pipeline"]}, "does not have"),
            ({"architectures": None}, "does not have"),
            ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
            ({"hidden_act": "os:_exit"}, "cannot be built"),
            ({"hidden_size": "wide"}, "cannot be built"),
        ],
    )
    def test_a_configuration_cannot_lead_elsewhere(self, saved, folder, change, words):
        path = folder / "vit" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        (folder / "vit" / "payload.py").write_text("open('ran', 'w').close()\n")
        with pytest.raises(LandscapeError, match=words):
            checkpoint.load("vit", model="hf:auto")
        assert not (folder / "ran").exists()

    def test_code_of_the_folder_is_never_run(self, saved, folder):
        path = folder / "vit" / "config.json"
        mapped = {"AutoConfig": "payload.Config", "AutoModelForImageClassification": "payload.Model"}
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "auto_map": mapped, "_attn_implementation": "evil/kernel"})
        )
        (folder / "vit" / "payload.py").write_text("open('ran', 'w').close()\n")
        checkpoint.load("vit", model="hf:auto")
        assert not (folder / "ran").exists()


COMPLEX = """
import torch

class Spectral(torch.nn.Module):
    def __init__(self, dtype=torch.complex64):
        super().__init__()
        self.head = torch.nn.Linear(4, 3)
        self.modes = torch.nn.Parameter(torch.zeros(3, 4, dtype=dtype))
        self.register_buffer("phase", torch.ones(4, dtype=torch.complex64))

def real():
    return Spectral(torch.float32)
"""


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_complex_weights_keep_their_imaginary_part(folder, ending):
    (folder / "spectral.py").write_text(COMPLEX)
    state = from_factory("spectral.py:Spectral", None).state_dict()
    state["modes"] = torch.randn(3, 4, dtype=torch.complex64)
    state["phase"] = torch.randn(4, dtype=torch.complex64)

    def write(tensors):
        torch.save(tensors, "a.pth") if ending == "pth" else safetensors.torch.save_file(tensors, "a.safetensors")

    write(state)
    loaded = checkpoint.load(f"a.{ending}", model="spectral.py:Spectral").model
    assert torch.equal(loaded.modes, state["modes"])
    assert torch.equal(loaded.phase, state["phase"])
    with pytest.raises(LandscapeError, match=r"modes of .* holds complex64 where the network has float32"):
        checkpoint.load(f"a.{ending}", model="spectral.py:real")
    write(state | {"modes": torch.full_like(state["modes"], complex(0, torch.inf))})
    with pytest.raises(LandscapeError, match=r"modes of .* non-finite"):
        checkpoint.load(f"a.{ending}", model="spectral.py:Spectral")


def test_a_type_that_is_not_read_is_said_of_the_parameter(folder, network):
    state = network.state_dict()
    torch.save(state | {"fc.bias": state["fc.bias"].to(torch.float8_e4m3fn)}, "a.pth")
    with pytest.raises(LandscapeError, match=r"^fc.bias of a.pth is stored as float8_e4m3fn"):
        checkpoint.load("a.pth", model="net.py:make")
