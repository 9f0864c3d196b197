"""The code that computes a run: its modules, found without importing them, and one hash of all.

    optbench.training.run and every _target_ of the configuration, and all modules that they import, directly or indirectly

An import is followed by name: `from optbench.optimizers import KFAC` leads to optbench/optimizers/kfac.py, and not to the other
optimizers that optbench/optimizers/__init__.py re-exports; `optimizers.build` leads to the modules that this file itself uses. So
a change in kfac.py affects the runs of K-FAC, and those of code that imports it.

This package and the user's own code are followed: all modules that are importable here and neither part of Python nor installed
(below a folder site-packages or dist-packages). Installed libraries are not hashed; their versions are in environment.json.
Modules that only check, store, show, draw or mirror (`ASIDE`) are not followed, and neither are names that are made at run time,
except for a `_target_`. Probes count only for a run that has some, since they change nothing in a run.

The digest of a module covers its text without comments, docstrings, blank lines and ``__all__``, and the origin of the imported
names that it uses. It depends neither on the place of the files nor on the version of Python.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optbench.config import ASIDE_GROUPS, LIST_GROUPS
from optbench.provenance.sources import Source, read

PACKAGE = "optbench"
_ROOT = Path(__file__).resolve().parents[2]
_START = f"{PACKAGE}.training.run"
# Modules and packages that cannot change a number of a run whose configuration is given.
_ASIDE = (
    *("__main__", "analysis", "cli", "config", "data.checks", "data.extras", "data.fetch", "data.fingerprints"),
    *("data.locate", "data.sources", "errors", "models.model_size", "moved", "probes", "provenance", "store"),
    *("sweep", "system", "trackers", "training.checkpointing", "training.follower", "training.launch_environment"),
    *("training.meeting",),
)
ASIDE = frozenset(f"{PACKAGE}.{name}" for name in _ASIDE)
# Modules inside of these that count nevertheless: they derive the learning rate, the batch plan and the horizon.
_COUNTS = frozenset(f"{PACKAGE}.config.{name}" for name in ("derived", "durations", "scaling", "schema", "tuning"))
_PROBES = f"{PACKAGE}.probes"
# Requests the file of a package, which runs at its import, and no name in it.
_ITSELF = ("",)


@dataclass(frozen=True)
class Code:
    """The code that computes a run. ``modules``: the digest of every module by its name; ``fingerprint``: a hash of all."""

    fingerprint: str
    modules: Mapping[str, str]


def targets(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Every ``_target_`` of a configuration that can change or measure a number, in ascending order."""
    found = set()
    for group, choice in config.items():
        if group in ASIDE_GROUPS or not isinstance(choice, Mapping):
            continue
        for part in choice.values() if group in LIST_GROUPS else (choice,):
            if isinstance(part, Mapping) and "_target_" in part:
                found.add(str(part["_target_"]))
    return tuple(sorted(found))


def fingerprint(config: Mapping[str, Any], root: Path | None = None) -> str:
    """The fingerprint of the code that computes ``config``, such as "3f9a1c27de0b4a55".

    root: the folder that holds the package optbench, by default the running one. For another folder, such as a checkout of an
    older commit, the result is the fingerprint of a run trained by that code.
    """
    return Sources(root).code(config).fingerprint


class Sources:
    """The source files, each read at its first use. This object does not read a file again."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = (_ROOT if root is None else Path(root)).resolve()
        self._contents: dict[str, bytes | None] = {}
        self._places: dict[str, Path | None] = {}
        self._tops: dict[str, list[Path]] = {}
        self._codes: dict[tuple[str, ...], Code] = {}

    def read_package(self) -> None:
        """Read the whole package now, for a process that has just imported it and will train for long."""
        for path in sorted((self._root / PACKAGE).rglob("*.py")):
            parts = path.relative_to(self._root).with_suffix("").parts
            self._content(".".join(parts[:-1] if parts[-1] == "__init__" else parts))

    def code(self, config: Mapping[str, Any]) -> Code:
        """The code that computes ``config``; the same object for the same targets."""
        named = targets(config)
        known = self._codes.get(named)
        if known is None:
            modules = _Closure(self, named).modules()
            text = "\n".join(f"{name} {digest}" for name, digest in sorted(modules.items()))
            known = Code(hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), modules)
            self._codes[named] = known
        return known

    def source(self, module: str) -> Source | None:
        """The source of ``module``; None for a library and for a folder without __init__.py."""
        content = self._content(module)
        return None if content is None else read(content)

    def _content(self, module: str) -> bytes | None:
        if module not in self._contents:
            path = self.path(module)
            try:
                self._contents[module] = None if path is None or path.is_dir() else path.read_bytes()
            except OSError:
                self._contents[module] = None
        return self._contents[module]

    def path(self, module: str) -> Path | None:
        """The file of ``module``, or its folder if that has no __init__.py; None if it is neither optbench's nor the user's."""
        if module not in self._places:
            self._places[module] = self._find(module)
        return self._places[module]

    def is_package(self, module: str) -> bool:
        """True if ``module`` is a folder, with or without an __init__.py."""
        path = self.path(module)
        return path is not None and (path.name == "__init__.py" or path.is_dir())

    def _find(self, module: str) -> Path | None:
        top, *rest = module.split(".")
        for folder in self._top(top):
            if folder.is_file():
                if not rest:
                    return folder
                continue
            place = folder.joinpath(*rest)
            for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
                if file.is_file() and (rest or file.name == "__init__.py"):
                    return file
            if place.is_dir() and any(place.iterdir()):
                return place
        return None

    def _top(self, name: str) -> list[Path]:
        """The place of the first part of a dotted name: folders of a package or one file; empty for libraries."""
        if name == PACKAGE:
            return [self._root / PACKAGE]
        if name not in self._tops:
            self._tops[name] = _outside(name)
        return self._tops[name]


def _outside(name: str) -> list[Path]:
    if not name.isidentifier() or name in sys.stdlib_module_names or name in sys.builtin_module_names:
        return []
    try:
        spec = importlib.util.find_spec(name)  # imports nothing for a name without dots
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        found = [Path(place) for place in spec.submodule_search_locations]
    else:
        found = [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []
    return [place for place in found if not {*place.parts} & {"site-packages", "dist-packages"}]


class _Closure:
    """The modules that can be reached by name from the modules of the ``named`` targets and from `optbench.training.run`."""

    def __init__(self, sources: Sources, named: tuple[str, ...]) -> None:
        self.sources, self._named = sources, named
        self._with_probes = any(_is_in(target, _PROBES) for target in named)
        self._bound: dict[str, dict[str, tuple[str, ...]]] = {}
        self._digests: dict[str, str] = {}
        self._asked: set[tuple[str, tuple[str, ...]]] = set()
        self._left: list[tuple[str, tuple[str, ...]]] = []

    def modules(self) -> dict[str, str]:
        """Their digests by their names; "absent" for the module of a target that cannot be found here."""
        self._ask(_START, ())
        for target in self._named:
            module, _, name = target.rpartition(".")
            self._ask(module, (name,))
            if not self._counts_nothing(module) and self.sources.path(module) is None and not _is_library(module):
                self._digests[module] = "absent"
        while self._left:
            self._resolve(*self._left.pop())
        return self._digests

    def _ask(self, module: str, names: tuple[str, ...]) -> None:
        if (module, names) not in self._asked:
            self._asked.add((module, names))
            self._left.append((module, names))

    def _counts_nothing(self, module: str) -> bool:
        if _is_in(module, _PROBES):
            return not self._with_probes or _is_in(module, f"{_PROBES}.drawing")
        return module not in _COUNTS and any(_is_in(module, aside) for aside in ASIDE)

    def _resolve(self, module: str, names: tuple[str, ...]) -> None:
        """Follow ``module.name.name``: to a module of that name, to the origin of an imported name, or to ``module`` itself."""
        if names and names != _ITSELF and self.sources.is_package(module):
            inner = f"{module}.{names[0]}"
            if self.sources.path(inner) is not None:
                self._ask(inner, names[1:])
                return
            imports = self._imports(module)
            for place in imports.get(names[0], ()):
                self._follow(place, names[1:])
            if names[0] in imports:
                return
            for place in imports.get("*", ()):
                self._follow(place, names)
        self._take(module, whole=not names)

    def _follow(self, place: str, names: tuple[str, ...]) -> None:
        module, _, attribute = place.partition(":")
        self._ask(module, (*([attribute] if attribute else []), *names))

    def _imports(self, module: str) -> dict[str, tuple[str, ...]]:
        """The origins of a module's imported names, "module" or "module:attribute"; key "": imports that bind no name."""
        if module not in self._bound:
            found: dict[str, tuple[str, ...]] = {}
            source = self.sources.source(module)
            for entry in source.imports if source is not None else ():
                origin = self._absolute(module, entry.module)
                star = entry.attribute == "*"
                place = origin if entry.attribute is None or star else f"{origin}:{entry.attribute}"
                name = "*" if star else entry.name
                if place not in found.get(name, ()):
                    found[name] = (*found.get(name, ()), place)
            self._bound[module] = found
        return self._bound[module]

    def _absolute(self, module: str, name: str) -> str:
        dots = len(name) - len(name.lstrip("."))
        if not dots:
            return name
        parts = module.split(".")
        up = dots - self.sources.is_package(module)
        return ".".join([*parts[: len(parts) - up], *filter(None, [name.lstrip(".")])])

    def _take(self, module: str, whole: bool) -> None:
        """Count ``module`` itself, and follow the imports that it uses; of a package that is ``whole``, also its re-exports."""
        if self._counts_nothing(module):
            return
        source = self.sources.source(module)
        for parent in _parents(module):
            self._ask(parent, _ITSELF)  # importing a module first runs the files of its packages
        if source is None:
            return
        imports = self._imports(module)
        uses: dict[str, set[tuple[str, ...]]] = {}
        for chain in source.used:
            first, *attributes = chain.split(".")
            if first in imports:
                uses.setdefault(first, set()).add(tuple(attributes))
        hands_on = self.sources.is_package(module) and not whole
        lines = []
        for name, places in sorted(imports.items()):
            if name in uses:
                lines += [f"{name}={place}" for place in places]
            elif hands_on and name not in ("", "*"):
                continue
            for place in places:
                for names in uses.get(name, {()}):
                    self._follow(place, names)
        text = "\n".join([source.digest, *lines])
        self._digests[module] = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _is_library(module: str) -> bool:
    """True if the first part of a dotted name is part of Python or importable here."""
    top = module.partition(".")[0]
    try:
        return top in sys.stdlib_module_names or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module
