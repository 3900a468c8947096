import signal

import pytest
import torch

# A shell that starts the suite in the background lets it, and all that it starts, ignore Ctrl-C: tests that interrupt a
# command would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_registry(tmp_path_factory, monkeypatch):
    """Layers that tests train with are remembered in a folder of the test's, not in the user's registry."""
    monkeypatch.setenv("LANDSCAPE_STATE", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(autouse=True)
def same_weights_in_any_order():
    """Modules that a test builds without a generator take weights from the global one, the same in any order."""
    torch.manual_seed(0)
