"""CIFAR-10 and CIFAR-100 in their standard archives, binary or python, unpacked or as the ``.tar.gz`` itself."""

import io
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from landscape.data.images import Images
from landscape.errors import LandscapeError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """One standard archive: its folder, its file name, the files of each split, and how a file is decoded."""

    folder: str
    archive: str
    files: dict[str, tuple[str, ...]]
    decode: Callable[[bytes, str], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Dataset:
    """A set in its archives; the first `kept` classes of it make the set of that name."""

    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layouts: tuple[_Layout, ...]
    kept: int | None = None


def _binary(label_bytes: int) -> Callable[[bytes, str], tuple[np.ndarray, np.ndarray]]:
    """Decoder of records of `label_bytes` label bytes, the last being the (fine) label, and 3072 pixel bytes."""

    def decode(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
        record = label_bytes + PIXELS
        if len(content) % record:
            raise LandscapeError(
                f"{where} has {len(content)} bytes, not whole records of {record}: it is cut off or of another "
                "kind; unpack the archive again"
            )
        records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
        return records[:, label_bytes:].reshape(-1, 3, 32, 32), records[:, label_bytes - 1].astype(np.int64)

    return decode


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("only latin1 text is decoded")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads what the python archives hold (dictionaries, lists, text, numpy arrays) and can name nothing else."""

    # numpy moved its core in version 2; Python 3 writes byte strings of protocol 2 through _codecs.encode.
    _RECONSTRUCT = np.empty(0).__reduce__()[0]
    _ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image archives do not hold")
        return self._ADMITTED[module, name]


def _python(label_key: str) -> Callable[[bytes, str], tuple[np.ndarray, np.ndarray]]:
    """Decoder of a pickled dictionary with ``data`` (N, 3072) uint8 and a list of labels under `label_key`."""

    def decode(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            loaded = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise LandscapeError(
                f"{where} is not a CIFAR python batch ({' '.join(str(error).split())}): download it again"
            ) from None
        entries = loaded if isinstance(loaded, dict) else {}
        by_name = {key.decode() if isinstance(key, bytes) else key: value for key, value in entries.items()}
        pixels, labels = by_name.get("data"), by_name.get(label_key)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXELS,):
            raise LandscapeError(f"{where} has no 'data' of uint8 (N, {PIXELS}): it is not a CIFAR python batch")
        if not isinstance(labels, list) or len(labels) != len(pixels):
            raise LandscapeError(f"{where} has no list of {len(pixels)} labels under {label_key!r}")
        return pixels.reshape(-1, 3, 32, 32), np.asarray(labels, dtype=np.int64)

    return decode


_CIFAR10_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_DATASETS = {
    "cifar10": _Dataset(
        classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        layouts=(
            _Layout(
                "cifar-10-batches-bin",
                "cifar-10-binary.tar.gz",
                {"train": tuple(f"{name}.bin" for name in _CIFAR10_TRAIN), "test": ("test_batch.bin",)},
                _binary(1),
            ),
            _Layout(
                "cifar-10-batches-py",
                "cifar-10-python.tar.gz",
                {"train": _CIFAR10_TRAIN, "test": ("test_batch",)},
                _python("labels"),
            ),
        ),
    ),
    "cifar100": _Dataset(
        classes=100,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        layouts=(
            _Layout(
                "cifar-100-binary",
                "cifar-100-binary.tar.gz",
                {"train": ("train.bin",), "test": ("test.bin",)},
                _binary(2),
            ),
            _Layout(
                "cifar-100-python",
                "cifar-100-python.tar.gz",
                {"train": ("train",), "test": ("test",)},
                _python("fine_labels"),
            ),
        ),
    ),
}


# Small enough to be learned to the end on a CPU: 500 training and 100 test images per class.
_DATASETS["cifar100-10"] = replace(_DATASETS["cifar100"], kept=10)
NAMES = tuple(_DATASETS)


def load_cifar(name: str, split: str, root: Path) -> Images:
    """CIFAR-10 or CIFAR-100 (fine labels) as (N, 3, 32, 32) uint8, in the order of its files.

    ``cifar100-10`` is CIFAR-100 without all but its first ten classes (labels 0 to 9): 5,000 and 1,000 images.

    Looked for under `root` as the unpacked folder of the binary or the python version, then as their ``.tar.gz``,
    which is read without unpacking. Python batches are read by an unpickler that can construct numpy arrays and
    nothing else. Normalisation: the authors' means and standard deviations.

    Raises
    ------
    LandscapeError
        When nothing is found (says what to put where), or a file is damaged.
    """
    dataset = _DATASETS[name]
    for layout in dataset.layouts:
        contents = _contents(layout, split, root)
        if contents is None:
            continue
        parts = [layout.decode(content, where) for where, content in contents]
        # A copy, since the decoded arrays are read-only views of the file's bytes.
        pixels = np.concatenate([pixels for pixels, _ in parts]) if len(parts) > 1 else parts[0][0].copy()
        labels = np.concatenate([labels for _, labels in parts])
        if dataset.kept is not None:
            chosen = labels < dataset.kept
            pixels, labels = pixels[chosen], labels[chosen]
        return Images(
            images=torch.from_numpy(pixels),
            labels=torch.from_numpy(labels),
            classes=dataset.kept or dataset.classes,
            name=name,
            split=split,
            mean=dataset.mean,
            std=dataset.std,
            crop_padding=4,
            flip=True,
            population=len(labels),
        )
    wanted = " or ".join(f"{layout.folder}/ or {layout.archive}" for layout in dataset.layouts)
    raise LandscapeError(
        f"no {name} under {root.resolve()}: download {dataset.layouts[0].archive} from "
        f"https://www.cs.toronto.edu/~kriz/cifar.html and put {wanted} there, or name another folder with --data-root"
    )


def _contents(layout: _Layout, split: str, root: Path) -> list[tuple[str, bytes]] | None:
    """Path and bytes of the files of a split, or None when neither the folder nor the archive is there."""
    folder, archive, files = root / layout.folder, root / layout.archive, layout.files[split]
    if folder.is_dir():
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise LandscapeError(f"{folder} has no {missing[0]}: unpack {layout.archive} there again")
        return [(str(folder / file), (folder / file).read_bytes()) for file in files]
    if not archive.is_file():
        return None
    try:
        with tarfile.open(archive, "r:*") as members:
            contents = []
            for file in files:
                member = members.extractfile(f"{layout.folder}/{file}")
                if member is None:
                    raise KeyError(file)
                contents.append((f"{archive}:{file}", member.read()))
            return contents
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise LandscapeError(f"{archive} cannot be read ({' '.join(str(error).split())}): download it again") from None
