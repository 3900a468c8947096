"""The audit's rule errs as often as it says, and finds what it foretells: simulations that show it.

``python -m benchmarks.type_one_error`` draws differences between networks that have no effect, with a known share of
variance from seeds and from images, and counts how often `analyses.audit.verdict.effect` calls them significant at
5 %: wanted 3 to 5.5 %. Images act on all seeds alike ("shared"), on each seed by itself ("own": networks that answer
each image differently), or half and half. It then does the same for looks at 4, 6, 8, 10 and 12 seeds at 1 % each
(wanted: at most 5.5 % over all looks), with how often the 95 % interval holds at the look that ends it, and compares
the power that the rule foretells with the share of effects found. The tables are those of docs/verdicts.md.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from analyses.audit.verdict import (
    LEVEL,
    LOOK_LEVEL,
    LOOKS,
    REPLICATES,
    Effect,
    Reading,
    effect,
    power,
    seeds_needed,
)
from landscape import metrics

SEEDS = (4, 5, 6, 8, 10, 12)
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
# Share of the images' variance that acts on all seeds alike.
KINDS = {"shared": 1.0, "half": 0.5, "own": 0.0}
IMAGES = 200
SIZES = (1.0, 1.5, 2.0, 3.0)
WANTED = (0.03, 0.055)


class Differences:
    """Variant minus baseline of single images under a known effect; the variance of one seed's mean is 1.

    Parameters
    ----------
    share
        Of that variance that comes from the choice of images.
    alike
        Share of the images' variance that acts on all seeds alike.
    seed
        Of the draws.
    images
        How many there are.
    """

    def __init__(self, share: float, alike: float, seed: int, images: int = IMAGES) -> None:
        self._seeds, self._images = np.sqrt(1 - share), images
        self._alike, self._own = (np.sqrt(images * share * part) for part in (alike, 1 - alike))
        self._source = np.random.default_rng([seed, round(100 * share), round(100 * alike)])
        self._weights = np.asarray(metrics.bootstrap_weights(images, replicates=REPLICATES)) / images

    def draw(self, seeds: int, size: float = 0.0) -> list[Reading]:
        """One reading a seed."""
        normal = self._source.standard_normal
        of_image = size + self._seeds * normal((seeds, 1)) + self._alike * normal(self._images)
        of_image = of_image + self._own * normal((seeds, self._images))
        return [
            Reading(float(row.mean()), replicates, self._images)
            for row, replicates in zip(of_image, of_image @ self._weights.T, strict=True)
        ]


def measured(readings: Sequence[Reading]) -> Effect:
    """The rule, on differences."""
    return effect([Reading(0.0, np.zeros(REPLICATES), each.units) for each in readings], readings)


Cell = tuple[int, str, float]


def type_one(cells: Iterable[Cell], repeats: int, seed: int, images: int = IMAGES) -> Iterator[dict[str, object]]:
    """How often no effect is called one, at 5 % and at 1 %."""
    for seeds, kind, share in cells:
        source = Differences(share, KINDS[kind], seed, images)
        p = np.array([measured(source.draw(seeds)).p for _ in range(repeats)])
        yield {
            "seeds": seeds,
            "images act": kind,
            "share of images": share,
            "at 5 %": float((p < LEVEL).mean()),
            "at 1 %": float((p < LOOK_LEVEL).mean()),
        }


def sequential(repeats: int, seed: int) -> Iterator[dict[str, object]]:
    """How often no effect is called one at any look, and the interval at the look that ends it holds the truth."""
    for kind, alike in KINDS.items():
        for share in SHARES:
            source = Differences(share, alike, seed)
            decided = held = 0
            for _ in range(repeats):
                readings = source.draw(max(LOOKS))
                for look in LOOKS:
                    here = measured(readings[:look])
                    if here.p < LOOK_LEVEL:
                        decided += 1
                        break
                held += here.low <= 0 <= here.high
            row = {"images act": kind, "share of images": share}
            yield row | {"at any look": decided / repeats, "held by the interval": held / repeats}


def predicted(repeats: int, seed: int) -> Iterator[dict[str, object]]:
    """Effects found by the predicted number of seeds, and by the predicted look."""
    for kind, share in (("own", 0.0), ("own", 0.5), ("shared", 0.25)):
        source = Differences(share, KINDS[kind], seed)
        shared = float(np.sqrt(share * KINDS[kind]))
        spread = float(np.sqrt(1 - share * KINDS[kind]))
        for size in SIZES:
            needed = seeds_needed(size, spread=spread, shared=shared)
            look = seeds_needed(size, spread=spread, shared=shared, level=LOOK_LEVEL, choices=LOOKS)
            row: dict[str, object] = {"images act": kind, "share of images": share, "effect": size, "seeds": needed}
            if needed is not None:
                p = np.array([measured(source.draw(needed, size)).p for _ in range(repeats)])
                row |= {
                    "predicted": power(size, needed, spread=spread, shared=shared),
                    "found": float((p < LEVEL).mean()),
                }
            if look is not None:
                taken = [each for each in LOOKS if each <= look]
                found = 0
                for _ in range(repeats):
                    readings = source.draw(look, size)
                    found += any(measured(readings[:each]).p < LOOK_LEVEL for each in taken)
                row |= {"look": look, "found by that look": found / repeats}
            yield row


def table(rows: Sequence[dict[str, object]]) -> str:
    """Markdown; shares in percent."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def cell(name: str, value: object) -> str:
        if name.startswith(("at ", "found", "predicted", "held")) and isinstance(value, float):
            return f"{100 * value:.1f}"
        return "-" if value is None else f"{value:g}" if isinstance(value, (float, int)) else str(value)

    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(cell(name, row.get(name)) for name in names)} |" for row in rows]
    return "\n".join(lines)


def grid(rows: Sequence[dict[str, object]], column: str) -> str:
    """Markdown: one row for a number of seeds and a kind, one column for a share of images."""
    lines = [
        f"| seeds | images act | {' | '.join(f'{share:g}' for share in SHARES)} |",
        "|---" * (2 + len(SHARES)) + "|",
    ]
    cells = {(row["seeds"], row["images act"], row["share of images"]): row[column] for row in rows}
    for seeds in SEEDS:
        for kind in KINDS:
            values = [f"{100 * float(str(cells[seeds, kind, share])):.1f}" for share in SHARES]
            lines.append(f"| {seeds} | {kind} | {' | '.join(values)} |")
    return "\n".join(lines)


def cell(text: str) -> Cell:
    """``6:shared:0.9``: seeds, how images act, their share."""
    seeds, kind, share = text.split(":")
    if kind not in KINDS:
        raise ValueError(kind)
    return int(seeds), kind, float(share)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats", type=int, default=30_000, metavar="N", help="of each cell; a sixth of it for looks and power"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--cell", type=cell, action="append", metavar="SEEDS:KIND:SHARE", help="only this one of the first grid"
    )
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help="behind the cells of --cell")
    arguments = parser.parse_args()
    if arguments.cell:
        print(table(list(type_one(arguments.cell, arguments.repeats, arguments.seed, arguments.images))))
        return
    began = time.perf_counter()
    fixed = list(type_one(itertools.product(SEEDS, KINDS, SHARES), arguments.repeats, arguments.seed))
    for column in ("at 5 %", "at 1 %"):
        print(f"\nNo effect called one, {column}, in percent, by the share of images in the variance\n")
        print(grid(fixed, column), flush=True)
    looks = list(sequential(arguments.repeats // 6, arguments.seed))
    print("\nNo effect called one at any of the looks\n")
    print(table(looks), flush=True)
    found = list(predicted(arguments.repeats // 6, arguments.seed))
    print("\nEffects, in standard deviations of one pair's difference, found by the predicted number of seeds\n")
    print(table(found), flush=True)
    values = [float(str(row["at 5 %"])) for row in fixed]
    summary = {
        "lowest": min(values),
        "highest": max(values),
        "within": all(WANTED[0] <= value <= WANTED[1] for value in values),
        "highest_at_any_look": max(float(str(row["at any look"])) for row in looks),
        "repeats": arguments.repeats,
        "seconds": round(time.perf_counter() - began),
    }
    print(f"\n{json.dumps(summary)}")


if __name__ == "__main__":
    main()
