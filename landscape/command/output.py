"""What a command prints: a table or one JSON object on standard output, remarks on standard error."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from landscape.errors import printable

if TYPE_CHECKING:
    import xarray

# Attributes of results that hold JSON.
_PARSED = ("protocol", "settings", "checkpoints")


def to_strict_json(facts: dict[str, Any]) -> str:
    """JSON as every parser reads it, see `strict`."""
    return json.dumps(strict(facts), allow_nan=False)


def strict(facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` for JSON, which has no number for what is not finite: None stands there, ``not_finite`` says what it was.

    ``not_finite`` stands in the outermost object, only where there is something to say. It names a whole array where
    all of its nulls were the same, single entries otherwise:
    ``{"loss": [1.5, None], "not_finite": {"loss": "NaN"}}``.
    """
    missing: dict[str, dict[str, str]] = {}

    def finite(value: Any, array: str, entry: str = "") -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            kind = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
            missing.setdefault(array, {})[entry] = kind
            return None
        if isinstance(value, dict):
            path = f"{array}{entry}"
            return {str(name): finite(each, f"{path}.{name}" if path else str(name)) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(each, array, f"{entry}[{index}]") for index, each in enumerate(value)]
        return value

    known = finite(facts, "")
    said: dict[str, str] = {}
    for array, kinds in missing.items():
        alike = len(set(kinds.values())) == 1
        said |= {array: next(iter(kinds.values()))} if alike else {f"{array}{entry}": kinds[entry] for entry in kinds}
    return known | {"not_finite": said} if said else known


def facts_of(dataset: "xarray.Dataset", *, without: Sequence[str] = ("image", "replicate")) -> dict[str, Any]:
    """Variables, coordinates and attributes of a result by name, JSON-ready.

    Parameters
    ----------
    dataset
        The result.
    without
        Dimensions whose variables are left out: by default numbers of single images and of bootstrap samples.
    """
    facts = {
        str(name): variable.values.tolist()
        for name, variable in dataset.variables.items()
        if not set(without) & set(variable.dims)
    }
    facts |= {name: value.tolist() if hasattr(value, "tolist") else value for name, value in dataset.attrs.items()}
    return facts | {name: json.loads(facts[name]) for name in _PARSED if name in facts}


def report(
    arguments: argparse.Namespace,
    *,
    table: Callable[[], str],
    facts: Callable[[], dict[str, Any]],
    saved: Sequence[str] = (),
) -> None:
    """Print the table, or with ``--json`` the one JSON object, on rank 0; with ``--quiet`` no table.

    `saved` says where results and pictures went: below the table, on standard error where no table is printed.
    """
    from landscape.compute import distributed

    if not distributed.is_main():
        return
    remarks = [printable(line) for line in saved]
    if arguments.json:
        print(to_strict_json(facts()))
    elif not arguments.quiet:
        lines = [printable(line) for line in table().split("\n")]
        print("\n".join([*lines, *remarks]))
        return
    for line in remarks:
        print(line, file=sys.stderr)


def remark(text: str) -> None:
    """One line on standard error, on rank 0."""
    from landscape.compute import distributed

    if distributed.is_main():
        print(printable(text), file=sys.stderr)
