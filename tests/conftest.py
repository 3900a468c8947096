import pytest


@pytest.fixture(autouse=True)
def own_registry(tmp_path_factory, monkeypatch):
    """Layers that tests train with are remembered in a folder of the test's, not in the user's registry."""
    monkeypatch.setenv("LANDSCAPE_STATE", str(tmp_path_factory.mktemp("state")))
