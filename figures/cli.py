"""Arguments and output of ``python -m figures``."""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from analyses import studies
from analyses.kinds import PRESETS
from landscape import command
from landscape.command.parser import STYLES
from landscape.errors import LandscapeError

# Picture -> its module and, where that draws several studies, the study.
FIGURES: dict[str, tuple[str, str | None]] = {
    **{name: (name, None) for name in ("fig2", "fig4", "fig6", "fig7", "fig8", "fig9", "sweep")},
    "fig6-noise": ("fig6_noise", None),
    "mlp-head": ("mlp_head", None),
    "training-curvature": ("training_curvature", None),
    **{
        f"training-curvature-{kind}": ("training_curvature", f"training_curvature_{kind}")
        for kind in ("deterministic", "transformer")
    },
    **{name: ("ablation", name) for name in ("temperature", "kernel", "placement", "heads", "relu6", "preactivation")},
}
FORMATS = (".pdf", ".png")
# Where figures come from unless told: real images first.
SHOWN = ("converged", "cifar100-medium", "cifar100-small", "digits")
DESCRIPTION = """Draw the paper's figures from results that the studies have kept; no network is touched.

``python -m figures`` draws what there are results for, ``python -m figures fig7`` one of them, and
``python -m figures explain FILE`` prints where a picture comes from."""


def parser() -> command.Parser:
    """Arguments."""
    parser = command.Parser("figures", DESCRIPTION)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(FIGURES)}; or: explain FILE...")
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help=f"whose results (default: {SHOWN[0]}, then {', '.join(SHOWN[1:])} for what was not measured there)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where the studies keep theirs (default: results, and what is not there from reference/PRESET/results)",
    )
    parser.add_argument("--published", type=Path, metavar="DIR", help="folder of the authors' CSV files, drawn in grey")
    parser.add_argument("--out", type=Path, default=Path("figures") / "out", metavar="DIR", help="where pictures go")
    parser.add_argument("--style", choices=STYLES, default="paper", help="for paper (default), screen, or a dark page")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    return parser


def main(argv: Sequence[str]) -> int:
    """Draw, or explain."""
    arguments = parser().parse_args(argv)
    if arguments.names[:1] == ["explain"]:
        return _explain([Path(name) for name in arguments.names[1:]], as_json=arguments.json)
    unknown = [name for name in arguments.names if name not in FIGURES]
    if unknown:
        raise LandscapeError(f"no figure {', '.join(unknown)}: choose from {', '.join(FIGURES)}")
    if arguments.published is not None and not arguments.published.is_dir():
        raise LandscapeError(f"no folder {arguments.published}: give that of the authors' CSV files")
    from analyses import stage
    from figures import sources
    from landscape import plotting

    asked = " ".join(["python", "-m", "figures", *argv])
    drawn: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for name in arguments.names or FIGURES:
        where, study = FIGURES[name]
        module = importlib.import_module(f"figures.{where}")
        try:
            preset, results = _found(arguments, study or module.STUDY)
            drawing = sources.read(study or module.STUDY, preset, results, arguments.published)
            with plotting.using(arguments.style):
                figure = module.draw(drawing)
                if "kinds" in drawing.facts:
                    plotting.head(figure, stage.caption(preset, drawing.facts["kinds"]))
                facts = sources.provenance(drawing, name, asked)
                files = [plotting.save(figure, arguments.out / f"{name}-{preset}{end}", facts) for end in FORMATS]
        except LandscapeError as error:
            if arguments.names:
                raise
            missing[name] = str(error)
            continue
        drawn[name] = [*map(str, files)]
    if not drawn:
        raise LandscapeError(next(iter(missing.values())))
    if arguments.json:
        print(command.to_strict_json({"drawn": drawn, "missing": missing}))
    else:
        print(
            "\n".join(
                [
                    *(" ".join([name, *files]) for name, files in drawn.items()),
                    *(f"{name} left out: {why}" for name, why in missing.items()),
                ]
            )
        )
    return 0


def _found(arguments: argparse.Namespace, study: str) -> tuple[str, Path]:
    """The preset and the folder that a study's results are taken from: one's own come before the repository's."""
    presets = SHOWN if arguments.preset is None else (arguments.preset,)
    places = [
        (preset, folder)
        for preset in presets
        for folder in (
            [arguments.results] if arguments.results else [Path("results"), studies.kept(studies.REFERENCE, preset)]
        )
    ]
    return next((place for place in places if studies.listing(place[1], study, place[0]).is_file()), places[0])


def _explain(files: Sequence[Path], *, as_json: bool) -> int:
    from figures import explain

    if not files:
        raise LandscapeError("nothing to explain: give a picture, python -m figures explain FILE")
    facts = {str(file): explain.provenance(file) for file in files}
    if as_json:
        print(command.to_strict_json(facts))
    else:
        print("\n\n".join(f"{file}\n{explain.table(each)}" for file, each in facts.items()))
    return 0
