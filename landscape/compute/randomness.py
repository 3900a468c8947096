"""Random numbers from explicit seeds: every random thing has a stream of its own.

A stream is named by a seed and a purpose, for example ``generator(0, "probe", 3)``. Streams of different names are
independent, so that drawing more probes does not move the dropout masks, and the global generators of torch and numpy
are neither read nor moved.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Seed of the stream that `seed` and `purpose` name.

    Parameters
    ----------
    seed
        The seed that a user gives.
    purpose
        What the stream is for: words and indices, e.g. ``("mask", 3)``.

    Returns
    -------
    int
        A number in [0, 2^63), the BLAKE2b hash of the name: nearby seeds and purposes give unrelated streams.
    """
    name = "/".join(str(part) for part in (int(seed), *purpose))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for the stream that `seed` and `purpose` name, on `device`."""
    return torch.Generator(device=device).manual_seed(derived_seed(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator (PCG64) for the stream that `seed` and `purpose` name."""
    return np.random.default_rng(derived_seed(seed, *purpose))


@contextmanager
def global_stream(device: torch.device, seed: int, *purpose: str | int) -> Iterator[None]:
    """Torch's global generators hold a stream of ours meanwhile, for code that knows no other; as before afterwards."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.set_rng_state(generator(seed, *purpose).get_state())
        if on_gpu:
            torch.cuda.set_rng_state(generator(seed, *purpose, device=device).get_state(), device)
        yield


@contextmanager
def untouched_states() -> Iterator[None]:
    """Code of the user's may draw from the global generators of Python, NumPy and torch: as before afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  the user's, only put back
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
