"""Under which protocol does the landscape claim hold? Curvature and surfaces under every combination of choices.

Fields with and without the L2 term come from one measurement: the term moves a raw eigenvalue by the weight decay
exactly, and surfaces keep it apart.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import stdtrit

from analyses import studies
from landscape import command

# Draws of the masks of a mean; enough to tell it from a single draw.
AVERAGED = 4
MASKS: dict[str, dict[str, Any]] = {
    "off": {"dropout": "off"},
    "fixed": {"dropout": "fixed"},
    "averaged": {"dropout": "fixed", studies.MASKS: AVERAGED},
}
VARIANTS = {
    f"augmentation {augmentation}, masks {masks}": {"augmentation": augmentation, **fields}
    for augmentation in ("frozen", "none")
    for masks, fields in MASKS.items()
}
MOMENTS = {
    "late": ("mcdo", "mcdo-smooth"),
    "middle": ("mcdo-middle", "mcdo-smooth-middle"),
    "early": ("mcdo-early", "mcdo-smooth-early"),
}
COLUMNS = {
    "C1": "C1: top eigenvalue",
    "C1 filter-normalised": "C1: filter-normalised",
    "C1 loss-scaled": "C1: over the loss",
    "C2": "C2: 90 % quantile of mini-batches",
    "C3 rise": "C3: rise",
    "C3 roughness": "C3: roughness",
}


def conclude(entries: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], str]:
    """Where the claim holds: rows for the listing, and a table."""
    rows = compared(entries)
    return {"table": rows}, table(rows)


def compared(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Smooth over plain, one row per moment of training, L2 choice and protocol.

    Returns
    -------
    list of dict
        ``moment``, ``l2``, ``variant``, and of each of `COLUMNS` the natural logarithms of the ratios, one per seed.
    """
    measured: dict[tuple[str, int, str, str], dict[str, float]] = defaultdict(dict)
    for entry in entries:
        for l2 in ("on", "off"):
            measured[entry["kind"], entry["seed"], l2, entry["variant"]] |= _numbers(entry, l2=l2 == "on")
    for numbers in measured.values():
        if "C1" in numbers and "loss" in numbers:
            numbers["C1 loss-scaled"] = numbers["C1"] / numbers["loss"]
    rows = []
    for moment, (plain, smooth) in MOMENTS.items():
        of_kind = [{seed for known, seed, *_ in measured if known == kind} for kind in (plain, smooth)]
        seeds = sorted(of_kind[0] & of_kind[1])
        for l2 in ("on", "off"):
            for variant in VARIANTS:
                pairs = [(measured[plain, seed, l2, variant], measured[smooth, seed, l2, variant]) for seed in seeds]
                ratios = {
                    name: [_log_ratio(one, other, name) for one, other in pairs if name in one and name in other]
                    for name in COLUMNS
                }
                if any(ratios.values()):
                    rows.append({"moment": moment, "l2": l2, "variant": variant, **ratios})
    return rows


def _log_ratio(plain: Mapping[str, float], smooth: Mapping[str, float], name: str) -> float:
    """Not a number where either is not positive: a surface that falls, a Hessian without a positive eigenvalue."""
    if not (plain[name] > 0 and smooth[name] > 0):
        return math.nan
    return math.log(smooth[name] / plain[name])


def _numbers(entry: Mapping[str, Any], *, l2: bool) -> dict[str, float]:
    """What a kept result says, with or without the L2 term."""
    import numpy as np

    from landscape.store import result
    from landscape.surface.summary import rises, roughness

    dataset = result.load(entry["file"])
    if entry["instrument"] == "curvature":
        values = dataset["eigenvalue"].values + (dataset["l2_shift"].values if l2 else 0)
        return {"C1": float(values[0]), "C1 filter-normalised": float(values[1])}
    weight_decay = float(dataset.attrs["weight_decay"])
    if entry["instrument"] == "mini_batches":
        # Measured with the term, which shifts all eigenvalues alike.
        values = dataset["eigenvalue"].values[:, 0] - (0 if l2 else weight_decay)
        return {"C2": float(np.quantile(values, 0.9))}
    variable = "loss" if l2 else "cross_entropy"
    return {
        "loss": float(dataset[variable].sel(alpha=0, beta=0)),
        "C3 rise": rises(dataset, variable, shares=(0.5,))[0].mean,
        "C3 roughness": roughness(dataset, variable)[0],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Ratios smooth / plain: geometric mean over seeds, with its 95 % interval from three seeds on."""
    shown = []
    for row in rows:
        cells = [_cell(row[name]) for name in COLUMNS]
        shown.append([f"{row['moment']}, L2 {row['l2']}, {row['variant']}", *cells])
    lines = [
        command.columns(["smooth / plain", *COLUMNS.values()], shown),
        "below 1 the claim holds; brackets: 95 % interval of Student's t over seeds, uncorrected; * holds in every "
        "seed. '-': not measured, not positive, or exactly zero roughness.",
        f"Masks averaged: the mean Hessian, and the mean loss with fresh masks, over {AVERAGED} draws.",
    ]
    return "\n".join(lines)


def _cell(logarithms: Sequence[float]) -> str:
    known = [value for value in logarithms if math.isfinite(value)]
    if not known:
        return "-"
    mean, low, high = (math.exp(value) for value in interval(known))
    span = f" [{low:.2f}, {high:.2f}]" if math.isfinite(high) else ""
    return f"{mean:.2f}{span}{'*' if max(known) < 0 else ''}"


def interval(logarithms: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and the ends of its 95 % interval by Student's t; infinite from fewer than three seeds."""
    count, mean = len(logarithms), statistics.fmean(logarithms)
    if count < 3:
        return mean, -math.inf, math.inf
    half = float(stdtrit(count - 1, 0.975)) * statistics.stdev(logarithms) / math.sqrt(count)
    return mean, mean - half, mean + half


STUDY = studies.Study(
    "protocol_sweep",
    "Under which protocol is the landscape of smoothed networks flatter, with fewer outliers (C1, C2, C3)?",
    tuple(kind for pair in MOMENTS.values() for kind in pair),
    ("curvature", "mini_batches", "surface"),
    VARIANTS,
    {"curvature_images": 128, "mini_batches": 8, "eigenvalues": 1, "surface_images": 128, "points": 7},
    conclude,
)
