"""Errors that are shown as one message, never as a traceback, and the exception that stops a run in order."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user asked for cannot be done; the message names the key, the value and what is accepted."""


class WorkersFailed(Exception):
    """The workers of a sweep have ended before their runs, for a reason that is no run's own; the message names it."""


class Stop(Exception):
    """Raised by a callback ``on_evaluation`` to stop the run in order: at a checkpoint, from which it can be continued."""


def nearest(name: str, accepted: Iterable[str]) -> str:
    """A phrase that names the ``accepted`` words most like ``name``, or all of them where none is like it."""
    words = sorted(accepted)
    close = difflib.get_close_matches(name, words, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"accepted: {', '.join(words)}" if words else "none is accepted here"
