"""From a process's arguments to its exit status: bad input is one line, Ctrl-C no traceback."""

import codecs
import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn, TextIO

from landscape.errors import LandscapeError

BAD_INPUT = 2
# Of `--max-seconds`: what was finished is saved, the same command resumes (EX_TEMPFAIL of sysexits.h: "try again").
STOPPED_IN_TIME = 75
# 128 and the number of the signal, as every shell counts.
READER_LEFT = 128 + signal.SIGPIPE
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def launch(module: str) -> NoReturn:
    """Run the ``main(argv) -> int`` of a module on this process's arguments and leave with its status."""
    signals = Signals()
    signals.install()
    _prepare_streams()
    # Pictures are drawn without a display: which backend a user's environment names does not matter here.
    os.environ.pop("MPLBACKEND", None)
    status = _flushed(run(module, sys.argv[1:], signals))
    # While the interpreter takes itself down, a Ctrl-C would be a traceback again.
    signals.ignore()
    sys.exit(status)


def run(module: str, argv: Sequence[str], signals: "Signals | None" = None) -> int:
    """Status of the ``main(argv)`` of a module.

    Bad input is one line ``error: ...`` and status 2; Ctrl-C is status 130 without a traceback, SIGTERM 143; a reader
    of standard output that left (``| head -1``) is 141 without a word. Any other exception is a defect of ours and
    keeps its traceback.
    """
    signals = signals or Signals()
    try:
        try:
            signals.working = True
            return int(importlib.import_module(module).main(argv))
        finally:
            signals.working = False
            if "torch" in sys.modules:
                from landscape.compute import distributed

                distributed.stop()
    except LandscapeError as error:
        _tell(f"error: {error}")
        return BAD_INPUT
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        if signals.received is not None:
            return signals.farewell(signals.received)
        # Files of ours say so themselves: this is where the output goes, more than its buffer holds.
        if error.errno not in _FULL:
            raise
        return _output_is_full(error)
    except KeyboardInterrupt:
        return signals.farewell(signal.SIGINT)
    except BaseException:
        # A library may turn the interruption into an error of its own.
        if signals.received is None:
            raise
        return signals.farewell(signals.received)


class Signals:
    """Ctrl-C and SIGTERM of a process that runs a command.

    The first one raises KeyboardInterrupt, so that what was finished is closed and saved. A second one, or one that
    comes while modules are being imported, when libraries may catch what is raised in them, leaves at once: journals
    are whole at every moment.

    Attributes
    ----------
    received
        The first signal, None before.
    working
        Whether somebody is there to catch a KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.working = False
        self._said = False

    def install(self) -> None:
        """Handle the signals, except those that are ignored, as in a script's background."""
        if threading.current_thread() is threading.main_thread():
            for number in _WORDS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._handle)
            sys.unraisablehook = self._unraisable

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        self.received = self.received or number
        if first and self.working and not _importing(frame):
            raise KeyboardInterrupt
        self._leave()

    def _unraisable(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Raised where nobody can catch it, in a destructor or a callback from C: there it would be lost."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt) and self.received is not None:
            self._leave()
        sys.__unraisablehook__(unraisable)

    def _leave(self) -> NoReturn:
        number = self.received or signal.SIGINT
        if not self._said:
            with contextlib.suppress(OSError):  # past Python's buffers, which may be in use
                os.write(2, f"{_farewell(number)}\n".encode())
        os._exit(128 + number)

    def farewell(self, number: int) -> int:
        """Say in one line what happened, and return the status."""
        number = self.received or number
        self._said = True
        _tell(_farewell(number))
        return 128 + number

    def ignore(self) -> None:
        """Nothing is left to interrupt."""
        if threading.current_thread() is threading.main_thread():
            for number in _WORDS:
                signal.signal(number, signal.SIG_IGN)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _farewell(number: int) -> str:
    word = _WORDS[signal.Signals(number)]
    return f"{word}: what was finished is saved; the same command resumes from there"


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _prepare_streams() -> None:
    """Standard output and error that take any text and exist.

    A character that the terminal lacks is written in ASCII instead of raising; a closed stream becomes the null device,
    so that no result file gets its number.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(null)
    codecs.register_error("landscape", _in_ascii)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  for the life of the process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="landscape")
    sys.stderr = _Forgiving(sys.stderr)  # type: ignore[assignment]


class _Forgiving:
    """A stream whose failures do not matter: a remark that cannot be shown stops no measurement."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ASCII = {"±": "+-", "α": "alpha", "β": "beta", "λ": "lambda", "²": "^2", "×": "x", "–": "-", "—": "-", "…": "..."}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_ASCII.get(each) or each.encode("unicode_escape").decode() for each in text), error.end


def _flushed(status: int) -> int:
    """The status, after everything printed has arrived; a full disk or a reader that left changes it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        return _output_is_full(error)
    return status


def _output_is_full(error: OSError) -> int:
    _discard_output()
    _tell(f"error: cannot write standard output: {error.strerror}; free some space")
    return BAD_INPUT


def _reader_left() -> int:
    _discard_output()
    return READER_LEFT


def _discard_output() -> None:
    """What is still buffered goes nowhere, instead of raising once more when the interpreter closes."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
