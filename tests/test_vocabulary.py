"""Every variable of a result has a long name and a unit, results of earlier versions included."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray

from landscape.objective import losses
from landscape.store import result
from landscape.store.vocabulary import described, unit_of_loss, with_unit

KEPT = Path(__file__).parents[1] / "reference" / "cifar100-small" / "results"


@pytest.mark.parametrize("folder", sorted(path.name for path in KEPT.iterdir() if path.name != "studies"))
def test_kept_results_are_described_and_otherwise_unchanged(folder: str) -> None:
    file = min((KEPT / folder).glob("*.nc.gz"))
    before = result.load(file)
    after = described(before)
    assert after.attrs["title"].endswith(before.attrs["name"])
    for name, variable in after.variables.items():
        assert variable.attrs["long_name"], name
        assert variable.attrs["units"], name
        # What is not in the vocabulary would be described by its own name.
        if "long_name" not in before.variables[name].attrs and "_" in str(name):
            assert variable.attrs["long_name"] != str(name).replace("_", " "), name
        assert variable.attrs.items() >= before.variables[name].attrs.items()
    assert after.drop_attrs().identical(before.drop_attrs())


def test_a_loss_without_a_unit_gives_none() -> None:
    plain = {"protocol": json.dumps({"loss": "mine.py:dice@0123"})}
    for attributes, unit in (({}, "nats"), (plain, "1"), ({"loss_name": "mse"}, "1"), ({"loss_name": "bce"}, "nats")):
        made = described(
            xarray.Dataset(
                {"trace": 1.0, "density": 1.0, "barrier": ((), 1.0, {"units": "nats"}), "nll": 1.0}, attrs=attributes
            )
        )
        assert made["trace"].attrs["units"] == made["barrier"].attrs["units"] == unit
        assert made["nll"].attrs["units"] == "nats"
        assert made["density"].attrs["units"] == {"nats": "1 / nats", "1": "1"}[unit]
        assert with_unit("loss", [made]) == {"nats": "loss (nats)", "1": "loss"}[unit]
    for name in losses.NAMES:
        assert unit_of_loss({"loss_name": name}) == losses.resolved(name).unit


def test_endings_are_explained_with_the_unit_of_what_they_belong_to(tmp_path: Path) -> None:
    made = described(xarray.Dataset({"trace_stderr": 1.0, "nll_of_image": ("image", np.zeros(2))}))
    assert made["trace_stderr"].attrs == {
        "long_name": "standard error of: trace of the curvature matrix",
        "units": "nats",
    }
    again = result.load(result.save(made, tmp_path / "r.nc"))
    assert again["nll_of_image"].attrs["long_name"] == "of each image: negative log-likelihood"
