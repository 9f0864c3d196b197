"""The additional packages that reading some data, and one search, need. Imports no torch."""

from importlib.util import find_spec

# Packages by the extra of this package that installs them.
EXTRAS = {"images": ("PIL",), "natpatch": ("skimage", "sklearn", "PIL"), "optuna": ("optuna", "cmaes")}


def lacking(extra: str) -> list[str]:
    """The packages of ``extra`` that are not installed; does not import them, because that takes seconds."""
    return [package for package in EXTRAS.get(extra, ()) if find_spec(package) is None]


def remedy(extra: str) -> str:
    """The command that installs ``extra``."""
    return f"pip install 'optbench[{extra}]'"
