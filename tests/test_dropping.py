"""Dropout that networks apply in training mode alone."""

import copy
import logging
import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import landscape
from landscape import Objective, Protocol
from landscape.compute.masks import Masks
from landscape.compute.randomness import generator, global_stream
from landscape.data import as_examples
from landscape.objective.network import Network
from landscape.selfcheck.curvature import plain_checks

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

WIDTH, TOKENS, CLASSES = 8, 5, 3
FIXED = Protocol(dropout="fixed", dtype="float64")


class Gated(nn.Module):
    """Attention as language models write it: the rate is zero outside of training mode."""

    def __init__(self, rate: float = 0.3) -> None:
        super().__init__()
        self.rate = rate
        self.projection = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.projection(tokens).chunk(3, -1)
        return functional.scaled_dot_product_attention(query, key, value, dropout_p=self.rate if self.training else 0.0)


class SelfAttention(nn.Module):
    """torch's own, whose weights are dropped in a function of torch written in Python."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, dropout=0.3, batch_first=True)
        self.need_weights = need_weights

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attention(tokens, tokens, tokens, need_weights=self.need_weights)[0]


class DropPath(nn.Module):
    """Stochastic depth as timm has it."""

    def __init__(self, drop_prob: float = 0.4, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob, self.scale_by_keep = drop_prob, scale_by_keep

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.training:
            return tokens
        kept = torch.empty(len(tokens), 1, 1).bernoulli_(1 - self.drop_prob)
        return tokens * (kept / (1 - self.drop_prob) if self.scale_by_keep else kept)


class SequencesFirst(nn.Module):
    """As torch's transformers are unless told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens.transpose(0, 1)).transpose(0, 1)


class Recurrent(nn.Module):
    """Dropout between layers, inside one call."""

    def __init__(self, kind: str, **settings: bool | int) -> None:
        super().__init__()
        self.inner = getattr(nn, kind)(WIDTH, WIDTH // 2, 3, dropout=0.3, bidirectional=True, **settings)
        self.given = settings.get("proj_size", 0) == 0 and kind == "GRU"
        self.back = nn.Linear(WIDTH if not settings.get("proj_size") else 4, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        inputs = tokens if self.inner.batch_first else tokens.transpose(0, 1)
        state = tokens.new_ones(6, len(tokens), WIDTH // 2) if self.given else None
        outputs, last = self.inner(inputs, state)
        last = last[0] if isinstance(last, tuple) else last
        outputs = outputs if self.inner.batch_first else outputs.transpose(0, 1)
        return self.back(outputs) + last.sum((0, 2))[:, None, None]


class Windows(nn.Module):
    """Dropout on parts of examples, one behind the other."""

    def forward(self, tokens: Tensor) -> Tensor:
        parts = tokens.reshape(-1, WIDTH)
        return functional.dropout(parts, 0.3, self.training).view(tokens.shape)


class Augmenting(nn.Module):
    """Does something else in training mode, besides dropout."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.training:
            return tokens
        self.seen += 1  # type: ignore[operator]
        if self.what == "noise":
            random.random()
            tokens = tokens + torch.randn_like(tokens)
        elif self.what == "scale":
            tokens = 2 * tokens
        elif self.what == "error":
            raise AttributeError("no targets in training mode")
        return functional.dropout(tokens, 0.3)


class Classifier(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.head(tokens.mean(1))


def data(count: int = 12) -> tuple[Tensor, Tensor]:
    source = generator(0, "test", "dropping")
    return torch.randn(count, TOKENS, WIDTH, generator=source), torch.arange(count) % CLASSES


def classifier(*blocks: nn.Module) -> Classifier:
    with global_stream(torch.device("cpu"), 0, "test"):
        return Classifier(*(copy.deepcopy(block) for block in blocks))


def prepared(model: nn.Module) -> Network:
    return Network(model, as_examples(data()), device=torch.device("cpu"), dtype=torch.float32)


DROPPING = {
    "gated": (lambda: [Gated()], 1),
    "two classes": (lambda: [Gated(), SelfAttention(True)], 2),
    "weights": (lambda: [SelfAttention(True)], 1),
    "no weights": (lambda: [SelfAttention(False)], 1),
    "encoder": (lambda: [nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.3, batch_first=True)], 4),
    "sequences first": (lambda: [SequencesFirst()], 4),
    "stochastic depth": (lambda: [DropPath()], 1),
    "unscaled": (lambda: [DropPath(scale_by_keep=False)], 1),
    "lstm": (lambda: [Recurrent("LSTM", batch_first=True)], 2),
    "projected lstm": (lambda: [Recurrent("LSTM", proj_size=2)], 2),
    "gru": (lambda: [Recurrent("GRU", batch_first=True)], 2),
    "rnn": (lambda: [Recurrent("RNN", bias=False)], 2),
    "windows": (lambda: [Windows()], 1),
}


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_of_training_mode_is_drawn_for_any_micro_batch(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, calls = DROPPING[name]
    model = classifier(*make())
    objectives = [Objective(model, data(), protocol=FIXED, micro_batch=size) for size in (12, 4, 1)]
    assert [one.network.dropout_calls for one in objectives] == [calls] * 3
    whole, *parts = [one.value(sample=1).loss for one in objectives]
    off = Objective(model, data(), protocol=FIXED.replace(dropout="off")).value().loss
    assert parts == pytest.approx([whole] * 2, rel=1e-12)
    assert abs(whole - off) > 1e-4
    assert abs(whole - objectives[0].value(sample=2).loss) > 1e-5
    assert not caplog.records
    assert not any(part.training for part in objectives[0].network.module.modules() if isinstance(part, nn.LayerNorm))
    # The plain network, differentiated by torch, drops the same.
    assert all(check.passed for check in plain_checks(model, objectives[1]))
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("what", ["noise", "scale", "error", "dropout"])
def test_training_mode_that_is_more_than_dropout_stays_off(what: str) -> None:
    model = classifier(Gated(), Augmenting(what))
    before = random.getstate()
    network = prepared(model)
    assert random.getstate() == before
    wanted = what == "dropout"
    assert network.dropout_calls == 1 + wanted
    blocks = network.module.blocks
    assert isinstance(blocks, nn.ModuleList)
    assert [block.training for block in blocks] == [True, wanted]
    assert float(blocks[1].seen) == (2 if wanted else 0)  # type: ignore[arg-type]
    assert not network.module.training


@pytest.mark.parametrize("name", ["lstm", "projected lstm", "gru", "rnn"])
def test_layers_one_by_one_are_the_recurrent_network(name: str) -> None:
    model = classifier(*DROPPING[name][0]())
    model.get_submodule("blocks.0.inner").dropout = 1e-6  # type: ignore[assignment]  nothing is dropped at 16 bits
    network, tokens = prepared(model), data(4)[0]
    with torch.no_grad(), Masks.off():
        whole = network(tokens)
    with torch.no_grad(), Masks.addressed() as masks:
        masks.address(examples=4)
        layers = network(tokens)
        assert masks.calls == 2
    assert torch.allclose(whole, layers, rtol=1e-5, atol=1e-6)


def test_stochastic_depth_keeps_the_mean_and_drops_whole_examples() -> None:
    network = prepared(classifier(DropPath()))
    layer = network.module.blocks[0]  # type: ignore[index]
    tokens = torch.ones(4096, 2, 2)
    with Masks.addressed() as masks:
        masks.address(examples=4096)
        values = layer(tokens)
    assert torch.equal(values, values[:, :1, :1].expand_as(values))
    assert values.unique().tolist() == pytest.approx([0.0, 1 / 0.6], rel=1e-4)
    assert float(values.mean()) == pytest.approx(1, abs=5 * (0.4 / 0.6 / 4096) ** 0.5)
    with Masks.off():
        assert layer(tokens) is tokens


def test_attention_of_torch_drops_what_its_function_would() -> None:
    model = classifier(SelfAttention(True))
    network, tokens = prepared(model), data(2)[0]
    with torch.no_grad(), Masks.off():
        plain = model.eval()(tokens)
    passes = []
    with torch.no_grad(), Masks.addressed() as masks:
        for sample in range(400):
            masks.address(sample=sample, examples=2)
            passes.append(network(tokens))
    draws = torch.stack(passes)
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - plain).abs() < 5 * error).all()
    assert (draws.std(0) > 0).all()


def test_what_no_masks_reach_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LSTM(WIDTH, WIDTH, 2, dropout=0.3, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(tokens, [TOKENS] * len(tokens), batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(self.inner(packed)[0], batch_first=True)[0]

    class DropBlock(nn.Module):
        rate = 0.2

        def __init__(self) -> None:
            super().__init__()
            self.drop_prob = 0.2

        def forward(self, tokens: Tensor) -> Tensor:
            return tokens * torch.empty_like(tokens).bernoulli_(0.8) if self.training else tokens

    model = classifier(Packed(), DropBlock())
    with caplog.at_level(logging.WARNING):
        Objective(model, data())
        assert not caplog.records  # all dropout is off
        assert prepared(model).dropout_calls == 0
    (record,) = caplog.records
    assert "is off: blocks.0.inner (LSTM, 0.3), blocks.1 (DropBlock, 0.2);" in record.getMessage()


@pytest.mark.parametrize(
    ("kind", "calls"), [("GPT2LMHeadModel", 4), ("BertForMaskedLM", 4), ("ViTForImageClassification", 4)]
)
def test_attention_of_transformers_is_dropped(kind: str, calls: int) -> None:
    transformers = pytest.importorskip("transformers")
    gpt = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 6, "vocab_size": 11}
    bert = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}
    config = {
        "GPT2LMHeadModel": lambda: transformers.GPT2Config(**gpt, attn_pdrop=0.2),
        "BertForMaskedLM": lambda: transformers.BertConfig(**bert, **rates, vocab_size=11),
        "ViTForImageClassification": lambda: transformers.ViTConfig(**bert, **rates, image_size=8, patch_size=4),
    }[kind]()
    with global_stream(torch.device("cpu"), 0, "test"):
        model = getattr(transformers, kind)(config)
    source = generator(0, "test", "tokens")
    examples: object = {"input_ids": (tokens := torch.randint(11, (6, 6), generator=source)), "labels": tokens}
    if "Image" in kind:
        examples = (torch.randn(6, 3, 8, 8, generator=source), torch.arange(6) % 2)
    loss = {"GPT2LMHeadModel": "causal_lm", "BertForMaskedLM": "masked_lm"}.get(kind)
    one, two = (Objective(model, examples, loss=loss, protocol=FIXED, micro_batch=size) for size in (6, 4))
    assert one.network.dropout_calls == calls
    assert one.value().loss == pytest.approx(two.value().loss, rel=1e-12)
    assert all(check.passed for check in plain_checks(model, two))


def test_dropout_that_is_for_training_stays_off() -> None:
    network = landscape.build("resnet_dnn_18", num_classes=3, width=2, head="mlp", seed=0)
    images = (torch.randn(2, 3, 32, 32, generator=generator(0, "test")), torch.tensor([0, 1]))
    found = Network(network, as_examples(images), device=torch.device("cpu"), dtype=torch.float32)
    assert found.dropout_calls == 0
