"""Own choices: where they may lie, that every command and every process sees the same, and that a name is one file."""

import os
import shutil
import subprocess
import sys

import pytest
from hydra._internal.utils import create_config_search_path

from optbench import config as configuration
from optbench.__main__ import main
from optbench.config import children, compose, run_id
from optbench.errors import UserError

SMALL = ["dataset=digits", "model=mlp"]
THREE_LINES = "defaults: [adam]\nlearning_rate: 3e-3\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, and no own choices yet."""
    for name in ("OPTBENCH_CONF", "OPTBENCH_EXPERIMENTS", "OPTBENCH_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def write(folder, **files):
    """Choices in ``folder``, by names such as optimizer__my_adam."""
    for name, content in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


def plugin(site, name="their_choices", package="their_choices", **files):
    """An installed package with choices, whose code must not be imported by anybody who only asks for them."""
    folder = site / package
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    write(folder / "conf", **files)
    information = site / f"{name}-1.5.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (information / "entry_points.txt").write_text(f"[optbench.plugins]\n{name} = {package}\n")
    return folder


def command(capsys, *words):
    capsys.readouterr()
    status = main([*map(str, words)])
    out, err = capsys.readouterr()
    return status, " ".join(out.split()), err.strip()


WAYS = ["OPTBENCH_CONF", "--config-dir", "hydra.searchpath", "pkg", "entry point"]


@pytest.mark.parametrize("way", WAYS)
def test_a_choice_of_three_lines_is_the_same_run_whichever_way_it_is_found(way, here, tmp_path, monkeypatch, capsys):
    words = []
    if way in ("pkg", "entry point"):
        site = tmp_path / "site"
        folder = plugin(site, optimizer__my_adam=THREE_LINES)
        monkeypatch.syspath_prepend(site)
        if way == "pkg":
            shutil.rmtree(next(site.glob("*.dist-info")))
            (folder / "__init__.py").write_text("")  # Hydra imports it
            words = ["hydra.searchpath=[pkg://their_choices.conf]"]
    else:
        folder = write(here / "mine", optimizer__my_adam=THREE_LINES)
    if way == "OPTBENCH_CONF":
        monkeypatch.setenv("OPTBENCH_CONF", f"{tmp_path / 'here' / 'mine'}")
    elif way == "--config-dir":
        words = ["--config-dir", "mine"]
    elif way == "hydra.searchpath":
        words = [f"hydra.searchpath=[file://{here / 'mine'}]"]
    ours = compose([*SMALL, "optimizer=adam", "optimizer.learning_rate=3e-3"])
    expected = run_id({**ours, "optimizer": {**ours["optimizer"], "name": "my_adam"}})
    status, out, err = command(capsys, *words, *SMALL, "optimizer=my_adam", "dry_run=true")
    assert (status, out.partition(":")[0], err) == (0, expected, "")
    status, out, err = command(capsys, "-m", *words, *SMALL, "optimizer=my_adam,adam", "dry_run=true")
    assert (status, err) == (0, "")
    assert "2 runs: 2 new" in out
    assert sys.modules.pop("their_choices", None) is None or way == "pkg"


def test_folders_add_to_ours_in_their_order_and_relative_ones_are_those_of_here(here, monkeypatch):
    write(here / "one", model__mine="defaults: [mlp]\nhidden: [7]\n", model__one="defaults: [mlp]\n")
    write(here / "two", model__two="defaults: [mine]\n")
    monkeypatch.setenv("OPTBENCH_CONF", os.pathsep.join(["one", str(here / "two"), "one"]))
    ours = {path.stem for path in (configuration.conf_dir() / "model").glob("[!_]*.yaml")}
    assert list(configuration.choices("model"))[-3:] == ["mine", "one", "two"]
    assert set(configuration.choices("model")) == ours | {"mine", "one", "two"}
    # Each place may inherit from the others.
    assert configuration.read_choice("model", "two")["hidden"] == [7]
    assert [place.folder for place in configuration.own_places()] == [here / "one", here / "two"]


def test_the_commands_say_where_a_choice_comes_from(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    site = tmp_path / "site"
    plugin(site, optimizer__theirs="defaults: [sgd]\n")
    monkeypatch.syspath_prepend(site)
    write(here / "mine", optimizer__my_adam=THREE_LINES, experiment__my_sweep="# @package _global_\n# About it\n")
    _, out, err = command(capsys, "list", "optimizers", "--config-dir", "mine")
    assert f"from {here / 'mine' / 'optimizer' / 'my_adam.yaml'} (--config-dir)" in out
    theirs = site / "their_choices" / "conf" / "optimizer" / "theirs.yaml"
    assert f"from {theirs} (package their_choices 1.5)" in out
    assert out.count("; from ") == 2
    assert err == ""
    monkeypatch.setenv("OPTBENCH_CONF", "mine")
    assert (
        f"About it; from {here / 'mine' / 'experiment' / 'my_sweep.yaml'}" in command(capsys, "list", "experiment")[1]
    )
    # What documents optbench's own choices has no others.
    assert "my_adam" not in command(capsys, "list", "optimizers", "--markdown")[1]
    _, out, _ = command(capsys, "doctor")
    assert f"choices {configuration.conf_dir()} choices {here / 'mine'} (OPTBENCH_CONF)" in out
    # Of the next command nothing is left.
    monkeypatch.delenv("OPTBENCH_CONF")
    assert "my_adam" not in command(capsys, "list", "optimizers")[1]


def test_a_package_without_choices_is_named_by_doctor(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    shutil.rmtree(plugin(tmp_path / "site", optimizer__theirs="") / "conf")
    shutil.rmtree(plugin(tmp_path / "site", "gone", "not_there"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    status, out, _ = command(capsys, "doctor")
    assert status == 0
    assert "MISSING: package their_choices of their_choices: has no folder conf/" in out
    assert "MISSING: package not_there of gone: is not to be found" in out


class TestOneNameIsOneFile:
    def test_an_own_choice_with_a_name_of_ours_is_refused_where_it_would_count(self, here, monkeypatch, capsys):
        write(here / "mine", optimizer__adam=THREE_LINES.replace("adam", "sgd"), optimizer__heir="defaults: [adam]\n")
        monkeypatch.setenv("OPTBENCH_CONF", "mine")
        ours = configuration.conf_dir() / "optimizer" / "adam.yaml"
        for name in ("adam", "heir"):
            status, _, err = command(capsys, *SMALL, f"optimizer={name}", "dry_run=true")
            assert status == 2
            assert (
                f"optimizer=adam: is the name of two files, {ours} and {here / 'mine' / 'optimizer' / 'adam.yaml'};"
                in err
            )
            assert "accepted: another name for one's own, such as my_adam.yaml with 'defaults: [adam]'" in err
        assert "CANNOT BE CHOSEN: optimizer=adam: is the name" in command(capsys, "list", "optimizers")[1]
        assert command(capsys, *SMALL, "optimizer=sgd", "dry_run=true")[0] == 0

    def test_also_between_two_own_places_and_for_experiments(self, here, monkeypatch, capsys):
        experiment = "# @package _global_\n# {}\nhydra:\n  sweeper:\n    params:\n      seed: 0,1\n"
        for name in ("one", "two"):
            write(here / name, experiment__mine=experiment.format(name), optimizer__same=THREE_LINES)
        monkeypatch.setenv("OPTBENCH_CONF", f"one{os.pathsep}two")
        status, _, err = command(capsys, "-m", "experiment=mine", *SMALL, "dry_run=true")
        assert (status, "experiment=mine: is the name of two files" in err) == (2, True)
        # The same file twice is no question.
        assert command(capsys, *SMALL, "optimizer=same", "dry_run=true")[0] == 0

    def test_a_copy_of_ours_with_one_choice_more(self, here, monkeypatch, capsys):
        shutil.copytree(configuration.conf_dir(), here / "copy")
        write(here / "copy", optimizer__my_adam=THREE_LINES)
        monkeypatch.setenv("OPTBENCH_CONF", "copy")
        for name in ("adam", "my_adam"):
            assert command(capsys, *SMALL, f"optimizer={name}", "dry_run=true")[0] == 0

    def test_another_front_page_is_not_read_and_that_is_said(self, here, monkeypatch, capsys):
        write(here / "mine", config="batch: 64\n")
        monkeypatch.setenv("OPTBENCH_CONF", "mine")
        status, _, err = command(capsys, *SMALL, "dry_run=true")
        assert status == 2
        assert f"{here / 'mine' / 'config.yaml'}: is not read: the front page is always optbench's own" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-dir", "nowhere", *SMALL], "--config-dir nowhere: is no folder; accepted: a folder of choices"),
        (["list", "--config-dir", "nowhere"], "--config-dir nowhere: is no folder"),
        ([*SMALL, "hydra.searchpath=[nowhere]"], "hydra.searchpath nowhere: is no folder"),
        (
            [*SMALL, "hydra.searchpath=[pkg://not_there.conf]"],
            "pkg://not_there.conf is not to be found; accepted: file://",
        ),
    ],
)
def test_a_place_that_is_not_there_is_named(words, message, capsys):
    status, _, err = command(capsys, *words)
    assert status == 2
    assert message in err


def test_a_variable_that_names_no_folder_is_named(monkeypatch, capsys, here):
    monkeypatch.setenv("OPTBENCH_CONF", "nowhere")
    assert command(capsys, "list")[2] == (
        f"optbench: OPTBENCH_CONF={here / 'nowhere'}: is no folder; accepted: a folder of choices, such as one with "
        "optimizer/my_adam.yaml"
    )


def test_children_see_the_same_choices_and_the_code_beside_the_command(here, tmp_path, monkeypatch):
    write(here / "mine", optimizer__my_adam=THREE_LINES)
    write(here / "told", optimizer__told="defaults: [my_adam]\n")
    (here / "my_code.py").write_text("MARK = 'mine'\n")
    (here / "html.py").write_text("raise RuntimeError('not the module of Python')\n")
    monkeypatch.setenv("OPTBENCH_CONF", "mine")
    monkeypatch.setenv("OPTBENCH_EXPERIMENTS", "studies")
    configuration.look_in(["told"])
    monkeypatch.setattr(sys, "path", [*sys.path, str(here)])
    program = (
        "import os, optbench, html, my_code\n"
        "from optbench.config import choices, read_choice\n"
        "print(my_code.MARK, read_choice('optimizer', 'told')['learning_rate'], os.environ['OPTBENCH_EXPERIMENTS'])"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], env=children.environment(), cwd=elsewhere, capture_output=True, text=True
    )
    assert (done.stdout.split(), done.stderr) == (["mine", "0.003", str(here / "studies")], "")


def test_installed_packages_are_found_by_the_child_itself(tmp_path, monkeypatch):
    plugin(tmp_path / "site", optimizer__theirs="defaults: [sgd]\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert "theirs" in configuration.choices("optimizer")
    assert "OPTBENCH_CONF" not in children.handed_on()


def test_other_programs_of_hydra_do_not_get_our_places(here, monkeypatch):
    write(here / "mine", optimizer__my_adam=THREE_LINES)
    monkeypatch.setenv("OPTBENCH_CONF", "mine")

    def providers(main):
        return [entry.provider for entry in create_config_search_path(str(main)).get_path()]

    assert providers(configuration.conf_dir()) == ["hydra", "main", "optbench", "schema"]
    assert providers(here) == ["hydra", "main", "schema"]


def test_studies_lie_beside_the_choices_and_where_the_variable_says(here, monkeypatch):
    from optbench.analysis.studies import analysis_of, studies

    own = write(here / "pack" / "conf", optimizer__my_adam=THREE_LINES)
    for folder, name in (("pack/experiments", "beside"), ("studies", "named")):
        (here / folder / name).mkdir(parents=True)
        (here / folder / name / "analysis.py").write_text(f"def analyse(study):\n    return {name!r}\n")
    ours = set(studies())
    assert "scaling_rules" in ours
    monkeypatch.setenv("OPTBENCH_CONF", str(own))
    monkeypatch.setenv("OPTBENCH_EXPERIMENTS", "studies")
    assert set(studies()) == ours | {"beside", "named"}
    assert [analysis_of(name)(None) for name in ("beside", "named")] == ["beside", "named"]
    (here / "studies" / "beside").mkdir()
    (here / "studies" / "beside" / "analysis.py").write_text("def analyse(study):\n    return 2\n")
    with pytest.raises(UserError, match="experiment=beside: has two analyses"):
        studies()


class TestOwnProbes:
    HEAD = "# @package probe.finer\n"

    def test_one_takes_over_the_options_of_another(self, here, monkeypatch, capsys):
        write(here / "mine", probe__finer=f"{self.HEAD}defaults: [spectrum@_here_]\nsteps: 90\n")
        monkeypatch.setenv("OPTBENCH_CONF", "mine")
        chosen = compose([*SMALL, "probe=[finer,spectrum]", "probe.finer.vectors=2"])["probe"]
        assert list(chosen) == ["finer", "spectrum"]
        spectrum = chosen["spectrum"]
        expected = spectrum | {"name": "finer", "steps": 90, "vectors": 2}
        assert chosen["finer"] == expected | {"info": {**spectrum["info"], "inherits": "spectrum"}}
        assert "CANNOT" not in command(capsys, "list", "probe")[1]
        assert configuration.read_choice("probe", "finer") == chosen["finer"] | {"vectors": spectrum["vectors"]}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["probe=beside"],
                r"beside.yaml: defaults: trace: would add probe.trace beside it; accepted: trace@_here_",
            ),
            (["probe=finer", "probe.finer.name=trace"], r"probe.finer.name=trace: is fixed; choose with probe="),
            (["probe=finer", "probe.finer.stepz=1"], r"probe.finer.stepz: unknown key; did you mean steps"),
        ],
    )
    def test_what_cannot_be_chosen_says_why(self, words, message, here, monkeypatch):
        write(here / "mine", probe__finer=f"{self.HEAD}defaults: [spectrum@_here_]\nsteps: 90\n")
        write(here / "mine", probe__beside="# @package probe.beside\ndefaults: [trace]\n")
        monkeypatch.setenv("OPTBENCH_CONF", "mine")
        with pytest.raises(UserError, match=message):
            compose([*SMALL, *words])
