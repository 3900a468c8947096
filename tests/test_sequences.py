"""Instruments on sequences: predictions of every token, feature maps and spectra along the token axis."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape import LandscapeError, Protocol, feature_maps, fourier, metrics, predictions
from landscape.compute.masks import Masks
from landscape.compute.randomness import generator
from landscape.data import as_examples
from landscape.metrics import Intervals
from landscape.predictions import terms

FRESH = Protocol(dropout="fresh", loss="causal_lm")
WORDS, LENGTH = 7, 6


class Causal(nn.Module):
    """Predicts a word from the two before it, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.words, self.drop = nn.Embedding(WORDS, 8), nn.Dropout(0.3)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(2))
            self.head = nn.Linear(8, WORDS)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.words(input_ids)
        hidden = hidden + hidden.roll(1, 1)
        for block in self.blocks:
            hidden = hidden + self.drop(block(hidden))
        return self.head(hidden)


def sentences(count: int = 12) -> tuple[Tensor, Tensor]:
    """Sentences of different lengths; one has no target that counts."""
    ids = torch.randint(WORDS, (count, LENGTH), generator=generator(0, "sentences"))
    labels = ids.masked_fill(torch.arange(LENGTH) > 1 + torch.arange(count)[:, None] % 5, -100)
    labels[3] = -100
    return ids, labels


@pytest.mark.parametrize("smallest", [4096, 1])
def test_predicted_tokens_are_those_of_a_plain_loop(smallest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "SMALLEST", smallest)
    monkeypatch.setattr(terms, "_TOGETHER", 100)
    (ids, labels), model, passes = sentences(), Causal(), 4
    outputs = []
    with torch.no_grad(), Masks.addressed(seed=0) as masks:
        for sample in range(passes):
            masks.address(first_example=0, sample=sample)
            outputs.append(model(ids))
    logs = metrics.log_mean_exp(torch.stack(outputs).double().log_softmax(-1))[:, :-1]
    valid = labels[:, 1:] != -100
    of_sentence = torch.arange(len(ids))[:, None].expand_as(valid)[valid].unique(return_inverse=True)[1]
    batch = metrics.examples(logs[valid], labels[:, 1:][valid])
    expected = metrics.MetricSet.of(logs[valid], labels[:, 1:][valid])
    for size in (5, 64):
        found = predictions.per_term(model, (ids, labels), protocol=FRESH, passes=passes, sizes=[1, 4], batch=size)
        for name, value in expected.values().items():
            assert float(found[name].sel(size=4)) == pytest.approx(value, rel=1e-6, nan_ok=True), name
        # A ratio of sums over sentences, by the delta method.
        counts = torch.bincount(of_sentence).double()
        sums = torch.zeros_like(counts).index_add_(0, of_sentence, batch.nll)
        influence = (sums - batch.nll.mean() * counts) / counts.mean()
        stderr = float(influence.std() / len(counts) ** 0.5)
        assert float(found["nll_stderr"].sel(size=4)) == pytest.approx(stderr, rel=1e-5)
        assert found["nll_replicate"].sel(size=4).values.std() == pytest.approx(stderr, rel=0.15)
        assert float(found["nll"].sel(size=1)) > float(found["nll"].sel(size=4))
        assert (found.attrs["terms"], found.attrs["images"], found.attrs["term"]) == (int(valid.sum()), 12, "token")
        assert float(found["bin_share"].sel(size=4).sum()) == pytest.approx(1)


def test_a_large_vocabulary_has_no_intersections_and_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers as with classes counted one by one, but for those of single classes."""
    logs = torch.randn(60, 9, generator=generator(0, "large"), dtype=torch.float64).log_softmax(-1)
    labels = torch.randint(9, (60,), generator=generator(1, "large"))
    batch = dataclasses.replace(metrics.examples(logs, labels), group=torch.arange(60) // 6)
    weights = metrics.bootstrap_weights(10, replicates=20)
    plain, plain_draws = metrics.resampling.sums_of(batch), metrics.bootstrap(batch, weights)
    monkeypatch.setattr(metrics.resampling, "_MOST_CLASSES", 5)
    large, draws = metrics.resampling.sums_of(batch), metrics.bootstrap(batch, weights)
    assert large.hits.shape == (2, 1)
    for name, value in metrics.values(plain).items():
        if "iou" in name:
            assert metrics.values(large)[name].isnan()
            assert np.isnan(draws[name]).all()
        else:
            torch.testing.assert_close(metrics.values(large)[name], value, equal_nan=True)
            np.testing.assert_allclose(draws[name], plain_draws[name])
    # Drawn groups are drawn whole.
    rows = torch.cat([(batch.group == place).nonzero()[:, 0].repeat(int(weights[0, place])) for place in range(10)])
    again = metrics.MetricSet.of(logs[rows], labels[rows]).values()
    assert {name: float(value[0]) for name, value in plain_draws.items()} == pytest.approx(again, nan_ok=True)


def test_intervals_over_sequences_cover_where_those_over_tokens_do_not() -> None:
    """Sequences are hard or easy as a whole."""
    source, held = generator(0, "cover"), {"sequences": dict[str, list[bool]](), "tokens": dict[str, list[bool]]()}

    def drawn(count: int) -> tuple[metrics.Examples, Tensor]:
        sharpness = (1.2 * torch.randn(count, 1, 1, generator=source, dtype=torch.float64)).exp()
        logits = sharpness * torch.randn(count, 20, 5, generator=source, dtype=torch.float64)
        labels = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=source)[:, 0]
        counted = (torch.arange(20) < torch.randint(5, 21, (count, 1), generator=source)).flatten()
        of_sequence = (torch.arange(count * 20) // 20)[counted]
        return metrics.examples((1.5 * logits).log_softmax(-1).flatten(0, 1)[counted], labels[counted]), of_sequence

    whole, _ = drawn(4000)
    truth = {name: float(value) for name, value in metrics.values(metrics.resampling.sums_of(whole)).items()}
    for _ in range(100):
        batch, of_sequence = drawn(40)
        for kind, group in (("sequences", of_sequence), ("tokens", None)):
            intervals = Intervals()
            intervals.add(dataclasses.replace(batch, group=group))
            for name, one in intervals.result().items():
                if name in ("nll", "accuracy", "brier", "ece") and np.isfinite(one.low):
                    held[kind].setdefault(name, []).append(one.low <= truth[name] <= one.high)
    # 100 samples: a true 95 % is seen in 88.5 to 100 of them (3 sigma).
    assert {name: np.mean(hits) for name, hits in held["sequences"].items() if np.mean(hits) < 0.885} == {}
    assert all(np.mean(held["tokens"][name]) < 0.8 for name in ("nll", "accuracy", "brier"))


def test_pixels_are_predictions_too() -> None:
    images = torch.randn(6, 3, 8, 8, generator=generator(0, "maps"))
    classes = torch.randint(4, (6, 8, 8), generator=generator(1, "maps"))
    model = nn.Conv2d(3, 4, 1)
    found = predictions.per_term(model, (images, classes), protocol=Protocol(dropout="fresh"), passes=2)
    loss = float(nn.functional.cross_entropy(model(images), classes).detach())
    assert float(found["nll"].sel(size=1)) == pytest.approx(loss, rel=1e-5)
    assert (found.attrs["terms"], found.attrs["term"]) == (6 * 64, "pixel")
    for loss_name in ("mse", "model"):
        with pytest.raises(LandscapeError, match=r"predictions are of classes.*causal_lm"):
            predictions.per_term(model, (images, classes), protocol=FRESH.replace(loss=loss_name))
    with pytest.raises(LandscapeError, match="no target counts"):
        predictions.per_term(
            model, (images, torch.full_like(classes, -100)), protocol=FRESH.replace(loss="cross_entropy")
        )


FILE = """
from test_sequences import Causal, sentences

def data():
    return sentences()
"""


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Path("mine.py").write_text(FILE)
    common = ["--model", "mine.py:Causal", "--data", "mine.py:data", "--loss", "causal_lm", "--device", "cpu"]
    run = [*common, "--passes", "3", "--quiet"]
    assert predictions.cli.main([*run, "--sizes", "1,3", "--json", "--plot", "predictions.png"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["size"] == [1, 3]
    assert facts["terms"] == int((sentences()[1][:, 1:] != -100).sum())
    assert predictions.cli.main([*common, "--passes", "3", "--sizes", "1,3"]) == 0
    printed = capsys.readouterr().out
    assert "tokens of 12 examples" in printed
    assert "the perplexity exp(NLL) with 3 passes is" in printed
    assert predictions.cli.main([*common, "--plan"]) == 0
    assert "12 examples x 50 passes" in capsys.readouterr().out
    for instrument, said in ((feature_maps, "± standard error over examples"), (fourier, "along the tokens")):
        assert instrument.cli.main([*common, "--passes", "2", "--plot", "picture.png"]) == 0
        printed = capsys.readouterr().out
        assert "8x6" in printed
        assert said in printed
        assert instrument.cli.main([*common, "--passes", "2", "--plan"]) == 0
        assert "2 points, 2 dropout layers; 12 examples x 2 passes" in capsys.readouterr().out
    with pytest.raises(LandscapeError, match="looks at images"):
        fourier.cli.main([*common, "--transfer"])


def plain_maps(model: Causal, ids: Tensor, passes: int) -> Tensor:
    """What the last block returns (T, N, L, C), by a plain loop with the same masks."""
    maps: list[Tensor] = []
    handle = model.blocks[1].register_forward_hook(lambda module, given, output: maps.append(output.double()))
    with torch.no_grad(), Masks.addressed(seed=0) as masks:
        for sample in range(passes):
            masks.address(first_example=0, sample=sample)
            model(ids)
    handle.remove()
    return torch.stack(maps)


def test_maps_of_tokens_vary_as_by_hand() -> None:
    (ids, labels), model, passes = sentences(), Causal(), 5
    maps = plain_maps(model, ids, passes)
    protocol = Protocol(dropout="fresh", loss="causal_lm")
    for batch in (5, 64):
        found = feature_maps.measure(
            model, as_examples((ids, labels)), protocol=protocol, passes=passes, batch=batch
        ).sel(point="blocks.1")
        variance = maps.var(0)
        spread = maps.var(2, correction=0)
        assert float(found["model_std"]) == pytest.approx(float(variance.sqrt().mean()), rel=1e-5)
        assert float(found["data_std"]) == pytest.approx(float(spread.sqrt().mean()), rel=1e-5)
        assert float(found["power"]) == pytest.approx(float(maps.square().mean()), rel=1e-5)
        between = maps.mean(0).var(0).mean() - variance.mean() / passes
        assert float(found["variance_between_images"]) == pytest.approx(float(between), rel=1e-4)
        sizes = [int(found[name]) for name in ("channels", "height", "width")]
        assert (sizes, found.attrs["examples"]) == ([8, 1, LENGTH], "examples")


def test_spectra_of_tokens_are_along_them() -> None:
    (ids, labels), model, passes = sentences(), Causal(), 3
    result = fourier.measure(model, as_examples((ids, labels)), protocol=FRESH, passes=passes)
    found = result.sel(point="blocks.1", dropout="on")
    logs = (torch.fft.rfft(plain_maps(model, ids, passes), dim=2).abs() + 1e-6).log().mean((0, 1, 3))
    for path in ("half_diagonal", "radial"):
        np.testing.assert_allclose(found["delta_log_amplitude"].sel(path=path), logs - logs[0], atol=1e-4)
    np.testing.assert_allclose(found["frequency"], np.arange(4) / 3)
    variance = feature_maps.measure(model, as_examples((ids, labels)), protocol=FRESH, passes=passes)["model_variance"]
    np.testing.assert_allclose(result["noise_variance"], variance, rtol=1e-5)


class Padded(nn.Module):
    """Each word by itself, so that padding changes no other position."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.words(input_ids)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


def test_padding_does_not_count() -> None:
    ids, _ = sentences()
    mask = (torch.arange(LENGTH) < 4 + torch.arange(len(ids))[:, None] % 3).long()
    model, protocol = Padded(), FRESH.replace(dropout="off")
    first, second = (
        fourier.measure(model, as_examples({"input_ids": some, "attention_mask": mask}), protocol=protocol)
        for some in (ids, ids.where(mask > 0, 0))
    )
    assert [int(width) for width in first["width"]] == [4, 4]
    np.testing.assert_array_equal(first["log_amplitude"], second["log_amplitude"])
    mask[2, 1:] = 0
    with pytest.raises(LandscapeError, match="fewer than 2 positions in a row count in every example"):
        fourier.measure(model, as_examples({"input_ids": ids, "attention_mask": mask}), protocol=protocol)


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.ReLU()) for _ in range(3)))

    def forward(self, series: Tensor) -> Tensor:
        return self.layers(series).mean(2)


def test_what_has_no_axis_of_positions_says_so() -> None:
    protocol = Protocol(dropout="off", loss="mse")
    series = as_examples((torch.randn(4, 2, 10, generator=generator(0, "series")), torch.zeros(4, 2)))
    found = fourier.measure(OneDimensional(), series, protocol=protocol)
    assert [int(found[name][-1]) for name in ("channels", "height", "width")] == [2, 1, 10]
    points = as_examples((torch.zeros(4, 3), torch.zeros(4)))
    with pytest.raises(LandscapeError, match="there is no axis of positions") as caught:
        fourier.measure(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), points, protocol=protocol)
    assert "\n" not in str(caught.value)


class Encoder(nn.Module):
    """torch's transformer, with examples first or tokens first, as it is unless told otherwise."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=batch_first)
        self.embedding, self.head, self.batch_first = nn.Embedding(WORDS, 8), nn.Linear(8, 3), batch_first
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.embedding(ids)
        if self.batch_first:
            return self.head(self.layers(tokens).mean(1))
        return self.head(self.layers(tokens.transpose(0, 1)).mean(0))


def test_tokens_first_are_measured_as_examples_first_are() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = Encoder(batch_first=True), Encoder(batch_first=False)
    two.load_state_dict(one.state_dict())
    ids, _ = sentences()
    examples = as_examples((ids, torch.arange(len(ids)) % 3))
    for instrument in (feature_maps, fourier):
        found, other = (instrument.measure(net, examples, passes=3) for net in (one, two))
        assert list(found["point"].values) == list(other["point"].values) == ["layers.layers.0", "layers.layers.1"]
        for name in found.data_vars:
            if found[name].dtype.kind == "f":
                assert np.allclose(found[name], other[name], rtol=1e-4, atol=1e-5, equal_nan=True), name
