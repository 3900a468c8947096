"""CLAIMS.md: every claim of the paper with our measured effect, interval, number of networks, command and verdict.

``python -m analyses.claims --measure --preset cifar100-small --seeds 4`` measures what trained networks allow and keeps
a report a comparison; with ``--until-decided`` it trains the next pairs too, and looks after 4, 6, 8, 10 and 12 of them
until every claim is decided; ``python -m analyses.claims`` writes the page again from the saved reports alone, stage by
stage.
"""

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses import executors, studies
from analyses.kinds import PRESETS
from landscape import command
from landscape.command import launch
from landscape.errors import LandscapeError
from landscape.store import files

if TYPE_CHECKING:
    from analyses.audit.claims import Claim
    from analyses.audit.networks import Network

STATEMENTS = {
    "C1": "top Hessian eigenvalues: smooth < plain",
    "C2": "outliers of the max-eigenvalue spectrum: fewer",
    "C3": "loss surface: flatter, and less rough under MC dropout",
    "C4": "model uncertainty of feature maps: lower, as a mean over stages, before their smoothing layers",
    "C5": "MC dropout raises high-frequency amplitude over the deterministic net",
    "C6": "relative log amplitude at high frequency: lower, as a mean over stages, before their smoothing layers",
    "C7": "accuracy drop under high-frequency noise: smaller",
    "C8": "NLL, accuracy, ECE: better at every ensemble size",
    "C9": "fewer passes needed for the same NLL",
    "C10": "corruption robustness: better error, NLL, ECE under the corruptions computed here (not mCE)",
    "C11": "MLP head: sharper and rougher landscape than GAP, and a higher training NLL",
    "C12": "pre-activation, ReLU6 and GAP move C1 to C8 the same way as smoothing does",
    "C13": "deterministic nets gain too",
    "ViT": "not of the paper: a vision transformer gains from a blur of its grid of tokens",
}
VERDICTS = ("supported", "against", "undecided", "no verdict")
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
    labels
        Of baseline and variant, where those of the kinds do not say what differs.
    """

    name: str
    baseline: str
    variant: str
    claims: tuple[str, ...]
    stands_for: str | None = None
    labels: tuple[str, str] | None = None


SMOOTHING_CLAIMS = ("C1", "C2", "C3", "C4", "C6", "C7", "C8", "C9", "C10")
GAP, MLP = "MC dropout, GAP head", "MC dropout, MLP head"
COMPARISONS = (
    Comparison("smooth", "mcdo", "mcdo-smooth", SMOOTHING_CLAIMS),
    Comparison("dropout", "dnn", "mcdo", ("C5",)),
    Comparison("mlp-head", "mcdo", "mcdo-mlp", ("C11",), labels=(GAP, MLP)),
    Comparison("gap-head", "mcdo-mlp", "mcdo", GENERALISED, "C12", (MLP, GAP)),
    Comparison(
        "pre-activation", "mcdo", "mcdo-preact", GENERALISED, "C12", ("MC dropout", "MC dropout, pre-activation")
    ),
    Comparison("relu6", "mcdo", "mcdo-relu6", GENERALISED, "C12", ("MC dropout", "MC dropout, ReLU6 after stages")),
    Comparison("deterministic", "dnn", "dnn-smooth", SMOOTHING_CLAIMS, "C13"),
    Comparison("transformer", "vit", "vit-smooth", SMOOTHING_CLAIMS, "ViT"),
)
# Presets as the page shows them: networks trained to the end come first, then earlier stages and smaller problems.
STAGES = ("paper", "converged", "cifar100-medium", "cifar100-small", "digits")
# By name of the comparison, what its networks are and its rows.
Reports = Mapping[str, Mapping[str, Any]]
# Comparison whose measured effects those that stand for C12 are held against, beside the paper's directions.
SMOOTHING = "smooth"
# What a picture of effects shows unless asked for others, and what it calls them.
DRAWN = (SMOOTHING, "deterministic")
DRAWN_AS = {SMOOTHING: "smooth", "deterministic": "deterministic", "relu6": "ReLU6", "gap-head": "GAP, not MLP"}


def parser() -> command.Parser:
    """Arguments."""
    parser = command.Parser("analyses.claims", __doc__ or "")
    parser.add_argument("--measure", action="store_true", help="measure what trained networks allow, and keep it")
    parser.add_argument("--preset", choices=PRESETS, default="cifar100-small", help="whose networks")
    parser.add_argument("--seeds", type=command.positive, default=4, metavar="N", help="at most so many (default: 4)")
    parser.add_argument(
        "--until-decided",
        action="store_true",
        help="train the next pairs too, with looks at 1 %% after 4, 6, 8, 10 and 12, until every claim is decided",
    )
    names = [each.name for each in COMPARISONS]
    parser.add_argument("--only", nargs="+", choices=names, help="measure these (default: all), draw these")
    parser.add_argument("--cifar-c", type=Path, metavar="DIR", help="published CIFAR-C files, for mCE in C10")
    parser.add_argument(
        "--corruption-baseline",
        type=Path,
        metavar="CSV",
        help="errors of the network that is 100 %% of mCE (AlexNet's)",
    )
    parser.add_argument(
        "--reports",
        type=Path,
        metavar="DIR",
        help="of this preset alone, and the page too (default: reference/PRESET/claims, and a page of every preset's)",
    )
    parser.add_argument("--cache", type=Path, default=Path("checkpoints"), help="folder of trained networks")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the CIFAR archives (default: data)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    parser.add_argument("--executor", metavar="ENGINE", help=executors.HELP)
    parser.add_argument("--out", type=Path, default=Path("CLAIMS.md"), metavar="FILE", help="the page to write")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw effects stage by stage; default: those of smoothing"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str]) -> int:
    """Measure if asked to, and write the page."""
    arguments = parser().parse_args(argv)
    command.require_writable(arguments.out)
    if arguments.plot is not None:
        command.require_picture_name(arguments.plot)
        command.require_writable(arguments.plot)
    if arguments.until_decided and not arguments.measure:
        raise LandscapeError("--until-decided trains and measures: give --measure too")
    if (arguments.cifar_c is None) != (arguments.corruption_baseline is None):
        raise LandscapeError("mCE takes both the published files and a baseline: --cifar-c and --corruption-baseline")
    folder = arguments.reports or studies.REFERENCE / arguments.preset / "claims"
    command.require_writable(folder / "smooth.json")
    if arguments.measure:
        device = command.device(arguments).type
        with executors.opened(arguments.executor) as executor:
            for comparison in COMPARISONS:
                if arguments.only is None or comparison.name in arguments.only:
                    measure(comparison, arguments, folder, device, executor)
    folders = {arguments.preset: folder}
    if arguments.reports is None:
        folders = {preset: studies.REFERENCE / preset / "claims" for preset in STAGES}
    stages = {preset: kept for preset, each in folders.items() if (kept := reports_in(each))}
    if not stages:
        raise LandscapeError(f"no reports in {folder}: run python -m analyses.claims --measure first")
    if arguments.plot is not None:
        draw(stages, arguments.plot, arguments.only or DRAWN)
    files.write_whole(arguments.out, page(stages).encode())
    return 0


def draw(stages: Mapping[str, "Reports"], path: Path, only: Sequence[str] = DRAWN) -> Path:
    """Effects of these comparisons at every stage that has verdicts of them, those that are arithmetic left out."""
    import numpy as np

    from analyses.audit.claims import HIGHER, LOWER
    from analyses.audit.pictures import Bar, forest
    from analyses.audit.verdict import FEWEST, Effect
    from landscape import plotting

    columns = {}
    for preset, reports in stages.items():
        for name in only:
            if name not in reports or reports[name]["seeds"] < FEWEST:
                continue
            report = reports[name]
            about = report["about"]
            losses = " and ".join(f"{each['training NLL, nats']:#.2g}" for each in about)
            trained = f"\n{_fact(about[0]['epochs'])} epochs\ntraining NLL\n{losses}" if about else ""
            columns[f"{DRAWN_AS.get(name, name)}\n{preset}\nn = {report['seeds']}{trained}"] = [
                Bar(
                    f"{claim['claim']} {claim['statement']}",
                    LOWER if claim["claimed"] == "lower" else HIGHER,
                    claim["verdict"],
                    Effect(**{**claim["effect"], "of_seed": np.array(claim["effect"]["of_seed"], float)}),
                )
                for claim in report["claims"]
                if claim["family"] == "network"
            ]
    if not columns:
        raise LandscapeError(f"no stage has verdicts of {', '.join(only)}: leave --plot out, there is nothing to draw")
    return plotting.save(forest(columns), path, {"stages": {preset: sorted(each) for preset, each in stages.items()}})


def reports_in(folder: Path) -> "Reports":
    """The reports that a folder keeps, by comparison."""
    paths = {each.name: folder / f"{each.name}.json" for each in COMPARISONS}
    return {name: read(path) for name, path in paths.items() if path.is_file()}


def measure(comparison: Comparison, arguments: Any, folder: Path, device: str, executor: Any = None) -> None:
    """Measure a comparison on as many seeds as both kinds are trained for, and keep its report; none, none.

    With ``--until-decided``, networks that are not there are trained, and pairs are added until all is decided.
    """
    from analyses.audit import panel, report
    from analyses.audit.claims import relative_claims
    from analyses.audit.verdict import LOOKS
    from analyses.measuring import SAMPLE_SIZES, Origin
    from landscape.robustness.corrupted import read_baseline

    sizes, claims = SAMPLE_SIZES[arguments.preset], chosen_claims(comparison)
    if arguments.cifar_c is not None:
        sizes = dataclasses.replace(sizes, cifar_c=str(arguments.cifar_c))
        relative = relative_claims(read_baseline(arguments.corruption_baseline))
        claims = [claim for claim in claims if claim.name != "C10"]
        claims += relative if "C10" in comparison.claims else ()
    for seeds in LOOKS if arguments.until_decided else (arguments.seeds,):
        networks = _networks(comparison, arguments, seeds, device, executor)
        if not networks:
            return
        audit = panel.run(
            networks,
            sizes,
            claims=claims,
            origin=Origin(root=arguments.data_root),
            device=device,
            quiet=arguments.quiet,
            sequential=arguments.until_decided,
            executor=executor,
        )
        command_line = ["python", "-m", "analyses.claims", "--measure", "--preset", arguments.preset]
        command_line += ["--only", comparison.name]
        if arguments.cifar_c is not None:
            command_line += ["--cifar-c", "DIR", "--corruption-baseline", arguments.corruption_baseline.name]
        command_line += ["--until-decided"] if arguments.until_decided else ["--seeds", str(audit.seeds)]
        facts = {"command": shlex.join(command_line), "sequential": arguments.until_decided, **report.to_json(audit)}
        files.write_json(folder / f"{comparison.name}.json", facts)
        if panel.all_decided(audit.rows):
            return


def _networks(comparison: Comparison, arguments: Any, seeds: int, device: str, executor: Any) -> "list[Network]":
    """Networks of both kinds for each seed: those that are trained, or all of them under ``--until-decided``."""
    from analyses import kinds
    from analyses.audit.networks import Network
    from landscape import training

    chosen = {"baseline": comparison.baseline, "variant": comparison.variant}
    recipes = {role: kinds.recipe(kind, arguments.preset) for role, kind in chosen.items()}
    labels = dict(zip(chosen, comparison.labels or [kinds.KINDS[kind].label for kind in chosen.values()], strict=True))
    networks: list[Network] = []
    common = {"cache": arguments.cache, "root": arguments.data_root, "device": device, "quiet": arguments.quiet}
    if arguments.until_decided:
        pairs = [(recipe, seed) for seed in range(seeds) for recipe in recipes.values()]
        trainings = [(training.ensure, {"wanted": of, "seed": seed, **common, "quiet": True}) for of, seed in pairs]
        executors.ahead(executor, trainings, quiet=arguments.quiet)
    for seed in range(seeds):
        paths: dict[str, Path | None] = {}
        for role, recipe in recipes.items():
            if arguments.until_decided:
                paths[role] = training.ensure(recipe, seed=seed, **common)
            else:
                paths[role] = training.find(recipe, seed=seed, cache=arguments.cache)
        if all(paths.values()):
            networks += [Network(role, labels[role], seed, path) for role, path in paths.items() if path]
    return networks


def chosen_claims(comparison: Comparison) -> "list[Claim]":
    """The claims of a comparison, as the audit reads them; arithmetic is asked of blurs alone."""
    from analyses.audit.claims import CLAIMS, NETWORK, OTHERS

    named = [claim for claim in (*CLAIMS, *OTHERS) if claim.name in comparison.claims]
    return [claim for claim in named if claim.family == NETWORK or comparison.stands_for != "C12"]


_NUMBERS = ("baseline", "variant", "p_holm", "estimate", "low", "high", "stderr", "p")


def read(path: Path) -> dict[str, Any]:
    """A report; raises LandscapeError for anything else."""
    wanted = ("command", "sequential", "summary", "cautions", "seeds", "claims", "networks", "about", "images")
    facts = files.read_json(path)
    try:
        report = {name: _numbers(facts[name]) for name in wanted}
        for claim in report["claims"]:
            _ = claim["family"], claim["decided_at"], claim["effect"]["at"]
        return report
    except (KeyError, TypeError):
        raise LandscapeError(f"{path} is not a report of a comparison: measure it again") from None


def _numbers(facts: Any) -> Any:
    """What JSON has no number for, and a report therefore has null for, is NaN again."""
    if isinstance(facts, dict):
        return {name: math.nan if each is None and name in _NUMBERS else _numbers(each) for name, each in facts.items()}
    return [_numbers(each) for each in facts] if isinstance(facts, list) else facts


def page(stages: Mapping[str, Reports]) -> str:
    """CLAIMS.md: what every stage says of each claim side by side, then each stage's comparisons."""
    from analyses.audit.verdict import RULE

    lines = [
        "# Claims, as measured here",
        "",
        "Generated by `python -m analyses.claims` from the reports in `reference/STAGE/claims`. Effects are "
        "variant minus baseline with uncorrected 95 % intervals; effects of logarithms are differences of natural "
        "logarithms, so that -0.1 is about 10 % less. n counts pairs of networks; fewer than four give no verdict. "
        "Rows called arithmetic hold behind a smoothing layer by what the layer does to any map: they are judged "
        "apart, and are no evidence for a claim. Training NLL and accuracy are of the last epoch, images augmented and "
        "masks drawn as in training. How often the rule errs, and what it can find: "
        "[docs/verdicts.md](docs/verdicts.md).",
        "",
        RULE,
        "",
        f"| claim | {' | '.join(map(_headed, stages, stages.values()))} |",
        "|---" * (1 + len(stages)) + "|",
    ]
    for name, statement in STATEMENTS.items():
        if name != "C12":
            cells = [_said(_evidence(name, reports)) for reports in stages.values()]
            lines.append(f"| {name}: {statement} | {' | '.join(cells)} |")
            continue
        lines.append(f"| {name}: {statement} |{' kind by kind |' * len(stages)}")
        for comparison in (each for each in COMPARISONS if each.stands_for == name):
            cells = []
            for reports in stages.values():
                rows = _rows(comparison, reports)
                cells.append(_said(rows) + _as_smoothing_counts(rows, reports))
            lines.append(f"| {name}, {comparison.name} | {' | '.join(cells)} |")
    for preset, reports in stages.items():
        lines += ["", f"## Stage: {preset}"]
        for comparison in COMPARISONS:
            if comparison.name in reports:
                lines += _section(comparison, reports)
        left = [comparison for comparison in COMPARISONS if comparison.name not in reports]
        if left:
            lines += ["", f"### Not measured at {preset}", ""]
            lines += [f"- {each.variant} against {each.baseline}: the networks are not trained yet" for each in left]
    return "\n".join([*lines, ""])


def _headed(preset: str, reports: Reports) -> str:
    """A stage and how far its networks have come: those of the first comparison that is there."""
    roles = next(iter(reports.values()))["about"]
    if not roles:
        return preset
    epochs, losses = roles[0]["epochs"], " and ".join(_fact(each["training NLL, nats"]) for each in roles)
    return f"{preset}: {_fact(epochs)} epochs, training NLL {losses} nats"


def _said(rows: Sequence[Mapping[str, Any]]) -> str:
    """Verdict, pairs, and how many measures move as claimed."""
    return f"**{verdict(rows)}**, n = {_pairs(rows)}; {_counts(rows)}" if rows else "not measured"


def _section(comparison: Comparison, reports: Reports) -> list[str]:
    """One comparison: what the networks are, and its rows."""
    report = reports[comparison.name]
    labels = {network["role"]: network["label"] for network in report["networks"]}
    lines = ["", f"### {labels['variant']} against {labels['baseline']}", ""]
    if comparison.stands_for:
        lines += [f"Evidence for {comparison.stands_for}: {STATEMENTS[comparison.stands_for]}.", ""]
    look = " by now, of looks after 4, 6, 8, 10 and 12 pairs, at 1 % each" if report["sequential"] else ""
    lines += [f"n = {report['seeds']}{look}. Command: `{report['command']}`", ""]
    if report["about"]:
        names = [name for name in report["about"][0] if name not in ("role", "network")]
        lines += [f"| | {' | '.join(each['role'] + ': ' + each['network'] for each in report['about'])} |"]
        lines += ["|---" * (1 + len(report["about"])) + "|"]
        lines += [f"| {name} | {' | '.join(_fact(each[name]) for each in report['about'])} |" for name in names]
        counts = ", ".join(f"{name} {count}" for name, count in report["images"].items())
        lines += ["", f"Images measured: {counts}.", ""]
    if report["cautions"]:
        lines += [*(f"- {text}" for text in report["cautions"]), ""]
    against = SMOOTHING in reports and comparison.stands_for == "C12"
    head = ["claim", "measure", "baseline", "variant", "effect [95 %]", "p (Holm)", "verdict"]
    head += ["as smoothing does here"] if against else []
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for claim in report["claims"]:
        cells = _cells(claim, report["seeds"])
        cells += [as_smoothing(claim, reports[SMOOTHING]["claims"])] if against else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _fact(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _rows(comparison: Comparison, reports: Reports) -> list[Mapping[str, Any]]:
    """What a comparison says, but for what is arithmetic."""
    if comparison.name not in reports:
        return []
    report = reports[comparison.name]
    return [{**claim, "seeds": report["seeds"]} for claim in report["claims"] if claim["family"] == "network"]


def _evidence(name: str, reports: Reports) -> list[Mapping[str, Any]]:
    """Rows of all comparisons that speak to a claim."""
    rows: list[Mapping[str, Any]] = []
    for comparison in COMPARISONS:
        if comparison.stands_for == name:
            rows += _rows(comparison, reports)
        elif comparison.stands_for is None:
            rows += [row for row in _rows(comparison, reports) if row["claim"] == name]
    return rows


def _pairs(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(map(str, sorted({row["seeds"] for row in rows})))


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    as_claimed = sum(row["effect"]["estimate"] * (1 if row["claimed"] == "higher" else -1) > 0 for row in rows)
    return f"{as_claimed} of {len(rows)} measures move as claimed"


def as_smoothing(row: Mapping[str, Any], smoothing: Sequence[Mapping[str, Any]]) -> str:
    """Whether an effect goes the way that smoothing's goes here: its own verdict where smoothing's is decided."""
    same = next((each for each in smoothing if each["statement"] == row["statement"]), None)
    if same is None or same["verdict"] not in ("supported", "against"):
        return "smoothing itself undecided"
    way = "the same way" if row["effect"]["estimate"] * same["effect"]["estimate"] > 0 else "the other way"
    return way if row["verdict"] in ("supported", "against") else f"{way}, {row['verdict']}"


def _as_smoothing_counts(rows: Sequence[Mapping[str, Any]], reports: Reports) -> str:
    if not rows or SMOOTHING not in reports:
        return ""
    said = [as_smoothing(row, reports[SMOOTHING]["claims"]) for row in rows]
    known = [each for each in said if each != "smoothing itself undecided"]
    same = sum(each.startswith("the same way") for each in known)
    return f"; of {len(known)} where smoothing is decided here, {same} move as smoothing does"


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of a claim with several measures: what all of them say, or how many say what."""
    if not rows:
        return "not measured"
    counts = {which: sum(row["verdict"] == which for row in rows) for which in VERDICTS}
    known = [f"{count} {which}" for which, count in counts.items() if count]
    said = known[0].partition(" ")[2] if len(known) == 1 else ", ".join(known)
    return f"{said} (two networks)" if all(row.get("seeds") == 1 for row in rows) else said


def _cells(claim: Mapping[str, Any], seeds: int) -> list[str]:
    from analyses.audit.report import probability

    effect, pairs = claim["effect"], len(claim["effect"]["of_seed"])
    known = math.isfinite(effect["low"])
    bounds = f"{effect['low']:+.3g}, {effect['high']:+.3g}" if known else "unknown"
    said = claim["verdict"]
    if claim["decided_at"] is not None:
        said = f"{said} at {claim['decided_at']} pairs"
    return [
        f"{claim['claim']} {claim['statement']}",
        f"{claim['measure']}: least sure at {effect['at']}" if effect["at"] else claim["measure"],
        f"{claim['baseline']:.3g}",
        f"{claim['variant']:.3g}",
        f"{effect['estimate']:+.3g} [{bounds}]",
        "-" if said == "no verdict" else probability(claim["p_holm"]),
        f"{said}: two networks" if seeds == 1 else f"{said}: {pairs} pairs" if said == "no verdict" else said,
    ]


if __name__ == "__main__":
    launch("analyses.claims")
