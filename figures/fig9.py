"""Error under corruptions by severity (C10)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from figures.sources import Drawing
from landscape import plotting
from landscape.store import published

STUDY = "corruption_robustness"
PUBLISHED_FILE = "cifar100_alexnet_dnn_corrupted.csv"
WIDTH = 0.8


def draw(drawing: Drawing) -> Figure:
    """Boxes over corruptions, one group per severity; the published AlexNet, the unit of mCE, in grey."""
    kinds = list(dict.fromkeys(entry.kind for entry in drawing.of("corruptions")))
    entries = sorted(drawing.of("corruptions"), key=lambda entry: (kinds.index(entry.kind), entry.seed))
    shown = [(entry.label, entry.color, entry.dataset) for entry in entries]
    file = drawing.published / PUBLISHED_FILE if drawing.published else None
    if file is not None and file.is_file():
        shown.append(("published: AlexNet, CIFAR-100-C", plotting.PUBLISHED, published.read_corrupted(file)))
    with plotting.style():
        figure = plotting.figure(plotting.TWO_COLUMNS, 2.9)
        axes = figure.add_subplot()
        severities: Sequence[int] = [int(level) for level in drawing.of("corruptions")[0].dataset["severity"].values]
        each = WIDTH / len(shown)
        for place, (name, color, dataset) in enumerate(shown):
            error = [100 * (1 - dataset["accuracy"].sel(severity=level).values) for level in severities]
            axes.boxplot(
                error,
                positions=np.arange(len(severities)) + (place - (len(shown) - 1) / 2) * each,
                widths=0.85 * each,
                whis=(0, 100),
                patch_artist=True,
                boxprops={"facecolor": (color, 0.5), "edgecolor": color},
                whiskerprops={"color": color},
                capprops={"color": color},
                medianprops={"color": plotting.ink()},
                manage_ticks=False,
            )
            axes.plot([], [], "s", color=color, alpha=0.6, label=name)
        axes.set_xticks(range(len(severities)), [str(level) for level in severities])
        axes.set_xlabel("severity")
        axes.set_ylabel("error (%)")
        count = drawing.of("corruptions")[0].dataset.sizes["corruption"]
        several = ", one box for each training" if len(entries) > len(kinds) else ""
        title = f"boxes: quartiles over {count} corruptions, whiskers: all{several}"
        plotting.below(figure, axes, columns=4, title=title)
    return figure
