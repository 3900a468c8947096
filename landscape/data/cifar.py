"""CIFAR-10 and CIFAR-100 in their standard archives, binary or python, unpacked or as the ``.tar.gz`` itself."""

import gzip
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from landscape.data.batches import read_batch
from landscape.data.bounds import BoundedReader
from landscape.data.images import Images
from landscape.errors import LandscapeError, printable

PIXELS = 3 * 32 * 32
# The largest published split has 155 million bytes, half as many again when text stands for bytes; the largest unfolded
# archive 190 million.
_SPLIT_BYTES = 250_000_000
_ARCHIVE_BYTES = 400_000_000


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


def _python(label_key: str, classes: int) -> Callable[[bytes, str], tuple[np.ndarray, np.ndarray]]:
    """Decoder of a pickled dictionary with ``data`` (N, 3072) uint8 and a list of labels under `label_key`."""

    def decode(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = read_batch(content, where, label_key=label_key, classes=classes, width=PIXELS)
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
                _python("labels", 10),
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
                _python("fine_labels", 100),
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

    Looked for under `root` as the unpacked folder of the binary or the python version, then as their ``.tar.gz``, which
    is read without unpacking. Python batches are read as data: nothing in a pickle runs. Normalisation: the authors'
    means and standard deviations.

    Raises
    ------
    LandscapeError
        When there is no such folder or archive (says what to put where), or a file is damaged.
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
        try:
            _require_size(sum((folder / file).stat().st_size for file in files), folder)
            return [(str(folder / file), (folder / file).read_bytes()) for file in files]
        except OSError as error:
            raise LandscapeError(f"{folder} cannot be read ({error.strerror or error}): unpack it again") from None
    return _archived(archive, [f"{layout.folder}/{file}" for file in files]) if archive.is_file() else None


def _archived(archive: Path, names: list[str]) -> list[tuple[str, bytes]]:
    """Members of a ``.tar.gz`` in the order of `names`, read in one pass over no more than what an archive can hold."""
    contents: dict[str, bytes] = {}
    try:
        with open(archive, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            unpacked = gzip.GzipFile(fileobj=raw) if packed else raw
            stream = BoundedReader(unpacked, _ARCHIVE_BYTES, archive)
            with tarfile.open(fileobj=stream, mode="r|") as members:
                for member in members:
                    if member.name not in names or member.name in contents:
                        continue
                    # A link may lead to itself, and a sparse member be larger than the archive.
                    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                        raise LandscapeError(f"{archive}: {member.name} is not a regular file: download it again")
                    _require_size(member.size + sum(map(len, contents.values())), archive)
                    file = members.extractfile(member)
                    contents[member.name] = b"" if file is None else file.read()
                    if len(contents) == len(names):
                        break
    except LandscapeError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything: zlib.error, ValueError, EOFError
        reason = printable(error, 200) or type(error).__name__
        raise LandscapeError(f"{archive} cannot be read ({reason}): download it again") from None
    missing = [name for name in names if name not in contents]
    if missing:
        raise LandscapeError(f"{archive} cannot be read (it has no {missing[0]}): download it again")
    return [(f"{archive}:{Path(name).name}", contents[name]) for name in names]


def _require_size(size: int, where: Path) -> None:
    if size > _SPLIT_BYTES:
        raise LandscapeError(
            f"{where} holds {size:,} bytes of one split, where CIFAR has at most 160 million: download it again"
        )
