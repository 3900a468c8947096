"""Relative log amplitudes of feature maps by depth, with and without dropout, and of dropout's noise alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor, nn

from landscape.compute.settings import measurement
from landscape.data import Data
from landscape.errors import LandscapeError
from landscape.fourier.choices import PATHS
from landscape.fourier.spectrum import Grid, log_amplitude, transform
from landscape.look.forward import Passes, of_images
from landscape.metrics import confidence
from landscape.store.journal import Journal
from landscape.store.pieces import Arrays
from landscape.store.protocol import Protocol

# What a spectrum is of.
MODES = ("off", "on")
COMPONENTS = ("signal", "noise")


@measurement
def measure(
    model: nn.Module,
    data: Data,
    *,
    protocol: Protocol | None = None,
    passes: int = 10,
    window: str | None = None,
    blocks: str | None = None,
    batch: int | None = None,
    device: torch.device | str | None = None,
    of_image: bool = False,
    journal: Journal | None = None,
    quiet: bool = True,
) -> xarray.Dataset:
    r"""Relative log amplitude :math:`\Delta\log A(f)` of the feature map after every block.

    .. math:: \Delta\log A(f) = \langle \log(|F(f)| + 10^{-6}) - \log(|F(0)| + 10^{-6}) \rangle_{nc}

    with *F* the unnormalised 2D transform of a map, or the transform of a sequence along its tokens, averaged over
    images *n*, channels *c* and, with masks on, passes. Along two paths (see `Grid`): the authors' half-diagonal, and
    rings.

    Dropout's noise alone is a pass minus the mean over passes. Its spectrum and the signal's (the mean over passes,
    which still holds a *T*-th of the noise's power) are root-mean-square amplitudes over channels, unbiased in *T*:

    .. math:: \log A_\text{noise} = \tfrac12 \langle \log \langle |F(x_t - \bar x)|^2 \rangle_{ct}
              \tfrac{T}{T - 1} \rangle_n

    Parameters
    ----------
    model, data, blocks, batch, device
        See `Passes`.
    protocol
        See `Passes`; dropout ``fresh`` (the default here) measures with masks on and off, ``off`` only without.
    passes
        Monte-Carlo passes *T*, 2 or more.
    window
        None (as the authors), or ``hann``; see `transform`.
    of_image
        Keep the curve of each image, ``delta_of_image`` (dropout, point, bin, image) along the half-diagonal: for
        pairing networks at equal frequency, whatever the size of their maps.
    journal
        Keeps finished pieces.
    quiet
        Show no progress bar.

    Returns
    -------
    xarray.Dataset
        ``frequency`` (point, bin) in units of pi, NaN behind a map's last; ``log_amplitude`` and
        ``delta_log_amplitude`` over (dropout, path, point, bin) and, if there is dropout, ``component_log_amplitude``
        over (component, path, point, bin) and ``noise_to_signal`` (path, point, bin), the difference of the two
        components; all with ``_stderr`` over images. ``delta_at_pi`` (dropout, path, point) is the value at what the
        authors label pi, bin ``end`` of each point (the last frequency below pi, see `Grid.end`);
        ``delta_at_pi_of_image`` (..., image) that of single images, for pairing networks;
        ``dropout_effect`` (path, point, bin) is on minus off, paired by image.

    Raises
    ------
    LandscapeError
        For fixed masks, less than 2 passes, an unknown window, or what `Passes` refuses.

    Notes
    -----
    N. Park and S. Kim, ICML 2022 (arXiv 2105.12639), figures 5 and 6, and ICLR 2022 (arXiv 2202.06709), figure 2.

    Examples
    --------
    >>> import landscape
    >>> model = landscape.build("resnet_mcdo_18", num_classes=10, width=2)
    >>> images = landscape.data.load("digits", "test")
    >>> result = measure(model, images, protocol=landscape.Protocol(dropout="fresh", split="test", images=4), passes=2)
    >>> sorted(result["dropout"].values.tolist())
    ['off', 'on']
    """
    protocol = protocol or Protocol(dropout="fresh", split="test")
    if protocol.dropout == "fixed":
        raise LandscapeError("spectra are of fresh masks, or of none: give --dropout fresh or --dropout off")
    if passes < 2:
        raise LandscapeError(f"noise is what differs between passes: {passes} pass has none; give --passes 2 or more")
    runs = Passes(model, data, protocol=protocol, blocks=blocks, batch=batch, device=device)
    stochastic = protocol.dropout == "fresh" and runs.dropout_calls > 0
    grids = [Grid(point.height, point.width) for point in runs.depths.points]
    samples = range(passes) if stochastic else ()

    def of_batch(start: int, stop: int) -> Arrays:
        return _batch(runs, grids, start, stop, samples, window)

    whole = of_images(runs, of_batch, journal=journal, what="spectra", quiet=quiet)
    result = _whole(runs, grids, whole, stochastic)
    if of_image:
        result["delta_of_image"] = _delta_of_image(grids, whole, [str(mode) for mode in result["dropout"].values])
    result.attrs |= {
        "images": len(runs),
        "examples": runs.examples,
        "population": len(data),
        "passes": passes if stochastic else 1,
        "dropout_calls": runs.dropout_calls,
        "images_sha256": runs.data.sha256,
        "window": window or "none",
    }
    return result


def _batch(
    runs: Passes, grids: Sequence[Grid], start: int, stop: int, samples: Sequence[int], window: str | None
) -> dict[str, np.ndarray]:
    """Log amplitudes of single images, (N, 2 paths, bins), by ``kind point``."""
    images = runs.images(start, stop)
    values: dict[str, Tensor] = {}
    first: dict[int, Tensor] = {}
    totals: dict[int, tuple[Tensor, Tensor]] = {}

    def along(index: int, amplitude: Tensor) -> Tensor:
        return grids[index].read(log_amplitude(amplitude).mean(1, dtype=torch.float64))

    def off(index: int, features: Tensor) -> None:
        values[f"off {index}"] = along(index, transform(features, window).abs())

    def on(sample: int, index: int, features: Tensor) -> None:
        spectrum = transform(features, window)
        logarithm = along(index, spectrum.abs())
        if index not in first:
            first[index], values[f"on {index}"] = spectrum, logarithm
            return
        values[f"on {index}"] += logarithm
        # About the first pass, so that small noise on a large signal loses no digits.
        difference = spectrum - first[index]
        if index in totals:
            totals[index][0].add_(difference)
            totals[index][1].add_(difference.abs().square_())
        else:
            totals[index] = difference, difference.abs().square_()

    runs.deterministic(images, off)
    if samples:
        passes = len(samples)
        runs.stochastic(images, start, samples, on)
        for index, spectrum in first.items():
            signal, power = spectrum, torch.zeros_like(spectrum.abs())
            if index in totals:
                values[f"on {index}"] /= passes
                total, square = totals[index]
                signal = spectrum + total / passes
                power = ((square - total.abs().square() / passes) / (passes - 1)).clamp_(min=0)
            for component, squared in (("signal", signal.abs().square()), ("noise", power)):
                root = squared.mean(1, dtype=torch.float64).sqrt()
                values[f"{component} {index}"] = grids[index].read(log_amplitude(root))
            values[f"variance {index}"] = _parseval(grids[index], power)
    return {name: value.cpu().numpy() for name, value in values.items()}


def _delta_of_image(
    grids: Sequence[Grid], of_image: Mapping[str, np.ndarray], modes: Sequence[str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Relative log amplitude (dropout, point, bin, image) of single images along the half-diagonal."""
    images = len(of_image[f"{modes[0]} 0"])
    curves = np.full((len(modes), len(grids), max(grid.count for grid in grids), images), np.nan, dtype=np.float32)
    for kind, mode in enumerate(modes):
        for index, grid in enumerate(grids):
            curve = of_image[f"{mode} {index}"][:, 0]
            curves[kind, index, : grid.count] = (curve - curve[:, :1]).T
    return ("dropout", "point", "bin", "image"), curves


def _parseval(grid: Grid, power: Tensor) -> Tensor:
    """Mean over channels and positions of what has this half power spectrum: sum over frequencies / (H W)^2, (N,)."""
    entries = grid.height * grid.width
    return (power.double() * grid.multiplicity(power.device)).sum((-2, -1)).mean(1) / entries**2


def _whole(runs: Passes, grids: Sequence[Grid], of_image: Mapping[str, np.ndarray], stochastic: bool) -> xarray.Dataset:
    """The result out of the values of single images."""
    images, points, bins = len(runs), len(grids), max(grid.count for grid in grids)
    frequency = np.full((points, bins), np.nan)
    for index, grid in enumerate(grids):
        frequency[index, : grid.count] = grid.frequencies().numpy()
    variables: dict[str, Any] = {"frequency": (("point", "bin"), frequency, {"units": "pi"})}

    def keep(name: str, values: Sequence[Sequence[np.ndarray]], dims: tuple[str, ...], what: str) -> None:
        """Mean and standard error over images of values[kind][point] (images, 2 paths, bins of the point)."""
        mean = np.full((len(values), 2, points, bins), np.nan)
        stderr = mean.copy()
        for kind, by_point in enumerate(values):
            for index, value in enumerate(by_point):
                mean[kind, :, index, : value.shape[2]] = value.mean(0)
                stderr[kind, :, index, : value.shape[2]] = confidence.standard_error(value, 0)
        if dims[0] == "path":
            mean, stderr = mean[0], stderr[0]
        variables[name] = (dims, mean, {"long_name": what})
        variables[f"{name}_stderr"] = (dims, stderr, {"long_name": f"standard error over images of: {what}"})

    modes = MODES if stochastic else MODES[:1]
    logs = [[of_image[f"{mode} {index}"] for index in range(points)] for mode in modes]
    deltas = [[value - value[:, :, :1] for value in by_point] for by_point in logs]
    by_mode = ("dropout", "path", "point", "bin")
    keep("log_amplitude", logs, by_mode, "log amplitude")
    keep("delta_log_amplitude", deltas, by_mode, "log amplitude relative to frequency 0")
    ends = np.array(
        [[value[:, :, grid.end] for grid, value in zip(grids, by_point, strict=True)] for by_point in deltas]
    )
    variables["end"] = ("point", np.array([grid.end for grid in grids]), {"long_name": "bin that counts as pi"})
    variables["delta_at_pi"] = (by_mode[:3], ends.mean(2).transpose(0, 2, 1))
    variables["delta_at_pi_stderr"] = (by_mode[:3], confidence.standard_error(ends, 2).transpose(0, 2, 1))
    variables["delta_at_pi_of_image"] = ((*by_mode[:3], "image"), ends.transpose(0, 3, 1, 2))
    if stochastic:
        paths = ("path", "point", "bin")
        effect = [on - off for off, on in zip(*deltas, strict=True)]
        keep("dropout_effect", [effect], paths, "relative log amplitude, masks on minus off")
        # Where no mask reaches there is no noise, and its logarithm is not a number.
        noisy = [of_image[f"variance {index}"].max() > 0 for index in range(points)]
        parts = [
            [
                value if component == "signal" or noisy[index] else np.full_like(value, np.nan)
                for index in range(points)
                for value in [of_image[f"{component} {index}"]]
            ]
            for component in COMPONENTS
        ]
        keep("component_log_amplitude", parts, ("component", *paths), "log root-mean-square amplitude")
        ratio = [noise - signal for signal, noise in zip(*parts, strict=True)]
        keep("noise_to_signal", [ratio], paths, "log amplitude, noise minus signal")
        variance = np.array([of_image[f"variance {index}"].mean() for index in range(points)])
        variables["noise_variance"] = ("point", variance, {"long_name": "variance over masks, by Parseval's theorem"})
    coordinates = runs.depths.coordinates() | {"dropout": list(modes), "path": list(PATHS), "image": np.arange(images)}
    if stochastic:
        coordinates["component"] = list(COMPONENTS)
    return xarray.Dataset(variables, coords=coordinates)
