"""Arguments and output of ``python -m analyses.audit``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses import executors
from analyses.kinds import PRESETS
from landscape import command
from landscape.errors import LandscapeError

if TYPE_CHECKING:
    from analyses.audit.panel import Audit

DESCRIPTION = """Does a layer do what blurs do? Baseline, variant and placebo are trained over seeds (or given as
checkpoints), the paper's claims C1 to C10 are measured on each, and every claim gets an effect, an interval and a
verdict by a rule stated beforehand.

A layer is a named variant (tanh-blur, blur, relu6-blur, ...) or a class of your own, my_layers.py:MyBlur: any
torch.nn.Module that maps (N, C, H, W) to (N, C, H', W'), placed before every subsampling.

Interrupted or killed at any moment, the same command resumes."""


def parser() -> command.Parser:
    """Arguments."""
    parser = command.Parser("analyses.audit", DESCRIPTION)
    who = parser.add_argument_group("what is compared")
    who.add_argument("--variant", default=None, metavar="NAME|FILE.py:CLASS", help="layer to audit")
    who.add_argument("--preset", choices=PRESETS, default="digits", help="networks and how much is measured")
    who.add_argument("--seeds", type=command.positive, default=4, metavar="N", help="trainings of each (default: 4)")
    who.add_argument(
        "--until-decided",
        action="store_true",
        help="train on, with looks at 1 %% after 4, 6, 8, 10 and 12 pairs, until every claim is decided",
    )
    who.add_argument(
        "--first-seed", type=command.seed, default=0, metavar="S", help="seeds are S, S + 1, ... (default: 0)"
    )
    who.add_argument("--baseline-checkpoints", nargs="+", default=[], metavar="CKPT", help="instead of training")
    who.add_argument("--variant-checkpoints", nargs="+", default=[], metavar="CKPT", help="paired in order with these")
    who.add_argument("--placebo-checkpoints", nargs="+", default=[], metavar="CKPT", help="optional")
    who.add_argument("--smoothing", metavar="FILE.py:CLASS", help="layer of your own that these were trained with")
    who.add_argument("--no-placebo", action="store_true", help="train no placebo")
    who.add_argument("--data", metavar="NAME|PATH|MODULE:FACTORY", help="images; default: those trained on")
    foreign = parser.add_argument_group("advanced: checkpoints that do not say what they are")
    foreign.add_argument("--model", metavar="NAME|FILE.py:FACTORY", help="network that the weights belong to")
    for role in ("variant", "placebo"):
        foreign.add_argument(
            f"--{role}-model", metavar="NAME|FILE.py:FACTORY", help=f"that of the {role}, if another (default: --model)"
        )
    foreign.add_argument("--num-classes", type=command.positive, metavar="N", help="classes of these networks")
    foreign.add_argument("--mean", type=command.numbers, metavar="R,G,B", help="mean of each channel, for uint8 images")
    foreign.add_argument("--std", type=command.numbers, metavar="R,G,B", help="standard deviation of each channel")
    how = parser.add_argument_group("how it is computed and kept")
    how.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the CIFAR archives (default: data)")
    how.add_argument("--cache", type=Path, default=Path("checkpoints"), help="folder of trained networks")
    how.add_argument("--out", type=Path, metavar="DIR", help="folder of the report (default: results/audit/NAME)")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    how.add_argument("--executor", metavar="ENGINE", help=executors.HELP)
    how.add_argument("--plan", action="store_true", help="print what will be trained and measured, and stop")
    how.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    how.add_argument("--quiet", action="store_true", help="no progress bar, no page")
    how.add_argument("--force", action="store_true", help="measure again what is cached")
    return parser


def main(argv: Sequence[str]) -> int:
    """Train or load, measure, decide, report."""
    arguments = parser().parse_args(argv)
    given = {role: list(getattr(arguments, f"{role}_checkpoints")) for role in ("baseline", "variant", "placebo")}
    _check(arguments, given)

    from analyses.audit import report
    from landscape.store import registry

    device = command.device(arguments).type
    if arguments.smoothing is not None:
        registry.remember(arguments.smoothing)
    name = re.sub(r"[^\w.]+", "-", arguments.variant or Path(given["variant"][0]).stem).strip("-")
    folder = arguments.out or Path("results") / "audit" / f"{arguments.preset}-{name}"
    command.require_writable(folder / "report.html")
    if arguments.plan:
        lines = _plan(arguments, given["variant"])
        command.report(arguments, table=lambda: "\n".join(lines), facts=lambda: {"plan": lines})
        return 0
    if arguments.device == "auto" and not arguments.quiet:
        command.remark(f"on {command.described(command.device(arguments))}")
    with executors.opened(arguments.executor) as executor:
        audit = _audited(arguments, given, device, executor)
    page, facts = report.write(audit, folder, command_line=" ".join(["python", "-m", "analyses.audit", *argv]))
    if arguments.json:
        print(command.to_strict_json(report.to_json(audit)))
    elif not arguments.quiet:
        print(report.page(audit))
    print(f"report: {page}, {facts}", file=sys.stderr)
    return 0


def _check(arguments: argparse.Namespace, given: Mapping[str, Sequence[str]]) -> None:
    """Refuse arguments that contradict each other."""
    trains = arguments.variant is not None
    if not trains and not (given["baseline"] and given["variant"]):
        raise LandscapeError(
            "nothing to audit: give --variant, or --baseline-checkpoints and --variant-checkpoints together"
        )
    if trains and any(given.values()):
        raise LandscapeError("--variant trains networks, --*-checkpoints name trained ones: give one or the other")
    if trains and any((arguments.model, arguments.variant_model, arguments.placebo_model)):
        raise LandscapeError("--model names the network of trained checkpoints: leave it out with --variant")
    if arguments.until_decided and not trains:
        raise LandscapeError("--until-decided trains further pairs: give --variant, not checkpoints")


def _audited(arguments: argparse.Namespace, given: Mapping[str, Sequence[str]], device: str, executor: Any) -> Audit:
    """The audit of trained or given networks; with ``--until-decided``, pairs are added until all is decided."""
    from analyses.audit import networks, panel
    from analyses.audit.claims import CLAIMS
    from analyses.audit.verdict import LOOKS
    from analyses.measuring import SAMPLE_SIZES, Origin

    origin = Origin(
        data=arguments.data,
        root=arguments.data_root,
        model=arguments.model,
        num_classes=arguments.num_classes,
        mean=arguments.mean,
        std=arguments.std,
    )
    judged: set[Path] = set()
    for count in LOOKS if arguments.until_decided else (arguments.seeds,):
        if arguments.variant is not None:
            compared = networks.trained(
                networks.PRESETS[arguments.preset],
                arguments.variant,
                list(range(arguments.first_seed, arguments.first_seed + count)),
                cache=arguments.cache,
                root=arguments.data_root,
                device=device,
                quiet=arguments.quiet,
                placebo=not arguments.no_placebo,
                executor=executor,
            )
        else:
            paths = {role: [command.checkpoint_path(each, arguments) for each in some] for role, some in given.items()}
            models = {"variant": arguments.variant_model, "placebo": arguments.placebo_model}
            compared = networks.given(paths, models)
        audit = panel.run(
            compared,
            SAMPLE_SIZES[arguments.preset],
            claims=CLAIMS,
            origin=origin,
            device=device,
            quiet=arguments.quiet,
            force={each.path for each in compared} - judged if arguments.force else (),
            sequential=arguments.until_decided,
            executor=executor,
        )
        if panel.all_decided(audit.rows):
            break
        judged |= {each.path for each in compared}
    return audit


def _plan(arguments: argparse.Namespace, variants: Sequence[str]) -> list[str]:
    """What will be trained and measured, in how many minutes; the layer is built and run once."""
    from analyses.audit import networks
    from analyses.audit.claims import CLAIMS
    from analyses.audit.report import power_line
    from analyses.audit.verdict import LOOKS
    from analyses.measuring import REQUESTS, SAMPLE_SIZES
    from landscape import training

    needed = [name for name in REQUESTS if any(name in claim.needs for claim in CLAIMS)]
    measured = f"{len(needed)} instruments on each: {', '.join(needed)}; {SAMPLE_SIZES[arguments.preset]}"
    if arguments.variant is None:
        return [f"{2 * len(variants)} checkpoints; {measured}", power_line()]
    preset, seeds = networks.PRESETS[arguments.preset], arguments.seeds
    seconds, steps = networks.training_cost(networks.recipe_of(preset, arguments.variant), arguments.data_root)
    counts = (LOOKS[0], LOOKS[-1]) if arguments.until_decided else (seeds, seeds)
    minutes, trained = [], 0
    for count in counts:
        pairs = range(arguments.first_seed, arguments.first_seed + count)
        planned = networks.wanted(preset, arguments.variant, pairs, placebo=not arguments.no_placebo)
        missing = [each for each in planned if not training.find(each.recipe, seed=each.seed, cache=arguments.cache)]
        trained = len(planned) - len(missing)
        minutes.append((len(planned), len(missing) * seconds * steps / 60))
    trainings = " to ".join(str(count) for count, _ in dict.fromkeys(minutes))
    time = " to ".join(f"{each:.0f}" for _, each in dict.fromkeys(minutes))
    looks = f" (looks after {', '.join(map(str, LOOKS))} seeds)" if arguments.until_decided else f" ({seeds} seeds)"
    return [
        f"{trainings} trainings{looks}, {trained} of them done; the others take about {time} min: {steps} steps of "
        f"{seconds:.2g} s each, as timed with {arguments.variant}",
        f"{measured}",
        power_line(),
    ]
