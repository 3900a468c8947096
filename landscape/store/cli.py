"""Check the checksums of kept files, or add them to files that older versions wrote.

``python -m landscape.store [--seal] FILE...``
"""

import json
from collections.abc import Sequence
from pathlib import Path

from landscape import command
from landscape.errors import LandscapeError
from landscape.store import files


def main(argv: Sequence[str]) -> int:
    """Check every file, and say which are damaged; with ``--seal``, add checksums where there is none."""
    arguments_of = command.Parser("landscape.store", (__doc__ or "").splitlines()[0])
    arguments_of.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="results (.nc, .nc.gz) and listings (.json)"
    )
    arguments_of.add_argument("--seal", action="store_true", help="add a checksum to files that have none")
    arguments = arguments_of.parse_args(argv)
    refused, sealed = [], 0
    for path in arguments.files:
        if arguments.seal and not _has_checksum(path):
            _seal(path)
            sealed += 1
        try:
            files.read_json(path) if path.suffix == ".json" else files.read_sealed(path)
        except files.DamagedFile as error:
            refused.append(str(error))
    print(f"{len(arguments.files) - len(refused)} whole, {len(refused)} refused, {sealed} checksums added")
    if refused:
        raise LandscapeError(refused[0] + (f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""))
    return 0


def _has_checksum(path: Path) -> bool:
    if not path.is_file():
        raise LandscapeError(f"no file {path}")
    if path.suffix == ".json":
        return b'"sha256":' in path.read_bytes()
    if path.suffix == files.PACKED:
        return True  # or it is refused: nothing is packed without one
    return b"landscape-sha256" in path.read_bytes()[-files.SEAL_LENGTH :]


def _seal(path: Path) -> None:
    if path.suffix != ".json":
        files.write_sealed(path, path.read_bytes())
        return
    try:
        files.write_json(path, json.loads(path.read_bytes()))
    except (ValueError, AttributeError):
        raise LandscapeError(f"{path} is not a JSON object: it gets no checksum") from None
