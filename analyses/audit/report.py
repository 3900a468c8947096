"""An audit as one printed page, as JSON, and as one offline HTML file."""

import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analyses.audit import pictures
from analyses.audit.claims import HIGHER, NOT_APPLICABLE
from analyses.audit.panel import Audit, Row
from analyses.audit.verdict import RULE, VERDICTS, Effect
from landscape import command, plotting


def number(value: float) -> str:
    """Three significant digits; what rounding has left of zero is zero."""
    return f"{value if abs(value) > 1e-12 else 0:.3g}" if math.isfinite(value) else "-"


def interval(effect: Effect) -> str:
    """An effect with its 95 % interval."""
    if not math.isfinite(effect.low):
        return f"{effect.estimate:+.3g} [unknown]" if math.isfinite(effect.estimate) else "-"
    return f"{effect.estimate:+.3g} [{effect.low:+.3g}, {effect.high:+.3g}]"


def summary(audit: Audit) -> str:
    """One sentence."""
    counts = {verdict: sum(row.verdict == verdict for row in audit.rows) for verdict in VERDICTS}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    about = " This is about these two networks, not about other trainings of them." if audit.seeds == 1 else ""
    return f"{audit.label('variant')} against {audit.label('baseline')}: of {len(audit.rows)} measures {told}.{about}"


def cautions(audit: Audit) -> list[str]:
    """What a reader must know before believing the table."""
    told = []
    if audit.seeds == 1:
        told.append(
            "One pair of networks: intervals are over images alone and say nothing of other trainings; measures that "
            "are no statistic of images stay undecided."
        )
    elif audit.seeds < 5:
        told.append(
            f"{audit.seeds} seeds: Student's t has {audit.seeds - 1} degrees of freedom, so that only effects many "
            "times the spread between trainings can be decided; 'undecided' is not 'no effect'."
        )
    moved = [row.claim.statement for row in audit.rows if row.placebo_verdict in ("supported", "against")]
    if moved:
        told.append(f"The placebo, which does nothing, came out significant in: {', '.join(moved)}. Distrust these.")
    return told


def cells(row: Row) -> list[str]:
    """A row of the table."""
    return [
        f"{row.claim.name} {row.claim.statement}",
        row.claim.measure,
        number(row.baseline),
        number(row.variant),
        interval(row.effect),
        number(row.adjusted),
        row.verdict,
    ]


HEAD = ("claim", "measure", "baseline", "variant", "effect [95 %]", "p (Holm)", "verdict")
COSTS = {
    "parameters": "parameters",
    "training_seconds": "training, s",
    "milliseconds": "forward pass, ms an image",
    "mebibytes": "layer outputs, MiB an image",
}


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
    head = [entry for place, entry in enumerate(HEAD) if place != 1]
    rows = [[cell for place, cell in enumerate(cells(row)) if place != 1] for row in audit.rows]
    parts = [summary(audit), *cautions(audit), "", command.columns(head, rows), ""]
    if any(row.placebo is not None for row in audit.rows):
        moved = sum(row.placebo_verdict != "undecided" for row in audit.rows)
        parts.append(
            f"placebo ({audit.label('placebo')}): {len(audit.rows) - moved} of {len(audit.rows)} measures undecided, "
            "as they should be"
            if moved == 0
            else f"placebo ({audit.label('placebo')}): {moved} of {len(audit.rows)} measures came out significant"
        )
    parts += ["", command.columns(["cost", *audit.costs], cost_rows(audit)), "", NOT_APPLICABLE, RULE]
    return "\n".join(parts)


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
            "of_seed": effect.of_seed.tolist(),
        }

    return {
        "summary": summary(audit),
        "rule": RULE,
        "cautions": cautions(audit),
        "seeds": audit.seeds,
        "networks": [
            {"role": network.role, "label": network.label, "seed": network.seed, "file": network.path.name}
            for network in audit.networks
        ],
        "claims": [
            {
                "claim": row.claim.name,
                "statement": row.claim.statement,
                "measure": row.claim.measure,
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


_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 60rem;
  padding: 1rem; }
h1 { font-size: 1.4rem; line-height: 1.25; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; padding: .35rem .5rem; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
small { color: #555; display: block; }
.supported { color: #005a8c; font-weight: 600; } .against { color: #a84300; font-weight: 600; }
.undecided { color: #555; }
figure { margin: 1rem 0; break-inside: avoid; } figure svg { width: 100%; height: auto; max-width: 44rem; }
figcaption { font-size: .88rem; color: #333; }
.caution { border-left: 4px solid #d55e00; padding: .3rem .8rem; }
@media (max-width: 40rem) {
  .claims thead { display: none; }
  .claims tr { display: grid; grid-template-columns: 1fr 1fr; border-bottom: 2px solid #bbb; padding: .4rem 0; }
  .claims td { border: 0; padding: .1rem .2rem; text-align: left !important; white-space: normal !important; }
  .claims td:first-child { grid-column: 1 / -1; font-weight: 600; } .claims td:first-child small { font-weight: 400; }
  .claims td::before { content: attr(data-name) " "; color: #555; font-weight: 400; font-size: .8rem; }
  .claims td:first-child::before { content: none; }
}
@media print { body { font-size: 10pt; max-width: none; padding: 0; } tr { break-inside: avoid; } }
@page { margin: 15mm; }
"""


def page_html(audit: Audit, *, asked: str) -> str:
    """The report as one file that needs nothing else: pictures are inside, no script, no font, no network."""
    escape = html.escape
    title = f"Audit: {audit.label('variant')} against {audit.label('baseline')}"
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(summary(audit))}</p>"]
    body += [f'<p class="caution">{escape(text)}</p>' for text in cautions(audit)]
    body += ["<h2>Claims</h2>", _claims_table(audit)]
    body += [f"<p>{escape(NOT_APPLICABLE)}</p>", f"<p>{escape(RULE)}</p>"]
    body.append("<h2>Pictures</h2>")
    for name, drawn, caption in pictures.all_of(audit):
        picture = svg(drawn, name)
        body.append(f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>")
    body += ["<h2>Cost</h2>", _plain_table(["", *audit.costs], cost_rows(audit))]
    body.append("<h2>What was measured</h2>")
    body.append(
        _plain_table(
            ["role", "network", "seed", "file"],
            [[network.role, network.label, str(network.seed), network.path.name] for network in audit.networks],
        )
    )
    listed = "".join(f"<li>{escape(name)}: {escape(_short(facts))}</li>" for name, facts in protocols(audit).items())
    body.append(f"<ul>{listed}</ul>")
    body.append(f"<p>Command: <code>{escape(asked)}</code></p>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _short(facts: dict[str, Any]) -> str:
    shown = ("split", "images", "l2", "augmentation", "dropout", "batch_norm", "hash")
    return ", ".join(f"{name} {facts[name]}" for name in shown)


def _claims_table(audit: Audit) -> str:
    head = "".join(
        f"<th{' class=number' if name not in ('claim', 'verdict') else ''}>{html.escape(name)}</th>"
        for name in HEAD
        if name != "measure"
    )
    lines = []
    for row in audit.rows:
        values = dict(zip(HEAD, cells(row), strict=True))
        first = f"{html.escape(values['claim'])}<small>{html.escape(values['measure'])}</small>"
        made = [f'<td data-name="claim">{first}</td>']
        for name in ("baseline", "variant", "effect [95 %]", "p (Holm)"):
            made.append(f'<td class="number" data-name="{html.escape(name)}">{html.escape(values[name])}</td>')
        made.append(f'<td class="{row.verdict}" data-name="verdict">{row.verdict}</td>')
        lines.append(f"<tr>{''.join(made)}</tr>")
    return f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>"


def svg(drawn: Figure, name: str) -> str:
    """A figure as an inline SVG element, its internal names made unique by `name`."""
    buffer = io.StringIO()
    with plotting.style():
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Several pictures in one document must not share the names of their markers and clipping paths.
    for attribute in ('id="', 'xlink:href="#', "url(#"):
        text = text.replace(attribute, f"{attribute}{name}-")
    return text


def write(audit: Audit, folder: Path, *, asked: str) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` into a folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in (
        ("report.html", page_html(audit, asked=asked)),
        ("report.json", json.dumps({"command": asked, **to_json(audit)}, indent=1)),
    ):
        temporary = folder / f".{name}-partial"
        temporary.write_text(text)
        written.append(temporary.replace(folder / name))
    return written[0], written[1]
