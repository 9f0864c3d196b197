"""The wheel: what a user without a checkout gets."""

import zipfile
from pathlib import Path

import pytest

import optbench
from tests.wheels import run

CHECKOUT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def installed(from_wheel, tmp_path_factory):
    """The environment in which the wheel is installed, and an empty folder to work in."""
    return from_wheel, tmp_path_factory.mktemp("elsewhere")


def tracked(folder):
    """The files below ``folder`` that are neither compiled nor hidden, by their names in the checkout."""
    return {
        str(path.relative_to(CHECKOUT))
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_it_holds_the_package_the_choices_and_the_shipped_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"optbench/{name}" for name in tracked("conf")} <= names
    assert tracked("optbench") <= names
    assert [name for name in names if "digits" in name and not name.endswith((".py", ".yaml"))]
    assert [name for name in names if "data/" in name and name.endswith((".gz", ".xz", ".zip", ".txt", ".npz", ".bz2"))]
    assert tracked("hydra_plugins") <= names
    known = ("optbench", "hydra_plugins", f"optbench-{optbench.__version__}.dist-info")
    assert not [name for name in names if name.split("/")[0] not in known]


def test_the_package_in_use_is_the_installed_one(installed):
    environment, elsewhere = installed
    program = "import optbench.config as config; print(config.__file__, config.conf_dir(), sep='\\n')"
    file, conf = run(["-c", program], elsewhere, **environment).split()
    assert Path(file).is_relative_to(environment["PYTHONPATH"])
    assert Path(conf) == Path(environment["PYTHONPATH"]).resolve() / "optbench" / "conf"


def test_its_version_is_that_of_the_package(installed):
    environment, elsewhere = installed
    program = (
        "from importlib.metadata import version; import optbench; print(version('optbench'), optbench.__version__)"
    )
    assert run(["-c", program], elsewhere, **environment).split() == [optbench.__version__] * 2


def test_it_lists_its_choices(installed):
    environment, elsewhere = installed
    out = run(["-m", "optbench", "list", "optimizers"], elsewhere, **environment)
    for path in (CHECKOUT / "conf" / "optimizer").glob("[!_]*.yaml"):
        assert f"\n{path.stem} " in out


@pytest.mark.parametrize(
    "words", [["dataset=digits", "model=mlp"], ["dataset=text", "model=char_lstm", "dataset.train_limit=200"]]
)
def test_it_trains_on_the_data_that_it_ships(words, installed):
    environment, elsewhere = installed
    words = [*words, "budget.steps=2", "tracker=none", "evaluate_train=200"]
    out = run(["-m", "optbench", *words], elsewhere, **environment)
    assert ": done\n" in out
    assert [path.name for path in elsewhere.iterdir()] == ["results"]


def test_its_sweeper_is_found(installed):
    environment, elsewhere = installed
    words = ["-m", "dataset=digits", "model=mlp", "seed=0,1", "dry_run=true", "results_dir=sweep"]
    assert "2 runs: 2 new; dry_run=true" in run(["-m", "optbench", *words], elsewhere, **environment)
