"""CLAIMS.md: every claim of the paper with our measured effect, interval, number of networks, command and verdict.

``python -m analyses.claims --measure --preset cifar100-small --seeds 2`` measures what trained networks allow and keeps
a report a comparison; ``python -m analyses.claims`` writes the page again from the kept reports alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses import studies
from landscape import command
from landscape.command import launch
from landscape.errors import LandscapeError
from landscape.store import files

if TYPE_CHECKING:
    from analyses.audit.claims import Claim

STATEMENTS = {
    "C1": "top Hessian eigenvalues: smooth < plain",
    "C2": "outliers of the max-eigenvalue spectrum: fewer",
    "C3": "loss surface: flatter, and less rough under MC dropout",
    "C4": "model uncertainty of feature maps: lower after every stage",
    "C5": "MC dropout raises high-frequency amplitude over the deterministic net",
    "C6": "smoothing lowers the relative log amplitude at pi after each smoothed stage",
    "C7": "accuracy drop under high-frequency noise: smaller",
    "C8": "NLL, accuracy, ECE: better at every ensemble size",
    "C9": "fewer passes needed for the same NLL",
    "C10": "corruption robustness: better error, NLL, ECE",
    "C11": "MLP head: sharper and rougher landscape than GAP, and a higher training NLL",
    "C12": "pre-activation, ReLU6 and GAP move C1 to C8 the same way as smoothing does",
    "C13": "deterministic nets gain too",
}
VERDICTS = ("supported", "against", "undecided")
GENERALISED = ("C1", "C2", "C3", "C4", "C6", "C7", "C8")


@dataclass(frozen=True)
class Comparison:
    """Two kinds of networks, and what is claimed of the second against the first.

    Attributes
    ----------
    name
        Of its report.
    baseline, variant
        Names in `analyses.kinds.KINDS`.
    claims
        Claims of the audit's panel that are checked.
    stands_for
        The claim that they are evidence of, where that is not the claims themselves.
    """

    name: str
    baseline: str
    variant: str
    claims: tuple[str, ...]
    stands_for: str | None = None


PANEL = ("C1", "C2", "C3", "C4", "C6", "C7", "C8", "C9", "C10")
COMPARISONS = (
    Comparison("smooth", "mcdo", "mcdo-smooth", PANEL),
    Comparison("dropout", "dnn", "mcdo", ("C5",)),
    Comparison("mlp-head", "mcdo", "mcdo-mlp", ("C11",)),
    Comparison("gap-head", "mcdo-mlp", "mcdo", GENERALISED, "C12"),
    Comparison("pre-activation", "mcdo", "mcdo-preact", GENERALISED, "C12"),
    Comparison("relu6", "mcdo", "mcdo-relu6", GENERALISED, "C12"),
    Comparison("deterministic", "dnn", "dnn-smooth", PANEL, "C13"),
)


def parser() -> command.Parser:
    """Arguments."""
    made = command.Parser("analyses.claims", __doc__ or "")
    made.add_argument("--measure", action="store_true", help="measure what trained networks allow, and keep it")
    made.add_argument(
        "--preset", choices=("digits", "cifar100-small", "paper"), default="cifar100-small", help="whose networks"
    )
    made.add_argument("--seeds", type=command.positive, default=2, metavar="N", help="at most so many (default: 2)")
    made.add_argument("--only", nargs="+", choices=[each.name for each in COMPARISONS], help="default: all")
    made.add_argument("--reports", type=Path, metavar="DIR", help="default: reference/PRESET/claims")
    made.add_argument("--cache", type=Path, default=Path("checkpoints"), help="folder of trained networks")
    made.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the CIFAR archives (default: data)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    made.add_argument("--out", type=Path, default=Path("CLAIMS.md"), metavar="FILE", help="the page to write")
    made.add_argument("--quiet", action="store_true", help="no progress bar")
    return made


def main(argv: Sequence[str]) -> int:
    """Measure if asked to, and write the page."""
    arguments = parser().parse_args(argv)
    command.require_writable(arguments.out)
    folder = arguments.reports or studies.REFERENCE / arguments.preset / "claims"
    command.require_writable(folder / "smooth.json")
    if arguments.measure:
        device = command.device(arguments).type
        for comparison in COMPARISONS:
            if arguments.only is None or comparison.name in arguments.only:
                measure(comparison, arguments, folder, device)
    kept = {each.name: read(folder / f"{each.name}.json") for each in COMPARISONS if _there(folder, each)}
    if not kept:
        raise LandscapeError(f"no reports in {folder}: run python -m analyses.claims --measure first")
    files.write_whole(arguments.out, page(kept, arguments.preset).encode())
    return 0


def _there(folder: Path, comparison: Comparison) -> bool:
    return (folder / f"{comparison.name}.json").is_file()


def measure(comparison: Comparison, arguments: Any, folder: Path, device: str) -> None:
    """Measure a comparison on as many seeds as both kinds are trained for, and keep its report; none, none."""
    from analyses import kinds
    from analyses.audit import panel, report
    from analyses.audit.networks import Network
    from analyses.measuring import SCALES
    from landscape import training

    networks: list[Network] = []
    for seed in range(arguments.seeds):
        found = {
            role: training.find(kinds.recipe(kind, arguments.preset), seed=seed, cache=arguments.cache)
            for role, kind in (("baseline", comparison.baseline), ("variant", comparison.variant))
        }
        if all(found.values()):
            labels = {"baseline": comparison.baseline, "variant": comparison.variant}
            networks += [
                Network(role, kinds.KINDS[labels[role]].label, seed, path) for role, path in found.items() if path
            ]
    if not networks:
        return
    audit = panel.run(
        networks,
        SCALES[arguments.preset],
        claims=chosen_claims(comparison),
        root=arguments.data_root,
        device=device,
        quiet=arguments.quiet,
    )
    asked = f"python -m analyses.claims --measure --preset {arguments.preset} --only {comparison.name}"
    asked += f" --seeds {audit.seeds}"
    files.write_json(folder / f"{comparison.name}.json", {"command": asked, **report.to_json(audit)})


def chosen_claims(comparison: Comparison) -> "list[Claim]":
    """The claims of a comparison, as the audit reads them."""
    from analyses.audit.claims import OTHERS
    from analyses.audit.claims import PANEL as ALL

    return [claim for claim in (*ALL, *OTHERS) if claim.name in comparison.claims]


def read(path: Path) -> dict[str, Any]:
    """A report; raises LandscapeError for anything else."""
    wanted = ("command", "summary", "rule", "cautions", "seeds", "claims", "networks")
    found = files.read_json(path)
    try:
        return {name: found[name] for name in wanted}
    except KeyError:
        raise LandscapeError(f"{path} is no report of a comparison: measure it again") from None


def page(reports: Mapping[str, Mapping[str, Any]], preset: str) -> str:
    """CLAIMS.md."""
    first = next(iter(reports.values()))
    lines = [
        "# Claims, as measured here",
        "",
        f"Generated by `python -m analyses.claims` from the reports in `reference/{preset}/claims`. Effects are "
        "variant minus baseline with 95 % intervals, each for itself; effects of logarithms are differences of natural "
        "logarithms, so that -0.1 is about 10 % less. n counts pairs of networks.",
        "",
        first["rule"],
        "",
        "| claim | measured | n | verdict |",
        "|---|---|---|---|",
    ]
    found = {name: _evidence(name, reports) for name in STATEMENTS}
    lines += [
        f"| {name}: {STATEMENTS[name]} | {_counts(rows)} | {_pairs(rows)} | {verdict(rows)} |"
        for name, rows in found.items()
    ]
    for comparison in COMPARISONS:
        if comparison.name not in reports:
            continue
        report = reports[comparison.name]
        labels = {network["role"]: network["label"] for network in report["networks"]}
        lines += ["", f"## {labels['variant']} against {labels['baseline']}", ""]
        if comparison.stands_for:
            lines += [f"Evidence for {comparison.stands_for}: {STATEMENTS[comparison.stands_for]}.", ""]
        lines += [f"n = {report['seeds']}. Command: `{report['command']}`", ""]
        if report["cautions"]:
            lines += [*(f"- {text}" for text in report["cautions"]), ""]
        lines += ["| claim | measure | baseline | variant | effect [95 %] | p (Holm) | verdict |"]
        lines.append("|---|---|---|---|---|---|---|")
        lines += [_row(claim) for claim in report["claims"]]
    left = [comparison for comparison in COMPARISONS if comparison.name not in reports]
    if left:
        lines += ["", "## Not measured", ""]
        lines += [f"- {each.variant} against {each.baseline}: the networks are not trained yet" for each in left]
    return "\n".join([*lines, ""])


def _evidence(name: str, reports: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of all comparisons that speak to a claim."""
    rows: list[Mapping[str, Any]] = []
    for comparison in COMPARISONS:
        if comparison.name not in reports:
            continue
        report = reports[comparison.name]
        if comparison.stands_for == name:
            rows += [{**claim, "seeds": report["seeds"]} for claim in report["claims"]]
        elif comparison.stands_for is None:
            rows += [{**claim, "seeds": report["seeds"]} for claim in report["claims"] if claim["claim"] == name]
    return rows


def _pairs(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(map(str, sorted({row["seeds"] for row in rows}))) or "-"


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "not measured"
    as_claimed = sum(row["effect"]["estimate"] * (1 if row["claimed"] == "higher" else -1) > 0 for row in rows)
    return f"{as_claimed} of {len(rows)} measures move as claimed"


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of a claim with several measures: what all of them say, or how many say what."""
    if not rows:
        return "not measured"
    counts = {which: sum(row["verdict"] == which for row in rows) for which in VERDICTS}
    known = [f"{count} {which}" for which, count in counts.items() if count]
    said = known[0].partition(" ")[2] if len(known) == 1 else ", ".join(known)
    # One pair's intervals are over images: they decide about these two networks, not about the claim.
    return f"{said} (of one pair)" if all(row.get("seeds") == 1 for row in rows) and said != "undecided" else said


def _row(claim: Mapping[str, Any]) -> str:
    effect = claim["effect"]
    known = math.isfinite(effect["low"])
    bounds = f"{effect['low']:+.3g}, {effect['high']:+.3g}" if known else "unknown"
    cells = [
        f"{claim['claim']} {claim['statement']}",
        claim["measure"],
        f"{claim['baseline']:.3g}",
        f"{claim['variant']:.3g}",
        f"{effect['estimate']:+.3g} [{bounds}]",
        f"{claim['p_holm']:.3g}",
        claim["verdict"],
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    launch("analyses.claims")
