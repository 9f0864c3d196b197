"""The user's home folder in paths. Some users have none, for example in a container that runs under a numeric user id."""

import os


def at_home(path: str | os.PathLike[str]) -> str:
    """``path`` with a ~ or ~user at its beginning expanded; unchanged if there is no such user or home folder."""
    return os.path.expanduser(path)  # noqa: PTH111 (pathlib raises if there is no home folder)
