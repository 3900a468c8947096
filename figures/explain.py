"""Where a picture comes from, read out of the picture."""

import json
import re
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from landscape.errors import LandscapeError


def provenance(path: Path) -> dict[str, Any]:
    """The metadata that `landscape.plotting.save` has put into a PDF, PNG or SVG.

    Raises
    ------
    LandscapeError
        When there is no such file, or it carries none.
    """
    if not path.is_file():
        raise LandscapeError(f"no picture at {path}: give a .pdf, .png or .svg that python -m figures has made")
    read = _READERS.get(path.suffix.lower())
    text = read(path) if read else None
    try:
        found = json.loads(text or "")
    except ValueError:
        raise LandscapeError(f"{path} does not say where it comes from: it was not made here, or edited") from None
    return dict(found)


def _png(path: Path) -> str | None:
    try:
        with Image.open(path) as picture:
            return picture.info.get("Description")
    except OSError:
        return None


def _svg(path: Path) -> str | None:
    try:
        tree = xml.etree.ElementTree.parse(path)
    except xml.etree.ElementTree.ParseError:
        return None
    found = tree.find(".//{http://purl.org/dc/elements/1.1/}description")
    return found.text if found is not None else None


def _pdf(path: Path) -> str | None:
    """The string behind /Keywords: parentheses and backslashes in it are escaped by backslashes."""
    found = re.search(rb"/Keywords \(((?:[^()\\]|\\.)*)\)", path.read_bytes(), re.DOTALL)
    return re.sub(rb"\\(.)", rb"\1", found[1], flags=re.DOTALL).decode("latin-1") if found else None


_READERS: dict[str, Callable[[Path], str | None]] = {".png": _png, ".svg": _svg, ".pdf": _pdf}


def table(facts: dict[str, Any]) -> str:
    """As text."""
    lines = [f"{name}: {facts[name]}" for name in ("figure", "command", "preset") if name in facts]
    for source in facts.get("results", []):
        lines.append(f"{source.get('network')} ({source.get('protocol')})")
        lines += [f"    {name}: {value}" for name, value in source.items() if name not in ("network", "protocol")]
    return "\n".join(lines)
