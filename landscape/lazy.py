"""Packages whose names are imported when they are first used: a command answers before torch is loaded."""

import ast
import importlib
import sys
from importlib.abc import InspectLoader
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package that imports what it exports when somebody asks for it (PEP 562, as a class)."""

    _exports: dict[str, tuple[str, str | None]]

    def __getattr__(self, name: str) -> Any:
        module, attribute = self._exports.get(name, (f"{self.__name__}.{name}", None))
        try:
            value = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if name in self._exports or error.name != module:
                raise
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self) from None
        if attribute is not None:
            value = getattr(value, attribute)
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the submodule `hessian.spectrum` binds it in the package, where it would hide the function
        # `hessian.spectrum`: whichever was imported first, the exported name is the function.
        _, attribute = self._exports.get(name, ("", None))
        if attribute is None or getattr(value, "__name__", None) != f"{self.__name__}.{name}":
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *self._exports})


def attach(package: str) -> None:
    """Export lazily what a package's ``__init__.py`` imports under ``if TYPE_CHECKING:``.

    Type checkers and editors follow those imports, and at run time each happens when its name is first used, so that
    the names stand in one place. ``from PACKAGE import SUBMODULE`` exports a submodule.

    Raises
    ------
    ImportError
        When the source of the package is not installed.
    """
    module = sys.modules[package]
    loader = None if module.__spec__ is None else module.__spec__.loader
    source = loader.get_source(package) if isinstance(loader, InspectLoader) else None
    if source is None:
        raise ImportError(f"{package} reads its exports from its source, which is not installed", name=package)
    exports = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for each in statement.body:
                if isinstance(each, ast.ImportFrom) and each.module is not None:
                    for alias in each.names:
                        origin = (
                            (f"{package}.{alias.name}", None) if each.module == package else (each.module, alias.name)
                        )
                        exports[alias.asname or alias.name] = origin
    # Before the class is changed: it looks for them.
    vars(module)["_exports"] = exports
    vars(module).setdefault("__all__", sorted(exports))
    module.__class__ = LazyPackage
