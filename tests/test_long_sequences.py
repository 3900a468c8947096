"""Large vocabularies and long sequences: the same numbers as with everything held, and less memory."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from landscape import CurvatureOperator, LandscapeError, Objective, Protocol
from landscape.compute.randomness import generator
from landscape.objective import chunked, mean_loss, objective as objective_module, recomputing

WORDS = 50


class Layer(nn.Module):
    """Attention and two layers, with dropout, as in a language model; gives back a tuple."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.mix, self.out, self.norm = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.LayerNorm(width)
        self.mlp, self.drop = (
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)),
            dropout,
        )

    def forward(self, hidden: Tensor, scale: Tensor | None = None) -> tuple[Tensor, int]:
        query, key, value = self.mix(self.norm(hidden)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + nn.functional.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.drop)
        return hidden + self.mlp(hidden) * (1 if scale is None else scale), 3


class Language(nn.Module):
    def __init__(self, layers: int = 3, width: int = 8, dropout: float = 0.2, *, tied: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.words = nn.Embedding(WORDS, width)
            self.layers = nn.ModuleList(Layer(width, dropout) for _ in range(layers))
            self.head = nn.Linear(width, WORDS, bias=not tied)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden, scale = self.words(input_ids), self.words.weight[:1].sigmoid()
        for layer in self.layers:
            hidden, three = layer(hidden, scale=scale)
            assert three == 3
        return self.head(hidden)


def sentences(count: int = 5, length: int = 12) -> tuple[Tensor, Tensor]:
    ids = torch.randint(WORDS, (count, length), generator=generator(0, "long"))
    return ids, ids.masked_fill(torch.arange(length) > 3 + 2 * torch.arange(count)[:, None], -100)


def vectors(size: int, count: int = 2) -> Tensor:
    return torch.randn(size, count, generator=generator(1, "long"), dtype=torch.float64)


class Memory(TorchDispatchMode):
    """Follows the tensors that operations make: the largest, and the bytes of all that are alive together."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor):
                self._follow(one)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.largest = max(self.largest, tensor.numel())
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def followed(action: Callable[[], Any]) -> Memory:
    gc.collect()
    with Memory() as memory:
        action()
    return memory


@pytest.mark.parametrize("kind", ["hessian", "ggn", "fisher"])
@pytest.mark.parametrize(("tied", "parameters"), [(True, "all"), (False, "head.*"), (False, "layers.*")])
def test_scores_are_never_held_and_products_are_the_same(
    kind: Any, tied: bool, parameters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "_FEWEST", 4)
    monkeypatch.setattr(chunked, "_CHUNK_BYTES", 1)
    (ids, labels), model = sentences(), Language(tied=tied)
    protocol = Protocol(dtype="float64", parameters=parameters, dropout="fixed")
    for loss in ("causal_lm", "masked_lm,label_smoothing=0.1"):
        products, largest = [], []
        for smallest in (4096, 1):
            monkeypatch.setattr(mean_loss, "SMALLEST", smallest)
            measured = Objective(model, (ids, labels), loss=loss, protocol=protocol, micro_batch=5)
            assert measured.defers == (smallest == 1)
            operator = CurvatureOperator(measured, kind)
            largest.append(followed(lambda: operator(vectors(measured.size, 1))).largest)  # noqa: B023
            products.append(operator(vectors(measured.size)))
        assert torch.allclose(*products, rtol=1e-10, atol=1e-13)
        # Scores of all tokens are larger than everything else, the parameters included.
        assert largest[1] < (ids.numel() - len(ids)) * WORDS <= largest[0]


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("dropout", ["off", "fixed"])
@pytest.mark.parametrize("parameters", ["all", "layers.1.*,words.weight"])
def test_blocks_computed_again_give_the_same_products(kind: Any, dropout: str, parameters: str) -> None:
    protocol = Protocol(dtype="float64", dropout=dropout, parameters=parameters)
    found = []
    for checkpointing in (False, True):
        measured = Objective(
            Language(), sentences(), loss="causal_lm", protocol=protocol, micro_batch=2, checkpointing=checkpointing
        )
        assert measured.checkpointing is checkpointing
        operator = CurvatureOperator(measured, kind, sample=1)
        first = operator(vectors(measured.size))
        assert torch.equal(first, operator(vectors(measured.size)))
        found.append((measured.value().loss, measured.gradient(sample=1), first, operator.plan.bytes_each))
    (value, gradient, product, held), (*again, kept) = found
    assert again[0] == value
    assert torch.allclose(again[1], gradient, rtol=1e-12, atol=1e-14)
    assert torch.allclose(again[2], product, rtol=1e-10, atol=1e-12)
    assert kept < held / 3


def test_computing_blocks_again_takes_less_memory() -> None:
    """Peaks of a product, building its graph included; of a network whose blocks are nearly all of it."""
    ids, labels = sentences(1, 128)
    peaks = []
    for checkpointing in (False, True):
        measured = Objective(
            Language(layers=8, width=16), (ids, labels), loss="causal_lm", checkpointing=checkpointing, micro_batch=1
        )
        operator = CurvatureOperator(measured)
        memory = followed(lambda: operator(torch.ones(measured.size)))  # noqa: B023
        peaks.append(memory.peak)
    assert peaks[1] < peaks[0] / 3


def test_long_sequences_are_computed_again_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(**settings: Any) -> Objective:
        return Objective(Language(), sentences(), loss="causal_lm", micro_batch=1, **settings)

    assert not made().checkpointing
    operator = CurvatureOperator(made())
    monkeypatch.setattr(objective_module, "_SHORT_BYTES", 0)
    monkeypatch.setattr(objective_module, "total_memory", lambda device: 2**40)
    assert not made().checkpointing
    held = operator.plan.bytes_each
    # What half of the memory does not hold.
    monkeypatch.setattr(objective_module, "total_memory", lambda device: held)
    assert made().checkpointing
    monkeypatch.setattr(objective_module, "total_memory", lambda device: 4 * held)
    assert not made().checkpointing
    with pytest.raises(LandscapeError, match="the network has none"):
        Objective(nn.Linear(2, 1), (torch.zeros(3, 2), torch.zeros(3)), loss="mse", checkpointing=True)


def test_networks_of_transformers_too() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=8, n_layer=3, n_head=2, n_positions=12, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).eval()
    ids, labels = sentences()
    products, bytes_each = [], []
    for checkpointing in (False, True):
        measured = Objective(
            model,
            {"input_ids": ids, "labels": labels},
            loss="causal_lm",
            protocol=Protocol(dtype="float64"),
            checkpointing=checkpointing,
        )
        operator = CurvatureOperator(measured)
        products.append(operator(vectors(measured.size)))
        bytes_each.append(operator.plan.bytes_each)
    assert torch.allclose(*products, rtol=1e-9, atol=1e-11)
    assert bytes_each[1] < bytes_each[0] / 3
    assert model.config.use_cache
    assert recomputing.blocks(model) == [f"transformer.h.{place}" for place in range(3)]
