"""Corruptions computed here, those of CIFAR-10/100-C that are pure arithmetic, at the published severities.

Source: D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019 (arXiv 1903.12261), and their generator ``make_cifar_c.py``, whose severities these are. They
were tuned for 32x32 colour images. Random draws, and the JPEG encoder's version, differ from the published files:
results say ``computed``.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image

from landscape.compute.randomness import numpy_generator
from landscape.data import Images
from landscape.errors import LandscapeError

# The 15 that mCE averages over; the generator makes four more, meant for validation.
STANDARD = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

# Images (N, H, W, C) in [0, 1], float64, and the severity's numbers, to images; clipped and rounded by the caller.
Change = Callable[..., np.ndarray]


def _gaussian_noise(images: np.ndarray, source: np.random.Generator, scale: float) -> np.ndarray:
    return images + scale * source.standard_normal(images.shape)


def _shot_noise(images: np.ndarray, source: np.random.Generator, photons: float) -> np.ndarray:
    return source.poisson(images * photons) / photons


def _impulse_noise(images: np.ndarray, source: np.random.Generator, fraction: float) -> np.ndarray:
    # Salt and pepper alike, each channel for itself.
    drawn = source.random(images.shape)
    return np.where(drawn < fraction / 2, 0.0, np.where(drawn < fraction, 1.0, images))


def _speckle_noise(images: np.ndarray, source: np.random.Generator, scale: float) -> np.ndarray:
    return images * (1 + scale * source.standard_normal(images.shape))


def _gaussian_blur(images: np.ndarray, source: np.random.Generator, width: float) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(images, (0, width, width, 0), mode="nearest", truncate=4.0)


def _defocus_blur(images: np.ndarray, source: np.random.Generator, radius: float, edge: float) -> np.ndarray:
    # A disk of that radius with an edge of that standard deviation, pixels.
    offsets = np.arange(-8, 9)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    soft = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / (2 * edge**2))
    soft /= soft.sum()
    kernel = scipy.ndimage.convolve(disk / disk.sum(), soft[:, None] * soft, mode="mirror")
    # Most of the 17x17 kernel is zero.
    used = int(np.abs(offsets[kernel.any(0)]).max())
    middle = kernel[8 - used : 9 + used, 8 - used : 9 + used]
    return scipy.ndimage.correlate(images, middle[None, :, :, None], mode="mirror")


def _brightness(images: np.ndarray, source: np.random.Generator, rise: float) -> np.ndarray:
    if images.shape[-1] == 1:
        return images + rise
    colors = rgb_to_hsv(images)
    colors[..., 2] = np.clip(colors[..., 2] + rise, 0, 1)
    return hsv_to_rgb(colors)


def _contrast(images: np.ndarray, source: np.random.Generator, factor: float) -> np.ndarray:
    means = images.mean((1, 2), keepdims=True)
    return (images - means) * factor + means


def _saturate(images: np.ndarray, source: np.random.Generator, factor: float, rise: float) -> np.ndarray:
    colors = rgb_to_hsv(images)
    colors[..., 1] = np.clip(colors[..., 1] * factor + rise, 0, 1)
    return hsv_to_rgb(colors)


def _by_picture(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Change 8-bit pictures one by one."""
    changed = np.empty_like(images)
    for index, pixels in enumerate((images * 255).round().astype(np.uint8)):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        changed[index] = np.asarray(change(picture)).reshape(pixels.shape) / 255
    return changed


def _pixelate(images: np.ndarray, source: np.random.Generator, factor: float) -> np.ndarray:
    height, width = images.shape[1:3]
    small = (max(int(width * factor), 1), max(int(height * factor), 1))
    return _by_picture(
        images,
        lambda picture: picture.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX),
    )


def _jpeg_compression(images: np.ndarray, source: np.random.Generator, quality: float) -> np.ndarray:
    def through_file(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _by_picture(images, through_file)


def _each(*strengths: float) -> tuple[tuple[float, ...], ...]:
    return tuple((strength,) for strength in strengths)


@dataclass(frozen=True)
class Corruption:
    """What one corruption does at each of the five severities."""

    name: str
    change: Change
    strengths: tuple[tuple[float, ...], ...]
    color_only: bool = False


COMPUTED: dict[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        Corruption("gaussian_noise", _gaussian_noise, _each(0.04, 0.06, 0.08, 0.09, 0.10)),
        Corruption("shot_noise", _shot_noise, _each(500, 250, 100, 75, 50)),
        Corruption("impulse_noise", _impulse_noise, _each(0.01, 0.02, 0.03, 0.05, 0.07)),
        Corruption("defocus_blur", _defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
        Corruption("brightness", _brightness, _each(0.05, 0.1, 0.15, 0.2, 0.3)),
        Corruption("contrast", _contrast, _each(0.75, 0.5, 0.4, 0.3, 0.15)),
        Corruption("pixelate", _pixelate, _each(0.95, 0.9, 0.85, 0.75, 0.65)),
        Corruption("jpeg_compression", _jpeg_compression, _each(80, 65, 58, 50, 40)),
        Corruption("speckle_noise", _speckle_noise, _each(0.06, 0.1, 0.12, 0.16, 0.2)),
        Corruption("gaussian_blur", _gaussian_blur, _each(0.4, 0.6, 0.7, 0.8, 1.0)),
        Corruption(
            "saturate", _saturate, ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)), color_only=True
        ),
    )
}


class Computed:
    """A source of corrupted images, made here from clean ones.

    Parameters
    ----------
    data
        Clean uint8 images, with one or three channels.
    seed
        Of the noise.

    Attributes
    ----------
    names
        Corruptions that suit the images.
    computed
        True: the images are not the published ones.

    Raises
    ------
    LandscapeError
        For floating-point images, whose scale is unknown, or another number of channels.
    """

    computed = True

    def __init__(self, data: Images, *, seed: int = 0) -> None:
        if data.images.dtype != torch.uint8 or data.shape[0] not in (1, 3):
            raise LandscapeError(
                f"corruptions are defined on uint8 images of 1 or 3 channels, {data.name} has {data.images.dtype} of "
                f"{data.shape[0]}: give such images, or files of CIFAR-C"
            )
        self._data = data
        self._seed = seed
        self.names = tuple(name for name, each in COMPUTED.items() if data.shape[0] == 3 or not each.color_only)

    def load(self, name: str, severity: int) -> Images:
        """The images under a corruption; noise is drawn image by image in their order."""
        data, corruption = self._data, COMPUTED[name]
        source = numpy_generator(self._seed, "corruption", name, severity)
        clean = data.images.cpu().permute(0, 2, 3, 1).numpy().astype(np.float64) / 255
        changed = corruption.change(clean, source, *corruption.strengths[severity - 1])
        # Rounded down, as the published files are, but not below what is exact up to rounding in the division by 255.
        pixels = np.floor(np.clip(changed, 0, 1) * 255 + 1e-9).astype(np.uint8)
        return Images(
            images=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(data.device),
            labels=data.labels,
            classes=data.classes,
            name=f"{data.name} {name} {severity} (computed)",
            split=data.split,
            mean=data.mean,
            std=data.std,
        )
