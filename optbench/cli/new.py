"""`new`: write an optimizer, a model, a dataset, a probe or an experiment of one's own, to begin with one that runs.

The files are templates in templates/KIND; where they go is a `Layout`.
"""

import ast
import importlib.util
import keyword
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from optbench import config as configuration
from optbench.cli.new_base import Base
from optbench.cli.parser import Parser
from optbench.config.yaml_text import read_yaml
from optbench.errors import UserError, nearest

if TYPE_CHECKING:
    from jinja2 import Environment

_DESCRIPTION = """\
Write an optimizer, a model, a dataset, a probe or an experiment of your own: the code, the choice (a YAML file) and a test. They
run at once, and are there to be changed. Nothing that exists is overwritten.

  python -m optbench new optimizer my_sgd                          from scratch
  python -m optbench new optimizer my_adamw --base adamw           a subclass, which has the options of adamw
  python -m optbench new model my_net --package my_package         in my_package/, with conf/ in it
"""
KINDS = ("optimizer", "model", "dataset", "probe", "experiment")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LONGEST_NAME = 40
# Words of Hydra's grammar that it reads as numbers, and a file that pytest reads as its own.
_RESERVED = ("nan", "inf", "conftest")
# The commands that run it at once.
_COMMANDS = {
    "optimizer": ["{conf}optimizer={name} model=mlp dataset=digits budget.steps=20"],
    "model": ["{conf}model={name} dataset=digits budget.steps=20"],
    "dataset": ["{conf}dataset={name} model=mlp budget.steps=20"],
    "probe": ["{conf}probe={name} model=mlp dataset=digits budget.steps=20"],
    "experiment": ["-m {conf}experiment={name} scale=smoke", "report {conf}{name} --scale smoke"],
}
# Where the code and the tests of each kind are in a checkout of optbench.
_IN_CHECKOUT = {"optimizer": "optimizers", "model": "models", "dataset": "data", "probe": "probes"}


@dataclass(frozen=True)
class Layout:
    """The places of the files.

    root: the folder from which the commands are started. Relative to it: code, the folder of the module; conf, that of the
    choices; tests. package: the dotted name of what ``code`` is, with a dot at its end; empty where it is no package.
    own: whether the choices are the user's own, of which every command has to be told.
    """

    root: Path
    code: Path
    conf: Path
    tests: Path
    package: str
    own: bool = True

    @classmethod
    def of(cls, kind: str, root: Path, package: str | None) -> "Layout":
        """The layout of a checkout of optbench if ``root`` is one; else of ``package`` in it, or of files side by side."""
        if (root / "conf").resolve() == configuration.conf_dir().resolve():
            folder = _IN_CHECKOUT.get(kind, "experiments")
            return cls(
                root, Path("optbench", folder), Path("conf"), Path("tests", folder), f"optbench.{folder}.", own=False
            )
        if package is None:
            return cls(root, Path(), Path("conf"), Path("tests"), "")
        code = _package_folder(root, package)
        return cls(root, code, code / "conf", Path("tests"), f"{package}.")

    @property
    def experiments(self) -> Path:
        """The folder of the studies, where `optbench.analysis.studies` looks for it: beside that of the choices."""
        return self.conf.parent / "experiments"

    def files(self, kind: str, name: str) -> dict[str, Path]:
        """The files to write: each template with its place below ``root``."""
        files = {"choice.yaml": self.conf / kind / f"{name}.yaml", "test.py": self.tests / f"test_{name}.py"}
        if kind == "experiment":
            folder = self.experiments / name
            return {"README.md": folder / "README.md", "analysis.py": folder / "analysis.py"} | files
        return {"code.py": self.code / f"{name}.py"} | files


def new(words: Sequence[str]) -> int:
    """`new KIND NAME`: write the files, and print them with the commands that run them."""
    parser = Parser(prog="optbench new", description=_DESCRIPTION)
    parser.add_argument("kind", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("name", metavar="NAME", help="of the choice and of its module: small letters, digits and _")
    parser.add_argument(
        "--base",
        metavar="OPTIMIZER",
        help="an optimizer to derive from: a choice, or a class such as torch.optim.AdamW",
    )
    parser.add_argument("--package", help="write into this package, in the folder, and not beside each other")
    parser.add_argument(
        "--folder", default=".", metavar="DIR", help="from which the commands are started (default: this one)"
    )
    given = parser.parse_args(list(words))
    kind, name = given.kind, given.name
    if kind not in KINDS:
        raise UserError(f"new {kind}: no such kind; {nearest(kind, KINDS)}")
    if given.base is not None and kind != "optimizer":
        raise UserError(
            f"new {kind}: --base {given.base}: is for optimizers only; accepted: new optimizer NAME --base ..."
        )
    layout = Layout.of(kind, Path(configuration.folder(given.folder, "--folder ")), given.package)
    if layout.own and (layout.root / layout.conf).is_dir():
        configuration.look_in([layout.root / layout.conf])
    _check_name(kind, name, layout)
    base = Base.of(given.base) if given.base is not None else None
    texts = _texts(kind, name, layout, base)
    _write(texts, layout)
    for line in _said(kind, name, layout, texts):
        print(line)
    return 0


# ---- what is refused ------------------------------------------------------------------------------------------------------


def _check_name(kind: str, name: str, layout: Layout) -> None:
    """Raise UserError for a name that is none, that another choice has, or that imports another module."""
    where, other = f"new {kind} {name}", "accepted: another name"
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UserError(
            f"{where}: is no name for a module and a choice; accepted: at most {_LONGEST_NAME} small letters, digits and _, "
            "the first a letter, such as my_adam"
        )
    if any(map(keyword.iskeyword, (name, _class_name(name)))) or read_yaml(name) != name or name in _RESERVED:
        raise UserError(f"{where}: is a word of Python, YAML, Hydra or pytest; {other}, such as my_{name}")
    known = configuration.choices(kind)
    if kind == "experiment":
        from optbench.analysis.studies import studies  # pandas takes a second to import

        known = studies() | known
    if name in known:
        raise UserError(f"{where}: {kind}={name} is there already, {known[name]}; {other}, such as my_{name}")
    if kind == "experiment" or layout.package:
        return
    if (file := _imported_from(name)) is not None and not _is_in(file, layout.root):
        raise UserError(f"{where}: import {name} imports {file}; {other}, such as my_{name}")


def _imported_from(module: str) -> str | None:
    """The file that ``import module`` runs, or "built-in"; None if there is no such module, or only a folder without code."""
    try:
        spec = importlib.util.find_spec(module)  # of a name without dots it imports nothing
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None else None


def _is_in(file: str, folder: Path) -> bool:
    return Path(file).resolve().is_relative_to(folder.resolve())


def _package_folder(root: Path, package: str) -> Path:
    """The folder of ``package``, relative to ``root``: where it is imported from, or is going to be."""
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in package.split(".")):
        raise UserError(f"--package {package}: is no name of a package; accepted: such as my_package")
    top, *rest = package.split(".")
    file = _imported_from(top)
    if file is None:
        return Path(top, *rest)
    if Path(file).name != "__init__.py" or not _is_in(file, root):
        raise UserError(
            f"--package {package}: import {top} imports {file}, which is not in {root}; accepted: a package of your own in "
            "the folder, or a new name"
        )
    return Path(os.path.relpath(Path(file).resolve().parent.joinpath(*rest), root.resolve()))


# ---- what is written ------------------------------------------------------------------------------------------------------


def _class_name(name: str) -> str:
    """``my_adam`` as ``MyAdam``."""
    return "".join(part.capitalize() for part in name.split("_"))


def _texts(kind: str, name: str, layout: Layout, base: Base | None) -> dict[Path, str]:
    """The content of every file, by its place below the root."""
    known = {
        "name": name,
        "class_name": _class_name(name),
        "title": name.replace("_", " ").strip().capitalize(),
        "module": f"{layout.package}{name}",
        "conf": layout.conf.as_posix(),
        "own_folder": layout.own,
        "config_dir": _config_dir(layout),
        **(base.known() if base is not None else {}),
    }
    folder = kind if base is None else f"{kind}_subclass"
    texts = {
        path: _templates().get_template(f"{folder}/{template}.j2").render(known)
        for template, path in layout.files(kind, name).items()
    }
    for path, text in texts.items():
        if path.suffix == ".py" and known["class_name"] in _imported_names(text, of_others_than=known["module"]):
            raise UserError(
                f"new {kind} {name}: the class {known['class_name']} would have the name of another one that the file "
                f"imports; accepted: another name, such as my_{name}"
            )
    return texts


def _imported_names(text: str, of_others_than: str) -> set[str]:
    """The names that a module with this text imports, but for those from the module ``of_others_than``."""
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom))
    return {alias.name for node in nodes if getattr(node, "module", None) != of_others_than for alias in node.names}


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _write(texts: dict[Path, str], layout: Layout) -> None:
    """Write all of the files; none where one of them is there, or a folder cannot be made."""
    for path in texts:
        if os.path.lexists(layout.root / path):
            raise UserError(f"{layout.root / path}: is there already, and is not overwritten; accepted: another name")
    written = {layout.root / path: text for path, text in texts.items()}
    # The package and those that it is in; those of optbench are there, some without such a file.
    for folder in [layout.code, *layout.code.parents][: layout.package.count(".")]:
        if layout.own and not (layout.root / folder / "__init__.py").exists():
            written[layout.root / folder / "__init__.py"] = ""
    try:
        for path in written:
            path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in written.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be written ({error.strerror or error}); accepted: --folder DIR, a folder that can be "
            "written to"
        ) from error


def _said(kind: str, name: str, layout: Layout, texts: dict[Path, str]) -> list[str]:
    """The lines that the command prints: the files, and the commands that run them at once."""
    told = {"name": name, "conf": _config_dir(layout)}
    return [
        *(f"written: {layout.root / path}" for path in texts),
        "",
        *([] if layout.root.resolve() == Path.cwd() else [f"cd {shlex.quote(str(layout.root))}"]),
        *(f"python -m optbench {words.format(**told)}" for words in _COMMANDS[kind]),
        f"python -m pytest {layout.files(kind, name)['test.py'].as_posix()}",
        *([] if layout.own else ["make format", "python -m optbench list --markdown > conf/README.md"]),
    ]


def _config_dir(layout: Layout) -> str:
    """The option that offers the choices to a command, with a space behind it; empty if they are optbench's own."""
    return f"--config-dir {layout.conf.as_posix()} " if layout.own else ""
