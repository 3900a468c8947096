"""An audit as one printed page, as JSON, and as one offline HTML file."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from analyses.audit import pictures
from analyses.audit.claims import HIGHER, NETWORK, NOT_APPLICABLE, Claim
from analyses.audit.panel import Audit, Row
from analyses.audit.verdict import FEWEST, LOOK_LEVEL, LOOKS, NO_VERDICT, RULE, VERDICTS, Effect, seeds_needed
from landscape import command, pages, plotting
from landscape.errors import printable
from landscape.look.comparison import smoothed_upstream
from landscape.store.files import write_json, write_whole


def number(value: float) -> str:
    """Three significant digits; what rounding has left of zero is zero."""
    return f"{value if abs(value) > 1e-12 else 0:.3g}" if math.isfinite(value) else "-"


def probability(value: float) -> str:
    """A p value: its digits below 0.0001 say nothing that the model behind it could know."""
    return "< 0.0001" if value < 1e-4 else number(value)


def interval(effect: Effect) -> str:
    """An effect with its 95 % interval."""
    if not math.isfinite(effect.low):
        return f"{effect.estimate:+.3g} [unknown]" if math.isfinite(effect.estimate) else "-"
    return f"{effect.estimate:+.3g} [{effect.low:+.3g}, {effect.high:+.3g}]"


# Beginning of a measure that is a logarithm: people read the value itself.
_LOGARITHM = "log of "


def value_of(claim: Claim, value: float) -> str:
    """A measure as people read it: the number itself where a logarithm is compared, its geometric mean over seeds."""
    return number(math.exp(value) if claim.measure.startswith(_LOGARITHM) and math.isfinite(value) else value)


def change(claim: Claim, effect: Effect) -> str:
    """An effect with its interval: a difference, or a factor where logarithms are compared."""
    if not claim.measure.startswith(_LOGARITHM) or not math.isfinite(effect.estimate):
        return interval(effect)
    if not math.isfinite(effect.low):
        return f"x {math.exp(effect.estimate):.3g} [unknown]"
    return f"x {math.exp(effect.estimate):.3g} [{math.exp(effect.low):.3g}, {math.exp(effect.high):.3g}]"


def remark_of(audit: Audit, row: Row) -> str:
    """Why an interval that excludes zero can stand beside 'undecided'."""
    known = math.isfinite(row.effect.low) and math.isfinite(row.effect.high)
    if row.verdict != "undecided" or not known or row.effect.low <= 0 <= row.effect.high:
        return ""
    count = sum(each.claim.family == row.claim.family for each in audit.rows)
    return f"The interval is for this claim alone; corrected for {count} claims, chance is not ruled out."


# What a verdict means, for a reader who has not read the rule.
WORDS = {
    "supported": "the variant moves the measure as claimed, by more than other images and trainings would by chance",
    "against": "it moves the measure the other way, by more than chance would",
    "undecided": "chance is not ruled out; this is not the same as 'no effect'",
    "no verdict": "too few pairs of networks to tell trainings apart from the layer",
}
UPSTREAM = (
    "Blocks behind the variant's first smoothing layer read what it has smoothed: before that one alone are C4 and C6 "
    "free of arithmetic, so that 'supported' may be what the layers would do to the baseline's own weights; 'against' "
    "is in spite of it."
)
PAPER = "N. Park and S. Kim, Blurs Behave Like Ensembles, ICML 2022, arXiv 2105.12639"


def summary(audit: Audit) -> str:
    """One sentence."""
    rows = [row for row in audit.rows if row.claim.family == NETWORK]
    lines = _counted([row.verdict for row in rows])
    about = " This is about these two networks, not about other trainings of them." if audit.seeds == 1 else ""
    return f"{audit.label('variant')} against {audit.label('baseline')}: of {len(rows)} measures {lines}.{about}"


def _counted(verdicts: Sequence[str | None]) -> str:
    """How many have which verdict; ``no verdict`` is left out where none has it."""
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count or verdict != NO_VERDICT)


def cautions(audit: Audit) -> list[str]:
    """What a reader must know before believing the table."""
    lines = []
    if audit.seeds == 1:
        lines.append(
            "One pair of networks: intervals are over images alone and speak of these two networks, not of other "
            f"trainings. A verdict takes {FEWEST} pairs."
        )
    elif audit.seeds < FEWEST:
        lines.append(
            f"{audit.seeds} pairs of networks: Student's t has so few degrees of freedom that only effects many times "
            f"the spread between trainings could be decided. A verdict takes {FEWEST} pairs."
        )
    elif audit.seeds < 8:
        lines.append(f"{audit.seeds} pairs of networks: 'undecided' is not 'no effect'. {power_line()}")
    maps = [
        results[name] for _, results in audit.of("variant") for name in ("feature_maps", "fourier") if name in results
    ]
    if any(map(smoothed_upstream, maps)):
        lines.append(UPSTREAM)
    moved = [row.claim.statement for row in audit.rows if row.placebo_verdict in ("supported", "against")]
    if moved:
        lines.append(f"The placebo, which does nothing, came out significant in: {', '.join(moved)}. Distrust these.")
    return lines


def power_line(sizes: Sequence[float] = (1.0, 2.0, 3.0)) -> str:
    """How many pairs an effect of a given size takes, for one claim."""

    def needed(size: float) -> str:
        fixed = seeds_needed(size)
        look = seeds_needed(size, level=LOOK_LEVEL, choices=LOOKS)
        return f"{size:g}: {fixed} ({'beyond the last look' if look is None else f'by the look at {look}'})"

    return (
        "Pairs of networks that find an effect of one claim with 80 % probability, by its size in standard deviations "
        f"of the difference within a pair: {', '.join(map(needed, sizes))}."
    )


def images(audit: Audit) -> dict[str, int]:
    """Images behind each instrument."""
    return {name: int(facts["images"]) for name, facts in protocols(audit).items() if facts.get("images") is not None}


def cells(row: Row) -> list[str]:
    """A row of the table."""
    measure = f"{row.claim.measure}: least sure at {row.effect.at}" if row.effect.at else row.claim.measure
    return [
        f"{row.claim.name} {row.claim.statement}",
        measure,
        value_of(row.claim, row.baseline),
        value_of(row.claim, row.variant),
        change(row.claim, row.effect),
        probability(row.adjusted),
        row.verdict if row.decided_at is None else f"{row.verdict} at {row.decided_at} pairs",
    ]


HEAD = ("claim", "measure", "baseline", "variant", "change [95 %]", "p (Holm)", "verdict")
COSTS = {
    "parameters": "parameters",
    "training_seconds": "training, s",
    "milliseconds": "forward pass, ms an image",
    "mebibytes": "layer outputs, MiB an image",
}


READING = (
    "Change: variant minus baseline; 'x' is a factor, variant over baseline, where the measure is a logarithm, and the "
    "values beside it are geometric means over seeds."
)


def cost_rows(audit: Audit) -> list[list[str]]:
    """What each kind of network costs."""
    return [
        [title, *[number(of_role[name]) for of_role in audit.costs.values()]]
        if name != "parameters"
        else [title, *[f"{of_role[name]:.0f}" for of_role in audit.costs.values()]]
        for name, title in COSTS.items()
    ]


def page(audit: Audit) -> str:
    """The printed page."""
    head = [entry for column, entry in enumerate(HEAD) if column != 1]
    rows = [[cell for column, cell in enumerate(cells(row)) if column != 1] for row in audit.rows]
    counts = ", ".join(f"{name} {count}" for name, count in images(audit).items())
    parts = [
        summary(audit),
        *cautions(audit),
        "",
        command.columns(*about_rows(audit)),
        f"images: {counts}",
        "",
    ]
    parts += [command.columns(head, rows), ""]
    if any(row.placebo is not None for row in audit.rows):
        said = _counted([row.placebo_verdict for row in audit.rows])
        parts.append(f"placebo ({audit.label('placebo')}), which does nothing: of {len(audit.rows)} measures {said}")
    parts += ["", command.columns(["cost", *audit.costs], cost_rows(audit)), "", NOT_APPLICABLE, READING, RULE]
    return "\n".join(parts)


def about_rows(audit: Audit) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table that says what the networks are."""
    head = ["", *[f"{each['role']}: {each['network']}" for each in audit.about]]
    names = [name for name in audit.about[0] if name not in ("role", "network")] if audit.about else []
    return head, [[name, *[_fact(each[name]) for each in audit.about]] for name in names]


def _fact(value: Any) -> str:
    return number(value) if isinstance(value, float) else "-" if value is None else str(value)


def to_json(audit: Audit) -> dict[str, Any]:
    """Everything that the page says, and the effect within each seed."""

    def of(effect: Effect | None) -> dict[str, Any] | None:
        if effect is None:
            return None
        return {
            "estimate": effect.estimate,
            "low": effect.low,
            "high": effect.high,
            "stderr": effect.stderr,
            "p": effect.p,
            "degrees": effect.degrees,
            "spread": effect.spread,
            "shared": effect.shared,
            "at": effect.at,
            "of_seed": effect.of_seed.tolist(),
        }

    return {
        "summary": summary(audit),
        "rule": RULE,
        "cautions": cautions(audit),
        "seeds": audit.seeds,
        "about": audit.about,
        "images": images(audit),
        "networks": [
            {"role": network.role, "label": network.label, "seed": network.seed, "file": network.path.name}
            for network in audit.networks
        ],
        "claims": [
            {
                "claim": row.claim.name,
                "statement": row.claim.statement,
                "measure": row.claim.measure,
                "family": row.claim.family,
                "decided_at": row.decided_at,
                "claimed": "higher" if row.claim.direction == HIGHER else "lower",
                "baseline": row.baseline,
                "variant": row.variant,
                "effect": of(row.effect),
                "p_holm": row.adjusted,
                "verdict": row.verdict,
                "placebo": of(row.placebo),
                "placebo_verdict": row.placebo_verdict,
            }
            for row in audit.rows
        ],
        "costs": audit.costs,
        "protocols": protocols(audit),
    }


def protocols(audit: Audit) -> dict[str, Any]:
    """Protocol of each instrument."""
    first = audit.results[0]
    return {
        name: json.loads(result.attrs["protocol"]) | {"hash": result.attrs["protocol_hash"]}
        for name, result in first.items()
        if "protocol" in result.attrs
    }


def page_html(audit: Audit, *, command_line: str) -> str:
    """The report as one file that needs nothing else: pictures are inside, no script, no font, no network."""
    drawn = [
        (Markup(svg(figure, name, caption)), printable(caption), *pictures.numbers(figure))
        for name, figure, caption in pictures.all_of(audit)
    ]
    return pages.render(
        Path(__file__).with_name("report.html"),
        title=printable(f"Audit: {audit.label('variant')} against {audit.label('baseline')}"),
        summary=printable(summary(audit)),
        cautions=[*map(printable, cautions(audit))],
        about_head=[printable(cell) for cell in about_rows(audit)[0]],
        about=[[printable(cell) for cell in row] for row in about_rows(audit)[1]],
        head=HEAD,
        claims=[
            (dict(zip(HEAD, map(printable, cells(row)), strict=True)), row.verdict.split()[0], remark_of(audit, row))
            for row in audit.rows
        ],
        words={name: words for name, words in WORDS.items() if any(row.verdict == name for row in audit.rows)},
        notes=[READING, NOT_APPLICABLE],
        rule=RULE,
        paper=PAPER,
        pictures=drawn,
        costs_head=["", *audit.costs],
        costs=cost_rows(audit),
        networks=[
            [network.role, printable(network.label), network.seed, printable(network.path.name)]
            for network in audit.networks
        ],
        protocols=[f"{name}: {_short(facts)}" for name, facts in protocols(audit).items()],
        command=printable(command_line),
    )


def _short(facts: dict[str, Any]) -> str:
    shown = ("split", "images", "l2", "augmentation", "dropout", "batch_norm", "hash")
    return ", ".join(f"{name} {facts[name]}" for name in shown)


def svg(drawn: Figure, name: str, caption: str) -> str:
    """A figure as an inline SVG element, its internal names made unique by `name`; a screen reader says the caption."""
    buffer = io.StringIO()
    with plotting.style():
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Several pictures in one document must not share the names of their markers and clipping paths.
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(printable(caption))}"', 1)
    for attribute in ('id="', 'xlink:href="#', "url(#"):
        text = text.replace(attribute, f"{attribute}{name}-")
    return text


def write(audit: Audit, folder: Path, *, command_line: str) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` into a folder, whole or not at all."""
    write_whole(folder / "report.html", page_html(audit, command_line=command_line).encode())
    write_json(folder / "report.json", command.strict({"command": command_line, **to_json(audit)}))
    return folder / "report.html", folder / "report.json"
