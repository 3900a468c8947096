"""The protocol as data: a hash that lasts."""

import io
import json
from pathlib import Path

import h5py
import pytest

from landscape.errors import LandscapeError
from landscape.store import protocol
from landscape.store.files import read_sealed
from landscape.store.protocol import PRESETS, Protocol

REFERENCE = Path(__file__).parents[1] / "reference"
# Of commit 3e6ad7d, before there were fields that count only where they differ from their default.
HASHES = {"exact": "04689bdaeaf9", "park2022": "093c90cc8643", "li2018": "b7219d874da8"}


def test_hashes_and_keys_are_those_of_before() -> None:
    assert {name: preset.hash for name, preset in PRESETS.items()} == HASHES
    counted = Protocol(images=5).identity()
    assert "image_mean" not in counted
    assert set(counted) == set(Protocol().to_dict()) - {"image_mean", "image_std", "loss", "output"}


def test_every_kept_result_has_the_hash_that_its_protocol_has_today() -> None:
    kept = 0
    for path in REFERENCE.rglob("*.nc.gz"):
        with h5py.File(io.BytesIO(read_sealed(path))) as file:
            attributes = dict(file.attrs)
        if "protocol" in attributes:
            kept += 1
            assert Protocol.from_dict(json.loads(attributes["protocol"])).hash == attributes["protocol_hash"], path
    assert kept > 200


def test_a_field_with_a_value_of_its_own_counts() -> None:
    plain, shown = Protocol(), Protocol(image_mean=(0.5,), image_std=(0.25,))
    assert len({plain.hash, shown.hash, Protocol(image_mean=(0.5,)).hash, Protocol(image_std=(0.5,)).hash}) == 4
    assert plain.difference(shown) == {"image_mean": (None, [0.5]), "image_std": (None, [0.25])}
    again = Protocol.from_dict(json.loads(json.dumps(shown.to_dict())))
    assert again == shown
    assert again.hash == shown.hash


def test_a_change_of_meaning_is_another_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Protocol().hash
    monkeypatch.setattr(protocol, "SCHEMA", 2)
    assert Protocol().hash != before


@pytest.mark.parametrize("fields", [{"colour": 1}, {"images": "many"}, {"image_mean": 3}, {"image_std": ["x"]}])
def test_what_is_no_protocol_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(LandscapeError):
        Protocol.from_dict(fields)
