"""Objects that a user names on the command line: ``package.module:name`` or ``path/to/file.py:name``."""

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from landscape.errors import LandscapeError

# What marks the root of a repository; modules in it are imported from there.
_ROOT_MARKS = (".git", "pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "hubconf.py")
# This package.
_PACKAGE = Path(__file__).resolve().parents[1]
# How far above a file without such a mark its other modules are looked for.
_LEVELS = 3


def named_object(specification: str) -> Any:
    """The object that ``MODULE:NAME`` names.

    A file may import what stands beside it, relatively or not, and modules from the root of its repository, as it could
    when run there.

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
        When there is no such module, file or name, or when importing it fails. Where a file is given without a name, or
        with one that it does not have, the message lists what it offers.
    """
    module_name, name = _parts(specification)
    try:
        module = _module(module_name)
    except LandscapeError:
        raise
    except Exception as error:
        raise LandscapeError(
            f"importing {module_name!r} (of {specification!r}) failed: {type(error).__name__}: {_one_line(error)}"
        ) from error
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise LandscapeError(
                f"{module_name!r} has no {name!r}: check the spelling of {specification!r}{_hint(_public(module))}"
            )
        value = getattr(value, part)
    return value


def source_file(specification: str) -> Path | None:
    """The source file of the module in ``MODULE:NAME``, absolute; None for a module without one.

    Raises
    ------
    LandscapeError
        When there is no such module, or importing its package fails.
    """
    name, _ = _parts(specification)
    if name.endswith(".py"):
        return _existing(name)
    with _searched([Path.cwd()]):
        try:
            spec = importlib.util.find_spec(name)
        except Exception as error:  # importing the packages around it can fail in any way
            raise LandscapeError(f"importing {name!r} failed: {type(error).__name__}: {_one_line(error)}") from error
    if spec is None:
        raise LandscapeError(f"no module {name!r}: check the spelling of {specification!r}")
    return Path(spec.origin).resolve() if spec.origin and spec.origin.endswith(".py") else None


def code_sha256(specification: str) -> str:
    """SHA-256 of the code behind ``MODULE:NAME``: of its module's file, and of all files of the user's that it imports.

    What is installed, or belongs to Python, is not read: its files are not edited between two measurements.

    Raises
    ------
    LandscapeError
        When there is no such module.
    """
    waiting = [_module(_parts(specification)[0])]
    digests: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        file = getattr(module, "__file__", None)
        if file is None or file in digests or not _is_own(file):
            continue
        digests[file] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for value in list(vars(module).values()):
            home = value if isinstance(value, ModuleType) else sys.modules.get(str(getattr(value, "__module__", "")))
            waiting += [home] if home is not None else []
    return hashlib.sha256(" ".join(sorted(digests.values())).encode()).hexdigest()


def _is_own(file: str) -> bool:
    """Whether a file is a user's: Python, and neither installed nor of this package."""
    path = Path(file).resolve()
    installed = {"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(
        sysconfig.get_path("stdlib")
    )
    return path.suffix == ".py" and path.is_file() and not installed and not path.is_relative_to(_PACKAGE)


def _parts(specification: str) -> tuple[str, str]:
    module_name, _, name = specification.rpartition(":")
    if specification.endswith(".py"):
        offered = _defined(_existing(specification))
        raise LandscapeError(
            f"{specification} names a file, not what to take from it: write {specification}:NAME{offered}"
        )
    if not module_name or not name:
        raise LandscapeError(f"{specification!r} names nothing: write package.module:name or path/to/file.py:name")
    return module_name, name


def _existing(name: str) -> Path:
    path = Path(name).resolve()
    if not path.is_file():
        raise LandscapeError(f"no file {name}: give the path of an existing .py file before the colon")
    return path


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        with _searched([Path.cwd()]):
            return importlib.import_module(name)
    path = _existing(name)
    package = _package(path)
    near, far = _roots(path)
    head = [path.parent, *near, *([package[0]] if package else []), Path.cwd()]
    with _searched(head, far, brought=True, top=package[1].partition(".")[0] if package else None):
        return _alone(path, name) if package is None else importlib.import_module(package[1])


def _alone(path: Path, name: str) -> ModuleType:
    """A file that belongs to no package, as a module with a name of its own.

    So that a user's ``model.py`` hides no other module, and one that was edited is read again. It is registered, since
    dataclasses and pickles look their module up.
    """
    identity = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    unique = f"_landscape_user_{identity}"
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


def _package(path: Path) -> tuple[Path, str] | None:
    """For a file with relative imports: the folder that holds its package, and the module's dotted name."""
    tree = _parsed(path)
    nodes = ast.walk(tree) if tree is not None else ()
    above = max((node.level for node in nodes if isinstance(node, ast.ImportFrom)), default=0)
    if above == 0 or above >= len(path.parents):
        return None
    root = path.parents[above]
    while (root / "__init__.py").is_file():
        root = root.parent
    parts = path.with_suffix("").relative_to(root).parts
    return None if any("." in part for part in parts) else (root, ".".join(parts))


def _roots(path: Path) -> tuple[list[Path], list[Path]]:
    """Folders above a file from which its imports may be meant: up to its repository's root, else a few."""
    for place, folder in enumerate(path.parents[: _LEVELS + 2]):
        if any((folder / mark).exists() for mark in _ROOT_MARKS):
            return list(path.parents[1 : place + 1]), []
    # A root of the file system, or what everybody may write to, is nobody's repository.
    above = path.parents[1 : _LEVELS + 1]
    return [], [folder for folder in above if len(folder.parts) > 2 and not folder.stat().st_mode & 0o002]


# Top-level modules that files of users have brought, by the folders that were searched for them.
_BROUGHT: dict[str, tuple[str, ...]] = {}


@contextmanager
def _searched(
    head: Sequence[Path], tail: Sequence[Path] = (), *, brought: bool = False, top: str | None = None
) -> Iterator[None]:
    """Folders at the head and the tail of the search path for a while.

    With ``brought``, modules that a file of another repository has brought under names that are here too (``models``,
    ``utils``), and any that hides the package ``top``, step aside meanwhile and come back afterwards.
    """
    added = tuple(dict.fromkeys(str(folder) for folder in (*head, *tail)))
    aside: dict[str, ModuleType] = {}
    if brought:
        here = {entry.stem for folder in (*head, *tail) for entry in _entries(folder)}
        hidden = {name for name, folders in _BROUGHT.items() if name in here and folders != added}
        if top in sys.modules and not _is_in(sys.modules[top], added):
            hidden.add(top)
        aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in hidden}
    present = set(sys.modules)
    before = list(sys.path)
    sys.path[:] = [*(str(folder) for folder in dict.fromkeys(head)), *before, *(str(folder) for folder in tail)]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
        if brought:
            new = [name for name in set(sys.modules) - present if "." not in name]
            _BROUGHT.update({name: added for name in new if _is_in(sys.modules[name], added)})
        if aside:
            for name in [
                name for name in sys.modules if name.partition(".")[0] in {each.partition(".")[0] for each in aside}
            ]:
                del sys.modules[name]
            sys.modules.update(aside)


def _is_in(module: ModuleType, folders: Sequence[str]) -> bool:
    places = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", ()))]
    return any(
        os.path.dirname(place) in folders or os.path.dirname(os.path.dirname(place)) in folders for place in places
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _defined(path: Path) -> str:
    """What a file defines, read without running it."""
    tree = _parsed(path)
    if tree is None:
        return ""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return _hint([node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")])


def _public(module: ModuleType) -> list[str]:
    """Classes and functions that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _hint(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f" (it offers {', '.join(names[:12])}{more})"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
