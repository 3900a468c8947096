"""Objects that a user names on the command line: ``package.module:name`` or ``path/to/file.py:name``."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from landscape.errors import LandscapeError


def named_object(specification: str) -> Any:
    """The object that ``MODULE:NAME`` names.

    Parameters
    ----------
    specification
        ``MODULE`` is a dotted module name that can be imported (the working folder included) or the path of a ``.py``
        file; ``NAME`` may be dotted.

    Returns
    -------
    object
        What the module holds under that name, not called.

    Raises
    ------
    LandscapeError
        When there is no such module, file or name, or when importing it fails.
    """
    module_name, _, name = specification.rpartition(":")
    if not module_name or not name:
        raise LandscapeError(f"{specification!r} names nothing: write package.module:name or path/to/file.py:name")
    try:
        found: Any = _module(module_name)
    except LandscapeError:
        raise
    except Exception as error:
        raise LandscapeError(
            f"importing {module_name!r} (of {specification!r}) failed: {type(error).__name__}: {_one_line(error)}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise LandscapeError(f"{module_name!r} has no {name!r}: check the spelling of {specification!r}")
        found = getattr(found, part)
    return found


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        folder = str(Path.cwd())
        added = folder not in sys.path
        if added:
            sys.path.insert(0, folder)
        try:
            return importlib.import_module(name)
        finally:
            if added:
                sys.path.remove(folder)
    path = Path(name).resolve()
    if not path.is_file():
        raise LandscapeError(f"no file {name}: give the path of an existing .py file before the colon")
    # A name of its own, so that a user's `model.py` hides no other module; registered, so that dataclasses work.
    unique = f"_landscape_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if unique in sys.modules:
        return sys.modules[unique]
    specification = importlib.util.spec_from_file_location(unique, path)
    if specification is None or specification.loader is None:
        raise LandscapeError(f"{name} cannot be imported as Python: give a .py file before the colon")
    module = importlib.util.module_from_spec(specification)
    sys.modules[unique] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
