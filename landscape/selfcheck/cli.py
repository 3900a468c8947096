"""``python -m landscape.selfcheck CKPT``: can the numbers be trusted on this network? In under a minute.

Invariants that hold exactly, measured on the user's own network, images and protocol: the loss against the plain
network's, the gradient against differences of the loss, products against differences of the gradient and against plain
double backward, their symmetry, weight decay as an exact shift of the spectrum, and the two laws of a blur.
"""

import dataclasses
from collections.abc import Sequence

from landscape import command, selfcheck

FAILED = 1
# Images to check on: every invariant holds for any number of them.
_IMAGES = 64


def main(argv: Sequence[str]) -> int:
    """Check every subject; status 1 when something fails."""
    parser = command.instrument_parser("landscape.selfcheck", __doc__ or "", kept=False)
    arguments = parser.parse_args(argv)
    arguments.images = arguments.images or _IMAGES
    tables, facts, passed = [], [], True
    for subject in command.subjects(arguments):
        objective = command.objective(arguments, subject)
        decayed, exact = (
            command.objective(arguments, changed)
            for changed in (
                dataclasses.replace(subject, weight_decay=subject.weight_decay + 1),
                dataclasses.replace(subject, protocol=subject.protocol.replace(dtype="float64")),
            )
        )
        checks = [
            *selfcheck.curvature_checks(objective, decayed, exact, seed=arguments.seed),
            *selfcheck.plain_checks(subject.checkpoint.model, exact, seed=arguments.seed),
            *selfcheck.network_blur_checks(subject.checkpoint.model, seed=arguments.seed),
        ]
        rows = [
            [check.name, f"{check.found:.2g}", f"{check.allowed:.2g}", "ok" if check.passed else "FAILED"]
            for check in checks
        ]
        table = command.columns([subject.name, "found", "allowed", ""], rows)
        tables.append("\n".join([table, *[f"{check.name}: {check.meaning}" for check in checks if not check.passed]]))
        facts.append(
            {
                "name": subject.name,
                "passed": all(check.passed for check in checks),
                "checks": [{"name": check.name, "found": check.found, "allowed": check.allowed} for check in checks],
            }
        )
        passed = passed and all(check.passed for check in checks)
    command.report(
        arguments,
        table=lambda: "\n\n".join(tables),
        facts=lambda: facts[0] if len(facts) == 1 else {"results": facts},
    )
    return 0 if passed else FAILED
