"""Errors that are shown as one message, never as a traceback, and the exception that stops a run at a checkpoint."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Raised for a request that cannot be met; the message names the key, the value and what is accepted."""


class WorkersFailed(Exception):
    """Raised if the workers of a sweep ended before their runs, for a reason outside the runs; the message names it."""


class Stop(Exception):
    """Raised by a callback ``on_evaluation`` to stop the run at a checkpoint, from which it can be continued."""


def nearest(name: str, accepted: Iterable[str]) -> str:
    """A phrase that names the ``accepted`` words most similar to ``name``, or all of them if none is similar."""
    words = sorted(accepted)
    close = difflib.get_close_matches(name, words, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"accepted: {', '.join(words)}" if words else "none is accepted here"
