"""Layers of the user's own, remembered on the user's machine by the content of their source file.

A checkpoint trained with a layer of the user's own names it, and records the SHA-256 of the file that it is in. When
the checkpoint is read again, that name alone must not lead to an import: the checkpoint may come from anybody. It leads
to one when the registry of this user, outside of any checkpoint's folder, knows the same content under the same name
from a training on this machine or from a command line, and when the file there still has that content.

The registry is a folder of small JSON files, one per content: ``$LANDSCAPE_STATE``, else
``$XDG_STATE_HOME/landscape``, else ``~/.local/state/landscape``. Deleting it is harmless.
"""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from landscape.errors import LandscapeError
from landscape.store import files
from landscape.store.importing import named_object, source_file

_LOG = logging.getLogger(__name__)


def folder() -> Path:
    """Where this user's registry is."""
    if own := os.environ.get("LANDSCAPE_STATE"):
        return Path(own)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "landscape"


def fingerprint(specification: str) -> str | None:
    """SHA-256 of the source file of ``MODULE:NAME`` or ``FILE.py:NAME``; None when it has none (built-in modules)."""
    file = source_file(specification)
    return None if file is None else files.sha256(file)


def remember(specification: str) -> str | None:
    """Note that the user has named this object of their own; its `fingerprint`.

    A registry that cannot be written costs nothing but the convenience: the layer must then be named again.
    """
    file = source_file(specification)
    if file is None:
        return None
    digest = files.sha256(file)
    name = specification.rpartition(":")[2]
    known = _entry(digest)
    names = set(known["names"]) if known is not None and known["file"] == str(file) else set()
    try:
        content = json.dumps({"file": str(file), "names": sorted({*names, name})}, indent=1)
        files.write_whole(_path(digest), content.encode())
    except LandscapeError as error:
        _LOG.info("%s is not remembered: %s", specification, error)
    return digest


def recall(specification: str, digest: object) -> Any:
    """The object that a file names, if this user's registry vouches for it; None if it does not.

    Parameters
    ----------
    specification
        ``MODULE:NAME`` or ``FILE.py:NAME`` as the file has it. Only the name behind the colon counts.
    digest
        SHA-256 of the source, as the file has it.
    """
    name = specification.rpartition(":")[2]
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        return None
    known = _entry(digest)
    if known is None or name not in known["names"]:
        return None
    file = Path(known["file"])
    if not file.is_file() or files.sha256(file) != digest:
        return None
    return named_object(f"{file}:{name}")


def _path(digest: str) -> Path:
    return folder() / "sources" / f"{digest}.json"


def _entry(digest: str) -> dict[str, Any] | None:
    try:
        known = json.loads(_path(digest).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    valid = (
        isinstance(known, dict)
        and isinstance(known.get("file"), str)
        and isinstance(known.get("names"), list)
        and all(isinstance(name, str) for name in known["names"])
    )
    return known if valid else None
