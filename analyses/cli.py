"""Arguments of ``python -m analyses``."""

import difflib
from collections.abc import Sequence

from landscape import command
from landscape.errors import LandscapeError

# Besides the studies.
_COMMANDS = {
    "analyses.audit": "does a smoothing layer of your own do what blurs do?",
    "analyses.claims": "CLAIMS.md: every claim of the paper as measured here",
    "analyses.keep": "copy the results of a preset to reference/",
    "analyses.demo": "two networks on digits, and their Hessian spectra",
}


def main(argv: Sequence[str]) -> int:
    """Run the study named first, or list all of them."""
    from analyses import studies
    from analyses.catalogue import STUDIES

    if not argv or argv[0] in ("-h", "--help"):
        rows = [[f"python -m analyses {name}", study.question] for name, study in STUDIES.items()]
        rows += [[f"python -m {name}", what] for name, what in _COMMANDS.items()]
        print(command.columns(["command", "question"], rows, right=False))
        return 0
    name, *rest = argv
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1)
        hint = f"did you mean {near[0]}?" if near else "python -m analyses lists them"
        raise LandscapeError(f"no study {name!r}: {hint}")
    return studies.run(STUDIES[name], rest)
