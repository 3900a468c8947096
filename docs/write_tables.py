"""Write the pages' tables of effects again from what reference/ keeps, each between its marks.

``PYTHONPATH=. python docs/write_tables.py``

``<!-- effects: converged/smooth cifar100-small/smooth -->`` begins a table of two columns, ``STAGE/COMPARISON`` each
(``+OTHER`` adds rows of another comparison), from the reports; ``<!-- by depth: converged cifar100-small -->`` one of
C4 and C6 at the end of each stage of the networks with MC dropout, from the results; ``<!-- end of effects -->`` ends
either.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from analyses import claims
from analyses.audit.claims import equal_frequency
from figures import sources
from landscape.fourier.choices import PATHS
from landscape.look.comparison import compared_blocks
from landscape.metrics import confidence

DOCS = Path(__file__).parent
REFERENCE = DOCS.parent / "reference"
TABLE = re.compile(r"^(<!-- (effects|by depth): (.+?) -->\n).*?^(?=<!-- end of effects -->$)", re.MULTILINE | re.DOTALL)
# Statement of a claim -> what is measured of it, with the unit of its effects unless that is %.
MEASURED = {
    "lower top Hessian eigenvalue": "largest Hessian eigenvalue",
    "smaller outliers among mini-batch eigenvalues": "outliers' size among mini-batches",
    "fewer outliers among mini-batch eigenvalues": "outliers' share among mini-batches, points",
    "flatter loss surface": "rise of the surface",
    "smoother loss surface under dropout": "roughness of the surface under dropout",
    "lower model uncertainty before the smoothing layers": "uncertainty of maps before blurs, mean over stages",
    "less high-frequency signal before the smoothing layers": (
        "high-frequency log amplitude before blurs, mean over stages"
    ),
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
    if measure.startswith("log of"):
        return with_interval([100 * math.expm1(number) for number in numbers], 0, " %")
    return with_interval(numbers, 2 if "nats" in measure or measure.startswith(("Delta log", "1 /")) else 1)


def with_interval(numbers: Sequence[float] | np.ndarray, digits: int, unit: str = "") -> str:
    """Estimate, low and high as people read them."""
    # Of an interval on one side of zero the estimate's sign says enough.
    signs = ("+", "+" if numbers[1] < 0 else "", "+" if numbers[1] < 0 else "")
    estimate, low, high = (
        f"{number:{sign}.{digits}f}" if round(number, digits) else f"{0:.{digits}f}"
        for number, sign in zip(numbers, signs, strict=True)
    )
    return f"{estimate}{unit} [{low}, {high}]"


def cell(claim: Mapping[str, Any]) -> str:
    """An effect, and what is decided of it."""
    said, bounds = effect(claim), (claim["effect"]["low"], claim["effect"]["high"])
    if claim["verdict"] in DECIDED:
        return f"{said} **{claim['verdict']}**"
    return f"{said} \\*" if bounds[0] > 0 or bounds[1] < 0 else said


def table_of_effects(columns: str) -> str:
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


def table_by_depth(presets: str) -> str:
    """C4 and C6 at the end of each stage before its smoothing layer: smooth against plain, intervals over pairs."""
    heads: list[str] = []
    columns: list[list[str]] = []
    for preset in presets.split():
        of_pair = [_uncertainty(*pair) for pair in _pairs(preset, "feature_uncertainty", "feature_maps")]
        columns.append([with_interval(100 * np.expm1(stage), 0, " %") for stage in _over_pairs(of_pair)])
        heads.append(f"C4, `{preset}`, n = {len(of_pair)}")
        of_pair = [_amplitude(*pair) for pair in _pairs(preset, "fourier_analysis", "fourier")]
        columns.append([with_interval(stage, 2) for stage in _over_pairs(of_pair)])
        heads.append(f"C6, `{preset}`, n = {len(of_pair)}")
    lines = [f"| end of stage | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for stage, row in enumerate(zip(*columns, strict=True), 1):
        lines.append(f"| {stage}{', before the first blur' if stage == 1 else ''} | {' | '.join(row)} |")
    return "\n".join([*lines, "", ""])


def _pairs(preset: str, study: str, instrument: str) -> list[tuple[xarray.Dataset, xarray.Dataset]]:
    """Results of the plain and the smooth network with MC dropout of each seed."""
    of_kind: dict[str, dict[int, xarray.Dataset]] = {"mcdo": {}, "mcdo-smooth": {}}
    for entry in sources.read(study, preset, REFERENCE / preset / "results").of(instrument):
        of_kind.get(entry.kind, {})[entry.seed] = entry.dataset
    plain, smooth = of_kind.values()
    return [(plain[seed], smooth[seed]) for seed in plain]


def _uncertainty(plain: xarray.Dataset, smooth: xarray.Dataset) -> np.ndarray:
    """C4 of each stage: difference of logarithms."""
    pair = [one["relative_model_std"].values[compared_blocks(one, other)] for one, other in _both(plain, smooth)]
    return np.asarray(np.log(pair[1] / pair[0]))


def _amplitude(plain: xarray.Dataset, smooth: xarray.Dataset) -> np.ndarray:
    """C6 of each stage, at the frequency where the claim reads it."""
    pair: list[list[float]] = []
    for one, other in _both(plain, smooth):
        curves = one["delta_log_amplitude"].sel(dropout="off", path=PATHS[0]).values
        known = one["frequency"].values
        pair.append([])
        for stage, block in enumerate(compared_blocks(one, other)):
            frequency = equal_frequency(stage, one, other)
            assert frequency is not None
            pair[-1].append(float(np.interp(frequency, known[block], curves[block])))
    return np.subtract(pair[1], pair[0])


def _both(plain: xarray.Dataset, smooth: xarray.Dataset) -> list[tuple[xarray.Dataset, xarray.Dataset]]:
    return [(plain, smooth), (smooth, plain)]


def _over_pairs(of_pair: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Per stage mean, low and high by Student's t."""
    values = np.array(of_pair)
    half = confidence.student(len(values)) * values.std(0, ddof=1) / math.sqrt(len(values))
    return [np.array(stage) for stage in zip(values.mean(0), values.mean(0) - half, values.mean(0) + half, strict=True)]


TABLES = {"effects": table_of_effects, "by depth": table_by_depth}


def written(page: str) -> str:
    """A page with its tables as reports and results say."""
    return TABLE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]](place[3])}", page)


def main() -> None:
    """Write all pages that have tables."""
    for path in DOCS.rglob("*.md"):
        page = path.read_text(encoding="utf-8")
        if (now := written(page)) != page:
            path.write_text(now, encoding="utf-8")


if __name__ == "__main__":
    main()
