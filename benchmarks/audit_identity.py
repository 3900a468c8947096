"""Audits whose outcome is known: of a layer that does nothing, of added noise, and of an effect of known size.

``python -m benchmarks.audit_identity --audits 20`` trains the smallest networks on digits over and over. Every audit
compares four pairs of networks that differ in their seeds alone ("identity"); wanted: "undecided" everywhere in at
least 19 of 20. One more compares four pairs with and without added noise, of the size that
``python -m analyses.audit`` trains: the smallest ones are too bad to be made worse; wanted: "against" somewhere. Then
noise is planted in the smallest networks: a pilot tells its effect on the NLL and how it varies, `seeds_needed`
foretells the pairs that find it with 80 % probability, and fresh audits of that many pairs are counted that do.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from analyses.audit import networks, panel
from analyses.audit.claims import CLAIMS, Claim
from analyses.audit.networks import Network, Preset
from analyses.audit.verdict import FEWEST, LEVEL, NO_VERDICT, power, seeds_needed
from analyses.measuring import SAMPLE_SIZES, SampleSizes
from landscape import training

# Two channels and three epochs: a training takes about a second.
PRESET = Preset("digits-plain", epochs=3, width=2)
SIZES = SampleSizes(64, 4, 2, 64, 5, 64, 4, 180, 6, 2, 48, 2)
PAIRS = FEWEST
NOISE = "analyses.audit.added_noise:AddedNoise"
PLANTED = "analyses.audit.added_noise:FaintNoise"
FIRST_VARIANT = 10_000
FIRST_PLANTED = 20_000
PILOT = 24
UNDECIDED = ("undecided", NO_VERDICT)


def audit(
    first: int,
    layer: str,
    cache: Path,
    *,
    pairs: int = PAIRS,
    preset: Preset = PRESET,
    sizes: SampleSizes = SIZES,
    claims: Sequence[Claim] = CLAIMS,
) -> panel.Audit:
    """Pairs from seed `first` on, baseline against a layer; the variants have seeds of their own."""
    compared = []
    for pair in range(pairs):
        for role, smooth, seed in (
            ("baseline", None, first + pair),
            ("variant", layer, FIRST_VARIANT + first + pair),
        ):
            recipe = networks.recipe_of(preset, smooth)
            path = training.ensure(recipe, seed=seed, cache=cache, quiet=True)
            compared.append(Network(role, layer if smooth else "plain", pair, path))
    return panel.run(compared, sizes, claims=claims)


def decided(made: panel.Audit) -> list[str]:
    """What an audit decided."""
    return [
        f"{row.claim.name} {row.claim.statement}: {row.verdict}" for row in made.rows if row.verdict not in UNDECIDED
    ]


def planted(audits: int, cache: Path) -> dict[str, object]:
    """Whether an effect of a size that a pilot has estimated is found by the predicted number of pairs."""
    claims = [claim for claim in CLAIMS if claim.statement == "lower NLL"]
    pilot = audit(FIRST_PLANTED, PLANTED, cache, pairs=PILOT, claims=claims).rows[0].effect
    facts = {"spread": pilot.spread, "shared": pilot.shared}
    needed = seeds_needed(pilot.estimate, spread=pilot.spread, shared=pilot.shared)
    told: dict[str, object] = {"planted_effect": pilot.estimate, "interval": [pilot.low, pilot.high], **facts}
    if needed is None:
        return told | {"pairs_predicted": None}
    found = 0
    for number in range(audits):
        first = FIRST_PLANTED + PILOT + number * needed
        row = audit(first, PLANTED, cache, pairs=needed, claims=claims).rows[0]
        found += row.verdict == "against"
    predicted = power(pilot.estimate, needed, spread=pilot.spread, shared=pilot.shared, level=LEVEL)
    return told | {"pairs_predicted": needed, "probability_predicted": predicted, "found": found, "of": audits}


def main() -> None:
    """Audit, and count verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=20, metavar="N")
    parser.add_argument("--cache", type=Path, default=Path("checkpoints"))
    parser.add_argument("--only", choices=("identity", "noise", "planted"), nargs="+", help="default: all three")
    arguments = parser.parse_args()
    wanted = arguments.only or ("identity", "noise", "planted")
    began = time.perf_counter()
    summary: dict[str, object] = {}
    if "identity" in wanted:
        clean = 0
        for number in range(arguments.audits):
            said = decided(audit(number * PAIRS, networks.PLACEBO, arguments.cache))
            clean += not said
            line = {"audit": number, "decided": said, "seconds": round(time.perf_counter() - began)}
            print(json.dumps(line), flush=True)
        summary |= {"undecided_audits": clean, "of": arguments.audits}
    if "noise" in wanted:
        noisy = audit(0, NOISE, arguments.cache, preset=networks.PRESETS["digits"], sizes=SAMPLE_SIZES["digits"])
        summary["noise"] = decided(noisy)
    if "planted" in wanted:
        summary["planted"] = planted(arguments.audits, arguments.cache)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
