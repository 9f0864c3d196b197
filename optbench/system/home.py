"""The user's home folder in paths; there are users without one, as in a container that runs under a bare number."""

import os


def at_home(path: str | os.PathLike[str]) -> str:
    """``path`` with a ~ or ~user at its beginning expanded, or as it is where there is no such user or home folder."""
    return os.path.expanduser(path)  # noqa: PTH111 (pathlib raises where nobody is at home)
