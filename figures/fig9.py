"""Error under corruptions by severity (C10)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from figures import legends
from figures.sources import Drawing
from landscape import plotting
from landscape.store import published

STUDY = "corruption_robustness"
PUBLISHED_FILE = "cifar100_alexnet_dnn_corrupted.csv"
WIDTH = 0.8


def draw(drawing: Drawing) -> Figure:
    """Boxes over corruptions, one group a severity; the published AlexNet, the unit of mCE, in grey."""
    kinds = list(dict.fromkeys(entry.kind for entry in drawing.of("corruptions")))
    entries = sorted(drawing.of("corruptions"), key=lambda entry: (kinds.index(entry.kind), entry.seed))
    shown = [(entry.label, entry.color, entry.dataset) for entry in entries]
    file = drawing.published / PUBLISHED_FILE if drawing.published else None
    if file is not None and file.is_file():
        shown.append(("published: AlexNet, CIFAR-100-C", plotting.PUBLISHED, published.read_corrupted(file)))
    with plotting.style():
        made = plotting.figure(6.4, 3.9)
        axes = made.add_subplot()
        severities: Sequence[int] = [int(level) for level in drawing.of("corruptions")[0].dataset["severity"].values]
        each = WIDTH / len(shown)
        for place, (name, color, dataset) in enumerate(shown):
            error = [100 * (1 - dataset["accuracy"].sel(severity=level).values) for level in severities]
            axes.boxplot(
                error,
                positions=np.arange(len(severities)) + (place - (len(shown) - 1) / 2) * each,
                widths=0.85 * each,
                patch_artist=True,
                boxprops={"facecolor": color, "alpha": 0.5},
                medianprops={"color": "black"},
                flierprops={"markersize": 3},
                manage_ticks=False,
            )
            axes.plot([], [], "s", color=color, alpha=0.6, label=name)
        axes.set_xticks(range(len(severities)), [str(level) for level in severities])
        axes.set_xlabel("severity")
        axes.set_ylabel("error (%), one point a corruption")
        legends.below(made, axes)
    return made
