"""`new`: what it writes is clean, runs at once as it stands, and overwrites nothing."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optbench import config as configuration
from optbench.__main__ import main
from optbench.cli.new import KINDS
from optbench.config import search_path
from optbench.store import load

ROOT = Path(__file__).parents[2]
# Each with the words of `new`; no two tests may import two modules of one name.
MADE = {
    "optimizer": ["optimizer", "fresh_momentum"],
    "subclass": ["optimizer", "fresh_adamw", "--base", "torch.optim.AdamW"],
    "subclass of a choice": ["optimizer", "fresh_lion", "--base", "lion"],
    "subclass with a coupled decay": ["optimizer", "fresh_sgd", "--base", "sgd"],
    "subclass of another class": ["optimizer", "fresh_sparse", "--base", "torch.optim.SparseAdam"],
    "model": ["model", "fresh_net"],
    "dataset": ["dataset", "fresh_lines"],
    "probe": ["probe", "fresh_angle"],
    "experiment": ["experiment", "fresh_widths"],
}
TRAINED = {
    "optimizer": ["optimizer=fresh_momentum", "model=mlp", "dataset=digits"],
    "subclass": ["optimizer=fresh_adamw", "model=mlp", "dataset=digits"],
    "subclass of a choice": ["optimizer=fresh_lion", "trial=1", "model=mlp", "dataset=digits"],
    "model": ["model=fresh_net", "dataset=digits"],
    "dataset": ["dataset=fresh_lines", "dataset.examples=100", "batch=50", "model=mlp"],
    "probe": ["probe=fresh_angle", "model=mlp", "dataset=digits"],
}
QUIET = ["tracker=none", "progress=false", "budget.steps=2", "evaluate_train=50"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, and no settings."""
    for name in ("OPTBENCH_CONF", "OPTBENCH_DATA", "OPTBENCH_EXPERIMENTS", "OPTBENCH_PATH", "RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which everything was made."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in MADE.values():
            assert main(["new", *words]) == 0
    return folder


def files():
    return {path.as_posix() for path in Path().rglob("*") if path.is_file()}


def refused(capsys, *words):
    """The one message of a command that is refused and writes nothing."""
    before = files()
    capsys.readouterr()
    assert main(["new", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("optbench: ")
    assert err.count("\n") == 1
    assert files() == before
    return err


# ---- what is written ------------------------------------------------------------------------------------------------------


def test_the_code_the_choice_and_the_test_are_written_and_told(here, capsys):
    assert main(["new", "optimizer", "my_sgd"]) == 0
    assert files() == {"my_sgd.py", "conf/optimizer/my_sgd.yaml", "tests/test_my_sgd.py"}
    written, commands = capsys.readouterr().out.split("\n\n")
    assert written.splitlines() == [
        "written: my_sgd.py",
        "written: conf/optimizer/my_sgd.yaml",
        "written: tests/test_my_sgd.py",
    ]
    assert commands.splitlines() == [
        "python -m optbench --config-dir conf optimizer=my_sgd model=mlp dataset=digits budget.steps=20",
        "python -m pytest tests/test_my_sgd.py",
    ]
    assert 'certify("optimizer=my_sgd").check()' in Path("tests/test_my_sgd.py").read_text()


def test_a_subclass_has_the_options_of_the_choice_of_its_base(made, monkeypatch):
    monkeypatch.chdir(made)
    configuration.look_in(["conf"])
    mine, theirs = (configuration.read_choice("optimizer", name) for name in ("fresh_adamw", "adamw"))
    assert configuration.options(mine) == configuration.options(theirs)
    assert mine["info"]["search_space"] == theirs["info"]["search_space"]


def test_a_class_of_several_choices_is_that_of_its_name(here):
    # torch.optim.SGD is that of three choices.
    assert main(["new", "optimizer", "my_sgd", "--base", "torch.optim.SGD"]) == 0
    assert Path("conf/optimizer/my_sgd.yaml").read_text().startswith("defaults: [sgd] ")


def test_a_class_without_a_choice_gives_its_numbers_as_options(made, monkeypatch):
    monkeypatch.chdir(made)
    configuration.look_in(["conf"])
    choice = configuration.read_choice("optimizer", "fresh_sparse")
    expected = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    assert configuration.options(choice) == expected


def test_into_a_package_that_is_to_be_made(here, capsys):
    assert main(["new", "optimizer", "swift", "--package", "our_lab.optimizers"]) == 0
    assert files() == {
        "our_lab/__init__.py",
        "our_lab/optimizers/__init__.py",
        "our_lab/optimizers/swift.py",
        "our_lab/optimizers/conf/optimizer/swift.yaml",
        "tests/test_swift.py",
    }
    command = capsys.readouterr().out.split("\n\n")[1].splitlines()[0]
    assert main([*command.split()[3:], *QUIET]) == 0


def test_into_a_package_that_is_there_below_src(here, monkeypatch):
    Path("src/their_lab").mkdir(parents=True)
    Path("src/their_lab/__init__.py").write_text("VERSION = 1\n")
    monkeypatch.syspath_prepend(here / "src")  # where an editable installation has put it
    for words in (["model", "lean", "--package", "their_lab"], ["experiment", "lean_widths", "--package", "their_lab"]):
        assert main(["new", *words]) == 0
    assert {"src/their_lab/lean.py", "src/their_lab/experiments/lean_widths/analysis.py"} < files()
    assert Path("src/their_lab/__init__.py").read_text() == "VERSION = 1\n"
    assert not Path("src/__init__.py").exists()
    words = ["--config-dir", "src/their_lab/conf", "model=lean", "dataset=digits", "dry_run=true"]
    assert main(words) == 0


def test_into_a_checkout_of_optbench(here, monkeypatch, capsys):
    monkeypatch.setattr(configuration, "conf_dir", lambda: here / "conf")
    for kind in KINDS:
        assert main(["new", kind, "swift"]) == 0
    assert files() == {
        *(f"optbench/{folder}/swift.py" for folder in ("optimizers", "models", "data", "probes")),
        *(f"conf/{kind}/swift.yaml" for kind in KINDS),
        *(f"tests/{folder}/test_swift.py" for folder in ("optimizers", "models", "data", "probes", "experiments")),
        "experiments/swift/README.md",
        "experiments/swift/analysis.py",
    }
    assert "_target_: optbench.optimizers.swift.Swift\n" in Path("conf/optimizer/swift.yaml").read_text()
    assert not [path for path in Path("tests").rglob("*.py") if "OPTBENCH_CONF" in path.read_text()]
    assert "--config-dir" not in capsys.readouterr().out


def test_into_another_folder(here, capsys):
    assert main(["new", "probe", "my_probe", "--folder", "not there yet"]) == 0
    assert "not there yet/my_probe.py" in files()
    assert "\ncd 'not there yet'\npython -m optbench --config-dir conf probe=my_probe " in capsys.readouterr().out


# ---- what is written is clean ---------------------------------------------------------------------------------------------


def checked(program, *words, cwd):
    if importlib.util.find_spec(program) is None:
        pytest.skip(f"{program} is not installed")
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    command = [sys.executable, "-m", program, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.parametrize("words", [["check"], ["format", "--diff"]], ids=" ".join)
@pytest.mark.parametrize("name", ["x", "name_that_is_as_long_as_a_name_can_be"])
def test_ruff_has_nothing_to_say(words, name, here):
    for kind, *_, options in ([*made[:2], made[2:]] for made in MADE.values()):
        assert main(["new", kind, f"{name}{len(files()):02}", *options]) == 0
    done = checked("ruff", *words, "--no-cache", "--config", ROOT / "pyproject.toml", ".", cwd=here)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow  # half a minute
def test_mypy_has_nothing_to_say(made, tmp_path):
    # torch gives the step of SparseAdam no types.
    paths = sorted(path for path in made.rglob("*.py") if path.parent.name != "tests" and "sparse" not in path.name)
    options = ["--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path]
    done = checked("mypy", *options, *paths, cwd=made)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- it runs at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRAINED)
def test_it_trains_as_it_stands(kind, made, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(made)
    words = ["--config-dir", "conf", *TRAINED[kind], *QUIET, f"results_dir={tmp_path}"]
    assert main([*words, "dry_run=true"]) == 0
    assert "new; dry_run=true" in capsys.readouterr().out
    assert main(words) == 0, capsys.readouterr().err
    [run] = load(tmp_path).to_dict("records")
    assert run["status"] == "done"
    if kind == "probe":
        assert -1 <= run["fresh_angle_cosine"] <= 1
    if kind == "subclass":
        assert run["optimizer"] == "fresh_adamw"


def test_the_experiment_is_planned_as_it_stands(made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    words = ["-m", "--config-dir", "conf", "experiment=fresh_widths", "dry_run=true"]
    assert main([*words, "scale=smoke"]) == 0
    assert "8 runs: 8 new" in capsys.readouterr().out
    assert main([*words, "scale=laptop"]) == 0
    assert "50 runs: 50 new" in capsys.readouterr().out


@pytest.mark.slow  # it starts workers
def test_the_written_tests_pass_as_they_stand(made, tmp_path):
    # tests/slurm/test_empty_folder.py certifies the other kinds; the gradients of no model here are sparse.
    tests = [path for path in sorted((made / "tests").iterdir()) if "sparse" not in path.name]
    options = ["-q", f"--basetemp={tmp_path / 'temporary'}", "-k", "not promised or lines or sgd"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *options, *map(str, tests)]
    done = subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- what is refused ------------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_overwritten(here, capsys):
    Path("my_sgd.py").write_text("mine\n")
    assert "my_sgd.py: is there already, and is not overwritten" in refused(capsys, "optimizer", "my_sgd")
    assert Path("my_sgd.py").read_text() == "mine\n"
    Path("my_sgd.py").unlink()
    Path("my_sgd.py").symlink_to("nowhere.py")
    assert "is there already" in refused(capsys, "optimizer", "my_sgd")
    Path("my_sgd.py").unlink()
    assert main(["new", "optimizer", "my_sgd"]) == 0
    assert "optimizer=my_sgd is there already, " in refused(capsys, "optimizer", "my_sgd")
    assert "my_sgd.py: is there already" in refused(capsys, "model", "my_sgd")  # whose module has that name


def test_where_a_folder_cannot_be_made_nothing_is_written(here, capsys):
    Path("conf").write_text("no folder\n")
    assert "conf" in (message := refused(capsys, "optimizer", "my_sgd"))
    assert "cannot be written (" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer", "adam"], "optimizer=adam is there already"),
        (["experiment", "first_order"], "experiment=first_order is there already"),
        (["experiment", "second_order"], "experiment=second_order is there already"),  # a study of several experiments
        (["optimizer", "My_Adam"], "accepted: at most 40 small letters, digits and _, the first a letter"),
        (["optimizer", "../adam2"], "is no name"),
        (["optimizer", "2adam"], "is no name"),
        (["optimizer", "_adam"], "is no name"),
        (["optimizer", "größer"], "is no name"),
        (["optimizer", "a" * 41], "is no name"),
        (["optimizer", "lambda"], "is a word of Python"),
        (["optimizer", "none"], "is a word of Python"),
        (["optimizer", "true"], "is a word of Python"),
        (["optimizer", "yes"], "is a word of Python, YAML"),
        (["optimizer", "nan"], "is a word of Python, YAML, Hydra"),
        (["model", "json"], "import json imports "),
        (["model", "math"], "import math imports "),
        (["model", "torch"], "import torch imports "),
        (["model", "optbench"], "import optbench imports "),
        (["model", "tensor"], "the class Tensor would have the name of another one"),
        (["probe", "measurement"], "the class Measurement would have the name of another one"),
        (["optimiser", "mine"], "new optimiser: no such kind; did you mean optimizer?"),
        (["schedule", "mine"], "new schedule: no such kind; "),
        (["optimizer"], "the following arguments are required: NAME"),
        (["model", "mine", "--base", "adam"], "--base adam: is for optimizers only"),
        (["optimizer", "mine", "--base", "adan"], "--base adan: no such optimizer; did you mean "),
        (["optimizer", "mine", "--base", "kfac"], "--base kfac: is no class that a template can derive from"),
        (["optimizer", "mine", "--base", "torch.optim.LBFGS"], "--base lbfgs: is no class that a template can derive"),
        (["optimizer", "mine", "--base", "zoo"], "--base zoo: is no class that a template can derive from"),
        (["optimizer", "mine", "--base", "torch.optim.Adan"], "torch.optim.Adan: cannot be imported"),
        (["optimizer", "mine", "--base", "torch.nn.Linear"], "is not a subclass of torch.optim"),
        (["optimizer", "mine", "--base", "torch.optim.Optimizer"], "has no argument lr with a default"),
        (["optimizer", "mine", "--package", "torch"], "--package torch: import torch imports "),
        (["optimizer", "mine", "--package", "json"], "--package json: import json imports "),
        (["optimizer", "mine", "--package", "sys"], "--package sys: import sys imports built-in"),
        (["optimizer", "mine", "--package", "a/b"], "--package a/b: is no name of a package"),
        (["optimizer", "mine", "--folder", " "], "--folder"),
        (["optimizer", "mine", "--folder", "file"], "cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(words, message, here, capsys):
    Path("file").write_text("no folder\n")
    assert message in refused(capsys, *words)


def test_a_folder_of_ones_own_is_no_module(here):
    Path("swift").mkdir()
    Path("swift/notes.txt").write_text("")
    assert main(["new", "model", "swift"]) == 0
    assert main(["--config-dir", "conf", "model=swift", "dataset=digits", "dry_run=true"]) == 0


def test_it_forgets_the_folder_afterwards(here):
    before = search_path.places()
    assert main(["new", "model", "heron"]) == 0
    assert main(["new", "optimizer", "herons", "--config-dir", "conf"]) == 0
    assert search_path.places() == before
