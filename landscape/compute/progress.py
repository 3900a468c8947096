"""A progress bar with rate and time left, on standard error, for a person at a terminal."""

import sys
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class Progress:
    """A bar that shows only at a terminal: nothing is written when standard error is a file or `quiet` is set.

    Parameters
    ----------
    total
        Number of steps, or None when it is not known.
    description
        What is being done, a few words.
    unit
        What one step is, e.g. ``"product"``.
    quiet
        Show nothing.
    done
        Steps that an earlier run has finished.
    """

    def __init__(
        self, total: int | None, description: str, *, unit: str = "step", quiet: bool = False, done: int = 0
    ) -> None:
        # tqdm reads None as "off unless standard error is a terminal".
        disable = True if quiet else None
        self._done = done
        self._bar = tqdm(
            total=total, initial=done, desc=description, unit=unit, file=sys.stderr, disable=disable, dynamic_ncols=True
        )

    @property
    def done(self) -> int:
        """Steps so far."""
        return self._done

    def update(self, steps: int = 1, **facts: object) -> None:
        """Advance by `steps` and show `facts` (name=value) behind the bar."""
        if facts:
            self._bar.set_postfix({name: str(value) for name, value in facts.items()}, refresh=False)
        self._done += steps
        self._bar.update(steps)

    def found(self, steps: int) -> None:
        """Advance by steps that an earlier run has finished: they say nothing of the rate."""
        self._done += steps
        if steps and not self._bar.disable:
            self._bar.n += steps
            self._bar.initial += steps
            self._bar.last_print_n += steps
            self._bar.refresh()

    def expect(self, left: int | None) -> None:
        """Say that so many steps are left, as far as is known now: the bar's end and the time left follow."""
        self._bar.total = None if left is None else self._done + left

    def close(self) -> None:
        """Leave the finished bar on the screen and release the line."""
        self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def progress(items: Iterable[Item], description: str, *, unit: str = "step", quiet: bool = False) -> Iterator[Item]:
    """Iterate over `items` behind a bar."""
    total = len(items) if isinstance(items, Sized) else None
    with Progress(total, description, unit=unit, quiet=quiet) as bar:
        for item in items:
            yield item
            bar.update()
