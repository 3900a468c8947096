"""Write the pages' tables of effects again from the reports under reference/, each between its marks.

``PYTHONPATH=. python docs/write_tables.py``

``<!-- effects: converged/smooth cifar100-small/smooth -->`` begins a table of two columns, ``STAGE/COMPARISON`` each
(``+OTHER`` adds rows of another comparison); ``<!-- end of effects -->`` ends it.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyses import claims

DOCS = Path(__file__).parent
REFERENCE = DOCS.parent / "reference"
TABLE = re.compile(r"^(<!-- effects: (.+?) -->\n).*?^(?=<!-- end of effects -->$)", re.MULTILINE | re.DOTALL)
# Statement of a claim -> what is measured of it, with the unit of its effects unless that is %.
MEASURED = {
    "lower top Hessian eigenvalue": "largest Hessian eigenvalue",
    "smaller outliers among mini-batch eigenvalues": "outliers' size among mini-batches",
    "fewer outliers among mini-batch eigenvalues": "outliers' share among mini-batches, points",
    "flatter loss surface": "rise of the surface",
    "smoother loss surface under dropout": "roughness of the surface under dropout",
    "lower model uncertainty before the smoothing layers": "uncertainty of feature maps, before the blur",
    "less high-frequency signal before the smoothing layers": "high frequencies, before the blur, log amplitude",
    "dropout raises high-frequency amplitude": "high frequencies that dropout adds, log amplitude",
    "more robust to high-frequency noise": "accuracy lost under high-frequency noise, points",
    "lower NLL": "NLL, nats, where least sure",
    "higher accuracy": "accuracy, points, where least sure",
    "lower ECE": "ECE, points, where least sure",
    "needs fewer dropout passes": "1 / dropout passes for the same NLL",
    "lower error under computed corruptions": "error under corruptions, points",
    "lower NLL under computed corruptions": "NLL under corruptions, nats",
    "lower ECE under computed corruptions": "ECE under corruptions, points",
}
DECIDED = ("supported", "against")
NOTE = "\\* Away from zero by itself, and undecided after correction."


def effect(claim: Mapping[str, Any]) -> str:
    """An effect with its 95 % interval: %, or a difference of what is itself in points, nats or logarithms."""
    numbers = [claim["effect"][name] for name in ("estimate", "low", "high")]
    measure = claim["measure"]
    digits = 2 if "nats" in measure or measure.startswith(("Delta log", "1 /")) else 1
    if relative := measure.startswith("log of"):
        numbers, digits = [100 * math.expm1(number) for number in numbers], 0
    # Of an interval on one side of zero the estimate's sign says enough.
    signs = ("+", "+" if numbers[1] < 0 else "", "+" if numbers[1] < 0 else "")
    estimate, low, high = (
        f"{number:{sign}.{digits}f}" if round(number, digits) else f"{0:.{digits}f}"
        for number, sign in zip(numbers, signs, strict=True)
    )
    return f"{estimate}{' %' if relative else ''} [{low}, {high}]"


def cell(claim: Mapping[str, Any]) -> str:
    """An effect, and what is decided of it."""
    said, bounds = effect(claim), (claim["effect"]["low"], claim["effect"]["high"])
    if claim["verdict"] in DECIDED:
        return f"{said} **{claim['verdict']}**"
    return f"{said} \\*" if bounds[0] > 0 or bounds[1] < 0 else said


def table(columns: str) -> str:
    """The claims about networks that at least two of the columns have."""
    places = [place.split("/") for place in columns.split()]
    heads, cells = [], []
    for preset, names in places:
        reports = [claims.read(REFERENCE / preset / "claims" / f"{name}.json") for name in names.split("+")]
        first = names.split("+")[0]
        parts = [f"`{preset}`"] if len({each for each, _ in places}) > 1 else []
        parts += [claims.DRAWN_AS.get(first, first)] if len({each for _, each in places}) > 1 else []
        heads.append(f"{', '.join(parts)}, n = {reports[0]['seeds']}")
        rows = [claim for report in reports for claim in report["claims"] if claim["family"] == "network"]
        cells.append({f"{MEASURED[claim['statement']]} ({claim['claim']})": cell(claim) for claim in rows})
    held = Counter(name for column in cells for name in column)
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name in (name for name, times in held.items() if times > 1):
        lines.append(f"| {name} | {' | '.join(column.get(name, '-') for column in cells)} |")
    noted = ["", NOTE] if any("\\*" in line for line in lines) else []
    return "\n".join([*lines, *noted, "", ""])


def written(page: str) -> str:
    """A page with its tables as the reports say."""
    return TABLE.sub(lambda place: f"{place[1]}\n{table(place[2])}", page)


def main() -> None:
    """Write all pages that have tables."""
    for path in DOCS.rglob("*.md"):
        page = path.read_text(encoding="utf-8")
        if (now := written(page)) != page:
            path.write_text(now, encoding="utf-8")


if __name__ == "__main__":
    main()
