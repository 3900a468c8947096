"""The one exception that means "your input, not our bug"."""


class LandscapeError(ValueError):
    """Bad input, told in one line: what is wrong, where, and what to do.

    Command lines print it as ``error: ...`` and leave with status 2; every other exception is a defect and keeps
    its traceback.
    """
