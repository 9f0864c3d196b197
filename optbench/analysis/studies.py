"""Find and load the analyses of studies: experiments/NAME/analysis.py, by the name of the experiment."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from optbench.analysis.findings import Findings
from optbench.analysis.study import Study
from optbench.config import place_of
from optbench.config.children import EXPERIMENTS
from optbench.config.search_path import places, same_content
from optbench.errors import UserError


def study_folders() -> tuple[Path, ...]:
    """The folders of studies, in order of precedence.

    They are experiments/ beside every place of choices, optbench's own first; the folders of $OPTBENCH_EXPERIMENTS come before
    those of the user's own places.
    """
    ours, *own = (place.folder.parent / "experiments" for place in places())
    named = (Path(name) for name in os.environ.get(EXPERIMENTS, "").split(os.pathsep) if name)
    return tuple(dict.fromkeys(folder.resolve() for folder in (ours, *named, *own)))


def studies() -> dict[str, Path]:
    """The folder of each study with an analysis.py, by its name.

    Raises UserError if two folders offer a study of the same name with different analyses.
    """
    found: dict[str, Path] = {}
    for folder in study_folders():
        for path in sorted(folder.glob("*/analysis.py")):
            first = found.setdefault(path.parent.name, path.parent)
            if not same_content(first / path.name, path):
                raise UserError(
                    f"experiment={path.parent.name}: has two analyses, {first / path.name} and {path}; accepted: another name "
                    "for one's own"
                )
    return dict(sorted(found.items()))


def folder_of(name: str) -> Path | None:
    """The folder of the study of the experiment ``name``; None if there is none with an analysis.py.

    It is the study of the same name, or else the one beside the experiment's file whose name it extends:
    second_order_convnet, in conf/experiment, belongs to experiments/second_order.
    """
    known = studies()  # a name from a sweep's files may be any path
    if name in known:
        return known[name]
    try:
        beside = place_of("experiment", name).folder.parent / "experiments"
    except KeyError:
        return None
    while "_" in name:
        name = name.rpartition("_")[0]
        if name in known and known[name].parent == beside.resolve():
            return known[name]
    return None


def analysis_of(name: str) -> Callable[[Study], Findings] | None:
    """The function ``analyse`` for the experiment ``name``; None if its study has no analysis.py.

    The file can import modules beside it. Raises UserError if the file has no such function.
    """
    folder = folder_of(name)
    if folder is None:
        return None
    path = folder / "analysis.py"
    specification = importlib.util.spec_from_file_location(f"optbench_experiment_{name}", path)
    if specification is None or specification.loader is None:
        raise UserError(f"{path}: is not a Python file that can be loaded")
    module = importlib.util.module_from_spec(specification)
    # Data classes look up the module in which they are defined.
    sys.modules[specification.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    analyse: Callable[[Study], Findings] | None = getattr(module, "analyse", None)
    if analyse is None:
        raise UserError(f"{path}: has no function analyse(study); see optbench.analysis.findings for what it returns")
    return analyse


def study_of_script(name: str, description: str) -> Study:
    """The study ``name`` for a script beside its analysis, which is called with ``[--scale SCALE] [--results-dir DIR]``.

    description: for --help. Ends the process with one message if the words are wrong, or if there is no such sweep.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", help="smoke, laptop, full (default: the sweep made last)")
    parser.add_argument("--results-dir", default="results", metavar="DIR")
    given = parser.parse_args()
    try:
        return Study.read(given.results_dir, name, given.scale)
    except UserError as error:
        parser.exit(2, f"optbench: {error}\n")
