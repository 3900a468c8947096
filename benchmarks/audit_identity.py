"""Audits of a layer that does nothing should decide nothing; an audit of added noise should speak against it.

``python benchmarks/audit_identity.py --audits 20`` trains the smallest networks on digits over and over: every audit
compares three pairs of networks that differ in their seeds alone ("identity"). One more compares three pairs with and
without added noise, of the size that ``python -m analyses.audit`` trains: the smallest ones are too bad to be made
worse. Wanted: "undecided" everywhere in at least 19 of 20 audits of the first kind; "against" somewhere in the other.
"""

import argparse
import json
import time
from pathlib import Path

from analyses.audit import networks, panel
from analyses.audit.networks import Network, Preset
from analyses.measuring import SCALES, Scale
from landscape import training

# Two channels and three epochs: a training takes about a second.
PRESET = Preset("digits-plain", epochs=3, width=2)
SCALE = Scale(64, 4, 2, 64, 5, 64, 4, 180, 6, 2, 48, 2)
PAIRS = 3
NOISE = "analyses.audit.absurd:AddedNoise"
FIRST_VARIANT = 10_000


def audit(first: int, layer: str, cache: Path, *, preset: Preset = PRESET, scale: Scale = SCALE) -> panel.Audit:
    """Pairs from seed `first` on, baseline against a layer; the variants have seeds of their own."""
    compared = []
    for pair in range(PAIRS):
        for role, smooth, seed in (
            ("baseline", None, first + pair),
            ("variant", layer, FIRST_VARIANT + first + pair),
        ):
            recipe = networks.recipe_of(preset, smooth)
            path = training.ensure(recipe, seed=seed, cache=cache, quiet=True)
            compared.append(Network(role, layer if smooth else "plain", pair, path))
    return panel.run(compared, scale)


def main() -> None:
    """Audit, and count verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=20, metavar="N")
    parser.add_argument("--cache", type=Path, default=Path("checkpoints"))
    arguments = parser.parse_args()
    began = time.perf_counter()
    clean = 0
    for number in range(arguments.audits):
        made = audit(number * PAIRS, networks.PLACEBO, arguments.cache)
        decided = [
            f"{row.claim.name} {row.claim.statement}: {row.verdict}" for row in made.rows if row.verdict != "undecided"
        ]
        clean += not decided
        print(
            json.dumps({"audit": number, "decided": decided, "seconds": round(time.perf_counter() - began)}), flush=True
        )
    noisy = audit(0, NOISE, arguments.cache, preset=networks.PRESETS["digits"], scale=SCALES["digits"])
    against = [f"{row.claim.name} {row.claim.statement}" for row in noisy.rows if row.verdict == "against"]
    print(json.dumps({"undecided_audits": clean, "of": arguments.audits, "noise_against": against}))


if __name__ == "__main__":
    main()
