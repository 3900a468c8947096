"""``make demo``: train (or find) a smoothed and an unsmoothed network on digits, and compare their Hessian spectra."""

import sys
from collections.abc import Sequence
from pathlib import Path

from landscape import command

RECIPES = ("digits-plain", "digits-smooth")
PICTURE = Path("results/demo/hessian.png")
# An eighth of the digits, so that two spectra take a minute; the table says what sampling error that costs.
IMAGES = "192"


def main(argv: Sequence[str]) -> int:
    """Run the main job on the embedded default and say where the picture is."""
    from landscape.hessian import cli

    parser = command.Parser("analyses.demo", __doc__ or "")
    parser.parse_args(argv)
    given = [*RECIPES, "--images", IMAGES, "--plot", str(PICTURE)]
    print(f"python -m landscape.hessian {' '.join(given)}", file=sys.stderr)
    status = cli.main(given)
    print(f"\npicture: {PICTURE}")
    return status


if __name__ == "__main__":
    command.launch("analyses.demo")
