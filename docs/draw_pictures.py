"""Draw the site's pictures from results under reference/; no network is touched.

``PYTHONPATH=. python docs/draw_pictures.py``
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import xarray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from analyses import claims, stage
from figures import fig8, sources, sweep, training_curvature
from landscape import (
    connectivity,
    feature_maps,
    fourier,
    frequency_noise,
    hessian,
    plotting,
    predictions,
    robustness,
    series,
    surface,
)
from landscape.store import result

REFERENCE = Path(__file__).parents[1] / "reference"
OUT = Path(__file__).parent / "pictures"
# Trained longest first.
STAGES = ("converged", "cifar100-medium", "cifar100-small")
# The ways of smoothing of claim C12, beside the paper's own.
KINDS = ("smooth", "pre-activation", "relu6", "gap-head")
# Picture -> stage and comparisons.
EFFECTS = {
    "kinds": (STAGES[0], KINDS),
    "kinds_early": (STAGES[-1], KINDS),
    "transformer": (STAGES[0], ("smooth", "transformer")),
}
FIGURES = {"fig8": fig8, "sweep": sweep, "training_curvature": training_curvature}
# Picture -> folder of the results, kinds and seeds, variable that they must hold, function.
PICTURES: dict[str, tuple[str, tuple[str, ...], tuple[int, ...], str, Callable]] = {
    "hessian": ("hessian", ("mcdo", "mcdo-smooth"), (0,), "node", hessian.picture.draw),
    "surface": ("surface", ("mcdo", "mcdo-smooth"), (0,), "rise", surface.pictures.draw),
    "feature_maps": ("feature_maps", ("mcdo", "mcdo-smooth"), (0, 1, 2, 3), "model_std", feature_maps.picture.draw),
    "fourier": ("fourier", ("mcdo", "mcdo-smooth"), (0,), "delta_at_pi", fourier.picture.draw),
    "frequency_noise": (
        "frequency_noise",
        ("mcdo", "mcdo-smooth"),
        (0, 1, 2, 3),
        "accuracy_drop",
        frequency_noise.picture.draw,
    ),
    "predictions": ("predictions", ("mcdo", "mcdo-smooth"), (0,), "nll_low", predictions.picture.draw),
    "connectivity": ("connectivity", ("dnn",), (0,), "accuracy", connectivity.picture.draw),
    "robustness": ("robustness", ("mcdo", "mcdo-smooth"), (0,), "accuracy_stderr", robustness.picture.draw),
}


def kept(folder: str, kinds: Sequence[str], seeds: Sequence[int], variable: str) -> list[xarray.Dataset]:
    """One result of each kind and seed, of the stage that was trained longest among those that have them all."""
    for preset in STAGES:
        results = [_kept(preset, folder, kind, seed, variable) for kind in kinds for seed in seeds]
        if all(results):
            # Studies vary protocols in results of their own: the plainest command comes first.
            return [min(fit, key=lambda each: len(each.attrs["command"])) for fit in results]
    raise FileNotFoundError(f"no results of {folder} with {variable} under {REFERENCE}")


def _kept(preset: str, folder: str, kind: str, seed: int, variable: str) -> list[xarray.Dataset]:
    files = sorted((REFERENCE / preset / "results" / folder).glob(f"*{preset}-{kind}-seed{seed}-*.nc.gz"))
    return [each for each in map(result.load, files) if variable in each and "augmented" not in each.attrs["data"]]


def shrink(path: Path) -> None:
    """A palette of 128 colours: a third of the bytes, and nothing that an eye would miss; the provenance stays."""
    with Image.open(path) as picture:
        facts = PngInfo()
        facts.add_text("Description", str(picture.info["Description"]))
        reduced = picture.convert("RGB").quantize(128)
        resolution = picture.info["dpi"]
    reduced.save(path, optimize=True, pnginfo=facts, dpi=resolution)


def main() -> None:
    """Draw all."""
    with plotting.using("screen"):
        for name, (folder, kinds, seeds, variable, draw) in PICTURES.items():
            draw(kept(folder, kinds, seeds, variable), OUT / f"{name}.png")
        stages = {preset: claims.reports_in(REFERENCE / preset / "claims") for preset in STAGES}
        claims.draw(stages, OUT / "claims.png")
        for name, (preset, only) in EFFECTS.items():
            claims.draw({preset: stages[preset]}, OUT / f"{name}.png", only)
        along = sorted((REFERENCE / "digits" / "results" / "series").glob("*.nc.gz"))
        series.picture.draw([*map(result.load, along)], OUT / "series.png")
        for name, module in FIGURES.items():
            drawing = sources.read(module.STUDY, STAGES[0], REFERENCE / STAGES[0] / "results")
            figure = module.draw(drawing)
            plotting.head(figure, stage.caption(drawing.preset, drawing.facts["kinds"]))
            facts = sources.provenance(drawing, name, "docs/draw_pictures.py")
            plotting.save(figure, OUT / f"{name}.png", facts)
    # Not all pictures there are drawn here, and a palette of a palette would lose colours.
    for name in (*PICTURES, *FIGURES, *EFFECTS, "claims", "series"):
        shrink(OUT / f"{name}.png")


if __name__ == "__main__":
    main()
