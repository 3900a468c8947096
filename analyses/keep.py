"""Keep what the studies of a preset have listed beside its reference checkpoints, where every clone finds it.

What only serves to pair networks, moments of single images and bootstrap replicates, is left out: it is most of the
bytes, and figures do not draw it; what they average over images is kept in single precision. Of a study whose figure
draws its conclusion, results leave their provenance alone. Files are compressed: ``gunzip`` makes them NetCDF again.

``python -m analyses.keep --preset PRESET``
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analyses import studies
from analyses.kinds import PRESETS
from landscape import command, store
from landscape.errors import LandscapeError

if TYPE_CHECKING:
    import xarray

LEFT_OUT = (
    "_replicate",
    "std_of_image",
    "variance_of_image",
    "power_of_image",
    "delta_of_image",
    "loss_of_image",
    "nll_of_image",
    "correct_of_image",
    "confidence_of_image",
    "of_group",
)


def main(argv: Sequence[str]) -> int:
    """Copy listings and the results that they name, and say how much that is."""
    parser = command.Parser("analyses.keep", __doc__ or "")
    parser.add_argument("--preset", choices=PRESETS, default="cifar100-small", help="whose results")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where the studies keep theirs"
    )
    parser.add_argument("--reference", type=Path, default=studies.REFERENCE, metavar="DIR", help="where they go")
    arguments = parser.parse_args(argv)
    from analyses.catalogue import STUDIES

    listings = sorted((arguments.results / "studies").glob(f"*-{arguments.preset}.json"))
    if not listings:
        raise LandscapeError(
            f"no study of {arguments.preset} in {arguments.results}: run python -m analyses STUDY first"
        )
    out = studies.kept(arguments.reference, arguments.preset)
    command.require_writable(out / "studies" / "any")
    size = 0
    for listing in listings:
        facts = store.files.read_json(listing)
        concluded = STUDIES[facts["study"]].conclude is not None
        for entry in facts["entries"]:
            source = studies.listed(entry["file"], arguments.results)
            if not source.is_file():
                raise LandscapeError(f"{listing} names {source}, which is not there: run the study again")
            dataset = store.result.load(source)
            travels = dataset.assign_attrs(command=anonymous(str(dataset.attrs["command"])))
            if concluded:
                del entry["file"]
                entry["provenance"] = studies.provenance(travels)
                continue
            entry["file"] += store.files.PACKED
            target = studies.listed(entry["file"], out)
            store.result.save(_lighter(travels), target)
            size += target.stat().st_size
        store.files.write_json(out / "studies" / listing.name, facts)
    print(f"{len(listings)} studies, {size / 2**20:.1f} MiB in {out}")
    return 0


def _lighter(dataset: "xarray.Dataset") -> "xarray.Dataset":
    of_image = [name for name in dataset.data_vars if str(name).endswith("_of_image")]
    single = {name: dataset[name].astype("float32") for name in of_image if dataset[name].dtype == "float64"}
    return dataset.assign(single).drop_vars([name for name in dataset.variables if str(name).endswith(LEFT_OUT)])


def anonymous(command_line: str) -> str:
    """A command without the folders of the machine that it ran on.

    Examples
    --------
    >>> anonymous("python -m analyses fourier --cache /home/me/networks --quiet")
    'python -m analyses fourier --cache DIR --quiet'
    """
    return re.sub(r"(?<=[\s=])/\S+", "DIR", command_line)


if __name__ == "__main__":
    command.launch("analyses.keep")
