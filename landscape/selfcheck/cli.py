"""Command line of the self-check."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from landscape import command, selfcheck

if TYPE_CHECKING:
    from landscape.selfcheck import Check

NAME = "landscape.selfcheck"
DESCRIPTION = """Can the numbers be trusted on this network? In under a minute.

Invariants that hold exactly, measured on the user's own network, images and protocol: the loss against the plain
network's, the gradient against differences of the loss, products against differences of the gradient and against plain
double backward, their symmetry, weight decay as an exact shift of the spectrum, and the two laws of a blur."""
FAILED = 1
# Every invariant holds for any number of images.
_IMAGES = 64


def check(arguments: argparse.Namespace) -> None:
    """Says how many images are enough, where there are so many."""
    arguments.default_images = _IMAGES


def measured(arguments: argparse.Namespace, subject: command.Subject) -> tuple[str, list[Check]]:
    """Name and checks of one network."""
    objective = command.objective(arguments, subject)
    decayed, exact = (
        command.objective(arguments, changed)
        for changed in (
            dataclasses.replace(subject, weight_decay=subject.weight_decay + 1),
            dataclasses.replace(subject, protocol=subject.protocol.replace(dtype="float64")),
        )
    )
    return subject.name, [
        *selfcheck.curvature_checks(objective, decayed, exact, seed=arguments.seed),
        *selfcheck.plain_checks(subject.checkpoint.model, exact, seed=arguments.seed),
        *selfcheck.network_blur_checks(subject.checkpoint.model, seed=arguments.seed),
    ]


def to_json(name: str, checks: list[Check]) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "name": name,
        "passed": all(check.passed for check in checks),
        "checks": [{"name": check.name, "found": check.found, "allowed": check.allowed} for check in checks],
    }


def table(name: str, checks: list[Check]) -> str:
    """One row per check; below, what is wrong when one fails."""
    rows = [
        [check.name, f"{check.found:.2g}", f"{check.allowed:.2g}", "ok" if check.passed else "FAILED"]
        for check in checks
    ]
    failed = [f"{check.name}: {check.meaning}" for check in checks if not check.passed]
    return "\n".join([command.columns([name, "found", "allowed", ""], rows), *failed])


INSTRUMENT = command.Instrument(
    name=NAME,
    summary="whether the numbers can be trusted on your network, in under a minute",
    description=DESCRIPTION,
    add_arguments=lambda parser: None,
    check=check,
    measured=measured,
    table=lambda arguments, outcome: "\n\n".join(table(*one) for one in outcome),
    facts=lambda arguments, outcome: command.one_or_all([to_json(*one) for one in outcome]),
    status=lambda outcome: 0 if all(check.passed for _, checks in outcome for check in checks) else FAILED,
    kept=False,
)
parser, main = INSTRUMENT.parser, INSTRUMENT.main
