"""How far work is, on standard error: a bar for a person at a terminal, a line now and then in a log."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from landscape.compute import distributed

# Seconds between lines in a log.
EVERY = 30.0


class Progress:
    """A bar with rate and time left at a terminal; in a file or a pipe, a line every `EVERY` seconds.

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
        self._done = self._before = done
        self._logged = self._began = time.monotonic()
        self._description, self._unit, self._quiet = description, unit, quiet
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
        if self._bar.disable and not self._quiet and time.monotonic() - self._logged >= EVERY and distributed.is_main():
            self._logged = time.monotonic()
            print(self._line(facts), file=sys.stderr, flush=True)

    def _line(self, facts: dict[str, object]) -> str:
        """What a bar would show, in words: ``spectrum: 12/60 products, 35 s so far, 140 s left``."""
        elapsed, total = time.monotonic() - self._began, self._bar.total
        far = f"{self._done}/{total}" if total else str(self._done)
        line = f"{self._description}: {far} {self._unit}s, {elapsed:.0f} s so far"
        if total and self._done > self._before:
            line += f", {elapsed / (self._done - self._before) * max(total - self._done, 0):.0f} s left"
        return ", ".join([line, *(f"{name} {value}" for name, value in facts.items())])

    def resumed(self, steps: int) -> None:
        """Advance by steps that an earlier run has finished: they say nothing of the rate."""
        self._done += steps
        self._before += steps
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
