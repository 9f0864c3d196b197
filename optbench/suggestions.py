"""The nearest of the accepted names, for messages about a name that is not one of them."""

import difflib
from collections.abc import Iterable


def nearest(name: str, accepted: Iterable[str]) -> str:
    """A phrase that names the ``accepted`` words most like ``name``, or all of them where none is like it."""
    words = sorted(accepted)
    close = difflib.get_close_matches(name, words, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"accepted: {', '.join(words)}" if words else "none is accepted here"
