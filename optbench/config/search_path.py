"""The search path of choices: the folders that hold them, the same for Hydra, every command and every child process.

    1. optbench's own conf/, of the checkout or in the wheel; the front page config.yaml is always this one's
    2. the folders that $OPTBENCH_CONF names
    3. the folders of the command: --config-dir and hydra.searchpath
    4. the folder conf/ of every installed package that an entry point of the group optbench.plugins names

All but the first are the user's own. Each has one subfolder for each group: optimizer/my_adam.yaml. A name stands for one
file: see `optbench.config.files.choices`.
"""

import filecmp
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from optbench.errors import UserError

VARIABLE = "OPTBENCH_CONF"
ENTRY_POINTS = "optbench.plugins"
_FRONT_PAGE = "config.yaml"
_PACKAGE = Path(__file__).resolve().parents[1]
# The folders of --config-dir and hydra.searchpath, absolute, each with the words that named it.
_TOLD: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class Place:
    """A folder of choices, and its ``origin``: "--config-dir", or "package NAME VERSION"."""

    folder: Path
    origin: str


@dataclass(frozen=True)
class Plugin:
    """An installed package that an entry point names: its distribution, and its folder or else its problem."""

    package: str
    distribution: str
    version: str
    folder: Path | None
    problem: str = ""


def conf_dir() -> Path:
    """The folder of optbench's own choices: the checkout's conf/, or the one packaged in a wheel."""
    return _conf_dir_of(_PACKAGE)


@lru_cache(maxsize=8)
def _conf_dir_of(package: Path) -> Path:
    checkout = package.parent / "conf"
    # The checkout comes first, because an editable install may also hold a stale packaged copy.
    return checkout if (checkout / _FRONT_PAGE).is_file() else package / "conf"


def places() -> tuple[Place, ...]:
    """All folders of choices, in order of precedence; optbench's own is the first.

    Raises UserError for a folder that does not exist, and for a front page in another place than the first.
    """
    named = os.environ.get(VARIABLE, "")
    here = str(Path.cwd()) if named else ""  # relative paths depend on the working folder
    return _places(conf_dir(), named, here, _TOLD, tuple(sys.path))


def own_places() -> tuple[Place, ...]:
    """The folders of the user's own choices: `places` without the first."""
    return places()[1:]


def folders_to_hand_on() -> list[Path]:
    """The user's own folders that must be passed to a child process; it finds installed packages by itself."""
    packages = {plugin.folder / "conf" for plugin in plugins() if plugin.folder is not None}
    return [place.folder for place in own_places() if place.folder not in packages]


def look_in(folders: Iterable[str | Path], origin: str = "--config-dir") -> None:
    """Add ``folders`` to the search path; raises UserError, with ``origin``, for a path that is not a folder."""
    global _TOLD
    for folder in folders:
        path = Path(folder).absolute()
        _check_folder(path, f"{origin} {folder}")
        _TOLD = tuple(dict.fromkeys([*_TOLD, (path, origin)]))


@contextmanager
def forgotten_afterwards() -> Iterator[None]:
    """Remove at the end the folders that were added within: they belong to one command."""
    global _TOLD
    kept = _TOLD
    try:
        yield
    finally:
        _TOLD = kept


def look_where_told(words: Sequence[str]) -> None:
    """Add the folders that ``words`` such as hydra.searchpath=[file://mine] name to the search path.

    Raises UserError for a path that is not a folder, and for a package (pkg://mine.conf) that is not installed.
    """
    for word in words:
        key, _, text = word.partition("=")
        if key.lstrip("+") == "hydra.searchpath":
            look_in((_of_hydra(entry, word) for entry in _entries(text)), "hydra.searchpath")


def _entries(text: str) -> list[str]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return []  # Hydra refuses it itself
    return [str(entry) for entry in (value if isinstance(value, list) else [value]) if entry is not None]


def _of_hydra(entry: str, word: str) -> Path:
    scheme, separator, rest = entry.partition("://")
    if not separator or scheme == "file":
        return Path(rest or scheme)
    found = folders_of(rest.replace("/", ".")) if scheme == "pkg" else []
    if not found:
        raise UserError(
            f"{word}: {entry} is not to be found; accepted: file://FOLDER, or pkg://PACKAGE that is installed"
        )
    return found[0]


def _check_folder(path: Path, where: str) -> None:
    if not os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises for a name that is too long)
        raise UserError(
            f"{where}: is no folder; accepted: a folder of choices, such as one with optimizer/my_adam.yaml"
        )


@lru_cache(maxsize=32)
def _places(
    ours: Path, named: str, here: str, told: tuple[tuple[Path, str], ...], import_path: tuple[str, ...]
) -> tuple[Place, ...]:
    found = {ours.resolve(): Place(ours, "optbench")}
    own = [Place(Path(here, name), VARIABLE) for name in named.split(os.pathsep) if name]
    for place in own:
        _check_folder(place.folder, f"{VARIABLE}={place.folder}")
    own += [Place(path, origin) for path, origin in told]
    own += [
        Place(plugin.folder / "conf", f"package {plugin.distribution} {plugin.version}")
        for plugin in _plugins(import_path)
        if plugin.folder is not None
    ]
    for place in own:
        _check_front_page(place, ours)
        found.setdefault(place.folder.resolve(), place)
    return tuple(found.values())


def _check_front_page(place: Place, ours: Path) -> None:
    page = place.folder / _FRONT_PAGE
    if page.is_file() and not same_content(page, ours / _FRONT_PAGE):
        raise UserError(
            f"{page}: is not read: the front page is always optbench's own, {ours / _FRONT_PAGE}; accepted: a folder of "
            "choices without it; other defaults go into an experiment, experiment/NAME.yaml, or onto the command line"
        )


def same_content(one: Path, other: Path) -> bool:
    """True if two files hold the same bytes; a user's folder may be an extended copy of optbench's."""
    return filecmp.cmp(one, other, shallow=False)


# ---- installed packages -----------------------------------------------------------------------------------------------------


def plugins() -> tuple[Plugin, ...]:
    """The packages that entry points of the group optbench.plugins name, sorted by name. None is imported."""
    return _plugins(tuple(sys.path))


@lru_cache(maxsize=8)
def _plugins(import_path: tuple[str, ...]) -> tuple[Plugin, ...]:
    found = {}
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        distribution = entry.dist
        name, version = (distribution.name, distribution.version) if distribution is not None else (entry.name, "")
        folders = folders_of(entry.module)
        folder = next((folder for folder in folders if (folder / "conf").is_dir()), None)
        problem = "" if folder is not None else "has no folder conf/" if folders else "is not to be found"
        found[entry.module] = Plugin(entry.module, name, version, folder, problem)
    return tuple(found[name] for name in sorted(found))


def folders_of(package: str) -> list[Path]:
    """The folders of a package by its dotted name, found without importing it or its parents; empty if it is not a package."""
    top, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(top)  # imports nothing for a name without dots
    except (ImportError, ValueError):
        return []
    locations = spec.submodule_search_locations if spec is not None else None
    folders = [Path(location, *rest) for location in locations or ()]
    return [folder for folder in folders if folder.is_dir()]
