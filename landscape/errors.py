"""The one exception that means "your input, not our bug", and text that is safe to show."""

from collections.abc import Sequence

_LONGEST = 2000


def printable(text: object, limit: int | None = None) -> str:
    r"""Text from a file or a command line, harmless to a terminal and a log, on one line.

    Control characters (escape sequences of terminals, line breaks), invisible and direction-changing characters and
    lone surrogates are written as Python escapes, e.g. ``\x1b``. Everything else stays as it is, so that ordinary names
    are shown unchanged. For markup (HTML, SVG) escape the result as usual.

    Parameters
    ----------
    text
        What to show; anything that is not a string is converted by `str`.
    limit
        Longest result, in characters; what is beyond it is replaced by an ellipsis. Default: no limit.
    """
    shown = str(text)
    if limit is not None and len(shown) > limit:
        shown = shown[: limit - 3] + "..."
    if shown.isprintable():
        return shown
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in shown)


class LandscapeError(ValueError):
    """Invalid input, described in one line: what is wrong, where, and what to do.

    Command lines print it as ``error: ...`` and leave with status 2; every other exception is a defect and keeps its
    traceback. The message is made `printable`: it often quotes names from a file.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message, _LONGEST))


def require_parts(parts: Sequence[str], known: Sequence[str]) -> None:
    """Raise LandscapeError unless there are parts to measure, all of them known."""
    unknown = [part for part in parts if part not in known]
    if unknown or not parts:
        raise LandscapeError(f"unknown part {', '.join(unknown) or '(none)'}: choose among {', '.join(known)}")
