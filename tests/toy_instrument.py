"""An instrument in one file, written by the walk in CONTRIBUTING.md: the mean score that a network gives each class."""

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray

from landscape import command, objective
from landscape.errors import LandscapeError


def measure(arguments, subject, journal):
    examples = objective.preparation.examples(subject.data, subject.protocol)
    with torch.no_grad():
        scores = subject.checkpoint.model(examples.batch(0, len(examples))).double() * arguments.factor
    stderr = scores.std(0) / len(scores) ** 0.5
    return xarray.Dataset(
        {"score": ("class", scores.mean(0).numpy()), "score_stderr": ("class", stderr.numpy())},
        {"class": np.arange(scores.shape[1])},
    )


def check(arguments):
    if not arguments.factor > 0:
        raise LandscapeError(f"--factor {arguments.factor} is not positive: give a number above 0")


def draw(results, path):
    figure, axes = plt.subplots()
    for result in results:
        axes.errorbar(result["class"], result["score"], result["score_stderr"])
    figure.savefig(path)
    plt.close(figure)


INSTRUMENT = command.Instrument(
    name="landscape.toy",
    summary="mean score of each class",
    description="Mean score of each class.",
    add_arguments=lambda parser: parser.add_argument("--factor", type=float, default=1.0, help="of all scores"),
    check=check,
    settings=lambda arguments, subject: {"factor": arguments.factor},
    measure=measure,
    plan=lambda arguments, subject: f"{subject.name}: one forward pass",
    table=lambda arguments, results: command.columns(
        ["network", "first score"], [[str(each.attrs["name"]), f"{float(each['score'][0]):.3g}"] for each in results]
    ),
    draw=command.picture(draw),
)
main = INSTRUMENT.main
