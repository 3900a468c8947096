"""Networks of any kind, losses of any kind, examples of any shape: curvature against the dense float64 matrix."""

import ast
import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset, TensorDataset

import landscape
from landscape import CurvatureOperator, LandscapeError, Objective, Protocol
from landscape.compute.masks import Masks
from landscape.compute.randomness import generator
from landscape.data import Examples, Images, arrays, as_examples, load_any
from landscape.eigen import eigenpairs
from landscape.objective import chunked, mean_loss, operators
from landscape.objective.fit import fit
from landscape.objective.losses import called
from landscape.store.importing import named_object
from landscape.surface import plane

EXACT = Protocol(dtype="float64")


class Language(nn.Module):
    """A causal language model of one layer; returns a mapping."""

    def __init__(self, *, tied: bool = True, vocabulary: int = 7, width: int = 4) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(6, width)
        self.mix, self.out, self.norm = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=not tied)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        query, key, value = self.mix(self.norm(hidden)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        return {"hidden": hidden, "logits": self.head(functional.gelu(hidden))}


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 1)

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.body(x) * scale)
        return self.first(hidden), self.second(hidden)


class OwnLoss(Language):
    """Returns its loss when it is given labels, as Hugging Face's do."""

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        found = super().forward(input_ids)
        if labels is not None:
            found["loss"] = functional.cross_entropy(found["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return found


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().flatten(1).sum(1).mean()


def both(outputs: tuple[Tensor, Tensor], targets: Tensor) -> tuple[Tensor, int]:
    first, second = outputs
    return functional.cross_entropy(first, targets, reduction="sum") + second.square().sum(), 2 * len(targets)


WEIGHTS = torch.tensor([0.01, 0.04], dtype=torch.float64)


def weighted(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The losses of all examples, and the number of terms of all together: less than one, here."""
    losses = functional.cross_entropy(outputs, targets, weight=WEIGHTS.to(outputs.dtype), reduction="none")
    return losses, WEIGHTS[targets].sum()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "any"), dtype=torch.float64)


def tokens() -> tuple[Tensor, Tensor]:
    """Sentences and labels; some do not count, in one sentence all but the first."""
    ids = torch.randint(7, (7, 6), generator=generator(0, "tokens"))
    labels = ids.clone()
    labels[1, 3:] = labels[4, 1:] = labels[5, :2] = -100
    return ids, labels


def example(name: str) -> Any:
    """What a file of examples/ offers, such as ``poisson:residual``."""
    file, _, what = name.partition(":")
    return named_object(f"{EXAMPLES / file}.py:{what}")


EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass
class Case:
    network: Callable[[], nn.Module]
    data: Any
    loss: Any
    # The mean over all terms, written out with torch alone: of the network as a function.
    truth: Callable[[Callable[..., Any]], Tensor]
    output: str | None = None
    gauss_newton: bool = True


def cases() -> Iterator[tuple[str, Case]]:
    ids, labels = tokens()
    for tied in (True, False):
        yield (
            f"causal-{'tied' if tied else 'untied'}",
            Case(
                lambda tied=tied: Language(tied=tied),
                {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels},
                "causal_lm",
                lambda net: functional.cross_entropy(net(ids)["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten()),
            ),
        )
    yield (
        "masked",
        Case(
            Language,
            (ids, labels),
            "masked_lm,label_smoothing=0.1",
            lambda net: functional.cross_entropy(
                net(ids)["logits"].flatten(0, 1), labels.flatten(), label_smoothing=0.1
            ),
        ),
    )
    yield (
        "model",
        Case(
            OwnLoss,
            {"input_ids": ids, "labels": labels},
            "model",
            lambda net: net(ids, labels=labels)["loss"],
            None,
            False,
        ),
    )
    x, y = draw(9, 3), draw(9, seed=1)
    mlp = lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))  # noqa: E731
    yield "regression", Case(mlp, TensorDataset(x, y), "mse", lambda net: (net(x)[:, 0] - y).square().mean())
    maps, masks = draw(5, 1, 4, 4), (draw(5, 1, 4, 4, seed=1) > 0).double()
    convolutions = lambda: nn.Sequential(nn.Conv2d(1, 3, 3, 1, 1), nn.SiLU(), nn.Conv2d(3, 1, 3, 1, 1))  # noqa: E731
    yield "own-mean", Case(convolutions, (maps, masks), squared, lambda net: squared(net(maps), masks))
    yield (
        "segmentation-bce",
        Case(
            convolutions,
            DataLoader(TensorDataset(maps, masks), batch_size=2),
            "bce",
            lambda net: functional.binary_cross_entropy_with_logits(net(maps), masks),
        ),
    )
    classes = torch.randint(3, (5, 4, 4), generator=generator(0, "maps"))
    classes[2] = -100
    three = lambda: nn.Sequential(nn.Conv2d(1, 3, 3, 1, 1), nn.Tanh(), nn.Conv2d(3, 3, 1))  # noqa: E731
    yield (
        "segmentation-classes",
        Case(three, (maps, classes), "cross_entropy", lambda net: functional.cross_entropy(net(maps), classes)),
    )
    scale, labels_of_two = draw(9, 4, seed=2), torch.randint(2, (9,), generator=generator(1, "two"))
    two = lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))  # noqa: E731
    yield (
        "weighted-classes",
        Case(
            two,
            (x, labels_of_two),
            weighted,
            lambda net: functional.cross_entropy(net(x), labels_of_two, weight=WEIGHTS),
        ),
    )
    heads = {"output": "1"}
    yield (
        "second-output",
        Case(TwoHeads, ((x, scale), y), "mse", lambda net: (net(x, scale)[1][:, 0] - y).square().mean(), **heads),
    )
    yield (
        "all-outputs",
        Case(
            TwoHeads,
            ((x, scale), labels_of_two),
            both,
            lambda net: both(net(x, scale), labels_of_two)[0] / 18,
            "all",
            False,
        ),
    )


CASES = dict(cases())


def made(case: Case, **settings: Any) -> Objective:
    torch.manual_seed(0)
    settings = {"loss": case.loss, "output": case.output, "protocol": EXACT, "micro_batch": 2} | settings
    return Objective(case.network(), case.data, **settings)


@pytest.mark.parametrize("name", CASES)
def test_values_and_products_are_the_dense_ones_for_any_micro_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    net = case.network().double().eval()
    measured = made(case)
    parameters = {key: value for key, value in net.named_parameters() if key in measured.names}
    sizes = [value.numel() for value in parameters.values()]

    def loss(point: Tensor) -> Tensor:
        pairs = zip(parameters.items(), point.split(sizes), strict=True)
        tensors = {key: part.view_as(value) for (key, value), part in pairs}
        return case.truth(lambda *given, **named: functional_call(net, tensors, given, named))

    point = torch.cat([value.detach().flatten() for value in parameters.values()])
    with sdpa_kernel(SDPBackend.MATH):
        truth = torch.autograd.functional.hessian(loss, point)
    value = float(loss(point).detach())
    vectors = draw(len(point), 2, seed=3)
    ggn: list[Tensor] = []
    # The second time the vocabulary counts as large, its scores three tokens at a time.
    for smallest in (chunked.SMALLEST, 1):
        monkeypatch.setattr(mean_loss, "SMALLEST", smallest)
        monkeypatch.setattr(chunked, "_FEWEST", 3)
        monkeypatch.setattr(chunked, "_CHUNK_BYTES", 1)
        for size in (1, 4, 100):
            measured = made(case, micro_batch=size)
            assert measured.value().loss == pytest.approx(value, rel=1e-12)
            assert fit(measured).data_loss == pytest.approx(value, rel=1e-12)
            product = CurvatureOperator(measured)(vectors)
            assert float((product - truth @ vectors).norm() / (truth @ vectors).norm()) < 1e-10
            weights = measured.weights()
            assert float(measured.example_losses_at(weights, 0, measured.images).mean()) == pytest.approx(
                value, rel=1e-12
            )
            if case.gauss_newton:
                ggn.append(CurvatureOperator(measured, "ggn")(vectors))
        assert all(torch.allclose(one, ggn[0], atol=1e-12) for one in ggn)
        if measured.loss.unit != "nats" or ("masked" not in name and "causal" not in name):
            break
        assert measured.defers == (smallest == 1)
    if case.gauss_newton:
        matrix = CurvatureOperator(measured, "ggn")(torch.eye(len(point), dtype=torch.float64))
        assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-12
    if not case.gauss_newton:
        with pytest.raises(LandscapeError, match="no ggn matrix of the loss"):
            CurvatureOperator(measured, "ggn")


class Scored(nn.Module):
    """Computes with its scores, or changes them in place, before it returns them."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.words, self.head, self.in_place = nn.Embedding(7, 3), nn.Linear(3, 7), in_place

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        scores = self.head(self.words(ids))
        if self.in_place:
            scores[..., 6:] = -10.0
            return {"logits": scores}
        return {"logits": scores, "probabilities": scores.softmax(-1)}


@pytest.mark.parametrize("in_place", [True, False])
def test_scores_that_the_network_itself_uses_are_not_left_to_the_loss(
    in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mean_loss, "SMALLEST", 1)
    ids, _ = tokens()
    net = Scored(in_place=in_place)
    measured = Objective(net, (ids % 6, ids % 6), loss="masked_lm", protocol=EXACT)
    truth = functional.cross_entropy(net.double()(ids % 6)["logits"].flatten(0, 1), (ids % 6).flatten())
    assert measured.value().loss == pytest.approx(float(truth.detach()), rel=1e-12)
    assert not measured.defers


def test_what_is_ignored_may_be_beyond_a_large_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, labels = tokens()
    vectors = None
    for smallest in (chunked.SMALLEST, 1):
        monkeypatch.setattr(mean_loss, "SMALLEST", smallest)
        torch.manual_seed(0)
        beyond = labels.where(labels >= 0, 50)
        measured = Objective(Language(), (ids, beyond), loss="causal_lm,ignore_index=50", protocol=EXACT)
        assert measured.defers == (smallest == 1)
        found = [CurvatureOperator(measured, kind)(draw(measured.size)) for kind in ("hessian", "ggn", "fisher")]
        vectors = vectors or found
        assert all(torch.allclose(one, two, atol=1e-12) for one, two in zip(found, vectors, strict=True))


def test_a_mini_batch_of_less_than_one_term_is_its_own_mean() -> None:
    measured = made(CASES["weighted-classes"])
    inputs, targets = measured.batch(2, 6), measured.labels(2, 6)
    alone = Objective(measured.private_module().requires_grad_(True), (inputs, targets), loss=weighted, protocol=EXACT)
    vector = draw(alone.size)
    assert torch.allclose(CurvatureOperator(measured, first=2, last=6)(vector), CurvatureOperator(alone)(vector))


def examples() -> dict[str, Callable[[], tuple[Case, nn.Module]]]:
    """The files of examples/, small, with the mean over all terms written out."""

    def of(name: str, loss: Any, truth: Callable[[Any, Any], Tensor], data: str = "", **sizes: int) -> Any:
        def build() -> tuple[Case, nn.Module]:
            batch = example(f"{data or name}:data")(*([] if name == "regression" else [7]))
            chosen = example(f"{name}:{loss[1:]}") if loss.startswith(":") else loss
            net = example(f"{name}:network")(steps=1, **sizes)
            return Case(lambda: net, batch, chosen, lambda one: truth(one, _doubled(batch))), net

        return build

    def inputs(batch: Any) -> dict[str, Tensor]:
        return {key: value for key, value in batch.items() if key not in ("labels", "targets")}

    def shifted(net: Any, batch: Any) -> Tensor:
        return functional.cross_entropy(net(batch[0])[:, :-1].flatten(0, 1), batch[1][:, 1:].flatten())

    small = {"width": 4, "heads": 2, "layers": 1}
    return {
        "language_model": of("language_model", "causal_lm", shifted, **small),
        "adapters": of("adapters", "causal_lm", shifted, "language_model", **small),
        "encoder_decoder": of(
            "encoder_decoder",
            "masked_lm",
            lambda net, batch: functional.cross_entropy(net(**inputs(batch)).flatten(0, 1), batch["labels"].flatten()),
            width=4,
        ),
        "padded_classifier": of(
            "padded_classifier",
            "cross_entropy",
            lambda net, batch: functional.cross_entropy(net(**inputs(batch)), batch["labels"]),
            width=4,
            layers=1,
        ),
        "segmentation": of(
            "segmentation",
            ":dice",
            lambda net, batch: example("segmentation:dice")(net(batch[0]), batch[1]).mean(),
            width=2,
        ),
        "graph_network": of(
            "graph_network",
            "mse",
            lambda net, batch: (net(**inputs(batch))[:, 0] - batch["targets"]).square().mean(),
            width=4,
        ),
        "denoising": of(
            "denoising", "mse", lambda net, batch: (net(**inputs(batch)) - batch["targets"]).square().mean(), width=4
        ),
        "regression": of(
            "regression", "mse", lambda net, batch: (net(batch[0])[:, 0] - batch[1]).square().mean(), width=4
        ),
        "poisson": of(
            "poisson", ":residual", lambda net, batch: example("poisson:residual")(net, batch.clone()).mean(), width=4
        ),
    }


def _doubled(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, dict):
        return {key: _doubled(value) for key, value in batch.items()}
    return tuple(_doubled(value) for value in batch)


EXAMPLE_CASES = examples()


@pytest.mark.parametrize("name", EXAMPLE_CASES)
def test_every_file_of_examples(name: str) -> None:
    case, net = EXAMPLE_CASES[name]()
    # As its first lines say it.
    words = (ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text())) or "").replace("\\\n", " ")
    (command,) = re.findall(r"python -m landscape.hessian (.*)", words)
    arguments = landscape.hessian.cli.parser().parse_args(command.split())
    for factory in (arguments.model, arguments.data):
        assert callable(named_object(f"{EXAMPLES.parent / factory}"))
    assert arguments.loss is None or arguments.loss.rpartition(":")[2] in str(case.loss)
    selection = arguments.parameters or "all"
    few, all_at_once = (
        made(case, micro_batch=size, protocol=EXACT.replace(parameters=selection))
        for size in (max(3, len(as_examples(case.data)) // 8), 1000)
    )
    net = net.double().eval()
    parameters = {key: value.detach() for key, value in net.named_parameters() if key in few.names}

    def loss(*values: Tensor) -> Tensor:
        tensors = dict(zip(parameters, values, strict=True))
        return case.truth(lambda *given, **named: functional_call(net, tensors, given, named))

    vector = draw(few.size, seed=3)
    with sdpa_kernel(SDPBackend.MATH):
        value, product = torch.autograd.functional.vhp(loss, tuple(parameters.values()), tuple(few.space.split(vector)))
    truth = few.space.flatten(product)
    for one in (few, all_at_once):
        assert one.value().loss == pytest.approx(float(value), rel=1e-12)
        assert float((CurvatureOperator(one)(vector) - truth).norm() / truth.norm()) < 1e-9
    if name in ("segmentation", "poisson"):  # not convex in the outputs; no function of outputs alone
        return
    first, second = CurvatureOperator(few, "ggn"), CurvatureOperator(all_at_once, "ggn")
    assert torch.allclose(first(vector), second(vector), atol=1e-9 * float(truth.norm()))
    least = float(eigenpairs(first, 1, which="SA", tolerance=1e-2, max_products=30).values[0])
    assert least > -1e-9 * float(truth.norm())


def test_examples_in_any_form_are_the_same_examples() -> None:
    x, y = draw(9, 3), draw(9, seed=1)
    pair = as_examples((x, y))
    assert isinstance(pair, Examples)
    rows = [(x[n], y[n]) for n in range(9)]
    state = torch.get_rng_state()
    table = {"x": x.tolist(), "y": y.numpy(), "text": ["a"] * 9}

    class Rows(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 9

        def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
            return rows[place]

    class Table(dict):  # type: ignore[type-arg]
        column_names = ("x", "y", "text")

        def __len__(self) -> int:
            return 9

        def __getitem__(self, place: Any) -> Any:
            return dict(self) if isinstance(place, slice) else super().__getitem__(place)

    source = torch.Generator().manual_seed(3)
    loader = DataLoader(Rows(), batch_size=4, generator=source)
    for form in (TensorDataset(x, y), Rows(), loader, table, Table(table), (x.numpy(), y)):
        found = as_examples(form)
        assert isinstance(found, Examples)
        assert torch.equal(next(found.leaves())[1].double(), x)
        assert torch.equal(found.targets, y)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)
    assert source.initial_seed() == 3
    assert source.get_state().equal(torch.Generator().manual_seed(3).get_state())
    assert pair.sha256 == as_examples(TensorDataset(x, y)).sha256 != as_examples((x, y + 1)).sha256
    assert isinstance(as_examples((torch.zeros(2, 3, 4, 4), torch.tensor([0, 2]))), Images)
    assert len(pair.subset(4, 0)) == 4
    assert torch.equal(pair.subset(4, 0).batch(0, 2), pair.subset(5, 0).batch(0, 2))  # type: ignore[arg-type]


def test_arrays_of_any_names_and_memory_mapped_ones(tmp_path: Any) -> None:
    np.savez(tmp_path / "a.npz", points=np.ones((5, 2)), weight=np.ones((5, 1), dtype=np.float16), targets=np.arange(5))
    found = load_any(tmp_path / "a.npz")
    assert isinstance(found, Examples)
    assert set(found.batch(0, 2)) == {"points", "weight"}  # type: ignore[arg-type]
    assert found.target(3, 5).tolist() == [3, 4]  # type: ignore[union-attr]
    np.save(tmp_path / "large.npy", np.arange(12.0).reshape(6, 2))
    mapped = np.load(tmp_path / "large.npy", mmap_mode="r")
    examples = as_examples((mapped, np.zeros(6)))
    assert examples.batch(4, 6).tolist() == [[8, 9], [10, 11]]  # type: ignore[union-attr]
    assert np.shares_memory(examples.inputs.numpy(), mapped)  # type: ignore[union-attr]
    with pytest.raises(LandscapeError, match="holds no images with one class each"):
        landscape.data.load(tmp_path / "a.npz")


def test_large_files_stay_on_disk(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.arange(24.0).reshape(6, 4), np.arange(6)
    np.savez(tmp_path / "plain.npz", x=x, y=y, big_endian=x.astype(">f8"))
    np.savez_compressed(tmp_path / "packed.npz", x=x, y=y)
    small = {name: load_any(tmp_path / name) for name in ("plain.npz", "packed.npz")}
    monkeypatch.setattr(arrays, "_MAPPED", 0)
    read = arrays.read_arrays(tmp_path / "plain.npz", ("x", "y", "big_endian"), mapped=True)
    assert [isinstance(read[name], np.memmap) for name in ("x", "y", "big_endian")] == [True, True, False]
    assert not read["x"].flags.writeable
    assert all(np.array_equal(read[name], x) for name in ("x", "big_endian"))
    for name, known in small.items():
        found = load_any(tmp_path / name)
        assert isinstance(found, Examples)
        assert found.sha256 == known.sha256
    monkeypatch.setattr(arrays, "available_memory", lambda device: 300)
    with pytest.raises(LandscapeError, match=r"packed.npz: array 'x' takes .* save it uncompressed") as caught:
        load_any(tmp_path / "packed.npz")
    assert "\n" not in str(caught.value)
    content = bytearray((tmp_path / "plain.npz").read_bytes())
    content[content.index(b"PK\x03\x04")] = 0
    (tmp_path / "damaged.npz").write_bytes(content)
    with pytest.raises(LandscapeError, match="not a readable"):
        load_any(tmp_path / "damaged.npz")


class Augmented(Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return torch.randn(3), place


IDS, LABELS = tokens()
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "shuffles": (
        lambda: as_examples(DataLoader(TensorDataset(IDS), shuffle=True)),
        "draws its order at random .*shuffle=False",
    ),
    "augments": (lambda: as_examples(Augmented()), "differ when they are read again"),
    "augments in a loader": (lambda: as_examples(DataLoader(Augmented())), "differ when they are read again"),
    "no mean of terms": (
        lambda: Objective(
            Language(), (IDS, LABELS), loss=lambda outputs, targets: outputs["logits"].square().sum(), output="all"
        ),
        r"not a mean over examples: .*return .*pair \(sum, number of terms\)",
    ),
    "random loss": (
        lambda: made(CASES["regression"], loss=lambda outputs, targets: (outputs + torch.rand(3)).square().mean(1)),
        "is random: of the same 8 examples .* then .*give its random numbers with the examples",
    ),
    "differing numbers": (lambda: as_examples((IDS, LABELS[:3])), "first dimensions differ.*inputs 7.*targets 3"),
    "target out of range": (
        lambda: Objective(Language(), (IDS, IDS + 3), loss="masked_lm"),
        "beyond the network's 7 outputs.*ignore_index=.*ignore_index is -100",
    ),
    "absent output": (
        lambda: Objective(Language(), (IDS, LABELS), loss="masked_lm", output="scores"),
        "no output 'scores': it returns hidden, logits",
    ),
    "absent index": (lambda: made(CASES["second-output"], output="2"), "no output '2': it returns 2 outputs"),
    "shapes": (lambda: Objective(Language(), (IDS, LABELS)), r"\('?N'?, 6, 7\) and \(N, 6\).*masked_lm"),
    "spread": (
        lambda: Objective(nn.Linear(3, 2), (torch.zeros(4, 3), torch.zeros(4)), loss="mse"),
        r"mse of outputs and targets of shapes \(N, 2\) and \(N,\)",
    ),
    "no targets": (lambda: Objective(Language(), IDS, loss="masked_lm"), "no targets for masked_lm"),
    "unknown loss": (lambda: Objective(Language(), IDS, loss="median"), "unknown loss 'median'.*causal_lm"),
    "unknown parameter": (lambda: Objective(Language(), IDS, loss="causal_lm,beta=1"), "does not take 'beta=1'"),
    "no own loss": (
        lambda: Objective(Language(), {"input_ids": IDS, "attention_mask": LABELS}, loss="model"),
        "returns no loss",
    ),
    "all ignored": (
        lambda: Objective(Language(), (IDS, torch.full_like(LABELS, -100)), loss="masked_lm"),
        "no target counts",
    ),
    "code in a protocol": (
        lambda: Objective(Language(), IDS, protocol=Protocol(loss="os:getcwd@0")),
        "a function: give it with loss=",
    ),
    "ragged batches": (
        lambda: as_examples(DataLoader([torch.zeros(3), torch.zeros(4)], batch_size=1)),  # type: ignore[arg-type]
        "pad all of them to one length",
    ),
    "not finite": (lambda: as_examples((torch.tensor([[1.0], [math.nan]]), None)), "inputs is not finite in example 1"),
    "no adapters": (
        lambda: made(CASES["regression"], protocol=Protocol(parameters="lora")),
        "--parameters lora selects none",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(LandscapeError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_loss_is_known_by_its_name_and_only_a_cross_entropy_is_called_one() -> None:
    first, second = made(CASES["own-mean"]), made(CASES["regression"])
    assert first.protocol.loss.startswith("test_any_network:squared@")
    hashes = {made(CASES[name]).protocol.hash for name in ("own-mean", "segmentation-bce", "regression", "masked")}
    assert len(hashes) == 4
    with pytest.raises(AttributeError, match="no cross-entropy"):
        second.value().cross_entropy  # noqa: B018
    assert "data_loss" in fit(second).facts()
    assert made(CASES["segmentation-classes"], loss=functional.cross_entropy).protocol.hash == EXACT.hash
    language = fit(made(CASES["masked"]))
    assert 0 < language.accuracy < 1
    assert language.images == int((LABELS != -100).sum())


def test_spectrum_and_surface_of_a_language_model() -> None:
    measured = made(CASES["causal-tied"], protocol=EXACT)
    result = landscape.hessian.spectrum(measured, top=2, only=("top",))
    assert bool(result["converged"].all())
    surface = plane(measured, points=3)
    assert {"data_loss", "loss"} <= set(surface)
    assert "cross_entropy" not in surface
    assert float(surface["loss"].sel(alpha=0, beta=0)) == pytest.approx(measured.value().loss, rel=1e-12)
    assert surface.attrs["loss_name"] == "causal_lm"


@pytest.mark.parametrize("selection", ["last-layer", "head.*"])
def test_a_tied_weight_is_selected_by_any_of_its_names(selection: str) -> None:
    net = Language()
    net.head.bias = nn.Parameter(torch.zeros(7))
    ids, labels = tokens()
    measured = Objective(net, (ids, labels), loss="causal_lm", protocol=EXACT.replace(parameters=selection))
    assert measured.names == ["words.weight", "head.bias"]


def test_instruments_beside_the_spectrum() -> None:
    language, regression = made(CASES["masked"]), made(CASES["regression"])
    with pytest.raises(LandscapeError, match="PyHessian takes means over examples"):
        landscape.hessian.pyhessian_spectrum(language)
    with pytest.raises(LandscapeError, match="loss and accuracy of classifiers"):
        landscape.connectivity.connect(regression, nn.Linear(3, 1), {"other": nn.Linear(3, 1)})
    units = landscape.hessian.spectrum(regression, top=1, only=("top",))["eigenvalue"].attrs["units"]
    assert units.startswith("1")
    case, net = EXAMPLE_CASES["padded_classifier"]()
    passes = [landscape.predictions.measure(net, as_examples(case.data), passes=2, batch=size) for size in (3, 50)]
    first, second = (one["log_probability"].values for one in passes)
    assert np.allclose(first, second, atol=1e-5)
    assert np.abs(first[0] - first[1]).max() > 1e-3  # dropout's masks
    assert passes[0]["label"].values.tolist() == case.data["labels"].tolist()


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("last-layer", {"head.weight", "head.bias"}),
        ("weights,*.bias", None),
        ("head.*,norm.weight", {"head.weight", "head.bias", "norm.weight"}),
    ],
)
def test_coordinates_that_people_mean(selection: str, names: set[str] | None) -> None:
    whole = made(CASES["causal-untied"])
    part = made(CASES["causal-untied"], protocol=EXACT.replace(parameters=selection))
    expected = names or {name for name in whole.names if name != "norm.weight"}
    assert set(part.names) == expected
    assert set(part.left_out.values()) == {"not selected"} or not part.left_out
    vector = draw(part.size)
    restricted = whole.restricted(part.names)
    assert torch.allclose(CurvatureOperator(part)(vector), CurvatureOperator(restricted)(vector), atol=1e-12)


def test_the_command_line_takes_any_network(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net():\n    torch.manual_seed(0)\n    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))\n"
        "def data():\n    return torch.arange(12.0).view(6, 2), torch.arange(6.0)\n"
        "def absolute(outputs, targets):\n    return (outputs[:, 0] - targets).abs()\n"
    )
    arguments = ["--model", "mine.py:net", "--data", "mine.py:data", "--json", "--quiet", "--top", "1", "--only", "top"]
    facts = {}
    for loss in ("mse", "mine.py:absolute"):
        assert landscape.hessian.cli.main([*arguments, "--loss", loss]) == 0
        facts[loss] = json.loads(capsys.readouterr().out)
        assert "cross_entropy" not in facts[loss]
        assert facts[loss]["protocol"]["loss"].startswith(loss)
    assert facts["mse"]["protocol_hash"] != facts["mine.py:absolute"]["protocol_hash"]
    assert len(list((tmp_path / "results").rglob("*.nc"))) == 2
    assert landscape.selfcheck.cli.main([*arguments[:4], "--loss", "mine.py:absolute", "--quiet"]) == 0
    assert landscape.hessian.cli.main([*arguments[:4], "--loss", "mse", "--plan", "--at", "0", "--top", "1"]) == 0
    printed = capsys.readouterr().out
    assert "activation 0 (3), 6 examples; about" in printed
    for traces, more in ((4, ["--diagonal", "5"]), (2, ["--at", "0", "--at-examples", "2"])):
        assert landscape.hessian.cli.main([*arguments[:4], "--loss", "mse", "--json", "--quiet", *more]) == 0
        assert len(json.loads(capsys.readouterr().out)["trace"]) == traces
    # Augmented unless told otherwise, where there is an augmentation.
    batches = ["--per-batch", "3", "--batches", "2", "--json", "--quiet"]
    assert landscape.hessian.cli.main([*arguments[:4], "--loss", "mse", *batches]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["augmentation"] == "none"
    with pytest.raises(LandscapeError, match="--augmentation frozen is for images"):
        landscape.hessian.cli.main([*arguments[:4], "--loss", "mse", *batches, "--augmentation", "frozen"])
    with pytest.raises(LandscapeError, match="looks at images with one class each"):
        landscape.frequency_noise.cli.main([*arguments[:4], "--loss", "mse"])
    with pytest.raises(LandscapeError, match="there is no axis of positions"):
        landscape.fourier.cli.main([*arguments[:4], "--loss", "mse"])


def test_diagonal_and_row_norms_are_exact_or_as_far_off_as_they_say() -> None:
    measured = made(CASES["causal-untied"])
    matrix = CurvatureOperator(measured)(torch.eye(measured.size, dtype=torch.float64))
    truth = {"diagonal": matrix.diagonal().numpy(), "row_norm": matrix.norm(dim=1).numpy()}
    exact = landscape.hessian.diagonal(measured, products=1000)
    rough = landscape.hessian.diagonal(measured, products=64)
    for name, value in truth.items():
        assert np.allclose(exact[name], value, atol=1e-12)
        assert not exact[f"{name}_stderr"].values.any()
        uncertain = value > 1e-6
        scores = (rough[name].values - value)[uncertain] / rough[f"{name}_stderr"].values[uncertain]
        assert 0.6 < np.sqrt((scores**2).mean()) < 1.7
    assert float(exact["trace"].sum()) == pytest.approx(float(matrix.trace()), rel=1e-12)
    assert list(exact["parameter"].values) == measured.names
    assert rough.attrs["products"] == 64


def normalised(net: nn.Module) -> nn.Module:
    """With a batch norm behind the first convolution, whose statistics are not 0 and 1."""
    norm = nn.BatchNorm2d(3)
    norm.running_mean += 0.3
    norm.running_var *= 4
    return nn.Sequential(net[0], norm, *net[1:])


@pytest.mark.parametrize(
    ("name", "at"), [("segmentation-bce", "0"), ("causal-tied", "norm"), ("second-output", "body"), ("folded", "0")]
)
def test_curvature_in_an_activation_is_that_of_torch(name: str, at: str) -> None:
    case = CASES["segmentation-bce"] if name == "folded" else CASES[name]
    if name == "folded":
        case = replace(case, network=lambda: normalised(CASES["segmentation-bce"].network()))
    measured = made(case)
    torch.manual_seed(0)
    net = case.network().double().eval()
    result = landscape.hessian.activation_curvature(measured, at, top=2, examples=3)
    for example in range(3):
        operator = landscape.hessian.ActivationOperator(measured, at, example)
        dense = operator(torch.eye(operator.size, dtype=torch.float64))
        inputs, targets = measured.batch(example, example + 1), measured.labels(example, example + 1)

        def loss(delta: Tensor, inputs: Any = inputs, targets: Any = targets) -> Tensor:
            hook = net.get_submodule(at).register_forward_hook(lambda module, given, output: output + delta)
            try:
                return measured.loss(measured.network.select(called(net, inputs)), targets)
            finally:
                hook.remove()

        with sdpa_kernel(SDPBackend.MATH):
            truth = torch.autograd.functional.hessian(loss, torch.zeros(1, *operator.map_shape, dtype=torch.float64))
        truth = truth.reshape(operator.size, operator.size)
        assert torch.allclose(dense, truth, atol=1e-10)
        values = torch.linalg.eigvalsh(truth).flip(0)[:2].numpy()
        assert np.all(
            np.abs(result["eigenvalue"].values[example] - values) <= result["residual"].values[example] + 1e-9
        )
        assert (
            abs(float(result["trace"][example]) - float(truth.trace()))
            <= 6 * float(result["trace_stderr"][example]) + 1e-9
        )
    if name == "second-output":
        few = landscape.hessian.activation_curvature(measured, "second", top=2, examples=1)
        assert np.isnan(few["eigenvalue"].values[0, 1])
        assert np.isnan(few["residual"].values[0, 1])
    with pytest.raises(LandscapeError, match=r"no such module: give one of its names, such as "):
        landscape.hessian.activation_curvature(measured, "layer9")


@pytest.mark.parametrize(("kind", "loss"), [("GPT2", "causal_lm"), ("GPT2", "model"), ("T5", "model"), ("Bert", None)])
def test_networks_of_transformers(kind: str, loss: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    ids, labels = tokens()
    batch = {"input_ids": ids, "attention_mask": (labels >= 0).long(), "labels": labels}
    small = {
        "GPT2": {"n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 6, "bos_token_id": 0, "eos_token_id": 0},
        "T5": {"d_model": 4, "d_kv": 2, "d_ff": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
        "Bert": {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    }[kind]
    name = {"GPT2": "GPT2LMHeadModel", "T5": "T5ForConditionalGeneration", "Bert": "BertForSequenceClassification"}[
        kind
    ]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = getattr(transformers, name)(getattr(transformers, f"{kind}Config")(vocab_size=7, **small)).double().eval()
    if kind == "Bert":
        batch["labels"] = labels[:, 0].remainder(2).abs()
    measured = Objective(net, batch, loss=loss, protocol=EXACT, micro_batch=2)
    parameters = dict(net.named_parameters())
    wanted, vector = [parameters[each] for each in measured.names], draw(measured.size)
    with sdpa_kernel(SDPBackend.MATH):
        value = net(**batch).loss
        gradients = torch.autograd.grad(value, wanted, create_graph=True, materialize_grads=True)
        truth = torch.autograd.grad(gradients, wanted, measured.space.split(vector), materialize_grads=True)
    # The library computes a causal model's loss in float32.
    assert measured.value().loss == pytest.approx(float(value.detach()), rel=1e-6)
    product = CurvatureOperator(measured)(vector)
    assert float((product - measured.space.flatten(truth)).norm() / product.norm()) < 1e-5


class Rotary(nn.Module):
    """Complex numbers as they occur: a buffer of rotations, a parameter, and pairs of real numbers at an odd place."""

    rotations: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.7]))
        self.pairs = nn.Parameter(draw(4, 2, seed=1).float())
        self.mixing = nn.Parameter(torch.view_as_complex(draw(4, 3, 2, seed=2).float()))
        self.register_buffer("rotations", torch.polar(torch.ones(4), torch.arange(4.0)))

    def forward(self, inputs: Tensor) -> Tensor:
        rotated = inputs * self.scale * self.rotations * torch.view_as_complex(self.pairs)
        return (rotated @ self.mixing).abs()


def test_complex_weights_and_buffers_are_pairs_of_real_numbers() -> None:
    net, inputs, targets = Rotary(), draw(9, 4, seed=3).float(), draw(9, 3, seed=4).float()
    before = copy.deepcopy(net.state_dict())
    objective = Objective(net, (inputs, targets), loss="mse", weight_decay=0.1, micro_batch=4)
    shapes = [(1,), (4, 2), (4, 3, 2)]
    assert objective.space.shapes == shapes

    def loss(point: Tensor) -> Tensor:
        scale, pairs, mixing = (part.view(shape) for part, shape in zip(point.split([1, 8, 24]), shapes, strict=True))
        rotated = inputs.double() * scale * net.rotations * torch.complex(*pairs.unbind(-1))
        outputs = (rotated @ torch.complex(*mixing.unbind(-1))).abs()
        return functional.mse_loss(outputs, targets.double()) + 0.05 * point.square().sum()

    point, vector = objective.point.double(), draw(33, seed=5)
    matrix = torch.autograd.functional.hessian(loss, point)
    for measured, precision in ((objective, 1e-5), (objective.in_double(), 1e-12)):
        assert measured.value().loss == pytest.approx(float(loss(point)), rel=1e-6)
        near = {"rtol": precision, "atol": 10 * precision}
        direction = vector.to(measured.dtype)
        assert torch.allclose(measured.gradient().double(), torch.func.grad(loss)(point), **near)
        assert torch.allclose(CurvatureOperator(measured)(direction).double(), matrix @ vector.double(), **near)
    surface = plane(objective, points=3, span=0.5)
    assert float(surface["loss"].sel(alpha=0, beta=0)) == objective.value().loss
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Coder(nn.Module):
    """An encoder and a decoder of which a loss uses the parts; the last layer of one is the first of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
        self.decoder = nn.Sequential(nn.Linear(4, 4), landscape.nets.MCDropout(0.5), nn.Linear(4, 3))
        self.decoder[0].weight = self.encoder[2].weight
        self.beta = 0.5

    def forward(self, inputs: Tensor) -> Tensor:
        return self.encoder(inputs)

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(codes)


def by_parts(network: Any, inputs: Tensor, targets: Any) -> Tensor:
    codes = network(inputs)
    decoded = network.decode(codes) + network.decoder[2](network.decoder[1](network.decoder[0](codes)))
    weights = sum(parameter.square().sum() for parameter in network.decoder.parameters())
    return (decoded - inputs).square().mean(1) + network.beta * codes.square().mean(1) + 0.1 * weights


def test_a_loss_may_use_parts_of_the_network() -> None:
    net, inputs = Coder(), draw(9, 3)
    objective = Objective(net, inputs, loss=by_parts, protocol=EXACT, micro_batch=4)
    point, vector = objective.point * 1.1, draw(objective.size, seed=1)
    step = 1e-6 * vector
    moved = copy.deepcopy(net).double()
    nn.utils.vector_to_parameters(point, moved.parameters())
    with Masks.off():
        plain = by_parts(moved, inputs, None).mean()
    assert objective.value(point).loss == pytest.approx(float(plain.detach()), rel=1e-12)
    slope = (objective.value(point + step).loss - objective.value(point - step).loss) / 2e-6
    assert float(objective.gradient(point) @ vector) == pytest.approx(slope, rel=1e-6)
    bend = (objective.gradient(point + step) - objective.gradient(point - step)) / 2e-6
    assert torch.allclose(CurvatureOperator(objective, point=point)(vector), bend, rtol=1e-5, atol=1e-7)
    plane(objective, points=3, span=0.1)


def by_func(network: Any, inputs: Tensor, targets: Any) -> Tensor:
    slopes = torch.func.vmap(torch.func.grad(lambda one: network(one[None]).sum()))(inputs)
    return slopes.square().sum(1)


def by_autograd(network: Any, inputs: Tensor, targets: Any) -> Tensor:
    inputs = inputs.requires_grad_()
    (slopes,) = torch.autograd.grad(network(inputs).sum(), inputs, create_graph=True)
    return slopes.square().sum(1)


def test_a_loss_may_use_function_transforms() -> None:
    block = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    net = nn.Sequential(block, copy.deepcopy(block), nn.Linear(3, 2))
    one, other, recomputing_one, recomputing_other = (
        Objective(net, draw(9, 3), loss=loss, protocol=EXACT, checkpointing=checkpointing)
        for checkpointing in (False, True)
        for loss in (by_func, by_autograd)
    )
    assert one.value().loss == pytest.approx(other.value().loss, rel=1e-12)
    vector = draw(one.size, seed=1)
    truth = CurvatureOperator(other)(vector)
    for curvature in map(CurvatureOperator, (one, recomputing_one)):
        assert torch.allclose(curvature(vector), truth, rtol=1e-10, atol=1e-12)
        assert curvature.plan.bytes_each > 9 * 3 * 8
    with pytest.raises(LandscapeError, match=r"third derivatives .* leave out --activation-checkpointing"):
        CurvatureOperator(recomputing_other)(vector)


def ctc(outputs: Tensor, targets: Tensor) -> Tensor:
    lengths = [torch.full((len(outputs),), size) for size in (outputs.shape[1], targets.shape[1])]
    return functional.ctc_loss(outputs.log_softmax(2).transpose(0, 1), targets, *lengths, reduction="none")


class Exponential(torch.autograd.Function):
    """With a first derivative alone, as extensions have; torch differentiates it again as a constant, silently."""

    @staticmethod
    def forward(context: Any, inputs: Tensor) -> Tensor:
        context.save_for_backward(inputs)
        return inputs.exp()

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * context.saved_tensors[0].exp()


class Exponentials(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return Exponential.apply(super().forward(inputs))  # type: ignore[no-any-return]


def test_what_has_no_second_derivative_is_named_and_has_a_surface() -> None:
    bags = nn.Sequential(nn.EmbeddingBag(7, 4, mode="max"), nn.Linear(4, 3))
    cases = {
        "Exponential": Objective(Exponentials(5, 3), (draw(9, 5).float(), torch.arange(9) % 3)),
        "embedding_bag": Objective(bags, (IDS, IDS[:, 0] % 3)),
        "ctc_loss": Objective(nn.Linear(5, 4), (draw(9, 12, 5).float(), torch.arange(27).view(9, 3) % 3 + 1), loss=ctc),
    }
    for operation, objective in cases.items():
        assert bool(objective.gradient().isfinite().all())
        assert math.isfinite(float(plane(objective, points=3)["loss"].sum()))
        with pytest.raises(operators.NoSecondDerivative, match=f"second derivative of {operation}, "):
            CurvatureOperator(objective)(objective.point)


def curved(objective: Objective, at: str) -> Tensor:
    operator = landscape.hessian.ActivationOperator(objective, at, 0)
    return operator(torch.ones(operator.size, dtype=operator.dtype))


def test_curvature_in_activations_names_what_has_no_second_derivative_behind_the_module() -> None:
    exponentials = (draw(9, 5).float(), torch.arange(9) % 3)
    sequences = (draw(9, 12, 5).float(), torch.arange(27).view(9, 3) % 3 + 1)
    cases = {
        "Exponential": Objective(nn.Sequential(nn.Linear(5, 4), Exponentials(4, 3)), exponentials),
        "ctc_loss": Objective(nn.Sequential(nn.Linear(5, 4)), sequences, loss=ctc),
    }
    for operation, objective in cases.items():
        with pytest.raises(operators.NoSecondDerivative, match=f"second derivative of {operation}, "):
            curved(objective, "0")
    # What is in front of the module does not count.
    before = Objective(nn.Sequential(Exponentials(5, 4), nn.Linear(4, 3)), exponentials)
    assert bool(curved(before, "1").isfinite().all())


class Tempered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.temperature = nn.Linear(3, 2), nn.Parameter(torch.tensor(0.5))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(inputs), self.temperature.exp()


@dataclass
class Huber:
    """A dataclass with a comparison has no hash."""

    delta: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.huber_loss(outputs[:, 0], targets, delta=self.delta)


def test_a_loss_may_be_an_object_without_a_hash() -> None:
    objective = Objective(nn.Linear(3, 1), (draw(9, 3), draw(9, seed=1)), loss=Huber(0.5), protocol=EXACT)
    assert objective.value().loss > 0


def test_an_output_may_be_one_number() -> None:
    def loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        return (outputs[0] * outputs[1] - targets).square().mean()  # a mean: evaluated alone for every example

    net, inputs, targets = Tempered(), draw(9, 3).float(), draw(9, 2, seed=1).float()
    objective = Objective(net, (inputs, targets), loss=loss, output="all")
    assert objective.value().loss == pytest.approx(float(loss(net(inputs), targets).detach()), rel=1e-6)


@pytest.mark.parametrize("positions", [(), (5,)])
def test_targets_may_be_probabilities(positions: tuple[int, ...]) -> None:
    """As of distillation and mixed labels."""
    inputs, net = draw(13, 6, *positions), nn.Conv1d(6, 4, 1) if positions else nn.Linear(6, 4)
    targets = draw(13, 4, *positions, seed=1).softmax(1)
    for loss in ("cross_entropy", "cross_entropy,label_smoothing=0.1"):
        measured = Objective(net, (inputs, targets), loss=loss, protocol=EXACT, micro_batch=5)
        own = copy.deepcopy(net).double()
        smoothing = 0.1 if "," in loss else 0.0

        names = measured.names

        def truth(*values: Tensor, own: Any = own, names: Any = names, smoothing: float = smoothing) -> Tensor:
            scores = functional_call(own, dict(zip(names, values, strict=True)), (inputs,))
            return functional.cross_entropy(scores, targets, label_smoothing=smoothing)

        vector = draw(measured.size, seed=2)
        parameters = tuple(measured.space.split(measured.point))
        value, product = torch.autograd.functional.vhp(truth, parameters, tuple(measured.space.split(vector)))
        assert measured.terms == 13 * math.prod(positions)
        assert measured.value().loss == pytest.approx(float(value), rel=1e-12)
        assert torch.allclose(CurvatureOperator(measured)(vector), measured.space.flatten(product), atol=1e-12)
        # Scores are linear in the parameters.
        assert torch.allclose(CurvatureOperator(measured, "ggn")(vector), measured.space.flatten(product), atol=1e-12)
        assert "accuracy" not in landscape.hessian.spectrum(measured, top=1)
    with pytest.raises(LandscapeError, match="are not whole numbers, and no probabilities"):
        Objective(net, (inputs, 2 * targets), loss="cross_entropy")
    with pytest.raises(LandscapeError, match="no target to ignore among probabilities"):
        Objective(net, (inputs, targets), loss="cross_entropy,ignore_index=0")
    if not positions:
        with pytest.raises(LandscapeError, match="does not have one class per example"):
            landscape.predictions.measure(net, as_examples((inputs, targets)))
