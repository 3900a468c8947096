"""What files name is never imported, called or opened: every field of every header, with names that would run."""

import copy
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch
import xarray
from nets_for_tests import small_images, small_net

from analyses import measuring, studies
from figures import sources
from landscape import checkpoint, data, nets, store, surface, training
from landscape.checkpoint import header
from landscape.checkpoint.saving import content_sha256
from landscape.errors import LandscapeError
from landscape.hessian.cli import main as hessian
from landscape.objective import Objective
from landscape.store import registry
from landscape.store.protocol import Protocol
from landscape.surface import saved_directions
from landscape.training import OneCycle, Recipe

MODEL = {"name": "resnet_dnn_18", "num_classes": 10, "width": 1}
RECIPE = {
    "recipe": "digits-x",
    "model": {**MODEL, "smoothing": "blur", "head": "gap", "stages": [1, 1, 1, 1], "dropout": 0.0, "stem": False},
    "data": {"name": "digits"},
    "training": {"epochs": 1, "weight_decay": 5e-4, "schedule": {"kind": "OneCycle"}},
    "run": {"device": "cpu", "data_sha256": "0"},
    "sources": {"blur": "0"},
    "seed": 0,
}
HISTORY = [{"epoch": 1, "seconds": 1.0, "test_accuracy": 0.5}]
# What each of them would do is seen: a file appears, or the process ends.
NAMES = [
    "payload:boom",
    "payload.py:boom",
    "FOLDER/payload.py:boom",
    "os:_exit",
    "os:abort",
    "http.server:test",
    "timeit:main",
]
PAYLOAD = "open('ran', 'w').close()\ndef boom(*a, **k):\n    open('ran', 'w').close()\n"
LAYER = "from torch import nn\nimport os\nclass Mine(nn.Identity):\n    pass\nclass Other(nn.Identity):\n    pass\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "payload.py").write_text(PAYLOAD)
    monkeypatch.setitem(sys.modules, "payload", None)
    monkeypatch.delitem(sys.modules, "payload")
    return tmp_path


@cache
def weights():
    return nets.build(**MODEL).state_dict()


def write(path, recipe, history=(), **more):
    tensors = {name: tensor.contiguous() for name, tensor in weights().items()}
    metadata = {"recipe": json.dumps(recipe), "history": json.dumps(list(history)), **more}
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def places(value, at=()):
    """Where in a header a text can stand."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from places(part, (*at, name))
            yield (*at, name)
    elif isinstance(value, list):
        yield (*at, 0)
        yield at
    else:
        yield at


def changed(value, at, new):
    value = copy.deepcopy(value)
    inner = value
    for step in at[:-1]:
        inner = inner[step]
    inner[at[-1]] = new
    return value


FIELDS = sorted(
    {("recipe", *at) for at in places(RECIPE)} | {("history", *at) for at in places(HISTORY) if at}, key=str
)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: ".".join(map(str, field)))
def test_no_field_of_a_header_runs_what_it_names(folder, field, monkeypatch):
    def ends(*_, **__):
        raise AssertionError("code named by a header ran")

    for module, name in (("os", "_exit"), ("os", "abort"), ("http.server", "test"), ("timeit", "main")):
        __import__(module)
        monkeypatch.setattr(sys.modules[module], name, ends)
    part, at = field[0], field[1:]
    # Where a name could be looked up, all of them are tried.
    for name in NAMES if {"model", "data", "sources"} & set(at) else NAMES[:1]:
        name = name.replace("FOLDER", str(folder))
        recipe = changed(RECIPE, at, name) if part == "recipe" else RECIPE
        history = changed(HISTORY, at, name) if part == "history" else HISTORY
        path = write(folder / "net.safetensors", recipe, history)
        lines = [_line(checkpoint.load, path), _line(measuring.ask, path, "hessian", measuring.SAMPLE_SIZES["digits"])]
        assert all(line is None or "\n" not in line for line in lines)
        checkpoint.read_recipe(path)
        assert not (folder / "ran").exists()
        measuring._loaded.cache_clear()


def _line(use, *arguments):
    """The error of a call, if it is one that people are meant to see."""
    try:
        use(*arguments)
    except LandscapeError as error:
        return str(error)
    return None


def test_nothing_runs_in_a_process_of_its_own(folder):
    path = write(folder / "net.safetensors", changed(RECIPE, ("model", "smoothing"), "os:_exit"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "landscape.hessian", str(path), "--plan"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert "--smoothing os:_exit" in done.stderr


@pytest.mark.parametrize(
    ("at", "advice"),
    [
        (("model", "smoothing"), "--smoothing os:_exit"),
        (("data", "name"), "--data"),
        (("model", "name"), "train it anew"),
    ],
)
def test_one_line_says_what_to_type_instead(folder, at, advice):
    path = write(folder / "net.safetensors", changed(RECIPE, at, "os:_exit"))
    with pytest.raises(LandscapeError, match=advice) as caught:
        hessian([str(path), "--plan"])
    assert "\n" not in str(caught.value)


class TestBounds:
    @pytest.mark.parametrize(
        ("at", "value"),
        [
            (("model", "width"), 600),
            (("model", "width"), 10**9),
            (("model", "width"), "8"),
            (("model", "width"), True),
            (("model", "width"), 0),
            (("model", "width"), 2.0),
            (("model", "num_classes"), 10**8),
            (("model", "num_classes"), None),
            (("model", "stages"), [0, 0, 0, 10**6]),
            (("model", "stages"), [0, 0, -1, 0]),
            (("model", "stages"), [1] * 10**5),
            (("model", "stages"), {"0": 1}),
            (("model", "smoothing"), f"blur(kernel={'-'.join(['1'] * 20_000)})"),
            (("model", "smoothing"), f"blur(kernel={'-'.join(['1'] * 70)})"),
            (("model", "smoothing"), "blur(kernel=nan-1)"),
            (("model", "smoothing"), "bn-blur"),
            (("model", "dropout"), 2),
            (("model", "dropout"), float("nan")),
            (("model", "head"), "mlp"),
            (("model", "head"), ["gap"]),
            (("model", "seed"), 3),
            (("model", "stem"), "yes"),
            (("training", "weight_decay"), -5),
            (("training", "weight_decay"), float("inf")),
            (("training", "weight_decay"), "5e-4"),
            (("training", "epochs"), "8"),
            (("training", "schedule"), "OneCycle"),
            (("training", "schedule"), {"warmup_epochs": "one"}),
            (("data",), "digits"),
            (("seed",), "zero"),
            (("recipe",), {"a": 1}),
        ],
    )
    def test_a_field_out_of_bounds_is_one_line(self, folder, at, value):
        path = write(folder / "net.safetensors", changed(RECIPE, at, value))
        with pytest.raises(LandscapeError) as caught:
            checkpoint.load(path)
        assert str(path) in str(caught.value) or "kernel" in str(caught.value)

    @pytest.mark.parametrize(
        ("recipe", "history"),
        [
            ("[" * 5000 + "]" * 5000, "[]"),
            ('{"a":' * 5000 + "1" + "}" * 5000, "[]"),
            (json.dumps({**RECIPE, "run": json.loads('{"a":' * 40 + "1" + "}" * 40)}), "[]"),
            ("1" * 5000, "[]"),
            (json.dumps(RECIPE), "{}"),
            (json.dumps(RECIPE), '[{"epoch": "\\u001b[31m"}]'),
            (json.dumps(RECIPE), "["),
            (json.dumps(RECIPE), "[1]"),
        ],
    )
    def test_json_of_another_shape(self, folder, recipe, history):
        with pytest.raises(LandscapeError, match="damaged") as caught:
            header.parse({"recipe": recipe, "history": history}, Path("net"))
        assert str(caught.value).isprintable()

    def test_escapes_in_names_are_shown_harmless(self, folder):
        path = write(folder / "net.safetensors", changed(RECIPE, ("model", "smoothing"), "\x1b]0;x\x07:y"))
        with pytest.raises(LandscapeError, match="trained with the layer") as caught:
            checkpoint.load(path)
        assert str(caught.value).isprintable()
        state = {"\x1b[31mevil": torch.zeros(3), **weights()}
        state.pop("layer0.0.weight")
        torch.save(state, folder / "net.pth")
        with pytest.raises(LandscapeError) as caught:
            checkpoint.load(folder / "net.pth", model="resnet_dnn_18")
        assert str(caught.value).isprintable()


class TestOwnLayers:
    RECIPE = Recipe(
        name="own",
        summary="",
        model={**MODEL, "smoothing": "layers.py:Mine"},
        data="digits",
        epochs=1,
        batch=256,
        learning_rate=0.01,
        schedule=OneCycle(),
    )

    @pytest.fixture
    def trained(self, folder):
        """A checkpoint with a layer of the user's own, as `training.train` writes it."""
        (folder / "layers.py").write_text(LAYER)
        registry.remember("layers.py:Mine")
        return checkpoint.save(folder / "own.safetensors", weights(), recipe=self.RECIPE.header(0))

    def test_training_remembers_the_layer(self, folder):
        (folder / "layers.py").write_text(LAYER)
        path = training.train(self.RECIPE, training.file_of(self.RECIPE, 0, folder), quiet=True)
        assert type(checkpoint.load(path).model.smooth1[0]).__name__ == "Mine"
        assert training.find(self.RECIPE, cache=folder) == path

    def test_a_layer_trained_here_loads_without_retyping(self, trained, folder, monkeypatch):
        assert type(checkpoint.load(trained).model.smooth1[0]).__name__ == "Mine"
        (folder / "elsewhere").mkdir()
        monkeypatch.chdir(folder / "elsewhere")
        assert type(checkpoint.load(trained).model.smooth1[0]).__name__ == "Mine"

    def test_on_another_machine_it_is_named_by_the_user(self, trained, folder, monkeypatch):
        monkeypatch.setenv("LANDSCAPE_STATE", str(folder / "another machine"))
        with pytest.raises(LandscapeError, match=r"--smoothing layers\.py:Mine"):
            checkpoint.load(trained)
        loaded = checkpoint.load(trained, smoothing="layers.py:Mine")
        assert type(loaded.model.smooth1[0]).__name__ == "Mine"
        assert hessian([str(trained), "--smoothing", "layers.py:Mine", "--plan", "--images", "8"]) == 0

    def test_a_changed_file_is_not_imported(self, trained, folder):
        (folder / "layers.py").write_text(PAYLOAD + LAYER)
        with pytest.raises(LandscapeError, match="--smoothing"):
            checkpoint.load(trained)
        assert not (folder / "ran").exists()

    @pytest.mark.parametrize("name", ["layers.py:os.abort", "layers.py:Other", "layers.py:os._exit", "elsewhere.py:nn"])
    def test_only_what_the_user_named_in_a_file_is_reached(self, trained, folder, name):
        recipe = checkpoint.read_recipe(trained)
        (digest,) = recipe["sources"].values()
        recipe["model"]["smoothing"], recipe["sources"] = name, {name: digest}
        path = write(folder / "net.safetensors", recipe)
        with pytest.raises(LandscapeError, match="may not name code"):
            checkpoint.load(path)

    @pytest.mark.parametrize("digest", [None, 3, "../../x", "A" * 64, "0" * 64, ["0" * 64]])
    def test_a_digest_that_is_none(self, trained, digest):
        assert registry.recall("layers.py:Mine", digest) is None

    def test_a_registry_that_cannot_be_written_or_read_does_no_harm(self, folder, monkeypatch):
        (folder / "layers.py").write_text(LAYER)
        (folder / "file").write_text("")
        monkeypatch.setenv("LANDSCAPE_STATE", str(folder / "file"))
        digest = registry.remember("layers.py:Mine")
        assert registry.recall("layers.py:Mine", digest) is None
        monkeypatch.setenv("LANDSCAPE_STATE", str(folder / "state"))
        registry.remember("layers.py:Mine")
        (entry,) = (folder / "state" / "sources").iterdir()
        for content in ("", "[]", '{"file": 3, "names": []}', '{"file": "layers.py"}'):
            entry.write_text(content)
            assert registry.recall("layers.py:Mine", digest) is None


def test_a_network_trained_under_an_earlier_definition_is_not_taken_for_todays(folder):
    recipe = TestOwnLayers.RECIPE.replace(model={**MODEL, "head": "global-median"})
    assert recipe.header(0)["revision"] == 2
    state = nets.build(**recipe.model).state_dict()
    path = checkpoint.save(training.file_of(recipe, 0, folder), state, recipe=recipe.header(0))
    assert training.find(recipe, cache=folder) == path
    checkpoint.load(path)
    old = {name: value for name, value in recipe.header(0).items() if name != "revision"}
    checkpoint.save(path, state, recipe=old)
    assert training.find(recipe, cache=folder) is None
    with pytest.raises(LandscapeError, match="an earlier definition"):
        checkpoint.load(path)


def _objective():
    images = small_images(count=6, channels=2)
    return Objective(small_net(), images)


@pytest.mark.parametrize("name", NAMES)
def test_files_of_directions_results_and_listings_run_nothing(folder, name):
    name = name.replace("FOLDER", str(folder))
    # Directions: every field of the header, and the names of the tensors.
    objective = _objective()
    path = folder / "axes.safetensors"
    saved_directions.save(surface.directions.random_directions(objective, 2), objective, path)
    with safetensors.safe_open(str(path), framework="pt") as file:
        header, tensors = file.metadata(), {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118
    for field in header:
        for value in (name, json.dumps(name), json.dumps({name: name})):
            safetensors.torch.save_file(tensors, path, {**header, field: value})
            _line(saved_directions.load, path, objective)
    safetensors.torch.save_file({name: torch.zeros(3)}, path, header)
    assert _line(saved_directions.load, path, objective)
    # Results and a study's listing of them.
    attributes = dict.fromkeys(("instrument", "protocol", "settings", "name", "data", "key", "schema"), name)
    store.result.save(xarray.Dataset({"a": ("b", [1.0])}, attrs=attributes), folder / "a.nc")
    store.result.load(folder / "a.nc")
    store.result.cached(folder / "a.nc", name)
    entry = {
        "kind": name,
        "label": name,
        "seed": name,
        "instrument": name,
        "variant": name,
        "file": str(folder / "a.nc"),
    }
    for facts in ({"study": name, "entries": [entry]}, {"entries": [{**entry, "file": name}]}, {"entries": name}):
        listing = studies.listing(folder, "heads", "digits")
        store.files.write_json(listing, facts)
        line = _line(sources.read, "heads", "digits", folder)
        assert (line is None) == ("study" in facts)
    assert not (folder / "ran").exists()
    assert "payload" not in sys.modules


class _Calls:
    """Pickled, it calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def _executing(kind):
    text = "open('ran', 'w').close()"
    return {
        "reduce": lambda: _Calls(exec, text),
        "system": lambda: _Calls(os.system, "touch ran"),
        "open": lambda: _Calls(open, "ran", "w"),
        "import": lambda: _Calls(__import__, "payload"),
        "getattr": lambda: _Calls(getattr, Path("ran"), "touch"),
        "popen": lambda: _Calls(subprocess.Popen, ["touch", "ran"]),
    }[kind]()


@pytest.mark.parametrize("kind", ["reduce", "system", "open", "import", "getattr", "popen"])
@pytest.mark.parametrize("where", ["value", "beside", "bare", "legacy", "raw", "inst"])
def test_pickles_that_execute_do_not(folder, kind, where):
    content = {"state_dict": weights(), "x": _executing(kind)} if where != "value" else {"state_dict": _executing(kind)}
    path = folder / "net.pth"
    if where == "bare":
        content = _executing(kind)
    if where == "raw":
        path.write_bytes(pickle.dumps(content["x"]))
    elif where == "inst":
        path.write_bytes(b"(S'touch ran'\nios\nsystem\n.")
    else:
        torch.save(content, path, _use_new_zipfile_serialization=where != "legacy")
    with pytest.raises(LandscapeError):
        checkpoint.load(path, model="resnet_dnn_18")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("module", ["io", "_io"])
def test_open_is_known_by_both_its_names(folder, module):
    """It is pickled as `io.open` up to Python 3.11 and as `_io.open` from 3.12 on."""
    path = folder / "net.pth"
    path.write_bytes(f"c{module}\nopen\n(S'ran'\nS'w'\ntR.".encode())
    with pytest.raises(LandscapeError, match=rf"calls {module}\.open and would run code"):
        checkpoint.load(path, model="resnet_dnn_18")
    assert not (folder / "ran").exists()


def test_a_training_state_with_objects_is_refused(folder):
    import hashlib

    buffer = io.BytesIO()
    torch.save({"identity": _Calls(bytearray, 4 * 10**9)}, buffer)
    recipe = training.recipe("digits-plain").replace(epochs=1, model={**MODEL, "width": 1})
    (folder / "a.safetensors.state").write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
    with pytest.raises(LandscapeError, match=r"builtins\.bytearray"):
        training.train(recipe, folder / "a.safetensors", quiet=True)


@pytest.mark.parametrize(
    "content",
    [
        lambda: {"weight": _Calls(bytearray, 4 * 10**9)},
        lambda: {"weight": torch.zeros(1).expand(10**10)},
        lambda: {"weight": torch.zeros(4, dtype=torch.float8_e4m3fn)},
        lambda: {"weight": torch.zeros(4).to_sparse()},
        lambda: {"weight": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)},
        lambda: {"weight": torch.empty(10**12, device="meta")},
        lambda: {"weight": torch.zeros(4, dtype=torch.complex64)},
        lambda: [torch.zeros(2)],
        lambda: {"weight": {"w": {"w": {"w": {"w": {"w": torch.zeros(2)}}}}}},
    ],
)
def test_objects_that_are_no_weights_are_one_line(folder, content):
    torch.save(content(), folder / "net.pth")
    (folder / "mine.py").write_text("from torch import nn\ndef make():\n    return nn.PReLU(4)\n")
    with pytest.raises(LandscapeError) as caught:
        checkpoint.load(folder / "net.pth", model="mine.py:make")
    assert str(caught.value).isprintable()


def test_compressed_archives_are_refused(folder):
    torch.save(weights(), folder / "a.pth")
    with (
        zipfile.ZipFile(folder / "a.pth") as archive,
        zipfile.ZipFile(folder / "b.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name))
    with pytest.raises(LandscapeError, match="compressed"):
        checkpoint.load(folder / "b.pth", model="resnet_dnn_18")


def test_a_changed_weight_of_our_own_file_is_noticed(folder):
    path = checkpoint.save(folder / "net.safetensors", weights(), recipe={**RECIPE, "model": MODEL}, history=HISTORY)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(LandscapeError, match="has changed since it was written"):
        checkpoint.load(path)


def test_a_changed_weight_of_a_torch_file_is_noticed(folder):
    torch.save(weights(), folder / "net.pth")
    content = bytearray((folder / "net.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "net.pth").write_bytes(content)
    with pytest.raises(LandscapeError, match="have changed"):
        checkpoint.load(folder / "net.pth", model="resnet_dnn_18")


def test_the_digest_covers_names_types_shapes_and_texts():
    base = content_sha256({"a": torch.zeros(4)}, {"recipe": "r"})
    others = [
        content_sha256({"b": torch.zeros(4)}, {"recipe": "r"}),
        content_sha256({"a": torch.zeros(2, 2)}, {"recipe": "r"}),
        content_sha256({"a": torch.zeros(4, dtype=torch.int32)}, {"recipe": "r"}),
        content_sha256({"a": torch.zeros(4)}, {"recipe": "s"}),
        content_sha256({"a": torch.zeros(4)}, {"recipe": "r", "history": "x"}),
    ]
    assert len({base, *others}) == 6


def test_files_load_in_many_threads(folder):
    from concurrent.futures import ThreadPoolExecutor

    for number in range(4):
        torch.save({"state_dict": weights(), "lr": torch.tensor(0.1).numpy()[()]}, folder / f"{number}.pth")
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda n: checkpoint.load(folder / f"{n % 4}.pth", model="resnet_dnn_18"), range(24)))
    assert len(loaded) == 24


@pytest.mark.parametrize("loss", ["payload.py:boom", "cross_entropy,payload:boom", "os:_exit", "cross_entropy,x=1"])
def test_a_protocols_loss_names_nothing_that_runs(loss: str, tmp_path: Path, monkeypatch) -> None:
    for name in ("payload.py", "cross_entropy,payload.py"):
        (tmp_path / name).write_text("raise SystemExit('ran')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    images = data.load("digits", "train").subset(4, seed=0)
    with pytest.raises(LandscapeError):
        Objective(nets.build("resnet_dnn_18", num_classes=10, width=2), images, protocol=Protocol(loss=loss))


def test_only_what_the_user_names_is_imported():
    """Every place that imports by a name not written there; a new one needs a reason why no file leads to it."""
    import ast

    root = Path(__file__).parents[1]
    known = {
        "landscape/store/importing.py",  # does it
        "landscape/store/registry.py",  # by the registry that the user's machine wrote
        "landscape/nets/smoothing.py",  # --variant, --smoothing, Python; headers are resolved before
        "landscape/data/given.py",  # --data; headers go to a closed list
        "landscape/objective/losses.py",  # --loss, Python; a protocol's loss goes to a closed list
        "landscape/checkpoint/building.py",  # --model
        "landscape/checkpoint/loading.py",  # --smoothing
        "landscape/command/launch.py",  # the modules of our own commands
        "landscape/lazy.py",  # the modules of our own packages
        "landscape/cli.py",  # our own instruments
        "landscape/eigen/solvers.py",  # pyhessian
        "landscape/eigen/adapters.py",  # pyhessian
        "landscape/hessian/pyhessian_solver.py",  # pyhessian
        "landscape/monitor/callbacks.py",  # Lightning, by the names that it has had
        "figures/cli.py",  # our own figures
    }
    importing = {"named_object", "import_module", "__import__", "eval", "exec", "run_path", "run_module"}
    found = set()
    for file in [*root.glob("landscape/**/*.py"), *root.glob("analyses/**/*.py"), *root.glob("figures/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                # A network's eval() takes nothing.
                if called in importing and (called != "eval" or node.args):
                    found.add(str(file.relative_to(root)))
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("allow_pickle", "False") == "False", file
                assert given.get("weights_only", "True") == "True", file
                assert called != "Unpickler", file
    assert found <= known
