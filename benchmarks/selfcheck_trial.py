"""Does `landscape.selfcheck` cry wolf, and does it notice the wolf? Healthy networks, and planted faults.

    python -m benchmarks.selfcheck_trial              # all of them, about half an hour on 2 cores
    python -m benchmarks.selfcheck_trial --healthy 5 --faults 5

Healthy: networks of the paper's families at small width, some with dropout, smoothing and other heads, others as people
write them (ReLU, GELU, SiLU, max pooling, layer, group and instance norm, attention, depthwise convolution, squeeze and
excitation, mixer), and vision models of `transformers` where it is installed; half of them trained for some steps on
scikit-learn's digits, half fresh, where biases are exactly zero and activations lie on kinks. None may fail. Faults:
one thing at a time made wrong in the engines, on a network that shows it. All must be noticed.
"""

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape import data, selfcheck
from landscape.compute.masks import Masks
from landscape.compute.randomness import derived_seed, generator
from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.nets import build
from landscape.nets.smoothing import Blur
from landscape.objective import CurvatureOperator, Objective, folding, operators
from landscape.objective.convolution import _Convolution, _ConvolutionBackward
from landscape.objective.l2 import L2Term
from landscape.objective.network import Network
from landscape.objective.parameters import ParameterSpace
from landscape.selfcheck import Check
from landscape.store.protocol import Protocol

CLASSES = 10
IMAGES = 24


def pictures(side: int, channels: int = 3) -> Images:
    """scikit-learn's digits, enlarged to a side and copied into channels; black borders and all."""
    digits = data.load("digits")
    batch = functional.interpolate(digits.batch(0, 256), (side, side), mode="bilinear")
    return Images(
        batch.expand(-1, channels, -1, -1).contiguous(), digits.labels[:256], CLASSES, f"digits of {side}", "train"
    )


def trained(model: nn.Module, images: Images, steps: int, seed: int = 0) -> nn.Module:
    """The model after some steps of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    batches = images.images.split(32), images.labels.split(32)
    model.train()
    with Masks.stream(generator(seed, "trial masks")):
        for step in range(steps):
            place = step % len(batches[0])
            output = model(batches[0][place])
            loss = functional.cross_entropy(getattr(output, "logits", output), batches[1][place])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


# Networks as people write them ----------------------------------------------------------------------------------------


class Viewing(nn.Module):
    """A LeNet, `view` and all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(16 * 25, 32), nn.Linear(32, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        features = functional.max_pool2d(torch.relu(self.conv1(images)), 2)
        features = functional.max_pool2d(torch.relu(self.conv2(features)), 2)
        return self.fc2(torch.relu(self.fc1(features.view(-1, 16 * 25))))


class Transformer(nn.Module):
    """Patches, a class token, two layers of attention."""

    def __init__(self, activation: str = "gelu", *, norm_first: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.position = nn.Parameter(0.02 * torch.randn(1, 17, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, activation, batch_first=True, norm_first=norm_first)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1) + self.position
        return self.head(self.layers(tokens)[:, 0])


class Mixer(nn.Module):
    """An MLP over tokens, one over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        tokens = self.patches(images).flatten(2).mT
        tokens = tokens + self.tokens(self.norms[0](tokens).mT).mT
        tokens = tokens + self.channels(self.norms[1](tokens))
        return self.head(tokens.mean(1))


class Excitation(nn.Module):
    """A convolution whose channels are gated by their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.gate = nn.Sequential(nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        """Gated features."""
        inner = self.conv(features)
        return features + inner * self.gate(inner.mean((2, 3)))[:, :, None, None]


class Dense(nn.Module):
    """Every layer sees all that came before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3, 1, 1)) for width in (8, 12, 16)
        )
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(20, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        features = self.stem(images)
        for layer in self.layers:
            features = torch.cat([features, layer(features)], dim=1)
        return self.head(features.mean((2, 3)))


def plain(
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
    pool: Callable[[], nn.Module] = lambda: nn.MaxPool2d(2),
    *middle: nn.Module,
    bias: bool = True,
) -> nn.Module:
    """Three convolutions, each with its norm, activation and pooling."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 8), (8, 8)):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=bias), norm(outputs) if norm else nn.Identity()]
        layers += [activation(), pool()]
    return nn.Sequential(*layers, *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def mobile() -> nn.Module:
    """Depthwise and pointwise convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def transformers_models() -> dict[str, Callable[[], nn.Module]]:
    """Small vision models of `transformers`, where it is installed."""
    try:
        import transformers
    except ImportError:
        return {}
    common = {"num_labels": CLASSES, "image_size": 32}
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

    def made(name: str, **settings: Any) -> Callable[[], nn.Module]:
        config = getattr(transformers, f"{name}Config")(**settings)
        return lambda: getattr(transformers, f"{name}ForImageClassification")(config)

    return {
        "transformers ViT": made("ViT", **common, **small, patch_size=8),
        "transformers ViT, eager": made("ViT", **common, **small, patch_size=8, attn_implementation="eager"),
        "transformers DeiT": made("DeiT", **common, **small, patch_size=8),
        "transformers BEiT": made("Beit", **common, **small, patch_size=8),
        "transformers ResNet": made(
            "ResNet", num_labels=CLASSES, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        ),
        "transformers ConvNeXT": made(
            "ConvNext", num_labels=CLASSES, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], patch_size=2
        ),
        "transformers MobileNetV2": made(
            "MobileNetV2", num_labels=CLASSES, image_size=32, depth_multiplier=0.15, min_depth=4, depth_divisible_by=4
        ),
        "transformers Swin": made(
            "Swin", num_labels=CLASSES, image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2],
            window_size=4,
        ),
        "transformers PoolFormer": made(
            "PoolFormer", num_labels=CLASSES, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]
        ),
    }  # fmt: skip


OURS = (
    "resnet_dnn_18",
    "resnet_dnn_smoothing_18",
    "resnet_mcdo_18",
    "resnet_mcdo_smoothing_18",
    "resnet_dnn_34",
    "resnet_dnn_50",
    "preresnet_dnn_18",
    "preresnet_mcdo_smoothing_18",
    "preresnet_dnn_50",
    "vgg_dnn_11",
    "vgg_dnn_16",
    "vgg_mcdo_smoothing_11",
    "prevgg_dnn_11",
    "prevgg_mcdo_11",
    "alexnet_dnn",
    "alexnet_mcdo_smoothing",
    "wideresnet_dnn_50",
    "resnext_dnn_50",
)
THEIRS: dict[str, Callable[[], nn.Module]] = {
    "LeNet with view": Viewing,
    "transformer, GELU": Transformer,
    "transformer, ReLU, norm last": lambda: Transformer("relu", norm_first=False),
    "mixer": Mixer,
    "densely connected": Dense,
    "mobile": mobile,
    "squeeze and excitation": lambda: plain(nn.ReLU, nn.BatchNorm2d, nn.Identity, Excitation(8)),
    "ReLU, batch norm, max pool": plain,
    "ReLU, no norm, max pool": lambda: plain(norm=None),
    "ReLU, no bias, no norm": lambda: plain(norm=None, bias=False),
    "ReLU, average pool": lambda: plain(pool=lambda: nn.AvgPool2d(2)),
    "GELU, group norm": lambda: plain(nn.GELU, lambda width: nn.GroupNorm(2, width)),
    "SiLU, instance norm": lambda: plain(nn.SiLU, lambda width: nn.InstanceNorm2d(width, affine=True)),
    "ELU, batch norm": lambda: plain(nn.ELU),
    "leaky ReLU": lambda: plain(nn.LeakyReLU, None),
    "PReLU": lambda: plain(nn.PReLU),
    "SELU, alpha dropout": lambda: plain(nn.SELU, None, lambda: nn.AlphaDropout(0.1)),
    "tanh": lambda: plain(nn.Tanh, None),
    "softplus": lambda: plain(nn.Softplus),
    "hard tanh": lambda: plain(nn.Hardtanh),
    "adaptive max pool": lambda: plain(nn.ReLU, nn.BatchNorm2d, nn.Identity, nn.AdaptiveMaxPool2d(4)),
    "pixel shuffle": lambda: plain(nn.ReLU, nn.BatchNorm2d, nn.Identity, nn.PixelUnshuffle(2), nn.PixelShuffle(2)),
    "dilated": lambda: plain(nn.ReLU, nn.BatchNorm2d, nn.Identity, nn.Conv2d(8, 8, 3, 1, 2, dilation=2)),
    "reflected padding": lambda: plain(
        nn.ReLU, nn.BatchNorm2d, nn.Identity, nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    ),
    "transposed": lambda: plain(nn.ReLU, nn.BatchNorm2d, nn.Identity, nn.ConvTranspose2d(8, 8, 2, 2)),
    "spatial dropout": lambda: plain(nn.ReLU, nn.BatchNorm2d, lambda: nn.Dropout2d(0.2)),
    "weight norm": lambda: plain(
        nn.ReLU, None, nn.Identity, nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, 1, 1))
    ),
    "an MLP": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, CLASSES)
    ),
    "softmax regression": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES)),
}  # fmt: skip
_PROTOCOLS = (
    Protocol(),
    Protocol(dropout="fixed"),
    Protocol(l2="unsquared"),
    Protocol(batch_norm="recalibrated"),
    Protocol(batch_norm="batch"),
    Protocol(parameters="weights"),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A network to check, and the protocol under which it is."""

    name: str
    make: Callable[[], nn.Module]
    steps: int
    protocol: Protocol


def healthy() -> list[Case]:
    """All of them: fresh and trained ones in turn, every protocol on some."""
    makers: dict[str, Callable[[], nn.Module]] = {
        name: lambda name=name: build(name, num_classes=CLASSES, width=4)  # type: ignore[misc]
        for name in OURS
    }
    makers |= THEIRS | transformers_models()
    return [
        Case(name, make, (0, 40)[place % 2], _PROTOCOLS[place // 2 % len(_PROTOCOLS)])
        for place, (name, make) in enumerate(makers.items())
    ]


def checks(model: nn.Module, images: Images, protocol: Protocol, *, weight_decay: float = 5e-4) -> list[Check]:
    """What the command checks."""
    exact = protocol.replace(dtype="float64")
    plain_one, decayed, double = (
        Objective(model, images, protocol=chosen.replace(images=IMAGES), weight_decay=decay, micro_batch=10)
        for chosen, decay in ((protocol, weight_decay), (protocol, weight_decay + 1), (exact, weight_decay))
    )
    return [
        *selfcheck.curvature_checks(plain_one, decayed, double),
        *selfcheck.plain_checks(model, double),
        *selfcheck.network_blur_checks(model),
    ]


def network(case: Case) -> nn.Module:
    """The network of a case, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(0, "trial", case.name))
        return trained(case.make().eval(), pictures(32), case.steps)


def false_alarms(cases: Sequence[Case]) -> list[str]:
    """Checks that failed on healthy networks."""
    images, alarms = pictures(32), []
    for case in cases:
        started = time.perf_counter()
        try:
            failed = [check for check in checks(network(case), images, case.protocol) if not check.passed]
            words = ", ".join(f"{check.name}: {check.found:.2g} above {check.allowed:.2g}" for check in failed)
        except Exception as error:  # a check that cannot be made is a false alarm, too
            words = f"{type(error).__name__}: {error}"
        what = f"{case.name}, {case.steps} steps, {_short(case.protocol)}"
        print(f"{time.perf_counter() - started:6.1f} s  {what}: {words or 'ok'}", flush=True)
        alarms += [f"{what}: {words}"] if words else []
    return alarms


def _short(protocol: Protocol) -> str:
    fields = protocol.difference(Protocol())
    return ", ".join(f"{name} {mine}" for name, (mine, _) in fields.items()) or "exact"


# Faults ---------------------------------------------------------------------------------------------------------------


def product(change: Callable[[CurvatureOperator, Tensor, Tensor], Tensor]) -> Any:
    """Every product is changed: (operator, vectors, right product) -> wrong one."""
    right = CurvatureOperator.__call__
    return mock.patch.object(
        CurvatureOperator, "__call__", lambda self, vectors: change(self, vectors, right(self, vectors))
    )


def method(owner: Any, name: str, change: Callable[..., Any]) -> Any:
    """A method is changed: (right method, self, ...) -> wrong result."""
    right = getattr(owner, name)
    return mock.patch.object(owner, name, lambda *args, **kwargs: change(right, *args, **kwargs))


def _dropped(right: Any, self: Objective, first: Any = None, last: Any = None, *, size: Any = None) -> Any:
    found = right(self, first, last, size=size)
    return found[:-1] if len(found) > 1 else found


def _dropped_in_gradient(right: Any, self: Objective, *args: Any, **kwargs: Any) -> Tensor:
    with method(Objective, "micro_batches", _dropped):
        return right(self, *args, **kwargs)


def _dropped_in_product(right: Any, self: CurvatureOperator, columns: Tensor) -> Iterator[Any]:
    pieces = list(right(self, columns))
    yield from pieces[:-1] if len(pieces) > 1 else pieces


def _equal_weights(right: Any, self: Objective, *args: Any, **kwargs: Any) -> Tensor:
    start, stop = args[1:3]
    return right(self, *args, **kwargs) * (self.micro_batch / (stop - start))


def _fresh(right: Any, self: Objective) -> Masks:
    _fresh_calls.append(0)
    return Masks.addressed(seed=len(_fresh_calls))


_fresh_calls: list[int] = []


def _by_row(right: Any, self: Any, *, first_example: int = 0, sample: int = 0) -> None:
    right(self, first_example=0, sample=sample)


def _no_epsilon(norm: Any) -> tuple[Tensor, Tensor]:
    scale = norm.running_var.rsqrt() * (1 if norm.weight is None else norm.weight)
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else norm.bias + shift


def _no_shift(norm: Any) -> tuple[Tensor, Tensor]:
    scale, shift = right_scale_and_shift(norm)
    return scale, shift if norm.bias is None else norm.bias + 0 * shift


right_scale_and_shift = folding.scale_and_shift


def _without(place: int) -> Any:
    """One of the second-order gradients of a convolution is forgotten."""
    right = _ConvolutionBackward.backward

    def backward(ctx: Any, *tangents: Any) -> Any:
        return tuple(
            None if number == place and value is not None else value
            for number, value in enumerate(right(ctx, *tangents))
        )

    return mock.patch.object(_ConvolutionBackward, "backward", staticmethod(backward))


def _swapped(right: Any, self: ParameterSpace, tensors: Any) -> Tensor:
    parts = list(tensors)
    alike = [
        (one, other) for other in range(len(parts)) for one in range(other) if parts[one].shape == parts[other].shape
    ]
    one, other = alike[-1]
    parts[one], parts[other] = parts[other], parts[one]
    return right(self, parts)


def _swapped_in_product(right: Any, self: CurvatureOperator, columns: Tensor) -> Any:
    with method(ParameterSpace, "flatten", _swapped):
        return list(right(self, columns))


def _elsewhere(right: Any, self: CurvatureOperator, objective: Objective, *args: Any, **kwargs: Any) -> None:
    point = kwargs.pop("point", None)
    right(self, objective, *args, point=(objective.point if point is None else point) * 1.003, **kwargs)


def _noise(operator: CurvatureOperator, vectors: Tensor, right: Tensor) -> Tensor:
    drawn = torch.randn(right.shape, generator=generator(operator.products, "fault"), dtype=right.dtype)
    return right + 3e-3 * right.norm() * drawn / drawn.norm()


def _weights_alone(right: Any, self: L2Term, parameters: Any, vectors: Tensor) -> Tensor:
    found = right(self, parameters, vectors)
    for place, shape in zip(self.space.slices().values(), self.space.shapes, strict=True):
        if len(shape) < 2:
            found[place] = 0
    return found


def _scaled_blur(right: Any, self: Blur, features: Tensor) -> Tensor:
    return right(self, features) * 1.01


def _shifted_taps(right: Any, self: Blur, features: Tensor) -> Tensor:
    return (right(self, features) + right(self, features.roll(1, -1))) / 2


def _leaking(right: Any, self: nn.Module, batch: Tensor, *args: Any) -> Tensor:
    return right(self, batch, *args) + 1e-3 * batch.mean()


FAULTS: dict[str, Callable[[], Any]] = {
    "product 5 % too large": lambda: product(lambda _, vectors, right: 1.05 * right),
    "product 0.1 % too large": lambda: product(lambda _, vectors, right: 1.001 * right),
    "product with the wrong sign": lambda: product(lambda _, vectors, right: -right),
    "product not symmetric": lambda: product(lambda _, v, right: right + 1e-2 * right.norm() * v.roll(1, 0)),
    "product not symmetric by a millionth": lambda: product(
        lambda _, v, right: right + 1e-6 * right.norm() * v.roll(1, 0)
    ),
    "product with noise": lambda: product(_noise),
    "product computed in bfloat16": lambda: product(lambda _, vectors, right: right.bfloat16().to(right.dtype)),
    "product at other weights": lambda: method(CurvatureOperator, "__init__", _elsewhere),
    "Gauss-Newton for the Hessian": lambda: mock.patch.dict(
        operators._GRAPHS, {"hessian": operators._GRAPHS["ggn"]}
    ),
    "product without the last micro-batch": lambda: method(
        CurvatureOperator, "batch_products", _dropped_in_product
    ),
    "gradient without the last micro-batch": lambda: method(Objective, "gradient", _dropped_in_gradient),
    "everything without the last micro-batch": lambda: method(Objective, "micro_batches", _dropped),
    "ragged micro-batches weighed alike": lambda: method(Objective, "batch_loss", _equal_weights),
    "two parameters exchanged": lambda: method(CurvatureOperator, "batch_products", _swapped_in_product),
    "half of the L2 term": lambda: method(
        L2Term, "product", lambda right, self, parameters, v: right(self, parameters, v) / 2
    ),
    "no L2 term in the product": lambda: method(
        L2Term, "product", lambda right, self, parameters, v: 0 * right(self, parameters, v)
    ),
    "L2 of weights alone in the product": lambda: method(L2Term, "product", _weights_alone),
    "L2 term twice": lambda: method(L2Term, "__call__", lambda right, self, parameters: 2 * right(self, parameters)),
    "masks drawn anew at every product": lambda: method(Objective, "masks", _fresh),
    "masks by row of the batch": lambda: method(_addressed(), "address", _by_row),
    "batch norm without its epsilon": lambda: mock.patch.object(folding, "scale_and_shift", _no_epsilon),
    "batch norm without its mean": lambda: mock.patch.object(folding, "scale_and_shift", _no_shift),
    "convolution without its second derivative in the weights": lambda: _without(2),
    "convolution without its second derivative in the images": lambda: _without(1),
    "convolution without its mixed derivative": lambda: _without(0),
    "convolution's gradient 1 % off": lambda: method(
        _Convolution, "backward", lambda right, ctx, gradient: _one_percent(right(ctx, gradient))
    ),
    "examples of a batch mixed": lambda: method(Network, "laid_out", _leaking),
    "blur not normalised": lambda: method(Blur, "forward", _scaled_blur),
    "blur with other taps": lambda: method(Blur, "forward", _shifted_taps),
}  # fmt: skip


def _one_percent(gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    return (gradients[0], None if gradients[1] is None else 1.01 * gradients[1], *gradients[2:])


def _addressed() -> type:
    return type(Masks.addressed())


@contextmanager
def _refused() -> Iterator[list[bool]]:
    refused = [False]
    try:
        yield refused
    except LandscapeError:
        refused[0] = True


def missed(names: Sequence[str]) -> list[str]:
    """Faults that no check noticed."""
    images = pictures(32)
    case = Case("resnet_mcdo_smoothing_18", lambda: build("resnet_mcdo_smoothing_18", num_classes=10, width=4), 40,
                Protocol(dropout="fixed"))  # fmt: skip
    model, unnoticed = network(case), []
    for name in names:
        started = time.perf_counter()
        found: list[Check] = []
        # An objective that refuses to be made is as good as a check that fails.
        with FAULTS[name](), _refused() as refused:
            found = [check for check in checks(model, images, case.protocol) if not check.passed]
        words = ", ".join(f"{check.name}: {check.found:.2g}" for check in found) or ("refused" if refused[0] else "")
        print(f"{time.perf_counter() - started:6.1f} s  {name}: {words or 'MISSED'}", flush=True)
        unnoticed += [] if words else [name]
    return unnoticed


def main() -> int:
    """Run the trial, print the two counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--healthy", type=int, help="so many healthy networks (default: all)")
    parser.add_argument("--faults", type=int, help="so many faults (default: all)")
    parser.add_argument("--only", help="only names that contain this")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    wanted = arguments.only or ""
    cases = [case for case in healthy() if wanted in case.name][: arguments.healthy]
    names = [name for name in FAULTS if wanted in name][: arguments.faults]
    alarms, unnoticed = false_alarms(cases), missed(names)
    print(f"healthy networks: {len(cases)}, false alarms: {len(alarms)}", *alarms, sep="\n  ")
    print(f"planted faults: {len(names)}, missed: {len(unnoticed)}", *unnoticed, sep="\n  ")
    return 1 if alarms or unnoticed else 0


if __name__ == "__main__":
    raise SystemExit(main())
