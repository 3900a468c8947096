"""CIFAR-10/100-C and CIFAR-10-P in their published files.

Sources: Hendrycks & Dietterich, ICLR 2019; https://zenodo.org/records/2535967 (CIFAR-10-C and -P) and
https://zenodo.org/records/3555552 (CIFAR-100-C).
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from landscape.data import Images
from landscape.errors import LandscapeError
from landscape.objective.objective import examples
from landscape.robustness.choices import SEVERITIES
from landscape.robustness.corruptions import EXTRA, STANDARD
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


def _open(path: Path, dimensions: int) -> np.ndarray:
    """A uint8 array in a file, not read before it is used."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LandscapeError(f"{path} is no whole .npy file ({str(error)[:100]}): download it again") from None
    if found.dtype != np.uint8 or found.ndim != dimensions:
        raise LandscapeError(f"{path} holds {found.dtype} of shape {found.shape}, not uint8 images: download it again")
    return found


def _identity(folder: Path, names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in names:
        path = folder / f"{name}.npy"
        with open(path, "rb") as file:
            digest.update(f"{name} {path.stat().st_size}".encode() + file.read(2**20))
    return digest.hexdigest()


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
        try:
            given = np.load(labels, allow_pickle=False).astype(np.int64)
        except (OSError, ValueError, EOFError):
            raise LandscapeError(f"{labels} is no whole .npy file: download it again") from None
        count = len(like)
        if (
            given.shape != (len(SEVERITIES) * count,)
            or not (given.reshape(-1, count) == like.labels.cpu().numpy()).all()
        ):
            raise LandscapeError(
                f"the labels of {self._folder} are not five times those of {like.name} ({like.split}): give the test "
                "set that these files were made from, with --data and --split test"
            )

    def identity(self) -> str:
        """A hash that tells these files from others: their names, sizes and beginnings, and all labels."""
        return _identity(self._folder, ("labels", *self.names))

    def load(self, name: str, severity: int) -> Images:
        """The images under a corruption."""
        like, count = self._like, len(self._like)
        pixels = _open(self._folder / f"{name}.npy", 4)
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
        """A hash that tells these files from others: their names, sizes and beginnings."""
        return _identity(self._folder, self.names)

    def shape(self, name: str) -> tuple[int, int]:
        """Number of sequences and of frames in each."""
        sequences, frames = _open(self._folder / f"{name}.npy", 5).shape[:2]
        return sequences, frames

    def load(self, name: str, start: int, stop: int) -> Images:
        """The frames of sequences `start` to `stop`, one sequence after the other; labels are unknown, all 0."""
        pixels = np.array(_open(self._folder / f"{name}.npy", 5)[start:stop])
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
