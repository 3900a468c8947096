"""Kinds of networks that studies compare, as data: each the baseline with something changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from landscape.training import BY_ADAM

if TYPE_CHECKING:
    from landscape.training import Recipe

# Data and length of training that studies, audits and claims are offered for, from minutes to a GPU.
PRESETS = ("digits", "cifar100-small", "cifar100-medium", "converged", "paper")
# Recipe of the baseline, an MC-dropout ResNet-18, by preset.
BASELINES = {
    "digits": "digits-plain",
    "cifar100-small": "cifar100-small-mcdo",
    "cifar100-medium": "cifar100-medium-mcdo",
    "converged": "converged-mcdo",
    "paper": "cifar100-paper-resnet_mcdo_18",
}


@dataclass(frozen=True)
class NetworkKind:
    """A kind of network.

    Attributes
    ----------
    label
        For tables and legends.
    model
        Arguments of `nets.build` that differ from the baseline's.
    fraction
        Of the training's epochs, behind which it is taken from its series: 1 for a finished one.
    descent
        Fields of the recipe that differ from the baseline's.
    """

    label: str
    model: Mapping[str, Any] = field(default_factory=dict)
    fraction: float = 1.0
    descent: Mapping[str, Any] = field(default_factory=dict)


SMOOTH = "resnet_mcdo_smoothing_18"
# Moments of the training: an early one, before the learning rate falls, and a middle one. Taken where a series keeps a
# checkpoint, the nearest; in the paper's recipe that is just before its first fall and just before its second.
EARLY, MIDDLE = 0.25, 0.6
KINDS: dict[str, NetworkKind] = {
    "mcdo": NetworkKind("MC dropout"),
    "mcdo-smooth": NetworkKind("MC dropout + smooth", {"name": SMOOTH}),
    "dnn": NetworkKind("deterministic", {"name": "resnet_dnn_18"}),
    "dnn-smooth": NetworkKind("deterministic + smooth", {"name": "resnet_dnn_smoothing_18"}),
    "mcdo-early": NetworkKind("MC dropout, early", fraction=EARLY),
    "mcdo-smooth-early": NetworkKind("MC dropout + smooth, early", {"name": SMOOTH}, fraction=EARLY),
    "mcdo-middle": NetworkKind("MC dropout, middle", fraction=MIDDLE),
    "mcdo-smooth-middle": NetworkKind("MC dropout + smooth, middle", {"name": SMOOTH}, fraction=MIDDLE),
    # What else the paper explains as smoothing.
    "mcdo-preact": NetworkKind("pre-activation", {"name": "preresnet_mcdo_18"}),
    "mcdo-relu6": NetworkKind("ReLU6 alone", {"smoothing": "relu6"}),
    "mcdo-relu6-blur": NetworkKind("ReLU6 + blur", {"smoothing": "relu6-blur"}),
    "mcdo-tanh": NetworkKind("tanh alone", {"smoothing": "tanh"}),
    "mcdo-blur": NetworkKind("blur alone", {"smoothing": "blur"}),
    "mcdo-preact-smooth": NetworkKind("pre-activation + smooth", {"name": "preresnet_mcdo_smoothing_18"}),
    **{
        f"mcdo-t{temperature}": NetworkKind(f"t = {temperature}", {"smoothing": f"tanh-blur(t={temperature})"})
        for temperature in (1, 3, 30)
    },
    **{
        f"mcdo-kernel{kernel}": NetworkKind(f"kernel {kernel}", {"smoothing": f"tanh-blur(kernel={kernel})"})
        for kernel in ("1-2-1", "1-3-3-1", "1-4-6-4-1")
    },
    **{
        f"mcdo-stage{stage}": NetworkKind(
            f"smooth after stage {stage} only",
            {"name": SMOOTH, "stages": [int(stage == other) for other in range(1, 5)]},
        )
        for stage in range(1, 5)
    },
    "vit": NetworkKind("vision transformer", {"name": "vit_mcdo_6", "width": 64}, descent=BY_ADAM),
    "vit-smooth": NetworkKind(
        "vision transformer + blur of tokens", {"name": "vit_mcdo_smoothing_6", "width": 64}, descent=BY_ADAM
    ),
    "mcdo-mlp": NetworkKind("MLP head", {"head": "mlp"}),
    "mcdo-gap-mlp": NetworkKind("GAP + MLP head", {"head": "gap-mlp"}),
    "mcdo-max": NetworkKind("global maximum head", {"head": "global-max"}),
    "mcdo-median": NetworkKind("global median head", {"head": "global-median"}),
    "mcdo-clipped": NetworkKind("clipped GAP head", {"head": "clipped-gap"}),
}


def recipe(kind: str, preset: str) -> "Recipe":
    """The recipe of a kind: a listed one where there is one that trains the same, else the baseline's, changed."""
    from landscape import training

    chosen = KINDS[kind]
    base = training.recipe(BASELINES[preset])
    model = {**base.model, **chosen.model}
    result = base if model == dict(base.model) else base.replace(name=f"{preset}-{kind}", model=model, **chosen.descent)
    listed = [*training.RECIPES.values()]
    if preset == "paper" and set(chosen.model) == {"name"}:
        listed.append(training.recipe(f"cifar100-paper-{chosen.model['name']}"))
    without_name = result.header(0) | {"recipe": ""}
    result = next((each for each in listed if each.header(0) | {"recipe": ""} == without_name), result)
    if chosen.fraction < 1:
        moment = chosen.fraction * result.total_epochs
        result = result.replace(stop_after=min(result.series, key=lambda epoch: abs(epoch - moment)))
    return result
