import math

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vmap
from torch.nn import functional

from landscape.compute.masks import BLOCK, Masks, dropout, keep_level
from landscape.compute.randomness import generator


def addressed(features, *, rate=0.3, seed=0, sample=0, first_example=0, call=0):
    with Masks.addressed(seed=seed) as masks:
        masks.address(first_example=first_example, sample=sample)
        for _ in range(call):
            dropout(features, rate)
        return dropout(features, rate)


def test_masks_do_not_depend_on_how_examples_are_grouped():
    images = torch.ones(50, 3, 5, 7)
    whole = addressed(images)
    for size in (1, 7, 16, 33):
        parts = [addressed(images[start : start + size], first_example=start) for start in range(0, 50, size)]
        assert torch.equal(torch.cat(parts), whole)


def test_every_part_of_the_address_counts():
    features = torch.ones(4, 64)
    reference = addressed(features)
    assert torch.equal(addressed(features), reference)
    changes = ({"seed": 1}, {"sample": 1}, {"call": 1}, {"first_example": BLOCK}, {"first_example": 1})
    for change in changes:
        assert not torch.equal(addressed(features, **change), reference)


def test_masks_do_not_depend_on_the_memory_format():
    features = torch.randn(5, 8, 4, 4, generator=generator(0, "test"))
    last = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(addressed(features), addressed(last))
    assert addressed(last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("way", ["addressed", "stream", "own"])
def test_rate_and_mean(rate, way):
    count = 2**20
    features = torch.ones(64, count // 64, dtype=torch.float64)
    if way == "addressed":
        masked = addressed(features, rate=rate)
    elif way == "stream":
        with Masks.stream(generator(0, "test", "rate")):
            masked = dropout(features, rate)
    else:
        masked = dropout(features, rate)
    keep = keep_level(rate) / 2**16
    # Four standard errors of a share.
    tolerance = 4 * math.sqrt(keep * (1 - keep) / count)
    assert abs((masked != 0).double().mean() - keep) < tolerance
    assert abs(keep - (1 - rate)) <= 2**-17
    assert set(masked.unique().tolist()) == {0.0, 1 / keep}
    assert abs(masked.mean() - 1) < tolerance / keep


def test_masks_of_neighbours_are_independent():
    # Correlations between examples, positions and the four values cut from one word.
    masked = (addressed(torch.ones(128, 4096, dtype=torch.float64), rate=0.5) - 1).flatten()
    for lag in (1, 2, 3, 4, 4096, BLOCK * 4096):
        correlation = (masked[:-lag] * masked[lag:]).mean()
        assert abs(correlation) < 4.5 / math.sqrt(len(masked) - lag)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_is_kept_and_places_are_the_same(dtype):
    masked = addressed(torch.ones(3, 10, dtype=dtype))
    assert masked.dtype == dtype
    assert torch.equal(masked != 0, addressed(torch.ones(3, 10)) != 0)


def test_rates_zero_and_one():
    features = torch.ones(3, 10)
    assert torch.equal(addressed(features, rate=0.0), features)
    assert torch.equal(addressed(features, rate=1e-7), features)
    with Masks.addressed() as masks:
        masks.address()
        assert torch.equal(functional.dropout(features, 1.0), torch.zeros_like(features))


def test_off_and_nesting():
    features = torch.ones(3, 100)
    with Masks.addressed() as outer:
        outer.address()
        with Masks.off() as inner:
            assert torch.equal(dropout(features, 0.5), features)
            assert inner.calls == 0
        assert not torch.equal(dropout(features, 0.5), features)
        assert outer.calls == 1
    model = nn.Sequential(nn.Dropout(0.5), nn.AlphaDropout(0.5)).train()
    with Masks.off():
        assert torch.equal(model(features), features)


def test_address_starts_the_count_of_calls_again():
    with Masks.addressed() as masks:
        for _ in range(2):
            masks.address()
            dropout(torch.ones(2, 3), 0.5)
            functional.dropout(torch.ones(2, 3), 0.5)
            dropout(torch.ones(2, 3), 0.0)
            assert masks.calls == 2


def test_the_global_generator_is_not_moved():
    before = torch.random.get_rng_state()
    dropout(torch.ones(3, 5), 0.5)
    addressed(torch.ones(3, 5))
    with Masks.stream(generator(0, "test")):
        functional.dropout(torch.ones(3, 5), 0.5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_stream_goes_on_and_replays():
    features = torch.ones(8, 100)

    def draws(source):
        with Masks.stream(source):
            first, second = dropout(features, 0.5), dropout(features, 0.5)
        with Masks.stream(source):
            return first, second, dropout(features, 0.5)

    drawn, again = draws(generator(0, "test")), draws(generator(0, "test"))
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))
    assert len({tuple(each.flatten().tolist()) for each in drawn}) == 3


def test_others_dropout_follows_its_flag_in_a_stream_and_is_on_by_address():
    features = torch.ones(4, 100)
    model = nn.Dropout(0.5).eval()
    with Masks.stream(generator(0, "test")) as masks:
        assert torch.equal(model(features), features)
        assert not torch.equal(model.train()(features), features)
        assert masks.calls == 1
    with Masks.addressed() as masks:
        masks.address()
        assert not torch.equal(model.eval()(features), features)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: functional.dropout(x, 0.4),
        lambda x: torch.dropout(x, 0.4, True),
        lambda x: nn.Dropout(0.4)(x),
        lambda x: nn.Dropout(0.4, inplace=True)(x),
    ],
)
def test_others_elementwise_dropout_is_ours(call):
    features = torch.randn(4, 6, 3, 3, generator=generator(0, "test"))
    with Masks.addressed() as masks:
        masks.address()
        assert torch.equal(call(features), addressed(features, rate=0.4))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Dropout1d(0.5), (8, 64, 9)), (nn.Dropout2d(0.5), (8, 64, 3, 3)), (nn.Dropout3d(0.5), (8, 64, 3, 3, 3))],
)
def test_channel_dropout_drops_whole_channels(layer, shape):
    with Masks.addressed() as masks:
        masks.address()
        channels = layer(torch.ones(shape)).flatten(2)
    assert torch.equal(channels, channels[..., :1].expand_as(channels))
    assert set(channels.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < (channels[..., 0] == 0).double().mean() < 0.6


@pytest.mark.parametrize("layer", [nn.AlphaDropout(0.2), nn.FeatureAlphaDropout(0.2)])
def test_alpha_dropout_keeps_mean_and_variance(layer):
    features = torch.randn(64, 4096, 2, 2, generator=generator(0, "test"), dtype=torch.float64)
    with Masks.addressed() as masks:
        masks.address()
        masked = layer(features)
    assert abs(masked.mean()) < 0.01
    assert abs(masked.var() - 1) < 0.01


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"masked": True}, {"scale": 0.3}])
def test_attention_drops_weights(options):
    source = generator(0, "test", "attention")
    query, key, value = (torch.randn(2, 3, 6, 8, generator=source, dtype=torch.float64) for _ in range(3))
    options = dict(options)
    if options.pop("masked", False):
        options["attn_mask"] = torch.rand(6, 6, generator=source) > 0.3
        options["attn_mask"].fill_diagonal_(True)
    plain = functional.scaled_dot_product_attention(query, key, value, **options)
    with Masks.off():
        off = functional.scaled_dot_product_attention(query, key, value, dropout_p=0.5, **options)
    assert torch.equal(off, plain)
    with Masks.addressed() as masks:
        samples = []
        for sample in range(400):
            masks.address(sample=sample)
            samples.append(functional.scaled_dot_product_attention(query, key, value, dropout_p=0.5, **options))
    assert masks.calls == 1
    samples = torch.stack(samples)
    error = samples.std(0) / math.sqrt(len(samples))
    assert samples.std(0).min() > 0 or "is_causal" in options or "attn_mask" in options
    assert ((samples.mean(0) - plain).abs() < 5 * error + 1e-12).all()


def test_masks_are_constants_under_function_transforms():
    features = torch.randn(4, 6, generator=generator(0, "test"), dtype=torch.float64)

    def loss(scale):
        with Masks.addressed() as masks:
            masks.address()
            return (dropout(features * scale, 0.5) ** 3).sum()

    one = torch.tensor(1.0, dtype=torch.float64)
    cubes = (addressed(features, rate=0.5) ** 3).sum()
    assert torch.allclose(grad(loss)(one), 3 * cubes)
    assert torch.allclose(jvp(grad(loss), (one,), (one,))[1], 6 * cubes)
    # Without saying what vmap should do about randomness: there is none in it.
    scales = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert torch.allclose(vmap(loss)(scales), cubes * scales**3)


def test_masks_under_autocast():
    layer = nn.Linear(8, 8)
    with Masks.addressed() as masks, torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        masks.address()
        assert dropout(layer(torch.ones(2, 8)), 0.5).dtype == torch.bfloat16
