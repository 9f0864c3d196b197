"""The packages that reading some data needs beside those that are always installed. Imports no torch."""

from importlib.util import find_spec

# By the extra of this package that installs them.
EXTRAS = {"images": ("PIL",), "natpatch": ("skimage", "sklearn", "PIL")}


def lacking(extra: str) -> list[str]:
    """The packages of ``extra`` that are not installed; looks for them without importing them, which takes seconds."""
    return [package for package in EXTRAS.get(extra, ()) if find_spec(package) is None]


def remedy(extra: str) -> str:
    """What installs ``extra``."""
    return f"pip install 'optbench[{extra}]'"
