"""What trained networks are: recipe, width, epochs, accuracy and loss, for tables and captions."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from landscape.checkpoint import Checkpoint


def facts(label: str, trained: Sequence["Checkpoint"], *, data: str | None = None) -> dict[str, Any]:
    """Facts of one kind of network, means over its trainings.

    Parameters
    ----------
    label
        Of the kind.
    trained
        Its checkpoints; what none of them says is None or not a number.
    data
        Where it is not that of the recipe.
    """
    recipe = trained[0].recipe or {}
    last = [each.history[-1] for each in trained if each.history]

    def ended(name: str, scale: float = 1.0) -> float:
        values = [scale * float(epoch[name]) for epoch in last if name in epoch]
        return float(np.mean(values)) if values else math.nan

    training = recipe.get("training", {})
    course = training.get("epochs", 0) + training.get("schedule", {}).get("warmup_epochs", 0)
    return {
        "network": label,
        "networks": len(trained),
        "recipe": recipe.get("recipe"),
        "data": data or recipe.get("data", {}).get("name"),
        "width": recipe.get("model", {}).get("width"),
        "epochs": training.get("stop_after") or course or None,
        "training NLL, nats": ended("train_cross_entropy"),
        "training accuracy, %": ended("train_accuracy", 100),
        "test NLL, nats": ended("test_nll"),
        "test accuracy, %": ended("test_accuracy", 100),
    }


def caption(preset: str, kinds: Sequence[Mapping[str, Any]]) -> str:
    """On which networks a figure was measured; of more than two kinds, ranges.

    Examples
    --------
    >>> one = {"network": "plain", "networks": 4, "data": "digits", "width": 8, "epochs": 20}
    >>> caption("digits", [{**one, "training NLL, nats": 0.0312, "test accuracy, %": 98.61}])
    'digits, width 8, 20 epochs; plain (n = 4): training NLL 0.0312 nats, test accuracy 98.6 %'
    """
    data = dict.fromkeys(str(each["data"]) for each in kinds)
    head = f"{'' if preset in data else f'{preset}: '}{', '.join(data)}"
    parts = [f"{head}, width {_range(kinds, 'width')}, {_range(kinds, 'epochs')} epochs"]
    for group in [[each] for each in kinds] if len(kinds) < 3 else [kinds]:
        count = sum(each["networks"] for each in group)
        who = f"{group[0]['network']} (n = {count})" if len(group) == 1 else f"{count} networks of {len(group)} kinds"
        loss, accuracy = _range(group, "training NLL, nats"), _range(group, "test accuracy, %")
        parts.append(f"{who}: training NLL {loss} nats, test accuracy {accuracy} %")
    return "; ".join(parts)


def _range(kinds: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [each[name] for each in kinds if each[name] is not None and not math.isnan(each[name])]
    return " to ".join(dict.fromkeys(f"{end:.3g}" for end in (min(values), max(values)))) if values else "unknown"
