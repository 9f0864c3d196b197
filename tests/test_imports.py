"""Imports run downward only, and no torch where an answer is due within a second."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "optbench"

# "Imports run downward only": every module, or package of modules, stands on one floor and imports from lower ones.
FLOORS = [
    ["errors", "randomness", "moved"],
    ["system", "config.yaml_text", "config.schema", "data.extras", "analysis.statistics.intervals"],
    ["analysis.statistics.sequential", "analysis.statistics.shares"],
    ["analysis.statistics.crossings", "analysis.statistics.survival"],
    ["data.locate"],
    ["config.durations", "config.tuning", "data.spec", "data.sources", "theory"],
    # Mathematics on arrays, which a search uses as well as the analysis of its results.
    ["analysis.laws.optima", "analysis.laws.scaling_laws"],
    ["data.folders", "data.held_out", "data.npz", "data.table_files"],
    ["data.own_files"],
    ["data.fingerprints"],
    ["data", "config"],
    ["schedules", "models", "store", "provenance.environment"],
    ["provenance"],
    ["sweep", "testing.card"],
    ["objective", "analysis"],
    ["curvature"],
    ["optimizers", "schedules.hessian", "communication"],
    ["selection"],
    ["training.sharding"],
    ["training.averaging", "training.checkpointing", "training.launch_environment", "training.measured"],
    ["training.reducer", "trackers"],
    ["training.meeting", "training.task"],
    ["training.evaluation_weights"],
    ["training.evaluation", "probes"],
    ["training.recorder", "training.ranks"],
    ["training.build", "cli"],
    ["training", "probes.posthoc"],
    ["sweep.worker.process", "training.follower", "testing"],
    ["cli.train"],
    ["library", "__main__"],
]
FLOOR = {f"optbench.{name}": floor for floor, names in enumerate(FLOORS) for name in names}
WITHOUT_TORCH = [
    "library",
    "config",
    "config.durations",
    "config.scaling",
    "config.schema",
    "config.tuning",
    "store",
    "store.claims",
    "provenance",
    "schedules",
    "sweep.launch",
    "sweep.launchers.dispatch",
    "sweep.worker.supervisor",
    "cli",
    "system",
    "system.memory",
    "testing",
    "testing.card",
    "theory",
    "trackers",
    "training.launch_environment",
    "analysis.comparison",
    "analysis.charts.probe_files",
    "analysis.laws.gap",
    "analysis.report.study_page",
    "analysis.statistics.crossings",
    "analysis.statistics.inclusion",
    "analysis.statistics.rank_correlation",
    "analysis.statistics.ranks",
    "analysis.statistics.selection",
    "analysis.statistics.sequential",
    "analysis.statistics.survival",
]
HEAVY = ["torch", "pytorch_lightning", "lightning_fabric"]


def modules():
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imported(name):
    """The modules of the package that ``name`` imports anywhere, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return {module for module in found if module.partition(".")[0] == "optbench"}


def place(name):
    """The entry of the table that ``name`` belongs to: its own, or its package's."""
    while name not in FLOOR:
        assert "." in name, f"a module that the table of floors does not know: {name}"
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("name", [name for name in MODULES if name != "optbench"])
def test_imports_run_downward_only(name):
    for other in imported(name) - {"optbench"}:
        assert other in MODULES, f"{name} imports {other}, which does not exist"
        if place(other) != place(name):
            assert FLOOR[place(other)] < FLOOR[place(name)], f"{name} imports {other}, which does not stand below it"


def test_no_two_modules_import_each_other():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(imported(name)):
            # A package's own __init__ runs before its modules anyway.
            if not name.startswith(f"{other}."):
                visit(other)
        path.pop()
        done.add(name)

    for name in MODULES:
        visit(name)


def test_the_table_of_floors_has_no_names_of_the_past():
    assert {place(name) for name in MODULES if name != "optbench"} == FLOOR.keys()


def heavy_after(program, folder):
    """Which of the heavy packages are imported after ``program`` ran, in a process of its own."""
    report = f"\nimport sys\nprint('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program + report], capture_output=True, text=True, timeout=120, cwd=folder, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].removeprefix("loaded:").split()


def test_what_answers_within_a_second_imports_no_torch(tmp_path):
    program = "\n".join(f"import optbench.{name}" for name in WITHOUT_TORCH)
    assert heavy_after(program, tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["status"],
        ["-m", "dataset=digits", "seed=0,1", "dry_run=true"],
        ["--help"],
        ["sync"],
        ["-m", "optimizer=adam", "trial=3", "batch=512", "scaling=auto", "schedule=cosine", "dry_run=true"],
    ],
    ids=" ".join,
)
def test_commands_that_need_no_torch_import_none(words, tmp_path):
    assert heavy_after(f"from optbench.__main__ import main\nassert main({words}) == 0", tmp_path) == []


def test_the_look_at_what_is_loaded_can_see_torch(tmp_path):
    assert "torch" in heavy_after("import optbench.randomness", tmp_path)


def test_no_two_test_files_have_one_name():
    """pytest imports a test file by its bare name, and refuses the second of one name where one process collects both."""
    names = [
        path.name for path in Path(__file__).parent.rglob("*.py") if path.name not in ("__init__.py", "conftest.py")
    ]
    assert {name for name in names if names.count(name) > 1} == set()
