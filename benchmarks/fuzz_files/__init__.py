"""The files of `fuzz_data`: for each kind a valid one, many ways to damage it, and the call that reads it."""

from collections.abc import Callable
from pathlib import Path

from fuzz_files.arrays import Npz
from fuzz_files.axes import Directions
from fuzz_files.batches import Cifar
from fuzz_files.damage import CANARY, Kind
from fuzz_files.pictures import Folder
from fuzz_files.tables import Csv

__all__ = ["CANARY", "KINDS", "Kind"]

KINDS: dict[str, Callable[[Path], Kind]] = {
    "npz": Npz,
    "cifar": Cifar,
    "folder": Folder,
    "csv": Csv,
    "directions": Directions,
}
