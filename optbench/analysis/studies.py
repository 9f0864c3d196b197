"""The analyses of the studies: experiments/NAME/analysis.py, found by the name of the experiment and loaded by its path."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from optbench.analysis.findings import Findings
from optbench.analysis.study import Study
from optbench.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]


def experiments_dir() -> Path:
    """The folder of studies: $OPTBENCH_EXPERIMENTS, or the checkout's experiments/, or the one packaged in a wheel."""
    if "OPTBENCH_EXPERIMENTS" in os.environ:
        return Path(os.environ["OPTBENCH_EXPERIMENTS"]).resolve()
    checkout = _PACKAGE.parent
    # As for the choices: an editable install may hold a stale packaged copy too, so the checkout comes first.
    return checkout / "experiments" if (checkout / "conf" / "config.yaml").is_file() else _PACKAGE / "experiments"


def analysis_of(name: str) -> Callable[[Study], Findings] | None:
    """The function ``analyse`` of the study ``name``; None where it has no folder with an analysis.py.

    Modules beside it can be imported from it. Raises UserError where the file has no such function.
    """
    path = experiments_dir() / name / "analysis.py"
    if not path.is_file():
        return None
    specification = importlib.util.spec_from_file_location(f"optbench_experiment_{name}", path)
    if specification is None or specification.loader is None:
        raise UserError(f"{path}: is not a Python file that can be loaded")
    module = importlib.util.module_from_spec(specification)
    # Data classes look up the module that they are defined in.
    sys.modules[specification.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    analyse = getattr(module, "analyse", None)
    if analyse is None:
        raise UserError(f"{path}: has no function analyse(study); see optbench.analysis.findings for what it returns")
    return analyse


def study_of_script(name: str, description: str) -> Study:
    """The study ``name`` for a script beside its analysis, which is called with [--scale SCALE] [--results-dir DIR].

    description: for --help. Ends the process with one message where the words are wrong, or there is no such sweep.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", help="smoke, laptop, full (default: the sweep made last)")
    parser.add_argument("--results-dir", default="results", metavar="DIR")
    given = parser.parse_args()
    try:
        return Study.read(given.results_dir, name, given.scale)
    except UserError as error:
        parser.exit(2, f"optbench: {error}\n")
