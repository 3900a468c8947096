"""How often the stated 95 % intervals hold: every interval on few and more images, of an easy and a hard network.

    python benchmarks/coverage.py [--only ROW ...] [--repeats 200] [--out docs/coverage.md]

The easy network is ``digits-plain`` (99 % right, a few badly fitted images), the hard one a reference network of
CIFAR-100 (about half right). What a population of images gives is recorded once; samples of it are drawn with a seed,
without replacement where the instrument's sample is, and each interval is asked whether it holds the population's
value. Finished rows are kept beside the recorded numbers (``--cache``); a row that is there is not measured again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from landscape import checkpoint, data, metrics, training
from landscape.compute.randomness import numpy_generator
from landscape.eigen import dense, eigenpairs, trace
from landscape.feature_maps import uncertainty
from landscape.fourier import amplitude
from landscape.frequency_noise import robustness
from landscape.hessian.mini_batches import distribution, epochs, mini_batch_spectra
from landscape.hessian.sampling import GROUPS, sampling
from landscape.look import comparison
from landscape.metrics import METRICS, Examples, Intervals, MetricSet, confidence
from landscape.objective import CurvatureOperator, Objective
from landscape.predictions import curves
from landscape.predictions.efficiency import effective_size
from landscape.predictions.passes import Predictor
from landscape.robustness import corrupted
from landscape.robustness.corruptions import Computed
from landscape.store.protocol import Protocol
from landscape.surface import directions as axes, plane
from landscape.surface.cells import Cells
from landscape.surface.summary import summarize

EASY, HARD = "digits-plain", "CIFAR-100, ResNet-18 of width 16"
REFERENCE = Path(__file__).parents[1] / "reference" / "cifar100-small"
Recorded = dict[str, np.ndarray]


@dataclass
class Count:
    """How often one interval held."""

    interval: str
    network: str
    images: str
    held: int = 0
    printed: int = 0
    repeats: int = 0

    def add(self, low: float, high: float, truth: float) -> None:
        """Count an interval; one that is not a number was not printed."""
        self.repeats += 1
        if np.isfinite(truth) and not (np.isnan(low) or np.isnan(high)):
            self.printed += 1
            self.held += int(low <= truth <= high)

    def cells(self) -> list[str]:
        """A row of the table: coverage and its Monte-Carlo error in percent, and how often there was an interval."""
        shown = "-"
        if self.printed:
            share = self.held / self.printed
            error = max(np.sqrt(share * (1 - share) / self.printed), 0.5 / self.printed)
            shown = f"{100 * share:.1f} ± {100 * error:.1f}"
        return [self.interval, self.network, self.images, shown, f"{100 * self.printed / self.repeats:.0f}"]


class Counts:
    """Counts by interval, network and number of images, in the order in which they came."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str], Count] = {}

    def add(self, interval: str, network: str, images: object, ends: Any, truth: Any) -> None:
        """Count one interval."""
        key = (interval, network, str(images))
        if key not in self.found:
            self.found[key] = Count(*key)
        self.found[key].add(float(ends[0]), float(ends[1]), float(truth))

    def about(self, interval: str, network: str, images: object, value: Any, stderr: Any, truth: Any) -> None:
        """Count the interval value +- Z stderr."""
        half = confidence.Z * float(stderr)
        self.add(interval, network, images, (float(value) - half, float(value) + half), float(truth))


class Study:
    """What rows need: where recorded populations are kept, and how many samples to draw."""

    def __init__(self, cache: Path, repeats: int) -> None:
        self.cache, self.repeats = cache, repeats
        cache.mkdir(parents=True, exist_ok=True)

    def recorded(self, name: str, record: Callable[..., Recorded], *arguments: Any) -> Recorded:
        """A population's numbers, recorded once: what `record` gives for the arguments."""
        path = self.cache / f"{name}.npz"
        if not path.exists():
            np.savez(path, **record(*arguments))  # type: ignore[arg-type]
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)

    def samples(self, population: int, count: int, what: str, *, replace: bool = False) -> Iterator[np.ndarray]:
        """Numbers of the images of each sample."""
        source = numpy_generator(0, "coverage", what, count)
        for _ in range(self.repeats):
            yield source.choice(population, count, replace=replace)


def easy() -> tuple[torch.nn.Module, data.Images, data.Images]:
    """The easy network with its training and test images."""
    loaded = checkpoint.load(training.ensure(training.recipe("digits-plain"), seed=0))
    return loaded.model, data.load("digits", "train"), data.load("digits", "test")


def hard(kind: str = "dnn", seed: int = 0) -> tuple[torch.nn.Module, data.Images, data.Images]:
    """A hard network with its images."""
    loaded = checkpoint.load(REFERENCE / f"cifar100-small-{kind}-seed{seed}.safetensors")
    return loaded.model, data.load("cifar100", "train"), data.load("cifar100", "test")


def predictions_of(model: torch.nn.Module, images: data.Images, passes: int) -> Recorded:
    """Log-probabilities (T, N, C) of passes, and labels."""
    predictor = Predictor(model, images, protocol=Protocol(dropout="fresh", split="test"))
    samples = range(passes if predictor.stochastic else 1)
    parts = [
        predictor.passes(predictor.images(images, start, stop), start, samples).float()
        for start, stop in predictor.batches(0, len(images))
    ]
    return {"logs": torch.cat(parts, dim=1).numpy(), "labels": images.labels.numpy()}


def test_predictions(study: Study) -> Iterator[tuple[str, Recorded]]:
    """Predictions of both networks on their test images."""

    def record(network: Callable[[], Any]) -> Recorded:
        model, _, images = network()
        return predictions_of(model, images, 1)

    for name, network in ((EASY, easy), (HARD, hard)):
        yield name, study.recorded(f"predictions-{'easy' if name == EASY else 'hard'}", record, network)


def examples_of(recorded: Recorded, rows: np.ndarray | slice, draw: int = 0) -> Examples:
    """Contributions of some images to the metrics."""
    logs = torch.from_numpy(recorded["logs"][draw][rows]).double().log_softmax(1)
    return metrics.examples(logs, torch.from_numpy(recorded["labels"][rows]))


def row_metrics(study: Study, counts: Counts) -> None:
    """Metrics of single predictions (`landscape.predictions`): sampled with replacement, from the test images."""
    for network, recorded in test_predictions(study):
        whole = MetricSet(recorded["logs"].shape[2])
        whole.add(examples_of(recorded, slice(None)))
        truth = whole.values()
        for images in (50, 200, 2000):
            for rows in study.samples(len(recorded["labels"]), images, f"metrics {network}", replace=True):
                intervals = Intervals()
                intervals.add(examples_of(recorded, rows))
                for name, one in intervals.result().items():
                    counts.add(METRICS[name].label, network, images, (one.low, one.high), truth[name])


def row_passes(study: Study, counts: Counts) -> None:
    """The mean over choices of passes, and effective ensemble sizes: MC-dropout networks, plain and smooth."""

    def record(kind: str) -> Recorded:
        model, _, images = hard(kind)
        return predictions_of(model, images.select(torch.arange(2500)), 8)

    networks = [study.recorded(f"passes-{kind}", record, kind) for kind in ("mcdo", "mcdo-smooth")]

    def curves_of(recorded: Recorded, rows: np.ndarray | slice) -> xarray.Dataset:
        passes = xarray.Dataset(
            {
                "log_probability": (("sample", "image", "class"), recorded["logs"][:, rows]),
                "label": ("image", recorded["labels"][rows]),
            },
            attrs={"images_sha256": ""},
        )
        return curves(passes, sizes=(1, 2, 4), resamples=4, replicates=200)

    whole = [curves_of(one, slice(None)) for one in networks]
    sizes = effective_size(whole[1], whole[0])
    for images in (200, 1000):
        for rows in study.samples(2500, images, "passes", replace=True):
            found = [curves_of(one, rows) for one in networks]
            for name in ("nll", "accuracy", "ece"):
                for size in (1, 4):
                    ends = (found[0][f"{name}_{end}"].sel(size=size) for end in ("low", "high"))
                    label = f"{METRICS[name].label}, mean over choices of {size} of 8 passes"
                    counts.add(label, HARD, images, [*ends], whole[0][name].sel(size=size))
            pair = effective_size(found[1], found[0])
            for name in ("nll", "accuracy", "ece"):
                one, true = (every.sel(metric=name, size=4) for every in (pair, sizes))
                label = f"effective ensemble size, {METRICS[name].label}"
                counts.add(label, HARD, images, (one["low"], one["high"]), float(true["effective_size"]))


def row_corruption(study: Study, counts: Counts) -> None:
    """Mean corruption errors relative to a baseline (`landscape.robustness`): 4 corruptions x 2 severities."""
    names, severities = ("gaussian_noise", "contrast", "pixelate", "brightness"), (1, 3)

    def record(model: torch.nn.Module, images: data.Images) -> Recorded:
        found = corrupted.measure(
            model, Computed(images), corruptions=names, severities=severities, passes=1, protocol=Protocol(split="test")
        )
        return {name: found[name].values for name in ("correct_of_image", "nll_of_image", "confidence_of_image")}

    def table(recorded: Recorded, rows: np.ndarray | slice) -> xarray.Dataset:
        cell, image = ("severity", "corruption"), ("severity", "corruption", "image")
        chosen = {name: values[:, :, rows] for name, values in recorded.items()}
        gaps = chosen["confidence_of_image"] - chosen["correct_of_image"]
        bins = metrics.definitions.bin_of(torch.from_numpy(chosen["confidence_of_image"]).float(), 10).numpy()
        ece = sum(np.abs((gaps * (bins == place)).mean(-1)) for place in range(10))
        return xarray.Dataset(
            {
                **{name: (image, values) for name, values in chosen.items()},
                "accuracy": (cell, chosen["correct_of_image"].mean(-1)),
                "nll": (cell, chosen["nll_of_image"].mean(-1)),
                "ece": (cell, ece),
            },
            coords={"severity": list(severities), "corruption": list(names)},
            attrs={"images_sha256": ""},
        )

    pairs: dict[str, list[Recorded]] = {}
    model, _, images = easy()
    pairs[EASY] = [study.recorded("corrupted-easy", record, model, images)]
    few = hard()[2].select(torch.arange(1500))
    pairs[HARD] = [study.recorded(f"corrupted-{kind}", record, hard(kind)[0], few) for kind in ("dnn", "dnn-smooth")]
    for network, networks in pairs.items():
        whole = [table(one, slice(None)) for one in networks]
        baseline = whole[0]
        truth = [corrupted.relative_errors(one, baseline) for one in whole]
        for count in (200, 1000):
            for rows in study.samples(networks[0]["nll_of_image"].shape[2], count, "corrupted", replace=True):
                found = [corrupted.relative_errors(table(one, rows), baseline, replicates=200) for one in networks]
                for measure in corrupted.RELATIVE:
                    one = found[-1].sel(measure=measure)
                    true = truth[-1]["value"].sel(measure=measure)
                    counts.add(measure, network, count, (one["low"], one["high"]), true)
                    if len(networks) > 1:
                        gap = corrupted.difference(*found).sel(measure=measure)
                        true = (truth[1]["value"] - truth[0]["value"]).sel(measure=measure)
                        counts.add(f"{measure}, difference of two", network, count, (gap["low"], gap["high"]), true)


def row_surface(study: Study, counts: Counts) -> None:
    """Loss and rise of a surface's cells (`landscape.surface`): the origin and a corner."""
    for network, source, images in ((EASY, easy, None), (HARD, hard, 4000)):

        def record(source: Callable[[], Any] = source, images: int | None = images) -> Recorded:
            model, train, _ = source()
            objective = Objective(model, train, weight_decay=5e-4, protocol=Protocol(images=images))
            cells = Cells(objective, axes.random_directions(objective, 2, seed=0))
            places = {"origin": (0.0, 0.0), "corner": (0.5, 0.5)}
            return {name: cells.losses(at, number=0).cpu().numpy() for name, at in places.items()}

        recorded = study.recorded(f"surface-{'easy' if network == EASY else 'hard'}", record)
        for count in (50, 500):
            for rows in study.samples(len(recorded["origin"]), count, f"surface {network}", replace=True):
                for place in ("origin", "corner"):
                    losses = recorded[place][rows]
                    # A loss below log 2 is of a right prediction; the instrument counts the wrong ones.
                    first, second, third = (float((losses**power).mean()) for power in (1, 2, 3))
                    ends = confidence.from_moments(first, second, third, count)[1]
                    if losses.max() < np.log(2):
                        ends = (np.nan, np.nan)
                    counts.add(f"loss at the {place} of a surface", network, count, ends, recorded[place].mean())
                rises = recorded["corner"][rows] - recorded["origin"][rows]
                truth = (recorded["corner"] - recorded["origin"]).mean()
                # Of the corner, the last place above: no interval where nothing is wrong there.
                rise_ends = ends if np.isnan(ends[0]) else confidence.of_mean(rises)
                counts.add("rise at the corner", network, count, rise_ends, truth)


class Factored:
    """Curvature whose images' parts are given as factors, for thousands of samples in no time.

    Parameters
    ----------
    factors, owner
        (R, D) rows with the image of each: the curvature of images is the mean over them of their rows' outer products.
    images
        Numbers of the sample's images.
    """

    def __init__(self, factors: np.ndarray, owner: np.ndarray, images: np.ndarray, population: int) -> None:
        size = max(1, len(images) // GROUPS)
        place = np.full(population, -1)
        place[images] = np.arange(len(images))
        rows = np.flatnonzero(place[owner] >= 0)
        self.factors, self.group = torch.from_numpy(factors[rows]).double(), place[owner[rows]] // size
        self.counts = torch.tensor([min(size, len(images) - start) for start in range(0, len(images), size)])
        self.images = len(images)
        self.objective = SimpleNamespace(
            images=len(images),
            population=population,
            micro_batch=size,
            reduced=lambda value: value,
            has_batch_norm=False,
            random_order=lambda: None,
        )

    def eigenpairs(self, top: int) -> tuple[np.ndarray, Tensor]:
        """The largest eigenvalues and their vectors."""
        _, values, vectors = torch.linalg.svd(self.factors, full_matrices=False)
        return (values[:top].square() / self.images).numpy(), vectors[:top].T

    def batch_projections(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `CurvatureOperator.batch_projections`."""
        seen = self.factors @ vectors
        groups = [seen[torch.from_numpy(self.group == place)] for place in range(len(self.counts))]
        projected = [part.T @ part / count for part, count in zip(groups, self.counts, strict=True)]
        return torch.stack(projected), torch.arange(len(groups)), self.counts


def factors_of(objective: Objective, *, fisher: bool, width: int = 2048, least: float = 2.0) -> Recorded:
    """Factors of each image's GGN, or empirical Fisher, sketched to `width` numbers a row; short rows are left out."""
    parameters = [value.detach().clone().requires_grad_() for value in objective.space.split(objective.point)]
    source = numpy_generator(0, "sketch")
    bucket = torch.from_numpy(source.integers(width, size=objective.size))
    sign = torch.from_numpy(source.choice([-1.0, 1.0], size=objective.size)).float()
    rows, owner = [], []
    for image in range(objective.images):
        outputs = objective.outputs(parameters, image, image + 1)[0]
        p = outputs.detach().softmax(0)
        if fisher:
            residual = p.clone()
            residual[objective.labels(image, image + 1)] -= 1
            cotangents = [residual]
        else:
            # The columns of a factor of diag(p) - p p'.
            unit = torch.eye(len(p))
            cotangents = [p[c].sqrt() * (unit[c] - p) for c in range(len(p)) if p[c] > 1e-6]
        for place, cotangent in enumerate(cotangents):
            keep = place + 1 < len(cotangents)
            flat = objective.space.flatten(torch.autograd.grad(outputs, parameters, cotangent, retain_graph=keep))
            if float(flat.square().sum()) > least:
                rows.append(torch.zeros(width).index_add_(0, bucket, flat * sign).numpy())
                owner.append(image)
    return {"factors": np.stack(rows), "owner": np.array(owner), "population": np.array(objective.images)}


def row_eigenvalues(study: Study, counts: Counts) -> None:
    """Top eigenvalues for the choice of images (`landscape.hessian`): many samples of factored curvature."""

    def record(source: Callable[[], Any], images: int | None, fisher: bool) -> Recorded:
        model, train, _ = source()
        return factors_of(Objective(model, train, protocol=Protocol(images=images)), fisher=fisher)

    for network, kind, recorded in (
        (EASY, "GGN", study.recorded("factors-easy", record, easy, None, False)),
        (HARD, "Fisher", study.recorded("factors-hard", record, hard, 1500, True)),
    ):
        population = int(recorded["population"])
        factors, owner = recorded["factors"], recorded["owner"]
        truth, _ = Factored(factors, owner, np.arange(population), population).eigenpairs(3)
        for images in (96, 192, 500):
            for rows in study.samples(population, images, f"eigenvalues {network}"):
                sample: Any = Factored(factors, owner, rows, population)
                values, vectors = sample.eigenpairs(3)
                found = sampling(sample, values, vectors)
                for rank in range(len(values)):
                    ends = (found.low[rank], found.high[rank])
                    label = f"{kind} eigenvalue {rank + 1}, choice of images"
                    counts.add(label, network, f"{images} of {population}", ends, truth[rank])


def row_hessian(study: Study, counts: Counts) -> None:
    """The same of ``python -m landscape.hessian digits-plain --images 192``, subset by subset, of at most 100."""
    model, train, _ = easy()

    def found(images: int | None, seed: int) -> Recorded:
        protocol = Protocol(images=images, subset_seed=seed)
        curvature = CurvatureOperator(Objective(model, train, weight_decay=5e-4, protocol=protocol))
        pairs = eigenpairs(curvature, 5, tolerance=1e-3, confidence=0)
        one = sampling(curvature, pairs.values, pairs.vectors)
        return {"values": pairs.values, "low": one.low, "high": one.high, "stderr": one.stderr}

    truth = study.recorded("hessian-all", found, None, 0)["values"]
    # A subset costs seconds where the others cost milliseconds.
    for seed in range(min(study.repeats, 100)):
        one = study.recorded(f"hessian-192-{seed}", found, 192, seed)
        for rank in range(len(truth)):
            ends = (one["low"][rank], one["high"][rank])
            counts.add(f"Hessian eigenvalue {rank + 1}, choice of images", EASY, "192 of 1438", ends, truth[rank])


def row_mini_batches(study: Study, counts: Counts) -> None:
    """The distribution of mini-batch eigenvalues (`landscape.hessian --per-batch`)."""

    def record() -> Recorded:
        model, train, _ = easy()
        objective = Objective(model, epochs(train, 400 * 16), weight_decay=5e-4)
        return {"eigenvalue": mini_batch_spectra(objective, top=3, tolerance=1e-2)["eigenvalue"].values}

    eigenvalues = study.recorded("mini-batches", record)["eigenvalue"]
    truth = distribution(eigenvalues, replicates=2)
    for batches in (64, 256):
        for rows in study.samples(len(eigenvalues), batches, "mini-batches", replace=True):
            found = distribution(eigenvalues[rows], replicates=200)
            for name in ("negative_share", "outlier_share", "tail_index"):
                label = f"mini-batches: {name.replace('_', ' ')}"
                counts.add(label, EASY, batches, found[f"{name}_interval"].values, truth[name])
            for level in (0.05, 0.5, 0.95, 0.99):
                one = found.sel(probability=level)
                label = f"mini-batches: quantile {level:g}"
                counts.add(
                    label, EASY, batches, one["quantile_interval"].values, truth["quantile"].sel(probability=level)
                )


def row_masks(study: Study, counts: Counts) -> None:
    """Means over dropout masks (`landscape.hessian --masks`) and over random planes (`landscape.surface --planes`)."""
    model, train, _ = easy()
    few = Protocol(images=96)

    def of_masks() -> Recorded:
        objective = Objective(model, train, weight_decay=5e-4, protocol=few.replace(dropout="fixed"))
        found = []
        for mask in range(150):
            operator = CurvatureOperator(objective, sample=mask)
            pairs = eigenpairs(operator, 3, tolerance=1e-3, seed=0, confidence=0, keep_space=True)
            found.append([*pairs.values, trace(operator, products=10, seed=0, space=pairs.space).value])
        names = ("eigenvalue 1", "eigenvalue 2", "eigenvalue 3", "trace")
        return {f"{name}, mean over masks": column for name, column in zip(names, np.array(found).T, strict=True)}

    def of_planes() -> Recorded:
        objective = Objective(model, train, weight_decay=5e-4, protocol=few)
        summaries = [summarize(plane(objective, points=7, span=0.5, seed=seed)) for seed in range(150)]
        return {
            "curvature along a random direction, mean over planes": np.array([one.curvature[0] for one in summaries]),
            "rise of the loss, mean over planes": np.array([one.rises[-1].mean for one in summaries]),
            "roughness, mean over planes": np.array([one.roughness for one in summaries]),
        }

    for name, record in (("masks", of_masks), ("planes", of_planes)):
        for label, values in study.recorded(name, record).items():
            for draws in (5, 20):
                for rows in study.samples(len(values), draws, name, replace=True):
                    counts.add(label, EASY, draws, confidence.of_mean(values[rows]), values.mean())


def row_feature_maps(study: Study, counts: Counts) -> None:
    """Feature-map variances, their comparison, Fourier amplitudes and band noise: means over images."""

    def record() -> Recorded:
        found: Recorded = {}
        for kind in ("mcdo", "mcdo-smooth"):
            model, _, images = hard(kind)
            few = images.select(torch.arange(600))
            maps = uncertainty.measure(model, few, passes=5)
            ends = comparison.stage_ends(maps)
            for name in ("model_std", "data_std"):
                found[f"{kind} {name}"] = maps[f"{name}_of_image"].values[ends]
            spectrum = amplitude.measure(model, few, passes=5)["delta_at_pi_of_image"].values[-1, 0]
            found[f"{kind} delta"] = spectrum[comparison.stage_ends(maps)]
            noise = robustness.measure(model, few, frequencies=(0.2, 0.8), passes=2)
            # From what has all dimensions, so that they keep their order.
            found[f"{kind} drop"] = -(noise["correct_of_image"] - noise["clean_correct_of_image"]).values[0]
            found[f"{kind} nll rise"] = (noise["nll_of_image"] - noise["clean_nll_of_image"]).values[0]
        return found

    recorded = study.recorded("maps", record)

    def result(values: np.ndarray) -> xarray.Dataset:
        return xarray.Dataset(
            {"x": (("point", "image"), values), "stage": ("point", np.arange(len(values)))},
            coords={
                "point": [f"block {index}" for index in range(len(values))],
                "kind": ("point", ["block"] * len(values)),
                "image": np.arange(values.shape[1]),
            },
        )

    for images in (50, 200):
        for rows in study.samples(600, images, "maps", replace=True):
            for name, label in (
                ("model_std", "feature maps: standard deviation over masks"),
                ("data_std", "feature maps: standard deviation over positions"),
                ("delta", "Fourier: relative log amplitude at pi"),
                ("drop", "band noise: accuracy drop"),
                ("nll rise", "band noise: NLL rise"),
            ):
                first, second = (recorded[f"{kind} {name}"][-2:] for kind in ("mcdo", "mcdo-smooth"))
                values = first[0][rows]
                if not np.isfinite(values).all():
                    continue
                truth = second[0].mean() - first[0].mean()
                if name == "drop":
                    counts.add(label, HARD, images, confidence.of_paired_shares(values), first[0].mean())
                    ends = confidence.of_paired_shares(second[0][rows] - values)
                    counts.add(f"{label}, paired difference", HARD, images, ends, truth)
                    continue
                stderr = values.std(ddof=1) / np.sqrt(images)
                counts.about(label, HARD, images, values.mean(), stderr, first[0].mean())
                pair = comparison.paired(result(first[:1, rows]), result(second[:1, rows]), "x")
                counts.add(f"{label}, paired difference", HARD, images, pair["interval"].values[0], truth)
                if "std" in name:
                    truth = second[0].mean() / first[0].mean()
                    counts.add(f"{label}, paired ratio", HARD, images, pair["ratio_interval"].values[0], truth)


def row_probes(study: Study, counts: Counts) -> None:
    """Trace and density for their random vectors (`landscape.hessian`): spectra like a flat and a sharp network's."""
    source = numpy_generator(0, "spectra")
    for name, outliers in (("few outliers", 3), ("many outliers", 30)):
        bulk = source.gamma(0.3, size=400) * 0.05
        spectrum = np.concatenate([np.geomspace(0.5, 50, outliers), bulk])
        basis = np.linalg.qr(source.standard_normal((len(spectrum), len(spectrum))))[0]
        operator = dense(torch.from_numpy(basis * spectrum) @ torch.from_numpy(basis.T))
        for products in (10, 30):
            for seed in range(study.repeats):
                found = trace(operator, products=products, seed=seed)
                truth = spectrum.sum()
                counts.about("trace, random vectors", name, f"{products} products", found.value, found.stderr, truth)


ROWS: Mapping[str, Callable[[Study, Counts], None]] = {
    "metrics": row_metrics,
    "passes": row_passes,
    "corruption": row_corruption,
    "surface": row_surface,
    "eigenvalues": row_eigenvalues,
    "hessian": row_hessian,
    "mini-batches": row_mini_batches,
    "masks": row_masks,
    "feature-maps": row_feature_maps,
    "probes": row_probes,
}


def table(rows: Sequence[Sequence[str]]) -> str:
    """The table, as Markdown."""
    head = ["interval", "network", "images", "holds, %", "printed, %"]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def main() -> None:
    """Measure the rows that are not there yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ROWS, action="append", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=Path("results/coverage"))
    parser.add_argument("--out", type=Path, help="page whose table these rows are put into")
    parser.add_argument("--force", action="store_true", help="measure rows again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(arguments.cache, arguments.repeats)
    rows: list[list[str]] = []
    for name in arguments.only or ROWS:
        kept = study.cache / f"row-{name}-{study.repeats}.json"
        if arguments.force or not kept.exists():
            started, counts = time.perf_counter(), Counts()
            ROWS[name](study, counts)
            kept.write_text(json.dumps([count.cells() for count in counts.found.values()]))
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        rows += json.loads(kept.read_text())
    print(table(rows))
    if arguments.out is not None:
        before, _, after = arguments.out.read_text().partition("<!-- table -->")
        kept_table, _, rest = after.partition("<!-- end of table -->")
        # Rows that this run has not measured stay.
        of_page = [line.strip("| ").split(" | ") for line in kept_table.splitlines()[3:]]
        merged = {tuple(row[:3]): row for row in [*of_page, *rows]}
        arguments.out.write_text(f"{before}<!-- table -->\n{table(list(merged.values()))}\n<!-- end of table -->{rest}")


if __name__ == "__main__":
    main()
