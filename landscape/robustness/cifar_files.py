"""CIFAR-10/100-C and CIFAR-10-P in their published files.

Sources: Hendrycks & Dietterich, ICLR 2019; https://zenodo.org/records/2535967 (CIFAR-10-C and -P) and
https://zenodo.org/records/3555552 (CIFAR-100-C).
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from landscape.data import Images
from landscape.errors import LandscapeError, printable
from landscape.objective.preparation import examples
from landscape.robustness.choices import SEVERITIES
from landscape.robustness.corruptions import EXTRA, STANDARD
from landscape.store.files import require_regular, sha256
from landscape.store.protocol import Protocol

PERTURBATIONS = (
    "gaussian_noise",
    "shot_noise",
    "motion_blur",
    "zoom_blur",
    "spatter",
    "brightness",
    "translate",
    "rotate",
    "tilt",
    "scale",
)


def _open(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """A uint8 array in a file, mapped into memory and not read before it is used; None in `shape` is any length."""
    array = _mapped(path)
    fits = array.ndim == len(shape) and all(
        want in (None, length) for want, length in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.uint8 or not fits:
        expected = ", ".join("N" if want is None else str(want) for want in shape)
        raise LandscapeError(
            f"{path} holds {array.dtype.name} of shape {array.shape}, not uint8 ({expected}): download it again"
        )
    return array


def _mapped(path: Path) -> np.ndarray:
    require_regular(path)
    try:
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r", max_header_size=1000)
    except Exception as error:  # a damaged header can raise nearly anything
        raise LandscapeError(f"{path} is not a whole .npy file ({printable(error, 100)}): download it again") from None
    return array


def _identity(folder: Path, names: tuple[str, ...]) -> str:
    """A hash of names and whole contents; several files at a time, since hashing leaves the interpreter free."""
    paths = [folder / f"{name}.npy" for name in names]
    with ThreadPoolExecutor(max_workers=max(1, min(len(paths), os.cpu_count() or 1))) as pool:
        contents = list(pool.map(sha256, paths))
    facts = [[name, content] for name, content in zip(names, contents, strict=True)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class CifarC:
    """A source of corrupted images, the published files.

    Parameters
    ----------
    folder
        Holds ``<corruption>.npy``, (5 N, 32, 32, 3) uint8, severity after severity, and ``labels.npy``, (5 N,).
    like
        The clean set: classes and normalisation, and its labels must agree.
    protocol
        Which of the images; the same as of the clean set.

    Attributes
    ----------
    names
        Corruptions that are at hand, in the published order.
    computed
        False.

    Raises
    ------
    LandscapeError
        When the folder holds none of the files, or they do not fit the clean set.
    """

    computed = False

    def __init__(self, folder: Path | str, like: Images, *, protocol: Protocol | None = None) -> None:
        self._folder = Path(folder)
        self._like = like
        self._protocol = protocol or Protocol(split="test")
        self.names = tuple(name for name in (*STANDARD, *EXTRA) if (self._folder / f"{name}.npy").is_file())
        labels = self._folder / "labels.npy"
        if not self.names or not labels.is_file():
            raise LandscapeError(
                f"{self._folder} holds no {'corruptions' if not self.names else 'labels.npy'} of CIFAR-C: unpack "
                "CIFAR-10-C.tar or CIFAR-100-C.tar (zenodo.org/records/2535967, 3555552) and name that folder"
            )
        given = _mapped(labels)
        if given.dtype.kind not in "iu":
            raise LandscapeError(f"{labels} holds {given.dtype.name}, not class numbers: download it again")
        count = len(like)
        if (
            given.shape != (len(SEVERITIES) * count,)
            or not (given.reshape(-1, count) == like.labels.cpu().numpy()).all()
        ):
            raise LandscapeError(
                f"the labels of {self._folder} are not five times those of {like.title}: give the test "
                "set that these files were made from, with --data and --split test"
            )

    def identity(self) -> str:
        """A hash of these files: their names and all of their content, labels included."""
        return _identity(self._folder, ("labels", *self.names))

    def load(self, name: str, severity: int) -> Images:
        """The images under a corruption."""
        like, count = self._like, len(self._like)
        channels, height, width = like.shape
        pixels = _open(self._folder / f"{name}.npy", (None, height, width, channels))
        if len(pixels) != len(SEVERITIES) * count:
            raise LandscapeError(
                f"{name}.npy has {len(pixels)} images, not {len(SEVERITIES) * count}: download it again"
            )
        chosen = np.array(pixels[(severity - 1) * count : severity * count])
        whole = Images(
            images=torch.from_numpy(chosen).permute(0, 3, 1, 2).contiguous().to(like.device),
            labels=like.labels,
            classes=like.classes,
            name=f"{like.name} {name} {severity}",
            split=like.split,
            mean=like.mean,
            std=like.std,
        )
        return examples(whole, self._protocol)


class CifarP:
    """Sequences of slightly changed frames, the published files.

    Parameters
    ----------
    folder
        Holds ``<perturbation>.npy``, (sequences, frames, 32, 32, 3) uint8.
    like
        The clean set: its normalisation.

    Attributes
    ----------
    names
        Perturbations that are at hand, in the published order.

    Raises
    ------
    LandscapeError
        When the folder holds none of the files.
    """

    def __init__(self, folder: Path | str, like: Images) -> None:
        self._folder = Path(folder)
        self._like = like
        self.names = tuple(name for name in PERTURBATIONS if (self._folder / f"{name}.npy").is_file())
        if not self.names:
            raise LandscapeError(
                f"{self._folder} holds no perturbations of CIFAR-10-P: unpack CIFAR-10-P.tar "
                "(zenodo.org/records/2535967) and name that folder"
            )

    def identity(self) -> str:
        """A hash of these files: their names and all of their content."""
        return _identity(self._folder, self.names)

    def _frames(self, name: str) -> np.ndarray:
        channels, height, width = self._like.shape
        return _open(self._folder / f"{name}.npy", (None, None, height, width, channels))

    def shape(self, name: str) -> tuple[int, int]:
        """Number of sequences and of frames in each."""
        sequences, frames = self._frames(name).shape[:2]
        return sequences, frames

    def load(self, name: str, start: int, stop: int) -> Images:
        """The frames of sequences `start` to `stop`, one sequence after the other; labels are unknown, all 0."""
        pixels = np.array(self._frames(name)[start:stop])
        flat = torch.from_numpy(pixels.reshape(-1, *pixels.shape[2:])).permute(0, 3, 1, 2).contiguous()
        return Images(
            images=flat.to(self._like.device),
            labels=torch.zeros(len(flat), dtype=torch.int64, device=self._like.device),
            classes=self._like.classes,
            name=f"{self._like.name} {name}",
            split=self._like.split,
            mean=self._like.mean,
            std=self._like.std,
        )
