"""Blocks, stages, subsampling and smoothing layers are found by structure and behaviour, in anybody's network."""

import pytest
import torch
from torch import nn

from landscape import nets
from landscape.errors import LandscapeError
from landscape.look import depths


def images(side=16, channels=3):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def test_residual_net_of_the_paper():
    found = depths.find(nets.build("resnet_mcdo_smoothing_18", num_classes=10, width=4), images(16))
    names = [point.name for point in found.points]
    assert names[:4] == ["layer0", "layer1.0", "layer1.1", "smooth1"]
    assert [point.kind for point in found.points].count("smoothing") == 4
    assert [point.stage for point in found.points] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [names[place] for place in found.stage_ends] == ["smooth1", "smooth2", "smooth3", "smooth4"]
    assert found.points[0].depth == 0
    assert [point.depth for point in found.points if point.kind == "block"][-1] == 1
    # The layer between two blocks lies half-way.
    assert found.points[3].depth == pytest.approx((found.points[2].depth + found.points[4].depth) / 2)
    assert [point.name for point in found.points if point.subsampled] == ["layer2.0", "layer3.0", "layer4.0"]


@pytest.mark.parametrize(
    ("name", "blocks", "stages"),
    [
        ("resnet_dnn_50", 17, 4),
        ("preresnet_mcdo_18", 9, 4),
        ("vgg_mcdo_smoothing_11", 8, 5),
        ("prevgg_dnn_16", 13, 5),
        ("alexnet_mcdo_smoothing", 5, 3),
        ("resnext_dnn_50", 17, 4),
    ],
)
def test_families_of_the_paper(name, blocks, stages):
    found = depths.find(nets.build(name, num_classes=10, width=8, stem=False), images(64))
    assert len(found.blocks) == blocks
    assert len(found.stage_ends) == stages
    assert any(point.kind == "smoothing" for point in found.points) == ("smoothing" in name)


class Foreign(nn.Module):
    """Flat names, a functional pooling, an anti-aliasing layer that is not called so."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
            nn.AvgPool2d(2, stride=1),
            nn.MaxPool2d(2),
            *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
        )
        self.head = nn.Linear(4, 5)

    def forward(self, features):
        return self.head(nn.functional.max_pool2d(self.body(features), 2).mean((2, 3)))


def test_layers_are_known_by_what_they_do():
    model = Foreign().train()
    found = depths.find(model, images(17))
    kinds = {point.name: point.kind for point in found.points}
    assert kinds == {
        "body.2": "block",
        "body.3": "smoothing",
        "body.4": "subsampling",
        "body.6": "block",
        "body.9": "block",
    }
    assert model.training
    assert model.body[7].training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_blocks_by_pattern():
    model = nets.build("resnet_dnn_18", num_classes=10, width=4)
    found = depths.find(model, images(), blocks="layer[12].*,layer4.1.conv2")
    assert [point.name for point in found.points] == ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer4.1.conv2"]
    # A star stands for no dot: whole stages are not meant.
    assert depths.find(model, images(), blocks="layer*").points[0].name == "layer0"
    with pytest.raises(LandscapeError, match="blocks nothing"):
        depths.find(model, images(), blocks="nothing")
    with pytest.raises(LandscapeError, match="no module of this network returns a feature map"):
        depths.find(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), images())


def test_tokens_stand_on_their_grid():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4
    )
    model = transformers.ViTForImageClassification(config).eval()
    found = depths.find(model, images(16))
    blocks = [found.points[place] for place in found.blocks]
    assert [(point.channels, point.height, point.width, point.extra_tokens) for point in blocks[-3:]] == [
        (16, 4, 4, 1)
    ] * 3
    output = torch.randn(2, 17, 16)
    grid = blocks[-1].as_map(output)
    assert torch.equal(grid[1, :, 2, 3], output[1, 1 + 2 * 4 + 3])
    assert torch.equal(blocks[-1].as_output(grid, output)[:, 1:], output[:, 1:])


class Patches(nn.Module):
    """Tokens of a grid that is not square, behind two extra tokens; layers called twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, stride=4)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6)) for _ in range(2)])

    def forward(self, features):
        tokens = self.embed(features).flatten(2).mT
        tokens = torch.cat([torch.zeros_like(tokens[:, :2]), tokens], dim=1)
        for layer in [*self.layers, self.layers[0]]:
            tokens = layer(tokens)
        return tokens.mean(1)


def test_oblong_grid_and_second_calls():
    model = Patches()
    batch = torch.randn(2, 3, 12, 20)
    found = depths.find(model, batch)
    assert [point.name for point in found.points] == ["embed", "layers.0", "layers.1", "layers.0:2"]
    assert [(point.height, point.width) for point in found.points] == [(3, 5)] * 4
    seen = []
    with depths.watch(model, found, lambda place, features: seen.append((place, features.shape))):
        model(batch)
        model(batch)
    assert seen == [(place, (2, 6, 3, 5)) for place in [0, 1, 2, 3, 0, 1, 2, 3]]


class Rows(nn.Module):
    """A recurrent network over the rows of a picture, or of a map made of it."""

    def __init__(self, side, map_channels=None):
        super().__init__()
        self.maps = nn.Conv2d(1, map_channels, 2, stride=2) if map_channels else nn.Identity()
        self.rnn = nn.GRU(map_channels * side // 2 if map_channels else side, 6, batch_first=True)
        self.norm = nn.LayerNorm(6)

    def forward(self, features):
        rows = self.maps(features).transpose(1, 2).flatten(2)
        return self.norm(self.rnn(rows)[0]).mean(1)


# 16 rows would make a square of 4 x 4, 28 one of 5 x 5 behind three tokens.
@pytest.mark.parametrize(("net", "side", "rows"), [(Rows(28), 28, 28), (Rows(16), 16, 16), (Rows(8, 3), 8, 4)])
def test_rows_of_pictures_are_sequences(net, side, rows):
    found = depths.find(net, images(side, 1), blocks="norm").points[-1]
    assert (found.name, found.height, found.width, found.layout) == ("norm", 1, rows, "NLC")
    output = torch.randn(2, rows, 6)
    assert torch.equal(found.as_map(output)[:, :, 0], output.mT)
    assert torch.equal(found.as_output(found.as_map(output), output), output)


class Tokens(nn.Module):
    """Patches taken without a convolution, behind some more tokens."""

    def __init__(self, patch, extra):
        super().__init__()
        self.patch, self.extra = patch, extra
        self.embed = nn.Linear(3 * patch**2, 6)
        self.layer = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6))

    def forward(self, features):
        patches = self.embed(nn.functional.unfold(features, self.patch, stride=self.patch).mT)
        return self.layer(torch.cat([torch.zeros_like(patches[:, : self.extra]), patches], dim=1)).mean(1)


@pytest.mark.parametrize(
    ("side", "patch", "extra", "map_size"),
    [
        (16, 4, 0, (4, 4)),
        (16, 4, 1, (4, 4)),
        (16, 4, 2, (4, 4)),
        (16, 4, 5, (4, 4)),
        # As many patches as rows, and not they.
        (64, 8, 0, (8, 8)),
        (16, 4, 3, (1, 19)),
        (16, 4, 4, (1, 20)),
    ],
)
def test_a_square_of_tokens_is_one_that_patches_can_stand_on(side, patch, extra, map_size):
    point = depths.find(Tokens(patch, extra), images(side), blocks="layer").points[-1]
    assert (point.height, point.width) == map_size
