"""Measure the panel on every network, and decide."""

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray
from torch import nn

from analyses import executors, measuring, stage
from analyses.audit.claims import CLAIMS, NETWORK, Claim, Results
from analyses.audit.networks import Network
from analyses.audit.verdict import (
    FEWEST,
    LEVEL,
    LOOK_LEVEL,
    LOOKS,
    NO_VERDICT,
    REPLICATES,
    Effect,
    Reading,
    decide,
    effect,
    holm,
    weakest,
)
from analyses.measuring import Origin, SampleSizes
from landscape.compute.masks import Masks
from landscape.compute.progress import Progress
from landscape.predictions.curves import curves


@dataclass(frozen=True)
class Row:
    """One claim, measured.

    Attributes
    ----------
    claim
        What was claimed.
    baseline, variant
        Means of the measure over seeds, those in which both are finite.
    effect
        Variant minus baseline, of all pairs.
    adjusted
        p value after Holm's correction over the claims of the same family; where a sequential audit decided, of the
        look that did.
    verdict
        ``supported``, ``against``, ``undecided``, or ``no verdict`` from fewer than four pairs.
    placebo, placebo_verdict
        The same for the placebo against the baseline, None without one.
    decided_at
        Pairs after which a sequential audit decided; None where it did not, or was not sequential.
    """

    claim: Claim
    baseline: float
    variant: float
    effect: Effect
    adjusted: float
    verdict: str
    placebo: Effect | None = None
    placebo_verdict: str | None = None
    decided_at: int | None = None


@dataclass(frozen=True)
class Audit:
    """Everything that a report tells.

    Attributes
    ----------
    networks
        All of them.
    results
        Of each network, in that order, by instrument; ``curves`` besides.
    rows
        One per claim.
    costs
        By role, means over seeds: parameters, seconds of training, milliseconds an image, MiB of activations an image.
    about
        One mapping a role: what its networks are, and how well they are trained.
    """

    networks: list[Network]
    results: list[Results]
    rows: list[Row]
    costs: dict[str, dict[str, float]]
    about: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seeds(self) -> int:
        """Pairs of networks."""
        return len({network.seed for network in self.networks})

    def of(self, role: str) -> list[tuple[Network, Results]]:
        """Networks of a role with their results, by seed."""
        own = [
            (network, result)
            for network, result in zip(self.networks, self.results, strict=True)
            if network.role == role
        ]
        return sorted(own, key=lambda pair: pair[0].seed)

    def label(self, role: str) -> str | None:
        """What the networks of a role are, or None when there are none."""
        return next((network.label for network in self.networks if network.role == role), None)


def pieces(networks: Sequence[Network], claims: Sequence[Claim]) -> list[tuple[Network, str]]:
    """All (network, instrument) that the claims need, each kept as a result of its own; one seed after the other."""
    needed = sorted({name for claim in claims for name in claim.needs}, key=list(measuring.REQUESTS).index)
    by_seed = sorted(networks, key=lambda network: network.seed)
    return [(network, name) for network in by_seed for name in needed]


def run(
    networks: Sequence[Network],
    sizes: SampleSizes,
    *,
    claims: Sequence[Claim] = CLAIMS,
    origin: Origin | None = None,
    device: str = "cpu",
    quiet: bool = True,
    force: Collection[Path] = (),
    sequential: bool = False,
    executor: Any = None,
) -> Audit:
    """Measure all claims on all networks and decide; `sequential` as in `decided`, `executor` as in `executors`.

    Checkpoints in `force` are measured again where they have been.

    Killed at any moment, the same call resumes: each instrument's result of each network is kept, and long ones keep
    their finished pieces.
    """
    results_of: dict[Path, dict[str, xarray.Dataset]] = defaultdict(dict)
    work = pieces(networks, claims)
    questions: list[dict[str, Any]] = [
        {"path": network.path, "name": name, "sizes": sizes, "origin": _of(network, origin), "device": device}
        for network, name in work
    ]
    ahead = [(measuring.measure, {**each, "force": each["path"] in force}) for each in questions]
    if executors.ahead(executor, ahead, quiet=quiet) == len(work):
        force = ()
    with Progress(len(work), "panel", unit="result", quiet=quiet) as bar:
        for (network, instrument), question in zip(work, questions, strict=True):
            measurement = measuring.ask(**question)
            results_of[network.path][instrument], _ = measuring.measured(measurement, force=network.path in force)
            bar.update(1, network=f"{network.role} {network.seed}", instrument=instrument)
    for of_network in results_of.values():
        if "predictions" in of_network:
            of_network["curves"] = curves(of_network["predictions"], replicates=REPLICATES, resamples=5)
    results: list[Results] = [results_of[network.path] for network in networks]
    rows = decided(networks, results, claims, sequential=sequential)
    costs = dict(_costs(networks, origin))
    return Audit(list(networks), results, rows, costs, about(networks, origin))


def about(networks: Sequence[Network], origin: Origin | None = None) -> list[dict[str, Any]]:
    """What the networks of each role are: recipe, epochs, width, data, accuracy and loss, means over seeds."""
    rows = []
    for role in dict.fromkeys(network.role for network in networks):
        own = [network for network in networks if network.role == role]
        loaded = [_of(network, origin).checkpoint(network.path) for network in own]
        facts = stage.facts(own[0].label, loaded, data=origin.data if origin else None)
        rows.append({"role": role, **facts})
    return rows


@dataclass(frozen=True)
class _Judged:
    """Effects of one role against the baseline, claim by claim, with their verdicts."""

    effects: list[Effect]
    adjusted: list[float]
    verdicts: list[str]
    decided_at: list[int | None]


def decided(
    networks: Sequence[Network], results: Sequence[Results], claims: Sequence[Claim], *, sequential: bool = False
) -> list[Row]:
    """Effects and verdicts of all claims; claims about dropout are left out where no baseline has any.

    Parameters
    ----------
    networks, results, claims
        What was measured, and what of it is judged.
    sequential
        Whether pairs were added until the claims were decided: the pairs are judged after each of `LOOKS` at
        `LOOK_LEVEL`, and the first decision stands.
    """
    by_role: dict[str, dict[int, Results]] = defaultdict(dict)
    for network, result in zip(networks, results, strict=True):
        by_role[network.role][network.seed] = result
    seeds = sorted(by_role["baseline"])
    if not _stochastic(by_role["baseline"].values()):
        claims = [claim for claim in claims if not claim.stochastic]
    pairs = {
        role: [_readings(claim, seeds, by_role["baseline"], by_role[role]) for claim in claims]
        for role in ("variant", "placebo")
        if role in by_role
    }
    judged = {role: _judged(claims, some, len(seeds), sequential=sequential) for role, some in pairs.items()}
    variant, placebo = judged["variant"], judged.get("placebo")
    rows = []
    for index, claim in enumerate(claims):
        here = variant.effects[index]
        own, other = _means(pairs["variant"][index], here.at)
        rows.append(
            Row(
                claim=claim,
                baseline=own,
                variant=other,
                effect=here,
                adjusted=variant.adjusted[index],
                verdict=variant.verdicts[index],
                placebo=None if placebo is None else placebo.effects[index],
                placebo_verdict=None if placebo is None else placebo.verdicts[index],
                decided_at=variant.decided_at[index],
            )
        )
    return rows


Readings = Mapping[str, Reading]


def _judged(
    claims: Sequence[Claim], pairs: Sequence[Sequence[tuple[Readings, Readings]]], seeds: int, *, sequential: bool
) -> _Judged:
    def at(count: int, level: float) -> tuple[list[Effect], list[float], list[str]]:
        effects = [_effect(of_claim[:count]) for of_claim in pairs]
        adjusted = _adjusted(claims, effects, min(count, FEWEST))
        verdicts = [
            # A claim with few finite pairs is judged by those that it has.
            decide(each.estimate, p, claim.direction, level) if len(each.of_seed) >= FEWEST else NO_VERDICT
            for claim, each, p in zip(claims, effects, adjusted, strict=True)
        ]
        return effects, adjusted, verdicts

    looks = [look for look in LOOKS if look <= seeds] if sequential else []
    # Between looks nothing is decided.
    effects, adjusted, verdicts = at(seeds, 0.0 if looks else LEVEL)
    decided_at: list[int | None] = [None] * len(claims)
    for look in looks:
        _, of_look, said = at(look, LOOK_LEVEL)
        for index in range(len(claims)):
            if decided_at[index] is None and said[index] not in ("undecided", NO_VERDICT):
                adjusted[index], verdicts[index], decided_at[index] = of_look[index], said[index], look
    return _Judged(effects, adjusted, verdicts, decided_at)


def _effect(pairs: Sequence[tuple[Readings, Readings]]) -> Effect:
    """The effect of one claim; of one with several readings, the weakest."""
    names = list(pairs[0][0])
    effects = [effect([own[name] for own, _ in pairs], [other[name] for _, other in pairs]) for name in names]
    return effects[0] if len(names) == 1 else weakest(effects, names)


def _adjusted(claims: Sequence[Claim], effects: Sequence[Effect], fewest: int) -> list[float]:
    """Holm's p values, family by family, of claims with so many finite pairs."""
    adjusted = [math.nan] * len(claims)
    enough = [len(each.of_seed) >= fewest for each in effects]
    for family in {claim.family for claim in claims}:
        indices = [index for index, claim in enumerate(claims) if claim.family == family and enough[index]]
        for index, p in zip(indices, holm([effects[index].p for index in indices]), strict=True):
            adjusted[index] = p
    return adjusted


def _means(pairs: Sequence[tuple[Readings, Readings]], name: str) -> tuple[float, float]:
    """Of both sides, over the pairs in which both are finite."""
    values = np.array([[side[name or next(iter(side))].value for side in pair] for pair in pairs])
    finite = values[np.isfinite(values).all(1)]
    return (float(finite[:, 0].mean()), float(finite[:, 1].mean())) if len(finite) else (math.nan, math.nan)


def _readings(
    claim: Claim, seeds: Sequence[int], baseline: dict[int, Results], other: dict[int, Results]
) -> list[tuple[Readings, Readings]]:
    def named(read: Reading | Readings) -> Readings:
        return {"": read} if isinstance(read, Reading) else read

    pairs = [(baseline[seed], other[seed]) for seed in seeds]
    return [(named(claim.read(one, two)), named(claim.read(two, one))) for one, two in pairs]


def all_decided(rows: Sequence[Row]) -> bool:
    """Whether every claim about the networks has a verdict, so that no further pair is needed."""
    return all(row.verdict not in ("undecided", NO_VERDICT) for row in rows if row.claim.family == NETWORK)


def _stochastic(results: Iterable[Results]) -> bool:
    """Whether networks have Monte-Carlo dropout, as far as something was measured that shows it."""
    maps = [result["feature_maps"] for result in results if "feature_maps" in result]
    return not maps or any(int(each.attrs["dropout_calls"]) > 0 for each in maps)


def _of(network: Network, origin: Origin | None) -> Origin:
    """What a network's checkpoint does not say of itself."""
    origin = origin or Origin()
    return origin if network.model is None else dataclasses.replace(origin, model=network.model)


def _costs(networks: Sequence[Network], origin: Origin | None) -> Iterator[tuple[str, dict[str, float]]]:
    by_role: dict[str, list[dict[str, float]]] = defaultdict(list)
    for network in networks:
        by_role[network.role].append(cost(network, origin))
    for role, costs in by_role.items():
        yield role, {name: float(np.mean([each[name] for each in costs])) for name in costs[0]}


@torch.no_grad()
def cost(network: Network, origin: Origin | None = None) -> dict[str, float]:
    """Parameters; seconds that its training took; milliseconds and MiB of outputs of all layers for an image."""
    subject = _of(network, origin).subject(network.path, measuring.STOCHASTIC)
    loaded, images = subject.checkpoint, subject.data
    batch = images.batch(0, min(64, len(images)))
    total = 0

    def watch(module: nn.Module, arguments: Any, output: Any) -> None:
        nonlocal total
        # A layer that hands its input on, such as an empty place for smoothing, keeps nothing.
        if isinstance(output, torch.Tensor) and not any(output is given for given in arguments):
            total += output.numel() * output.element_size()

    with Masks.addressed(seed=0) as masks:
        masks.address(first_example=0, sample=0)
        handles = [module.register_forward_hook(watch) for module in loaded.model.modules() if not [*module.children()]]
        loaded.model(batch)
        for handle in handles:
            handle.remove()
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            loaded.model(batch)
            seconds.append(time.perf_counter() - began)
    trained = [float(epoch["seconds"]) for epoch in loaded.history if "seconds" in epoch]
    return {
        "parameters": float(sum(parameter.numel() for parameter in loaded.model.parameters())),
        "training_seconds": sum(trained) if trained else math.nan,
        "milliseconds": 1e3 * float(np.median(seconds)) / len(batch),
        "mebibytes": total / len(batch) / 2**20,
    }
