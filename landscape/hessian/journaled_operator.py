"""Expensive products kept on disk: a spectrum that is killed resumes where it stood."""

import hashlib
import time

import numpy as np
import torch
from torch import Tensor

from landscape.compute import distributed
from landscape.eigen.operator import Operator
from landscape.hessian.wrapping import Wrapping
from landscape.store.journal import Journal

# Seconds. Cheaper products are taken again sooner than a person notices, and would only fill the disk.
WORTH_KEEPING = 1.0


class JournaledOperator(Wrapping):
    """An operator whose expensive products are written to a journal and read from there when the work is done again.

    The solvers are deterministic: started again, they ask for the same products in the same order. Each piece holds
    the number of the product and a checksum of the vectors it was taken with, so that a product of anything else
    (another machine's rounding, say) is never taken for it.

    Parameters
    ----------
    operator
        What is multiplied with, see :class:`landscape.eigen.Operator`.
    journal
        Where products are kept, 4 bytes per parameter each; under torchrun rank 0 writes and all read. Its identity
        must say all that decides the operator.

    Attributes
    ----------
    restored
        Number of products with a single vector that came from the journal.
    restored_seconds
        What they took when they were computed.
    """

    def __init__(self, operator: Operator, journal: Journal) -> None:
        super().__init__(operator)
        self.restored = 0
        self.restored_seconds = 0.0
        self._journal = journal
        self._calls = 0

    def __call__(self, vectors: Tensor) -> Tensor:
        """Product with one vector (n,) or with the columns of (n, k), from the journal where it is there."""
        key, self._calls = f"product {self._calls}", self._calls + 1
        checksum = _checksum(vectors)
        known = self._known(key, checksum, vectors)
        if distributed.world_size() > 1:
            # A product is a sum over all processes: all of them take it, or none.
            having = torch.tensor(float(known is not None), device=self.device)
            known = known if float(distributed.all_reduce(having)) == distributed.world_size() else None
        if known is not None:
            product, seconds = known
            self.restored += vectors[0].numel()
            self.restored_seconds += seconds
            return product
        started = time.perf_counter()
        product = self.operator(vectors)
        seconds = time.perf_counter() - started
        if distributed.is_main() and seconds >= WORTH_KEEPING:
            arrays = {"vectors": checksum, "product": product.detach().cpu().numpy(), "seconds": np.array([seconds])}
            self._journal.write(key, arrays)
        return product

    def _known(self, key: str, checksum: np.ndarray, like: Tensor) -> tuple[Tensor, float] | None:
        if key not in self._journal:
            return None
        kept = self._journal[key]
        product = torch.from_numpy(kept["product"])
        if not np.array_equal(kept["vectors"], checksum) or product.shape != like.shape or product.dtype != like.dtype:
            return None
        return product.to(self.device), float(kept["seconds"][0])


def _checksum(vectors: Tensor) -> np.ndarray:
    content = vectors.detach().cpu().contiguous().numpy().data
    return np.frombuffer(hashlib.sha256(content).digest(), dtype=np.uint8)
