"""Measure the panel on every network, and decide."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray
from torch import nn

from analyses import measuring
from analyses.audit.claims import PANEL, REPLICATES, Claim, Results
from analyses.audit.networks import Network
from analyses.audit.verdict import Effect, Reading, decide, effect, holm
from analyses.measuring import Scale
from landscape import checkpoint
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
        Means over seeds of the measure.
    effect
        Variant minus baseline.
    adjusted
        p value after Holm's correction over the claims.
    verdict
        ``supported``, ``against`` or ``undecided``.
    placebo, placebo_verdict
        The same for the placebo against the baseline, None without one.
    """

    claim: Claim
    baseline: float
    variant: float
    effect: Effect
    adjusted: float
    verdict: str
    placebo: Effect | None = None
    placebo_verdict: str | None = None


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
        One a claim.
    costs
        By role, means over seeds: parameters, seconds of training, milliseconds an image, MiB of activations an image.
    """

    networks: list[Network]
    results: list[Results]
    rows: list[Row]
    costs: dict[str, dict[str, float]]

    @property
    def seeds(self) -> int:
        """Pairs of networks."""
        return len({network.seed for network in self.networks})

    def of(self, role: str) -> list[tuple[Network, Results]]:
        """Networks of a role with their results, by seed."""
        found = [
            (network, result)
            for network, result in zip(self.networks, self.results, strict=True)
            if network.role == role
        ]
        return sorted(found, key=lambda pair: pair[0].seed)

    def label(self, role: str) -> str | None:
        """What the networks of a role are, or None when there are none."""
        return next((network.label for network in self.networks if network.role == role), None)


def pieces(networks: Sequence[Network], claims: Sequence[Claim]) -> list[tuple[Network, str]]:
    """All (network, instrument) that the claims need, each kept as a result of its own; one seed after the other."""
    needed = sorted({name for claim in claims for name in claim.needs}, key=list(measuring.INSTRUMENTS).index)
    by_seed = sorted(networks, key=lambda network: network.seed)
    return [(network, name) for network in by_seed for name in needed]


def run(
    networks: Sequence[Network],
    scale: Scale,
    *,
    claims: Sequence[Claim] = PANEL,
    source: str | None = None,
    root: Path | None = None,
    device: str = "cpu",
    quiet: bool = True,
    force: bool = False,
) -> Audit:
    """Measure all claims on all networks and decide.

    Killed at any moment, the same call goes on: each instrument's result of each network is kept, and long ones keep
    their finished pieces.
    """
    found: dict[Path, dict[str, xarray.Dataset]] = defaultdict(dict)
    work = pieces(networks, claims)
    with Progress(len(work), "panel", unit="result", quiet=quiet) as bar:
        for network, instrument in work:
            asked = measuring.ask(network.path, instrument, scale, source=source, root=root, device=device)
            found[network.path][instrument] = measuring.measured(asked, force=force)
            bar.update(1, network=f"{network.role} {network.seed}", instrument=instrument)
    for of_network in found.values():
        if "predictions" in of_network:
            of_network["curves"] = curves(of_network["predictions"], replicates=REPLICATES, resamples=5)
    results: list[Results] = [found[network.path] for network in networks]
    rows = decided(networks, results, claims)
    return Audit(list(networks), results, rows, dict(_costs(networks, source, root)))


def decided(networks: Sequence[Network], results: Sequence[Results], claims: Sequence[Claim]) -> list[Row]:
    """Effects and verdicts of all claims; claims about dropout are left out where no baseline has any."""
    by_role: dict[str, dict[int, Results]] = defaultdict(dict)
    for network, result in zip(networks, results, strict=True):
        by_role[network.role][network.seed] = result
    seeds = sorted(by_role["baseline"])
    if not _stochastic(by_role["baseline"].values()):
        claims = [claim for claim in claims if not claim.stochastic]
    compared = {
        role: [_readings(claim, seeds, by_role["baseline"], by_role[role]) for claim in claims]
        for role in ("variant", "placebo")
        if role in by_role
    }
    effects = {role: [effect(*pair) for pair in pairs] for role, pairs in compared.items()}
    adjusted = {role: holm([each.p for each in some]) for role, some in effects.items()}
    rows = []
    for place, claim in enumerate(claims):
        own, other = compared["variant"][place]
        of_variant = effects["variant"][place]
        p = adjusted["variant"][place]
        of_placebo = effects["placebo"][place] if "placebo" in effects else None
        rows.append(
            Row(
                claim=claim,
                baseline=float(np.mean([reading.value for reading in own])),
                variant=float(np.mean([reading.value for reading in other])),
                effect=of_variant,
                adjusted=p,
                verdict=decide(of_variant.estimate, p, claim.direction),
                placebo=of_placebo,
                placebo_verdict=None
                if of_placebo is None
                else decide(of_placebo.estimate, adjusted["placebo"][place], claim.direction),
            )
        )
    return rows


def _readings(
    claim: Claim, seeds: Sequence[int], baseline: dict[int, Results], other: dict[int, Results]
) -> tuple[list[Reading], list[Reading]]:
    pairs = [(baseline[seed], other[seed]) for seed in seeds]
    return [claim.read(one, two) for one, two in pairs], [claim.read(two, one) for one, two in pairs]


def _stochastic(results: Iterable[Results]) -> bool:
    """Whether networks have Monte-Carlo dropout, as far as something was measured that shows it."""
    maps = [result["feature_maps"] for result in results if "feature_maps" in result]
    return not maps or any(int(each.attrs["dropout_calls"]) > 0 for each in maps)


def _costs(
    networks: Sequence[Network], source: str | None, root: Path | None
) -> Iterator[tuple[str, dict[str, float]]]:
    by_role: dict[str, list[dict[str, float]]] = defaultdict(list)
    for network in networks:
        by_role[network.role].append(cost(network, source, root))
    for role, costs in by_role.items():
        yield role, {name: float(np.mean([each[name] for each in costs])) for name in costs[0]}


@torch.no_grad()
def cost(network: Network, source: str | None = None, root: Path | None = None) -> dict[str, float]:
    """Parameters; seconds that its training took; milliseconds and MiB of outputs of all layers for an image."""
    loaded = checkpoint.load(network.path)
    name = source or str((loaded.recipe or {})["data"]["name"])
    images = measuring.images_of(name, "test", root)
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
